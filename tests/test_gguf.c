/* The GGUF container and the configuration in its metadata: a small writer composes good and bad files in
 * memory; each bad one is refused with a text that names the place. */
#include "model_files.h"

#include "model/gguf.h"

/* Rows of faults start from a good file and override one field: that is what the warning is about. */
#pragma GCC diagnostic ignored "-Woverride-init"

/* Appends to a buffer that is large enough for every file here. */
typedef struct writer {
    uint8_t data[1 << 16];
    size_t n;
} writer;

static void put(writer *w, const void *data, size_t n)
{
    assert_true(w->n + n <= sizeof w->data);
    memcpy(w->data + w->n, data, n);
    w->n += n;
}

static void put_u32(writer *w, uint32_t value) { put(w, &value, sizeof value); }
static void put_u64(writer *w, uint64_t value) { put(w, &value, sizeof value); }

static void put_string(writer *w, const char *text)
{
    put_u64(w, strlen(text));
    put(w, text, strlen(text));
}

static void put_head(writer *w, uint32_t version, uint64_t n_tensors, uint64_t n_kvs)
{
    w->n = 0;
    put(w, "GGUF", 4);
    put_u32(w, version);
    put_u64(w, n_tensors);
    put_u64(w, n_kvs);
}

static void put_key(writer *w, const char *key, uint32_t type)
{
    put_string(w, key);
    put_u32(w, type);
}

static void put_kv_u32(writer *w, const char *key, uint32_t value)
{
    put_key(w, key, QS_GGUF_U32);
    put_u32(w, value);
}

static void put_kv_f32(writer *w, const char *key, float value)
{
    put_key(w, key, QS_GGUF_F32);
    put(w, &value, sizeof value);
}

static void put_kv_text(writer *w, const char *key, const char *text)
{
    put_key(w, key, QS_GGUF_STRING);
    put_string(w, text);
}

static void put_tensor(writer *w, const char *name, uint64_t n_in, uint64_t n_out, uint32_t type,
                       uint64_t offset)
{
    put_string(w, name);
    put_u32(w, n_out == 0 ? 1 : 2);
    put_u64(w, n_in);
    if (n_out != 0) put_u64(w, n_out);
    put_u32(w, type);
    put_u64(w, offset);
}

static void put_zeros(writer *w, size_t n, size_t alignment)
{
    w->n = (w->n + alignment - 1) / alignment * alignment + n;
    assert_true(w->n <= sizeof w->data);
}

static qs_err parse(qs_gguf *gguf, const writer *w)
{
    /* A block of its own size, so that reading beyond the end is seen by ASan. */
    static uint8_t *copy;
    free(copy);
    copy = malloc(w->n + 1);
    assert_non_null(copy);
    memcpy(copy, w->data, w->n);
    return qs_gguf_parse(gguf, copy, w->n, "F");
}

static void test_values(void **state)
{
    (void)state;
    static writer w;
    put_head(&w, 3, 2, 7);
    put_kv_u32(&w, "general.alignment", 64);
    put_key(&w, "small", QS_GGUF_I8);
    put(&w, "\xff", 1);
    put_key(&w, "large", QS_GGUF_U64);
    put_u64(&w, UINT64_MAX);
    put_key(&w, "yes", QS_GGUF_BOOL);
    put(&w, "\1", 1);
    put_kv_f32(&w, "half", 0.5f);
    put_kv_text(&w, "text", "abc");
    put_key(&w, "list", QS_GGUF_ARRAY);
    put_u32(&w, QS_GGUF_STRING);
    put_u64(&w, 2);
    put_string(&w, "x");
    put_string(&w, "yz");
    put_tensor(&w, "a", 3, 0, 0, 0);
    put_tensor(&w, "b", 32, 2, 8, 64);
    put_zeros(&w, 64 + 68, 64);
    w.data[w.n - 68] = 1;

    qs_gguf gguf;
    assert_ok(parse(&gguf, &w));
    assert_int_equal(gguf.alignment, 64);
    assert_int_equal(gguf.n_tensors, 2);
    const qs_gguf_tensor *b = qs_gguf_find_tensor(&gguf, "b");
    assert_non_null(b);
    assert_int_equal(b->storage, QS_STORE_Q8_0);
    assert_true(b->n_dims == 2 && b->ne[0] == 32 && b->ne[1] == 2 && b->bytes == 68 && b->data[0] == 1);
    assert_null(qs_gguf_find_tensor(&gguf, "c"));
    int64_t value = 7;
    double real = 0;
    bool yes = false;
    char text[4] = "";
    assert_ok(qs_gguf_opt_int(&value, &gguf, "absent", 0, 1, "F"));
    assert_int_equal(value, 7);
    assert_ok(qs_gguf_opt_int(&value, &gguf, "small", -10, 10, "F"));
    assert_int_equal(value, -1);
    assert_fails(qs_gguf_opt_int(&value, &gguf, "small", 0, 10, "F"), QS_E_INPUT,
                 "\"small\" must be an integer from 0");
    assert_fails(qs_gguf_opt_int(&value, &gguf, "large", -10, INT64_MAX, "F"), QS_E_INPUT, "\"large\"");
    assert_fails(qs_gguf_opt_int(&value, &gguf, "half", 0, 1, "F"), QS_E_INPUT,
                 "\"half\" must be an integer");
    assert_fails(qs_gguf_opt_int(&value, &gguf, "list", 0, 1, "F"), QS_E_UNSUPPORTED,
                 "differs between layers");
    assert_ok(qs_gguf_opt_real(&real, &gguf, "half", "F"));
    assert_true(real == 0.5);
    assert_fails(qs_gguf_opt_real(&real, &gguf, "small", "F"), QS_E_INPUT, "\"small\" must be a real");
    assert_ok(qs_gguf_opt_bool(&yes, &gguf, "yes", "F"));
    assert_true(yes);
    assert_fails(qs_gguf_opt_bool(&yes, &gguf, "small", "F"), QS_E_INPUT, "\"small\" must be true or false");
    assert_ok(qs_gguf_opt_text(text, sizeof text, &gguf, "text", "F"));
    assert_string_equal(text, "abc");
    assert_fails(qs_gguf_opt_text(text, 3, &gguf, "text", "F"), QS_E_INPUT, "fewer than 3 bytes");
    const char *texts[2];
    int64_t lengths[2];
    qs_gguf_strings(qs_gguf_find(&gguf, "list"), texts, lengths);
    assert_true(lengths[0] == 1 && lengths[1] == 2 && memcmp(texts[1], "yz", 2) == 0);
    qs_gguf_free(&gguf);
}

/* A file of one key and one F32 tensor of 8 elements, with room for one fault. */
typedef struct plain {
    uint32_t version, type, n_dims_or_0;
    uint64_t n_tensors, n_kvs, n_in, offset;
    const char *name;
} plain;

static void put_plain(writer *w, const plain *p)
{
    put_head(w, p->version, p->n_tensors, p->n_kvs);
    put_kv_u32(w, "k", 1);
    put_string(w, p->name);
    put_u32(w, p->n_dims_or_0 == 0 ? 1 : p->n_dims_or_0);
    put_u64(w, p->n_in);
    put_u32(w, p->type);
    put_u64(w, p->offset);
    put_zeros(w, 32, 32);
}

#define PLAIN .version = 3, .n_tensors = 1, .n_kvs = 1, .n_in = 8, .name = "t"
#define LONG_NAME "0123456789012345678901234567890123456789012345678901234567890123"

static void test_bad_fields(void **state)
{
    (void)state;
    static const struct {
        plain p;
        qs_err code;
        const char *part;
    } rows[] = {
        {{PLAIN}, QS_OK, ""},
        {{PLAIN, .version = 2}, QS_OK, ""},
        {{PLAIN, .version = 1}, QS_E_UNSUPPORTED, "GGUF version 1 is not supported"},
        {{PLAIN, .version = 4}, QS_E_UNSUPPORTED, "GGUF version 4 is not supported"},
        {{PLAIN, .version = 0x03000000}, QS_E_UNSUPPORTED, "big-endian"},
        {{PLAIN, .n_tensors = 65537}, QS_E_INPUT, "byte 8: 65537 tensors"},
        {{PLAIN, .n_kvs = UINT64_MAX}, QS_E_INPUT, "18446744073709551615 metadata values"},
        {{PLAIN, .n_tensors = 65536},
         QS_E_INPUT,
         "byte 8: 65536 tensors and 1 metadata values are claimed, more than"},
        {{PLAIN, .n_tensors = 2}, QS_E_INPUT, "parse F: byte "},
        {{PLAIN, .type = 4}, QS_E_INPUT, "tensor t has type number 4, which the format does not have"},
        {{PLAIN, .type = 18}, QS_E_UNSUPPORTED, "tensor t has type IQ3_XXS, which is not supported"},
        {{PLAIN, .type = 1000}, QS_E_UNSUPPORTED, "type number 1000, which is not known"},
        {{PLAIN, .type = 2}, QS_E_INPUT, "rows of tensor t have 8 elements, no multiple of the 32 of a q4_0"},
        {{PLAIN, .type = 12, .n_in = 32}, QS_E_INPUT, "no multiple of the 256 of a q4_k"},
        {{PLAIN, .n_in = 9}, QS_E_INPUT, "tensor t needs 36 bytes from byte "},
        {{PLAIN, .n_in = UINT64_MAX}, QS_E_INPUT, "the dimensions of tensor t overflow"},
        {{PLAIN, .n_in = (uint64_t)1 << 62}, QS_E_INPUT, "the size of tensor t overflows"},
        {{PLAIN, .offset = 32},
         QS_E_INPUT,
         "tensor t is at offset 32 of the data, but the sizes before it add up to 0"},
        {{PLAIN, .offset = UINT64_MAX}, QS_E_INPUT, "is at offset 18446744073709551615"},
        {{PLAIN, .n_dims_or_0 = 5}, QS_E_INPUT, "tensor t has 5 dimensions, not 1 to 4"},
        {{PLAIN, .name = ""}, QS_E_INPUT, "tensor name \"\" of 0 bytes"},
        {{PLAIN, .name = LONG_NAME}, QS_E_INPUT, "of 64 bytes is empty, too long"},
    };
    static writer w;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        qs_gguf gguf;
        put_plain(&w, &rows[i].p);
        if (rows[i].code == QS_OK) {
            assert_ok(parse(&gguf, &w));
            qs_gguf_free(&gguf);
        } else {
            assert_fails(parse(&gguf, &w), rows[i].code, rows[i].part);
            assert_null(gguf.tensors);
        }
    }
    qs_gguf gguf;
    w.data[0] = 'X';
    assert_fails(parse(&gguf, &w), QS_E_INPUT, "does not begin with \"GGUF\"");
}

static void test_bad_metadata(void **state)
{
    (void)state;
    static writer w;
    qs_gguf gguf;
    put_head(&w, 3, 0, 2);
    put_kv_u32(&w, "twice", 1);
    put_kv_u32(&w, "twice", 2);
    assert_fails(parse(&gguf, &w), QS_E_INPUT, "metadata key twice is there twice");
    put_head(&w, 3, 0, 1);
    put_kv_u32(&w, "", 1);
    put_zeros(&w, 32, 1);
    assert_fails(parse(&gguf, &w), QS_E_INPUT, "byte 24: metadata key \"\" of 0 bytes is empty");
    put_head(&w, 3, 0, 1);
    put_key(&w, "k\xff", 13);
    assert_fails(parse(&gguf, &w), QS_E_INPUT, "byte 24: key k? has the unknown type 13");
    put_head(&w, 3, 0, 1);
    put_u64(&w, UINT64_MAX);
    put_zeros(&w, 32, 1);
    assert_fails(parse(&gguf, &w), QS_E_INPUT, "byte 32: a metadata key needs 18446744073709551615 bytes");
    put_head(&w, 3, 0, 1);
    put_key(&w, "k", QS_GGUF_STRING);
    put_u64(&w, 100);
    assert_fails(parse(&gguf, &w), QS_E_INPUT,
                 "a metadata string needs 100 bytes, but the file ends at byte 45");
    put_head(&w, 3, 0, 1);
    put_key(&w, "k", QS_GGUF_ARRAY);
    put_u32(&w, QS_GGUF_ARRAY);
    put_u64(&w, 1);
    assert_fails(parse(&gguf, &w), QS_E_INPUT, "key k is an array of type 9, which arrays cannot hold");
    put_head(&w, 3, 0, 1);
    put_key(&w, "k", QS_GGUF_ARRAY);
    put_u32(&w, QS_GGUF_U64);
    put_u64(&w, (uint64_t)1 << 61);
    assert_fails(parse(&gguf, &w), QS_E_INPUT, "key k claims 2305843009213693952 items");
    put_head(&w, 3, 0, 1);
    put_key(&w, "k", QS_GGUF_ARRAY);
    put_u32(&w, QS_GGUF_STRING);
    put_u64(&w, 2);
    put_string(&w, "a longer string, so that two may be there");
    assert_fails(parse(&gguf, &w), QS_E_INPUT, "a string of an array needs 8 bytes");
}

static void test_bad_places(void **state)
{
    (void)state;
    static writer w;
    qs_gguf gguf;
    static const uint32_t alignments[] = {0, 3, 33, 1u << 21};
    for (size_t i = 0; i < sizeof alignments / sizeof alignments[0]; i++) {
        put_head(&w, 3, 0, 1);
        put_kv_u32(&w, "general.alignment", alignments[i]);
        assert_fails(parse(&gguf, &w), QS_E_INPUT, "is not a 32-bit power of two");
    }
    put_head(&w, 3, 0, 1);
    put_key(&w, "general.alignment", QS_GGUF_U64);
    put_u64(&w, 32);
    assert_fails(parse(&gguf, &w), QS_E_INPUT, "is not a 32-bit power of two");

    put_head(&w, 3, 2, 0);
    put_tensor(&w, "same", 8, 0, 0, 0);
    put_tensor(&w, "same", 8, 0, 0, 32);
    put_zeros(&w, 64, 32);
    assert_fails(parse(&gguf, &w), QS_E_INPUT, "tensor same is there twice");
    put_head(&w, 3, 2, 0);
    put_tensor(&w, "a", 9, 0, 0, 0);
    put_tensor(&w, "b", 8, 0, 0, 36); /* not padded */
    put_zeros(&w, 128, 32);
    assert_fails(parse(&gguf, &w), QS_E_INPUT,
                 "tensor b is at offset 36 of the data, but the sizes before it add up to 64");
    put_head(&w, 3, 1, 0);
    put_string(&w, "many");
    put_u32(&w, 4);
    for (int d = 0; d < 4; d++) put_u64(&w, 65536 * 8);
    put_u32(&w, 0);
    put_u64(&w, 0);
    put_zeros(&w, 64, 32);
    assert_fails(parse(&gguf, &w), QS_E_INPUT, "the dimensions of tensor many overflow");
}

/* A real file cut anywhere in its header, and at many places of its data, is refused. */
static void test_every_truncation(void **state)
{
    (void)state;
    bytes b = load_file(MODELS "gguf/qwen2-q8_0.gguf");
    qs_gguf gguf;
    assert_ok(qs_gguf_parse(&gguf, (const uint8_t *)b.data, b.n, "F"));
    size_t last = 0;
    for (int64_t i = 0; i < gguf.n_tensors; i++) {
        size_t end = (size_t)(gguf.tensors[i].data - (const uint8_t *)b.data) + gguf.tensors[i].bytes;
        if (end > last) last = end;
    }
    qs_gguf_free(&gguf);
    for (size_t n = 0; n < last; n += n < 4096 ? 1 : 1009) {
        uint8_t *cut = malloc(n + 1);
        assert_non_null(cut);
        memcpy(cut, b.data, n);
        qs_err err = qs_gguf_parse(&gguf, cut, n, "F");
        free(cut);
        if (err != QS_E_INPUT) fail_msg("cut at %zu of %zu bytes: code %d", n, b.n, (int)err);
    }
    qs_mem_free(b.data);
}

/* Metadata of a one-layer model whose only tensor is the embedding, with one fault. */
typedef struct meta {
    const char *architecture, *leave_out, *scaling;
    uint32_t heads, kv_heads, key_length, rotated, experts, vocab, n_layers, embed_rows;
    float eps, theta;
    bool divisors;
    float divisor;
} meta;

#define META \
    .architecture = "llama", .leave_out = "", .heads = 4, .kv_heads = 2, .eps = 1e-5f, .theta = 1e4f, \
    .n_layers = 1, .embed_rows = 16, .divisor = 1

static void put_meta(writer *w, const meta *m)
{
    const struct {
        const char *leaf;
        uint32_t value;
    } counts[] = {
        {"block_count", m->n_layers},
        {"context_length", 128},
        {"embedding_length", 32},
        {"feed_forward_length", 64},
        {"attention.head_count", m->heads},
        {"attention.head_count_kv", m->kv_heads},
        {"attention.key_length", m->key_length},
        {"rope.dimension_count", m->rotated},
        {"expert_count", m->experts},
        {"vocab_size", m->vocab},
    };
    char key[128];
    put_head(w, 3, m->divisors ? 2 : 1, 0);
    uint64_t n_kvs = 0;
    if (m->architecture[0] != '\0') {
        put_kv_text(w, "general.architecture", m->architecture);
        n_kvs++;
    }
    for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++) {
        if (strcmp(counts[i].leaf, m->leave_out) == 0 || counts[i].value == 0) continue;
        (void)snprintf(key, sizeof key, "%s.%s", m->architecture, counts[i].leaf);
        put_kv_u32(w, key, counts[i].value);
        n_kvs++;
    }
    if (strcmp(m->leave_out, "eps") != 0) {
        (void)snprintf(key, sizeof key, "%s.attention.layer_norm_rms_epsilon", m->architecture);
        put_kv_f32(w, key, m->eps);
        n_kvs++;
    }
    (void)snprintf(key, sizeof key, "%s.rope.freq_base", m->architecture);
    put_kv_f32(w, key, m->theta);
    n_kvs++;
    if (m->scaling != NULL) {
        (void)snprintf(key, sizeof key, "%s.rope.scaling.type", m->architecture);
        put_kv_text(w, key, m->scaling);
        (void)snprintf(key, sizeof key, "%s.rope.scaling.factor", m->architecture);
        put_kv_f32(w, key, 2);
        n_kvs += 2;
    }
    memcpy(w->data + 16, &n_kvs, sizeof n_kvs);
    put_tensor(w, strcmp(m->leave_out, "embed") == 0 ? "other" : "token_embd.weight", 32, m->embed_rows, 0,
               0);
    if (m->divisors) put_tensor(w, "rope_freqs.weight", 4, 0, 0, (uint64_t)m->embed_rows * 128);
    put_zeros(w, (size_t)m->embed_rows * 128, 32);
    for (int i = 0; m->divisors && i < 4; i++) put(w, &m->divisor, sizeof m->divisor);
}

static void test_config(void **state)
{
    (void)state;
    static const struct {
        meta m;
        qs_err code;
        const char *part;
    } rows[] = {
        {{META}, QS_OK, ""},
        {{META, .rotated = 8, .vocab = 16, .key_length = 8}, QS_OK, ""},
        {{META, .architecture = ""}, QS_E_INPUT, "\"general.architecture\" is missing"},
        {{META, .architecture = "mamba"}, QS_E_UNSUPPORTED, "architecture mamba is not supported"},
        {{META, .leave_out = "block_count"}, QS_E_INPUT, "the key \"llama.block_count\" is missing"},
        {{META, .leave_out = "eps"}, QS_E_INPUT, "layer_norm_rms_epsilon\" is missing"},
        {{META, .leave_out = "embed"}, QS_E_INPUT, "token_embd.weight is missing"},
        {{META, .n_layers = 100000}, QS_E_INPUT, "\"llama.block_count\" must be an integer from 1 to 1024"},
        {{META, .heads = 5}, QS_E_INPUT, "embedding_length 32 is no multiple of head_count 5"},
        {{META, .kv_heads = 3}, QS_E_INPUT, "4 heads are no multiple of 3"},
        {{META, .rotated = 4}, QS_E_UNSUPPORTED, "rotated width 4 differ"},
        {{META, .key_length = 16}, QS_OK, ""},
        {{META, .experts = 8}, QS_E_UNSUPPORTED, "a mixture of 8 experts"},
        {{META, .eps = -1}, QS_E_INPUT, "norm epsilon -1 is outside"},
        {{META, .theta = 0}, QS_E_INPUT, "the rope base 0 is outside"},
        {{META, .scaling = "yarn"}, QS_E_UNSUPPORTED, "rope scaling \"yarn\" is not supported"},
        {{META, .scaling = "linear"}, QS_OK, ""},
        {{META, .divisors = true}, QS_OK, ""},
        {{META, .divisors = true, .divisor = 0}, QS_E_NUMERIC, "rope_freqs.weight: 0 at index 0"},
        {{META, .divisors = true, .heads = 2}, QS_E_INPUT, "rope_freqs.weight must hold 8 F32 numbers"},
        {{META, .divisors = true, .scaling = "linear"}, QS_E_UNSUPPORTED, "together with linear scaling"},
    };
    static writer w;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        qs_gguf gguf;
        qs_model_config c;
        memset(w.data, 0, sizeof w.data);
        put_meta(&w, &rows[i].m);
        assert_ok(parse(&gguf, &w));
        if (rows[i].code != QS_OK) {
            assert_fails(qs_model_config_from_gguf(&c, &gguf, "F"), rows[i].code, rows[i].part);
        } else {
            assert_ok(qs_model_config_from_gguf(&c, &gguf, "F"));
            assert_true(c.d_model == 32 && c.n_vocab == 16 && c.tied_head && !c.qkv_bias);
            assert_int_equal(c.head_dim, rows[i].m.key_length != 0 ? rows[i].m.key_length : 8);
            qs_rope_kind kind = rows[i].m.divisors          ? QS_ROPE_DIVISORS
                                : rows[i].m.scaling != NULL ? QS_ROPE_LINEAR
                                                            : QS_ROPE_DEFAULT;
            assert_int_equal(c.rope_kind, kind);
            assert_true(c.rope_factor == (kind == QS_ROPE_LINEAR ? 2 : 1));
        }
        qs_gguf_free(&gguf);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_values),
        cmocka_unit_test(test_bad_fields),
        cmocka_unit_test(test_bad_metadata),
        cmocka_unit_test(test_bad_places),
        cmocka_unit_test(test_every_truncation),
        cmocka_unit_test(test_config),
    };
    return cmocka_run_group_tests_name("gguf", tests, NULL, NULL);
}
