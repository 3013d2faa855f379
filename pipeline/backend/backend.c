#include "backend/backend.h"

#include <string.h>

#include "backend/backend_impl.h"
#include "base/mem.h"
#include "base/watchdog.h"

#ifdef QS_WITH_CUDA
#define CUDA_ROW &qs_cuda_backend,
static const char cuda_absent[] = "";
#else
#define CUDA_ROW
static const char cuda_absent[] =
    "this build has no CUDA; build with CUDA=1 where nvcc is installed, or use --backend cpu";
#endif

/* Best first: "auto" takes the first that is really there. Those behind the CPU are never chosen unasked. */
static const qs_backend_ops *const backends[] = {CUDA_ROW &qs_cpu_backend, &qs_cpu_avx2_backend,
                                                 &qs_reference_backend, NULL};

/* Every entry is a pointer, and every one is required. */
static qs_err check_complete(const qs_backend_ops *ops)
{
    uintptr_t entries[sizeof *ops / sizeof(uintptr_t)];
    memcpy(entries, ops, sizeof entries);
    for (size_t i = 0; i < sizeof entries / sizeof *entries; i++)
        if (entries[i] == 0)
            return qs_fail(QS_E_UNSUPPORTED, "create backend %s: entry %zu of its table is missing", ops->name, i);
    return QS_OK;
}

static qs_err create(qs_backend **out, const qs_backend_ops *ops, int64_t device, int n_threads)
{
    qs_err err = QS_OK;
    qs_backend *backend = NULL;
    QS_TRY(check_complete(ops));
    QS_TRY(QS_NEW(backend, 1, "backend"));
    backend->ops = ops;
    QS_TRY(ops->create(backend, device, n_threads));
    *out = backend;
    backend = NULL;
out:
    qs_backend_destroy(backend);
    return err;
}

/* The best there is, and why nothing better. An emulated device is for tests and never chosen unasked. */
static qs_err create_auto(qs_backend **out, int64_t device, int n_threads)
{
    char why[QS_BACKEND_TEXT_BYTES / 2];
    (void)snprintf(why, sizeof why, "%s", cuda_absent);
    for (int i = 0; backends[i] != &qs_cpu_backend; i++) {
        qs_err err = create(out, backends[i], device, n_threads);
        if (err == QS_OK && !(*out)->is_emulated) return QS_OK;
        (void)snprintf(why, sizeof why, "%s", err == QS_OK ? "its device is emulated" : qs_error_text());
        qs_backend_destroy(*out);
        *out = NULL;
    }
    qs_err err = create(out, &qs_cpu_backend, 0, n_threads);
    if (err != QS_OK) return err;
    size_t used = strlen((*out)->describe);
    (void)snprintf((*out)->describe + used, sizeof (*out)->describe - used, "; auto, no GPU: %s", why);
    return QS_OK;
}

qs_err qs_backend_create(qs_backend **out, const char *name, int64_t device, int n_threads)
{
    *out = NULL;
    if (n_threads < 0 || device < 0)
        return qs_fail(QS_E_USAGE, "create backend %s: threads and device cannot be negative", name);
    if (strcmp(name, "auto") == 0) return create_auto(out, device, n_threads);
    for (int i = 0; backends[i] != NULL; i++)
        if (strcmp(name, backends[i]->name) == 0) return create(out, backends[i], device, n_threads);
    if (strcmp(name, "cuda") == 0) return qs_fail(QS_E_UNSUPPORTED, "create backend %s: %s", name, cuda_absent);
    return qs_fail(QS_E_USAGE, "create backend %s: no such backend; use auto, cpu or cuda", name);
}

void qs_backend_destroy(qs_backend *backend)
{
    if (backend == NULL) return;
    backend->ops->destroy(backend);
    qs_mem_free(backend);
}

static const char *const compute_names[] = {[QS_COMPUTE_F32] = "f32", [QS_COMPUTE_BF16] = "bf16"};

const char *qs_compute_name(qs_compute compute) { return compute_names[compute]; }

qs_err qs_compute_parse(qs_compute *out, const char *text)
{
    for (size_t i = 0; i < sizeof compute_names / sizeof *compute_names; i++) {
        *out = (qs_compute)i;
        if (strcmp(text, compute_names[i]) == 0) return QS_OK;
    }
    return qs_fail(QS_E_USAGE, "--compute %s: it is f32 or bf16", text);
}

const char *qs_backend_name(const qs_backend *backend) { return backend->ops->name; }
const char *qs_backend_device(const qs_backend *backend) { return backend->device; }
const char *qs_backend_describe(const qs_backend *backend) { return backend->describe; }
int qs_backend_n_threads(const qs_backend *backend) { return backend->n_threads; }
bool qs_backend_has_device(const qs_backend *backend) { return backend->has_device; }
int64_t qs_backend_gemv_rows(const qs_backend *backend) { return backend->gemv_rows; }
const qs_solver_ops *qs_backend_solver(const qs_backend *backend) { return backend->solver; }

qs_err qs_backend_alloc(qs_backend *backend, void *out_pointer, size_t bytes, const char *what)
{
    return backend->ops->alloc(backend, out_pointer, bytes, what);
}

void qs_backend_free(qs_backend *backend, void *pointer)
{
    if (pointer != NULL) backend->ops->free(backend, pointer);
}

qs_err qs_backend_upload(qs_backend *backend, void *dst, const void *src, size_t bytes)
{
    qs_watchdog_beat("copying to the device");
    return bytes == 0 ? QS_OK : backend->ops->upload(backend, dst, src, bytes);
}

qs_err qs_backend_download(qs_backend *backend, void *dst, const void *src, size_t bytes)
{
    qs_watchdog_beat("copying from the device");
    return bytes == 0 ? QS_OK : backend->ops->download(backend, dst, src, bytes);
}

qs_err qs_backend_copy(qs_backend *backend, void *dst, const void *src, size_t bytes)
{
    qs_watchdog_beat("copying on the device");
    return bytes == 0 ? QS_OK : backend->ops->copy(backend, dst, src, bytes);
}

qs_err qs_backend_bring(qs_backend *backend, void *dst, qs_backend *from, const void *src, size_t bytes)
{
    qs_err err;
    if (!from->has_device) return qs_backend_upload(backend, dst, src, bytes);
    if (!backend->has_device) return qs_backend_download(from, dst, src, bytes);
    QS_TRY(qs_backend_sync(from));
    QS_TRY(qs_backend_copy(backend, dst, src, bytes));
    QS_TRY(qs_backend_sync(backend)); /* what the other backend does next may change the source */
out:
    return err;
}

qs_err qs_backend_sync(qs_backend *backend)
{
    qs_watchdog_beat("waiting for the device");
    return backend->ops->sync(backend);
}

qs_err qs_backend_load_beside(qs_backend *backend, qs_load_step step)
{
    return backend->ops->load_beside(backend, step);
}

void qs_backend_get_memory(const qs_backend *backend, qs_backend_memory *memory)
{
    backend->ops->get_memory(backend, memory);
}

qs_err qs_backend_set_budget(qs_backend *backend, size_t bytes) { return backend->ops->set_budget(backend, bytes); }

/* ---- recordings ---- */

bool qs_backend_can_record(const qs_backend *backend) { return backend->can_record; }

qs_err qs_backend_record_start(qs_backend *backend) { return backend->ops->record_start(backend); }

qs_err qs_backend_record_stop(qs_backend *backend, qs_recording **out)
{
    qs_err err = QS_OK;
    qs_recording *recording = NULL;
    if (out == NULL) return backend->ops->record_stop(backend, NULL);
    *out = NULL;
    QS_TRY(QS_NEW(recording, 1, "recording"));
    recording->backend = backend;
    recording->scratch_moves = backend->scratch_moves != NULL ? *backend->scratch_moves : 0;
    QS_TRY(backend->ops->record_stop(backend, &recording->state));
    *out = recording;
    recording = NULL;
out:
    qs_mem_free(recording);
    return err;
}

qs_err qs_recording_play(qs_recording *recording)
{
    qs_watchdog_beat("a recorded step");
    return recording->backend->ops->play(recording->backend, recording->state);
}

bool qs_recording_is_valid(const qs_recording *recording)
{
    const int64_t *moves = recording->backend->scratch_moves;
    return moves == NULL || *moves == recording->scratch_moves;
}

void qs_recording_destroy(qs_recording *recording)
{
    if (recording == NULL) return;
    recording->backend->ops->forget(recording->backend, recording->state);
    qs_mem_free(recording);
}

/* ---- matrices ---- */

static qs_err check_uses(unsigned uses)
{
    if (uses != 0 && (uses & ~(unsigned)(QS_USE_GEMM | QS_USE_GEMV)) == 0) return QS_OK;
    return qs_fail(QS_E_USAGE, "create matrix: uses %u are not GEMM, GEMV or both", uses);
}

static qs_err check_sizes(const qs_matrix_desc *desc)
{
    if (desc->n_out < 1 || desc->n_in < 1 || desc->n_out > INT32_MAX || desc->n_in > INT32_MAX)
        return qs_fail(QS_E_INPUT, "create matrix: %lld x %lld is not a matrix size", (long long)desc->n_out,
                       (long long)desc->n_in);
    if (desc->format != QS_MATRIX_INT) return QS_OK;
    if (desc->packed == NULL) return qs_fail(QS_E_INPUT, "create matrix: packed contents are missing");
    if (desc->packed->n_out != desc->n_out || desc->packed->n_in != desc->n_in)
        return qs_fail(QS_E_INPUT, "create matrix: %lld x %lld asked for, the packed matrix is %lld x %lld",
                       (long long)desc->n_out, (long long)desc->n_in, (long long)desc->packed->n_out,
                       (long long)desc->packed->n_in);
    return QS_OK;
}

static qs_err check_desc(const qs_matrix_desc *desc)
{
    qs_err err = check_sizes(desc);
    if (err != QS_OK) return err;
    if (desc->format == QS_MATRIX_INT) return qs_packed_check(desc->packed, "packed matrix");
    return desc->dense != NULL ? QS_OK : qs_fail(QS_E_INPUT, "create matrix: dense contents are missing");
}

qs_err qs_matrix_create(qs_matrix **out, qs_backend *backend, const qs_matrix_desc *desc, unsigned uses,
                        qs_compute compute)
{
    qs_err err = QS_OK;
    qs_matrix *matrix = NULL;
    *out = NULL;
    QS_TRY(check_uses(uses));
    QS_TRY(check_desc(desc));
    QS_TRY(QS_NEW(matrix, 1, "matrix"));
    *matrix = (qs_matrix){.backend = backend, .n_out = desc->n_out, .n_in = desc->n_in, .uses = uses,
                          .compute = compute, .kernel = "none"};
    QS_TRY(backend->ops->matrix_update(matrix, desc));
    *out = matrix;
    matrix = NULL;
out:
    qs_matrix_destroy(matrix);
    return err;
}

qs_err qs_matrix_update(qs_matrix *matrix, const qs_matrix_desc *desc)
{
    qs_err err = check_desc(desc);
    if (err != QS_OK) return err;
    if (desc->n_out != matrix->n_out || desc->n_in != matrix->n_in)
        return qs_fail(QS_E_INPUT, "update matrix: it is %lld x %lld, the new contents %lld x %lld",
                       (long long)matrix->n_out, (long long)matrix->n_in, (long long)desc->n_out,
                       (long long)desc->n_in);
    return matrix->backend->ops->matrix_update(matrix, desc);
}

void qs_matrix_destroy(qs_matrix *matrix)
{
    if (matrix == NULL) return;
    matrix->backend->ops->matrix_destroy(matrix);
    qs_mem_free(matrix);
}

size_t qs_matrix_bytes(const qs_matrix *matrix) { return matrix->bytes; }

void qs_need_add(qs_need *sum, const qs_need *more)
{
    sum->own_bytes += more->own_bytes;
    for (int i = 0; i < QS_NEED_SHARED; i++)
        if (more->shared_bytes[i] > sum->shared_bytes[i]) sum->shared_bytes[i] = more->shared_bytes[i];
}

size_t qs_need_scratch(const qs_need *need)
{
    size_t bytes = 0;
    for (int i = 0; i < QS_NEED_SHARED; i++) bytes += need->shared_bytes[i];
    return bytes;
}

qs_err qs_matrix_need(qs_need *out, const qs_backend *backend, const qs_matrix_desc *desc, unsigned uses,
                      qs_compute compute, int64_t n_rows)
{
    qs_err err;
    *out = (qs_need){0};
    QS_TRY(check_uses(uses));
    QS_TRY(check_sizes(desc));
    err = backend->ops->matrix_need(out, backend, desc, uses, compute, n_rows);
out:
    return err;
}
const char *qs_matrix_kernel(const qs_matrix *matrix) { return matrix->kernel; }

static qs_err check_linears(const qs_backend *backend, const qs_linear_job *jobs, int64_t n_jobs, const float *x,
                            int64_t n)
{
    if (n < 0 || n_jobs < 0 || x == NULL) return qs_fail(QS_E_USAGE, "op linear: no rows or no data given");
    for (int64_t i = 0; i < n_jobs; i++) {
        const qs_matrix *matrix = jobs[i].matrix;
        if (jobs[i].y == NULL) return qs_fail(QS_E_USAGE, "op linear: no rows or no data given");
        if (matrix->backend != backend) return qs_fail(QS_E_USAGE, "op linear: the matrix belongs to another backend");
        if (matrix->n_in != jobs[0].matrix->n_in)
            return qs_fail(QS_E_USAGE, "op linear: matrices of %lld and %lld columns do not share an input",
                           (long long)jobs[0].matrix->n_in, (long long)matrix->n_in);
        if (n > backend->gemv_rows && (matrix->uses & QS_USE_GEMM) == 0)
            return qs_fail(QS_E_USAGE, "op linear: %lld rows, but the matrix was prepared for up to %lld", (long long)n,
                           (long long)backend->gemv_rows);
    }
    return QS_OK;
}

qs_err qs_op_linears(qs_backend *backend, const qs_linear_job *jobs, int64_t n_jobs, const float *x, int64_t n)
{
    if (n == 0 || n_jobs == 0) return QS_OK;
    qs_err err = check_linears(backend, jobs, n_jobs, x, n);
    if (err != QS_OK) return err;
    qs_watchdog_beat("products of linears");
    return backend->ops->linears(backend, jobs, n_jobs, x, n);
}

qs_err qs_op_linears_with(qs_backend *backend, const qs_linear_with *with, const qs_linear_job *jobs, int64_t n_jobs,
                          const float *x, int64_t n)
{
    if (n == 0 || n_jobs == 0) return QS_OK;
    qs_err err = check_linears(backend, jobs, n_jobs, x, n);
    if (err != QS_OK) return err;
    if (with->norm != NULL && with->normed == NULL) return qs_fail(QS_E_USAGE, "op linear: a norm without scratch");
    if (with->is_gated && (n_jobs != 2 || jobs[0].add || jobs[1].add || jobs[0].matrix->n_out != jobs[1].matrix->n_out))
        return qs_fail(QS_E_USAGE, "op linear: a gate takes two matrices of one shape, and adds to nothing");
    if (with->up != NULL && (with->norm != NULL || with->gate != x))
        return qs_fail(QS_E_USAGE, "op linear: what was left of a gate takes its x, and no norm");
    if (with->leaves_gate != NULL) *with->leaves_gate = false;
    qs_watchdog_beat("products of linears");
    return backend->ops->linears_with(backend, with, jobs, n_jobs, x, n);
}

qs_err qs_op_linear(qs_backend *backend, const qs_matrix *matrix, const float *x, int64_t n, const float *bias,
                    float *y)
{
    qs_linear_job job = {.matrix = matrix, .bias = bias, .y = y};
    return qs_op_linears(backend, &job, 1, x, n);
}

/* ---- ops ---- */

/* Common to all: an op over no rows is done; a negative size or a NULL is a mistake of the caller. */
#define CHECK_OP(name, n, ok)                                                                     \
    do {                                                                                          \
        if ((n) == 0) return QS_OK;                                                               \
        if ((n) < 0 || !(ok)) return qs_fail(QS_E_USAGE, "op %s: sizes or pointers are wrong", name); \
    } while (0)

qs_err qs_op_embed(qs_backend *backend, const float *table, const int32_t *tokens, int64_t n, int64_t d, float *out)
{
    CHECK_OP("embed", n, d > 0 && table != NULL && tokens != NULL && out != NULL);
    for (int64_t i = 0; i < n; i++)
        if (tokens[i] < 0) return qs_fail(QS_E_USAGE, "op embed: token %lld is negative", (long long)i);
    qs_watchdog_beat("embeddings");
    return backend->ops->embed(backend, table, tokens, n, d, out);
}

qs_err qs_op_rmsnorm(qs_backend *backend, const float *x, const float *weight, int64_t n, int64_t d, double eps,
                     float *out)
{
    CHECK_OP("rmsnorm", n, d > 0 && x != NULL && weight != NULL && out != NULL);
    return backend->ops->rmsnorm(backend, x, weight, n, d, eps, out);
}

qs_err qs_op_rope(qs_backend *backend, float *x, const int32_t *positions, const float *inv_freq, int64_t n,
                  int64_t n_heads, int64_t head_dim)
{
    CHECK_OP("rope", n, n_heads > 0 && head_dim > 0 && head_dim % 2 == 0 && x != NULL && positions != NULL &&
             inv_freq != NULL);
    return backend->ops->rope(backend, x, positions, inv_freq, n, n_heads, head_dim);
}

static bool attention_shape_fits(const qs_attention_shape *shape)
{
    return shape->n_heads > 0 && shape->n_kv_heads > 0 && shape->n_heads % shape->n_kv_heads == 0 &&
           shape->head_dim > 0 && shape->head_dim <= QS_ATTENTION_HEAD_DIM_MAX && shape->window >= 0;
}

qs_err qs_op_attention(qs_backend *backend, const qs_attention_shape *shape, const float *q, const float *k,
                       const float *v, int64_t n_windows, int64_t n_ctx, float *out)
{
    CHECK_OP("attention", n_windows, n_ctx > 0 && attention_shape_fits(shape) && q != NULL && k != NULL &&
             v != NULL && out != NULL);
    qs_watchdog_beat("attention");
    return backend->ops->attention(backend, shape, q, k, v, n_windows, n_ctx, out);
}

void qs_decoding_need(qs_need *out, const qs_backend *backend, const qs_attention_shape *shape, int64_t batch,
                      int64_t n_ctx_cap)
{
    *out = (qs_need){0};
    backend->ops->decoding_need(out, backend, shape, batch, n_ctx_cap);
}

qs_err qs_op_attention_decode(qs_backend *backend, const qs_attention_shape *shape, float *q, float *k,
                              const float *v, const float *inv_freq, float *k_cache, float *v_cache,
                              const int32_t *positions, int64_t batch, int64_t n_ctx_cap, float *out)
{
    CHECK_OP("attention_decode", batch, n_ctx_cap > 0 && attention_shape_fits(shape) && q != NULL && k != NULL &&
             v != NULL && k_cache != NULL && v_cache != NULL && positions != NULL && out != NULL &&
             (inv_freq == NULL || shape->head_dim % 2 == 0));
    qs_watchdog_beat("attention of one token");
    return backend->ops->attention_decode(backend, shape, q, k, v, inv_freq, k_cache, v_cache, positions, batch,
                                          n_ctx_cap, out);
}

qs_err qs_op_silu_mul(qs_backend *backend, const float *gate, const float *up, int64_t n, float *out)
{
    CHECK_OP("silu_mul", n, gate != NULL && up != NULL && out != NULL);
    return backend->ops->silu_mul(backend, gate, up, n, out);
}

qs_err qs_op_add(qs_backend *backend, float *x, const float *y, int64_t n)
{
    CHECK_OP("add", n, x != NULL && y != NULL);
    return backend->ops->add(backend, x, y, n);
}

qs_err qs_op_gram(qs_backend *backend, const float *x, int64_t n, int64_t d, double *gram)
{
    CHECK_OP("gram", n, d > 0 && x != NULL && gram != NULL);
    qs_watchdog_beat("second moments");
    return backend->ops->gram(backend, x, n, d, gram);
}

qs_err qs_op_abs_stats(qs_backend *backend, const float *x, int64_t n, int64_t d, double *abs_sum, float *abs_max)
{
    CHECK_OP("abs_stats", n, d > 0 && x != NULL && abs_sum != NULL && abs_max != NULL);
    return backend->ops->abs_stats(backend, x, n, d, abs_sum, abs_max);
}

qs_err qs_op_logit_stats(qs_backend *backend, const float *logits, const int32_t *targets, int64_t n,
                         int64_t n_vocab, const qs_logit_stats *out)
{
    CHECK_OP("logit_stats", n, n_vocab > 0 && logits != NULL && (out->nll == NULL || targets != NULL));
    for (int64_t i = 0; out->nll != NULL && i < n; i++)
        if (targets[i] < 0 || targets[i] >= n_vocab)
            return qs_fail(QS_E_USAGE, "op logit_stats: target %lld is %d, the vocabulary has %lld entries",
                           (long long)i, targets[i], (long long)n_vocab);
    qs_watchdog_beat("statistics of logits");
    return backend->ops->logit_stats(backend, logits, targets, n, n_vocab, out);
}

qs_err qs_op_sample(qs_backend *backend, const float *logits, const qs_sample_rule *rules, int64_t n,
                    int64_t n_vocab, int32_t *tokens)
{
    CHECK_OP("sample", n, n_vocab > 0 && n_vocab <= 1 << 30 && logits != NULL && rules != NULL && tokens != NULL);
    qs_watchdog_beat("choosing tokens");
    return backend->ops->sample(backend, logits, rules, n, n_vocab, tokens);
}

qs_err qs_op_kld(qs_backend *backend, const float *logits_f, const double *lse_f, const float *logits_q,
                 const double *lse_q, int64_t n, int64_t n_vocab, float *kld)
{
    CHECK_OP("kld", n, n_vocab > 0 && logits_f != NULL && lse_f != NULL && logits_q != NULL && lse_q != NULL &&
             kld != NULL);
    qs_watchdog_beat("KL divergence");
    return backend->ops->kld(backend, logits_f, lse_f, logits_q, lse_q, n, n_vocab, kld);
}

qs_err qs_op_gemm(qs_backend *backend, bool trans_a, bool trans_b, int64_t m, int64_t n, int64_t k, float alpha,
                  const float *a, int64_t lda, const float *b, int64_t ldb, float beta, float *c, int64_t ldc)
{
    if (m == 0 || n == 0) return QS_OK;
    if (m < 0 || n < 0 || k < 0 || c == NULL || (k > 0 && (a == NULL || b == NULL)) ||
        lda < (trans_a ? m : k) || ldb < (trans_b ? k : n) || ldc < n || lda < 1 || ldb < 1)
        return qs_fail(QS_E_USAGE, "op gemm: sizes, leading dimensions or pointers are wrong");
    qs_watchdog_beat("a matrix product");
    return backend->ops->gemm(backend, trans_a, trans_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}

qs_err qs_backend_measure_peaks(qs_backend *backend, unsigned which, qs_backend_peaks *peaks)
{
    *peaks = (qs_backend_peaks){0};
    return backend->ops->measure_peaks(backend, which, peaks);
}

void qs_backend_list_ops(const qs_backend *backend, qs_op_visit visit, void *context)
{
    backend->ops->list_ops(backend, visit, context);
}
