/* What the two kernels of attention over whole windows share. */
#ifndef QS_BACKEND_CUDA_ATTENTION_TILES_H
#define QS_BACKEND_CUDA_ATTENTION_TILES_H

#include "backend/cuda/device.h"
#include "backend/cuda/kernels.h"

constexpr float QS_CU_LOG2_E = 1.44269504f; /* weights are powers of 2: queries are scaled by this too */

struct qs_cu_attention_args {
    const float *q, *k, *v;
    float *out;
    int n_kv_heads, head_dim, window, n_ctx; /* heads, tiles and windows are the grid's x, y and z */
};

/* The block's head: rows 0 of its window, and how far rows are apart. */
struct qs_cu_head_place {
    int64_t q_offset, kv_offset, q_stride, kv_stride;
};

static __device__ __forceinline__ qs_cu_head_place qs_cu_head_place_of(const qs_cu_attention_args &args)
{
    int64_t n_heads = gridDim.x, head = blockIdx.x, kv_head = head / (n_heads / args.n_kv_heads);
    int64_t dim = args.head_dim, first_row = (int64_t)blockIdx.z * args.n_ctx;
    return {(first_row * n_heads + head) * dim, (first_row * args.n_kv_heads + kv_head) * dim, n_heads * dim,
            args.n_kv_heads * dim};
}

static __device__ __forceinline__ int qs_cu_first_key(const qs_cu_attention_args &args, int row)
{
    return args.window > 0 && row >= args.window ? row - args.window + 1 : 0;
}

/* The largest tiles first, so that what is left at the end is small. */
static __device__ __forceinline__ int qs_cu_first_row_of_block(int rows)
{
    return (int)(gridDim.y - 1 - blockIdx.y) * rows;
}

/* attention_mma.cu: on the tensor cores, head_dim up to 128 and a multiple of 4. */
extern "C" int qs_cu_attention_mma(void *stream, const qs_cu_attention_args *args, int64_t n_heads,
                                   int64_t n_windows, bool in_16_bits);

#endif
