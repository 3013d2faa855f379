/* Plain C of second moments and of changes of layout. */
#include <string.h>

#include "backend/cpu/kernels.h"

void qs_ref_gram(const float *x, int64_t n, int64_t d, int64_t first_row, int64_t first_column, double *gram)
{
    int64_t last_row = d - first_row < QS_GRAM_BLOCK ? d : first_row + QS_GRAM_BLOCK;
    int64_t last_column = d - first_column < QS_GRAM_BLOCK ? d : first_column + QS_GRAM_BLOCK;
    for (int64_t t = 0; t < n; t++) {
        const float *row = x + t * d;
        for (int64_t i = first_row; i < last_row; i++)
            for (int64_t j = i > first_column ? i : first_column; j < last_column; j++)
                gram[i * d + j] += (double)row[i] * (double)row[j];
    }
}

void qs_ref_to_bf16(const float *x, int64_t n, uint16_t *out) { qs_bf16_from_f32_array(out, x, n); }

/* Words are moved as bits: they may be pairs of bf16. */
void qs_ref_turn(const float *rows, int64_t stride, int64_t n_rows, int64_t n, float *dst)
{
    memset(dst, 0, (size_t)(n * QS_TURN_ROWS) * sizeof *dst);
    for (int64_t o = 0; o < n_rows; o++)
        for (int64_t k = 0; k < n; k++) memcpy(dst + k * QS_TURN_ROWS + o, rows + o * stride + k, sizeof *dst);
}

void qs_ref_sum_groups(const float *x, int64_t n_in, int64_t group_size, float *sums)
{
    for (int64_t begin = 0; begin < n_in; begin += group_size) {
        int64_t end = begin + group_size < n_in ? begin + group_size : n_in;
        double sum = 0.0;
        for (int64_t j = begin; j < end; j++) sum += (double)x[j];
        *sums++ = (float)sum;
    }
}
