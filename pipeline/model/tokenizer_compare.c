#include "model/tokenizer_compare.h"

#include <stdio.h>
#include <string.h>

#include "base/mem.h"

/* What tokenizers are known to part over: digits, runs of spaces, contractions, case, letters of several bytes, control
 * characters, code. */
static const char probe[] = "The year 2024 had 366 days; 1234567890 3.14159e-10 0x1F. I'm sure they'll say it's what "
                            "we've DON'T'd.\n\n"
                            "  two  spaces   three\tand a tab\r\nnew line \xC2\xA0no-break.  int main(void) { return "
                            "x[i] >= 10 ? -1 : ~0; }\n"
                            "na\xC3\xAFve caf\xC3\xA9 Z\xC3\xBCrich \xE6\x97\xA5\xE6\x9C\xAC\xE8\xAA\x9E "
                            "\xD0\x9F\xD1\x80\xD0\xB8 \xF0\x9F\x98\x80 \xD9\xA3\xD9\xA4 \xC2\xBD e\xCC\x81 "
                            "\xE2\x80\x9Cquotes\xE2\x80\x9D\xE2\x80\xA6 <|endoftext|> <s> [INST]\n";

static qs_err compare(const qs_tokenizer *a, const qs_tokenizer *b, const char *text, size_t bytes, char *difference,
                      size_t difference_bytes)
{
    qs_token_list x = {0}, y = {0};
    char *part = NULL;
    qs_err err;
    QS_TRY(qs_tokenizer_encode(a, text, bytes, true, &x));
    QS_TRY(qs_tokenizer_encode(b, text, bytes, true, &y));
    int64_t i = 0, n = x.n < y.n ? x.n : y.n;
    while (i < n && x.ids[i] == y.ids[i]) i++;
    if (i == n && x.n == y.n) goto out;
    int64_t from = i > 4 ? i - 4 : 0;
    if (i < x.n) QS_TRY(qs_tokenizer_decode(a, x.ids + from, i + 1 - from, false, &part));
    (void)snprintf(difference, difference_bytes, "token %lld of a text is %d, not %d (after \"%.60s\")", (long long)i,
                   i < y.n ? y.ids[i] : -1, i < x.n ? x.ids[i] : -1, part != NULL ? part : "");
    for (char *c = difference; *c != '\0'; c++)
        if ((unsigned char)*c < ' ') *c = ' ';
out:
    qs_mem_free(part);
    qs_token_list_free(&x);
    qs_token_list_free(&y);
    return err;
}

qs_err qs_tokenizer_compare(const qs_tokenizer *a, const qs_tokenizer *b, const char *text, size_t bytes,
                            char difference[QS_TOKENIZER_DIFFERENCE_BYTES])
{
    qs_digest x = qs_tokenizer_digest(a), y = qs_tokenizer_digest(b);
    qs_err err = QS_OK;
    difference[0] = '\0';
    if (qs_tokenizer_bos(a) != qs_tokenizer_bos(b) || qs_tokenizer_eos(a) != qs_tokenizer_eos(b)) {
        (void)snprintf(difference, QS_TOKENIZER_DIFFERENCE_BYTES, "BOS and EOS are %d and %d, not %d and %d",
                       qs_tokenizer_bos(b), qs_tokenizer_eos(b), qs_tokenizer_bos(a), qs_tokenizer_eos(a));
        return QS_OK;
    }
    if (x.low == y.low && x.high == y.high) return QS_OK;
    QS_TRY(compare(a, b, probe, sizeof probe - 1, difference, QS_TOKENIZER_DIFFERENCE_BYTES));
    if (difference[0] != '\0' || text == NULL) goto out;
    err = compare(a, b, text, bytes, difference, QS_TOKENIZER_DIFFERENCE_BYTES);
out:
    return err;
}
