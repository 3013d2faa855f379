#include "base/progress.h"

#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/watchdog.h"

static const double quiet_seconds = 2.0, terminal_period = 0.2, log_period = 60.0;

void qs_progress_start(qs_progress *progress, const char *label, int64_t n_total)
{
    double now = qs_clock_seconds();
    *progress = (qs_progress){
        .label = label,
        .n_total = n_total,
        .started = now,
        .shown = now,
        .terminal = isatty(STDERR_FILENO) != 0,
    };
}

void qs_progress_note(qs_progress *progress, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    (void)vsnprintf(progress->note, sizeof progress->note, fmt, args);
    va_end(args);
}

void qs_progress_update(qs_progress *progress, int64_t n_done)
{
    qs_watchdog_beat("a step of work");
    if (qs_log_get_level() < QS_LOG_INFO || progress->n_total <= 0 || n_done <= 0) return;
    double now = qs_clock_seconds(), elapsed = now - progress->started;
    double period = progress->terminal ? terminal_period : log_period;
    if (elapsed < quiet_seconds || now - progress->shown < period) return;
    progress->shown = now;
    progress->visible = progress->terminal;
    double eta = elapsed / (double)n_done * (double)(progress->n_total - n_done);
    (void)fprintf(stderr, "%s%s %lld/%lld  %s%s%.0f s, %.0f s left%s", progress->terminal ? "\r\033[K" : "",
                  progress->label, (long long)n_done, (long long)progress->n_total, progress->note,
                  progress->note[0] != '\0' ? ", " : "", elapsed, eta, progress->terminal ? "" : "\n");
    (void)fflush(stderr);
}

void qs_progress_finish(qs_progress *progress)
{
    if (progress->visible) (void)fprintf(stderr, "\r\033[K");
    progress->visible = false;
}
