/* The schema: which paths match, and what is printed from its rows. */
#include "scratch.h"

#include "artifact/artifact.h"

static void test_schema_find(void **state)
{
    (void)state;
    const qs_schema_row *row = qs_schema_find(QS_KIND_QUANT, "/layers/31/mlp.down_proj/codes");
    assert_non_null(row);
    assert_string_equal(row->path, "/layers/*/*/codes");
    assert_non_null(qs_schema_find(QS_KIND_QUANT, "/parents/@calib"));
    assert_non_null(qs_schema_find(QS_KIND_EVAL, "/metrics/ppl/@value"));
    static const char *const bad[] = {
        "",
        "/",
        "layers/0/q/codes",
        "/layers/0/q",
        "/layers/0/q/codes/",
        "/layers/0/q/codes/x",
        "//0/q/codes",
        "/layers//q/codes",
        "/layers/./q/codes",
        "/layers/../q/codes",
        "/layers/a b/q/codes",
        "/layers/@0/q/codes",
        "/layers/\n/q/codes",
        "/layers/\xc3\xa9/q/codes",
        "/parents/@",
        "/parents/@.",
        "/parents/model",
        "/spec/bits",
        "/spec/@Bits",
        "/layers/0/q/gram",
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        if (qs_schema_find(QS_KIND_QUANT, bad[i]) != NULL) fail_msg("\"%s\" matched a row", bad[i]);
    char path[2 * QS_SCHEMA_PATH_BYTES];
    (void)snprintf(path, sizeof path, "/layers/0/%0*d/codes", QS_SCHEMA_PATH_BYTES - 17, 0); /* 255 bytes */
    assert_int_equal(strlen(path), QS_SCHEMA_PATH_BYTES - 1);
    assert_non_null(qs_schema_find(QS_KIND_QUANT, path));
    (void)snprintf(path, sizeof path, "/layers/0/%0*d/codes", QS_SCHEMA_PATH_BYTES - 16, 0);
    assert_null(qs_schema_find(QS_KIND_QUANT, path));
}

/* No two rows may claim one path, and each row must be fit to print. */
static void test_schema_rows(void **state)
{
    (void)state;
    for (const qs_schema_row *row = qs_schema_rows; row->path != NULL; row++) {
        assert_true(row->path[0] == '/' && row->text[0] != '\0' && row->kinds != 0);
        assert_true(row->kinds < 1u << QS_N_KINDS);
        bool is_attribute = strstr(row->path, "/@") != NULL;
        assert_true(is_attribute == (row->cell != QS_CELL_DATASET));
        assert_true(is_attribute ? row->rank == 0 : row->rank >= 1 && row->rank <= QS_ARTIFACT_MAX_RANK);
        assert_true(strchr(row->text, '\n') == NULL);
        for (const qs_schema_row *other = row + 1; other->path != NULL; other++)
            if ((row->kinds & other->kinds) != 0 && strcmp(row->path, other->path) == 0)
                fail_msg("two rows for %s", row->path);
    }
}

/* docs/artifacts.md is what the rows print (make docs). */
static void test_docs_are_current(void **state)
{
    (void)state;
    char *printed = NULL, *stored;
    size_t printed_bytes, stored_bytes;
    FILE *stream = open_memstream(&printed, &printed_bytes);
    assert_non_null(stream);
    qs_schema_print_markdown(stream);
    assert_int_equal(fclose(stream), 0);
    for (const qs_schema_row *row = qs_schema_rows; row->path != NULL; row++)
        assert_non_null(strstr(printed, row->path));
    if (!qs_file_exists("docs/artifacts.md")) {
        free(printed);
        print_message("skipped: there is no docs/artifacts.md to compare\n");
        skip();
    }
    OK(qs_file_read(&stored, &stored_bytes, "docs/artifacts.md", (size_t)1 << 20));
    if (strcmp(printed, stored) != 0)
        fail_msg("docs/artifacts.md is not what the schema prints; run make docs");
    qs_mem_free(stored);
    free(printed);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_schema_find),
        cmocka_unit_test(test_schema_rows),
        cmocka_unit_test(test_docs_are_current),
    };
    return cmocka_run_group_tests(tests, scratch_create, scratch_remove);
}
