/* Budgets: whatever is accepted has finite limits and known names, and rows in force are rows of the file. */
#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "data/budgets.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static void check_row(const qs_budget *row)
{
    if (row->n_parts < 1 || row->n_parts > QS_BUDGET_MAX_PARTS || row->name[0] == '\0') __builtin_trap();
    for (int i = 0; i < row->n_parts; i++) {
        const qs_budget_part *part = &row->parts[i];
        if (!isfinite(part->limit) || part->metric[0] == '\0') __builtin_trap();
        if (qs_budget_meets(part, part->limit) != !part->strict) __builtin_trap();
        if (qs_budget_meets(part, NAN)) __builtin_trap();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    static const char *const methods[] = {"rtn", "gptq", "awq", "nf4", "exl2", "fp"};
    qs_budgets budgets;
    const qs_budget **rows = NULL;
    if (qs_budgets_parse(&budgets, (const char *)data, bytes, "fuzz") != QS_OK) return 0;
    if (QS_NEW(rows, budgets.n, "rows in force") == QS_OK)
        for (size_t m = 0; m < sizeof methods / sizeof *methods; m++) {
            int64_t n = -1;
            qs_budgets_select(&budgets, qs_budgets_profile(methods[m]), rows, &n);
            if (n < 0 || n > budgets.n) __builtin_trap();
            for (int64_t i = 0; i < n; i++) check_row(rows[i]);
        }
    qs_mem_free(rows);
    qs_budgets_free(&budgets);
    return 0;
}
