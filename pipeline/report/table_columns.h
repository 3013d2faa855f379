/* What the columns of the tables mean: their headers are written, and docs/columns.md is generated, from
 * these rows. */
#ifndef QS_REPORT_TABLE_COLUMNS_H
#define QS_REPORT_TABLE_COLUMNS_H

#include <stdbool.h>

#include "data/csv.h"

typedef struct qs_column {
    const char *name, *text;
    bool raced; /* it is there where a configuration raced (evaluate --race) */
} qs_column;

/* Each ends with name == NULL. */
extern const qs_column qs_metrics_columns[], qs_verdicts_columns[], qs_layers_columns[], qs_latency_columns[],
    qs_pareto_columns[], qs_diagnosis_columns[], qs_fixes_columns[], qs_items_columns[], qs_entropy_columns[];
/* The columns of summary.csv that are no metrics, in no order. */
extern const qs_column qs_summary_facts[];

/* qs_csv_begin with their names; raced: whether any configuration of the table did. */
void qs_columns_begin(qs_csv_writer *writer, FILE *stream, const qs_column *columns, bool raced);

/* A Markdown table of them. */
void qs_columns_print_markdown(FILE *stream, const qs_column *columns);

#endif
