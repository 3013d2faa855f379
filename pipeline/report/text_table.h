/* Text for people: aligned tables that fit a terminal, Markdown tables, wrapped paragraphs. */
#ifndef QS_REPORT_TEXT_TABLE_H
#define QS_REPORT_TEXT_TABLE_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "base/error.h"

enum { QS_TEXT_COLUMNS = 110, QS_TEXT_CELL_BYTES = 128 };

typedef struct qs_text_column {
    const char *title;
    bool right; /* numbers */
    int drop;   /* a table that is too wide loses its columns of the largest number first; 0 = never */
} qs_text_column;

typedef struct qs_text_cell {
    char text[QS_TEXT_CELL_BYTES];
    const char *paint; /* an escape sequence before the text, or NULL */
} qs_text_cell;

typedef struct qs_text_table {
    const qs_text_column *columns; /* [n_columns] */
    int n_columns;
    int64_t n_rows;
    qs_text_cell *cells; /* [n_rows, n_columns] */
} qs_text_table;

QS_MUST_CHECK qs_err qs_text_table_init(qs_text_table *out, const qs_text_column *columns, int n_columns,
                                        int64_t n_rows);
void qs_text_table_fini(qs_text_table *table);
qs_text_cell *qs_text_table_cell(qs_text_table *table, int64_t row, int column);

/* At most QS_TEXT_COLUMNS wide: columns are left out by `drop`, then the first column is cut. */
void qs_text_table_print(const qs_text_table *table, FILE *stream);
void qs_text_table_print_markdown(const qs_text_table *table, FILE *stream);

/* A text that grows; what does not fit is cut. */
enum { QS_SENTENCE_BYTES = 4096 };
typedef struct qs_sentence {
    size_t used;
    char text[QS_SENTENCE_BYTES];
} qs_sentence;
void qs_sentence_add(qs_sentence *sentence, const char *fmt, ...) QS_PRINTF(2, 3);

/* A paragraph of words, QS_TEXT_COLUMNS wide; later lines begin with two blanks. */
void qs_text_wrap(FILE *stream, const char *text);

#endif
