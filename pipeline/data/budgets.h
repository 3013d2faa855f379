/* Budgets: what a configuration must reach to pass, from a CSV file
 * profile,metric,op,limit,level,source (every rule is in docs/gates.md).
 *
 *   profile  method family (rtn, gptq, awq, bnb, exl2) or * for all
 *   metric   what is compared; "a&b" is one joint gate, with op "x&y" and limit "1&2"
 *   op       < <= > >=; with "ci" in front the whole confidence interval must lie on that side
 *   level    fail or warn: the verdict when the budget is missed
 *   source   who set the number; PAGE/X: the page makes the demand, the number is X's */
#ifndef QS_DATA_BUDGETS_H
#define QS_DATA_BUDGETS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

enum { QS_BUDGET_NAME_BYTES = 64, QS_BUDGET_MAX_PARTS = 2, QS_BUDGETS_MAX = 4096 };

typedef enum qs_budget_level { QS_LEVEL_FAIL, QS_LEVEL_WARN } qs_budget_level;

/* One comparison. */
typedef struct qs_budget_part {
    char metric[QS_BUDGET_NAME_BYTES];
    char op[8];       /* as in the file */
    bool upper;       /* the limit is the largest accepted value, else the smallest */
    bool strict;      /* the limit itself is not accepted */
    bool by_interval; /* the whole interval is compared */
    double limit;
} qs_budget_part;

typedef struct qs_budget {
    char profile[QS_BUDGET_NAME_BYTES];
    char name[2 * QS_BUDGET_NAME_BYTES]; /* the metric cell: the gate's name */
    char source[QS_BUDGET_NAME_BYTES];
    qs_budget_level level;
    int n_parts;
    qs_budget_part parts[QS_BUDGET_MAX_PARTS];
    int64_t line; /* in the file */
} qs_budget;

typedef struct qs_budgets {
    int64_t n;
    qs_budget *rows; /* [n], in the order of the file */
} qs_budgets;

/* QS_E_INPUT names file, line and cause: unknown profile, op or level, a limit that is no finite number, an
 * empty cell, a joint gate whose cells have different numbers of parts, the same comparison twice,
 * more than QS_BUDGETS_MAX rows. */
QS_MUST_CHECK qs_err qs_budgets_load(qs_budgets *out, const char *path);
QS_MUST_CHECK qs_err qs_budgets_parse(qs_budgets *out, const char *text, size_t bytes, const char *name);
void qs_budgets_free(qs_budgets *budgets);

/* The family of a method: nf4, fp4 and int8 belong to bnb; a method without rows of its own gives "*". */
const char *qs_budgets_profile(const char *method);

/* The rows in force for a profile, in the order of the file, at most budgets->n: its own, and those of "*"
 * whose metrics it does not name itself. */
void qs_budgets_select(const qs_budgets *budgets, const char *profile, const qs_budget **rows,
                       int64_t *n_rows);

/* Whether a number reaches the budget of one comparison. */
bool qs_budget_meets(const qs_budget_part *part, double value);

#endif
