/* runtime.h on the CUDA runtime. The only C file that includes its headers. */
#include "backend/cuda/runtime.h"

#include <cuda_runtime_api.h>
#include <stdio.h>
#include <string.h>

/* The runtime keeps a failure for the next launch to report, although it was reported already: take it away. */
static int done(cudaError_t code)
{
    if (code != cudaSuccess) (void)cudaGetLastError();
    return (int)code;
}

const char *qs_rt_error_text(int code)
{
    static _Thread_local char text[256];
    (void)snprintf(text, sizeof text, "%s: %s", cudaGetErrorName((cudaError_t)code),
                   cudaGetErrorString((cudaError_t)code));
    return text;
}

const char *qs_rt_architectures(void) { return QS_CUDA_ARCHITECTURES; }

/* ---- devices ---- */

int qs_rt_n_devices(int *n)
{
    *n = 0;
    return done(cudaGetDeviceCount(n));
}

static int describe(int device, qs_rt_device *out)
{
    struct cudaDeviceProp properties;
    int code = done(cudaGetDeviceProperties(&properties, device));
    if (code != 0) return code;
    (void)snprintf(out->name, sizeof out->name, "%.127s", properties.name);
    out->major = properties.major;
    out->minor = properties.minor;
    out->has_wgmma = properties.major == 9 && properties.minor == 0 && strstr(QS_CUDA_ARCHITECTURES, "sm_90a") != NULL;
    out->n_sms = properties.multiProcessorCount;
    out->total_bytes = properties.totalGlobalMem;
    out->shared_bytes_max = properties.sharedMemPerBlockOptin;
    code = done(cudaDeviceGetAttribute(&out->clock_khz, cudaDevAttrClockRate, device));
    if (code == 0) code = done(cudaDriverGetVersion(&out->driver_version));
    if (code == 0) code = done(cudaRuntimeGetVersion(&out->runtime_version));
    return code;
}

/* A thread's first is 0, as the runtime has it. */
static _Thread_local int current;

int qs_rt_use(int device)
{
    if (device == current) return 0;
    int code = done(cudaSetDevice(device));
    if (code == 0) current = device;
    return code;
}

int qs_rt_open(int device, qs_rt_device *out)
{
    memset(out, 0, sizeof *out);
    int code = qs_rt_use(device);
    if (code == 0) code = done(cudaFree(NULL)); /* makes the context now, so that its failure shows here */
    return code == 0 ? describe(device, out) : code;
}

/* ---- memory ---- */

int qs_rt_malloc(void **out, size_t bytes)
{
    *out = NULL;
    return done(cudaMalloc(out, bytes));
}

int qs_rt_free(void *pointer) { return done(cudaFree(pointer)); }

int qs_rt_malloc_host(void **out, size_t bytes)
{
    *out = NULL;
    return done(cudaMallocHost(out, bytes));
}

int qs_rt_free_host(void *pointer) { return done(cudaFreeHost(pointer)); }

int qs_rt_memory(size_t *free_bytes, size_t *total_bytes) { return done(cudaMemGetInfo(free_bytes, total_bytes)); }

/* ---- streams ---- */

/* Independent of the default stream, which others in the process may use. */
int qs_rt_stream_create(void **stream)
{
    cudaStream_t created = NULL;
    int code = done(cudaStreamCreateWithFlags(&created, cudaStreamNonBlocking));
    *stream = created;
    return code;
}

int qs_rt_stream_destroy(void *stream) { return stream == NULL ? 0 : done(cudaStreamDestroy(stream)); }
int qs_rt_stream_sync(void *stream) { return done(cudaStreamSynchronize(stream)); }

int qs_rt_copy(void *dst, const void *src, size_t bytes, qs_rt_way way, void *stream)
{
    static const enum cudaMemcpyKind kinds[] = {
        [QS_RT_TO_DEVICE] = cudaMemcpyHostToDevice,
        [QS_RT_TO_HOST] = cudaMemcpyDeviceToHost,
        [QS_RT_ON_DEVICE] = cudaMemcpyDefault, /* or from one device to another */
    };
    return done(cudaMemcpyAsync(dst, src, bytes, kinds[way], stream));
}

int qs_rt_fill_zero(void *dst, size_t bytes, void *stream)
{
    return done(cudaMemsetAsync(dst, 0, bytes, stream));
}

/* ---- events ---- */

int qs_rt_event_create(void **event)
{
    cudaEvent_t created = NULL;
    int code = done(cudaEventCreate(&created));
    *event = created;
    return code;
}

int qs_rt_event_destroy(void *event) { return event == NULL ? 0 : done(cudaEventDestroy(event)); }
int qs_rt_event_record(void *event, void *stream) { return done(cudaEventRecord(event, stream)); }
int qs_rt_event_sync(void *event) { return done(cudaEventSynchronize(event)); }
int qs_rt_stream_wait(void *stream, void *event) { return done(cudaStreamWaitEvent(stream, event, 0)); }
int qs_rt_event_ms(float *ms, void *start, void *stop) { return done(cudaEventElapsedTime(ms, start, stop)); }

/* ---- recordings ---- */

/* Relaxed: other threads, and libraries on this one, may go on allocating meanwhile. */
int qs_rt_record_start(void *stream)
{
    return done(cudaStreamBeginCapture(stream, cudaStreamCaptureModeRelaxed));
}

int qs_rt_record_stop(void *stream, void **graph)
{
    cudaGraph_t captured = NULL;
    cudaGraphExec_t playable = NULL;
    *graph = NULL;
    int code = done(cudaStreamEndCapture(stream, &captured));
    if (code != 0) return code;
    code = done(cudaGraphInstantiateWithFlags(&playable, captured, 0));
    (void)done(cudaGraphDestroy(captured)); /* the playable one has all that it needs */
    *graph = playable;
    return code;
}

int qs_rt_graph_play(void *graph, void *stream) { return done(cudaGraphLaunch(graph, stream)); }
int qs_rt_graph_destroy(void *graph) { return graph == NULL ? 0 : done(cudaGraphExecDestroy(graph)); }

/* ---- for tests: a real device is what it is ---- */

void qs_rt_simt_fail_malloc(int64_t n_allocations, int code)
{
    (void)n_allocations;
    (void)code;
}

void qs_rt_simt_fail_launch(int64_t n_launches, int code)
{
    (void)n_launches;
    (void)code;
}

void qs_rt_simt_set_memory(size_t total_bytes) { (void)total_bytes; }
void qs_rt_simt_set_devices(int n) { (void)n; }
void qs_rt_simt_set_reverse(bool reverse) { (void)reverse; }
