/* Clocks: monotonic for measuring, wall for provenance. */
#ifndef QS_BASE_CLOCK_H
#define QS_BASE_CLOCK_H

#include <stdint.h>

int64_t qs_clock_ns(void);     /* monotonic, nanoseconds */
double qs_clock_seconds(void); /* monotonic, seconds */

/* ISO 8601 UTC, "2026-01-31T12:00:00Z", into the caller's buffer; returns it. */
enum { QS_CLOCK_TEXT_BYTES = 32 };
char *qs_clock_utc(char text[QS_CLOCK_TEXT_BYTES]);

#endif
