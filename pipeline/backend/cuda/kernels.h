/* Launchers of the CUDA kernels: plain C functions, one per operation, implemented in the .cu files.
 *
 * Pointers are device pointers unless a comment says host; shapes are row-major. A launcher puts its kernels on
 * the stream and returns 0 or the runtime's code for a failed launch (runtime.h); it neither allocates nor
 * waits. Sizes are checked by callers. */
#ifndef QS_BACKEND_CUDA_KERNELS_H
#define QS_BACKEND_CUDA_KERNELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ---- rows.cu ---- */
/* out[n, d] = rows tokens[n] of table[n_vocab, d]. */
int qs_cu_gather_rows(void *stream, const float *table, const int32_t *tokens, int64_t n, int64_t d, float *out);
/* out[i] = x[i] / sqrt(mean(x[i]^2) + eps) * weight; out may equal x. */
int qs_cu_rmsnorm(void *stream, const float *x, const float *weight, int64_t n, int64_t d, float eps, float *out);
/* x [n, n_heads, head_dim], halves rotated by (float)position * inv_freq[i]. */
int qs_cu_rope(void *stream, float *x, const int32_t *positions, const float *inv_freq, int64_t n,
               int64_t n_heads, int64_t head_dim);
int qs_cu_silu_mul(void *stream, const float *gate, const float *up, int64_t n, float *out);
int qs_cu_add(void *stream, float *x, const float *y, int64_t n); /* x += y */
int qs_cu_f32_to_bf16(void *stream, const float *x, int64_t n, uint16_t *out); /* nearest, ties to even */

/* ---- attention.cu, attention_decode.cu ---- */
typedef struct qs_cu_attention_shape {
    int64_t n_heads, n_kv_heads, head_dim, window; /* as qs_attention_shape */
} qs_cu_attention_shape;
/* Causal within each window; q, out [n_windows, n_ctx, n_heads * head_dim], k, v [.., n_kv_heads * head_dim]. */
int qs_cu_attention(void *stream, const qs_cu_attention_shape *shape, const float *q, const float *k,
                    const float *v, int64_t n_windows, int64_t n_ctx, float *out);
/* k, v of this step are first written into the caches at positions[batch]; a position outside 0 .. n_ctx_cap - 1
 * is skipped. `workspace` holds at least qs_cu_attention_decode_bytes. The split of the keys depends on the shape and on
 * n_ctx_cap, never on batch. */
size_t qs_cu_attention_decode_bytes(const qs_cu_attention_shape *shape, int64_t batch, int64_t n_ctx_cap);
int qs_cu_attention_decode(void *stream, const qs_cu_attention_shape *shape, const float *q, const float *k,
                           const float *v, float *k_cache, float *v_cache, const int32_t *positions,
                           int64_t batch, int64_t n_ctx_cap, float *out, void *workspace);

/* ---- logits.cu; every output may be NULL ---- */
int qs_cu_logit_stats(void *stream, const float *logits, const int32_t *targets, int64_t n, int64_t n_vocab,
                      double *lse, float *nll, int32_t *argmax, float *entropy);
int qs_cu_kld(void *stream, const float *logits_f, const double *lse_f, const float *logits_q,
              const double *lse_q, int64_t n, int64_t n_vocab, float *kld);

/* ---- stats.cu ---- */
/* gram[d, d] f64, upper triangle += x^T x; products exact in f64 (the slow, exact one). */
int qs_cu_gram_exact(void *stream, const float *x, int64_t n, int64_t d, double *gram);
int qs_cu_abs_stats(void *stream, const float *x, int64_t n, int64_t d, double *abs_sum, float *abs_max);

/* ---- linear_layout.c describes the layouts; linear.cu, linear_prepare.cu ---- */
enum { QS_CU_ROWS_MAX = 32, /* rows of x that the small-batch kernels take at once */
       QS_CU_TILE_ROWS = 16, QS_CU_CHUNK = 64 };

/* x[n, n_in] f32 to 16-bit terms for the tensor cores: x_terms[n_terms * n][n_in_padded] with row r's term t in row
 * r * n_terms + t, scaled by 1 / x_scale[r], a power of two that brings the row's largest value to [2^13, 2^14) for
 * f16 (1 for bf16); columns in stored order: x_terms[j] = x[perm[j]] (NULL = identity), zeros behind n_in. The second
 * term is the rounding error of the first. */
typedef struct qs_cu_x {
    const uint16_t *terms;
    const float *scale; /* [n] */
    int64_t n, n_in_padded;
    int n_terms; /* 1 or 2 */
} qs_cu_x;
int qs_cu_prepare_x(void *stream, const float *x, int64_t n, int64_t n_in, const int32_t *perm, bool bf16,
                    int n_terms, int64_t n_in_padded, uint16_t *terms, float *scale);

/* One matrix of a fused product. Codes lie as linear_layout.h says. */
typedef struct qs_cu_linear {
    const uint32_t *codes;  /* or the dense 16-bit elements */
    const uint32_t *scales; /* pairs of f16 */
    const uint16_t *zeros;  /* pairs of u8; NULL = 2^(bits-1) */
    const float *bias;      /* [n_out] or NULL */
    float *y;               /* [n, n_out] */
    int64_t n_out;
} qs_cu_linear;
enum { QS_CU_LINEARS_MAX = 3 };
typedef enum qs_cu_format { QS_CU_INT2, QS_CU_INT3, QS_CU_INT4, QS_CU_INT8, QS_CU_F16, QS_CU_BF16 } qs_cu_format;
/* y = x W^T + bias of up to QS_CU_LINEARS_MAX matrices with one input, format and group size; n <= QS_CU_ROWS_MAX.
 * A row's result does not depend on n. */
int qs_cu_linear_few(void *stream, qs_cu_format format, const qs_cu_linear *linears, int n_linears, int64_t n_in,
                     int64_t group_size, const qs_cu_x *x);
/* Dense f32 weights [n_out, n_in], few rows. */
int qs_cu_linear_f32(void *stream, const float *w, int64_t n_out, int64_t n_in, const float *x, int64_t n,
                     const float *bias, float *y);
/* The weights of a stored matrix as f32 (bf16 = false) or bf16 [n_out, n_in] in input-channel order. */
int qs_cu_dequant(void *stream, qs_cu_format format, const qs_cu_linear *linear, int64_t n_in, int64_t group_size,
                  const int32_t *perm, bool bf16, void *out);
/* y[n, n_out] += bias */
int qs_cu_add_bias(void *stream, float *y, const float *bias, int64_t n, int64_t n_out);

/* ---- gemm.cu: for a machine without cuBLAS, and for the shim ---- */
int qs_cu_gemm(void *stream, bool trans_a, bool trans_b, int64_t m, int64_t n, int64_t k, float alpha,
               const float *a, int64_t lda, const float *b, int64_t ldb, float beta, float *c, int64_t ldc);
/* c[m, n] f32 = a[m, k] b[n, k]^T of bf16 elements, f32 sums. */
int qs_cu_gemm_bf16(void *stream, int64_t m, int64_t n, int64_t k, const uint16_t *a, const uint16_t *b, float *c);

/* ---- peaks.cu ---- */
/* Reads `bytes` (a multiple of 16) once; out [1] keeps the compiler honest. */
int qs_cu_read(void *stream, const void *src, size_t bytes, uint32_t *out);

#ifdef __cplusplus
}
#endif

#endif
