/* Packed matrices times few rows in vectors, on the panels of panels.h: every lane is a row of W, so that a
 * group's scale and zero point are one vector and no sum across lanes is ever needed.
 *
 *   y = sum over groups of scale * (sum code' x - (zero - middle) sum x),   code' = code - middle
 *
 * Cost per 16 weights with AVX-512: a shift, a table look-up that is the conversion (vpermps takes the low four
 * bits of each lane as index) and a multiply-add whose x is broadcast from memory; AVX2 shifts the field up
 * and down again with its sign and converts. A row of x more costs a multiply-add more. */
#ifndef QS_BACKEND_CPU_GEMV_INT_SIMD_H
#define QS_BACKEND_CPU_GEMV_INT_SIMD_H

#include "backend/cpu/kernels.h"
#include "backend/cpu/panels.h"
#include "backend/cpu/simd.h"

enum {
    /* Running sums, column k of a chunk into number k % N_PARTS. They hide the latency of the multiply-add where
     * there are few rows of x; with more rows than registers the sums come one after the other, which gives the
     * same bits, so that a row's result does not depend on how many others share the call. */
    N_PARTS = 4,
    N_ROWS_AT_ONCE = V_LANES == 16 ? 4 : 2,
    /* 2.5 KiB ahead: the hardware's prefetcher stops at every page, this one goes on; on a machine whose memory
     * is busy it is worth half again the bandwidth. */
    PREFETCH_WORDS = 640,
};

/* The field of `bits` bits from bit `at` of each lane, as a signed number. */
QS_INLINE vf signed_field(vi word, int bits, int at)
{
    vi up = at + bits == 32 ? word : vi_shift_left(word, 32 - bits - at);
    return v_from_int(vi_shift_signed(up, 32 - bits));
}

#if defined(__AVX512F__)
/* table[i] = the low `bits` bits of i, as a signed number */
QS_INLINE vf field_table(int bits)
{
    float table[16];
    int middle = 1 << (bits - 1), mask = 2 * middle - 1;
    for (int i = 0; i < 16; i++) table[i] = (float)(((i & mask) ^ middle) - middle);
    return v_load(table);
}
QS_INLINE vf field(vi word, int bits, int at, vf table)
{
    if (bits == 8) return signed_field(word, bits, at);
    return _mm512_permutexvar_ps(at == 0 ? word : vi_shift_right(word, at), table);
}
#else
QS_INLINE vf field_table(int bits)
{
    (void)bits;
    return v_set(0.0f);
}
QS_INLINE vf field(vi word, int bits, int at, vf table)
{
    (void)table;
    return signed_field(word, bits, at);
}
#endif

/* Code k of a chunk; words[n_words]. The last two 3-bit codes are spread over the words' top pairs. */
QS_INLINE vf chunk_code(int bits, const vi *words, int k, vf table)
{
    if (bits != 3) return field(words[0], bits, k * bits, table);
    if (k < 30) return field(words[k / 10], 3, k % 10 * 3, table);
    vi top = vi_set(3 << 30);
    vi pairs = vi_or(vi_shift_right(words[0], 30), vi_shift_right(vi_and(words[1], top), 28));
    pairs = vi_or(pairs, vi_shift_right(vi_and(words[2], top), 26));
    return field(pairs, 3, k == 30 ? 0 : 3, table);
}

/* What a call works on: one vector of rows of one panel. */
typedef struct lane_view {
    const uint32_t *codes; /* words are QS_PANEL_ROWS apart */
    const uint16_t *scales;
    const uint8_t *zeros;
} lane_view;

QS_INLINE void load_words(int bits, const lane_view *view, int64_t chunk, vi *words)
{
    const int n_words = bits == 3 ? 3 : 1;
    QS_UNROLL for (int w = 0; w < n_words; w++) words[w] = vi_load(view->codes + (chunk * n_words + w) * QS_PANEL_ROWS);
}

/* parts[r][k % N_PARTS] += code k x for columns k with first <= k % N_PARTS < last, for the whole chunks of a
 * group. Behind n_in x is zero. */
QS_INLINE void add_chunks(int bits, const qs_gemv_job *job, const lane_view *view, int64_t begin, int64_t end,
                          int n_x, int first, int last, vf table, vf parts[QS_GEMV_MAX_ROWS][N_PARTS])
{
    const int columns = bits == 3 ? 32 : 32 / bits, n_words = bits == 3 ? 3 : 1;
    for (int64_t chunk = begin; chunk < end; chunk++) {
        vi words[3];
        load_words(bits, view, chunk, words);
        QS_UNROLL for (int w = 0; w < n_words && first == 0; w++)
            __builtin_prefetch(view->codes + (chunk * n_words + w) * QS_PANEL_ROWS + PREFETCH_WORDS);
        const float *x = job->x + chunk * columns * n_x;
        QS_UNROLL for (int k = 0; k < columns; k++)
        {
            if (k % N_PARTS < first || k % N_PARTS >= last) continue;
            vf code = chunk_code(bits, words, k, table);
            QS_UNROLL for (int r = 0; r < n_x; r++)
                parts[r][k % N_PARTS] = v_fma(code, v_set(x[k * n_x + r]), parts[r][k % N_PARTS]);
        }
    }
}

/* The same for columns [begin, end) that do not fall on chunks: one column at a time. */
QS_INLINE void add_columns(int bits, const qs_gemv_job *job, const lane_view *view, int64_t begin, int64_t end,
                           int n_x, vf table, vf parts[QS_GEMV_MAX_ROWS][N_PARTS])
{
    const int columns = bits == 3 ? 32 : 32 / bits;
    for (int64_t j = begin; j < end; j++) {
        vi words[3];
        load_words(bits, view, j / columns, words);
        int k = (int)(j % columns);
        vf code;
        if (bits == 3 && k >= 30)
            code = k == 30 ? chunk_code(3, words, 30, table) : chunk_code(3, words, 31, table);
        else if (bits == 3)
            code = signed_field(k < 10 ? words[0] : k < 20 ? words[1] : words[2], bits, k % 10 * bits);
        else
            code = signed_field(words[0], bits, k * bits);
        QS_UNROLL for (int r = 0; r < n_x; r++) parts[r][0] = v_fma(code, v_set(job->x[j * n_x + r]), parts[r][0]);
    }
}

QS_INLINE void panel_lanes(int bits, const qs_gemv_job *job, const lane_view *view, int n_x, int64_t row)
{
    const qs_panels *panels = job->panels;
    const int columns = bits == 3 ? 32 : 32 / bits;
    const int n_at_once = n_x <= N_ROWS_AT_ONCE ? N_PARTS : 1;
    const bool aligned = panels->n_groups == 1 || panels->group_size % columns == 0;
    const vf table = field_table(bits), middle = v_set((float)(1 << (bits - 1)));
    vf totals[QS_GEMV_MAX_ROWS];
    QS_UNROLL for (int r = 0; r < n_x; r++) totals[r] = v_set(0.0f);
    for (int64_t g = 0; g < panels->n_groups; g++) {
        vf parts[QS_GEMV_MAX_ROWS][N_PARTS];
        int64_t begin = g * panels->group_size;
        int64_t end = begin + panels->group_size < panels->n_in ? begin + panels->group_size : panels->n_in;
        QS_UNROLL for (int r = 0; r < n_x; r++)
            QS_UNROLL for (int p = 0; p < N_PARTS; p++) parts[r][p] = v_set(0.0f);
        if (aligned)
            QS_UNROLL for (int p = 0; p < N_PARTS; p += n_at_once)
                add_chunks(bits, job, view, begin / columns, (end + columns - 1) / columns, n_x, p, p + n_at_once,
                           table, parts);
        else
            add_columns(bits, job, view, begin, end, n_x, table, parts);
        vf scale = v_from_f16(view->scales + g * QS_PANEL_ROWS);
        QS_UNROLL for (int r = 0; r < n_x; r++)
        {
            vf sum = v_add(v_add(parts[r][0], parts[r][1]), v_add(parts[r][2], parts[r][3]));
            if (view->zeros != NULL) {
                vf zero = v_sub(v_from_u8(view->zeros + g * QS_PANEL_ROWS), middle);
                sum = v_fnma(zero, v_set(job->x_sums[r * panels->n_groups + g]), sum);
            }
            totals[r] = v_fma(scale, sum, totals[r]);
        }
    }
    int64_t n = job->n_out - row < V_LANES ? job->n_out - row : V_LANES;
    QS_UNROLL for (int r = 0; r < n_x; r++)
    {
        if (job->bias != NULL) totals[r] = v_add(totals[r], v_load_part(job->bias + row, n));
        v_store_part(job->y + r * job->n_out + row, totals[r], n);
    }
}

/* first_row is a multiple of QS_PANEL_ROWS. */
QS_INLINE void panel_range(int bits, const qs_gemv_job *job, int64_t first_row, int64_t last_row, int n_x)
{
    const qs_panels *panels = job->panels;
    int64_t code_stride = panels->n_chunks * (bits == 3 ? 3 : 1) * QS_PANEL_ROWS;
    int64_t group_stride = panels->n_groups * QS_PANEL_ROWS;
    for (int64_t row = first_row; row < last_row; row += V_LANES) {
        int64_t panel = row / QS_PANEL_ROWS, lane = row % QS_PANEL_ROWS;
        lane_view view = {.codes = panels->codes + panel * code_stride + lane,
                          .scales = panels->scales + panel * group_stride + lane,
                          .zeros = panels->zeros == NULL ? NULL : panels->zeros + panel * group_stride + lane};
        panel_lanes(bits, job, &view, n_x, row);
    }
}

QS_INLINE void gemv_panels(int bits, const qs_gemv_job *job, int64_t first_row, int64_t last_row)
{
    switch (job->n) {
    case 1: panel_range(bits, job, first_row, last_row, 1); break;
    case 2: panel_range(bits, job, first_row, last_row, 2); break;
    case 3: panel_range(bits, job, first_row, last_row, 3); break;
    case 4: panel_range(bits, job, first_row, last_row, 4); break;
    case 5: panel_range(bits, job, first_row, last_row, 5); break;
    case 6: panel_range(bits, job, first_row, last_row, 6); break;
    case 7: panel_range(bits, job, first_row, last_row, 7); break;
    default: panel_range(bits, job, first_row, last_row, QS_GEMV_MAX_ROWS); break;
    }
}

static void gemv_int2_simd(const qs_gemv_job *job, int64_t first_row, int64_t last_row)
{
    gemv_panels(2, job, first_row, last_row);
}

static void gemv_int3_simd(const qs_gemv_job *job, int64_t first_row, int64_t last_row)
{
    gemv_panels(3, job, first_row, last_row);
}

static void gemv_int4_simd(const qs_gemv_job *job, int64_t first_row, int64_t last_row)
{
    gemv_panels(4, job, first_row, last_row);
}

static void gemv_int8_simd(const qs_gemv_job *job, int64_t first_row, int64_t last_row)
{
    gemv_panels(8, job, first_row, last_row);
}

#endif
