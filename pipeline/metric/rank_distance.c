#include "metric/rank_distance.h"

#include <math.h>

static int64_t place_in(const int64_t *list, int64_t n, int64_t value)
{
    for (int64_t i = 0; i < n; i++)
        if (list[i] == value) return i;
    return -1;
}

double qs_jaccard_distance(const int64_t *a, int64_t n_a, const int64_t *b, int64_t n_b)
{
    int64_t n_both = 0;
    for (int64_t i = 0; i < n_a; i++) n_both += place_in(b, n_b, a[i]) >= 0;
    int64_t n_any = n_a + n_b - n_both;
    return n_any > 0 ? 1.0 - (double)n_both / (double)n_any : 0.0;
}

double qs_kendall_tau(const int64_t *a, int64_t n_a, const int64_t *b, int64_t n_b)
{
    int64_t n_pairs = 0, balance = 0;
    for (int64_t i = 0; i < n_a; i++) {
        int64_t first = place_in(b, n_b, a[i]);
        for (int64_t j = i + 1; j < n_a && first >= 0; j++) {
            int64_t second = place_in(b, n_b, a[j]);
            if (second < 0) continue;
            n_pairs++;
            balance += second > first ? 1 : -1;
        }
    }
    return n_pairs > 0 ? (double)balance / (double)n_pairs : NAN;
}
