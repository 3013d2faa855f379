/* Ops of the CUDA backend: arguments to launchers, results back to the host where the contract says so. */
#include <math.h>
#include <string.h>

#include "backend/cuda/blas.h"

qs_err qs_gpu_embed(qs_backend *backend, const float *table, const int32_t *tokens, int64_t n, int64_t d, float *out)
{
    qs_gpu *gpu = qs_gpu_of(backend);
    size_t bytes = (size_t)n * sizeof *tokens;
    qs_err err;
    QS_TRY(qs_gpu_reserve(gpu, &gpu->small, bytes, QS_GPU_WORKSPACE, "tokens"));
    QS_TRY(qs_gpu_upload(backend, gpu->small.data, tokens, bytes));
    QS_TRY(qs_gpu_check(gpu, qs_cu_gather_rows(gpu->stream, table, gpu->small.data, n, d, out), "run embed"));
out:
    return err;
}

qs_err qs_gpu_rmsnorm(qs_backend *backend, const float *x, const float *weight, int64_t n, int64_t d, double eps,
                      float *out)
{
    qs_gpu *gpu = qs_gpu_of(backend);
    return qs_gpu_check(gpu, qs_cu_rmsnorm(gpu->stream, x, weight, n, d, (float)eps, out), "run rmsnorm");
}

qs_err qs_gpu_rope(qs_backend *backend, float *x, const int32_t *positions, const float *inv_freq, int64_t n,
                   int64_t n_heads, int64_t head_dim)
{
    qs_gpu *gpu = qs_gpu_of(backend);
    return qs_gpu_check(gpu, qs_cu_rope(gpu->stream, x, positions, inv_freq, n, n_heads, head_dim), "run rope");
}

static qs_cu_attention_shape shape_of(const qs_attention_shape *shape)
{
    return (qs_cu_attention_shape){.n_heads = shape->n_heads, .n_kv_heads = shape->n_kv_heads,
                                   .head_dim = shape->head_dim, .window = shape->window,
                                   .in_16_bits = shape->compute == QS_COMPUTE_BF16};
}

qs_err qs_gpu_attention(qs_backend *backend, const qs_attention_shape *shape, const float *q, const float *k,
                        const float *v, int64_t n_windows, int64_t n_ctx, float *out)
{
    qs_gpu *gpu = qs_gpu_of(backend);
    qs_cu_attention_shape s = shape_of(shape);
    return qs_gpu_check(gpu, qs_cu_attention(gpu->stream, &s, q, k, v, n_windows, n_ctx, out), "run attention");
}

static size_t turns_bytes(int64_t n) { return (size_t)n * sizeof(unsigned); }

/* Counters that every kernel leaves at 0. */
static qs_err reserve_turns(qs_gpu *gpu, int64_t n)
{
    qs_err err = QS_OK;
    if (gpu->turns.bytes >= turns_bytes(n)) return QS_OK;
    QS_TRY(qs_gpu_reserve(gpu, &gpu->turns, turns_bytes(n), QS_GPU_WORKSPACE, "counters of partial attention"));
    err = qs_gpu_check(gpu, qs_rt_fill_zero(gpu->turns.data, gpu->turns.bytes, gpu->stream), "clear counters");
    if (err != QS_OK) qs_gpu_release(gpu, &gpu->turns, QS_GPU_WORKSPACE);
out:
    return err;
}

qs_err qs_gpu_attention_decode(qs_backend *backend, const qs_attention_shape *shape, float *q, float *k,
                               const float *v, const float *inv_freq, float *k_cache, float *v_cache,
                               const int32_t *positions, int64_t batch, int64_t n_ctx_cap, float *out)
{
    qs_gpu *gpu = qs_gpu_of(backend);
    qs_cu_attention_shape s = shape_of(shape);
    qs_cu_decode decode = {.q = q, .k = k, .v = v, .inv_freq = inv_freq, .k_cache = k_cache, .v_cache = v_cache,
                           .positions = positions, .batch = batch, .n_ctx_cap = n_ctx_cap, .out = out};
    qs_err err;
    QS_TRY(qs_gpu_reserve(gpu, &gpu->attention, qs_cu_attention_decode_bytes(&s, batch, n_ctx_cap), QS_GPU_WORKSPACE,
                          "partial attention"));
    QS_TRY(reserve_turns(gpu, batch * shape->n_heads));
    decode.workspace = gpu->attention.data;
    decode.turns = gpu->turns.data;
    QS_TRY(qs_gpu_check(gpu, qs_cu_attention_decode(gpu->stream, &s, &decode), "run attention_decode"));
out:
    return err;
}

qs_err qs_gpu_silu_mul(qs_backend *backend, const float *gate, const float *up, int64_t n, float *out)
{
    qs_gpu *gpu = qs_gpu_of(backend);
    return qs_gpu_check(gpu, qs_cu_silu_mul(gpu->stream, gate, up, n, out), "run silu_mul");
}

qs_err qs_gpu_add(qs_backend *backend, float *x, const float *y, int64_t n)
{
    qs_gpu *gpu = qs_gpu_of(backend);
    return qs_gpu_check(gpu, qs_cu_add(gpu->stream, x, y, n), "run add");
}

qs_err qs_gpu_gram(qs_backend *backend, const float *x, int64_t n, int64_t d, double *gram)
{
    qs_gpu *gpu = qs_gpu_of(backend);
    qs_err err;
    bool wgmma = gpu->device.has_wgmma;
    size_t bytes = wgmma ? qs_cu_gram_wgmma_bytes(n, d) : qs_cu_gram_bytes(n, d);
    QS_TRY(qs_gpu_reserve(gpu, &gpu->gram, bytes, QS_GPU_WORKSPACE, "terms of second moments"));
    int code = wgmma ? qs_cu_gram_wgmma(gpu->stream, gpu->device.n_sms, x, n, d, gram, gpu->gram.data)
                     : qs_cu_gram(gpu->stream, x, n, d, gram, gpu->gram.data);
    QS_TRY(qs_gpu_check(gpu, code, "run gram"));
out:
    return err;
}

qs_err qs_gpu_abs_stats(qs_backend *backend, const float *x, int64_t n, int64_t d, double *abs_sum, float *abs_max)
{
    qs_gpu *gpu = qs_gpu_of(backend);
    return qs_gpu_check(gpu, qs_cu_abs_stats(gpu->stream, x, n, d, abs_sum, abs_max), "run abs_stats");
}

/* ---- ops that answer to the host ---- */

/* Parts of gpu->small, each on a boundary of 256 bytes. */
static size_t part_bytes(int64_t n, size_t elem_bytes) { return ((size_t)n * elem_bytes + 255) / 256 * 256; }

static size_t stats_bytes(int64_t n) { return part_bytes(n, sizeof(double)) + 4 * part_bytes(n, sizeof(float)); }

static size_t choice_bytes(int64_t n) { return part_bytes(n, sizeof(qs_sample_rule)) + part_bytes(n, sizeof(int32_t)); }

static size_t kld_bytes(int64_t n) { return 3 * part_bytes(n, sizeof(double)); }

void qs_gpu_decoding_need(qs_need *out, const qs_backend *backend, const qs_attention_shape *shape, int64_t batch,
                          int64_t n_ctx_cap)
{
    const size_t small[] = {stats_bytes(batch), choice_bytes(batch), kld_bytes(batch)};
    qs_cu_attention_shape s = shape_of(shape);
    (void)backend;
    out->shared_bytes[QS_GPU_ATTENTION] = qs_cu_attention_decode_bytes(&s, batch, n_ctx_cap);
    out->shared_bytes[QS_GPU_TURNS] = turns_bytes(batch * shape->n_heads);
    for (size_t i = 0; i < sizeof small / sizeof *small; i++)
        if (small[i] > out->shared_bytes[QS_GPU_SMALL]) out->shared_bytes[QS_GPU_SMALL] = small[i];
}

qs_err qs_gpu_logit_stats(qs_backend *backend, const float *logits, const int32_t *targets, int64_t n,
                          int64_t n_vocab, const qs_logit_stats *out)
{
    qs_gpu *gpu = qs_gpu_of(backend);
    size_t wide = part_bytes(n, sizeof *out->lse), narrow = part_bytes(n, sizeof *out->nll);
    qs_err err;
    QS_TRY(qs_gpu_reserve(gpu, &gpu->small, stats_bytes(n), QS_GPU_WORKSPACE, "statistics of logits"));
    char *lse = gpu->small.data, *nll = lse + wide, *argmax = nll + narrow, *entropy = argmax + narrow,
         *on_device = entropy + narrow;
    if (out->nll != NULL) QS_TRY(qs_gpu_upload(backend, on_device, targets, (size_t)n * sizeof *targets));
    QS_TRY(qs_gpu_check(gpu, qs_cu_logit_stats(gpu->stream, logits, out->nll != NULL ? (void *)on_device : NULL, n,
                                               n_vocab, (void *)lse, out->nll != NULL ? (void *)nll : NULL,
                                               out->argmax != NULL ? (void *)argmax : NULL,
                                               out->entropy != NULL ? (void *)entropy : NULL), "run logit_stats"));
    const struct {
        void *host;
        const char *device;
        size_t bytes;
    } results[] = {
        {out->lse, lse, (size_t)n * sizeof *out->lse},
        {out->nll, nll, (size_t)n * sizeof *out->nll},
        {out->argmax, argmax, (size_t)n * sizeof *out->argmax},
        {out->entropy, entropy, (size_t)n * sizeof *out->entropy},
    };
    for (size_t i = 0; i < sizeof results / sizeof *results; i++)
        if (results[i].host != NULL)
            QS_TRY(qs_gpu_download(backend, results[i].host, results[i].device, results[i].bytes));
out:
    return err;
}

qs_err qs_gpu_sample(qs_backend *backend, const float *logits, const qs_sample_rule *rules, int64_t n, int64_t n_vocab,
                     int32_t *tokens)
{
    qs_gpu *gpu = qs_gpu_of(backend);
    size_t rule_bytes = part_bytes(n, sizeof *rules), bytes = (size_t)n * sizeof *tokens;
    qs_err err;
    QS_TRY(qs_gpu_reserve(gpu, &gpu->small, choice_bytes(n), QS_GPU_WORKSPACE, "choices"));
    char *on_device = gpu->small.data, *chosen = on_device + rule_bytes;
    QS_TRY(qs_gpu_upload(backend, on_device, rules, (size_t)n * sizeof *rules));
    QS_TRY(qs_gpu_check(gpu, qs_cu_sample(gpu->stream, logits, (void *)on_device, n, n_vocab, (void *)chosen),
                        "run sample"));
    QS_TRY(qs_gpu_download(backend, tokens, chosen, bytes));
out:
    return err;
}

qs_err qs_gpu_kld(qs_backend *backend, const float *logits_f, const double *lse_f, const float *logits_q,
                  const double *lse_q, int64_t n, int64_t n_vocab, float *kld)
{
    qs_gpu *gpu = qs_gpu_of(backend);
    size_t wide = part_bytes(n, sizeof *lse_f), bytes = (size_t)n * sizeof *lse_f;
    qs_err err;
    QS_TRY(qs_gpu_reserve(gpu, &gpu->small, kld_bytes(n), QS_GPU_WORKSPACE, "divergences"));
    char *f = gpu->small.data, *q = f + wide, *result = q + wide;
    QS_TRY(qs_gpu_upload(backend, f, lse_f, bytes));
    QS_TRY(qs_gpu_upload(backend, q, lse_q, bytes));
    QS_TRY(qs_gpu_check(gpu, qs_cu_kld(gpu->stream, logits_f, (void *)f, logits_q, (void *)q, n, n_vocab,
                                       (void *)result), "run kld"));
    QS_TRY(qs_gpu_download(backend, kld, result, (size_t)n * sizeof *kld));
out:
    return err;
}

qs_err qs_gpu_gemm(qs_backend *backend, bool trans_a, bool trans_b, int64_t m, int64_t n, int64_t k, float alpha,
                   const float *a, int64_t lda, const float *b, int64_t ldb, float beta, float *c, int64_t ldc)
{
    qs_gpu *gpu = qs_gpu_of(backend);
    return qs_blas_gemm(gpu->blas, gpu, trans_a, trans_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}
