/* The safetensors writer against the parser: what is written is read back; one refusal per rule. Demand:
 * docs/interop.md (a checkpoint directory that other runtimes load). */
#include "scratch.h"

#include "model/safetensors_writer.h"

static const int64_t shape_w[] = {2, 3}, shape_b[] = {5}, shape_e[] = {3, 0};

static void test_round_trip(void **state)
{
    (void)state;
    scratch_path path;
    qs_safetensors_writer *writer;
    const float w[6] = {1, 2, 3, 4, 5, 6};
    const uint8_t b[5] = {9, 8, 7, 6, 5};
    const int64_t s = -3;
    OK(qs_safetensors_writer_create(&writer, scratch(path, "a.safetensors")));
    OK(qs_safetensors_writer_metadata(writer, "format", "pt"));
    OK(qs_safetensors_writer_declare(writer, "b", QS_ST_U8, 1, shape_b));
    OK(qs_safetensors_writer_declare(writer, "w", QS_ST_F32, 2, shape_w));
    OK(qs_safetensors_writer_declare(writer, "s", QS_ST_I64, 0, NULL));
    OK(qs_safetensors_writer_declare(writer, "\xc3\xa9", QS_ST_F16, 2, shape_e));
    OK(qs_safetensors_writer_put(writer, "b", b, 5));
    OK(qs_safetensors_writer_put(writer, "w", w, 4));
    OK(qs_safetensors_writer_put(writer, "s", &s, 8));
    OK(qs_safetensors_writer_put(writer, "w", w + 1, 20));
    size_t bytes = qs_safetensors_writer_bytes(writer);
    assert_false(qs_file_exists(path));
    OK(qs_safetensors_writer_publish(writer));

    qs_file_map map;
    qs_safetensors file;
    OK(qs_file_map_open(&map, path));
    assert_int_equal(map.bytes, bytes);
    OK(qs_safetensors_parse(&file, map.data, map.bytes, path));
    assert_int_equal(file.n_tensors, 4);
    assert_string_equal(qs_safetensors_metadata(&file, "format"), "pt");
    assert_memory_equal(qs_safetensors_find(&file, "w")->data, w, sizeof w);
    assert_memory_equal(qs_safetensors_find(&file, "b")->data, b, sizeof b);
    assert_memory_equal(qs_safetensors_find(&file, "s")->data, &s, sizeof s);
    assert_int_equal(qs_safetensors_find(&file, "\xc3\xa9")->shape[1], 0);
    /* Falling element size: every tensor is aligned. */
    for (int64_t i = 0; i < file.n_tensors; i++) {
        const qs_safetensor *t = &file.tensors[i];
        size_t align = t->type == QS_ST_I64 ? 8 : t->type == QS_ST_F32 ? 4 : 1;
        assert_int_equal((size_t)(t->data - map.data) % align, 0);
    }
    qs_safetensors_free(&file);
    qs_file_map_close(&map);
}

static void test_refusals(void **state)
{
    (void)state;
    scratch_path path;
    qs_safetensors_writer *writer;
    const int64_t negative[] = {-1}, huge[] = {INT64_MAX, INT64_MAX};
    const char zeros[32] = {0};
    OK(qs_safetensors_writer_create(&writer, scratch(path, "bad.safetensors")));
    OK(qs_safetensors_writer_declare(writer, "w", QS_ST_F32, 2, shape_w));
    FAILS(QS_E_INPUT, qs_safetensors_writer_declare(writer, "w", QS_ST_F32, 2, shape_w));
    TEXT_HOLDS("bad.safetensors", "w", "already");
    FAILS(QS_E_INPUT, qs_safetensors_writer_declare(writer, "n", QS_ST_F32, 1, negative));
    FAILS(QS_E_INPUT, qs_safetensors_writer_declare(writer, "h", QS_ST_F32, 2, huge));
    FAILS(QS_E_INPUT,
          qs_safetensors_writer_declare(writer, "d", QS_ST_F32, QS_SAFETENSOR_DIMS_MAX + 1, shape_w));
    FAILS(QS_E_UNSUPPORTED, qs_safetensors_writer_declare(writer, "f", QS_ST_F4, 1, shape_b));
    FAILS(QS_E_INPUT, qs_safetensors_writer_put(writer, "x", zeros, 4));
    FAILS(QS_E_INPUT, qs_safetensors_writer_put(writer, "w", zeros, 25));
    TEXT_HOLDS("24", "25");
    OK(qs_safetensors_writer_put(writer, "w", zeros, 20));
    FAILS(QS_E_USAGE, qs_safetensors_writer_declare(writer, "late", QS_ST_F32, 1, shape_b));
    FAILS(QS_E_INPUT, qs_safetensors_writer_publish(writer));
    TEXT_HOLDS("w", "20 of 24");
    assert_false(qs_file_exists(path));

    OK(qs_safetensors_writer_create(&writer, path));
    OK(qs_safetensors_writer_declare(writer, "\xff", QS_ST_U8, 1, shape_b));
    FAILS(QS_E_INPUT, qs_safetensors_writer_publish(writer));
    OK(qs_safetensors_writer_create(&writer, path));
    qs_safetensors_writer_discard(writer);
    qs_safetensors_writer_discard(NULL);
    assert_false(qs_file_exists(path));
    FAILS(QS_E_RESOURCE, qs_safetensors_writer_create(&writer, scratch(path, "missing/x.safetensors")));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_round_trip), cmocka_unit_test(test_refusals)};
    return cmocka_run_group_tests(tests, scratch_create, scratch_remove);
}
