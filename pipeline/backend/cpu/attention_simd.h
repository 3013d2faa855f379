/* Attention in vectors: lanes are query rows. The queries of an item are turned once (q^T [head_dim][rows]);
 * then scores, softmax and the weighted sum all run vertically, with keys and values read row by row as they
 * lie: S^T = K q^T, P^T = exp(S^T - m), O^T += V^T P^T. The softmax is the online one (running maximum m and
 * sum l per query; Milakov and Gimelshein 2018; Dao et al. 2022), over blocks of keys in ascending order. */
#ifndef QS_BACKEND_CPU_ATTENTION_SIMD_H
#define QS_BACKEND_CPU_ATTENTION_SIMD_H

#include <math.h>

#include "backend/cpu/kernels.h"
#include "backend/cpu/simd.h"

enum {
    ROW_VECTORS = 3,                       /* vectors of query rows per tile */
    TILE_ROWS = ROW_VECTORS * V_LANES,
    TILE_SIDE = V_LANES == 16 ? 8 : 4,     /* keys or channels per register tile: 24 or 12 sums */
    KEY_BLOCK = 64,
    DECODE_BLOCK = 128,
};
_Static_assert(QS_ATTENTION_ROWS % TILE_ROWS == 0, "items are whole tiles");

/* Finite, so that rows that see no key of a block yet stay free of inf - inf. */
static const float lowest_max = -1e30f;

typedef struct attention_tile {
    const float *k, *v; /* key 0 of this sequence and kv head */
    int64_t kv_stride, head_dim;
    vf row_index[ROW_VECTORS];  /* position of each query */
    vf first_key[ROW_VECTORS];  /* first key it sees */
    vf max[ROW_VECTORS], sum[ROW_VECTORS];
    float q[QS_ATTENTION_HEAD_DIM_MAX][TILE_ROWS] __attribute__((aligned(64)));             /* scaled */
    float o[QS_ATTENTION_HEAD_DIM_MAX][TILE_ROWS] __attribute__((aligned(64))); /* not yet divided by sum */
    float p[KEY_BLOCK][TILE_ROWS] __attribute__((aligned(64)));
} attention_tile;

/* p[key][row] = q_row . k_key for TILE_SIDE keys; keys behind `limit` repeat the last one and are masked. */
QS_INLINE void score_keys(attention_tile *tile, int64_t key, int64_t slot, int64_t limit)
{
    vf sums[TILE_SIDE][ROW_VECTORS];
    const float *rows[TILE_SIDE];
    QS_UNROLL for (int i = 0; i < TILE_SIDE; i++)
    {
        rows[i] = tile->k + (key + i < limit ? key + i : limit - 1) * tile->kv_stride;
        QS_UNROLL for (int u = 0; u < ROW_VECTORS; u++) sums[i][u] = v_set(0.0f);
    }
    for (int64_t d = 0; d < tile->head_dim; d++) {
        vf q[ROW_VECTORS];
        QS_UNROLL for (int u = 0; u < ROW_VECTORS; u++) q[u] = v_load(tile->q[d] + u * V_LANES);
        QS_UNROLL for (int i = 0; i < TILE_SIDE; i++)
        {
            vf k = v_set(rows[i][d]);
            QS_UNROLL for (int u = 0; u < ROW_VECTORS; u++) sums[i][u] = v_fma(k, q[u], sums[i][u]);
        }
    }
    QS_UNROLL for (int i = 0; i < TILE_SIDE; i++)
        QS_UNROLL for (int u = 0; u < ROW_VECTORS; u++) v_store(tile->p[slot + i] + u * V_LANES, sums[i][u]);
}

/* -inf where a query does not see the key. */
static void mask_scores(attention_tile *tile, int64_t key, int64_t n_slots)
{
    vf hidden = v_set(-INFINITY);
    for (int64_t i = 0; i < n_slots; i++) {
        vf index = v_set((float)(key + i));
        for (int u = 0; u < ROW_VECTORS; u++) {
            vf score = v_load(tile->p[i] + u * V_LANES);
            score = v_where_le(index, tile->row_index[u], score, hidden);
            score = v_where_le(tile->first_key[u], index, score, hidden);
            v_store(tile->p[i] + u * V_LANES, score);
        }
    }
}

/* Scores become weights; returns by how much what was summed so far must shrink. */
static void weigh(attention_tile *tile, int64_t n_slots, vf shrink[ROW_VECTORS])
{
    for (int u = 0; u < ROW_VECTORS; u++) {
        vf max = tile->max[u], sum = v_set(0.0f);
        for (int64_t i = 0; i < n_slots; i++) max = v_max(v_load(tile->p[i] + u * V_LANES), max);
        for (int64_t i = 0; i < n_slots; i++) {
            vf p = v_exp(v_sub(v_load(tile->p[i] + u * V_LANES), max));
            sum = v_add(sum, p);
            v_store(tile->p[i] + u * V_LANES, p);
        }
        shrink[u] = v_exp(v_sub(tile->max[u], max));
        tile->sum[u] = v_fma(tile->sum[u], shrink[u], sum);
        tile->max[u] = max;
    }
}

/* o[channel][row] = o shrink + sum over keys of v[key][channel] p[key][row] for n channels from d on. */
QS_INLINE void add_channels(attention_tile *tile, const float *values, int64_t d, int n, int64_t n_slots,
                            const vf shrink[ROW_VECTORS])
{
    vf sums[TILE_SIDE][ROW_VECTORS];
    QS_UNROLL for (int i = 0; i < n; i++)
        QS_UNROLL for (int u = 0; u < ROW_VECTORS; u++)
            sums[i][u] = v_mul(v_load(tile->o[d + i] + u * V_LANES), shrink[u]);
    for (int64_t j = 0; j < n_slots; j++) {
        vf p[ROW_VECTORS];
        QS_UNROLL for (int u = 0; u < ROW_VECTORS; u++) p[u] = v_load(tile->p[j] + u * V_LANES);
        QS_UNROLL for (int i = 0; i < n; i++)
        {
            vf value = v_set(values[d + i]);
            QS_UNROLL for (int u = 0; u < ROW_VECTORS; u++) sums[i][u] = v_fma(value, p[u], sums[i][u]);
        }
        values += tile->kv_stride;
    }
    QS_UNROLL for (int i = 0; i < n; i++)
        QS_UNROLL for (int u = 0; u < ROW_VECTORS; u++) v_store(tile->o[d + i] + u * V_LANES, sums[i][u]);
}

QS_INLINE void add_values(attention_tile *tile, int64_t key, int64_t n_slots, const vf shrink[ROW_VECTORS])
{
    const float *values = tile->v + key * tile->kv_stride;
    int64_t d = 0;
    for (; d + TILE_SIDE <= tile->head_dim; d += TILE_SIDE) add_channels(tile, values, d, TILE_SIDE, n_slots, shrink);
    for (; d < tile->head_dim; d++) add_channels(tile, values, d, 1, n_slots, shrink);
}

/* Lanes behind the last row repeat it and are never stored. */
static void begin_tile(attention_tile *tile, const qs_attention_shape *shape, const float *q, int64_t first,
                       int64_t last)
{
    int64_t q_stride = shape->n_heads * shape->head_dim;
    float scale = (float)(1.0 / sqrt((double)shape->head_dim));
    float index[TILE_ROWS], first_key[TILE_ROWS];
    const float *rows[TILE_ROWS];
    for (int64_t lane = 0; lane < TILE_ROWS; lane++) {
        int64_t row = first + lane < last ? first + lane : last - 1;
        index[lane] = (float)row;
        first_key[lane] = (float)qs_attention_first_key(shape, row);
        rows[lane] = q + row * q_stride;
    }
    for (int64_t d = 0; d < shape->head_dim; d++)
        for (int64_t lane = 0; lane < TILE_ROWS; lane++) tile->q[d][lane] = rows[lane][d] * scale;
    for (int u = 0; u < ROW_VECTORS; u++) {
        tile->row_index[u] = v_load(index + u * V_LANES);
        tile->first_key[u] = v_load(first_key + u * V_LANES);
        tile->max[u] = v_set(lowest_max);
        tile->sum[u] = v_set(0.0f);
    }
    for (int64_t d = 0; d < shape->head_dim; d++)
        for (int u = 0; u < ROW_VECTORS; u++) v_store(tile->o[d] + u * V_LANES, v_set(0.0f));
}

static void end_tile(attention_tile *tile, int64_t q_stride, int64_t first, int64_t last, float *out)
{
    vf share[ROW_VECTORS];
    for (int u = 0; u < ROW_VECTORS; u++) share[u] = v_div(v_set(1.0f), tile->sum[u]);
    for (int64_t d = 0; d < tile->head_dim; d++) {
        for (int u = 0; u < ROW_VECTORS; u++)
            v_store(tile->o[d] + u * V_LANES, v_mul(v_load(tile->o[d] + u * V_LANES), share[u]));
        for (int64_t row = first; row < last; row++) out[row * q_stride + d] = tile->o[d][row - first];
    }
}

static void attention_simd(const qs_attention_job *job, int64_t sequence, int64_t head, int64_t first, int64_t last)
{
    const qs_attention_shape *shape = &job->shape;
    int64_t q_stride = shape->n_heads * shape->head_dim, kv_stride = shape->n_kv_heads * shape->head_dim;
    int64_t kv_head = head / (shape->n_heads / shape->n_kv_heads);
    int64_t kv_offset = sequence * job->n_ctx * kv_stride + kv_head * shape->head_dim;
    int64_t q_offset = sequence * job->n_ctx * q_stride + head * shape->head_dim;
    attention_tile tile;
    tile.k = job->k + kv_offset;
    tile.v = job->v + kv_offset;
    tile.kv_stride = kv_stride;
    tile.head_dim = shape->head_dim;
    for (int64_t row = first; row < last; row += TILE_ROWS) {
        int64_t row_end = row + TILE_ROWS < last ? row + TILE_ROWS : last;
        begin_tile(&tile, shape, job->q + q_offset, row, row_end);
        /* Blocks start at multiples of KEY_BLOCK, so that a row meets the same blocks in any tile. */
        int64_t key = qs_attention_first_key(shape, row) / KEY_BLOCK * KEY_BLOCK;
        for (; key < row_end; key += KEY_BLOCK) {
            vf shrink[ROW_VECTORS];
            int64_t n_keys = row_end - key < KEY_BLOCK ? row_end - key : KEY_BLOCK;
            for (int64_t i = 0; i < n_keys; i += TILE_SIDE) score_keys(&tile, key + i, i, row_end);
            if (key + n_keys > row || key < qs_attention_first_key(shape, row_end - 1))
                mask_scores(&tile, key, n_keys);
            weigh(&tile, n_keys, shrink);
            add_values(&tile, key, n_keys, shrink);
        }
        end_tile(&tile, q_stride, row, row_end, job->out + q_offset);
    }
}

/* ---- decoding: one query; lanes run along the head ---- */

QS_INLINE float dot(const float *a, const float *b, int64_t n)
{
    vf sum = v_set(0.0f);
    int64_t i = 0;
    for (; i + V_LANES <= n; i += V_LANES) sum = v_fma(v_load(a + i), v_load(b + i), sum);
    if (i < n) sum = v_fma(v_load_part(a + i, n - i), v_load_part(b + i, n - i), sum);
    return v_sum(sum);
}

/* Scores of a block become weights; returns their sum, and in *shrink the factor for earlier blocks. */
static float weigh_block(float *scores, int64_t n, float *max, float *shrink)
{
    float padded_max = *max;
    for (int64_t i = 0; i < n; i++)
        if (!(scores[i] <= padded_max)) padded_max = scores[i];
    for (int64_t i = n; i % V_LANES != 0; i++) scores[i] = -INFINITY;
    vf sum = v_set(0.0f), vmax = v_set(padded_max);
    for (int64_t i = 0; i < n; i += V_LANES) {
        vf p = v_exp(v_sub(v_load(scores + i), vmax));
        sum = v_add(sum, p);
        v_store(scores + i, p);
    }
    float factor[V_LANES];
    v_store(factor, v_exp(v_set(*max - padded_max)));
    *shrink = factor[0];
    *max = padded_max;
    return v_sum(sum);
}

/* out[d] = out[d] shrink + sum over the block of p v[d] */
static void add_block_values(const float *p, int64_t n, const float *v, int64_t kv_stride, int64_t head_dim,
                             float shrink, float *out)
{
    for (int64_t d = 0; d < head_dim; d += V_LANES) {
        bool whole = head_dim - d >= V_LANES;
        int64_t width = whole ? V_LANES : head_dim - d;
        vf sums[4] = {v_set(0.0f), v_set(0.0f), v_set(0.0f), v_set(0.0f)};
        sums[0] = v_mul(whole ? v_load(out + d) : v_load_part(out + d, width), v_set(shrink));
        for (int64_t j = 0; j < n; j++) {
            const float *values = v + j * kv_stride + d;
            vf value = whole ? v_load(values) : v_load_part(values, width);
            sums[j % 4] = v_fma(v_set(p[j]), value, sums[j % 4]);
        }
        vf sum = v_add(v_add(sums[0], sums[1]), v_add(sums[2], sums[3]));
        if (whole)
            v_store(out + d, sum);
        else
            v_store_part(out + d, sum, width);
    }
}

static void attention_decode_simd(const qs_attention_job *job, int64_t sequence, int64_t head)
{
    const qs_attention_shape *shape = &job->shape;
    int64_t head_dim = shape->head_dim, kv_stride = shape->n_kv_heads * head_dim;
    int64_t kv_head = head / (shape->n_heads / shape->n_kv_heads);
    const float *k = job->k + sequence * job->n_ctx * kv_stride + kv_head * head_dim;
    const float *v = job->v + sequence * job->n_ctx * kv_stride + kv_head * head_dim;
    const float *q = job->q + (sequence * shape->n_heads + head) * head_dim;
    float *out = job->out + (sequence * shape->n_heads + head) * head_dim;
    float scale = (float)(1.0 / sqrt((double)head_dim)), max = lowest_max, total = 0.0f;
    float acc[QS_ATTENTION_HEAD_DIM_MAX] = {0.0f}; /* out may be q */
    int64_t end = (int64_t)job->positions[sequence] + 1;
    for (int64_t key = qs_attention_first_key(shape, end - 1); key < end; key += DECODE_BLOCK) {
        float scores[DECODE_BLOCK], shrink;
        int64_t n = end - key < DECODE_BLOCK ? end - key : DECODE_BLOCK;
        for (int64_t i = 0; i < n; i++) scores[i] = dot(q, k + (key + i) * kv_stride, head_dim) * scale;
        float sum = weigh_block(scores, n, &max, &shrink);
        total = total * shrink + sum;
        add_block_values(scores, n, v + key * kv_stride, kv_stride, head_dim, shrink, acc);
    }
    for (int64_t d = 0; d < head_dim; d++) out[d] = acc[d] / total;
}

#endif
