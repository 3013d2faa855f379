/* Engines for products of many rows. An engine packs a weight matrix once, 64 output rows at a time and from
 * any thread, and multiplies it with many rows; it also serves the plain products of solvers.
 * Engines: the plain-C reference (ref_gemm.c) and oneDNN (onednn.c). */
#ifndef QS_BACKEND_CPU_GEMM_H
#define QS_BACKEND_CPU_GEMM_H

#include "backend/backend.h"
#include "backend/cpu/kernels.h"
#include "base/team.h"

enum { QS_PACK_ROWS = QS_TURN_ROWS }; /* output rows packed at a time; a pack is padded to whole blocks of them */

typedef struct qs_gemm_pack {
    int64_t n_out, n_in;
    qs_compute compute;
    void *data; /* of the engine's pack_bytes; owned by the caller */
} qs_gemm_pack;

typedef struct qs_gemm_engine {
    const char *from;
    /* Team and kernels are borrowed. `text` gets one line about what was found. */
    qs_err (*create)(void **out, qs_team *team, const qs_cpu_kernels *kernels, char *text, size_t text_bytes);
    void (*destroy)(void *engine);
    /* Memory that the engine holds itself. */
    size_t (*held_bytes)(const void *engine);

    size_t (*pack_bytes)(const void *engine, int64_t n_out, int64_t n_in, qs_compute compute);
    /* rows [n_rows, n_in] f32 become output rows first_row ..; first_row is a multiple of QS_PACK_ROWS and
     * n_rows is QS_PACK_ROWS except at the end of the matrix. Called from many threads. */
    void (*pack_rows)(const void *engine, const qs_gemm_pack *pack, int64_t first_row, int64_t n_rows,
                      const float *rows);
    /* y[n, n_out] = x[n, n_in] W^T + bias (NULL = none) */
    qs_err (*multiply)(void *engine, const qs_gemm_pack *pack, const float *x, int64_t n, const float *bias,
                       float *y);

    /* As qs_op_gemm. */
    qs_err (*gemm)(void *engine, bool trans_a, bool trans_b, int64_t m, int64_t n, int64_t k, float alpha,
                   const float *a, int64_t lda, const float *b, int64_t ldb, float beta, float *c, int64_t ldc);
} qs_gemm_engine;

extern const qs_gemm_engine qs_gemm_reference, qs_gemm_onednn;

#endif
