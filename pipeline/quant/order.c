#include "quant/order.h"

#include <stdlib.h>

#include "base/mem.h"

typedef struct ranked {
    float key;
    int32_t index;
} ranked;

static int compare(const void *left, const void *right)
{
    const ranked *a = left, *b = right;
    if (a->key != b->key) return a->key > b->key ? -1 : 1;
    return a->index < b->index ? -1 : a->index > b->index;
}

qs_err qs_order_act(const float *diag, int64_t n, int32_t *order)
{
    ranked *columns;
    qs_err err = QS_NEW(columns, n, "column order");
    if (err != QS_OK) return err;
    for (int64_t i = 0; i < n; i++) columns[i] = (ranked){diag[i], (int32_t)i};
    qsort(columns, (size_t)n, sizeof *columns, compare);
    for (int64_t i = 0; i < n; i++) order[i] = columns[i].index;
    qs_mem_free(columns);
    return QS_OK;
}

qs_err qs_order_group_aware(const float *diag, int64_t n, int64_t group_size, int32_t *order)
{
    int64_t n_whole = n / group_size, at = 0;
    ranked *columns = NULL, *groups = NULL;
    qs_err err;
    QS_TRY(QS_NEW(columns, n, "column order"));
    QS_TRY(QS_NEW(groups, n_whole + 1, "group order"));
    for (int64_t i = 0; i < n; i++) columns[i] = (ranked){diag[i], (int32_t)i};
    for (int64_t first = 0; first < n; first += group_size) {
        int64_t length = n - first < group_size ? n - first : group_size;
        qsort(columns + first, (size_t)length, sizeof *columns, compare);
    }
    for (int64_t g = 0; g < n_whole; g++) groups[g] = (ranked){columns[g * group_size].key, (int32_t)g};
    qsort(groups, (size_t)n_whole, sizeof *groups, compare);
    for (int64_t g = 0; g < n_whole; g++)
        for (int64_t i = 0; i < group_size; i++)
            order[at++] = columns[groups[g].index * group_size + i].index;
    for (; at < n; at++) order[at] = columns[at].index;
out:
    qs_mem_free(columns);
    qs_mem_free(groups);
    return err;
}
