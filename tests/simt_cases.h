/* Kernels that try the CUDA twin (simt.h) itself. Launchers as in kernels.h: device pointers, 0 or the
 * runtime's code. */
#ifndef QS_TESTS_SIMT_CASES_H
#define QS_TESTS_SIMT_CASES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* out[b] = sum of x[256 b .. 256 b + 255], with or without the barriers that it needs. */
int qs_case_block_sum(void *stream, const float *x, int n_blocks, bool with_barriers, float *out);
/* out[1] = sum of x[256 n_blocks], in one launch: the last block adds up; count [1] is 0 before. */
int qs_case_grid_sum(void *stream, const float *x, int n_blocks, float *partial, unsigned *count, float *out);

enum { QS_CASE_SHFL, QS_CASE_SHFL_XOR, QS_CASE_SHFL_DOWN, QS_CASE_SHFL_UP, QS_CASE_SHFL_OUTSIDE };
/* One warp: out[i] = in[the lane that the shuffle says]. */
int qs_case_shuffle(void *stream, int kind, int argument, int width, const int *in, int *out);
int qs_case_shuffle_f64(void *stream, const double *in, double *out); /* xor 5 */
enum { QS_CASE_BALLOT, QS_CASE_ANY, QS_CASE_ALL, QS_CASE_BLOCK_COUNT, QS_CASE_BLOCK_OR, QS_CASE_BLOCK_AND };
/* `n_threads` threads, predicate[thread]; out[thread]. Threads from n_running on return at once. */
int qs_case_vote(void *stream, int kind, int n_threads, int n_running, const int *predicate, unsigned *out);

/* c[16, 8] += a[16, 16] b[8, 16]^T of 16-bit floats. */
int qs_case_mma(void *stream, bool bf16, const uint16_t *a, const uint16_t *b, float *c);
/* For every i < n, by whether the pointers are NULL. */
int qs_case_f32_of_half(void *stream, bool bf16, const uint16_t *h, int n, float *x);
int qs_case_half_of_f32(void *stream, bool bf16, const float *x, int n, uint16_t *h);
int qs_case_f16x2(void *stream, const uint32_t *a, const uint32_t *b, const uint32_t *c, int n, uint32_t *fma,
                  uint32_t *sub);
/* out[16]: what integer and float intrinsics give for fixed arguments, as simt_cases.cu lists them. */
int qs_case_intrinsics(void *stream, int *out);
int qs_case_atomics(void *stream, int n_blocks, int *sum, int *most, float *float_sum, double *double_sum);

/* 128 threads copy 16 bytes each to shared memory in two groups; out[k] is what lies there after waiting for
 * all but n_pending of the groups. */
int qs_case_copy(void *stream, const uint32_t *in, int n_pending, uint32_t *out);
/* out[0..31] unwritten static and out[32..63] unwritten dynamic shared memory of the second block; the first
 * wrote it. */
int qs_case_unwritten(void *stream, uint32_t *out);

typedef struct qs_case_pair {
    float factor, summand;
} qs_case_pair;
int qs_case_scale(void *stream, float *x, int n, qs_case_pair pair); /* x = x * factor + summand */

/* Does nothing, with any configuration. */
int qs_case_empty(void *stream, unsigned grid_x, unsigned grid_y, unsigned block_x, unsigned block_y,
                  size_t shared_bytes);
int qs_case_empty_allow(size_t shared_bytes);

enum { QS_CASE_ABSENT_LANE, QS_CASE_OTHER_MASK, QS_CASE_TWO_BARRIERS, QS_CASE_BARRIER_AND_VOTE, QS_CASE_OUTSIDE,
       QS_CASE_MMA_HALF_WARP, QS_CASE_BAD_COPY, QS_CASE_OVERRUN, QS_CASE_DYNAMIC_OVERRUN, QS_CASE_LONELY_BARRIER,
       QS_N_CASE_MISTAKES };
int qs_case_mistake(void *stream, int mistake, int *out); /* out[32] */

#ifdef __cplusplus
}
#endif

#endif
