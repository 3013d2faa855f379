/* Memory of the CUDA backend: counted by use, held to a budget, and copies through page-locked memory. */
#include <string.h>

#include "base/team.h"
#include "backend/cuda/gpu.h"
#include "base/mem.h"

qs_err qs_gpu_check(const qs_gpu *gpu, int code, const char *what)
{
    if (code == QS_RT_OK) return QS_OK;
    if (code == QS_RT_OUT_OF_MEMORY)
        return qs_fail(QS_E_RESOURCE, "%s: the GPU is out of memory (%s)", what, qs_rt_error_text(code));
    if (code == QS_RT_NO_KERNEL_IMAGE)
        return qs_fail(QS_E_UNSUPPORTED, "%s: %s has compute capability %d.%d, and this build holds kernels for %s; "
                       "build with CUDA_ARCHS=%d%d", what, gpu->device.name, gpu->device.major, gpu->device.minor,
                       qs_rt_architectures(), gpu->device.major, gpu->device.minor);
    return qs_fail(QS_E_DEVICE, "%s: the GPU failed (%s); results of this run are not kept; run it again, and see "
                   "dmesg and nvidia-smi when it fails again", what, qs_rt_error_text(code));
}

/* What all backends of this process hold on a device (those with high numbers share a counter): what is taken beyond
 * that belongs to the driver, or to other processes. */
enum { N_COUNTERS = 64 };
static _Atomic size_t held_by_all[N_COUNTERS];

size_t qs_gpu_held_by_all(int ordinal) { return held_by_all[ordinal % N_COUNTERS]; }

static size_t held_bytes(const qs_gpu *gpu)
{
    size_t bytes = 0;
    for (int use = 0; use < QS_N_GPU_USES; use++) bytes += gpu->used_bytes[use];
    return bytes;
}

static qs_err refuse(const qs_gpu *gpu, size_t bytes, const char *what)
{
    char asked[QS_MEM_TEXT_BYTES], weights[QS_MEM_TEXT_BYTES], rest[QS_MEM_TEXT_BYTES], limit[QS_MEM_TEXT_BYTES];
    size_t free_bytes = 0, total_bytes = 0;
    (void)qs_rt_memory(&free_bytes, &total_bytes);
    size_t held = held_bytes(gpu), weight_bytes = gpu->used_bytes[QS_GPU_WEIGHTS];
    return qs_fail(QS_E_RESOURCE, "allocate %s: %s on the GPU do not fit beside %s of weights and %s of other memory "
                   "(%s %s); lower --ctx or the batch, or give layers to the CPU with --device-map",
                   what, qs_mem_format(asked, bytes), qs_mem_format(weights, weight_bytes),
                   qs_mem_format(rest, held - weight_bytes), gpu->budget_bytes != 0 ? "budget" : "the device has",
                   qs_mem_format(limit, gpu->budget_bytes != 0 ? gpu->budget_bytes : total_bytes));
}

qs_err qs_gpu_take(qs_gpu *gpu, void *out_pointer, size_t bytes, qs_gpu_use use, const char *what)
{
    void *pointer = NULL;
    memcpy(out_pointer, &pointer, sizeof pointer);
    if (gpu->recording)
        return qs_fail(QS_E_USAGE, "allocate %s: not while ops are recorded; run them once before", what);
    if (gpu->budget_bytes != 0 && (bytes > gpu->budget_bytes || held_bytes(gpu) > gpu->budget_bytes - bytes))
        return refuse(gpu, bytes, what);
    int code = qs_rt_malloc(&pointer, bytes > 0 ? bytes : 1);
    if (code == QS_RT_OUT_OF_MEMORY) return refuse(gpu, bytes, what);
    if (code != QS_RT_OK) return qs_context(qs_gpu_check(gpu, code, "allocate"), "%s", what);
    gpu->used_bytes[use] += bytes;
    held_by_all[gpu->ordinal % N_COUNTERS] += bytes;
    if (held_bytes(gpu) > gpu->peak_bytes) gpu->peak_bytes = held_bytes(gpu);
    memcpy(out_pointer, &pointer, sizeof pointer);
    return QS_OK;
}

void qs_gpu_give(qs_gpu *gpu, void *pointer, size_t bytes, qs_gpu_use use)
{
    if (pointer == NULL) return;
    (void)qs_rt_free(pointer);
    gpu->used_bytes[use] -= bytes;
    held_by_all[gpu->ordinal % N_COUNTERS] -= bytes;
}

qs_err qs_gpu_reserve(qs_gpu *gpu, qs_gpu_buffer *buffer, size_t bytes, qs_gpu_use use, const char *what)
{
    if (bytes <= buffer->bytes) return QS_OK;
    if (gpu->recording)
        return qs_fail(QS_E_USAGE, "allocate %s: not while ops are recorded; run them once before", what);
    qs_gpu_release(gpu, buffer, use);
    qs_err err = qs_gpu_take(gpu, &buffer->data, bytes, use, what);
    if (err == QS_OK) buffer->bytes = bytes;
    return err;
}

/* Freeing waits for the kernels that still use the memory. */
void qs_gpu_release(qs_gpu *gpu, qs_gpu_buffer *buffer, qs_gpu_use use)
{
    if (buffer->data != NULL && use == QS_GPU_WORKSPACE) gpu->scratch_moves++;
    qs_gpu_give(gpu, buffer->data, buffer->bytes, use);
    *buffer = (qs_gpu_buffer){0};
}

/* ---- buffers of callers: their sizes are kept here, since free is given a pointer alone ---- */

qs_err qs_gpu_alloc(qs_backend *backend, void **out, size_t bytes, const char *what)
{
    qs_gpu *gpu = qs_gpu_of(backend);
    if (gpu->n_blocks == gpu->n_blocks_max) {
        int64_t n = 2 * gpu->n_blocks_max + 64;
        qs_gpu_buffer *blocks;
        qs_err err = QS_NEW(blocks, n, "list of device buffers");
        if (err != QS_OK) return err;
        if (gpu->n_blocks > 0) memcpy(blocks, gpu->blocks, (size_t)gpu->n_blocks * sizeof *blocks);
        qs_mem_free(gpu->blocks);
        gpu->blocks = blocks;
        gpu->n_blocks_max = n;
    }
    qs_err err = qs_gpu_take(gpu, out, bytes, QS_GPU_BUFFERS, what);
    if (err != QS_OK) return err;
    gpu->blocks[gpu->n_blocks++] = (qs_gpu_buffer){*out, bytes};
    err = qs_gpu_check(gpu, qs_rt_fill_zero(*out, bytes, gpu->stream), "clear memory");
    if (err != QS_OK) {
        qs_gpu_free(backend, *out);
        *out = NULL;
    }
    return err;
}

void qs_gpu_free(qs_backend *backend, void *pointer)
{
    qs_gpu *gpu = qs_gpu_of(backend);
    for (int64_t i = gpu->n_blocks - 1; i >= 0; i--) {
        if (gpu->blocks[i].data != pointer) continue;
        qs_gpu_give(gpu, pointer, gpu->blocks[i].bytes, QS_GPU_BUFFERS);
        gpu->blocks[i] = gpu->blocks[--gpu->n_blocks];
        return;
    }
}

/* ---- copies ---- */

typedef struct host_copy {
    char *dst;
    const char *src;
    size_t bytes;
} host_copy;

enum { PIECE = 1 << 20 }; /* worth a thread */

static void copy_pieces(void *context, int64_t first, int64_t last, int thread)
{
    const host_copy *c = context;
    (void)thread;
    size_t at = (size_t)first * PIECE, end = (size_t)last * PIECE < c->bytes ? (size_t)last * PIECE : c->bytes;
    memcpy(c->dst + at, c->src + at, end - at);
}

/* Between page-locked memory and a caller's. One core copies slower than a bus to a GPU carries. */
static void copy_on_host(char *dst, const char *src, size_t bytes)
{
    qs_team_run_shared((int64_t)((bytes + PIECE - 1) / PIECE), 1, copy_pieces, &(host_copy){dst, src, bytes});
}

/* Large uploads go through two page-locked halves: one is filled while the other travels. */
static qs_err upload_large(qs_gpu *gpu, char *dst, const char *src, size_t bytes)
{
    enum { HALF = QS_GPU_PINNED_BYTES / 2 };
    qs_err err = QS_OK;
    for (size_t at = 0; at < bytes; at += HALF) {
        size_t n = bytes - at < HALF ? bytes - at : HALF;
        int half = gpu->pinned_half ^= 1;
        char *stage = (char *)gpu->pinned + (half != 0 ? HALF : 0);
        QS_TRY(qs_gpu_check(gpu, qs_rt_event_sync(gpu->pinned_free[half]), "upload"));
        copy_on_host(stage, src + at, n);
        QS_TRY(qs_gpu_check(gpu, qs_rt_copy(dst + at, stage, n, QS_RT_TO_DEVICE, gpu->stream), "upload"));
        QS_TRY(qs_gpu_check(gpu, qs_rt_event_record(gpu->pinned_free[half], gpu->stream), "upload"));
    }
out:
    return err;
}

static qs_err refuse_recording(const qs_gpu *gpu, const char *what)
{
    if (!gpu->recording) return QS_OK;
    return qs_fail(QS_E_USAGE, "%s: no part of a recording", what);
}

/* The source may be changed as soon as this returns. */
qs_err qs_gpu_upload(qs_backend *backend, void *dst, const void *src, size_t bytes)
{
    qs_gpu *gpu = qs_gpu_of(backend);
    qs_err err = refuse_recording(gpu, "upload");
    return err != QS_OK ? err : upload_large(gpu, dst, src, bytes);
}

qs_err qs_gpu_download(qs_backend *backend, void *dst, const void *src, size_t bytes)
{
    enum { PART = QS_GPU_PINNED_BYTES };
    qs_gpu *gpu = qs_gpu_of(backend);
    qs_err err;
    QS_TRY(refuse_recording(gpu, "download"));
    /* Both halves serve as one buffer; whatever still travels out of them is waited for. */
    QS_TRY(qs_gpu_sync(backend));
    for (size_t at = 0; at < bytes; at += PART) {
        size_t n = bytes - at < PART ? bytes - at : PART;
        QS_TRY(qs_gpu_check(gpu, qs_rt_copy(gpu->pinned, (const char *)src + at, n, QS_RT_TO_HOST, gpu->stream),
                            "download"));
        QS_TRY(qs_gpu_sync(backend));
        copy_on_host((char *)dst + at, gpu->pinned, n);
    }
out:
    return err;
}

qs_err qs_gpu_copy(qs_backend *backend, void *dst, const void *src, size_t bytes)
{
    qs_gpu *gpu = qs_gpu_of(backend);
    return qs_gpu_check(gpu, qs_rt_copy(dst, src, bytes, QS_RT_ON_DEVICE, gpu->stream), "copy");
}

qs_err qs_gpu_sync(qs_backend *backend)
{
    qs_gpu *gpu = qs_gpu_of(backend);
    return qs_gpu_check(gpu, qs_rt_stream_sync(gpu->stream), "wait for the GPU");
}

static void swap_streams(qs_gpu *gpu)
{
    void *stream = gpu->stream;
    gpu->stream = gpu->load_stream;
    gpu->load_stream = stream;
    gpu->loading = !gpu->loading;
}

/* Loading uses buffers of its own (raw, stage) and the page-locked memory, whose events know no streams. */
qs_err qs_gpu_load_beside(qs_backend *backend, qs_load_step step)
{
    qs_gpu *gpu = qs_gpu_of(backend);
    qs_err err = QS_OK;
    if (step == QS_LOAD_MARK) return qs_gpu_check(gpu, qs_rt_event_record(gpu->load_event, gpu->stream), "mark");
    if (gpu->loading != (step == QS_LOAD_END))
        return qs_fail(QS_E_USAGE, "load beside ops: begin and end are not in pairs");
    if (step == QS_LOAD_BEGIN) {
        QS_TRY(qs_gpu_check(gpu, qs_rt_stream_wait(gpu->load_stream, gpu->load_event), "begin to load"));
        swap_streams(gpu);
        goto out;
    }
    int code = qs_rt_event_record(gpu->load_event, gpu->stream);
    swap_streams(gpu);
    QS_TRY(qs_gpu_check(gpu, code, "end loading"));
    QS_TRY(qs_gpu_check(gpu, qs_rt_stream_wait(gpu->stream, gpu->load_event), "end loading"));
out:
    return err;
}

void qs_gpu_get_memory(const qs_backend *backend, qs_backend_memory *memory)
{
    const qs_gpu *gpu = qs_gpu_of(backend);
    size_t free_bytes = 0, total_bytes = 0, held = held_bytes(gpu);
    (void)qs_rt_memory(&free_bytes, &total_bytes);
    if (gpu->budget_bytes != 0) {
        size_t left = gpu->budget_bytes > held ? gpu->budget_bytes - held : 0;
        free_bytes = left < free_bytes ? left : free_bytes;
    }
    *memory = (qs_backend_memory){
        .total_bytes = total_bytes,
        .free_bytes = free_bytes,
        .used_bytes = held,
        .peak_bytes = gpu->peak_bytes,
        .buffer_bytes = gpu->used_bytes[QS_GPU_BUFFERS],
        .weight_bytes = gpu->used_bytes[QS_GPU_WEIGHTS],
        .workspace_bytes = gpu->used_bytes[QS_GPU_WORKSPACE],
        .context_bytes = gpu->context_bytes,
    };
}
