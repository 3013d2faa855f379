/* The formats that are not integers (packed.h), in vectors.
 *
 * NF4, FP4: lanes run along the columns of a row, which is why a block's sixteen weights, scaled and rounded as they
 * are meant, fit one register (two with AVX2), and a code is a look-up (vpermps). Per 16 weights: a shift, a look-up,
 * a multiply-add whose x comes from memory; per block the scale and sixteen roundings. Lanes along rows, as gemv_int
 * has them, could not round without doing it for every weight. A row of W and a row of x have one running vector,
 * whatever the grouping, so that results do not depend on how many rows share a call or where a thread begins. */
#ifndef QS_BACKEND_CPU_FORMATS_SIMD_H
#define QS_BACKEND_CPU_FORMATS_SIMD_H

#include <math.h>

#include "backend/cpu/kernels.h"
#include "backend/cpu/simd.h"

/* ---- rounding ---- */

/* Not of a NaN. */
QS_INLINE vf round_to_bf16(vf x)
{
    vi bits = v_bits(x), odd = vi_and(vi_shift_right(bits, 16), vi_set(1));
    return v_from_bits(vi_and(vi_add(vi_add(bits, vi_set(0x7FFF)), odd), vi_set((int)0xFFFF0000u)));
}

QS_INLINE vf round_lanes(vf x, qs_rounding rounding)
{
    if (rounding == QS_ROUND_BF16) /* a NaN stays */
        return v_where_le(v_abs(x), v_set(INFINITY), round_to_bf16(x), x);
    if (rounding == QS_ROUND_F16) /* a NaN is the second operand, which min and max return */
        return v_through_f16(v_min(v_set(65504.0f), v_max(v_set(-65504.0f), x)));
    return x;
}

static void round_simd(const float *x, const float *bias, int64_t n, qs_rounding rounding, float *out)
{
    for (int64_t i = 0; i < n; i += V_LANES) {
        bool whole = n - i >= V_LANES;
        vf value = whole ? v_load(x + i) : v_load_part(x + i, n - i);
        if (bias != NULL)
            value = v_add(value, round_lanes(whole ? v_load(bias + i) : v_load_part(bias + i, n - i), rounding));
        value = round_lanes(value, rounding);
        if (whole)
            v_store(out + i, value);
        else
            v_store_part(out + i, value, n - i);
    }
}

static void add_scaled_simd(float a, const float *x, int64_t n, float *y)
{
    int64_t i = 0;
    for (; i + V_LANES <= n; i += V_LANES) v_store(y + i, v_fma(v_set(a), v_load(x + i), v_load(y + i)));
    if (i < n) v_store_part(y + i, v_fma(v_set(a), v_load_part(x + i, n - i), v_load_part(y + i, n - i)), n - i);
}

static float code_row_simd(const float *x, int64_t n_in, float threshold, float *codes, uint8_t *outlier)
{
    const vf zero = v_set(0.0f), limit = v_set(threshold > 0 ? threshold : INFINITY);
    vf largest = zero, nan = zero;
    for (int64_t j = 0; j < n_in; j += V_LANES) {
        vf raw = n_in - j < V_LANES ? v_load_part(x + j, n_in - j) : v_load(x + j);
        vf size = v_abs(round_lanes(raw, QS_ROUND_F16));
        nan = v_add(nan, v_sub(raw, raw)); /* 0, or NaN for what is not finite */
        largest = v_max(v_where_le(limit, size, zero, size), largest);
        for (uint32_t bits = v_equal_bits(v_max(size, limit), size); bits != 0; bits &= bits - 1)
            outlier[j + __builtin_ctz(bits)] = 1;
    }
    bool finite = v_sum(nan) == 0.0f;
    float scale = v_largest(largest);
    vf factor = v_set(finite ? qs_int8_factor(scale) : 0.0f);
    for (int64_t j = 0; j < n_in; j += V_LANES) {
        vf raw = n_in - j < V_LANES ? v_load_part(x + j, n_in - j) : v_load(x + j);
        vf value = round_lanes(raw, QS_ROUND_F16);
        value = finite ? v_where_le(limit, v_abs(value), zero, value) : zero;
        vf code = v_round(v_mul(value, factor));
        if (n_in - j < V_LANES)
            v_store_part(codes + j, code, n_in - j);
        else
            v_store(codes + j, code);
    }
    return finite ? scale : NAN;
}

/* ---- look-ups ---- */

/* Products of a table and a finite maximum. */
QS_INLINE vf round_weights(vf w, qs_rounding rounding)
{
    return rounding == QS_ROUND_BF16 ? round_to_bf16(w) : round_lanes(w, rounding);
}

#if defined(__AVX512F__)

typedef struct weight_table {
    vf all;
} weight_table;

QS_INLINE weight_table make_table(const float *values, float absmax, qs_rounding rounding)
{
    return (weight_table){round_weights(v_mul(v_load(values), v_set(absmax)), rounding)};
}

/* Columns 16 plane .. 16 plane + 15: eight words twice, shifted to two neighbouring fields. */
QS_INLINE vf look_up(const uint32_t *words, int plane, weight_table t)
{
    vi twice = _mm512_broadcast_i64x4(_mm256_loadu_si256((const __m256i_u *)words));
    vi shift = _mm512_inserti64x4(_mm512_set1_epi32(8 * plane), _mm256_set1_epi32(8 * plane + 4), 1);
    return _mm512_permutexvar_ps(_mm512_srlv_epi32(twice, shift), t.all);
}

#else

typedef struct weight_table {
    vf low, high;
} weight_table;

QS_INLINE weight_table make_table(const float *values, float absmax, qs_rounding rounding)
{
    return (weight_table){round_weights(v_mul(v_load(values), v_set(absmax)), rounding),
                   round_weights(v_mul(v_load(values + 8), v_set(absmax)), rounding)};
}

/* Columns 8 plane .. 8 plane + 7. The look-up takes three bits; the fourth, moved to the sign, chooses the table. */
QS_INLINE vf look_up(const uint32_t *words, int plane, weight_table t)
{
    vi word = vi_load(words), code = vi_shift_right(word, 4 * plane);
    vf low = _mm256_permutevar8x32_ps(t.low, code), high = _mm256_permutevar8x32_ps(t.high, code);
    return _mm256_blendv_ps(low, high, v_from_bits(vi_shift_left(word, 28 - 4 * plane)));
}

#endif

/* Of the block that holds a column of a row; beyond the row's end the last one. */
QS_INLINE weight_table block_table(const qs_packed *packed, int64_t row, int64_t column, int shift)
{
    int64_t last = packed->n_in - 1;
    int64_t block = (row * packed->n_in + (column < last ? column : last)) >> shift;
    return make_table(qs_formats[packed->format].values, qs_packed_absmax(packed, block), packed->compute);
}

/* ---- NF4, FP4 ---- */

enum { N_PLANES = QS_CHUNK_COLUMNS / V_LANES, N_BLOCK_SUMS = V_LANES == 16 ? 16 : 8 };

/* Rows [o, o + n_w) of W times all n_x rows of x; `halves`: a block may end in the middle of a chunk. */
QS_INLINE void block_rows(const qs_gemv_job *job, int64_t o, int n_w, int n_x, bool halves, int shift)
{
    vf sums[4][QS_GEMV_MAX_ROWS];
    QS_UNROLL for (int w = 0; w < n_w; w++)
        QS_UNROLL for (int r = 0; r < n_x; r++) sums[w][r] = v_set(0.0f);
    for (int64_t chunk = 0; chunk < job->n_chunks; chunk++) {
        const float *x = job->x + chunk * QS_CHUNK_COLUMNS;
        QS_UNROLL for (int w = 0; w < n_w; w++)
        {
            const uint32_t *words = job->chunks + ((o + w) * job->n_chunks + chunk) * QS_CHUNK_WORDS;
            __builtin_prefetch(words + n_w * job->n_chunks * QS_CHUNK_WORDS); /* of the rows that come next */
            weight_table t = block_table(job->packed, o + w, chunk * QS_CHUNK_COLUMNS, shift);
            QS_UNROLL for (int plane = 0; plane < N_PLANES; plane++)
            {
                if (halves && plane == N_PLANES / 2)
                    t = block_table(job->packed, o + w, chunk * QS_CHUNK_COLUMNS + QS_CHUNK_HALF, shift);
                vf weights = look_up(words, plane, t);
                QS_UNROLL for (int r = 0; r < n_x; r++)
                    sums[w][r] = v_fma(weights, v_load(x + r * job->x_stride + plane * V_LANES), sums[w][r]);
            }
        }
    }
    QS_UNROLL for (int w = 0; w < n_w; w++)
        QS_UNROLL for (int r = 0; r < n_x; r++)
            job->y[r * job->n_out + o + w] = v_sum(sums[w][r]) + (job->bias == NULL ? 0.0f : job->bias[o + w]);
}

QS_INLINE void block_range(const qs_gemv_job *job, int64_t first, int64_t last, int n_x, bool halves)
{
    const int n_w = 4 * n_x <= N_BLOCK_SUMS ? 4 : 2 * n_x <= N_BLOCK_SUMS ? 2 : 1;
    int shift = __builtin_ctzll((unsigned long long)job->packed->group_size);
    int64_t o = first;
    for (; o + n_w <= last; o += n_w) block_rows(job, o, n_w, n_x, halves, shift);
    for (; o < last; o++) block_rows(job, o, 1, n_x, halves, shift);
}

QS_INLINE void gemv_blocks(const qs_gemv_job *job, int64_t first, int64_t last, bool halves)
{
    switch (job->n) {
    case 1: block_range(job, first, last, 1, halves); break;
    case 2: block_range(job, first, last, 2, halves); break;
    case 3: block_range(job, first, last, 3, halves); break;
    case 4: block_range(job, first, last, 4, halves); break;
    case 5: block_range(job, first, last, 5, halves); break;
    case 6: block_range(job, first, last, 6, halves); break;
    case 7: block_range(job, first, last, 7, halves); break;
    default: block_range(job, first, last, QS_GEMV_MAX_ROWS, halves); break;
    }
}

static void gemv_blocks_simd(const qs_gemv_job *job, int64_t first_row, int64_t last_row)
{
    if (job->packed->group_size == QS_CHUNK_HALF || job->n_in % QS_CHUNK_COLUMNS != 0)
        gemv_blocks(job, first_row, last_row, true);
    else
        gemv_blocks(job, first_row, last_row, false);
}

/* ---- int8: whole numbers, so that the order of a sum does not matter ---- */

QS_INLINE void int8_rows(const qs_gemv_job *job, int64_t o, int n_w, int n_x)
{
    vi sums[4][QS_GEMV_MAX_ROWS];
    QS_UNROLL for (int w = 0; w < n_w; w++)
        QS_UNROLL for (int r = 0; r < n_x; r++) sums[w][r] = vi_zero();
    const int8_t *rows = job->rows8 + o * job->row8_bytes;
    for (int64_t j = 0; j < job->row8_bytes; j += 2 * V_LANES)
        QS_UNROLL for (int w = 0; w < n_w; w++)
        {
            const int8_t *row = rows + w * job->row8_bytes + j;
            __builtin_prefetch(row + n_w * job->row8_bytes);
            QS_UNROLL for (int r = 0; r < n_x; r++)
                sums[w][r] = vi_add(sums[w][r], vi_pairs(row, job->x8 + r * job->row8_bytes + j));
        }
    QS_UNROLL for (int w = 0; w < n_w; w++)
        QS_UNROLL for (int r = 0; r < n_x; r++)
            job->y[r * job->n_out + o + w] =
                qs_int8_product((float)vi_sum(sums[w][r]), job->x_scales[r], job->packed->absmax[o + w]);
}

QS_INLINE void int8_range(const qs_gemv_job *job, int64_t first, int64_t last, int n_x)
{
    const int n_w = 4 * n_x <= N_BLOCK_SUMS ? 4 : 2 * n_x <= N_BLOCK_SUMS ? 2 : 1;
    int64_t o = first;
    for (; o + n_w <= last; o += n_w) int8_rows(job, o, n_w, n_x);
    for (; o < last; o++) int8_rows(job, o, 1, n_x);
}

/* Rows of x four at a time at most, which leaves the decoding of the codes alone cheap enough. */
static void gemv_llmint8_simd(const qs_gemv_job *job, int64_t first_row, int64_t last_row)
{
    qs_gemv_job part = *job;
    for (int64_t r = 0; r < job->n; r += part.n) {
        part.n = job->n - r >= 4 ? 4 : job->n - r >= 2 ? 2 : 1;
        part.x8 = job->x8 + r * job->row8_bytes;
        part.x_scales = job->x_scales + r;
        part.y = job->y + r * job->n_out;
        switch (part.n) {
        case 4: int8_range(&part, first_row, last_row, 4); break;
        case 2: int8_range(&part, first_row, last_row, 2); break;
        default: int8_range(&part, first_row, last_row, 1); break;
        }
    }
}

#endif
