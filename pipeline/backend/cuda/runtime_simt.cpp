/* runtime.h without a GPU: device memory is host memory, and kernels run on the CPU (simt_stream.cpp has the streams,
 * simt_engine.cpp runs the kernels). Under AddressSanitizer the host may not touch device memory between the times
 * when the streams work. */
#include "backend/cuda/runtime.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(at, bytes) ((void)(at), (void)(bytes))
#define ASAN_UNPOISON_MEMORY_REGION(at, bytes) ((void)(at), (void)(bytes))
#endif

#include "backend/cuda/simt_engine.h"

pthread_mutex_t qs_simt_mutex = PTHREAD_MUTEX_INITIALIZER;

namespace {

enum { N_DEVICES_MAX = 8 };

struct allocation {
    void *at;
    size_t bytes;
    int device;
    allocation *next;
};
allocation *device_memory, *pinned_memory;
size_t used_bytes[N_DEVICES_MAX], total_bytes = (size_t)8 << 30;
int n_devices; /* 0 = nobody has asked yet */
bool has_wgmma = true;
__thread int current_device;

/* A failure that tests have ordered: after so many successes, for ever. */
struct fault {
    int64_t n_left;
    int code;
    int take()
    {
        if (code == 0) return 0;
        if (n_left > 0) {
            n_left--;
            return 0;
        }
        return code;
    }
};
fault malloc_fault, launch_fault;

bool holds(const allocation *list, const void *at, size_t bytes)
{
    const char *first = static_cast<const char *>(at);
    for (; list != NULL; list = list->next) {
        const char *from = static_cast<const char *>(list->at);
        if (first >= from && first + bytes <= from + list->bytes) return true;
    }
    return false;
}

int allocate(void **out, size_t bytes, allocation **list)
{
    *out = NULL;
    int code = malloc_fault.take();
    if (code != 0) return code;
    if (bytes == 0) return 0;
    allocation *a = static_cast<allocation *>(malloc(sizeof *a));
    /* Aligned as on a GPU; of exactly the asked size, so that a sanitizer sees an access beyond it. */
    if (a == NULL || posix_memalign(&a->at, 256, bytes) != 0) {
        free(a);
        return QS_RT_OUT_OF_MEMORY;
    }
    a->bytes = bytes;
    a->device = current_device;
    a->next = *list;
    *list = a;
    *out = a->at;
    return 0;
}

/* The link that leads to an allocation that starts there, or NULL. */
allocation **find(allocation **list, const void *at)
{
    for (; *list != NULL; list = &(*list)->next)
        if ((*list)->at == at) return list;
    return NULL;
}

void release(allocation **link)
{
    allocation *a = *link;
    *link = a->next;
    free(a->at);
    free(a);
}

} // namespace

/* ---- devices ---- */

const char *qs_rt_error_text(int code)
{
    static const struct {
        int code;
        const char *text;
    } texts[] = {
        {0, "cudaSuccess: no error"},
        {QS_SIMT_INVALID_VALUE, "cudaErrorInvalidValue: invalid argument"},
        {QS_RT_OUT_OF_MEMORY, "cudaErrorMemoryAllocation: out of memory"},
        {QS_SIMT_INVALID_CONFIGURATION, "cudaErrorInvalidConfiguration: invalid configuration argument"},
        {QS_RT_INSUFFICIENT_DRIVER, "cudaErrorInsufficientDriver: the driver is too old, or there is none"},
        {QS_RT_NO_DEVICE, "cudaErrorNoDevice: no CUDA-capable device is detected"},
        {QS_SIMT_INVALID_DEVICE, "cudaErrorInvalidDevice: invalid device ordinal"},
        {QS_RT_NO_KERNEL_IMAGE, "cudaErrorNoKernelImageForDevice: no kernel image for the device"},
        {QS_SIMT_INVALID_HANDLE, "cudaErrorInvalidResourceHandle: invalid resource handle"},
        {QS_SIMT_NOT_READY, "cudaErrorNotReady: device not ready"},
        {QS_RT_LAUNCH_FAILURE, "cudaErrorLaunchFailure: unspecified launch failure"},
        {QS_SIMT_CAPTURE_UNSUPPORTED, "cudaErrorStreamCaptureUnsupported: not permitted while a stream is recorded"},
        {QS_SIMT_CAPTURE_INVALIDATED, "cudaErrorStreamCaptureInvalidated: an earlier error ended the recording"},
        {QS_SIMT_CAPTURE_UNMATCHED, "cudaErrorStreamCaptureUnmatched: the stream is not recorded"},
    };
    for (const auto &row : texts)
        if (row.code == code) return row.text;
    return "unknown CUDA error";
}

const char *qs_rt_architectures(void) { return "cpu"; }

int qs_rt_n_devices(int *n)
{
    qs_simt_lock locked;
    const char *asked = getenv("QS_SIMT_DEVICES");
    if (n_devices == 0) n_devices = asked != NULL ? atoi(asked) : 1;
    if (n_devices < 1 || n_devices > N_DEVICES_MAX) n_devices = 1;
    *n = n_devices;
    return 0;
}

int qs_rt_use(int device)
{
    int n;
    (void)qs_rt_n_devices(&n);
    if (device < 0 || device >= n) return QS_SIMT_INVALID_DEVICE;
    current_device = device;
    return 0;
}

int qs_simt_device(void) { return current_device; }

int qs_rt_open(int device, qs_rt_device *out)
{
    int code = qs_rt_use(device);
    if (code != 0) return code;
    *out = {};
    snprintf(out->name, sizeof out->name, "CUDA kernels on the CPU");
    out->major = 9;
    out->n_sms = 2; /* each a thousand fibers at work, and more than one */
    out->clock_khz = 1000000;
    out->total_bytes = total_bytes;
    out->shared_bytes_max = QS_SIMT_SHARED_BYTES_MAX;
    out->driver_version = out->runtime_version = 13000;
    out->has_wgmma = has_wgmma;
    out->emulated = true;
    return 0;
}

/* ---- memory ---- */

int qs_rt_malloc(void **out, size_t bytes)
{
    qs_simt_lock locked;
    if (bytes > total_bytes - used_bytes[current_device]) {
        *out = NULL;
        return QS_RT_OUT_OF_MEMORY;
    }
    int code = allocate(out, bytes, &device_memory);
    if (*out == NULL) return code;
    used_bytes[current_device] += bytes;
    memset(*out, 0xff, bytes); /* a NaN in every float format, until it is written */
    ASAN_POISON_MEMORY_REGION(*out, bytes);
    return 0;
}

int qs_rt_free(void *pointer)
{
    qs_simt_lock locked;
    if (pointer == NULL) return 0;
    allocation **link = find(&device_memory, pointer);
    if (link == NULL) return QS_SIMT_INVALID_VALUE;
    qs_simt_flush_all(); /* as on a GPU, it waits for what may still use the memory */
    used_bytes[(*link)->device] -= (*link)->bytes;
    ASAN_UNPOISON_MEMORY_REGION(pointer, (*link)->bytes);
    release(link);
    return 0;
}

int qs_rt_malloc_host(void **out, size_t bytes)
{
    qs_simt_lock locked;
    return allocate(out, bytes, &pinned_memory);
}

int qs_rt_free_host(void *pointer)
{
    qs_simt_lock locked;
    if (pointer == NULL) return 0;
    allocation **link = find(&pinned_memory, pointer);
    if (link == NULL) return QS_SIMT_INVALID_VALUE;
    qs_simt_flush_all();
    release(link);
    return 0;
}

int qs_rt_memory(size_t *free_bytes, size_t *all_bytes)
{
    qs_simt_lock locked;
    *free_bytes = total_bytes - used_bytes[current_device];
    *all_bytes = total_bytes;
    return 0;
}

bool qs_simt_is_device(const void *at, size_t bytes) { return holds(device_memory, at, bytes); }
bool qs_simt_is_pinned(const void *at, size_t bytes) { return holds(pinned_memory, at, bytes); }
int qs_simt_take_launch_fault(void) { return launch_fault.take(); }

void qs_simt_let_touch(int device, bool allowed)
{
    for (const allocation *a = device_memory; a != NULL; a = a->next) {
        if (device >= 0 && a->device != device) continue;
        if (allowed)
            ASAN_UNPOISON_MEMORY_REGION(a->at, a->bytes);
        else
            ASAN_POISON_MEMORY_REGION(a->at, a->bytes);
    }
}

/* ---- for tests ---- */

void qs_rt_simt_fail_malloc(int64_t n_allocations, int code)
{
    qs_simt_lock locked;
    malloc_fault = {n_allocations, code};
}

void qs_rt_simt_fail_launch(int64_t n_launches, int code)
{
    qs_simt_lock locked;
    launch_fault = {n_launches, code};
}

void qs_rt_simt_set_wgmma(bool has) { has_wgmma = has; }

void qs_rt_simt_set_memory(size_t bytes)
{
    qs_simt_lock locked;
    total_bytes = bytes;
}

void qs_rt_simt_set_devices(int n)
{
    qs_simt_lock locked;
    n_devices = n;
}

void qs_rt_simt_set_reverse(bool reverse)
{
    qs_simt_lock locked;
    qs_simt_flush_all(); /* what was put there before ran in the order of then */
    qs_simt_set_reversed(reverse);
}
