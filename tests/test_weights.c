/* Models opened from Hugging Face directories and GGUF files: equal values whatever the container, a digest
 * that is the model's identity. Bad files are in test_weights_faults.c.
 * Fixtures: scripts/peers/make_model_fixtures.py and make_gguf_vectors.py. */
#include "model_files.h"

#include <math.h>
#include <omp.h>

#include "base/clock.h"
#include "base/dtype.h"
#include "model/weights.h"

static void assert_role_equal(const qs_model *a, const qs_model *b, qs_role role, int64_t layer)
{
    if (qs_model_has(a, role, layer) != qs_model_has(b, role, layer))
        fail_msg("%s of layer %lld is in one model only", qs_role_name(role), (long long)layer);
    if (!qs_model_has(a, role, layer)) return;
    int64_t n_a, n_b;
    float *x = read_role(a, role, layer, &n_a), *y = read_role(b, role, layer, &n_b);
    assert_int_equal(n_a, n_b);
    if (memcmp(x, y, (size_t)n_a * sizeof *x) != 0)
        fail_msg("%s of layer %lld differs between %s and %s", qs_role_name(role), (long long)layer,
                 qs_model_path(a), qs_model_path(b));
    qs_mem_free(x);
    qs_mem_free(y);
}

/* 16-bit tensors as stored are the f32 values, row order included; other types have no such form. */
static void assert_stored_16(const qs_model *model, qs_role role, int64_t layer)
{
    if (!qs_model_has(model, role, layer)) return;
    qs_tensor_info info = qs_model_info(model, role, layer);
    int64_t n;
    float *expected = read_role(model, role, layer, &n), *got;
    uint16_t *stored;
    assert_ok(QS_NEW(stored, n, "test"));
    assert_ok(QS_NEW(got, n, "test"));
    if (info.storage == QS_STORE_F16 || info.storage == QS_STORE_BF16) {
        assert_ok(qs_model_read_16(model, role, layer, stored));
        if (info.storage == QS_STORE_F16) qs_f32_from_f16_array(got, stored, n);
        else qs_f32_from_bf16_array(got, stored, n);
        assert_memory_equal(got, expected, (size_t)n * sizeof *got);
    } else {
        assert_fails(qs_model_read_16(model, role, layer, stored), QS_E_USAGE, "not in 16 bits");
    }
    qs_mem_free(expected);
    qs_mem_free(stored);
    qs_mem_free(got);
}

/* Bit-equal f32 from the directory and its GGUF twins: names, types, tied heads and the Q/K permutation. */
static void test_twins_are_equal(void **state)
{
    (void)state;
    static const struct {
        const char *hf, *gguf;
        qs_storage storage;
    } rows[] = {
        {"llama2", "gguf/llama2-f32.gguf", QS_STORE_F32},   {"llama2", "gguf/llama2-f16.gguf", QS_STORE_F16},
        {"llama2", "gguf/llama2-bf16.gguf", QS_STORE_BF16}, {"llama3", "gguf/llama3-f16.gguf", QS_STORE_F16},
        {"qwen2", "gguf/qwen2-f32.gguf", QS_STORE_F32},     {"qwen2", "gguf/qwen2-f16.gguf", QS_STORE_F16},
        {"qwen2", "gguf/qwen2-bf16.gguf", QS_STORE_BF16},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        char path[QS_PATH_BYTES];
        assert_ok(qs_path_format(path, MODELS "%s", rows[i].hf));
        qs_model *hf = open_model(path);
        assert_ok(qs_path_format(path, MODELS "%s", rows[i].gguf));
        qs_model *gguf = open_model(path);
        for (int64_t layer = 0; layer < qs_model_get_config(hf)->n_layers; layer++)
            for (int role = 0; role < QS_N_ROLES; role++) {
                assert_role_equal(hf, gguf, (qs_role)role, layer);
                assert_stored_16(gguf, (qs_role)role, layer);
            }
        assert_int_equal(qs_model_info(gguf, QS_ROLE_DOWN, 1).storage, rows[i].storage);
        const qs_model_config *a = qs_model_get_config(hf), *b = qs_model_get_config(gguf);
        assert_int_equal(a->n_vocab, b->n_vocab);
        assert_int_equal(a->n_kv_heads, b->n_kv_heads);
        assert_int_equal(a->head_dim, b->head_dim);
        assert_int_equal(a->tied_head, b->tied_head);
        assert_true(fabs(a->norm_eps - b->norm_eps) < 1e-6 * a->norm_eps);
        float x[32], y[32];
        qs_model_rope_frequencies(hf, x);
        qs_model_rope_frequencies(gguf, y);
        for (int64_t j = 0; j < a->head_dim / 2; j++) assert_true(fabsf(x[j] - y[j]) <= 1e-6f * x[j]);
        qs_model_close(hf);
        qs_model_close(gguf);
    }
}

static qs_role role_of(const char *name)
{
    for (int role = 0; role < QS_N_ROLES; role++)
        if (strcmp(name, qs_role_name((qs_role)role)) == 0) return (qs_role)role;
    fail_msg("no role is called %s", name);
    return QS_N_ROLES;
}

static void assert_digest(const qs_model *model, qs_role role, int64_t layer, const char *expected)
{
    int64_t n;
    char text[QS_DIGEST_TEXT_BYTES];
    float *values = read_role(model, role, layer, &n);
    qs_digest_format(text, qs_hash(values, (size_t)n * sizeof *values));
    if (strcmp(text, expected) != 0)
        fail_msg("%s, %s of layer %lld: digest %s, the peer has %s", qs_model_path(model), qs_role_name(role),
                 (long long)layer, text, expected);
    qs_mem_free(values);
}

/* Every matrix of the Q8_0 twins has the values that gguf-py computes. */
static void test_q8_0_equals_peer(void **state)
{
    (void)state;
    FILE *stream = fopen(MODELS "gguf/q8_0.csv", "r");
    assert_non_null(stream);
    char line[256], name[64], tensor[128], digest[64], open_name[64] = "", leaf[64];
    qs_model *model = NULL;
    int n_rows = 0;
    assert_non_null(fgets(line, sizeof line, stream));
    while (fgets(line, sizeof line, stream) != NULL) {
        assert_int_equal(sscanf(line, "%63[^,],%127[^,],%63s", name, tensor, digest), 3);
        if (strcmp(name, open_name) != 0) {
            qs_model_close(model);
            char path[QS_PATH_BYTES];
            assert_ok(qs_path_format(path, MODELS "gguf/%s.gguf", name));
            model = open_model(path);
            (void)snprintf(open_name, sizeof open_name, "%s", name);
        }
        long long layer = 0;
        const char *dot = strrchr(tensor, '.'); /* "...q_proj.weight": the leaf is the last but one */
        const char *start = dot;
        while (start > tensor && start[-1] != '.') start--;
        (void)snprintf(leaf, sizeof leaf, "%.*s", (int)(dot - start), start);
        (void)sscanf(tensor, "model.layers.%lld", &layer);
        qs_role role = role_of(leaf);
        assert_int_equal(qs_model_info(model, role, layer).storage, QS_STORE_Q8_0);
        assert_digest(model, role, layer, digest);
        n_rows++;
    }
    (void)fclose(stream);
    qs_model_close(model);
    assert_int_equal(n_rows, 16 + 15); /* 14 linears each, embedding, and a head of its own */
}

/* Families: what is there, and which head stands for the output. */
static void test_roles(void **state)
{
    (void)state;
    qs_model *qwen2 = open_model(MODELS "qwen2"), *qwen3 = open_model(MODELS "qwen3");
    qs_model *llama = open_model(MODELS "llama2"), *mistral = open_model(MODELS "mistral");
    assert_true(qs_model_has(qwen2, QS_ROLE_Q_BIAS, 1) && qs_model_has(qwen2, QS_ROLE_V_BIAS, 0));
    assert_false(qs_model_has(qwen2, QS_ROLE_O_BIAS, 0));
    assert_false(qs_model_has(qwen2, QS_ROLE_Q_NORM, 0));
    assert_true(qs_model_has(qwen3, QS_ROLE_Q_NORM, 0) && qs_model_has(qwen3, QS_ROLE_K_NORM, 1));
    assert_false(qs_model_has(qwen3, QS_ROLE_Q_BIAS, 0));
    assert_false(qs_model_has(llama, QS_ROLE_Q, 2) || qs_model_has(llama, QS_ROLE_Q, -1));
    assert_string_equal(qs_model_info(qwen2, QS_ROLE_HEAD, 0).name, "model.embed_tokens.weight");
    assert_string_equal(qs_model_info(llama, QS_ROLE_HEAD, 0).name, "lm_head.weight");
    assert_role_equal(qwen2, qwen2, QS_ROLE_HEAD, 0);
    qs_tensor_info o = qs_model_info(mistral, QS_ROLE_O, 0);
    assert_int_equal(o.n_out, 64);
    assert_int_equal(o.n_in, 96); /* 4 heads of 24 */
    assert_int_equal(o.bytes, 64 * 96 * 2);
    assert_int_equal(qs_model_info(qwen3, QS_ROLE_K_NORM, 0).n_in, 24);
    assert_null(qs_model_get_tokenizer(llama));
    float one[96];
    assert_fails(qs_model_read_f32(llama, QS_ROLE_Q_BIAS, 0, one), QS_E_USAGE, "no q_proj.bias in layer 0");
    qs_model_close(qwen2);
    qs_model_close(qwen3);
    qs_model_close(llama);
    qs_model_close(mistral);
}

/* Rows on their own equal rows of the whole; one thread equals two. */
static void test_rows_and_threads(void **state)
{
    (void)state;
    static const char *const paths[] = {MODELS "llama3", MODELS "gguf/llama3-f16.gguf",
                                        MODELS "gguf/qwen2-q8_0.gguf"};
    for (size_t i = 0; i < sizeof paths / sizeof paths[0]; i++) {
        qs_model *model = open_model(paths[i]);
        static const qs_role roles[] = {QS_ROLE_K, QS_ROLE_EMBED, QS_ROLE_HEAD};
        for (size_t r = 0; r < sizeof roles / sizeof roles[0]; r++) {
            int64_t n, n_in = qs_model_info(model, roles[r], 1).n_in,
                       n_out = qs_model_info(model, roles[r], 1).n_out;
            float *whole = read_role(model, roles[r], 1, &n), *row;
            assert_ok(QS_NEW(row, 3 * n_in, "test"));
            for (int64_t first = 0; first + 3 <= n_out; first += 5) {
                assert_ok(qs_model_read_rows_f32(model, roles[r], 1, first, 3, row));
                assert_memory_equal(row, whole + first * n_in, (size_t)(3 * n_in) * sizeof *row);
            }
            assert_fails(qs_model_read_rows_f32(model, roles[r], 1, n_out - 2, 3, row), QS_E_USAGE, "rows ");
            assert_fails(qs_model_read_rows_f32(model, roles[r], 1, -1, 1, row), QS_E_USAGE, "rows -1");
            assert_ok(qs_model_read_rows_f32(model, roles[r], 1, n_out, 0, row));
            int n_threads = omp_get_max_threads();
            omp_set_num_threads(1);
            float *single = read_role(model, roles[r], 1, &n);
            omp_set_num_threads(n_threads);
            assert_memory_equal(single, whole, (size_t)n * sizeof *whole);
            qs_mem_free(single);
            qs_mem_free(row);
            qs_mem_free(whole);
        }
        qs_model_close(model);
    }
}

/* model.safetensors of a tied fixture with its embedding once more at the end, as the head. */
static void write_head_out(const char *dir, const char *from, bool altered)
{
    char path[QS_PATH_BYTES], entry[160];
    uint64_t n;
    long long begin, end;
    assert_ok(qs_path_format(path, "%s/model.safetensors", from));
    bytes file = load_file(path);
    memcpy(&n, file.data, sizeof n);
    const char *embedding = strstr(file.data + sizeof n, "\"model.embed_tokens.weight\"");
    assert_int_equal(sscanf(strstr(embedding, "\"data_offsets\":["), "\"data_offsets\":[%lld,%lld]", &begin, &end), 2);
    size_t data = sizeof n + n, n_data = file.n - data, n_head = (size_t)(end - begin);
    (void)snprintf(entry, sizeof entry,
                   "\"lm_head.weight\":{\"dtype\":\"BF16\",\"shape\":[320,64],\"data_offsets\":[%zu,%zu]},", n_data,
                   n_data + n_head);
    uint64_t grown = n + strlen(entry);
    assert_ok(qs_path_format(path, "%s/model.safetensors", dir));
    FILE *stream = fopen(path, "wb");
    assert_non_null(stream);
    (void)fwrite(&grown, sizeof grown, 1, stream);
    (void)fprintf(stream, "{%s", entry);
    (void)fwrite(file.data + sizeof n + 1, 1, file.n - sizeof n - 1, stream);
    file.data[data + (size_t)end - 1] ^= altered ? 1 : 0;
    (void)fwrite(file.data + data + begin, 1, n_head, stream);
    assert_int_equal(fclose(stream), 0);
    qs_mem_free(file.data);
}

/* What a file may carry without a use: the old rotary table; a written-out head of a tied model, if it is one. */
static void test_ignored_tensors(void **state)
{
    (void)state;
    for (int altered = 0; altered < 2; altered++) {
        char dir[QS_PATH_BYTES], made[QS_PATH_BYTES];
        (void)make_dir(dir);
        (void)make_dir(made);
        copy_text(dir, "config.json", MODELS "qwen2", NULL, NULL);
        copy_safetensors(made, "model.safetensors", MODELS "qwen2", "{",
                         "{\"model.layers.0.self_attn.rotary_emb.inv_freq\":{\"dtype\":\"I8\",\"shape\":[0],"
                         "\"data_offsets\":[0,0]},");
        write_head_out(dir, made, altered == 1);
        if (altered == 1) {
            qs_model *model = NULL;
            assert_fails(qs_model_open(&model, dir), QS_E_INPUT, "ties the head to the embedding");
            assert_null(model);
        } else {
            qs_model *model = open_model(dir);
            assert_string_equal(qs_model_info(model, QS_ROLE_HEAD, 0).name, "model.embed_tokens.weight");
            qs_model_close(model);
        }
        remove_dir(dir);
        remove_dir(made);
    }
}

/* Appends the shards' headers and data into one file, in an order of its own. */
static void merge_shards(const char *dir)
{
    char path[QS_PATH_BYTES], *header = NULL;
    size_t header_bytes = 0, n_data = 0;
    uint8_t *data;
    assert_ok(qs_mem_alloc((void *)&data, (size_t)1 << 20, "test"));
    FILE *stream = open_memstream(&header, &header_bytes);
    assert_non_null(stream);
    for (int shard = 3; shard >= 1; shard--) {
        assert_ok(qs_path_format(path, MODELS "llama3/model-0000%d-of-00003.safetensors", shard));
        bytes b = load_file(path);
        uint64_t n;
        memcpy(&n, b.data, 8);
        json_t *root = json_loadb(b.data + 8, n, 0, NULL);
        assert_non_null(root);
        const char *name;
        json_t *entry;
        json_object_foreach(root, name, entry)
        {
            if (strcmp(name, "__metadata__") == 0) continue;
            json_t *ends = json_object_get(entry, "data_offsets");
            size_t begin = (size_t)json_integer_value(json_array_get(ends, 0));
            size_t end = (size_t)json_integer_value(json_array_get(ends, 1));
            char *shape = json_dumps(json_object_get(entry, "shape"), JSON_COMPACT);
            (void)fprintf(stream, "%s\"%s\":{\"dtype\":\"BF16\",\"shape\":%s,\"data_offsets\":[%zu,%zu]}",
                          n_data == 0 ? "{" : ",", name, shape, n_data, n_data + end - begin);
            free(shape);
            memcpy(data + n_data, b.data + 8 + n + begin, end - begin);
            n_data += end - begin;
        }
        json_decref(root);
        qs_mem_free(b.data);
    }
    (void)fputs("}", stream);
    (void)fclose(stream);
    assert_ok(qs_path_format(path, "%s/model.safetensors", dir));
    save_safetensors(path, header, data, n_data);
    free(header);
    qs_mem_free(data);
}

static qs_digest digest_of(const char *path)
{
    qs_model *model = open_model(path);
    qs_digest digest, again;
    assert_ok(qs_model_digest(model, &digest));
    assert_ok(qs_model_digest(model, &again));
    assert_memory_equal(&digest, &again, sizeof digest);
    qs_model_close(model);
    return digest;
}

static bool same_digest(qs_digest a, qs_digest b) { return a.low == b.low && a.high == b.high; }

/* One bit of one weight, one number of the configuration: another model. Sharding: the same. */
static void test_digest(void **state)
{
    (void)state;
    char dir[QS_PATH_BYTES], path[QS_PATH_BYTES];
    (void)make_dir(dir);
    copy_text(dir, "config.json", MODELS "llama3", NULL, NULL);
    merge_shards(dir);
    qs_digest reference = digest_of(MODELS "llama3");
    assert_true(same_digest(reference, digest_of(dir)));
    copy_text(dir, "config.json", MODELS "llama3", "\"rope_theta\": 500000.0", "\"rope_theta\": 500001.0");
    assert_false(same_digest(reference, digest_of(dir)));
    copy_text(dir, "config.json", MODELS "llama3", NULL, NULL);
    assert_ok(qs_path_format(path, "%s/model.safetensors", dir));
    bytes b = load_file(path);
    b.data[b.n - 1] ^= 1;
    save_file(path, b.data, b.n);
    assert_false(same_digest(reference, digest_of(dir)));
    qs_mem_free(b.data);
    remove_dir(dir);
    assert_false(same_digest(digest_of(MODELS "qwen2"), digest_of(MODELS "gguf/qwen2-bf16.gguf")));
}

/* A directory's tokenizer.json and, for BOS and EOS, its tokenizer_config.json. */
static void test_tokenizer(void **state)
{
    (void)state;
    char dir[QS_PATH_BYTES], path[QS_PATH_BYTES];
    static const char settings[] = "{\"bos_token\": null, \"eos_token\": \"er\"}";
    (void)make_dir(dir);
    copy_text(dir, "config.json", "tests/fixtures/tiny", NULL, NULL);
    copy_safetensors(dir, "model.safetensors", "tests/fixtures/tiny", NULL, NULL);
    copy_text(dir, "tokenizer.json", "tests/fixtures/tiny", NULL, NULL);
    qs_model *model = open_model(dir);
    const qs_tokenizer *tokenizer = qs_model_get_tokenizer(model);
    assert_non_null(tokenizer);
    qs_token_list list = {0};
    assert_ok(qs_tokenizer_encode(tokenizer, "ab", 2, false, &list));
    assert_true(list.n >= 1);
    qs_token_list_free(&list);
    int32_t start = qs_tokenizer_find(tokenizer, "er");
    assert_true(start >= 0 && qs_tokenizer_eos(tokenizer) != start);
    qs_model_close(model);

    assert_ok(qs_path_format(path, "%s/tokenizer_config.json", dir));
    save_file(path, settings, strlen(settings));
    model = open_model(dir);
    assert_int_equal(qs_tokenizer_eos(qs_model_get_tokenizer(model)), start);
    qs_model_close(model);
    remove_dir(dir);
}

static void test_storage_rows(void **state)
{
    (void)state;
    qs_storage storage;
    qs_model *model = open_model(MODELS "llama2");
    assert_false(qs_model_is_lattice(model, &storage));
    assert_int_equal(storage, QS_STORE_F16);
    qs_model_close(model);
    model = open_model(MODELS "gguf/llama2-q8_0.gguf");
    assert_false(qs_model_is_lattice(model, &storage));
    assert_int_equal(storage, QS_STORE_Q8_0);
    qs_model_close(model);
    assert_true(qs_storage_bits_per_weight(QS_STORE_Q4_K) == 4.5);
    assert_true(qs_storage_bits_per_weight(QS_STORE_Q6_K) == 6.5625);
    assert_string_equal(qs_storage_name(QS_STORE_Q5_1), "q5_1");
}

/* The real model: configuration, values of gguf-py, lattice detection. */
static void test_smollm2(void **state)
{
    (void)state;
    const char *path = getenv("QS_TEST_SMOLLM2");
    if (path == NULL || path[0] == '\0') path = "datasets/models/smollm2-135m-instruct-q4_1.gguf";
    if (!qs_file_exists(path)) {
        print_message("skipped: %s is absent; scripts/fetch-model smollm2 gets it\n", path);
        skip();
    }
    qs_model *model = open_model(path);
    const qs_model_config *c = qs_model_get_config(model);
    assert_string_equal(c->architecture, "llama");
    const int64_t numbers[] = {c->n_layers, c->d_model, c->n_heads, c->n_kv_heads,
                               c->head_dim, c->d_ff,    c->n_vocab, c->n_ctx_max};
    const int64_t expected[] = {30, 576, 9, 3, 64, 1536, 49152, 8192};
    assert_memory_equal(numbers, expected, sizeof numbers);
    assert_true(c->tied_head && c->rope_theta == 100000.0 && fabs(c->norm_eps - 1e-5) < 1e-11);
    qs_storage storage;
    assert_true(qs_model_is_lattice(model, &storage));
    assert_int_equal(storage, QS_STORE_Q4_1);
    assert_int_equal(qs_model_info(model, QS_ROLE_HEAD, 0).storage, QS_STORE_Q8_0);

    const qs_tokenizer *tokenizer = qs_model_get_tokenizer(model);
    assert_non_null(tokenizer);
    assert_int_equal(qs_tokenizer_n_vocab(tokenizer), 49152);
    assert_int_equal(qs_tokenizer_bos(tokenizer), 1);
    assert_int_equal(qs_tokenizer_eos(tokenizer), 2);
    assert_false(qs_tokenizer_adds_bos(tokenizer));

    FILE *stream = fopen("tests/fixtures/gguf/smollm2.csv", "r");
    assert_non_null(stream);
    char line[128], role[64], digest[64];
    long long layer;
    int n_rows = 0;
    assert_non_null(fgets(line, sizeof line, stream));
    for (; fgets(line, sizeof line, stream) != NULL; n_rows++) {
        assert_int_equal(sscanf(line, "%63[^,],%lld,%63s", role, &layer, digest), 3);
        assert_digest(model, role_of(role), layer, digest);
    }
    (void)fclose(stream);
    assert_int_equal(n_rows, 11);

    double start = qs_clock_seconds();
    qs_digest id;
    assert_ok(qs_model_digest(model, &id));
    print_message("digest of the model: %.3f s\n", qs_clock_seconds() - start);
    qs_model_close(model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_twins_are_equal), cmocka_unit_test(test_q8_0_equals_peer),
        cmocka_unit_test(test_roles),           cmocka_unit_test(test_rows_and_threads),
        cmocka_unit_test(test_ignored_tensors), cmocka_unit_test(test_digest),
        cmocka_unit_test(test_tokenizer),       cmocka_unit_test(test_storage_rows),
        cmocka_unit_test(test_smollm2),
    };
    return cmocka_run_group_tests_name("weights", tests, NULL, NULL);
}
