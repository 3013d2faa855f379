/* CSV: strict reading through libcsv with "file:line" in every error, and writing that quotes only where it
 * must.
 *
 * Reading (RFC 4180): a header row, then rows with exactly as many fields. Quotes must be balanced, a UTF-8
 * byte order mark is skipped, blank lines are skipped, blanks around unquoted fields are dropped. */
#ifndef QS_DATA_CSV_H
#define QS_DATA_CSV_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "base/error.h"

typedef struct qs_csv_row {
    int64_t line;  /* where the row starts, from 1 */
    char **fields; /* [n_columns], NUL-terminated */
} qs_csv_row;

typedef struct qs_csv {
    char *name;   /* the path, for messages */
    int64_t n_columns, n_rows;
    char **header; /* [n_columns] */
    qs_csv_row *rows;
} qs_csv;

/* Errors: QS_E_INPUT with file, line and cause: unreadable, no header, a header name twice or empty, a stray
 * or unclosed quote, a row with more or fewer fields, a NUL byte. */
QS_MUST_CHECK qs_err qs_csv_load(qs_csv *out, const char *path);
/* The same from memory; `name` is what messages call it. */
QS_MUST_CHECK qs_err qs_csv_parse(qs_csv *out, const char *text, size_t bytes, const char *name);
void qs_csv_free(qs_csv *csv);

/* index[i] = the column called names[i]. QS_E_INPUT when one is missing, or when the file has a column that
 * is not among them (a typing error must not pass silently). */
QS_MUST_CHECK qs_err qs_csv_columns(const qs_csv *csv, const char *const *names, int64_t n_names,
                                    int64_t *index);

/* The column called `name`, or -1. */
int64_t qs_csv_find(const qs_csv *csv, const char *name);

/* A cell as a number; QS_E_INPUT names file, line, column and text. Finite values only. */
QS_MUST_CHECK qs_err qs_csv_get_real(const qs_csv *csv, int64_t row, int64_t column, double *value);
QS_MUST_CHECK qs_err qs_csv_get_int(const qs_csv *csv, int64_t row, int64_t column, int64_t *value);

/* Writing row by row to a stream; the stream's own error flag tells about failed writes (qs_file_writer
 * checks it at publish). */
typedef struct qs_csv_writer {
    FILE *stream;
    int64_t n_columns, column;
} qs_csv_writer;

/* Writes the header. */
void qs_csv_begin(qs_csv_writer *writer, FILE *stream, const char *const *header, int64_t n_columns);
void qs_csv_put_text(qs_csv_writer *writer, const char *text); /* NULL = empty */
void qs_csv_put_int(qs_csv_writer *writer, int64_t value);
/* 6 significant digits; NaN = empty: not measured. */
void qs_csv_put_real(qs_csv_writer *writer, double value);
/* QS_E_INPUT when the number of fields put is not that of the header. */
QS_MUST_CHECK qs_err qs_csv_end_row(qs_csv_writer *writer);

#endif
