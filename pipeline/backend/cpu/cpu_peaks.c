/* Measured ceilings of the CPU backend. */
#include <unistd.h>

#include "backend/cpu/cpu.h"
#include "base/clock.h"
#include "base/mem.h"

/* Best of several: a ceiling is what the machine can do when nothing else runs. */
enum { N_REPEATS = 5 };

static qs_err measure_gemm(qs_backend *backend, qs_compute compute, double *flops)
{
    enum { SIDE = 1024, N_ROWS = 512 };
    qs_err err = QS_OK;
    float *w = NULL, *x = NULL, *y = NULL;
    qs_matrix *matrix = NULL;
    QS_TRY(QS_NEW(w, SIDE * SIDE, "peak weights"));
    QS_TRY(QS_NEW(x, N_ROWS * SIDE, "peak activations"));
    QS_TRY(QS_NEW(y, N_ROWS * SIDE, "peak results"));
    for (int64_t i = 0; i < SIDE * SIDE; i++) w[i] = (float)(i % 61) / 61.0f;
    for (int64_t i = 0; i < N_ROWS * SIDE; i++) x[i] = (float)(i % 67) / 67.0f;
    qs_matrix_desc desc = {.format = QS_MATRIX_F32, .n_out = SIDE, .n_in = SIDE, .dense = w};
    QS_TRY(qs_matrix_create(&matrix, backend, &desc, QS_USE_GEMM, compute));
    for (int i = 0; i < N_REPEATS; i++) {
        double started = qs_clock_seconds();
        QS_TRY(qs_op_linear(backend, matrix, x, N_ROWS, NULL, y));
        double rate = 2.0 * N_ROWS * SIDE * SIDE / (qs_clock_seconds() - started);
        if (rate > *flops) *flops = rate;
    }
out:
    qs_matrix_destroy(matrix);
    qs_mem_free(w);
    qs_mem_free(x);
    qs_mem_free(y);
    return err;
}

enum { READ_BLOCK = 1 << 16 }; /* 64-bit words */

typedef struct read_job {
    const uint64_t *data;
    uint64_t *sums; /* [n_blocks]: somewhere for the result to go, so that reading is not optimised away */
} read_job;

static void read_blocks(void *context, int64_t first, int64_t last, int thread)
{
    (void)thread;
    const read_job *job = context;
    for (int64_t block = first; block < last; block++) {
        const uint64_t *data = job->data + block * READ_BLOCK;
        uint64_t sums[8] = {0};
        for (int64_t i = 0; i < READ_BLOCK; i += 8)
            for (int lane = 0; lane < 8; lane++) sums[lane] += data[i + lane];
        job->sums[block] = sums[0] + sums[1] + sums[2] + sums[3] + sums[4] + sums[5] + sums[6] + sums[7];
    }
}

/* Twice the last-level cache, within reason: a shared server part can report hundreds of megabytes. */
static int64_t read_buffer_bytes(void)
{
    const int64_t low = 256LL << 20, high = 1024LL << 20;
    int64_t bytes = 2 * (int64_t)sysconf(_SC_LEVEL3_CACHE_SIZE);
    int64_t available = (int64_t)qs_mem_available_bytes() / 4;
    bytes = bytes < low ? low : bytes > high ? high : bytes;
    return bytes < available ? bytes : available;
}

static qs_err measure_read(qs_cpu *cpu, double *bytes_per_second)
{
    qs_err err = QS_OK;
    uint64_t *data = NULL, *sums = NULL;
    int64_t n_blocks = read_buffer_bytes() / (int64_t)(READ_BLOCK * sizeof *data);
    if (n_blocks < 1) return QS_OK;
    QS_TRY(QS_NEW(data, n_blocks * READ_BLOCK, "bandwidth buffer"));
    QS_TRY(QS_NEW(sums, n_blocks, "bandwidth sums"));
    read_job job = {data, sums};
    for (int i = 0; i < N_REPEATS; i++) {
        double started = qs_clock_seconds();
        qs_team_run(cpu->team, n_blocks, 1, read_blocks, &job);
        double rate = (double)(n_blocks * READ_BLOCK) * sizeof *data / (qs_clock_seconds() - started);
        if (rate > *bytes_per_second) *bytes_per_second = rate;
    }
out:
    qs_mem_free(data);
    qs_mem_free(sums);
    return err;
}

qs_err qs_cpu_measure_peaks(qs_backend *backend, qs_backend_peaks *peaks)
{
    qs_err err = QS_OK;
    QS_TRY(measure_gemm(backend, QS_COMPUTE_F32, &peaks->gemm_f32_flops));
    QS_TRY(measure_gemm(backend, QS_COMPUTE_BF16, &peaks->gemm_bf16_flops));
    QS_TRY(measure_read(qs_cpu_of(backend), &peaks->read_bytes));
out:
    return err;
}
