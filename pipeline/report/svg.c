#include "report/svg.h"

#include <math.h>

#include "report/html.h"

enum { LEFT = 62, RIGHT = 14, TOP = 12, BOTTOM = 44, MAX_TICKS = 6, MAX_POINTS = 256 };
static const double x_pixels = QS_FIGURE_WIDTH - LEFT - RIGHT, y_pixels = QS_FIGURE_HEIGHT - TOP - BOTTOM;

/* ---- axes ---- */

qs_axis qs_axis_open(const char *title, bool log) { return (qs_axis){title, INFINITY, -INFINITY, log}; }

void qs_axis_hold(qs_axis *axis, double value)
{
    if (!isfinite(value) || (axis->log && value <= 0)) return;
    if (value < axis->lo) axis->lo = value;
    if (value > axis->hi) axis->hi = value;
}

/* A round number near a step: 1, 2 or 5 times a power of ten. */
static double round_step(double step)
{
    double power = pow(10, floor(log10(step))), rest = step / power;
    return (rest <= 1 ? 1 : rest <= 2 ? 2 : rest <= 5 ? 5 : 10) * power;
}

static double step_of(const qs_axis *axis) { return round_step((axis->hi - axis->lo) / MAX_TICKS); }

bool qs_axis_close(qs_axis *axis)
{
    if (!(axis->lo <= axis->hi)) return false;
    if (axis->log) {
        axis->lo = axis->lo / 1.25;
        axis->hi = axis->hi * 1.25;
        return true;
    }
    if (axis->lo == axis->hi) {
        double around = axis->lo != 0 ? fabs(axis->lo) * 0.1 : 1;
        axis->lo -= around;
        axis->hi += around;
    }
    double step = step_of(axis);
    axis->lo = floor(axis->lo / step + 1e-9) * step;
    axis->hi = ceil(axis->hi / step - 1e-9) * step;
    return true;
}

/* 0 .. 1 along the axis; NaN where it cannot be drawn. */
static double share(const qs_axis *axis, double value)
{
    if (!isfinite(value) || (axis->log && value <= 0)) return NAN;
    double at =
        axis->log ? log(value / axis->lo) / log(axis->hi / axis->lo) : (value - axis->lo) / (axis->hi - axis->lo);
    return at < 0 || at > 1 ? NAN : at;
}

static double x_of(const qs_figure *figure, double value) { return LEFT + x_pixels * share(&figure->x, value); }
static double y_of(const qs_figure *figure, double value)
{
    return QS_FIGURE_HEIGHT - BOTTOM - y_pixels * share(&figure->y, value);
}

static void put_tick(const qs_figure *figure, bool is_x, double value)
{
    double at = is_x ? x_of(figure, value) : y_of(figure, value);
    if (isnan(at)) return;
    if (fabs(value) < 1e-12) value = 0;
    if (is_x)
        (void)fprintf(figure->stream,
                      "<path class=\"grid\" d=\"M%.1f %dV%d\"/><text x=\"%.1f\" y=\"%d\" class=\"mid\">%.6g</text>\n",
                      at, TOP, QS_FIGURE_HEIGHT - BOTTOM, at, QS_FIGURE_HEIGHT - BOTTOM + 16, value);
    else
        (void)fprintf(figure->stream,
                      "<path class=\"grid\" d=\"M%d %.1fH%d\"/><text x=\"%d\" y=\"%.1f\" class=\"end\">%.6g</text>\n",
                      LEFT, at, QS_FIGURE_WIDTH - RIGHT, LEFT - 6, at + 4, value);
}

static void put_ticks(const qs_figure *figure, bool is_x)
{
    const qs_axis *axis = is_x ? &figure->x : &figure->y;
    if (!axis->log) {
        double step = step_of(axis);
        for (int i = 0; axis->lo + i * step <= axis->hi + step * 1e-6; i++) put_tick(figure, is_x, axis->lo + i * step);
        return;
    }
    double decades = log10(axis->hi / axis->lo);
    static const double few[] = {1, 2, 5, 0}, one[] = {1, 0};
    for (double power = pow(10, floor(log10(axis->lo))); power <= axis->hi; power *= 10)
        for (const double *times = decades < 2.5 ? few : one; *times != 0; times++)
            put_tick(figure, is_x, power * *times);
}

/* ---- figures ---- */

void qs_figure_begin(qs_figure *figure, FILE *stream, const char *label, qs_axis x, qs_axis y)
{
    *figure = (qs_figure){stream, x, y};
    (void)fprintf(stream, "<svg viewBox=\"0 0 %d %d\" role=\"img\" aria-label=\"", QS_FIGURE_WIDTH, QS_FIGURE_HEIGHT);
    qs_html_text(stream, label);
    (void)fprintf(stream, "\">\n");
    put_ticks(figure, true);
    put_ticks(figure, false);
    (void)fprintf(stream, "<path class=\"frame\" d=\"M%d %dV%dH%d\"/>\n<text x=\"%.1f\" y=\"%d\" class=\"mid title\">",
                  LEFT, TOP, QS_FIGURE_HEIGHT - BOTTOM, QS_FIGURE_WIDTH - RIGHT, LEFT + x_pixels / 2,
                  QS_FIGURE_HEIGHT - 8);
    qs_html_text(stream, x.title);
    (void)fprintf(stream, "</text>\n<text transform=\"translate(14 %.1f) rotate(-90)\" class=\"mid title\">",
                  TOP + y_pixels / 2);
    qs_html_text(stream, y.title);
    (void)fprintf(stream, "</text>\n");
}

void qs_figure_end(qs_figure *figure) { (void)fprintf(figure->stream, "</svg>\n"); }

void qs_figure_point(qs_figure *figure, double x, double y, const char *kind, bool marked, const char *title)
{
    double px = x_of(figure, x), py = y_of(figure, y);
    if (isnan(px) || isnan(py)) return;
    (void)fprintf(figure->stream, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"%s\" class=\"%s%s\"><title>", px, py,
                  marked ? "6" : "4.5", kind, marked ? " front" : "");
    qs_html_text(figure->stream, title);
    (void)fprintf(figure->stream, "</title></circle>\n");
}

void qs_figure_line(qs_figure *figure, double first, double step, const double *y, int64_t n, const char *kind,
                    const char *title)
{
    int64_t every = (n + MAX_POINTS - 1) / MAX_POINTS;
    bool open = false;
    (void)fprintf(figure->stream, "<path class=\"%s\" d=\"", kind);
    for (int64_t i = 0; i < n; i += every > 0 ? every : 1) {
        double px = x_of(figure, first + (double)i * step), py = y_of(figure, y[i]);
        if (!isnan(px) && !isnan(py)) (void)fprintf(figure->stream, "%c%.1f %.1f", open ? 'L' : 'M', px, py);
        open = !isnan(px) && !isnan(py);
    }
    (void)fprintf(figure->stream, "\"><title>");
    qs_html_text(figure->stream, title);
    (void)fprintf(figure->stream, "</title></path>\n");
}
