/* Pareto dominance: a point is on the front when no other is as good in every dimension and better in one. */
#ifndef QS_REPORT_PARETO_H
#define QS_REPORT_PARETO_H

#include <stdbool.h>
#include <stdint.h>

enum { QS_PARETO_DIMS = 3 };

typedef struct qs_pareto_point {
    double cost[QS_PARETO_DIMS]; /* lower is better; NaN = unknown */
    bool candidate;              /* only candidates compete */
    bool on_front;               /* out */
} qs_pareto_point;

/* used[d]: dimensions that are compared. */
bool qs_pareto_dominates(const qs_pareto_point *a, const qs_pareto_point *b, const bool used[QS_PARETO_DIMS]);

/* Sets on_front. A dimension that is unknown for some candidate is left out for all, since an unknown cost is
 * neither lower nor higher; used[d] tells. No candidate is on the front when every dimension is left out. */
void qs_pareto_front(qs_pareto_point *points, int64_t n, bool used[QS_PARETO_DIMS]);

#endif
