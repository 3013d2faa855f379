/* GPTQ and round to nearest (quant/solver.h) on the GPU.
 *
 * A block has 32 rows of the matrix, one for each lane, and takes a panel of up to 128 columns through shared
 * memory. Its eight warps share what is wide and take turns at what is not:
 *   search   each warp tries nine of the 70 scales on the whole group
 *   code     warp 0 codes 16 columns one after the other; the values wait in registers
 *   spread   each warp brings 16 of the columns to come up to date with the 16 errors
 * Columns behind the panel take up its errors in one product of qs_op_gemm. Every value takes up errors in
 * the order of the visits, so results do not depend on how rows and panels are shared out.
 *
 * Groups of a panel start at multiples of 16 in shared memory; what is left between them are columns of zeros
 * with a unit factor, which have no error and change nothing. That keeps all loops whole and all loads of U
 * aligned.
 *
 * What bounds it (4096 x 14336 at 4 bits on 132 SMs): 70 trials of 8 instructions a weight, and 14336 columns
 * that wait for each other, each two divisions and a few products long. */
#include "backend/cuda/device.h"
#include "backend/cuda/kernels.h"
#include "backend/cuda/scales.h"

namespace {

enum {
    ROWS = QS_CU_SOLVE_ROWS,
    WARPS = 8,
    THREADS = WARPS * 32,
    PANEL = QS_CU_PANEL,
    BLOCK = QS_CU_BLOCK,
    STEPS = (QS_SCALE_STEPS + WARPS - 1) / WARPS, /* that one warp tries */
    CHUNK = 64, /* columns of a wide group in shared memory at a time */
    SIDE = 32, /* of the squares that are transposed */
};

/* What warps tell each other about the 32 rows while they look for a scale. */
struct exchange {
    float low[WARPS][ROWS], high[WARPS][ROWS], error[WARPS][ROWS];
    int step[WARPS][ROWS];
};

/* The search of one lane: its row's range, and the candidates of its warp. */
struct search {
    float low, base, maxq;
    float scale[STEPS], inverse[STEPS], floor[STEPS], error[STEPS];
};

__device__ __forceinline__ void candidate(const search &s, bool sym, float factor, float *scale, float *zero)
{
    qs_cu_scale_of(s.low, s.base, s.maxq, sym, factor, scale, zero);
}

/* Widens low and high by the warp's share of n columns [n][ROWS]. */
__device__ __forceinline__ void widen(const float *x, int n, int warp, int lane, float *low, float *high)
{
    for (int i = warp; i < n; i += WARPS) {
        *low = fminf(*low, x[i * ROWS + lane]);
        *high = fmaxf(*high, x[i * ROWS + lane]);
    }
}

/* After every warp has seen its share: the range of the group and the candidates. All threads of the block. */
__device__ __forceinline__ void start_search(search *s, const qs_cu_scale_rule &rule, exchange *ex, int warp,
                                             int lane, float low, float high)
{
    ex->low[warp][lane] = low;
    ex->high[warp][lane] = high;
    __syncthreads();
    for (int w = 0; w < WARPS; w++) {
        low = fminf(low, ex->low[w][lane]);
        high = fmaxf(high, ex->high[w][lane]);
    }
    qs_cu_settle_range(rule.sym, &low, &high);
    s->maxq = (float)((1 << rule.bits) - 1);
    s->low = low;
    s->base = (high - low) / s->maxq;
    if (!rule.search) return;
#pragma unroll
    for (int k = 0; k < STEPS; k++) {
        float zero;
        candidate(*s, rule.sym, qs_scale_factor(warp + k * WARPS), &s->scale[k], &zero);
        s->inverse[k] = 1.0f / s->scale[k];
        s->floor[k] = QS_SCALE_MAGIC - zero;
        s->error[k] = 0.0f;
    }
}

/* Adds the errors of n columns; weight [n] in shared memory. */
__device__ __forceinline__ void add_errors(search *s, const float *x, const float *weight, int n, int lane)
{
    for (int i = 0; i < n; i++) {
        float w = x[i * ROWS + lane], g = weight[i];
#pragma unroll
        for (int k = 0; k < STEPS; k++) {
            float q = fmaxf(fmaf(w, s->inverse[k], QS_SCALE_MAGIC), s->floor[k]);
            q = fminf(q, s->floor[k] + s->maxq) - QS_SCALE_MAGIC;
            float e = fmaf(-s->scale[k], q, w);
            s->error[k] = fmaf(e * g, e, s->error[k]);
        }
    }
}

/* The best candidate of all warps, the first of equals; every thread learns it. */
__device__ __forceinline__ void finish_search(const search &s, const qs_cu_scale_rule &rule, exchange *ex,
                                              int warp, int lane, float *scale, float *zero)
{
    if (!rule.search) {
        candidate(s, rule.sym, 1.0f, scale, zero);
        return;
    }
    float best = INFINITY;
    int step = QS_SCALE_STEPS;
#pragma unroll
    for (int k = 0; k < STEPS; k++) {
        bool better = warp + k * WARPS < QS_SCALE_STEPS && s.error[k] < best;
        best = better ? s.error[k] : best;
        step = better ? warp + k * WARPS : step;
    }
    ex->error[warp][lane] = best;
    ex->step[warp][lane] = step;
    __syncthreads();
    for (int w = 0; w < WARPS; w++) {
        float error = ex->error[w][lane];
        int other = ex->step[w][lane];
        bool better = error < best || (error == best && other < step);
        best = better ? error : best;
        step = better ? other : step;
    }
    *scale = 1.0f; /* where no error is finite */
    *zero = 0.0f;
    if (step < QS_SCALE_STEPS) candidate(s, rule.sym, qs_scale_factor(step), scale, zero);
}

/* One group for 32 rows a block. */
__global__ void __launch_bounds__(THREADS)
    scale_kernel(qs_cu_scale_rule rule, const float *live, const int32_t *position, int64_t width, int64_t n,
                 int64_t group_size, const float *column_weight, float *scale, float *zero)
{
    __shared__ float x[CHUNK * ROWS], weight[CHUNK];
    __shared__ exchange ex;
    int warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32;
    int64_t row = (int64_t)blockIdx.x * ROWS + lane, first = (int64_t)blockIdx.y * group_size;
    int64_t last = first + group_size < n ? first + group_size : n;
    float low = 0.0f, high = 0.0f;
    for (int64_t j = first + warp; j < last; j += WARPS) {
        float value = live[(position != NULL ? position[j] : j) * width + row];
        low = fminf(low, value);
        high = fmaxf(high, value);
    }
    search s;
    start_search(&s, rule, &ex, warp, lane, low, high);
    for (int64_t at = first; rule.search && at < last; at += CHUNK) {
        int count = last - at < CHUNK ? (int)(last - at) : CHUNK;
        __syncthreads();
        for (int i = warp; i < count; i += WARPS)
            x[i * ROWS + lane] = live[(position != NULL ? position[at + i] : at + i) * width + row];
        if ((int)threadIdx.x < count)
            weight[threadIdx.x] = column_weight != NULL ? column_weight[at + threadIdx.x] : 1.0f;
        __syncthreads();
        add_errors(&s, x, weight, count, lane);
    }
    float found_scale, found_zero;
    finish_search(s, rule, &ex, warp, lane, &found_scale, &found_zero);
    if (warp != 0) return;
    scale[blockIdx.y * width + row] = found_scale;
    zero[blockIdx.y * width + row] = found_zero;
}

/* A panel in shared memory. Slot s holds the column column[s], or none (-1). */
struct slots {
    float *x; /* [PANEL][ROWS] */
    float *u; /* [PANEL][PANEL], upper triangle */
    int *column; /* [PANEL] */
    float *weight; /* [PANEL] */
    int n, columns; /* slots and columns in use */
    int group, padded; /* columns and slots of a group */
};

__device__ __forceinline__ int round_up(int n) { return (n + BLOCK - 1) / BLOCK * BLOCK; }

/* Lays out and loads the panel's columns from `first` on. All threads of the block. */
__device__ __forceinline__ void load_panel(const qs_cu_panel &p, int64_t first, slots *s)
{
    int warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32;
    int64_t row = (int64_t)blockIdx.x * ROWS + lane;
    s->columns = p.n - first < p.n_panel ? (int)(p.n - first) : p.n_panel;
    s->group = p.group_size > 0 ? p.group_size : s->columns;
    s->padded = round_up(s->group);
    int before = (s->columns - 1) / s->group; /* whole groups before the last */
    s->n = before * s->padded + round_up(s->columns - before * s->group);
    for (int t = (int)threadIdx.x; t < s->n; t += THREADS) {
        int c = t / s->padded * s->group + t % s->padded;
        bool used = t % s->padded < s->group && c < s->columns;
        s->column[t] = used ? c : -1;
        s->weight[t] = used && p.column_weight != NULL ? p.column_weight[first + c] : 1.0f;
    }
    __syncthreads();
    for (int t = warp; t < s->n; t += WARPS)
        s->x[t * ROWS + lane] = s->column[t] >= 0 ? p.live[(first + s->column[t]) * p.width + row] : 0.0f;
    if (p.u == NULL) return;
#pragma unroll 4
    for (int t = warp; t < s->n; t += WARPS) {
        int from = s->column[t];
        for (int j = lane; j < s->n; j += 32) {
            int to = s->column[j];
            float value = j == t ? 1.0f : 0.0f;
            if (j >= t && from >= 0 && to >= 0) value = p.u[from * p.ldu + to];
            s->u[t * PANEL + j] = value;
        }
    }
}

/* Slots b .. b + BLOCK, one after the other, by one warp. With group_size > 0 all have scale and zero. */
__device__ __forceinline__ void code_block(const qs_cu_panel &p, int64_t first, const slots &s, int b,
                                           float scale, float zero)
{
    int lane = (int)threadIdx.x % 32;
    int64_t row = (int64_t)blockIdx.x * ROWS + lane;
    float v[BLOCK], scales[BLOCK], zeros[BLOCK], maxq = (float)((1 << p.rule.bits) - 1);
#pragma unroll
    for (int i = 0; i < BLOCK; i++) {
        int column = s.column[b + i];
        v[i] = s.x[(b + i) * ROWS + lane];
        scales[i] = scale;
        zeros[i] = zero;
        if (p.group_size > 0 || column < 0) continue;
        int64_t at = p.group[first + column] * p.width + row;
        scales[i] = p.scale[at];
        zeros[i] = p.zero[at];
    }
#pragma unroll
    for (int i = 0; i < BLOCK; i++) {
        float q = rintf(fminf(fmaxf(v[i] / scales[i], -zeros[i]), maxq - zeros[i]));
        int column = s.column[b + i];
        if (column >= 0) p.codes[(first + column) * p.width + row] = (uint8_t)(q + zeros[i]);
        if (p.u == NULL) continue;
        const float *u = s.u + (b + i) * PANEL + b;
        float e = fmaf(-scales[i], q, v[i]) / u[i];
        s.x[(b + i) * ROWS + lane] = e;
#pragma unroll
        for (int j = i + 1; j < BLOCK; j++) v[j] = fmaf(-u[j], e, v[j]);
    }
}

/* Slots c .. c + BLOCK take up the errors of slots b .. b + BLOCK. */
__device__ __forceinline__ void spread(const slots &s, int b, int c)
{
    int lane = (int)threadIdx.x % 32;
    float v[BLOCK];
#pragma unroll
    for (int j = 0; j < BLOCK; j++) v[j] = s.x[(c + j) * ROWS + lane];
#pragma unroll 4
    for (int i = 0; i < BLOCK; i++) {
        float e = s.x[(b + i) * ROWS + lane];
        const float4 *u = reinterpret_cast<const float4 *>(s.u + (b + i) * PANEL + c);
#pragma unroll
        for (int j = 0; j < BLOCK / 4; j++) {
            float4 factor = u[j];
            v[4 * j] = fmaf(-factor.x, e, v[4 * j]);
            v[4 * j + 1] = fmaf(-factor.y, e, v[4 * j + 1]);
            v[4 * j + 2] = fmaf(-factor.z, e, v[4 * j + 2]);
            v[4 * j + 3] = fmaf(-factor.w, e, v[4 * j + 3]);
        }
    }
#pragma unroll
    for (int j = 0; j < BLOCK; j++) s.x[(c + j) * ROWS + lane] = v[j];
}

/* Codes slots first_slot .. last_slot and spreads their errors over the rest of the panel. All threads. */
__device__ __forceinline__ void code_slots(const qs_cu_panel &p, int64_t first, const slots &s,
                                           int first_slot, int last_slot, float scale, float zero)
{
    int warp = (int)threadIdx.x / 32;
    if (p.u == NULL) { /* blocks do not meet */
        for (int b = first_slot + BLOCK * warp; b < last_slot; b += BLOCK * WARPS)
            code_block(p, first, s, b, scale, zero);
        return;
    }
    for (int b = first_slot; b < last_slot; b += BLOCK) {
        if (warp == 0) code_block(p, first, s, b, scale, zero);
        __syncthreads();
        for (int c = b + BLOCK * (1 + warp); c < s.n; c += BLOCK * WARPS) spread(s, b, c);
        __syncthreads();
    }
}

__global__ void __launch_bounds__(THREADS) panel_kernel(qs_cu_panel p)
{
    QS_DYNAMIC_SHARED(float, shared);
    __shared__ int column[PANEL];
    __shared__ float weight[PANEL];
    __shared__ exchange ex;
    int warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32;
    int64_t row = (int64_t)blockIdx.x * ROWS + lane, first = (int64_t)blockIdx.y * p.n_panel;
    slots s;
    s.x = shared;
    s.u = shared + PANEL * ROWS;
    s.column = column;
    s.weight = weight;
    load_panel(p, first, &s);
    __syncthreads();
    if (p.group_size == 0) {
        code_slots(p, first, s, 0, s.n, 1.0f, 0.0f);
    } else {
        for (int a = 0, c = 0; a < s.n; a += s.padded, c += s.group) {
            int n = s.columns - c < s.group ? s.columns - c : s.group;
            float low = 0.0f, high = 0.0f, scale, zero;
            search found;
            widen(s.x + a * ROWS, n, warp, lane, &low, &high);
            start_search(&found, p.rule, &ex, warp, lane, low, high);
            if (p.rule.search) add_errors(&found, s.x + a * ROWS, weight + a, n, lane);
            finish_search(found, p.rule, &ex, warp, lane, &scale, &zero);
            if (warp == 1) {
                int64_t at = p.group[first + c] * p.width + row;
                p.scale[at] = scale;
                p.zero[at] = zero;
            }
            __syncthreads(); /* the exchange is read before the next group writes it */
            code_slots(p, first, s, a, a + s.padded < s.n ? a + s.padded : s.n, scale, zero);
        }
    }
    if (p.u == NULL) return;
    for (int t = warp; t < s.n; t += WARPS)
        if (column[t] >= 0) p.live[(first + column[t]) * p.width + row] = s.x[t * ROWS + lane];
}

/* live = the columns in their order, transposed; block (32, 8). */
__global__ void gather_kernel(const float *weights, int64_t n_out, int64_t n_in, const int32_t *order,
                              int64_t width, float *live)
{
    __shared__ float square[SIDE][SIDE + 1];
    int64_t first_row = (int64_t)blockIdx.x * SIDE, first = (int64_t)blockIdx.y * SIDE;
    int x = (int)threadIdx.x;
    int64_t visit = first + x, column = visit < n_in && order != NULL ? order[visit] : visit;
    for (int y = (int)threadIdx.y; y < SIDE; y += (int)blockDim.y)
        square[y][x] =
            first_row + y < n_out && visit < n_in ? weights[(first_row + y) * n_in + column] : 0.0f;
    __syncthreads();
    for (int y = (int)threadIdx.y; y < SIDE; y += (int)blockDim.y)
        if (first + y < n_in) live[(first + y) * width + first_row + x] = square[x][y];
}

/* Eight codes, which are `bits` whole bytes, a thread; block (32, 8). */
__global__ void pack_kernel(const uint8_t *codes, const int32_t *position, int64_t n_out, int64_t n_in,
                            int64_t width, int bits, int64_t row_bytes, uint8_t *packed)
{
    int64_t row = (int64_t)blockIdx.x * 32 + threadIdx.x,
            unit = (int64_t)blockIdx.y * blockDim.y + threadIdx.y;
    if (row >= n_out || unit * 8 >= n_in) return;
    uint64_t stream = 0;
    for (int i = 0; i < 8 && unit * 8 + i < n_in; i++) {
        int64_t j = unit * 8 + i, visit = position != NULL ? position[j] : j;
        stream |= (uint64_t)codes[visit * width + row] << (i * bits);
    }
    for (int64_t i = unit * bits; i < (unit + 1) * bits && i < row_bytes; i++, stream >>= 8)
        packed[row * row_bytes + i] = (uint8_t)stream;
}

__global__ void store_scales_kernel(const float *scale, const float *zero, int64_t n_out, int64_t n_groups,
                                    int64_t width, uint16_t *scales, uint8_t *zeros)
{
    int64_t row = (int64_t)blockIdx.x * 32 + threadIdx.x, g = (int64_t)blockIdx.y * blockDim.y + threadIdx.y;
    if (row >= n_out || g >= n_groups) return;
    scales[row * n_groups + g] = qs_f16_of_f32(scale[g * width + row]);
    if (zeros != NULL) zeros[row * n_groups + g] = (uint8_t)zero[g * width + row];
}

unsigned ceil_div(int64_t a, int64_t b) { return (unsigned)((a + b - 1) / b); }

}

extern "C" int qs_cu_solve_gather(void *stream, const float *weights, int64_t n_out, int64_t n_in,
                                  const int32_t *order, int64_t width, float *live)
{
    QS_LAUNCH(gather_kernel, dim3(ceil_div(width, SIDE), ceil_div(n_in, SIDE)), dim3(SIDE, 8), 0, stream,
              weights, n_out, n_in, order, width, live);
    return qs_launch_status();
}

extern "C" int qs_cu_solve_scales(void *stream, const qs_cu_scale_rule *rule, const float *live,
                                  const int32_t *position, int64_t width, int64_t n, int64_t group_size,
                                  const float *column_weight, float *scale, float *zero)
{
    QS_LAUNCH(scale_kernel, dim3(ceil_div(width, ROWS), ceil_div(n, group_size)), dim3(THREADS), 0, stream,
              *rule, live, position, width, n, group_size, column_weight, scale, zero);
    return qs_launch_status();
}

extern "C" int qs_cu_solve_panels(void *stream, const qs_cu_panel *panel)
{
    size_t bytes = (PANEL * ROWS + (panel->u != NULL ? PANEL * PANEL : 0)) * sizeof(float);
    int code = qs_allow_shared(panel_kernel, bytes);
    if (code != 0) return code;
    QS_LAUNCH(panel_kernel, dim3(ceil_div(panel->width, ROWS), ceil_div(panel->n, panel->n_panel)),
              dim3(THREADS), bytes, stream, *panel);
    return qs_launch_status();
}

extern "C" int qs_cu_solve_pack(void *stream, const uint8_t *codes, const int32_t *position, int64_t n_out,
                                int64_t n_in, int64_t width, int bits, int64_t row_bytes, uint8_t *packed)
{
    QS_LAUNCH(pack_kernel, dim3(ceil_div(n_out, 32), ceil_div(n_in, 64)), dim3(32, 8), 0, stream, codes,
              position, n_out, n_in, width, bits, row_bytes, packed);
    return qs_launch_status();
}

extern "C" int qs_cu_solve_store_scales(void *stream, const float *scale, const float *zero, int64_t n_out,
                                        int64_t n_groups, int64_t width, uint16_t *scales, uint8_t *zeros)
{
    QS_LAUNCH(store_scales_kernel, dim3(ceil_div(n_out, 32), ceil_div(n_groups, 8)), dim3(32, 8), 0, stream,
              scale, zero, n_out, n_groups, width, scales, zeros);
    return qs_launch_status();
}
