/* The rotation of the residual stream: orthogonal, the same bits everywhere, and invisible to the model as
 * long as nothing is quantised (docs/quantisers.md, "A rotated residual stream"). */
#include "tests/model_fixtures.h"
#include "tests/scratch.h"

#include "base/dtype.h"
#include "base/json.h"
#include "model/safetensors_writer.h"
#include "model/shards.h"
#include "model/turned.h"
#include "quant/turned_grams.h"

/* ---- the matrix ---- */

/* Q [n, n], a row of the identity at a time, in lanes of `n_lanes`. */
static double *matrix_of(const qs_rotation *rotation, int64_t n_lanes)
{
    int64_t n = qs_rotation_width(rotation);
    double *q = calloc((size_t)(n * n), sizeof *q), *x = calloc((size_t)(2 * n * n_lanes), sizeof *x);
    for (int64_t first = 0; first < n; first += n_lanes) {
        memset(x, 0, (size_t)(n * n_lanes) * sizeof *x);
        for (int64_t l = 0; l < n_lanes && first + l < n; l++) x[(first + l) * n_lanes + l] = 1;
        qs_rotation_apply(rotation, x, n_lanes, x + n * n_lanes);
        for (int64_t l = 0; l < n_lanes && first + l < n; l++)
            for (int64_t j = 0; j < n; j++) q[(first + l) * n + j] = x[j * n_lanes + l];
    }
    free(x);
    return q;
}

static double furthest_from_identity(const double *q, int64_t n)
{
    double worst = 0;
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < n; j++) {
            double dot = i == j ? -1 : 0;
            for (int64_t k = 0; k < n; k++) dot += q[i * n + k] * q[j * n + k];
            worst = fmax(worst, fabs(dot));
        }
    return worst;
}

static void test_orthogonal(void **state)
{
    (void)state;
    static const int64_t widths[] = {1, 2, 7, 64, 96, 576};
    for (size_t w = 0; w < sizeof widths / sizeof *widths; w++) {
        int64_t n = widths[w];
        qs_rotation *rotation;
        OK(qs_rotation_create(&rotation, n, QS_ROTATION_SEED));
        double *q = matrix_of(rotation, 1), *in_lanes = matrix_of(rotation, 5);
        assert_true(furthest_from_identity(q, n) < 1e-13);
        assert_memory_equal(q, in_lanes, (size_t)(n * n) * sizeof *q); /* lanes do not see each other */
        double *x = calloc((size_t)(2 * n), sizeof *x);
        for (int64_t i = 0; i < n; i++) x[i] = qs_rng_normal(3, (uint64_t)i);
        qs_rotation_apply(rotation, x, 1, x + n);
        qs_rotation_undo(rotation, x, 1, x + n);
        for (int64_t i = 0; i < n; i++) assert_true(fabs(x[i] - qs_rng_normal(3, (uint64_t)i)) < 1e-13);
        free(x);
        free(q);
        free(in_lanes);
        qs_rotation_destroy(rotation);
    }
}

/* Powers of two alone: element (i, j) is +-1 / sqrt(n), and rows relate by the parity of i & j (Sylvester). */
static void test_hadamard(void **state)
{
    (void)state;
    enum { N = 16 };
    qs_rotation *rotation;
    OK(qs_rotation_create(&rotation, N, 9));
    double *q = matrix_of(rotation, 1);
    for (int i = 0; i < N; i++)
        for (int j = 0; j < N; j++) {
            double sign = __builtin_popcount((unsigned)(i & j)) % 2 == 0 ? 1 : -1;
            assert_true(fabs(fabs(q[i * N + j]) - 0.25) < 1e-15 && fabs(q[i * N + j] - sign * q[i * N]) < 1e-15);
        }
    free(q);
    qs_rotation_destroy(rotation);
}

/* Width and seed decide every bit, on every machine. */
static void test_digest(void **state)
{
    (void)state;
    qs_rotation *a, *b, *other;
    char text[QS_DIGEST_TEXT_BYTES], again[QS_DIGEST_TEXT_BYTES], different[QS_DIGEST_TEXT_BYTES];
    OK(qs_rotation_create(&a, 576, QS_ROTATION_SEED));
    OK(qs_rotation_create(&b, 576, QS_ROTATION_SEED));
    OK(qs_rotation_create(&other, 576, QS_ROTATION_SEED + 1));
    (void)qs_digest_format(text, qs_rotation_digest(a));
    (void)qs_digest_format(again, qs_rotation_digest(b));
    (void)qs_digest_format(different, qs_rotation_digest(other));
    assert_string_equal(text, "c7171f9f631f93ec2702e6d4a32b6904");
    assert_string_equal(text, again);
    assert_string_not_equal(text, different);
    qs_rotation_destroy(a);
    qs_rotation_destroy(b);
    qs_rotation_destroy(other);
    FAILS(QS_E_UNSUPPORTED, qs_rotation_create(&a, 2 * 2053, QS_ROTATION_SEED));
    TEXT_HOLDS("odd part 2053", "rotate=0");
}

/* ---- a model with biases everywhere, or with a dead channel ---- */

static void declare_biases(qs_safetensors_writer *writer, const qs_model_config *c, bool put)
{
    static const char *const leaves[] = {"q", "k", "v", "o"};
    const int64_t n_kv = c->n_kv_heads * c->head_dim, widths[] = {c->n_heads * c->head_dim, n_kv, n_kv, c->d_model};
    for (int64_t i = 0; i < 4 * c->n_layers; i++) {
        char name[96];
        float bias[256];
        int64_t n = widths[i % 4];
        (void)snprintf(name, sizeof name, "model.layers.%d.self_attn.%s_proj.bias", (int)(i / 4), leaves[i % 4]);
        for (int64_t j = 0; j < n; j++) bias[j] = 0.1f * (float)qs_rng_normal(70 + (uint64_t)i, (uint64_t)j);
        if (put) OK(qs_safetensors_writer_put(writer, name, bias, (size_t)n * sizeof *bias));
        else OK(qs_safetensors_writer_declare(writer, name, QS_ST_F32, 1, &n));
    }
}

static qs_model *edited(bool biases, const char *dead_norm)
{
    static const char from[] = "tests/fixtures/models/smollm2";
    scratch_path dir, path;
    qs_shards shards;
    qs_safetensors_writer *writer;
    qs_model *model;
    json_t *config;
    static const uint8_t zeros[4096];
    OK(qs_dir_create(scratch(dir, biases ? "biases" : "dead")));
    OK(qs_json_load(&config, "tests/fixtures/models/smollm2/config.json"));
    assert_int_equal(json_object_set_new(config, "attention_bias", json_boolean(biases)), 0);
    OK(qs_path_format(path, "%s/config.json", dir));
    assert_int_equal(json_dump_file(config, path, 0), 0);
    json_decref(config);
    OK(qs_model_open(&model, from));
    OK(qs_shards_open(&shards, from));
    OK(qs_path_format(path, "%s/model.safetensors", dir));
    OK(qs_safetensors_writer_create(&writer, path));
    for (int put = 0; put < 2; put++) {
        for (int64_t i = 0; i < shards.n_entries; i++) {
            const qs_safetensor *t = shards.entries[i].tensor;
            bool dead = dead_norm != NULL && strcmp(t->name, dead_norm) == 0;
            if (put == 0) OK(qs_safetensors_writer_declare(writer, t->name, t->type, t->n_dims, t->shape));
            else OK(qs_safetensors_writer_put(writer, t->name, dead ? zeros : t->data, t->bytes));
        }
        if (biases) declare_biases(writer, qs_model_get_config(model), put == 1);
    }
    OK(qs_safetensors_writer_publish(writer));
    qs_shards_close(&shards);
    qs_model_close(model);
    OK(qs_model_open(&model, dir));
    return model;
}

/* ---- invariance ---- */

static void run(qs_backend *backend, const qs_model *model, const int32_t *tokens, const qs_tap *tap, float *hidden,
                float *logits)
{
    OK(qs_forward_hidden(backend, model, NULL, QS_COMPUTE_F32, tokens, 1, N_TOKENS, tap, hidden));
    OK(qs_forward_logits(backend, model, QS_COMPUTE_F32, hidden, N_TOKENS, logits));
}

/* Hidden states turned back, and logits, of a model and of the rotated one. */
static void check_invariance(qs_backend *backend, qs_model *model, const int32_t *tokens, const char *name)
{
    const qs_model_config *c = qs_model_get_config(model);
    int64_t n = N_TOKENS * c->d_model, n_logits = N_TOKENS * c->n_vocab;
    float *hidden = floats(n), *logits = floats(n_logits), *turned_hidden = floats(n),
          *turned_logits = floats(n_logits);
    qs_model *turned, *again;
    OK(qs_model_turn(model, &turned));
    OK(qs_model_turn(model, &again));
    assert_ptr_equal(turned, again);
    assert_ptr_equal(qs_model_origin(turned), model);
    assert_null(qs_model_rotation(model));
    assert_false(qs_model_get_config(turned)->tied_head);
    run(backend, model, tokens, NULL, hidden, logits);
    run(backend, turned, tokens, NULL, turned_hidden, turned_logits);
    assert_true(max_abs_diff(turned_hidden, hidden, n) > 0.1); /* it is another basis */
    OK(qs_model_turn_back(turned, turned_hidden, N_TOKENS));
    double off = max_abs_diff(turned_hidden, hidden, n), off_logits = max_abs_diff(turned_logits, logits, n_logits);
    print_message("%-8s rotated: max abs difference: hidden %.1e, logits %.1e\n", name, off, off_logits);
    assert_true(off < 5e-5 && off_logits < 1e-4);
    qs_mem_free(hidden);
    qs_mem_free(logits);
    qs_mem_free(turned_hidden);
    qs_mem_free(turned_logits);
}

/* Every architecture: tied and untied heads, biases of q, k and v, norms of q and k, GGUF's order of rows. */
static void test_invariance(void **state)
{
    (void)state;
    qs_backend *backend = backend_open("cpu", 2);
    for (size_t i = 0; i < N_FIXTURES; i++) {
        fixture f = fixture_open(fixture_names[i]);
        check_invariance(backend, f.model, f.tokens, fixture_names[i]);
        fixture_close(&f);
    }
    fixture f = fixture_open("smollm2");
    qs_model *biased = edited(true, NULL), *gguf;
    check_invariance(backend, biased, f.tokens, "o_bias");
    OK(qs_model_open(&gguf, "tests/fixtures/models/gguf/qwen2-q8_0.gguf"));
    check_invariance(backend, gguf, f.tokens, "gguf");
    qs_model_close(biased);
    qs_model_close(gguf);
    fixture_close(&f);
    qs_backend_destroy(backend);
}

/* Rows and parts of matrices are those of the whole, with any number of threads. */
static void test_reading(void **state)
{
    (void)state;
    fixture f = fixture_open("smollm2");
    qs_model *turned, *nested;
    qs_digest own, origin;
    OK(qs_model_turn(f.model, &turned));
    static const qs_role roles[] = {QS_ROLE_Q, QS_ROLE_O, QS_ROLE_DOWN, QS_ROLE_EMBED, QS_ROLE_HEAD};
    for (size_t r = 0; r < sizeof roles / sizeof *roles; r++) {
        qs_tensor_info info = qs_model_info(turned, roles[r], 1);
        float *whole = floats(info.n_out * info.n_in), part[3 * 512];
        assert_true(info.storage == QS_STORE_F32 && info.n_in <= 512);
        OK(qs_model_read_f32(turned, roles[r], 1, whole));
        OK(qs_model_read_rows_f32(turned, roles[r], 1, 5, 3, part));
        assert_memory_equal(part, whole + 5 * info.n_in, (size_t)(3 * info.n_in) * sizeof *part);
        qs_mem_free(whole);
    }
    OK(qs_model_digest(f.model, &origin));
    OK(qs_model_digest(turned, &own));
    assert_true(own.low != origin.low);
    FAILS(QS_E_USAGE, qs_model_turn(turned, &nested));
    uint16_t half[4];
    FAILS(QS_E_USAGE, qs_model_read_16(turned, QS_ROLE_Q, 0, half));
    assert_null(qs_model_stored_row(turned, QS_ROLE_EMBED, 0, 0));
    fixture_close(&f);
}

/* ---- second moments ---- */

typedef struct moments {
    double *sums[2 * QS_N_SITES]; /* [width, width] of two layers */
    float *packed;
} moments;

static qs_err see(void *context, int64_t layer, qs_site site, const float *x, int64_t n, int64_t width)
{
    moments *m = context;
    double **sum = &m->sums[layer * QS_N_SITES + (int64_t)site];
    if (*sum == NULL) *sum = calloc((size_t)(width * width), sizeof **sum);
    for (int64_t t = 0; t < n; t++)
        for (int64_t i = 0; i < width; i++)
            for (int64_t j = 0; j < width; j++)
                (*sum)[i * width + j] += (double)x[t * width + i] * (double)x[t * width + j];
    return QS_OK;
}

static const qs_model_config *seen_config;

static qs_err give_abs(void *context, int64_t layer, qs_site site, const float **abs_mean)
{
    (void)layer;
    (void)site;
    *abs_mean = ((moments *)context)->packed;
    return QS_OK;
}

static qs_err give(void *context, int64_t layer, qs_site site, const float **packed, int64_t *n_tokens)
{
    moments *m = context;
    const double *sum = m->sums[layer * QS_N_SITES + (int64_t)site];
    int64_t width = qs_site_width(seen_config, site);
    float *to = m->packed;
    for (int64_t i = 0; i < width; i++)
        for (int64_t j = i; j < width; j++) *to++ = (float)sum[i * width + j];
    *packed = m->packed;
    *n_tokens = N_TOKENS;
    return QS_OK;
}

/* Second moments of the rotated model's own inputs, and the same from its origin's. */
static void test_grams(void **state)
{
    (void)state;
    fixture f = fixture_open("qwen3");
    int64_t n = N_TOKENS * f.config->d_model, n_logits = N_TOKENS * f.config->n_vocab, n_tokens;
    qs_backend *backend = backend_open("reference", 2);
    float *hidden = floats(n), *logits = floats(n_logits);
    moments plain = {.packed = floats(512 * 512)}, rotated = {.packed = plain.packed};
    qs_model *turned;
    qs_turned_grams *grams;
    seen_config = f.config;
    OK(qs_model_turn(f.model, &turned));
    run(backend, f.model, f.tokens, &(qs_tap){.see = see, .context = &plain}, hidden, logits);
    run(backend, turned, f.tokens, &(qs_tap){.see = see, .context = &rotated}, hidden, logits);
    qs_gram_source given = {.get = give, .context = &plain};
    OK(qs_turned_grams_create(&grams, turned, &given));
    qs_gram_source source = qs_turned_grams_source(grams);
    assert_null(source.get_abs); /* the origin gives none */
    for (int k = 0; k < 2 * QS_N_SITES; k++) {
        qs_site site = (qs_site)(k % QS_N_SITES);
        int64_t width = qs_site_width(f.config, site);
        const double *wanted = rotated.sums[k];
        const float *packed;
        OK(source.get(source.context, k / QS_N_SITES, site, &packed, &n_tokens));
        assert_int_equal(n_tokens, N_TOKENS);
        for (int64_t i = 0; i < width; i++)
            for (int64_t j = i; j < width; j++, packed++)
                assert_true(fabs((double)*packed - wanted[i * width + j]) <=
                            2e-5 * sqrt(wanted[i * width + i] * wanted[j * width + j]));
    }
    /* mean sizes as of normal numbers where inputs are rotated, the origin's elsewhere */
    const float *abs_mean;
    given.get_abs = give_abs;
    source = qs_turned_grams_source(grams);
    OK(source.get_abs(source.context, 1, QS_SITE_GATE_UP, &abs_mean));
    for (int64_t i = 0; i < f.config->d_model; i++) {
        double square = rotated.sums[QS_N_SITES + QS_SITE_GATE_UP][i * (f.config->d_model + 1)] / N_TOKENS;
        double wanted = sqrt(2 / 3.14159265358979 * square);
        assert_true(fabs((double)abs_mean[i] - wanted) < 1e-4 * wanted);
    }
    OK(source.get_abs(source.context, 0, QS_SITE_O, &abs_mean));
    assert_ptr_equal(abs_mean, plain.packed);
    qs_turned_grams_destroy(grams);
    for (int k = 0; k < 2 * QS_N_SITES; k++) {
        free(plain.sums[k]);
        free(rotated.sums[k]);
    }
    qs_mem_free(plain.packed);
    qs_mem_free(hidden);
    qs_mem_free(logits);
    qs_backend_destroy(backend);
    fixture_close(&f);
}

/* A channel that a norm takes out of the calibration cannot be rotated afterwards. */
static void test_dead_channel(void **state)
{
    (void)state;
    qs_model *model = edited(false, "model.layers.1.post_attention_layernorm.weight"), *turned;
    qs_turned_grams *grams;
    qs_gram_source source = {.get = give};
    OK(qs_model_turn(model, &turned));
    FAILS(QS_E_UNSUPPORTED, qs_turned_grams_check(turned, false));
    TEXT_HOLDS("layer 1", "post_attention_layernorm", "weight 0", "rotate=0");
    FAILS(QS_E_UNSUPPORTED, qs_turned_grams_create(&grams, turned, &source));
    qs_model_close(model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_orthogonal), cmocka_unit_test(test_hadamard),     cmocka_unit_test(test_digest),
        cmocka_unit_test(test_invariance), cmocka_unit_test(test_reading),      cmocka_unit_test(test_grams),
        cmocka_unit_test(test_dead_channel),
    };
    return cmocka_run_group_tests_name("rotation", tests, scratch_create, scratch_remove);
}
