/* Text in: documents, digests, unigram divergence, windows (checklist A17, G12; bad input of issue 1). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"
#include "data/corpus.h"

static char dir[] = "/tmp/qsweep-corpus-XXXXXX";

static const char *write_file(const char *name, const char *text, size_t bytes)
{
    static char path[256];
    (void)snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    assert_int_equal(fwrite(text, 1, bytes, file), bytes);
    assert_int_equal(fclose(file), 0);
    return path;
}

static int make_dir(void **state)
{
    (void)state;
    return mkdtemp(dir) == NULL;
}

static int remove_dir(void **state)
{
    (void)state;
    char command[300];
    (void)snprintf(command, sizeof command, "rm -rf '%s'", dir);
    return system(command);
}

static void documents_are_runs_between_blank_lines(void **state)
{
    (void)state;
    static const char text[] = "# Title\n\none\ntwo\n  \n\nd\xc3\xa9j\xc3\xa0";
    qs_corpus corpus;
    assert_int_equal(qs_corpus_load(&corpus, write_file("a.md", text, sizeof text - 1)), QS_OK);
    assert_int_equal(corpus.n_documents, 3);
    assert_int_equal(corpus.document_chars[0], 7);
    assert_int_equal(corpus.document_chars[1], 8); /* "one", "two" and the two blanks before the blank line */
    assert_int_equal(corpus.document_chars[2], 4); /* code points, not bytes */
    double median;
    assert_int_equal(qs_corpus_median_chars(&corpus, &median), QS_OK);
    assert_true(median == 7.0);
    int64_t bins[QS_CORPUS_LENGTH_BINS];
    qs_corpus_length_histogram(&corpus, bins);
    assert_int_equal(bins[2], 2); /* 4 and 7 lie in 4..7 */
    assert_int_equal(bins[3], 1); /* 8 lies in 8..15 */
    qs_corpus_free(&corpus);
}

static void a_directory_is_its_texts_in_name_order(void **state)
{
    (void)state;
    qs_corpus corpus;
    (void)write_file("b.txt", "second", 6);
    (void)write_file("c.bin", "\xff", 1); /* not a text: left out */
    assert_int_equal(qs_corpus_load(&corpus, dir), QS_OK);
    assert_non_null(strstr(corpus.text, "\n\nsecond"));
    qs_corpus_free(&corpus);
}

static void bad_text_is_an_input_error_that_names_the_place(void **state)
{
    (void)state;
    qs_corpus corpus;
    assert_int_equal(qs_corpus_load(&corpus, write_file("bad", "ab\xff", 3)), QS_E_INPUT);
    assert_non_null(strstr(qs_error_text(), "byte 2"));
    assert_int_equal(qs_corpus_load(&corpus, write_file("blank", " \n\n ", 4)), QS_E_INPUT);
    assert_non_null(strstr(qs_error_text(), "no text"));
    assert_int_equal(qs_corpus_load(&corpus, "/nonexistent/text"), QS_E_INPUT);
    assert_int_equal(qs_mem_bytes(), 0);
}

static void js_divergence_of_hand_cases(void **state)
{
    (void)state;
    const int32_t a[] = {0, 1, 0, 1}, b[] = {2, 3}, c[] = {0, 2};
    double js;
    assert_int_equal(qs_unigram_js(a, 4, a, 4, 4, &js), QS_OK);
    assert_true(js == 0.0);
    assert_int_equal(qs_unigram_js(a, 4, b, 2, 4, &js), QS_OK);
    assert_true(js == 1.0);
    /* p = (1/2, 1/2, 0), q = (1/2, 0, 1/2): two disjoint halves give 1/2. */
    assert_int_equal(qs_unigram_js(a, 4, c, 2, 4, &js), QS_OK);
    assert_true(js > 0.5 - 1e-12 && js < 0.5 + 1e-12);
    assert_int_equal(qs_unigram_js(a, 4, b, 2, 3, &js), QS_E_INPUT); /* id 3 is outside a vocabulary of 3 */
    assert_int_equal(qs_unigram_js(a, 0, b, 2, 4, &js), QS_E_INPUT);
}

static void windows_are_one_per_stratum(void **state)
{
    (void)state;
    enum { N = 100, WINDOW = 16, TOKENS = 1015 };
    int64_t starts[N], again[N], other[N];
    assert_int_equal(qs_windows_stratified(TOKENS, WINDOW, N, 7, starts), QS_OK);
    for (int64_t i = 0; i < N; i++) {
        assert_in_range(starts[i], i * 10, i * 10 + 9); /* 1000 starts in 100 strata */
        assert_true(starts[i] + WINDOW <= TOKENS);
    }
    assert_int_equal(qs_windows_stratified(TOKENS, WINDOW, N, 7, again), QS_OK);
    assert_memory_equal(starts, again, sizeof starts);
    assert_int_equal(qs_windows_stratified(TOKENS, WINDOW, N, 8, other), QS_OK);
    assert_true(memcmp(starts, other, sizeof starts) != 0);

    /* Fewer starts than windows: windows repeat but stay inside. */
    assert_int_equal(qs_windows_stratified(WINDOW + 2, WINDOW, N, 7, starts), QS_OK);
    for (int i = 0; i < N; i++) assert_in_range(starts[i], 0, 2);
    assert_int_equal(qs_windows_stratified(WINDOW - 1, WINDOW, 1, 7, starts), QS_E_INPUT);
    assert_non_null(strstr(qs_error_text(), "15 tokens"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(documents_are_runs_between_blank_lines),
        cmocka_unit_test(a_directory_is_its_texts_in_name_order),
        cmocka_unit_test(bad_text_is_an_input_error_that_names_the_place),
        cmocka_unit_test(js_divergence_of_hand_cases),
        cmocka_unit_test(windows_are_one_per_stratum),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
