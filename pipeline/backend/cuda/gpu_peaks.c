/* Measured ceilings of the GPU: what the library's products and a kernel that only reads reach. */
#include "backend/cuda/blas.h"

typedef struct sizes {
    int64_t gemm_f32, gemm_bf16; /* of the side of square matrices */
    size_t read_bytes;           /* well beyond the L2 cache */
    int n_repeats;
} sizes;

/* An emulated device shows that the code runs; its rates mean nothing. */
static const sizes real_sizes = {4096, 8192, (size_t)2 << 30, 5}, emulated_sizes = {64, 64, 1 << 16, 1};

typedef struct probe {
    qs_gpu *gpu;
    const sizes *sizes;
    void *start, *stop;
    char *data; /* [data_bytes]: matrices side by side, or what is read */
} probe;

static qs_err run_f32(const probe *p)
{
    int64_t n = p->sizes->gemm_f32;
    float *a = (float *)(void *)p->data, *b = a + n * n, *c = b + n * n;
    return qs_blas_gemm(p->gpu->blas, p->gpu, false, true, n, n, n, 1.0f, a, n, b, n, 0.0f, c, n);
}

static qs_err run_bf16(const probe *p)
{
    int64_t n = p->sizes->gemm_bf16;
    uint16_t *a = (uint16_t *)(void *)p->data, *b = a + n * n;
    return qs_blas_gemm_bf16(p->gpu->blas, p->gpu, n, n, n, a, b, 0.0f, (float *)(void *)(b + n * n));
}

static qs_err run_read(const probe *p)
{
    size_t bytes = p->sizes->read_bytes;
    return qs_gpu_check(p->gpu, qs_cu_read(p->gpu->stream, p->data, bytes, (uint32_t *)(void *)(p->data + bytes)),
                        "measure reading");
}

/* The shortest of a few runs, in seconds. */
static qs_err time_best(const probe *p, qs_err (*run)(const probe *p), double *seconds)
{
    qs_err err;
    *seconds = 0.0;
    for (int i = -1; i < p->sizes->n_repeats; i++) {
        float ms;
        QS_TRY(qs_gpu_check(p->gpu, qs_rt_event_record(p->start, p->gpu->stream), "measure"));
        QS_TRY(run(p));
        QS_TRY(qs_gpu_check(p->gpu, qs_rt_event_record(p->stop, p->gpu->stream), "measure"));
        QS_TRY(qs_gpu_check(p->gpu, qs_rt_event_sync(p->stop), "measure"));
        QS_TRY(qs_gpu_check(p->gpu, qs_rt_event_ms(&ms, p->start, p->stop), "measure"));
        double s = (double)ms * 1e-3 + 1e-9;
        if (i >= 0 && (*seconds == 0.0 || s < *seconds)) *seconds = s;
    }
out:
    return err;
}

/* Products of zeros run faster than those of data; the low bits of a counter are data enough. */
static qs_err fill(qs_backend *backend, char *data, size_t bytes)
{
    static uint32_t pattern[1 << 18];
    qs_err err = QS_OK;
    uint64_t state = 1;
    for (size_t i = 0; i < sizeof pattern / sizeof *pattern; i++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        uint32_t random = (uint32_t)(state >> 33);
        /* Two bf16 (or the upper half of an f32) of either sign between 1 and 2. */
        pattern[i] = (random & 0x807F807Fu) | 0x3F803F80u;
    }
    for (size_t at = 0; at < bytes; at += sizeof pattern) {
        size_t n = bytes - at < sizeof pattern ? bytes - at : sizeof pattern;
        QS_TRY(qs_gpu_upload(backend, data + at, pattern, n));
    }
out:
    return err;
}

qs_err qs_gpu_measure_peaks(qs_backend *backend, unsigned which, qs_backend_peaks *peaks)
{
    qs_gpu *gpu = qs_gpu_of(backend);
    const sizes *s = gpu->device.emulated ? &emulated_sizes : &real_sizes;
    probe p = {.gpu = gpu, .sizes = s};
    double n32 = (double)s->gemm_f32, n16 = (double)s->gemm_bf16, seconds;
    size_t f32_bytes = (size_t)(3 * s->gemm_f32 * s->gemm_f32) * 4;
    size_t bf16_bytes = (size_t)(s->gemm_bf16 * s->gemm_bf16) * 8;
    size_t bytes = s->read_bytes + 256, fill_bytes = f32_bytes > bf16_bytes ? f32_bytes : bf16_bytes;
    qs_err err;
    if (fill_bytes > bytes) bytes = fill_bytes;
    QS_TRY(qs_gpu_take(gpu, &p.data, bytes, QS_GPU_WORKSPACE, "memory to measure with"));
    QS_TRY(qs_gpu_check(gpu, qs_rt_event_create(&p.start), "measure"));
    QS_TRY(qs_gpu_check(gpu, qs_rt_event_create(&p.stop), "measure"));
    QS_TRY(fill(backend, p.data, fill_bytes));
    if ((which & QS_PEAK_F32) != 0) {
        QS_TRY(time_best(&p, run_f32, &seconds));
        peaks->gemm_f32_flops = 2.0 * n32 * n32 * n32 / seconds;
    }
    if ((which & QS_PEAK_BF16) != 0) {
        QS_TRY(time_best(&p, run_bf16, &seconds));
        peaks->gemm_bf16_flops = 2.0 * n16 * n16 * n16 / seconds;
    }
    if ((which & QS_PEAK_READ) != 0) {
        QS_TRY(time_best(&p, run_read, &seconds));
        peaks->read_bytes = (double)s->read_bytes / seconds;
    }
out:
    if (p.start != NULL) (void)qs_rt_event_destroy(p.start);
    if (p.stop != NULL) (void)qs_rt_event_destroy(p.stop);
    if (p.data != NULL) qs_gpu_give(gpu, p.data, bytes, QS_GPU_WORKSPACE);
    return err;
}
