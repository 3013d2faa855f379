/* Second moments, the leaves of their Cholesky factor, and the error that quantising leaves, on the GPU.
 *
 * The factor is found by halves with qs_op_gemm (quant/cholesky.c); only blocks of 64 on the diagonal are
 * solved here, in f64 as on the CPU, so that accuracy does not depend on the device. A library's
 * factorisation would give neither the upper factor taken from the last column, nor its inverse, nor f64 on
 * the diagonal alone. */
#include "backend/cuda/device.h"
#include "backend/cuda/kernels.h"

namespace {

enum {
    SIDE = 32, /* of the squares that are transposed */
    LEAF = 64, /* QS_FACTOR_LEAF */
    THREADS = 256,
};

unsigned ceil_div(int64_t a, int64_t b) { return (unsigned)((a + b - 1) / b); }

/* A square of the upper triangle and its mirror; block (32, 8). */
__global__ void unpack_kernel(const float *packed, int64_t n, float factor, float *h)
{
    if (blockIdx.x < blockIdx.y) return;
    __shared__ float square[SIDE][SIDE + 1];
    int64_t first_row = (int64_t)blockIdx.y * SIDE, first = (int64_t)blockIdx.x * SIDE;
    int x = (int)threadIdx.x;
    int64_t column = first + x;
    for (int y = (int)threadIdx.y; y < SIDE; y += (int)blockDim.y) {
        int64_t row = first_row + y;
        float value = 0.0f;
        if (row <= column && column < n) {
            value = packed[row * n - row * (row - 1) / 2 + (column - row)] * factor;
            h[row * n + column] = value;
        }
        square[y][x] = value;
    }
    __syncthreads();
    for (int y = (int)threadIdx.y; y < SIDE; y += (int)blockDim.y) {
        int64_t row = first + y, mirrored = first_row + x;
        if (mirrored < row && row < n) h[row * n + mirrored] = square[x][y];
    }
}

/* A row of 256 columns a block. */
__global__ void order_kernel(const float *h, const int32_t *order, int64_t n, double shift, double dead,
                             float *a, float *u)
{
    int64_t i = blockIdx.x, j = (int64_t)blockIdx.y * THREADS + threadIdx.x;
    if (j >= n) return;
    if (j < i) {
        u[i * n + j] = 0.0f;
        return;
    }
    float element = h[order[i] * n + order[j]];
    if (i == j) element = (float)((element > 0 ? (double)element : dead) + shift);
    a[i * n + j] = element;
}

/* One block. With A = R R^T, R upper, both R's columns and the rows of its inverse come from the last to the
 * first, and both take up a rank-one update after each step. m holds, for columns j < k not done yet, what is
 * left of A; for j >= k the sums of the inverse's rows to come. `line` is R's column k above the diagonal and
 * the inverse's row k from it on. */
__global__ void __launch_bounds__(THREADS)
    leaf_kernel(const float *a, float *u, int64_t ld, int n, int32_t *status)
{
    __shared__ double m[LEAF][LEAF], line[LEAF];
    int j = (int)threadIdx.x % LEAF, first = (int)threadIdx.x / LEAF, t = (int)threadIdx.x;
    for (int i = first; i < n; i += THREADS / LEAF) m[i][j] = j >= i && j < n ? (double)a[i * ld + j] : 0.0;
    __syncthreads();
    for (int k = n - 1; k >= 0; k--) {
        double pivot = m[k][k], root = sqrt(pivot);
        if (t == 0 && !(pivot > 0 && pivot <= DBL_MAX)) atomicOr(status, 1);
        if (t < n) line[t] = (t == k ? 1.0 : t < k ? m[t][k] : m[k][t]) / root;
        __syncthreads();
        for (int i = first; i <= k && j < n; i += THREADS / LEAF) {
            if (j < i) continue;
            if (i == k)
                m[i][j] = line[j];
            else
                m[i][j] = (j == k ? 0.0 : m[i][j]) - line[i] * line[j];
        }
        __syncthreads();
    }
    for (int i = first; i < n; i += THREADS / LEAF)
        if (j < n) u[i * ld + j] = j >= i ? (float)m[i][j] : 0.0f;
}

/* A row a block. */
__global__ void check_kernel(const float *u, int64_t n, int32_t *status)
{
    int64_t i = blockIdx.x;
    bool bad = false;
    for (int64_t j = i + threadIdx.x; j < n; j += THREADS) bad = bad || !(fabsf(u[i * n + j]) <= FLT_MAX);
    if (bad) atomicOr(status, 2);
}

/* A row of 256 columns a block. */
__global__ void errors_kernel(const float *weights, qs_cu_packed p, float *errors)
{
    int64_t row = blockIdx.x, j = (int64_t)blockIdx.y * THREADS + threadIdx.x;
    if (j >= p.n_in) return;
    const uint8_t *codes = p.codes + row * p.row_bytes;
    int64_t bit = j * p.bits, byte = bit / 8, g = row * p.n_groups + j / p.group_size;
    unsigned pair = codes[byte];
    if (byte + 1 < p.row_bytes) pair |= (unsigned)codes[byte + 1] << 8;
    int code = (int)(pair >> (bit % 8) & ((1u << p.bits) - 1u));
    int zero = p.zeros != NULL ? p.zeros[g] : 1 << (p.bits - 1);
    int64_t at = row * p.n_in + (p.perm != NULL ? p.perm[j] : j);
    float weight = qs_f32_of_f16(p.scales[g]) * (float)(code - zero); /* exact */
    if (p.columns != NULL) weight = weight * (p.rows != NULL ? p.rows[row] : 1.0f) / p.columns[at - row * p.n_in];
    errors[at] = weights[at] - weight;
}

/* A row a warp; the halves of its lanes' sums are added in a fixed order. */
__global__ void dots_kernel(const float *a, int64_t lda, const float *b, int64_t ldb, int64_t n_rows, int64_t n,
                            bool add, double *sum)
{
    int64_t row = (int64_t)blockIdx.x * (THREADS / 32) + threadIdx.x / 32;
    if (row >= n_rows) return;
    double own = 0;
    for (int64_t j = threadIdx.x % 32; j < n; j += 32) own += (double)a[row * lda + j] * (double)b[row * ldb + j];
    for (int distance = 16; distance > 0; distance /= 2) own += __shfl_xor_sync(0xffffffffu, own, distance);
    if (threadIdx.x % 32 == 0) sum[row] = (add ? sum[row] : 0.0) + own;
}

}

extern "C" int qs_cu_unpack_moments(void *stream, const float *packed, int64_t n, float factor, float *h)
{
    QS_LAUNCH(unpack_kernel, dim3(ceil_div(n, SIDE), ceil_div(n, SIDE)), dim3(SIDE, 8), 0, stream, packed, n,
              factor, h);
    return qs_launch_status();
}

extern "C" int qs_cu_order_moments(void *stream, const float *h, const int32_t *order, int64_t n,
                                   double shift, double dead, float *a, float *u)
{
    QS_LAUNCH(order_kernel, dim3((unsigned)n, ceil_div(n, THREADS)), dim3(THREADS), 0, stream, h, order, n,
              shift, dead, a, u);
    return qs_launch_status();
}

extern "C" int qs_cu_factor_leaf(void *stream, const float *a, float *u, int64_t ld, int64_t n,
                                 int32_t *status)
{
    QS_LAUNCH(leaf_kernel, dim3(1), dim3(THREADS), 0, stream, a, u, ld, (int)n, status);
    return qs_launch_status();
}

extern "C" int qs_cu_check_factor(void *stream, const float *u, int64_t n, int32_t *status)
{
    QS_LAUNCH(check_kernel, dim3((unsigned)n), dim3(THREADS), 0, stream, u, n, status);
    return qs_launch_status();
}

extern "C" int qs_cu_quant_errors(void *stream, const float *weights, const qs_cu_packed *packed,
                                  float *errors)
{
    QS_LAUNCH(errors_kernel, dim3((unsigned)packed->n_out, ceil_div(packed->n_in, THREADS)), dim3(THREADS), 0,
              stream, weights, *packed, errors);
    return qs_launch_status();
}

extern "C" int qs_cu_row_dots(void *stream, const float *a, int64_t lda, const float *b, int64_t ldb,
                              int64_t n_rows, int64_t n, bool add, double *sum)
{
    QS_LAUNCH(dots_kernel, dim3(ceil_div(n_rows, THREADS / 32)), dim3(THREADS), 0, stream, a, lda, b, ldb, n_rows, n,
              add, sum);
    return qs_launch_status();
}
