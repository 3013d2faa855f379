#include "base/clock.h"

#include <time.h>

int64_t qs_clock_ns(void)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

double qs_clock_seconds(void) { return (double)qs_clock_ns() * 1e-9; }

char *qs_clock_utc(char text[QS_CLOCK_TEXT_BYTES])
{
    time_t now = time(NULL);
    struct tm utc;
    (void)gmtime_r(&now, &utc);
    (void)strftime(text, QS_CLOCK_TEXT_BYTES, "%Y-%m-%dT%H:%M:%SZ", &utc);
    return text;
}
