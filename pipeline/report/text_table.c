#include "report/text_table.h"

#include <stdarg.h>
#include <string.h>

#include "base/mem.h"

enum { MAX_COLUMNS = 32, GAP = 2 };

qs_err qs_text_table_init(qs_text_table *out, const qs_text_column *columns, int n_columns, int64_t n_rows)
{
    *out = (qs_text_table){.columns = columns, .n_columns = n_columns, .n_rows = n_rows};
    if (n_columns > MAX_COLUMNS)
        return qs_fail(QS_E_USAGE, "print a table: %d columns are too many", n_columns);
    return QS_NEW(out->cells, n_rows * n_columns, "table cells");
}

void qs_text_table_fini(qs_text_table *table)
{
    qs_mem_free(table->cells);
    *table = (qs_text_table){0};
}

qs_text_cell *qs_text_table_cell(qs_text_table *table, int64_t row, int column)
{
    return &table->cells[row * table->n_columns + column];
}

static const qs_text_cell *cell_at(const qs_text_table *table, int64_t row, int column)
{
    return &table->cells[row * table->n_columns + column];
}

/* Widths in bytes: everything printed here is ASCII. 0 = left out. An empty column says nothing. */
static void measure(const qs_text_table *table, int width[MAX_COLUMNS])
{
    for (int column = 0; column < table->n_columns; column++) {
        int widest = 0;
        for (int64_t row = 0; row < table->n_rows; row++) {
            int length = (int)strlen(cell_at(table, row, column)->text);
            if (length > widest) widest = length;
        }
        int title = (int)strlen(table->columns[column].title);
        width[column] = widest == 0 ? 0 : widest > title ? widest : title;
    }
}

static int total(const int *width, int n)
{
    int sum = 0;
    for (int i = 0; i < n; i++)
        if (width[i] > 0) sum += width[i] + (sum > 0 ? GAP : 0);
    return sum;
}

static void fit(const qs_text_table *table, int width[MAX_COLUMNS])
{
    while (total(width, table->n_columns) > QS_TEXT_COLUMNS) {
        int victim = -1;
        for (int i = 0; i < table->n_columns; i++)
            if (width[i] > 0 && table->columns[i].drop > (victim < 0 ? 0 : table->columns[victim].drop))
                victim = i;
        if (victim < 0) break;
        width[victim] = 0;
    }
    int over = total(width, table->n_columns) - QS_TEXT_COLUMNS;
    if (over > 0 && width[0] > over) width[0] -= over;
}

static void print_cell(FILE *stream, const char *text, const char *paint, int width, bool right, bool last)
{
    int length = (int)strlen(text), shown = length > width ? width : length;
    int pad = right || !last ? width - shown : 0;
    if (right) (void)fprintf(stream, "%*s", pad, "");
    if (paint != NULL) (void)fputs(paint, stream);
    /* A name that is cut shows it by its last character. */
    if (shown < length)
        (void)fprintf(stream, "%.*s~", shown - 1, text);
    else
        (void)fputs(text, stream);
    if (paint != NULL) (void)fputs("\033[0m", stream);
    if (!right) (void)fprintf(stream, "%*s", pad, "");
    if (!last) (void)fprintf(stream, "%*s", GAP, "");
}

void qs_text_table_print(const qs_text_table *table, FILE *stream)
{
    int width[MAX_COLUMNS], last = 0;
    measure(table, width);
    fit(table, width);
    for (int column = 0; column < table->n_columns; column++)
        if (width[column] > 0) last = column;
    for (int64_t row = -1; row < table->n_rows; row++) {
        for (int column = 0; column < table->n_columns; column++) {
            if (width[column] == 0) continue;
            const qs_text_cell *cell = row >= 0 ? cell_at(table, row, column) : NULL;
            print_cell(stream, cell != NULL ? cell->text : table->columns[column].title,
                       cell != NULL ? cell->paint : NULL, width[column], table->columns[column].right,
                       column == last);
        }
        (void)fputc('\n', stream);
    }
}

void qs_text_table_print_markdown(const qs_text_table *table, FILE *stream)
{
    int width[MAX_COLUMNS];
    measure(table, width);
    for (int64_t row = -2; row < table->n_rows; row++) {
        (void)fputc('|', stream);
        for (int column = 0; column < table->n_columns; column++) {
            if (width[column] == 0) continue;
            if (row == -1)
                (void)fputs(table->columns[column].right ? "--:|" : "---|", stream);
            else
                (void)fprintf(stream, " %s |",
                              row >= 0 ? cell_at(table, row, column)->text : table->columns[column].title);
        }
        (void)fputc('\n', stream);
    }
}

void qs_sentence_add(qs_sentence *sentence, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    int n = vsnprintf(sentence->text + sentence->used, sizeof sentence->text - sentence->used, fmt, args);
    va_end(args);
    if (n > 0) sentence->used += (size_t)n;
    if (sentence->used >= sizeof sentence->text) sentence->used = sizeof sentence->text - 1;
}

void qs_text_wrap(FILE *stream, const char *text)
{
    size_t column = 0;
    while (*text != '\0') {
        size_t word = strcspn(text, " ");
        if (column > 0 && column + 1 + word > QS_TEXT_COLUMNS) {
            (void)fputs("\n ", stream);
            column = 1;
        }
        if (column > 0) {
            (void)fputc(' ', stream);
            column++;
        }
        (void)fwrite(text, 1, word, stream);
        column += word;
        text += word;
        text += strspn(text, " ");
    }
    (void)fputc('\n', stream);
}
