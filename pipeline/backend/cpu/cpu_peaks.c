/* Measured ceilings of the CPU backend. */
#include <unistd.h>

#include "backend/cpu/cpu.h"
#include "base/clock.h"
#include "base/mem.h"

/* Best of many: a ceiling is what the machine can do when nothing else runs, and a core that has been idle (its matrix
 * unit above all) takes tens of milliseconds to reach its speed. */
static const double measure_s = 0.25;

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
    for (double begun = qs_clock_seconds(); qs_clock_seconds() - begun < measure_s;) {
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
typedef uint64_t words __attribute__((vector_size(64))); /* one cache line; the compiler cuts it to what there is */

typedef struct read_job {
    const uint64_t *data;
    uint64_t *sums; /* [n_blocks]: somewhere for the result to go, so that reading is not optimised away */
} read_job;

static void read_blocks(void *context, int64_t first, int64_t last, int thread)
{
    (void)thread;
    const read_job *job = context;
    for (int64_t block = first; block < last; block++) {
        enum { LINES = READ_BLOCK / 8, AHEAD = 32 /* lines; what the hardware fetches by itself stops at pages */ };
        const words *data = (const words *)(const void *)(job->data + block * READ_BLOCK);
        words sum = {0};
        for (int64_t i = 0; i < LINES; i++) {
            __builtin_prefetch(data + i + AHEAD);
            sum += data[i];
        }
        job->sums[block] = sum[0] + sum[1] + sum[2] + sum[3] + sum[4] + sum[5] + sum[6] + sum[7];
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
    qs_cpu_buffer buffer = {0}; /* from the arena, on huge pages, as weights are: small ones cost a third of the rate */
    uint64_t *data, *sums = NULL;
    int64_t n_blocks = read_buffer_bytes() / (int64_t)(READ_BLOCK * sizeof *data);
    if (n_blocks < 1) return QS_OK;
    QS_TRY(qs_cpu_reserve(cpu, &buffer, (size_t)(n_blocks * READ_BLOCK) * sizeof *data, "bandwidth buffer"));
    data = buffer.data;
    QS_TRY(QS_NEW(sums, n_blocks, "bandwidth sums"));
    /* Memory that was never written is one page of zeros mapped again and again. */
    for (int64_t i = 0; i < n_blocks * READ_BLOCK; i++) data[i] = (uint64_t)i;
    read_job job = {data, sums};
    for (double begun = qs_clock_seconds(); qs_clock_seconds() - begun < measure_s;) {
        double started = qs_clock_seconds();
        qs_team_run(cpu->team, n_blocks, 1, read_blocks, &job);
        double rate = (double)(n_blocks * READ_BLOCK) * sizeof *data / (qs_clock_seconds() - started);
        if (rate > *bytes_per_second) *bytes_per_second = rate;
    }
out:
    qs_cpu_release(cpu, &buffer);
    qs_mem_free(sums);
    return err;
}

qs_err qs_cpu_measure_peaks(qs_backend *backend, unsigned which, qs_backend_peaks *peaks)
{
    qs_err err = QS_OK;
    if ((which & QS_PEAK_F32) != 0) QS_TRY(measure_gemm(backend, QS_COMPUTE_F32, &peaks->gemm_f32_flops));
    if ((which & QS_PEAK_BF16) != 0) QS_TRY(measure_gemm(backend, QS_COMPUTE_BF16, &peaks->gemm_bf16_flops));
    if ((which & QS_PEAK_READ) != 0) QS_TRY(measure_read(qs_cpu_of(backend), &peaks->read_bytes));
out:
    return err;
}
