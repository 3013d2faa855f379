/* Changes of layout in vectors: rows into panels, f32 to bf16, packed codes to f32, sums over groups. */
#ifndef QS_BACKEND_CPU_LAYOUT_SIMD_H
#define QS_BACKEND_CPU_LAYOUT_SIMD_H

#include "backend/cpu/kernels.h"
#include "backend/cpu/simd.h"

static void to_bf16_simd(const float *x, int64_t n, uint16_t *out)
{
    int64_t i = 0;
    for (; i + V_LANES <= n; i += V_LANES) v_store_bf16(out + i, v_load(x + i), V_LANES);
    if (i < n) v_store_bf16(out + i, v_load_part(x + i, n - i), n - i);
}

/* One square tile: rows [n_rows] x columns [n] of 32 bits, the rest zero. The moves keep every bit. */
QS_INLINE void turn_tile(const float *rows, int64_t stride, int64_t n_rows, int64_t n, float *dst)
{
    vf tile[V_LANES];
    QS_UNROLL for (int i = 0; i < V_LANES; i++)
    {
        tile[i] = v_set(0.0f);
        if (i < n_rows) tile[i] = n == V_LANES ? v_load(rows + i * stride) : v_load_part(rows + i * stride, n);
    }
    v_turn(tile);
    QS_UNROLL for (int i = 0; i < V_LANES; i++)
        if (i < n) v_store(dst + i * QS_TURN_ROWS, tile[i]);
}

static void turn_simd(const float *rows, int64_t stride, int64_t n_rows, int64_t n, float *dst)
{
    for (int64_t k = 0; k < n; k += V_LANES) {
        for (int64_t o = 0; o < QS_TURN_ROWS; o += V_LANES) {
            int64_t height = n_rows - o < V_LANES ? n_rows - o : V_LANES, width = n - k < V_LANES ? n - k : V_LANES;
            const float *from = rows + (height > 0 ? o * stride : 0) + k;
            float *to = dst + k * QS_TURN_ROWS + o;
            if (height == V_LANES && width == V_LANES)
                turn_tile(from, stride, V_LANES, V_LANES, to);
            else
                turn_tile(from, stride, height, width, to);
        }
    }
}

/* V_LANES codes of one group: the same arithmetic as the reference, so the same bits. */
QS_INLINE void dequant_row(const qs_packed *packed, int64_t row, int bits, float *out)
{
    const uint8_t *codes = packed->codes + row * packed->row_bytes;
    const uint16_t *scales = packed->scales + row * packed->n_groups;
    const uint8_t *zeros = packed->zeros == NULL ? NULL : packed->zeros + row * packed->n_groups;
    int64_t n_in = packed->n_in, group_size = packed->group_size;
    for (int64_t g = 0; g < packed->n_groups; g++) {
        int64_t end = (g + 1) * group_size < n_in ? (g + 1) * group_size : n_in;
        vf scale = v_set(qs_f32_from_f16(scales[g]));
        vf zero = v_set((float)(zeros == NULL ? 1 << (bits - 1) : zeros[g]));
        for (int64_t j = g * group_size; j < end; j += V_LANES) {
            vf code = bits == 8 ? v_from_u8(codes + j) : v_codes(codes + j * bits / 8, bits);
            v_store(out + j, v_mul(scale, v_sub(code, zero)));
        }
    }
}

/* Whole vectors need groups of whole vectors; the last few rows stay with the reference, since vectors read and
 * write a little beyond a row. */
static void dequant_simd(const qs_packed *packed, int64_t first_row, int64_t n_rows, float *dst)
{
    bool fits = packed->format == QS_PACKED_INT && packed->perm == NULL && packed->n_in % V_LANES == 0 &&
                (packed->group_size % V_LANES == 0 || packed->n_groups == 1);
    int64_t n_fast = !fits ? 0 : first_row + n_rows < packed->n_out ? n_rows : n_rows - 1;
    for (int64_t r = 0; r < n_fast; r++) {
        float *out = dst + r * packed->n_in;
        switch (packed->bits) {
        case 2: dequant_row(packed, first_row + r, 2, out); break;
        case 3: dequant_row(packed, first_row + r, 3, out); break;
        case 4: dequant_row(packed, first_row + r, 4, out); break;
        default: dequant_row(packed, first_row + r, 8, out); break;
        }
    }
    if (n_fast < n_rows)
        qs_packed_dequant_rows(packed, first_row + n_fast, n_rows - n_fast, dst + n_fast * packed->n_in);
}

/* x [n_in] of one row; groups that are no whole vectors end in a part. */
static void sum_groups_simd(const float *x, int64_t n_in, int64_t group_size, float *sums)
{
    for (int64_t begin = 0; begin < n_in; begin += group_size) {
        int64_t end = begin + group_size < n_in ? begin + group_size : n_in, j = begin;
        vf sum = v_set(0.0f);
        for (; j + V_LANES <= end; j += V_LANES) sum = v_add(sum, v_load(x + j));
        if (j < end) sum = v_add(sum, v_load_part(x + j, end - j));
        *sums++ = v_sum(sum);
    }
}

#endif
