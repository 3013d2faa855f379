#include "data/claim.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "base/mem.h"

/* Spellings of one thing. */
static const struct {
    const char *spelling, *word;
} spellings[] = {
    {"metre", "m"}, {"metres", "m"}, {"meter", "m"}, {"meters", "m"},
    {"kilometre", "km"}, {"kilometres", "km"}, {"kilometer", "km"}, {"kilometers", "km"},
    {"centimetre", "cm"}, {"centimetres", "cm"}, {"centimeter", "cm"}, {"centimeters", "cm"},
    {"millimetre", "mm"}, {"millimetres", "mm"}, {"millimeter", "mm"}, {"millimeters", "mm"},
    {"litre", "l"}, {"litres", "l"}, {"liter", "l"}, {"liters", "l"},
    {"milligram", "mg"}, {"milligrams", "mg"}, {"gram", "g"}, {"grams", "g"},
    {"kilogram", "kg"}, {"kilograms", "kg"}, {"kilogramme", "kg"}, {"kilogrammes", "kg"},
    {"tonne", "t"}, {"tonnes", "t"}, {"bars", "bar"}, {"volt", "v"}, {"volts", "v"},
    {"watt", "w"}, {"watts", "w"}, {"kilowatt", "kw"}, {"kilowatts", "kw"}, {"ampere", "a"}, {"amperes", "a"},
    {"second", "s"}, {"seconds", "s"}, {"sec", "s"}, {"minutes", "min"}, {"minute", "min"}, {"mins", "min"},
    {"hour", "h"}, {"hours", "h"}, {"hr", "h"}, {"hrs", "h"}, {"days", "day"}, {"weeks", "week"},
    {"months", "month"}, {"years", "year"}, {"percent", "%"}, {"degree", "°"}, {"degrees", "°"},
    {"celsius", "c"}, {"zero", "0"}, {"one", "1"}, {"two", "2"}, {"three", "3"}, {"four", "4"}, {"five", "5"},
    {"six", "6"}, {"seven", "7"}, {"eight", "8"}, {"nine", "9"}, {"ten", "10"}, {"eleven", "11"}, {"twelve", "12"},
};

enum kind { GAP, LETTER, DIGIT, SIGN };

static enum kind kind_of(utf8proc_int32_t c)
{
    switch (utf8proc_category(c)) {
    case UTF8PROC_CATEGORY_LU: case UTF8PROC_CATEGORY_LL: case UTF8PROC_CATEGORY_LT: case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO: case UTF8PROC_CATEGORY_MN: case UTF8PROC_CATEGORY_MC: return LETTER;
    case UTF8PROC_CATEGORY_ND: case UTF8PROC_CATEGORY_NL: case UTF8PROC_CATEGORY_NO: return DIGIT;
    default: return c == '%' || c == '/' || c == 0xb0 ? SIGN : GAP;
    }
}

static utf8proc_int32_t next_code(const char **at)
{
    utf8proc_int32_t c;
    *at += utf8proc_iterate((const utf8proc_uint8_t *)*at, -1, &c);
    return c;
}

/* The kind of the character at `at`, which may be the end. */
static enum kind kind_at(const char *at) { return *at == '\0' ? GAP : kind_of(next_code(&at)); }

static void put_word(FILE *stream, const char *word, size_t bytes)
{
    for (size_t i = 0; i < sizeof spellings / sizeof *spellings; i++)
        if (strlen(spellings[i].spelling) == bytes && memcmp(spellings[i].spelling, word, bytes) == 0) {
            (void)fprintf(stream, "%s ", spellings[i].word);
            return;
        }
    (void)fprintf(stream, "%.*s ", (int)bytes, word);
}

/* The end of the word that begins at `at`: characters of one kind, with points in numbers; a sign stands alone. */
static const char *word_end(const char *at)
{
    enum kind kind = kind_at(at);
    do {
        (void)next_code(&at);
        if (kind == DIGIT && (*at == '.' || *at == ',') && kind_at(at + 1) == DIGIT) at++;
    } while (kind != SIGN && kind_at(at) == kind);
    return at;
}

static void put_words(FILE *stream, char *folded)
{
    (void)fputc(' ', stream);
    for (const char *at = folded; *at != '\0';) {
        if (kind_at(at) == GAP) {
            (void)next_code(&at);
            continue;
        }
        const char *end = word_end(at);
        for (char *c = folded + (at - folded); c < end; c++)
            if (*c == ',') *c = '.';
        put_word(stream, at, (size_t)(end - at));
        at = end;
    }
}

qs_err qs_claim_canonical(char **out, const char *text)
{
    utf8proc_uint8_t *folded = NULL;
    char *built = NULL;
    size_t bytes = 0;
    qs_err err = QS_OK;
    utf8proc_ssize_t n = utf8proc_map((const utf8proc_uint8_t *)text, 0, &folded,
                                      UTF8PROC_NULLTERM | UTF8PROC_STABLE | UTF8PROC_COMPOSE | UTF8PROC_COMPAT |
                                          UTF8PROC_CASEFOLD | UTF8PROC_IGNORE);
    if (n < 0) return qs_fail(QS_E_INPUT, "compare texts: %s", utf8proc_errmsg(n));
    FILE *stream = open_memstream(&built, &bytes);
    if (stream != NULL) put_words(stream, (char *)folded);
    free(folded);
    if (stream == NULL || fclose(stream) != 0) {
        free(built);
        return qs_fail(QS_E_RESOURCE, "compare texts: out of memory");
    }
    err = qs_mem_alloc(out, bytes + 1, "canonical text");
    if (err == QS_OK) memcpy(*out, built, bytes + 1);
    free(built);
    return err;
}

qs_err qs_claim_holds(const char *text, const char *claim, bool *holds)
{
    char *where = NULL, *what = NULL;
    qs_err err;
    QS_TRY(qs_claim_canonical(&where, text));
    QS_TRY(qs_claim_canonical(&what, claim));
    *holds = strlen(what) > 1 && strstr(where, what) != NULL;
out:
    qs_mem_free(where);
    qs_mem_free(what);
    return err;
}
