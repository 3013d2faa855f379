/* The tables of a sweep (docs/columns.md). Numbers have 6 significant digits, counts and bytes are exact, a
 * cell is empty when nothing was measured, and each file appears whole or not at all. */
#ifndef QS_REPORT_TABLES_H
#define QS_REPORT_TABLES_H

#include "data/csv.h"
#include "report/selection.h"
#include "report/table_columns.h"

typedef struct qs_table {
    const char *file; /* "summary.csv" */
    const char *text; /* what a row is */
    qs_err (*write)(FILE *stream, const qs_sweep *sweep, const qs_selection *selection);
    const qs_column *columns; /* what they mean; of summary.csv those that are no metrics; NULL of what is no CSV */
} qs_table;

extern const qs_table qs_tables[]; /* ends with file == NULL */

/* Writes all of them into `dir`, which is made when missing; none is replaced before all are written. */
QS_MUST_CHECK qs_err qs_tables_write(const qs_sweep *sweep, const qs_selection *selection, const char *dir);

/* The tables and their columns, for docs/columns.md. */
void qs_tables_print_markdown(FILE *stream);

/* A cell of text. A spreadsheet takes what begins like a formula for one; an apostrophe in front marks it as text. */
void qs_table_put_text(qs_csv_writer *writer, const char *text);

/* Gates of one verdict, separated by ";", each once. Cut with "..." when it does not fit. */
void qs_table_gates(char *text, size_t bytes, const qs_judgement *judgement, qs_verdict verdict);

#endif
