#include "data/csv.h"

#include <csv.h>
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"

enum { CSV_LIMIT_BYTES = 256 << 20 };

/* libcsv's callbacks return nothing, so the first failure is kept here and ends the parse. */
typedef struct parse_state {
    qs_csv *csv;
    qs_err err;
    int64_t line, row_line; /* being fed; where the current row began */
    bool in_row;            /* a row has begun and not ended: inside quotes that span lines */
    char **fields;          /* of the current row */
    int64_t n_fields, n_fields_cap, n_rows_cap;
} parse_state;

/* Doubles an array from malloc when it is full; libcsv and these rows are the only users of realloc here. */
static bool grow(void *pointer, int64_t n, int64_t *cap, size_t elem_bytes)
{
    if (n < *cap) return true;
    int64_t wanted = *cap > 0 ? 2 * *cap : 16;
    void *grown = realloc(*(void **)pointer, (size_t)wanted * elem_bytes);
    if (grown == NULL) return false;
    *(void **)pointer = grown;
    *cap = wanted;
    return true;
}

static void free_fields(char **fields, int64_t n)
{
    for (int64_t i = 0; fields != NULL && i < n; i++) free(fields[i]);
    free(fields);
}

static void on_field(void *data, size_t bytes, void *context)
{
    parse_state *state = context;
    if (state->err != QS_OK) return;
    char *copy = malloc(bytes + 1);
    if (copy == NULL || !grow(&state->fields, state->n_fields, &state->n_fields_cap, sizeof *state->fields)) {
        free(copy);
        state->err = qs_fail(QS_E_RESOURCE, "read %s: out of memory", state->csv->name);
        return;
    }
    memcpy(copy, data, bytes);
    copy[bytes] = '\0';
    state->fields[state->n_fields++] = copy;
}

static qs_err take_header(parse_state *state)
{
    qs_csv *csv = state->csv;
    csv->header = state->fields;
    csv->n_columns = state->n_fields;
    for (int64_t i = 0; i < csv->n_columns; i++) {
        if (csv->header[i][0] == '\0')
            return qs_fail(QS_E_INPUT, "%s:%" PRId64 ": column %" PRId64 " has no name", csv->name,
                           state->row_line, i + 1);
        for (int64_t j = 0; j < i; j++)
            if (strcmp(csv->header[i], csv->header[j]) == 0)
                return qs_fail(QS_E_INPUT, "%s:%" PRId64 ": column \"%s\" stands twice in the header",
                               csv->name, state->row_line, csv->header[i]);
    }
    return QS_OK;
}

static void on_row(int terminator, void *context)
{
    (void)terminator;
    parse_state *state = context;
    if (state->err != QS_OK) return;
    qs_csv *csv = state->csv;
    if (csv->header == NULL) {
        state->err = take_header(state);
    } else if (state->n_fields != csv->n_columns) {
        state->err = qs_fail(QS_E_INPUT, "%s:%" PRId64 ": %" PRId64 " fields where the header has %" PRId64,
                             csv->name, state->row_line, state->n_fields, csv->n_columns);
        return; /* the fields stay in the state, which frees them */
    } else if (!grow(&csv->rows, csv->n_rows, &state->n_rows_cap, sizeof *csv->rows)) {
        state->err = qs_fail(QS_E_RESOURCE, "read %s: out of memory", csv->name);
        return;
    } else {
        csv->rows[csv->n_rows++] = (qs_csv_row){.line = state->row_line, .fields = state->fields};
    }
    state->fields = NULL;
    state->n_fields = state->n_fields_cap = 0;
    state->in_row = false;
}

static bool is_blank(const char *text, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        if (strchr(" \t\r\n", text[i]) == NULL) return false;
    return true;
}

/* One physical line at a time, because libcsv tells neither line nor column of what it refuses. */
static qs_err feed_lines(parse_state *state, struct csv_parser *parser, const char *text, size_t bytes)
{
    const char *name = state->csv->name;
    for (size_t at = 0; at < bytes;) {
        const char *newline = memchr(text + at, '\n', bytes - at);
        size_t length = newline != NULL ? (size_t)(newline - text) - at + 1 : bytes - at;
        state->line++;
        if (!state->in_row && !is_blank(text + at, length)) {
            state->row_line = state->line;
            state->in_row = true;
        }
        if (memchr(text + at, '\0', length) != NULL)
            return qs_fail(QS_E_INPUT, "%s:%" PRId64 ": a NUL byte; this is not a text file", name,
                           state->line);
        if (csv_parse(parser, text + at, length, on_field, on_row, state) != length && state->err == QS_OK) {
            int code = csv_error(parser);
            return qs_fail(code == CSV_EPARSE ? QS_E_INPUT : QS_E_RESOURCE, "%s:%" PRId64 ": %s", name, state->line,
                           code == CSV_EPARSE ? "a stray quote; quote the whole field and double quotes inside it"
                                              : csv_strerror(code));
        }
        if (state->err != QS_OK) return state->err;
        at += length;
    }
    if (csv_fini(parser, on_field, on_row, state) != 0 && state->err == QS_OK)
        return qs_fail(QS_E_INPUT, "%s:%" PRId64 ": a quote is opened in this row and never closed", name,
                       state->row_line);
    return state->err;
}

qs_err qs_csv_parse(qs_csv *out, const char *text, size_t bytes, const char *name)
{
    *out = (qs_csv){0};
    parse_state state = {.csv = out, .row_line = 1};
    struct csv_parser parser;
    if (csv_init(&parser, CSV_STRICT | CSV_STRICT_FINI) != 0)
        return qs_fail(QS_E_RESOURCE, "read %s: cannot start the CSV parser", name);
    qs_err err = QS_OK;
    out->name = strdup(name);
    if (out->name == NULL) {
        err = qs_fail(QS_E_RESOURCE, "read %s: out of memory", name);
        goto out;
    }
    if (bytes >= 3 && memcmp(text, "\xEF\xBB\xBF", 3) == 0) {
        text += 3;
        bytes -= 3;
    }
    QS_TRY(feed_lines(&state, &parser, text, bytes));
    if (out->header == NULL) err = qs_fail(QS_E_INPUT, "%s: empty; a header row is needed", name);
out:
    csv_free(&parser);
    if (err != QS_OK) {
        free_fields(state.fields, state.n_fields);
        qs_csv_free(out);
    }
    return err;
}

qs_err qs_csv_load(qs_csv *out, const char *path)
{
    char *text;
    size_t bytes;
    *out = (qs_csv){0};
    qs_err err = qs_file_read(&text, &bytes, path, CSV_LIMIT_BYTES);
    if (err != QS_OK) return err;
    err = qs_csv_parse(out, text, bytes, path);
    qs_mem_free(text);
    return err;
}

void qs_csv_free(qs_csv *csv)
{
    for (int64_t i = 0; i < csv->n_rows; i++) free_fields(csv->rows[i].fields, csv->n_columns);
    free_fields(csv->header, csv->n_columns);
    free(csv->rows);
    free(csv->name);
    *csv = (qs_csv){0};
}

int64_t qs_csv_find(const qs_csv *csv, const char *name)
{
    for (int64_t i = 0; i < csv->n_columns; i++)
        if (strcmp(csv->header[i], name) == 0) return i;
    return -1;
}

qs_err qs_csv_columns(const qs_csv *csv, const char *const *names, int64_t n_names, int64_t *index)
{
    for (int64_t i = 0; i < n_names; i++) {
        index[i] = qs_csv_find(csv, names[i]);
        if (index[i] < 0) return qs_fail(QS_E_INPUT, "%s: the column \"%s\" is missing", csv->name, names[i]);
    }
    for (int64_t column = 0; column < csv->n_columns; column++) {
        bool known = false;
        for (int64_t i = 0; i < n_names && !known; i++) known = index[i] == column;
        if (!known) return qs_fail(QS_E_INPUT, "%s: unknown column \"%s\"", csv->name, csv->header[column]);
    }
    return QS_OK;
}

static qs_err not_a_number(const qs_csv *csv, int64_t row, int64_t column, const char *kind)
{
    return qs_fail(QS_E_INPUT, "%s:%" PRId64 ": column \"%s\": \"%s\" is not %s", csv->name,
                   csv->rows[row].line, csv->header[column], csv->rows[row].fields[column], kind);
}

qs_err qs_csv_get_real(const qs_csv *csv, int64_t row, int64_t column, double *value)
{
    const char *text = csv->rows[row].fields[column];
    char *end;
    *value = strtod(text, &end);
    if (end == text || *end != '\0' || !isfinite(*value))
        return not_a_number(csv, row, column, "a finite number");
    return QS_OK;
}

qs_err qs_csv_get_int(const qs_csv *csv, int64_t row, int64_t column, int64_t *value)
{
    const char *text = csv->rows[row].fields[column];
    char *end;
    errno = 0;
    long long integer = strtoll(text, &end, 10);
    if (end == text || *end != '\0' || errno != 0) return not_a_number(csv, row, column, "a whole number");
    *value = integer;
    return QS_OK;
}

static void separate(qs_csv_writer *writer)
{
    if (writer->column++ > 0) (void)fputc(',', writer->stream);
}

void qs_csv_put_text(qs_csv_writer *writer, const char *text)
{
    separate(writer);
    if (text == NULL || text[0] == '\0') return;
    size_t length = strlen(text);
    bool blank_end = strchr(" \t", text[0]) != NULL || strchr(" \t", text[length - 1]) != NULL;
    if (!blank_end && strpbrk(text, ",\"\r\n") == NULL)
        (void)fputs(text, writer->stream);
    else
        (void)csv_fwrite(writer->stream, text, length);
}

void qs_csv_put_int(qs_csv_writer *writer, int64_t value)
{
    separate(writer);
    (void)fprintf(writer->stream, "%" PRId64, value);
}

void qs_csv_put_real(qs_csv_writer *writer, double value)
{
    separate(writer);
    if (!isnan(value)) (void)fprintf(writer->stream, "%.6g", value);
}

qs_err qs_csv_end_row(qs_csv_writer *writer)
{
    int64_t n = writer->column;
    writer->column = 0;
    (void)fputc('\n', writer->stream);
    if (n != writer->n_columns)
        return qs_fail(QS_E_INPUT, "write CSV: %" PRId64 " fields in a row of %" PRId64 " columns", n,
                       writer->n_columns);
    return QS_OK;
}

void qs_csv_begin(qs_csv_writer *writer, FILE *stream, const char *const *header, int64_t n_columns)
{
    *writer = (qs_csv_writer){.stream = stream, .n_columns = n_columns};
    for (int64_t i = 0; i < n_columns; i++) qs_csv_put_text(writer, header[i]);
    writer->column = 0;
    (void)fputc('\n', stream);
}
