#include "metric/delta_s.h"

#include <math.h>
#include <stddef.h>

const char *qs_zone_name(qs_zone zone)
{
    static const char *const names[QS_N_ZONES] = {"safe", "transit", "risk", "danger"};
    return names[zone];
}

qs_zone qs_zone_of(double delta_s)
{
    if (delta_s < 0.40) return QS_ZONE_SAFE;
    if (delta_s < 0.60) return QS_ZONE_TRANSIT;
    return delta_s <= 0.85 ? QS_ZONE_RISK : QS_ZONE_DANGER;
}

double qs_cosine(const float *a, const float *b, int64_t dim)
{
    double ab = 0.0, aa = 0.0, bb = 0.0;
    for (int64_t i = 0; i < dim; i++) {
        ab += (double)a[i] * b[i];
        aa += (double)a[i] * a[i];
        bb += (double)b[i] * b[i];
    }
    return aa > 0.0 && bb > 0.0 ? ab / sqrt(aa * bb) : 0.0;
}

double qs_delta_s(const float *a, const float *b, int64_t dim)
{
    return fmin(fmax(1.0 - qs_cosine(a, b, dim), 0.0), 1.0);
}

void qs_unit_mean(const float *vectors, const int64_t *rows, int64_t n, int64_t dim, float *mean)
{
    double length = 0.0;
    for (int pass = 0; pass < 2; pass++) { /* the sum is made twice, so that it needs no room of its own */
        double scale = length > 0.0 ? 1.0 / sqrt(length) : 0.0;
        for (int64_t d = 0; d < dim; d++) {
            double sum = 0.0;
            for (int64_t i = 0; i < n; i++) sum += vectors[rows[i] * dim + d];
            if (pass == 0) length += sum * sum;
            else mean[d] = (float)(sum * scale);
        }
    }
}

int64_t qs_medoid(const float *vectors, int64_t n, int64_t dim)
{
    int64_t best = -1;
    double least = INFINITY;
    for (int64_t i = 0; i < n; i++) {
        double sum = 0.0;
        for (int64_t j = 0; j < n; j++)
            if (j != i) sum += qs_delta_s(vectors + i * dim, vectors + j * dim, dim);
        if (sum < least) {
            least = sum;
            best = i;
        }
    }
    return best;
}
