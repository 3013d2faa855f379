#include "quant/tile.h"

#include <stddef.h>

static void update(float *x, int64_t n, const float *e, int64_t k, const float *u, int64_t ldu)
{
    for (int64_t j = 0; j < n; j++)
        for (int64_t i = 0; i < k; i++)
            for (int64_t r = 0; r < QS_TILE_ROWS; r++)
                x[j * QS_TILE_ROWS + r] -= u[i * ldu + j] * e[i * QS_TILE_ROWS + r];
}

static void scales(const qs_scale_rule *rule, const float *x, int64_t n, const float *column_weight,
                   float *scale, float *zero)
{
    for (int64_t r = 0; r < QS_TILE_ROWS; r++)
        qs_scale_find(rule, x + r, n, QS_TILE_ROWS, column_weight, scale + r, zero + r);
}

static void code(float *x, int64_t n, int bits, const float *scale, const float *zero, const int32_t *group,
                 const float *u, int64_t ldu, uint8_t *codes)
{
    for (int64_t i = 0; i < n; i++) {
        const float *s = scale + (group != NULL ? group[i] : 0) * QS_TILE_ROWS;
        const float *z = zero + (group != NULL ? group[i] : 0) * QS_TILE_ROWS;
        float *row = x + i * QS_TILE_ROWS;
        for (int64_t r = 0; r < QS_TILE_ROWS; r++) {
            float q = qs_scale_code(row[r], s[r], z[r], bits);
            codes[i * QS_TILE_ROWS + r] = (uint8_t)(q + z[r]);
            if (u == NULL) continue;
            row[r] = (row[r] - s[r] * q) / u[i * ldu + i];
            for (int64_t j = i + 1; j < n; j++) x[j * QS_TILE_ROWS + r] -= u[i * ldu + j] * row[r];
        }
    }
}

const qs_tile_ops qs_tile_reference = {.name = "reference", .update = update, .scales = scales, .code = code};

const qs_tile_ops *qs_tile_best(void)
{
#if defined(__x86_64__)
    if (qs_tile_avx512.name != NULL && __builtin_cpu_supports("avx512f") &&
        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512dq"))
        return &qs_tile_avx512;
    if (qs_tile_avx2.name != NULL && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
        __builtin_cpu_supports("f16c"))
        return &qs_tile_avx2;
#endif
    return &qs_tile_reference;
}
