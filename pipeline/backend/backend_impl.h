/* What a backend provides. backend.c checks arguments and dispatches here; only backends include this.
 *
 * Every entry is required: qs_backend_create refuses a backend whose table has a hole. Entries may assume
 * checked arguments: pointers present, sizes positive. */
#ifndef QS_BACKEND_BACKEND_IMPL_H
#define QS_BACKEND_BACKEND_IMPL_H

#include "backend/backend.h"

enum { QS_BACKEND_TEXT_BYTES = 256 };

typedef struct qs_backend_ops {
    const char *name; /* what qs_backend_create is asked for */

    /* Fills the fields of the backend behind `ops`. destroy accepts a half-made state. */
    qs_err (*create)(qs_backend *backend, int64_t device, int n_threads);
    void (*destroy)(qs_backend *backend);

    qs_err (*alloc)(qs_backend *backend, void **out, size_t bytes, const char *what);
    void (*free)(qs_backend *backend, void *pointer);
    qs_err (*upload)(qs_backend *backend, void *dst, const void *src, size_t bytes);
    qs_err (*download)(qs_backend *backend, void *dst, const void *src, size_t bytes);
    qs_err (*copy)(qs_backend *backend, void *dst, const void *src, size_t bytes); /* device to device */
    qs_err (*sync)(qs_backend *backend);
    qs_err (*load_beside)(qs_backend *backend, qs_load_step step);
    void (*get_memory)(const qs_backend *backend, qs_backend_memory *memory);
    qs_err (*set_budget)(qs_backend *backend, size_t bytes);

    /* out NULL: end the recording and drop it. */
    qs_err (*record_start)(qs_backend *backend);
    qs_err (*record_stop)(qs_backend *backend, void **out);
    qs_err (*play)(qs_backend *backend, void *recording);
    void (*forget)(qs_backend *backend, void *recording);

    /* update serves creation too: matrix->state is NULL then. On failure the matrix is still destroyable. */
    qs_err (*matrix_update)(qs_matrix *matrix, const qs_matrix_desc *desc);
    void (*matrix_destroy)(qs_matrix *matrix);
    /* out is zeros in both. */
    qs_err (*matrix_need)(qs_need *out, const qs_backend *backend, const qs_matrix_desc *desc, unsigned uses,
                          qs_compute compute, int64_t n_rows);
    void (*decoding_need)(qs_need *out, const qs_backend *backend, const qs_attention_shape *shape, int64_t batch,
                          int64_t n_ctx_cap);
    qs_err (*linears)(qs_backend *backend, const qs_linear_job *jobs, int64_t n_jobs, const float *x, int64_t n);
    qs_err (*linears_with)(qs_backend *backend, const qs_linear_with *with, const qs_linear_job *jobs, int64_t n_jobs,
                           const float *x, int64_t n);

    qs_err (*embed)(qs_backend *backend, const float *table, const int32_t *tokens, int64_t n, int64_t d, float *out);
    qs_err (*rmsnorm)(qs_backend *backend, const float *x, const float *weight, int64_t n, int64_t d, double eps,
                      float *out);
    qs_err (*rope)(qs_backend *backend, float *x, const int32_t *positions, const float *inv_freq, int64_t n,
                   int64_t n_heads, int64_t head_dim);
    qs_err (*attention)(qs_backend *backend, const qs_attention_shape *shape, const float *q, const float *k,
                        const float *v, int64_t n_windows, int64_t n_ctx, float *out);
    qs_err (*attention_decode)(qs_backend *backend, const qs_attention_shape *shape, float *q, float *k, const float *v,
                               const float *inv_freq, float *k_cache, float *v_cache, const int32_t *positions,
                               int64_t batch, int64_t n_ctx_cap, float *out);
    qs_err (*silu_mul)(qs_backend *backend, const float *gate, const float *up, int64_t n, float *out);
    qs_err (*add)(qs_backend *backend, float *x, const float *y, int64_t n);
    qs_err (*gram)(qs_backend *backend, const float *x, int64_t n, int64_t d, double *gram);
    qs_err (*abs_stats)(qs_backend *backend, const float *x, int64_t n, int64_t d, double *abs_sum, float *abs_max);
    qs_err (*logit_stats)(qs_backend *backend, const float *logits, const int32_t *targets, int64_t n,
                          int64_t n_vocab, const qs_logit_stats *out);
    qs_err (*sample)(qs_backend *backend, const float *logits, const qs_sample_rule *rules, int64_t n, int64_t n_vocab,
                     int32_t *tokens);
    qs_err (*kld)(qs_backend *backend, const float *logits_f, const double *lse_f, const float *logits_q,
                  const double *lse_q, int64_t n, int64_t n_vocab, float *kld);
    qs_err (*gemm)(qs_backend *backend, bool trans_a, bool trans_b, int64_t m, int64_t n, int64_t k, float alpha,
                   const float *a, int64_t lda, const float *b, int64_t ldb, float beta, float *c, int64_t ldc);
    qs_err (*measure_peaks)(qs_backend *backend, unsigned which, qs_backend_peaks *peaks);
    void (*list_ops)(const qs_backend *backend, qs_op_visit visit, void *context);
} qs_backend_ops;

struct qs_backend {
    const qs_backend_ops *ops;
    void *state;
    int n_threads;
    bool has_device, can_record;
    bool is_emulated; /* a device that the CPU pretends to be: for tests */
    int64_t gemv_rows;
    const qs_solver_ops *solver; /* NULL = none */
    const int64_t *scratch_moves; /* how often scratch that recordings may use has moved; NULL = it never does */
    char device[QS_BACKEND_TEXT_BYTES];
    char describe[QS_BACKEND_TEXT_BYTES];
};

struct qs_recording {
    qs_backend *backend;
    void *state;
    int64_t scratch_moves; /* when it was made */
};

struct qs_matrix {
    qs_backend *backend;
    int64_t n_out, n_in;
    unsigned uses;
    qs_compute compute;
    void *state;
    size_t bytes;       /* held for it */
    const char *kernel; /* of small products; a literal */
};

/* The backends, in cpu/cpu.c and cuda/cuda.c (where the build has CUDA). */
extern const qs_backend_ops qs_cpu_backend, qs_cpu_avx2_backend, qs_reference_backend, qs_cuda_backend;

#endif
