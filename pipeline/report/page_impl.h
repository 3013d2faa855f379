/* Parts of report.html, between its files. */
#ifndef QS_REPORT_PAGE_IMPL_H
#define QS_REPORT_PAGE_IMPL_H

#include "report/controls.h"
#include "report/page.h"
#include "report/svg.h"

typedef struct qs_page {
    FILE *stream;
    const qs_sweep *sweep;
    const qs_selection *selection;
    const qs_control *controls; /* [QS_N_CONTROLS] */
} qs_page;

extern const char qs_page_style[], qs_page_script[];

/* "<h2 id=...>", and a line in small print that names the table. */
void qs_page_heading(const qs_page *page, const char *id, const char *title, const char *text, const char *table);

/* Classes m0 .. m7 of a method's points and lines, by its place in the list of methods. */
const char *qs_page_kind(const char *method);

/* A table's cell with a value on a scale from lo to hi: a line from lo to hi of the bar (none when hi < lo), a
 * box around its middle (none when empty), a dot, an upright bar at the limit (NaN = none). */
typedef struct qs_bar {
    double value, lo, hi, box_lo, box_hi, limit;
} qs_bar;
void qs_page_bar(const qs_page *page, const qs_bar *bar, double lo, double hi);

/* Curves of configurations in one figure; y is freed with qs_page_lines_free. */
enum { QS_PAGE_LINES = 16 }; /* more cannot be told apart */
typedef struct qs_page_line {
    const qs_config_row *row;
    double *y; /* [n] */
    int64_t n;
} qs_page_line;
void qs_page_lines(const qs_page *page, const qs_page_line *lines, int64_t n_lines, const char *label, qs_axis across,
                   qs_axis up);
/* Closes the <div> that figures of lines stand in, and says how to read them. */
void qs_page_lines_end(const qs_page *page);
void qs_page_lines_free(qs_page_line *lines, int64_t n);

void qs_page_points(const qs_page *page);     /* the table of all configurations */
void qs_page_gates(const qs_page *page);      /* each gate as value and interval against its budget */
void qs_page_figures(const qs_page *page);    /* Pareto plots, bits x group */
void qs_page_curves(const qs_page *page);     /* times, entropy, losses of layers */
void qs_page_lambda(const qs_page *page);     /* states run by run, the probe over k and headers */
void qs_page_gaps(const qs_page *page);       /* anchor gaps */
void qs_page_entropy(const qs_page *page);
void qs_page_diagnosis(const qs_page *page);
void qs_page_fixes(const qs_page *page);
void qs_page_provenance(const qs_page *page); /* controls, environment, how to read the numbers */

#endif
