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

static void errors(const float *x, int64_t n, const float *column_weight, int bits, const float *scale, float *error)
{
    float middle = (float)(1 << (bits - 1));
    for (int64_t r = 0; r < QS_TILE_ROWS; r++) error[r] = 0;
    for (int64_t i = 0; i < n; i++)
        for (int64_t r = 0; r < QS_TILE_ROWS; r++) {
            float w = x[i * QS_TILE_ROWS + r], e = w - scale[r] * qs_scale_code(w, scale[r], middle, bits);
            error[r] += (column_weight != NULL ? column_weight[i] : 1.0f) * e * e;
        }
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

const qs_tile_ops qs_tile_reference = {.name = "reference", .update = update, .scales = scales,
                                        .errors = errors, .code = code};

void qs_tile_gather(const float *weights, int64_t n_out, int64_t n_in, int64_t tile, const int32_t *order,
                    int64_t first, int64_t n, float *x, int64_t width)
{
    int64_t n_rows = n_out - tile * QS_TILE_ROWS < QS_TILE_ROWS ? n_out - tile * QS_TILE_ROWS : QS_TILE_ROWS;
    const float *w = weights + tile * QS_TILE_ROWS * n_in;
    /* 16 rows at a time: more, a multiple of 4 KiB apart, push each other's lines out of the cache. */
    for (int64_t part = 0; part < QS_TILE_ROWS; part += 16) {
        int64_t stop = part + 16;
        for (int64_t i = 0; i < n; i++) {
            const float *column = w + (order != NULL ? order[i] : first + i);
            for (int64_t r = part; r < stop; r++) x[i * width + r] = r < n_rows ? column[r * n_in] : 0;
        }
    }
}

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
