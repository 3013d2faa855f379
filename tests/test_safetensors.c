/* The safetensors parser: what a good file gives, and one bad file per rule of the format, each with a text
 * that names the place. Checklist G5 (header against lengths). */
#include "model_files.h"

#include "model/safetensors.h"
#include "model/shards.h"

/* A file in memory: header, then n bytes of data that count up. */
static bytes compose(const char *header, size_t n)
{
    uint64_t header_bytes = strlen(header);
    bytes b = {.n = 8 + header_bytes + n};
    assert_ok(qs_mem_alloc((void *)&b.data, b.n + 1, "test"));
    memcpy(b.data, &header_bytes, 8);
    memcpy(b.data + 8, header, header_bytes);
    for (size_t i = 0; i < n; i++) b.data[8 + header_bytes + i] = (char)i;
    return b;
}

static qs_err parse(qs_safetensors *file, bytes b)
{
    return qs_safetensors_parse(file, (const uint8_t *)b.data, b.n, "F");
}

static void test_good(void **state)
{
    (void)state;
    bytes b = compose("{\"__metadata__\":{\"format\":\"pt\"},"
                      "\"w\":{\"dtype\":\"F16\",\"shape\":[2,3],\"data_offsets\":[4,16]},"
                      "\"a\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4]},"
                      "\"\\u00e9\":{\"dtype\":\"I64\",\"shape\":[3,0],\"data_offsets\":[16,16]},"
                      "\"f\":{\"dtype\":\"F4\",\"shape\":[4],\"data_offsets\":[16,18]}}  ",
                      18);
    qs_safetensors file;
    assert_ok(parse(&file, b));
    assert_int_equal(file.n_tensors, 4);
    const qs_safetensor *w = qs_safetensors_find(&file, "w");
    assert_non_null(w);
    assert_int_equal(w->type, QS_ST_F16);
    assert_string_equal(qs_safetensor_type_name(w->type), "F16");
    assert_int_equal(w->n_dims, 2);
    assert_int_equal(w->shape[0], 2);
    assert_int_equal(w->shape[1], 3);
    assert_int_equal(w->bytes, 12);
    assert_int_equal(w->data[0], 4);
    assert_int_equal(qs_safetensors_find(&file, "a")->n_dims, 0);
    assert_non_null(qs_safetensors_find(&file, "\xc3\xa9"));
    assert_null(qs_safetensors_find(&file, "x"));
    assert_string_equal(qs_safetensors_metadata(&file, "format"), "pt");
    assert_null(qs_safetensors_metadata(&file, "other"));
    qs_safetensors_free(&file);
    qs_mem_free(b.data);

    b = compose("{}", 0);
    assert_ok(parse(&file, b));
    assert_null(qs_safetensors_find(&file, "w"));
    qs_safetensors_free(&file);
    qs_mem_free(b.data);
}

#define T(name, dtype, shape, offsets) \
    "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":" offsets "}"

static void test_bad_headers(void **state)
{
    (void)state;
    static const struct {
        const char *header, *part;
    } rows[] = {
        {" {" T("a", "U8", "[8]", "[0,8]") "}", "does not begin with '{'"},
        {"", "does not begin with '{'"},
        {"[1]", "does not begin with '{'"},
        {"{" T("a", "U8", "[8]", "[0,8]"), "parse F: line 1, column"},
        {"{" T("a", "U8", "[8]", "[0,8]") "} x", "parse F: line 1, column"},
        {"{\"a\xff\":1}", "parse F: line 1, column"},
        {"{" T("a", "U8", "[4]", "[0,4]") "," T("a", "U8", "[4]", "[4,8]") "}", "duplicate object key"},
        {"{" T("a", "U8", "[4]", "[0,4]") "," T("b", "U8", "[4]", "[3,7]") "}", "tensor b begins at byte 3"},
        {"{" T("a", "U8", "[4]", "[0,4]") "," T("b", "U8", "[3]", "[5,8]") "}", "leaves a hole behind the "
                                                                                "byte 4"},
        {"{" T("a", "U8", "[7]", "[1,8]") "}", "tensor a begins at byte 1"},
        {"{" T("a", "U8", "[7]", "[0,7]") "}", "the tensors end at byte 7 of 8"},
        {"{}", "the tensors end at byte 0 of 8"},
        {"{" T("a", "U8", "[9]", "[0,9]") "}", "tensor a takes bytes 0 to 9 of 8"},
        {"{" T("a", "U8", "[8]", "[8,0]") "}", "tensor a takes bytes 8 to 0"},
        {"{" T("a", "U8", "[7]", "[0,8]") "}", "tensor a has 8 bytes but its shape needs 56 bits"},
        {"{" T("a", "F16", "[8]", "[0,8]") "}", "tensor a has 8 bytes but its shape needs 128 bits"},
        {"{" T("a", "F4", "[3]", "[0,8]") "}", "its shape needs 12 bits"},
        {"{" T("a", "Q8", "[8]", "[0,8]") "}", "tensor a has the unknown dtype Q8"},
        {"{\"a\":{\"shape\":[8],\"data_offsets\":[0,8]}}", "tensor a has no \"dtype\""},
        {"{\"a\":{\"dtype\":\"U8\",\"data_offsets\":[0,8]}}", "\"shape\" of tensor a"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[8]}}", "\"data_offsets\" of tensor a"},
        {"{\"a\":[0,8]}", "the entry of tensor a is not an object"},
        {"{" T("a", "U8", "[8]", "[0,8,8]") "}", "\"data_offsets\" of tensor a"},
        {"{" T("a", "U8", "[8]", "[0,8.0]") "}", "\"data_offsets\" of tensor a"},
        {"{" T("a", "U8", "[8]", "[-8,0]") "}", "\"data_offsets\" of tensor a"},
        {"{" T("a", "U8", "[8]", "[0,18446744073709551616]") "}", "too big integer"},
        {"{" T("a", "U8", "[-8]", "[0,8]") "}", "shape[0] of tensor a is not a count"},
        {"{" T("a", "U8", "[1,8.0]", "[0,8]") "}", "shape[1] of tensor a is not a count"},
        {"{" T("a", "U8", "[\"8\"]", "[0,8]") "}", "shape[0] of tensor a is not a count"},
        {"{" T("a", "U8", "[1,1,1,1,1,1,1,1,8]", "[0,8]") "}", "at most 8 numbers"},
        {"{" T("a", "U8", "[4294967296,4294967296,8]", "[0,8]") "}", "the shape of tensor a overflows"},
        {"{" T("a", "F64", "[2305843009213693952]", "[0,8]") "}", "the shape of tensor a overflows"},
        {"{\"__metadata__\":[]," T("a", "U8", "[8]", "[0,8]") "}", "\"__metadata__\" is not an object"},
        {"{\"__metadata__\":{\"x\":1}," T("a", "U8", "[8]", "[0,8]") "}", "\"__metadata__\" member x is not "
                                                                          "a string"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        bytes b = compose(rows[i].header, 8);
        qs_safetensors file;
        assert_fails(parse(&file, b), QS_E_INPUT, rows[i].part);
        assert_null(file.tensors);
        qs_mem_free(b.data);
    }
}

static void test_bad_lengths(void **state)
{
    (void)state;
    static const struct {
        uint64_t header_bytes;
        size_t n;
        const char *part;
    } rows[] = {
        {2, 0, "0 bytes are too few"},
        {2, 7, "7 bytes are too few"},
        {100000001, 10, "over the limit of 100000000"},
        {UINT64_MAX, 10, "over the limit"},
        {3, 10, "the header has 3 bytes but the file only 10"},
        {0, 10, "does not begin with '{'"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        uint8_t data[10] = {[8] = '{', [9] = '}'};
        memcpy(data, &rows[i].header_bytes, 8);
        qs_safetensors file;
        assert_fails(qs_safetensors_parse(&file, data, rows[i].n, "F"), QS_E_INPUT, rows[i].part);
    }
    char deep[20001]; /* nesting must not exhaust the stack */
    memset(deep, '[', sizeof deep - 1);
    memcpy(deep, "{\"a\":", 5);
    deep[sizeof deep - 1] = '\0';
    bytes b = compose(deep, 0);
    qs_safetensors file;
    assert_fails(parse(&file, b), QS_E_INPUT, "maximum parsing depth");
    qs_mem_free(b.data);
}

/* A file cut anywhere is refused. */
static void test_every_truncation(void **state)
{
    (void)state;
    bytes b = load_file(MODELS "llama3/model-00003-of-00003.safetensors");
    qs_safetensors file;
    assert_ok(parse(&file, b));
    qs_safetensors_free(&file);
    for (size_t n = 0; n < b.n; n += n < 4096 ? 1 : 977) {
        uint8_t *cut = malloc(n + 1); /* a block of its own, so that reading beyond is seen by ASan */
        assert_non_null(cut);
        memcpy(cut, b.data, n);
        qs_err err = qs_safetensors_parse(&file, cut, n, "F");
        free(cut);
        if (err != QS_E_INPUT) fail_msg("cut at %zu of %zu bytes: code %d", n, b.n, (int)err);
    }
    qs_mem_free(b.data);
}

static void test_directories(void **state)
{
    (void)state;
    char dir[QS_PATH_BYTES], path[QS_PATH_BYTES];
    qs_shards shards;
    (void)make_dir(dir);
    assert_fails(qs_shards_open(&shards, dir), QS_E_INPUT, "but 0 other safetensors files");
    /* One file under another name, as quantisers write it. */
    static const char header[] = "{" T("a", "U8", "[1]", "[0,1]") "}";
    assert_ok(qs_path_format(path, "%s/gptq_model-4bit-128g.safetensors", dir));
    save_safetensors(path, header, "x", 1);
    assert_ok(qs_shards_open(&shards, dir));
    assert_int_equal(shards.n_entries, 1);
    assert_int_equal(qs_shards_find(&shards, "a")->tensor->data[0], 'x');
    assert_ok(qs_mapped_check(&qs_shards_find(&shards, "a")->shard->file));
    assert_null(qs_shards_find(&shards, "b"));
    qs_shards_close(&shards);
    assert_ok(qs_path_format(path, "%s/second.safetensors", dir));
    save_safetensors(path, header, "x", 1);
    assert_fails(qs_shards_open(&shards, dir), QS_E_INPUT, "but 2 other safetensors files");
    remove_dir(dir);

    assert_ok(qs_shards_open(&shards, MODELS "llama3"));
    assert_int_equal(shards.n_shards, 3);
    assert_int_equal(shards.n_entries, 21);
    assert_non_null(qs_shards_find(&shards, "model.layers.1.mlp.down_proj.weight"));
    qs_shards_close(&shards);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_good),        cmocka_unit_test(test_bad_headers),
        cmocka_unit_test(test_bad_lengths), cmocka_unit_test(test_every_truncation),
        cmocka_unit_test(test_directories),
    };
    return cmocka_run_group_tests_name("safetensors", tests, NULL, NULL);
}
