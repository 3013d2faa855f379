/* Plain C of products with many rows: f64 sums; under bf16 compute both factors are rounded to bf16 first. */
#include <stdio.h>

#include "backend/cpu/gemm.h"
#include "base/dtype.h"
#include "base/mem.h"

typedef struct reference {
    qs_team *team;
} reference;

static qs_err create(void **out, qs_team *team, const qs_cpu_kernels *kernels, char *text, size_t text_bytes)
{
    (void)kernels;
    reference *self;
    qs_err err = QS_NEW(self, 1, "reference products");
    if (err != QS_OK) return err;
    self->team = team;
    (void)snprintf(text, text_bytes, "plain C products");
    *out = self;
    return QS_OK;
}

static void destroy(void *engine) { qs_mem_free(engine); }

static size_t held_bytes(const void *engine)
{
    (void)engine;
    return 0;
}

static size_t pack_bytes(const void *engine, int64_t n_out, int64_t n_in, qs_compute compute)
{
    (void)engine;
    (void)compute;
    return (size_t)n_out * (size_t)n_in * sizeof(float);
}

static float rounded(float value, qs_compute compute)
{
    return compute == QS_COMPUTE_BF16 ? qs_f32_from_bf16(qs_bf16_from_f32(value)) : value;
}

static void pack_rows(const void *engine, const qs_gemm_pack *pack, int64_t first_row, int64_t n_rows,
                      const float *rows)
{
    (void)engine;
    float *dst = (float *)pack->data + first_row * pack->n_in;
    for (int64_t i = 0; i < n_rows * pack->n_in; i++) dst[i] = rounded(rows[i], pack->compute);
}

typedef struct multiply_job {
    const qs_gemm_pack *pack;
    const float *x, *bias;
    float *y;
} multiply_job;

static void multiply_rows(void *context, int64_t first, int64_t last, int thread)
{
    (void)thread;
    const multiply_job *job = context;
    const qs_gemm_pack *pack = job->pack;
    for (int64_t r = first; r < last; r++) {
        const float *x = job->x + r * pack->n_in;
        for (int64_t o = 0; o < pack->n_out; o++) {
            const float *w = (const float *)pack->data + o * pack->n_in;
            double sum = job->bias == NULL ? 0.0 : (double)job->bias[o];
            for (int64_t j = 0; j < pack->n_in; j++) sum += (double)w[j] * (double)rounded(x[j], pack->compute);
            job->y[r * pack->n_out + o] = (float)sum;
        }
    }
}

static qs_err multiply(void *engine, const qs_gemm_pack *pack, const float *x, int64_t n, const float *bias, float *y)
{
    multiply_job job = {.pack = pack, .x = x, .bias = bias, .y = y};
    qs_team_run(((reference *)engine)->team, n, 1, multiply_rows, &job);
    return QS_OK;
}

typedef struct gemm_job {
    bool trans_a, trans_b;
    int64_t n, k, lda, ldb, ldc;
    float alpha, beta;
    const float *a, *b;
    float *c;
} gemm_job;

static void gemm_rows(void *context, int64_t first, int64_t last, int thread)
{
    (void)thread;
    const gemm_job *job = context;
    for (int64_t i = first; i < last; i++) {
        for (int64_t j = 0; j < job->n; j++) {
            double sum = 0.0;
            for (int64_t l = 0; l < job->k; l++) {
                float a = job->trans_a ? job->a[l * job->lda + i] : job->a[i * job->lda + l];
                float b = job->trans_b ? job->b[j * job->ldb + l] : job->b[l * job->ldb + j];
                sum += (double)a * (double)b;
            }
            float *c = &job->c[i * job->ldc + j];
            sum *= (double)job->alpha;
            /* beta = 0 must not read C: it may be fresh memory. */
            if (job->beta != 0.0f) sum += (double)job->beta * (double)*c;
            *c = (float)sum;
        }
    }
}

static qs_err gemm(void *engine, bool trans_a, bool trans_b, int64_t m, int64_t n, int64_t k, float alpha,
                   const float *a, int64_t lda, const float *b, int64_t ldb, float beta, float *c, int64_t ldc)
{
    gemm_job job = {.trans_a = trans_a, .trans_b = trans_b, .n = n, .k = k, .lda = lda, .ldb = ldb, .ldc = ldc,
                    .alpha = alpha, .beta = beta, .a = a, .b = b, .c = c};
    qs_team_run(((reference *)engine)->team, m, 1, gemm_rows, &job);
    return QS_OK;
}

const qs_gemm_engine qs_gemm_reference = {
    .from = "reference",
    .create = create,
    .destroy = destroy,
    .held_bytes = held_bytes,
    .pack_bytes = pack_bytes,
    .pack_rows = pack_rows,
    .multiply = multiply,
    .gemm = gemm,
};
