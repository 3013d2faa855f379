/* Timing and printing. The backend's calls return before a device has done the work, so a sample is many calls and one
 * wait, long enough that the host's clock and the wait do not count. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/mem.h"
#include "tests/bench_gpu/bench_cuda.h"

enum { SAMPLES_MAX = 64, REPEATS_MAX = 1 << 20 };

/* ---- time ---- */

static qs_err repeat(bench *b, qs_recording *recording, bench_work work, void *context, int64_t n, double *seconds)
{
    qs_err err = QS_OK;
    double started = qs_clock_seconds();
    for (int64_t i = 0; i < n; i++) QS_TRY(recording != NULL ? qs_recording_play(recording) : work(context));
    QS_TRY(qs_backend_sync(b->backend));
    *seconds = qs_clock_seconds() - started;
out:
    return err;
}

static qs_err make_recording(bench *b, bench_work work, void *context, qs_recording **out)
{
    qs_err err = QS_OK;
    QS_TRY(qs_backend_record_start(b->backend));
    err = work(context);
    if (err != QS_OK) QS_CLEANUP(qs_backend_record_stop(b->backend, NULL));
    else QS_TRY(qs_backend_record_stop(b->backend, out));
out:
    return err;
}

/* Repetitions that fill a sample; finding them warms up. */
static qs_err fill_sample(bench *b, qs_recording *recording, bench_work work, void *context, int64_t *n)
{
    qs_err err = QS_OK;
    double seconds = 0.0;
    for (*n = 1; *n < REPEATS_MAX; *n *= 2) {
        QS_TRY(repeat(b, recording, work, context, *n, &seconds));
        if (seconds >= b->sample_seconds / 2) break;
    }
    *n = (int64_t)fmax(1.0, ceil((double)*n * b->sample_seconds / seconds));
out:
    return err;
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

void bench_time_of_samples(double *seconds, int64_t n, bench_time *out)
{
    qsort(seconds, (size_t)n, sizeof *seconds, ascending);
    *out = (bench_time){.seconds = n % 2 == 1 ? seconds[n / 2] : (seconds[n / 2 - 1] + seconds[n / 2]) / 2,
                        .seconds_min = seconds[0], .seconds_max = seconds[n - 1], .n = n};
}

qs_err bench_measure(bench *b, bench_work work, void *context, bool record, double units, bench_time *out)
{
    qs_err err = QS_OK;
    qs_recording *recording = NULL;
    double samples[SAMPLES_MAX], seconds;
    int64_t n_samples = b->n_samples < SAMPLES_MAX ? b->n_samples : SAMPLES_MAX, n;
    QS_TRY(repeat(b, NULL, work, context, 1, &seconds)); /* scratch grows to its size, outside any recording */
    if (record && qs_backend_can_record(b->backend)) QS_TRY(make_recording(b, work, context, &recording));
    QS_TRY(fill_sample(b, recording, work, context, &n));
    for (int64_t i = 0; i < n_samples; i++) {
        QS_TRY(repeat(b, recording, work, context, n, &seconds));
        samples[i] = seconds / ((double)n * units);
    }
    bench_time_of_samples(samples, n_samples, out);
out:
    qs_recording_destroy(recording);
    return err;
}

/* ---- rows ---- */

void bench_print_header(void)
{
    printf("tool,part,name,format,rows,us,us_min,us_max,n,bytes,flops,gb_s,tflop_s,read_share,bf16_share,tokens_s,"
           "speedup_f16,error\n");
}

/* An empty field says that a quantity is no measure of the row. */
static void print_field(double value, bool known)
{
    if (known) printf(",%.6g", value);
    else printf(",");
}

void bench_print(const bench *b, const bench_row *row)
{
    double seconds = row->time.seconds;
    printf("qsweep,%s,%s,%s,%lld,%.6g,%.6g,%.6g,%lld", row->part, row->name, row->format, (long long)row->rows,
           seconds * 1e6, row->time.seconds_min * 1e6, row->time.seconds_max * 1e6, (long long)row->time.n);
    print_field(row->bytes, row->bytes > 0);
    print_field(row->flops, row->flops > 0);
    print_field(row->bytes / seconds * 1e-9, row->bytes > 0);
    print_field(row->flops / seconds * 1e-12, row->flops > 0);
    print_field(row->bytes / seconds / b->peaks.read_bytes, row->bytes > 0 && b->peaks.read_bytes > 0);
    print_field(row->flops / seconds / b->peaks.gemm_bf16_flops, row->flops > 0 && b->peaks.gemm_bf16_flops > 0);
    print_field(row->tokens / seconds, row->tokens > 0);
    print_field(row->f16_seconds / seconds, row->f16_seconds > 0);
    print_field(row->error, row->error >= 0);
    printf("\n");
    (void)fflush(stdout);
}

/* ---- data on the device ---- */

/* The first `filled` bytes again and again: each copy doubles what is there. */
static qs_err spread(bench *b, void *device, size_t filled, size_t bytes)
{
    qs_err err = QS_OK;
    for (; filled < bytes; filled *= 2) {
        size_t more = bytes - filled < filled ? bytes - filled : filled;
        QS_TRY(qs_backend_copy(b->backend, (char *)device + filled, device, more));
    }
out:
    return err;
}

qs_err bench_normal(bench *b, float **out, int64_t n, float scale, const char *what)
{
    qs_err err = QS_OK;
    float *scaled = NULL;
    int64_t first = n < BENCH_PATTERN ? n : BENCH_PATTERN;
    QS_TRY(QS_NEW(scaled, first, what));
    for (int64_t i = 0; i < first; i++) scaled[i] = scale * b->normal[i];
    QS_TRY(qs_backend_alloc(b->backend, out, (size_t)n * sizeof **out, what));
    QS_TRY(qs_backend_upload(b->backend, *out, scaled, (size_t)first * sizeof **out));
    QS_TRY(spread(b, *out, (size_t)first * sizeof **out, (size_t)n * sizeof **out));
out:
    qs_mem_free(scaled);
    return err;
}

qs_err bench_zero(bench *b, double *device, int64_t n)
{
    qs_err err = QS_OK;
    double *zeros = NULL;
    int64_t first = n < BENCH_PATTERN ? n : BENCH_PATTERN;
    QS_TRY(QS_NEW(zeros, first, "zeros"));
    QS_TRY(qs_backend_upload(b->backend, device, zeros, (size_t)first * sizeof *zeros));
    QS_TRY(spread(b, device, (size_t)first * sizeof *zeros, (size_t)n * sizeof *zeros));
out:
    qs_mem_free(zeros);
    return err;
}
