#include "base/error.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static _Thread_local char error_text[QS_ERROR_TEXT_BYTES];

qs_err qs_fail(qs_err code, const char *fmt, ...)
{
    /* An argument may point into error_text itself, so format beside it first. */
    char text[QS_ERROR_TEXT_BYTES];
    va_list args;
    va_start(args, fmt);
    (void)vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    memcpy(error_text, text, sizeof text);
    return code;
}

qs_err qs_context(qs_err code, const char *fmt, ...)
{
    if (code == QS_OK) return code;
    char prefix[QS_ERROR_TEXT_BYTES], text[2 * QS_ERROR_TEXT_BYTES + 4];
    va_list args;
    va_start(args, fmt);
    (void)vsnprintf(prefix, sizeof prefix, fmt, args);
    va_end(args);
    (void)snprintf(text, sizeof text, "%s: %s", prefix, error_text);
    text[QS_ERROR_TEXT_BYTES - 1] = '\0';
    memcpy(error_text, text, QS_ERROR_TEXT_BYTES);
    return code;
}

const char *qs_error_text(void)
{
    return error_text[0] != '\0' ? error_text : "no error was recorded";
}

const char *qs_err_name(qs_err code)
{
    switch (code) {
    case QS_OK: return "ok";
    case QS_E_USAGE: return "usage";
    case QS_E_GATE: return "gate";
    case QS_E_INPUT: return "input";
    case QS_E_UNSUPPORTED: return "unsupported";
    case QS_E_RESOURCE: return "resource";
    case QS_E_DEVICE: return "device";
    case QS_E_NUMERIC: return "numeric";
    }
    return "unknown";
}

void qs_error_save(qs_error_saved *saved) { memcpy(saved->text, error_text, sizeof error_text); }

void qs_error_restore(const qs_error_saved *saved) { memcpy(error_text, saved->text, sizeof error_text); }
