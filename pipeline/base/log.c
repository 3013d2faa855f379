#include "base/log.h"

#include <stdarg.h>
#include <stdio.h>

static qs_log_level threshold = QS_LOG_INFO;

void qs_log_set_level(qs_log_level level) { threshold = level; }

qs_log_level qs_log_get_level(void) { return threshold; }

static void write_line(qs_log_level level, const char *prefix, const char *fmt, va_list args)
{
    if (level > threshold) return;
    char line[2 * QS_ERROR_TEXT_BYTES];
    (void)vsnprintf(line, sizeof line, fmt, args);
    (void)fprintf(stderr, "%s%s\n", prefix, line);
}

void qs_log_info(const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    write_line(QS_LOG_INFO, "", fmt, args);
    va_end(args);
}

void qs_log_warn(const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    write_line(QS_LOG_WARN, "warning: ", fmt, args);
    va_end(args);
}

void qs_log_error(const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    write_line(QS_LOG_ERROR, "error: ", fmt, args);
    va_end(args);
}
