/* Text into HTML: whatever an artifact says, it stays text. */
#ifndef QS_REPORT_HTML_H
#define QS_REPORT_HTML_H

#include <stdio.h>

#include "base/error.h"

/* Text of an element or of a quoted attribute. The characters that HTML gives a meaning become references; bytes
 * that are not UTF-8, control characters and those that change the direction of what stands around them become
 * U+FFFD. */
void qs_html_text(FILE *stream, const char *text);

/* printf, then as qs_html_text. Cut at 4095 bytes. */
void qs_html_format(FILE *stream, const char *fmt, ...) QS_PRINTF(2, 3);

/* "1.234", "0.0123", "1.2e-05": `digits` significant digits; an en dash for NaN, ∞ for infinity. */
void qs_html_number(FILE *stream, double value, int digits);

#endif
