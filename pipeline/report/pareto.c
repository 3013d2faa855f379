#include "report/pareto.h"

#include <math.h>

bool qs_pareto_dominates(const qs_pareto_point *a, const qs_pareto_point *b, const bool used[QS_PARETO_DIMS])
{
    bool better = false;
    for (int d = 0; d < QS_PARETO_DIMS; d++) {
        if (!used[d]) continue;
        if (a->cost[d] > b->cost[d]) return false;
        better = better || a->cost[d] < b->cost[d];
    }
    return better;
}

static bool is_dominated(const qs_pareto_point *points, int64_t n, int64_t i, const bool used[QS_PARETO_DIMS])
{
    for (int64_t j = 0; j < n; j++)
        if (points[j].candidate && qs_pareto_dominates(&points[j], &points[i], used)) return true;
    return false;
}

void qs_pareto_front(qs_pareto_point *points, int64_t n, bool used[QS_PARETO_DIMS])
{
    bool any = false;
    for (int d = 0; d < QS_PARETO_DIMS; d++) {
        used[d] = true;
        for (int64_t i = 0; i < n; i++)
            if (points[i].candidate && isnan(points[i].cost[d])) used[d] = false;
        any = any || used[d];
    }
    for (int64_t i = 0; i < n; i++)
        points[i].on_front = any && points[i].candidate && !is_dominated(points, n, i, used);
}
