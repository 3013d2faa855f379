/* Dense matrices times few rows in vectors: lanes run along the row of W, four rows of W at a time (two or one
 * when there are more rows of x than registers). Each product of one row of W and one row of x is one running
 * vector, whatever the grouping, so that results do not depend on where a thread begins. */
#ifndef QS_BACKEND_CPU_GEMV_DENSE_SIMD_H
#define QS_BACKEND_CPU_GEMV_DENSE_SIMD_H

#include "backend/cpu/kernels.h"
#include "backend/cpu/simd.h"

/* Accumulators that leave room for weights and x. */
enum { N_SUMS_MAX = V_LANES == 16 ? 16 : 8 };

QS_INLINE vf load_weights(qs_matrix_format format, const void *dense, int64_t at)
{
    if (format == QS_MATRIX_F16) return v_from_f16((const uint16_t *)dense + at);
    if (format == QS_MATRIX_BF16) return v_from_bf16((const uint16_t *)dense + at);
    return v_load((const float *)dense + at);
}

QS_INLINE vf load_weights_part(qs_matrix_format format, const void *dense, int64_t at, int64_t n)
{
    if (format == QS_MATRIX_F16) return v_from_f16_part((const uint16_t *)dense + at, n);
    if (format == QS_MATRIX_BF16) return v_from_bf16_part((const uint16_t *)dense + at, n);
    return v_load_part((const float *)dense + at, n);
}

/* Beyond the matrix this is harmless. */
QS_INLINE void prefetch_weights(qs_matrix_format format, const void *dense, int64_t at)
{
    __builtin_prefetch((const char *)dense + at * (format == QS_MATRIX_F32 ? 4 : 2));
}

/* Rows [o, o + n_w) of W times all n_x rows of x; both counts are constants where this is inlined. */
QS_INLINE void dense_rows(qs_matrix_format format, const qs_gemv_job *job, int64_t o, int n_w, int n_x)
{
    vf sums[4][QS_GEMV_MAX_ROWS];
    int64_t n_in = job->n_in, j = 0;
    QS_UNROLL for (int w = 0; w < n_w; w++)
        QS_UNROLL for (int r = 0; r < n_x; r++) sums[w][r] = v_set(0.0f);
    for (; j + V_LANES <= n_in; j += V_LANES) {
        vf weights[4];
        QS_UNROLL for (int w = 0; w < n_w; w++)
        {
            weights[w] = load_weights(format, job->dense, (o + w) * n_in + j);
            prefetch_weights(format, job->dense, (o + n_w + w) * n_in + j); /* of the rows that come next */
        }
        QS_UNROLL for (int r = 0; r < n_x; r++)
        {
            vf x = v_load(job->x + r * job->x_stride + j);
            QS_UNROLL for (int w = 0; w < n_w; w++) sums[w][r] = v_fma(weights[w], x, sums[w][r]);
        }
    }
    if (j < n_in) {
        QS_UNROLL for (int w = 0; w < n_w; w++)
        {
            vf weights = load_weights_part(format, job->dense, (o + w) * n_in + j, n_in - j);
            QS_UNROLL for (int r = 0; r < n_x; r++)
                sums[w][r] = v_fma(weights, v_load_part(job->x + r * job->x_stride + j, n_in - j), sums[w][r]);
        }
    }
    QS_UNROLL for (int w = 0; w < n_w; w++)
        QS_UNROLL for (int r = 0; r < n_x; r++)
            job->y[r * job->n_out + o + w] = v_sum(sums[w][r]) + (job->bias == NULL ? 0.0f : job->bias[o + w]);
}

QS_INLINE void dense_range(qs_matrix_format format, const qs_gemv_job *job, int64_t first, int64_t last, int n_x)
{
    const int n_w = 4 * n_x <= N_SUMS_MAX ? 4 : 2 * n_x <= N_SUMS_MAX ? 2 : 1;
    int64_t o = first;
    for (; o + n_w <= last; o += n_w) dense_rows(format, job, o, n_w, n_x);
    for (; o < last; o++) dense_rows(format, job, o, 1, n_x);
}

QS_INLINE void gemv_dense(qs_matrix_format format, const qs_gemv_job *job, int64_t first, int64_t last)
{
    switch (job->n) {
    case 1: dense_range(format, job, first, last, 1); break;
    case 2: dense_range(format, job, first, last, 2); break;
    case 3: dense_range(format, job, first, last, 3); break;
    case 4: dense_range(format, job, first, last, 4); break;
    case 5: dense_range(format, job, first, last, 5); break;
    case 6: dense_range(format, job, first, last, 6); break;
    case 7: dense_range(format, job, first, last, 7); break;
    default: dense_range(format, job, first, last, QS_GEMV_MAX_ROWS); break;
    }
}

static void gemv_f32_simd(const qs_gemv_job *job, int64_t first_row, int64_t last_row)
{
    gemv_dense(QS_MATRIX_F32, job, first_row, last_row);
}

static void gemv_f16_simd(const qs_gemv_job *job, int64_t first_row, int64_t last_row)
{
    gemv_dense(QS_MATRIX_F16, job, first_row, last_row);
}

static void gemv_bf16_simd(const qs_gemv_job *job, int64_t first_row, int64_t last_row)
{
    gemv_dense(QS_MATRIX_BF16, job, first_row, last_row);
}

#endif
