/* Small figures as inline SVG: axes with ticks, points, lines, intervals. Colours come from the page's style by
 * class, so that figures follow light and dark. Coordinates are in units of the data; NaN draws nothing. */
#ifndef QS_REPORT_SVG_H
#define QS_REPORT_SVG_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

typedef struct qs_axis {
    const char *title;
    double lo, hi; /* lo < hi after qs_axis_close */
    bool log;      /* values at or below 0 are not drawn */
} qs_axis;

/* An axis that holds nothing yet; qs_axis_hold widens it to a value, qs_axis_close rounds its ends outwards and
 * reports whether anything was held. */
qs_axis qs_axis_open(const char *title, bool log);
void qs_axis_hold(qs_axis *axis, double value);
bool qs_axis_close(qs_axis *axis);

typedef struct qs_figure {
    FILE *stream;
    qs_axis x, y;
} qs_figure;

enum { QS_FIGURE_WIDTH = 560, QS_FIGURE_HEIGHT = 320 };

/* Writes frame, ticks and titles; `label` tells the figure to readers who do not see it. */
void qs_figure_begin(qs_figure *figure, FILE *stream, const char *label, qs_axis x, qs_axis y);
void qs_figure_end(qs_figure *figure);

/* `kind` is a class of the page's style ("m3"); `title` appears under the pointer. */
void qs_figure_point(qs_figure *figure, double x, double y, const char *kind, bool marked, const char *title);
/* x[i] = first + i * step. Breaks where a value is NaN. */
void qs_figure_line(qs_figure *figure, double first, double step, const double *y, int64_t n, const char *kind,
                    const char *title);

#endif
