/* Evaluation windows (docs/perplexity.md: both protocols). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "metric/windows.h"

enum { N_TOKENS = 1100, BOS = 7777 };

static const int32_t *tokens(void)
{
    static int32_t ids[N_TOKENS];
    for (int i = 0; i < N_TOKENS; i++) ids[i] = i;
    return ids;
}

static const qs_protocol *protocol(const char *name)
{
    const qs_protocol *out;
    assert_int_equal(qs_protocol_find(&out, name), QS_OK);
    return out;
}

static qs_windows cut(const char *name, int64_t n_tokens, int64_t n_ctx, int64_t n_max, int32_t bos)
{
    qs_windows windows;
    assert_int_equal(qs_windows_cut(&windows, protocol(name), tokens(), n_tokens, n_ctx, n_max, bos), QS_OK);
    return windows;
}

/* §8.3: windows follow each other, the remainder is dropped, all but the first token are predicted. */
static void test_hf_without_bos(void **state)
{
    (void)state;
    qs_windows windows = cut("hf", N_TOKENS, 512, 0, -1);
    assert_int_equal(windows.n_windows, 2);
    assert_int_equal(windows.first, 0);
    assert_int_equal(windows.n_scored, 511);
    assert_string_equal(windows.bos, "none");
    for (int32_t i = 0; i < 1024; i++) assert_int_equal(windows.ids[i], i);
    assert_int_equal(qs_windows_targets(&windows, 1)[0], 513);
    assert_int_equal(qs_windows_targets(&windows, 1)[windows.n_scored - 1], 1023);
    qs_windows_free(&windows);
}

/* BOS stands once, at the very start, and takes part in the count of tokens. */
static void test_hf_with_bos(void **state)
{
    (void)state;
    qs_windows windows = cut("hf", 1023, 512, 0, BOS);
    assert_int_equal(windows.n_windows, 2);
    assert_string_equal(windows.bos, "once");
    assert_int_equal(windows.ids[0], BOS);
    assert_int_equal(windows.ids[1], 0);
    assert_int_equal(windows.ids[512], 511);
    assert_int_equal(windows.ids[1023], 1022);
    qs_windows_free(&windows);
}

/* §8.1: the first token of each chunk is replaced, positions 256 to 510 predict: 255 predictions of 512. */
static void test_llamacpp(void **state)
{
    (void)state;
    qs_windows windows = cut("llamacpp", N_TOKENS, 512, 0, BOS);
    assert_int_equal(windows.n_windows, 2);
    assert_int_equal(windows.first, 256);
    assert_int_equal(windows.n_scored, 255);
    assert_string_equal(windows.bos, "window");
    assert_int_equal(windows.ids[0], BOS);
    assert_int_equal(windows.ids[512], BOS);
    assert_int_equal(windows.ids[511], 510); /* shifted by the BOS in front of the text */
    assert_int_equal(windows.ids[513], 512);
    assert_int_equal(qs_windows_targets(&windows, 0)[0], 256);    /* the token at position 257 */
    assert_int_equal(qs_windows_targets(&windows, 1)[254], 1022); /* the last token of the window */
    qs_windows_free(&windows);

    windows = cut("llamacpp", N_TOKENS, 511, 0, -1); /* odd: n_ctx / 2 = 255, so 511 - 1 - 255 */
    assert_int_equal(windows.first, 255);
    assert_int_equal(windows.n_scored, 255);
    assert_int_equal(windows.ids[511], 511); /* no BOS to put there */
    qs_windows_free(&windows);
}

static void test_limit(void **state)
{
    (void)state;
    qs_windows windows = cut("hf", N_TOKENS, 100, 3, -1);
    assert_int_equal(windows.n_windows, 3);
    qs_windows_free(&windows);
    windows = cut("hf", N_TOKENS, 100, 99, -1);
    assert_int_equal(windows.n_windows, 11);
    qs_windows_free(&windows);
}

static void test_refuses(void **state)
{
    (void)state;
    qs_windows windows;
    const qs_protocol *none;
    assert_int_equal(qs_windows_cut(&windows, protocol("hf"), tokens(), 511, 512, 0, -1), QS_E_INPUT);
    assert_non_null(strstr(qs_error_text(), "511 tokens"));
    assert_non_null(strstr(qs_error_text(), "needs 512"));
    assert_int_equal(qs_windows_cut(&windows, protocol("llamacpp"), tokens(), 511, 2, 0, -1), QS_E_USAGE);
    assert_int_equal(qs_windows_cut(&windows, protocol("hf"), tokens(), 511, 1, 0, -1), QS_E_USAGE);
    assert_int_equal(qs_protocol_find(&none, "strided"), QS_E_USAGE);
    assert_non_null(strstr(qs_error_text(), "llamacpp"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_hf_without_bos), cmocka_unit_test(test_hf_with_bos),
        cmocka_unit_test(test_llamacpp),       cmocka_unit_test(test_limit),
        cmocka_unit_test(test_refuses),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
