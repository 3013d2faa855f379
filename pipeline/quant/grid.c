#include "quant/grid.h"

#include <inttypes.h>
#include <string.h>

#include "base/mem.h"
#include "data/csv.h"
#include "quant/methods.h"

enum { N_COLUMNS = 4, CELL_BYTES = 64 };
static const char blanks[] = " \t";
static const char *const columns[N_COLUMNS] = {"method", "bits", "group_size", "variant"};

static qs_err add(qs_grid *grid, const qs_spec *spec)
{
    for (int64_t i = 0; i < grid->n; i++)
        if (strcmp(grid->specs[i].id, spec->id) == 0) return QS_OK;
    if (grid->n == QS_GRID_MAX_POINTS)
        return qs_fail(QS_E_USAGE, "more than %d points; split the grid", QS_GRID_MAX_POINTS);
    grid->specs[grid->n++] = *spec;
    return QS_OK;
}

static qs_err start(qs_grid *out)
{
    *out = (qs_grid){0};
    return QS_NEW(out->specs, QS_GRID_MAX_POINTS, "grid");
}

/* The index-th alternative of a cell "a|b|c"; false when there are fewer. */
static bool alternative(char out[CELL_BYTES], const char *cell, int64_t index)
{
    for (; index > 0; index--) {
        cell = strchr(cell, '|');
        if (cell == NULL) return false;
        cell++;
    }
    cell += strspn(cell, blanks);
    size_t length = strcspn(cell, "|");
    while (length > 0 && strchr(blanks, cell[length - 1]) != NULL) length--;
    if (length >= CELL_BYTES)
        length = CELL_BYTES - 1; /* too long for any value: the parser refuses the rest */
    memcpy(out, cell, length);
    out[length] = '\0';
    return true;
}

/* Bounded before it is walked: points that are there already count too. */
static qs_err check_product(char *const *cells)
{
    int64_t n = 1;
    for (int c = 0; c < N_COLUMNS; c++) {
        int64_t n_alternatives = 1;
        for (const char *at = cells[c]; *at != '\0'; at++) n_alternatives += *at == '|';
        if (n_alternatives > QS_GRID_MAX_POINTS / n)
            return qs_fail(QS_E_USAGE, "a row of more than %d points; split the grid", QS_GRID_MAX_POINTS);
        n *= n_alternatives;
    }
    return QS_OK;
}

/* The product of a row's alternatives, the last column fastest. */
static qs_err add_row(qs_grid *grid, char *const *cells)
{
    char text[N_COLUMNS][CELL_BYTES];
    int64_t at[N_COLUMNS] = {0};
    qs_err err = check_product(cells);
    while (err == QS_OK) {
        qs_spec spec;
        for (int c = 0; c < N_COLUMNS; c++) (void)alternative(text[c], cells[c], at[c]);
        err = qs_spec_from_cells(&spec, text[0], text[1], text[2], text[3]);
        if (err == QS_OK) err = add(grid, &spec);
        int c = N_COLUMNS - 1;
        for (; c >= 0; c--) {
            at[c]++;
            if (alternative(text[c], cells[c], at[c])) break;
            at[c] = 0;
        }
        if (c < 0) break;
    }
    return err;
}

static qs_err add_rows(qs_grid *out, const qs_csv *csv)
{
    int64_t index[N_COLUMNS];
    qs_err err;
    QS_TRY(start(out));
    QS_TRY(qs_csv_columns(csv, columns, N_COLUMNS, index));
    for (int64_t row = 0; row < csv->n_rows; row++) {
        char *cells[N_COLUMNS];
        for (int c = 0; c < N_COLUMNS; c++) cells[c] = csv->rows[row].fields[index[c]];
        err = qs_context(add_row(out, cells), "%s:%" PRId64, csv->name, csv->rows[row].line);
        if (err == QS_E_USAGE) err = QS_E_INPUT; /* what a command line gets wrong is the file's fault here */
        if (err != QS_OK) goto out;
    }
    if (out->n == 0) err = qs_fail(QS_E_INPUT, "%s: no points", csv->name);
out:
    if (err != QS_OK) qs_grid_free(out);
    return err;
}

qs_err qs_grid_load(qs_grid *out, const char *path)
{
    qs_csv csv;
    *out = (qs_grid){0};
    qs_err err = qs_csv_load(&csv, path);
    if (err != QS_OK) return err;
    err = add_rows(out, &csv);
    qs_csv_free(&csv);
    return err;
}

qs_err qs_grid_parse(qs_grid *out, const char *text, size_t bytes, const char *name)
{
    qs_csv csv;
    *out = (qs_grid){0};
    qs_err err = qs_csv_parse(&csv, text, bytes, name);
    if (err != QS_OK) return err;
    err = add_rows(out, &csv);
    qs_csv_free(&csv);
    return err;
}

qs_err qs_grid_from_specs(qs_grid *out, const char *const *texts, int64_t n_texts)
{
    qs_err err;
    QS_TRY(start(out));
    for (int64_t i = 0; i < n_texts; i++) {
        qs_spec spec;
        QS_TRY(qs_spec_parse(&spec, texts[i]));
        QS_TRY(add(out, &spec));
    }
out:
    if (err != QS_OK) qs_grid_free(out);
    return err;
}

qs_err qs_grid_set_awq_loss(qs_grid *grid, const char *name)
{
    int64_t n = grid->n, n_awq = 0;
    grid->n = 0;
    for (int64_t i = 0; i < n; i++) {
        qs_spec spec = grid->specs[i];
        qs_err err = qs_spec_set_awq_loss(&spec, name);
        if (err == QS_OK) err = add(grid, &spec);
        if (err != QS_OK) return err;
        n_awq += spec.method == &qs_method_awq;
    }
    return n_awq > 0 ? QS_OK : qs_fail(QS_E_USAGE, "--awq-loss %s: no point is AWQ's", name);
}

void qs_grid_free(qs_grid *grid)
{
    qs_mem_free(grid->specs);
    *grid = (qs_grid){0};
}
