#include "report/html.h"

#include <math.h>
#include <stdarg.h>
#include <stdbool.h>
#include <string.h>

#include <utf8proc.h>

/* Marks that reorder what follows them (Unicode bidirectional algorithm), and characters that no document may hold. */
static bool is_unsafe(utf8proc_int32_t c)
{
    bool directs = c == 0x061C || (c >= 0x200E && c <= 0x200F) || (c >= 0x202A && c <= 0x202E) ||
                   (c >= 0x2066 && c <= 0x2069);
    bool control = (c < 0x20 && c != '\n' && c != '\t') || (c >= 0x7F && c < 0xA0);
    return directs || control || (c & 0xFFFE) == 0xFFFE || (c >= 0xFDD0 && c <= 0xFDEF);
}

static const char *reference_of(utf8proc_int32_t c)
{
    switch (c) {
    case '&': return "&amp;";
    case '<': return "&lt;";
    case '>': return "&gt;";
    case '"': return "&quot;";
    case '\'': return "&#39;";
    default: return NULL;
    }
}

void qs_html_text(FILE *stream, const char *text)
{
    const utf8proc_uint8_t *at = (const utf8proc_uint8_t *)text;
    while (*at != '\0') {
        utf8proc_int32_t c;
        utf8proc_ssize_t n = utf8proc_iterate(at, -1, &c);
        const char *reference = n > 0 ? reference_of(c) : NULL;
        if (n <= 0 || is_unsafe(c))
            (void)fputs("\xEF\xBF\xBD", stream);
        else if (reference != NULL)
            (void)fputs(reference, stream);
        else
            (void)fwrite(at, 1, (size_t)n, stream);
        at += n > 0 ? n : 1;
    }
}

void qs_html_format(FILE *stream, const char *fmt, ...)
{
    char text[4096];
    va_list arguments;
    va_start(arguments, fmt);
    (void)vsnprintf(text, sizeof text, fmt, arguments);
    va_end(arguments);
    qs_html_text(stream, text);
}

void qs_html_number(FILE *stream, double value, int digits)
{
    if (isnan(value))
        (void)fputs("\xE2\x80\x93", stream);
    else if (isinf(value))
        (void)fputs(value > 0 ? "\xE2\x88\x9E" : "-\xE2\x88\x9E", stream);
    else
        (void)fprintf(stream, "%.*g", digits, value);
}
