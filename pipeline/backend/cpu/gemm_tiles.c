#include "backend/cpu/gemm_tiles.h"

#include <stdatomic.h>

enum { GEMM_ROWS = 192, GEMM_COLUMNS = 384 };

typedef struct gemm_job {
    qs_sgemm sgemm;
    char trans_a, trans_b;
    int64_t m, n, k, lda, ldb, ldc, n_column_tiles;
    float alpha, beta;
    const float *a, *b;
    float *c;
    atomic_int status;
} gemm_job;

/* An empty sum: libraries differ on whether they then still apply beta. */
static void scale_tile(float *c, int64_t rows, int64_t columns, int64_t ldc, float beta)
{
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < columns; j++) c[i * ldc + j] = beta == 0.0f ? 0.0f : beta * c[i * ldc + j];
}

static void gemm_tiles(void *context, int64_t first, int64_t last, int thread)
{
    (void)thread;
    gemm_job *job = context;
    for (int64_t item = first; item < last; item++) {
        int64_t i = item / job->n_column_tiles * GEMM_ROWS, j = item % job->n_column_tiles * GEMM_COLUMNS;
        int64_t rows = job->m - i < GEMM_ROWS ? job->m - i : GEMM_ROWS;
        int64_t columns = job->n - j < GEMM_COLUMNS ? job->n - j : GEMM_COLUMNS;
        const float *a = job->a + (job->trans_a == 'T' ? i : i * job->lda);
        const float *b = job->b + (job->trans_b == 'T' ? j * job->ldb : j);
        float *c = job->c + i * job->ldc + j;
        if (job->k == 0) {
            scale_tile(c, rows, columns, job->ldc, job->beta);
            continue;
        }
        int status = job->sgemm(job->trans_a, job->trans_b, rows, columns, job->k, job->alpha, a, job->lda, b,
                                job->ldb, job->beta, c, job->ldc);
        if (status != 0) atomic_store(&job->status, status);
    }
}

int qs_gemm_tiles(qs_team *team, qs_sgemm sgemm, bool trans_a, bool trans_b, int64_t m, int64_t n, int64_t k,
                  float alpha, const float *a, int64_t lda, const float *b, int64_t ldb, float beta, float *c,
                  int64_t ldc)
{
    gemm_job job = {.sgemm = sgemm, .trans_a = trans_a ? 'T' : 'N', .trans_b = trans_b ? 'T' : 'N', .m = m, .n = n,
                    .k = k, .lda = lda, .ldb = ldb, .ldc = ldc, .alpha = alpha, .beta = beta, .a = a, .b = b, .c = c};
    job.n_column_tiles = (n + GEMM_COLUMNS - 1) / GEMM_COLUMNS;
    qs_team_run(team, (m + GEMM_ROWS - 1) / GEMM_ROWS * job.n_column_tiles, 1, gemm_tiles, &job);
    return atomic_load(&job.status);
}
