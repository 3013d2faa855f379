#include "data/budgets.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "data/csv.h"

enum { PROFILE, METRIC, OP, LIMIT, LEVEL, SOURCE, N_COLUMNS };
static const char *const columns[N_COLUMNS] = {"profile", "metric", "op", "limit", "level", "source"};

static const struct {
    const char *method, *profile;
} families[] = {
    {"*", "*"},       {"rtn", "rtn"}, {"gptq", "gptq"}, {"awq", "awq"},
    {"exl2", "exl2"}, {"nf4", "bnb"}, {"fp4", "bnb"},   {"int8", "bnb"},
};
enum { N_FAMILIES = sizeof families / sizeof *families };

static const struct {
    const char *text;
    bool upper, strict;
} ops[] = {{"<", true, true}, {"<=", true, false}, {">", false, true}, {">=", false, false}};
enum { N_OPS = sizeof ops / sizeof *ops };

static const char *const levels[] = {[QS_LEVEL_FAIL] = "fail", [QS_LEVEL_WARN] = "warn"};

const char *qs_budgets_profile(const char *method)
{
    for (int i = 0; i < N_FAMILIES; i++)
        if (strcmp(families[i].method, method) == 0) return families[i].profile;
    return "*";
}

bool qs_budget_meets(const qs_budget_part *part, double value)
{
    if (value == part->limit) return !part->strict;
    return part->upper ? value < part->limit : value > part->limit;
}

static bool known_profile(const char *profile)
{
    for (int i = 0; i < N_FAMILIES; i++)
        if (strcmp(families[i].profile, profile) == 0) return true;
    return false;
}

static bool known_op(const char *text, qs_budget_part *part)
{
    part->by_interval = strncmp(text, "ci", 2) == 0;
    const char *bare = part->by_interval ? text + 2 : text;
    for (int i = 0; i < N_OPS; i++) {
        if (strcmp(ops[i].text, bare) != 0) continue;
        part->upper = ops[i].upper;
        part->strict = ops[i].strict;
        (void)snprintf(part->op, sizeof part->op, "%s", text);
        return true;
    }
    return false;
}

/* The index-th of the pieces between "&"; false when there is none, when it is empty or does not fit. */
static bool piece_of(char *piece, size_t bytes, const char *cell, int index)
{
    for (int i = 0; i < index; i++) {
        cell = strchr(cell, '&');
        if (cell == NULL) return false;
        cell++;
    }
    size_t length = strcspn(cell, "&");
    if (length == 0 || length >= bytes) return false;
    memcpy(piece, cell, length);
    piece[length] = '\0';
    return true;
}

static int count_pieces(const char *cell)
{
    int n = 1;
    for (; *cell != '\0'; cell++) n += *cell == '&';
    return n;
}

/* Where a message points to. */
typedef struct place {
    const qs_csv *csv;
    int64_t row;
} place;

static qs_err refuse(place at, const char *text, const char *cell, const char *hint)
{
    return qs_fail(QS_E_INPUT, "%s:%" PRId64 ": %s \"%s\"%s", at.csv->name, at.csv->rows[at.row].line, text,
                   cell, hint);
}

static qs_err read_part(place at, char *const *cells, int index, qs_budget_part *part)
{
    char op[QS_BUDGET_NAME_BYTES] = "", limit[QS_BUDGET_NAME_BYTES] = "", *end;
    if (!piece_of(part->metric, sizeof part->metric, cells[METRIC], index))
        return refuse(at, "bad metric", cells[METRIC], ": an empty name, or one of more than 63 characters");
    if (!piece_of(op, sizeof op, cells[OP], index) || !known_op(op, part))
        return refuse(at, "unknown op", cells[OP], "; there are < <= > >= and the same with ci in front");
    if (!piece_of(limit, sizeof limit, cells[LIMIT], index)) return refuse(at, "bad limit", cells[LIMIT], "");
    part->limit = strtod(limit, &end);
    if (end == limit || *end != '\0' || !isfinite(part->limit))
        return refuse(at, "bad limit", cells[LIMIT], ": not a finite number");
    return QS_OK;
}

static qs_err read_level(place at, const char *cell, qs_budget_level *level)
{
    for (size_t i = 0; i < sizeof levels / sizeof *levels; i++)
        if (strcmp(levels[i], cell) == 0) {
            *level = (qs_budget_level)i;
            return QS_OK;
        }
    return refuse(at, "unknown level", cell, "; there are fail and warn");
}

static qs_err copy_cell(place at, char *text, size_t bytes, int column, const char *cell)
{
    if (cell[0] == '\0' || strlen(cell) >= bytes)
        return qs_fail(QS_E_INPUT,
                       "%s:%" PRId64 ": the column \"%s\" is empty or has more than %zu characters",
                       at.csv->name, at.csv->rows[at.row].line, columns[column], bytes - 1);
    memcpy(text, cell, strlen(cell) + 1);
    return QS_OK;
}

static qs_err read_row(place at, char *const *cells, qs_budget *row)
{
    qs_err err;
    row->line = at.csv->rows[at.row].line;
    QS_TRY(copy_cell(at, row->profile, sizeof row->profile, PROFILE, cells[PROFILE]));
    QS_TRY(copy_cell(at, row->name, sizeof row->name, METRIC, cells[METRIC]));
    QS_TRY(copy_cell(at, row->source, sizeof row->source, SOURCE, cells[SOURCE]));
    if (!known_profile(row->profile)) {
        err = refuse(at, "unknown profile", row->profile, "; there are *, rtn, gptq, awq, exl2 and bnb");
        goto out;
    }
    row->n_parts = count_pieces(cells[METRIC]);
    if (row->n_parts > QS_BUDGET_MAX_PARTS || count_pieces(cells[OP]) != row->n_parts ||
        count_pieces(cells[LIMIT]) != row->n_parts) {
        err = refuse(at, "bad joint gate", row->name,
                     ": metric, op and limit need the same number of parts, at most 2");
        goto out;
    }
    for (int i = 0; i < row->n_parts; i++) QS_TRY(read_part(at, cells, i, &row->parts[i]));
    QS_TRY(read_level(at, cells[LEVEL], &row->level));
out:
    return err;
}

/* Equal but for limit and source: then one of the two would be a mistake. */
static bool same_comparison(const qs_budget *a, const qs_budget *b)
{
    if (strcmp(a->profile, b->profile) != 0 || strcmp(a->name, b->name) != 0 || a->level != b->level)
        return false;
    for (int i = 0; i < a->n_parts; i++)
        if (a->parts[i].upper != b->parts[i].upper) return false;
    return true;
}

static qs_err read_rows(qs_budgets *out, const qs_csv *csv)
{
    int64_t index[N_COLUMNS];
    qs_err err;
    QS_TRY(qs_csv_columns(csv, columns, N_COLUMNS, index));
    if (csv->n_rows == 0) {
        err = qs_fail(QS_E_INPUT, "%s: it has no budgets", csv->name);
        goto out;
    }
    if (csv->n_rows > QS_BUDGETS_MAX) {
        err = qs_fail(QS_E_INPUT, "%s: %" PRId64 " budgets are more than %d", csv->name, csv->n_rows, QS_BUDGETS_MAX);
        goto out;
    }
    QS_TRY(QS_NEW(out->rows, csv->n_rows, "budgets"));
    out->n = csv->n_rows;
    for (int64_t i = 0; i < csv->n_rows; i++) {
        char *cells[N_COLUMNS];
        for (int column = 0; column < N_COLUMNS; column++) cells[column] = csv->rows[i].fields[index[column]];
        QS_TRY(read_row((place){csv, i}, cells, &out->rows[i]));
        for (int64_t j = 0; j < i; j++)
            if (same_comparison(&out->rows[i], &out->rows[j])) {
                err = qs_fail(QS_E_INPUT,
                              "%s:%" PRId64 ": \"%s\" of profile \"%s\" at this level stands in line %" PRId64
                              " already",
                              csv->name, out->rows[i].line, out->rows[i].name, out->rows[i].profile,
                              out->rows[j].line);
                goto out;
            }
    }
out:
    if (err != QS_OK) qs_budgets_free(out);
    return err;
}

qs_err qs_budgets_load(qs_budgets *out, const char *path)
{
    qs_csv csv;
    *out = (qs_budgets){0};
    qs_err err = qs_csv_load(&csv, path);
    if (err != QS_OK) return err;
    err = read_rows(out, &csv);
    qs_csv_free(&csv);
    return err;
}

qs_err qs_budgets_parse(qs_budgets *out, const char *text, size_t bytes, const char *name)
{
    qs_csv csv;
    *out = (qs_budgets){0};
    qs_err err = qs_csv_parse(&csv, text, bytes, name);
    if (err != QS_OK) return err;
    err = read_rows(out, &csv);
    qs_csv_free(&csv);
    return err;
}

void qs_budgets_free(qs_budgets *budgets)
{
    qs_mem_free(budgets->rows);
    *budgets = (qs_budgets){0};
}

static bool names_a_metric_of(const qs_budgets *budgets, const char *profile, const qs_budget *row)
{
    for (int64_t i = 0; i < budgets->n; i++) {
        const qs_budget *own = &budgets->rows[i];
        if (strcmp(own->profile, profile) != 0) continue;
        for (int a = 0; a < own->n_parts; a++)
            for (int b = 0; b < row->n_parts; b++)
                if (strcmp(own->parts[a].metric, row->parts[b].metric) == 0) return true;
    }
    return false;
}

void qs_budgets_select(const qs_budgets *budgets, const char *profile, const qs_budget **rows,
                       int64_t *n_rows)
{
    *n_rows = 0;
    for (int64_t i = 0; i < budgets->n; i++) {
        const qs_budget *row = &budgets->rows[i];
        bool own = strcmp(row->profile, profile) == 0, general = strcmp(row->profile, "*") == 0;
        if (own || (general && !names_a_metric_of(budgets, profile, row))) rows[(*n_rows)++] = row;
    }
}
