/* Plain products cut into tiles by shape alone and shared by the team; each tile is one single-threaded call
 * of a library's sgemm. */
#ifndef QS_BACKEND_CPU_GEMM_TILES_H
#define QS_BACKEND_CPU_GEMM_TILES_H

#include <stdbool.h>

#include "base/team.h"

/* Row-major C = alpha op(A) op(B) + beta C, trans 'T' or 'N'; single-threaded; returns 0 or an error number. */
typedef int (*qs_sgemm)(char trans_a, char trans_b, int64_t m, int64_t n, int64_t k, float alpha, const float *a,
                        int64_t lda, const float *b, int64_t ldb, float beta, float *c, int64_t ldc);

/* As qs_op_gemm; returns the error number of a tile that failed, or 0. */
int qs_gemm_tiles(qs_team *team, qs_sgemm sgemm, bool trans_a, bool trans_b, int64_t m, int64_t n, int64_t k,
                  float alpha, const float *a, int64_t lda, const float *b, int64_t ldb, float beta, float *c,
                  int64_t ldc);

#endif
