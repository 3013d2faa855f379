/* Kernels that try wgmma.h, on a GPU that has such products or on its twin. Launchers as in kernels.h: device pointers,
 * 0 or the runtime's code. */
#ifndef QS_TESTS_WGMMA_CASES_H
#define QS_TESTS_WGMMA_CASES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* c[64, n] += a[64, 64] b[n, 64]^T by one warpgroup, n = 64, 128 or 256; MN-major operands hold their k in rows
 * (a [64 k, 64], b [64 k, n]). A from shared memory or, with `registers`, K-major from registers. */
typedef struct qs_case_wgmma_form {
    bool bf16, registers, a_mn, b_mn;
} qs_case_wgmma_form;
int qs_case_wgmma(void *stream, int n, qs_case_wgmma_form form, const uint16_t *a, const uint16_t *b, float *c);
/* out[n_rounds, 32]: a producer warp hands x [n_rounds, 32] to a consumer through a ring of two bulk copies. */
int qs_case_ring(void *stream, const uint32_t *x, int n_rounds, uint32_t *out);

#ifdef __cplusplus
}
#endif

#endif
