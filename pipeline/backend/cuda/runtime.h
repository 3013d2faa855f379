/* What the CUDA backend needs of a CUDA runtime, as plain C: devices, memory, copies, events, graphs.
 *
 * Two files implement it: runtime_cuda.c on the CUDA runtime (linked statically; a machine without a driver
 * answers with an error code and nothing worse), and runtime_simt.cpp, where the device is host memory and
 * kernels run on the CPU (simt.h), with the same limits, counters and failures, so that every path can be
 * tested where no GPU is.
 *
 * Functions return a code: 0, or a CUDA error number that qs_rt_error_text explains. Pointers named `stream`,
 * `event` and `graph` are opaque. All copies are in order with the stream they are given. */
#ifndef QS_BACKEND_CUDA_RUNTIME_H
#define QS_BACKEND_CUDA_RUNTIME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Numbers of the CUDA runtime that callers treat each in its own way. */
enum { QS_RT_OK = 0, QS_RT_OUT_OF_MEMORY = 2, QS_RT_INSUFFICIENT_DRIVER = 35, QS_RT_NO_DEVICE = 100,
       QS_RT_NO_KERNEL_IMAGE = 209, QS_RT_LAUNCH_FAILURE = 719 };

typedef struct qs_rt_device {
    char name[128];
    int major, minor;               /* compute capability */
    int n_sms, clock_khz;
    size_t total_bytes, shared_bytes_max; /* per block, after opting in */
    int driver_version, runtime_version;            /* 13000 = 13.0 */
    bool has_wgmma;                 /* kernels with products of a warpgroup (wgmma.h) run */
    bool emulated;                  /* kernels run on the CPU */
} qs_rt_device;

/* "cudaErrorInsufficientDriver: CUDA driver version is insufficient ..."; never NULL. */
const char *qs_rt_error_text(int code);
/* The architectures that this build holds kernels for: "sm_80 sm_90a ... compute_80" or "cpu". */
const char *qs_rt_architectures(void);

int qs_rt_n_devices(int *n);
/* Makes `device` the current one and describes it. */
int qs_rt_open(int device, qs_rt_device *out);
/* Makes an opened device the calling thread's current one: what is allocated, created, launched and asked about from
 * now on is its. Costs nothing where it is that already. */
int qs_rt_use(int device);

int qs_rt_malloc(void **out, size_t bytes);
int qs_rt_free(void *pointer);
int qs_rt_malloc_host(void **out, size_t bytes); /* page-locked */
int qs_rt_free_host(void *pointer);
int qs_rt_memory(size_t *free_bytes, size_t *total_bytes);

int qs_rt_stream_create(void **stream);
int qs_rt_stream_destroy(void *stream);
int qs_rt_stream_sync(void *stream);

/* ON_DEVICE: or from one device to another. */
typedef enum qs_rt_way { QS_RT_TO_DEVICE, QS_RT_TO_HOST, QS_RT_ON_DEVICE } qs_rt_way;
int qs_rt_copy(void *dst, const void *src, size_t bytes, qs_rt_way way, void *stream);
int qs_rt_fill_zero(void *dst, size_t bytes, void *stream);

int qs_rt_event_create(void **event);
int qs_rt_event_destroy(void *event);
int qs_rt_event_record(void *event, void *stream);
int qs_rt_event_sync(void *event);
int qs_rt_stream_wait(void *stream, void *event);
int qs_rt_event_ms(float *ms, void *start, void *stop); /* between two events that have passed */

/* What is put on the stream between start and stop is not run but kept, and runs at each play. */
int qs_rt_record_start(void *stream);
int qs_rt_record_stop(void *stream, void **graph);
int qs_rt_graph_play(void *graph, void *stream);
int qs_rt_graph_destroy(void *graph);

/* ---- for tests; the real runtime knows nothing of them ---- */
/* After `n_allocations` more allocations (or launches) that succeed, one fails with `code` and so does every later
 * one until this is called with code 0. */
void qs_rt_simt_fail_malloc(int64_t n_allocations, int code);
void qs_rt_simt_fail_launch(int64_t n_launches, int code);
/* Bytes that a pretended device has; default 8 GiB. */
void qs_rt_simt_set_memory(size_t total_bytes);
/* How many devices are pretended, up to 8; default 1, or what QS_SIMT_DEVICES in the environment says. */
void qs_rt_simt_set_devices(int n);
/* Whether devices that are opened from now on have products of a warpgroup; default true. */
void qs_rt_simt_set_wgmma(bool has_wgmma);
/* Blocks, and threads within a block, run first to last (false) or last to first. */
void qs_rt_simt_set_reverse(bool reverse);

#ifdef __cplusplus
}
#endif

#endif
