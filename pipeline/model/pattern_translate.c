#include "model/pattern_translate.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "model/unicode.h"

/* PCRE2's \s has U+180E besides the White_Space characters; Oniguruma's has not. */
static const char space_ranges[] = "\\x{9}-\\x{d}\\x{20}\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}"
                                   "\\x{2029}\\x{202f}\\x{205f}\\x{3000}";

typedef struct translation {
    qs_textbuf *out;
    const char *source, *name;
    size_t bytes, at;
    bool in_class;
} translation;

static qs_err refuse(const translation *t, const char *what)
{
    return qs_fail(QS_E_UNSUPPORTED, "translate pattern of %s: %s at byte %zu is not supported: %.200s",
                   t->name, what, t->at, t->source);
}

static char peek(const translation *t, size_t ahead)
{
    return t->at + ahead < t->bytes ? t->source[t->at + ahead] : '\0';
}

static qs_err put(translation *t, const char *text) { return qs_textbuf_append(t->out, text, strlen(text)); }

/* Copies source bytes as they are. */
static qs_err copy(translation *t, size_t n)
{
    qs_err err = qs_textbuf_append(t->out, t->source + t->at, n);
    t->at += n;
    return err;
}

/* The code points of a category ("L", "Nd") that PCRE2 does not know yet, as class members. */
static qs_err put_newer(translation *t, const char *category)
{
    size_t letters = strlen(category);
    for (int r = 0; r < qs_n_unicode_rows; r++) {
        if (strncmp(qs_unicode_rows[r].category, category, letters) != 0) continue;
        uint32_t last = qs_unicode_rows[r].last;
        int first_row = r;
        while (r + 1 < qs_n_unicode_rows && qs_unicode_rows[r + 1].first == last + 1 &&
               strncmp(qs_unicode_rows[r + 1].category, category, letters) == 0)
            last = qs_unicode_rows[++r].last;
        char range[40];
        (void)snprintf(range, sizeof range, "\\x{%x}-\\x{%x}", qs_unicode_rows[first_row].first, last);
        qs_err err = put(t, range);
        if (err != QS_OK) return err;
    }
    return QS_OK;
}

/* A class of characters, given as members, where the source has one escape. */
static qs_err put_class(translation *t, bool negated, const char *members, const char *category)
{
    qs_err err;
    if (t->in_class && negated) return refuse(t, "a negated escape inside a class");
    if (!t->in_class) QS_TRY(put(t, negated ? "[^" : "["));
    QS_TRY(put(t, members));
    if (category != NULL) QS_TRY(put_newer(t, category));
    if (!t->in_class) QS_TRY(put(t, "]"));
out:
    return err;
}

/* A general category; not C and Cn, for unassigned code points are what the two engines disagree about. */
static bool is_category(const char *name)
{
    if (strcmp(name, "C") == 0 || strcmp(name, "Cn") == 0) return false;
    size_t letters = strlen(name);
    return letters >= 1 && letters <= 2 && strchr("LNMPSZC", name[0]) != NULL &&
           (letters == 1 || strchr("ultmondcespfk", name[1]) != NULL);
}

/* \p{Name}, \P{Name}, \p{^Name}; t->at is at the backslash. */
static qs_err property(translation *t)
{
    bool negated = peek(t, 1) == 'P';
    size_t from = 3;
    if (peek(t, 2) != '{') return refuse(t, "a property without braces");
    if (peek(t, 3) == '^') {
        negated = !negated;
        from++;
    }
    char name[32] = {0}, members[48];
    size_t length = 0;
    for (;; length++) {
        char c = peek(t, from + length);
        if (c == '}') break;
        bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
        if (!letter || length + 1 >= sizeof name) return refuse(t, "this property");
        name[length] = c;
    }
    if (!is_category(name)) return refuse(t, "a property other than a general category");
    (void)snprintf(members, sizeof members, "\\p{%s}", name);
    qs_err err = put_class(t, negated, members, name);
    t->at += from + length + 1;
    return err;
}

/* \uHHHH, \xHH (ASCII only: beyond it Oniguruma means a byte) and \x{H...}. */
static qs_err code_point(translation *t)
{
    bool braces = peek(t, 1) == 'x' && peek(t, 2) == '{';
    size_t from = braces ? 3 : 2, digits_max = peek(t, 1) == 'u' ? 4 : braces ? 6 : 2, digits = 0;
    uint32_t code = 0;
    for (; digits < digits_max; digits++) {
        char c = peek(t, from + digits);
        int value = c >= '0' && c <= '9' ? c - '0' :
                    c >= 'a' && c <= 'f' ? c - 'a' + 10 :
                    c >= 'A' && c <= 'F' ? c - 'A' + 10 :
                                           -1;
        if (value < 0) break;
        code = code * 16 + (uint32_t)value;
    }
    if (digits == 0 || (!braces && digits != digits_max) || (braces && peek(t, from + digits) != '}') ||
        code > 0x10FFFF || (peek(t, 1) == 'x' && !braces && code >= 0x80))
        return refuse(t, "this character escape");
    char text[16];
    (void)snprintf(text, sizeof text, "\\x{%x}", code);
    t->at += from + digits + (braces ? 1 : 0);
    return put(t, text);
}

static qs_err escape(translation *t)
{
    char c = peek(t, 1);
    qs_err err;
    switch (c) {
    case 's':
    case 'S': err = put_class(t, c == 'S', space_ranges, NULL); break;
    case 'd':
    case 'D': err = put_class(t, c == 'D', "\\p{Nd}", "Nd"); break;
    case 'p':
    case 'P': return property(t);
    case 'u':
    case 'x': return code_point(t);
    case 'r':
    case 'n':
    case 't':
    case 'f': return copy(t, 2);
    default:
        /* An escaped ASCII punctuation character or space stands for itself in both engines. */
        if (c < ' ' || c > '~' || (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z'))
            return refuse(t, "this escape");
        return copy(t, 2);
    }
    t->at += 2;
    return err;
}

static qs_err in_class(translation *t)
{
    char c = peek(t, 0);
    if (c == '\\') return escape(t);
    if (c == '[') return refuse(t, "a class inside a class");
    if (c == '&' && peek(t, 1) == '&') return refuse(t, "a class intersection");
    if (c == ']') t->in_class = false;
    return copy(t, 1);
}

static qs_err group(translation *t)
{
    static const char *const heads[] = {"(?:", "(?=", "(?!", "(?<=", "(?<!", "(?>", "(?i:", "(?i)"};
    if (peek(t, 1) != '?' && peek(t, 1) != '*') return copy(t, 1);
    for (size_t h = 0; h < sizeof heads / sizeof *heads; h++) {
        size_t length = strlen(heads[h]);
        if (t->bytes - t->at >= length && memcmp(t->source + t->at, heads[h], length) == 0)
            return copy(t, length);
    }
    return refuse(t, "this group");
}

/* {n}, {n,} and {n,m}; Oniguruma reads {,m} and a following + or ? in a way of its own. */
static qs_err repeat(translation *t)
{
    size_t length = 1;
    while ((peek(t, length) >= '0' && peek(t, length) <= '9') || (length > 1 && peek(t, length) == ','))
        length++;
    if (length == 1 || peek(t, length) != '}' || peek(t, length + 1) == '+' || peek(t, length + 1) == '?')
        return refuse(t, "this repetition");
    return copy(t, length + 1);
}

static qs_err outside_class(translation *t)
{
    switch (peek(t, 0)) {
    case '\\': return escape(t);
    case '[':
        t->in_class = true;
        if (peek(t, 1) == ']' || (peek(t, 1) == '^' && peek(t, 2) == ']')) return refuse(t, "an empty class");
        return copy(t, peek(t, 1) == '^' ? 2 : 1);
    case '(': return group(t);
    case '{': return repeat(t);
    case '^':
    case '$': return refuse(t, "an anchor");
    default: return copy(t, 1);
    }
}

qs_err qs_pattern_translate(qs_textbuf *out, const char *source, size_t bytes, const char *name)
{
    translation t = {.out = out, .source = source, .name = name, .bytes = bytes};
    if (bytes > QS_PATTERN_BYTES_MAX)
        return qs_fail(QS_E_UNSUPPORTED, "translate pattern of %s: it has %zu bytes, the limit is %d", name,
                       bytes, QS_PATTERN_BYTES_MAX);
    if (memchr(source, '\0', bytes) != NULL || qs_utf8_valid_prefix(source, bytes) != bytes)
        return qs_fail(QS_E_UNSUPPORTED, "translate pattern of %s: it holds a NUL or invalid UTF-8", name);
    while (t.at < bytes) {
        qs_err err = t.in_class ? in_class(&t) : outside_class(&t);
        if (err != QS_OK) return err;
    }
    return QS_OK;
}
