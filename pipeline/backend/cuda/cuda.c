/* The CUDA backend: opening a device, saying what it is, recordings, and the table of its ops. */
#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "backend/cuda/blas.h"
#include "base/mem.h"

/* ---- creation ---- */

static void cuda_destroy(qs_backend *backend)
{
    qs_gpu *gpu = qs_gpu_of(backend);
    if (gpu == NULL) return;
    if (gpu->load_stream != NULL) (void)qs_rt_stream_sync(gpu->load_stream);
    if (gpu->stream != NULL) (void)qs_rt_stream_sync(gpu->stream);
    qs_blas_destroy(gpu->blas, gpu);
    qs_gpu_buffer *buffers[] = {&gpu->x_terms, &gpu->x_scale, &gpu->dense, &gpu->x_bf16, &gpu->attention, &gpu->turns,
                                &gpu->small,
                                &gpu->gram, &gpu->raw, &gpu->stage[0], &gpu->stage[1], &gpu->stage[2], &gpu->stage[3],
                                &gpu->stage[4], &gpu->coded, &gpu->coded_scale, &gpu->product,
                                &gpu->many_x, &gpu->many_scale, &gpu->many_parts, &gpu->many_arrived};
    for (size_t i = 0; i < sizeof buffers / sizeof *buffers; i++) qs_gpu_release(gpu, buffers[i], QS_GPU_WORKSPACE);
    for (int i = 0; i < 2; i++)
        if (gpu->pinned_free[i] != NULL) (void)qs_rt_event_destroy(gpu->pinned_free[i]);
    if (gpu->pinned != NULL) (void)qs_rt_free_host(gpu->pinned);
    if (gpu->load_event != NULL) (void)qs_rt_event_destroy(gpu->load_event);
    if (gpu->load_stream != NULL) (void)qs_rt_stream_destroy(gpu->load_stream);
    if (gpu->stream != NULL) (void)qs_rt_stream_destroy(gpu->stream);
    qs_mem_free(gpu->blocks);
    qs_mem_free(gpu);
    backend->state = NULL;
}

/* No driver, no device and too few devices are the same to a caller: this machine has no such GPU. */
static qs_err open_device(qs_gpu *gpu, int64_t device)
{
    int n = 0, code = qs_rt_n_devices(&n);
    if (code != QS_RT_OK)
        return qs_fail(QS_E_UNSUPPORTED, "create backend cuda: no CUDA device (%s); install or update the NVIDIA "
                       "driver, or use --backend cpu", qs_rt_error_text(code));
    if (device >= n)
        return qs_fail(QS_E_UNSUPPORTED, "create backend cuda: --device %lld, and there are %d (CUDA_VISIBLE_DEVICES "
                       "may hide some)", (long long)device, n);
    code = qs_rt_open((int)device, &gpu->device);
    const char *asked = getenv("QS_BULK_ROWS"); /* to measure and to test all ways */
    if (asked == NULL) asked = "1";
    gpu->one_row = !gpu->device.has_wgmma || strcmp(asked, "0") == 0 ? QS_CU_ROW_ASYNC
                   : strcmp(asked, "2") == 0                         ? QS_CU_ROW_TURNS
                                                                     : QS_CU_ROW_BULK;
    return code == QS_RT_OK ? QS_OK : qs_gpu_check(gpu, code, "open CUDA device");
}

/* A first launch tells whether this build has kernels for the device. */
static qs_err try_kernel(qs_gpu *gpu)
{
    qs_err err;
    QS_TRY(qs_gpu_reserve(gpu, &gpu->small, 256, QS_GPU_WORKSPACE, "first words"));
    QS_TRY(qs_gpu_check(gpu, qs_rt_fill_zero(gpu->small.data, 256, gpu->stream), "clear memory"));
    QS_TRY(qs_gpu_check(gpu, qs_cu_add(gpu->stream, gpu->small.data, gpu->small.data, 8), "run a first kernel"));
    QS_TRY(qs_gpu_check(gpu, qs_rt_stream_sync(gpu->stream), "run a first kernel"));
out:
    return err;
}

static qs_err make_stream(qs_gpu *gpu)
{
    qs_err err;
    QS_TRY(qs_gpu_check(gpu, qs_rt_stream_create(&gpu->stream), "create a stream"));
    QS_TRY(qs_gpu_check(gpu, qs_rt_stream_create(&gpu->load_stream), "create a stream"));
    QS_TRY(qs_gpu_check(gpu, qs_rt_event_create(&gpu->load_event), "create an event"));
    QS_TRY(qs_gpu_check(gpu, qs_rt_malloc_host(&gpu->pinned, QS_GPU_PINNED_BYTES), "allocate page-locked memory"));
    for (int i = 0; i < 2; i++) QS_TRY(qs_gpu_check(gpu, qs_rt_event_create(&gpu->pinned_free[i]), "create an event"));
out:
    return err;
}

/* After a first kernel and cuBLAS, whose code is loaded when first used. */
static qs_err measure_context(qs_gpu *gpu)
{
    size_t free_bytes, total_bytes, held = qs_gpu_held_by_all(gpu->ordinal);
    qs_err err = qs_gpu_check(gpu, qs_rt_memory(&free_bytes, &total_bytes), "ask for the memory");
    if (err != QS_OK) return err;
    size_t taken = total_bytes - free_bytes;
    gpu->context_bytes = taken > held ? taken - held : 0;
    return QS_OK;
}

static qs_err cuda_create(qs_backend *backend, int64_t device, int n_threads)
{
    char products[QS_BACKEND_TEXT_BYTES / 3];
    qs_gpu *gpu;
    qs_err err = QS_NEW(gpu, 1, "CUDA backend");
    if (err != QS_OK) return err;
    backend->state = gpu;
    gpu->ordinal = (int)device;
    backend->n_threads = n_threads > 0 ? n_threads : omp_get_max_threads();
    backend->has_device = backend->can_record = true;
    backend->scratch_moves = &gpu->scratch_moves;
    backend->gemv_rows = INT32_MAX;
    backend->solver = &qs_gpu_solver;
    QS_TRY(open_device(gpu, device));
    backend->is_emulated = gpu->device.emulated;
    QS_TRY(make_stream(gpu));
    QS_TRY(try_kernel(gpu));
    QS_TRY(qs_blas_create(&gpu->blas, gpu, products, sizeof products));
    QS_TRY(measure_context(gpu));
    (void)snprintf(backend->device, sizeof backend->device, "%s", gpu->device.name);
    (void)snprintf(backend->describe, sizeof backend->describe,
                   "sm_%d%d kernels (of %s), %s, driver %d.%d, runtime %d.%d", gpu->device.major,
                   gpu->device.minor, qs_rt_architectures(), products, gpu->device.driver_version / 1000,
                   gpu->device.driver_version % 1000 / 10, gpu->device.runtime_version / 1000,
                   gpu->device.runtime_version % 1000 / 10);
out:
    return err;
}

static qs_err cuda_set_budget(qs_backend *backend, size_t bytes)
{
    qs_gpu_of(backend)->budget_bytes = bytes;
    return QS_OK;
}

/* ---- recordings ---- */

static qs_err cuda_record_start(qs_backend *backend)
{
    qs_gpu *gpu = qs_gpu_of(backend);
    qs_err err;
    if (gpu->recording) return qs_fail(QS_E_USAGE, "record ops: a recording is under way");
    QS_TRY(qs_gpu_sync(backend));
    QS_TRY(qs_gpu_check(gpu, qs_rt_record_start(gpu->stream), "record ops"));
    gpu->recording = true;
out:
    return err;
}

static qs_err cuda_record_stop(qs_backend *backend, void **out)
{
    qs_gpu *gpu = qs_gpu_of(backend);
    void *graph = NULL;
    if (!gpu->recording) return qs_fail(QS_E_USAGE, "record ops: no recording is under way");
    gpu->recording = false;
    qs_err err = qs_gpu_check(gpu, qs_rt_record_stop(gpu->stream, &graph), "record ops");
    if (out != NULL) *out = graph;
    else if (graph != NULL) (void)qs_rt_graph_destroy(graph);
    return out != NULL ? err : QS_OK;
}

static qs_err cuda_play(qs_backend *backend, void *recording)
{
    qs_gpu *gpu = qs_gpu_of(backend);
    return qs_gpu_check(gpu, qs_rt_graph_play(recording, gpu->stream), "play a recording");
}

static void cuda_forget(qs_backend *backend, void *recording)
{
    (void)backend;
    if (recording != NULL) (void)qs_rt_graph_destroy(recording);
}

/* ---- the list of ops ---- */

static void cuda_list_ops(const qs_backend *backend, qs_op_visit visit, void *context)
{
    static const struct {
        const char *op, *from;
    } rows[] = {
        {"embed", "rows.cu"}, {"rmsnorm", "rows.cu"}, {"rope", "rows.cu"}, {"silu_mul", "rows.cu"}, {"add", "rows.cu"},
        {"attention", "attention.cu"}, {"attention_decode", "attention_decode.cu"}, {"logit_stats", "logits.cu"},
        {"sample", "sample.cu"},
        {"kld", "logits.cu"}, {"abs_stats", "stats.cu"}, {"linear few rows", "linear_few.cu"},
        {"linear exl2", "linear_mixed.cu"}, {"linear f32", "linear.cu"}, {"dequant", "dequant.cu"},
        {"round, code, finish", "coded.cu"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        visit(context, rows[i].op, rows[i].from);
    bool has_wgmma = qs_gpu_of(backend)->device.has_wgmma;
    visit(context, "gram", has_wgmma ? "gram_wgmma.cu" : "stats.cu");
    static const char *const products[] = {"linear many rows", "gemm"};
    for (size_t i = 0; i < sizeof products / sizeof *products; i++)
        visit(context, products[i], qs_blas_from(qs_gpu_of(backend)->blas));
    if (has_wgmma) visit(context, "linear stored rows", "linear_many.cu");
    static const char *const one_row[] = {[QS_CU_ROW_ASYNC] = "linear_few.cu", [QS_CU_ROW_BULK] = "linear_row.h",
                                          [QS_CU_ROW_TURNS] = "linear_turns.h"};
    visit(context, "linear one row", one_row[qs_gpu_of(backend)->one_row]);
}

const qs_backend_ops qs_cuda_backend = {
    .name = "cuda",
    .create = cuda_create,
    .destroy = cuda_destroy,
    .alloc = qs_gpu_alloc,
    .free = qs_gpu_free,
    .upload = qs_gpu_upload,
    .download = qs_gpu_download,
    .copy = qs_gpu_copy,
    .sync = qs_gpu_sync,
    .load_beside = qs_gpu_load_beside,
    .get_memory = qs_gpu_get_memory,
    .set_budget = cuda_set_budget,
    .record_start = cuda_record_start,
    .record_stop = cuda_record_stop,
    .play = cuda_play,
    .forget = cuda_forget,
    .matrix_update = qs_gpu_matrix_update,
    .matrix_destroy = qs_gpu_matrix_destroy,
    .matrix_need = qs_gpu_matrix_need,
    .decoding_need = qs_gpu_decoding_need,
    .linears = qs_gpu_linears,
    .linears_with = qs_gpu_linears_with,
    .embed = qs_gpu_embed,
    .rmsnorm = qs_gpu_rmsnorm,
    .rope = qs_gpu_rope,
    .attention = qs_gpu_attention,
    .attention_decode = qs_gpu_attention_decode,
    .silu_mul = qs_gpu_silu_mul,
    .add = qs_gpu_add,
    .gram = qs_gpu_gram,
    .abs_stats = qs_gpu_abs_stats,
    .logit_stats = qs_gpu_logit_stats,
    .sample = qs_gpu_sample,
    .kld = qs_gpu_kld,
    .gemm = qs_gpu_gemm,
    .measure_peaks = qs_gpu_measure_peaks,
    .list_ops = cuda_list_ops,
};
