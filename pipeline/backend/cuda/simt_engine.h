/* Between the parts of the CUDA twin: runtime_simt.cpp (device, memory, ordered failures), simt_stream.cpp (streams)
 * and simt_engine.cpp (kernels). */
#ifndef QS_BACKEND_CUDA_SIMT_ENGINE_H
#define QS_BACKEND_CUDA_SIMT_ENGINE_H

#include <pthread.h>

#include "backend/cuda/device.h"

/* Numbers of the CUDA runtime. */
enum { QS_SIMT_INVALID_VALUE = 1, QS_SIMT_INVALID_CONFIGURATION = 9, QS_SIMT_INVALID_DEVICE = 101,
       QS_SIMT_INVALID_HANDLE = 400, QS_SIMT_NOT_READY = 600, QS_SIMT_CAPTURE_UNSUPPORTED = 900,
       QS_SIMT_CAPTURE_INVALIDATED = 901, QS_SIMT_CAPTURE_UNMATCHED = 903 };
enum { QS_SIMT_SHARED_BYTES_MAX = 227 << 10, QS_SIMT_CLUSTER_MAX = 2 };

/* A launch that was checked. */
struct qs_simt_work {
    dim3 grid, block;
    size_t shared_bytes;
    const char *name;
    void (*run)(const void *arguments);
    const void *arguments;
    unsigned cluster; /* blocks of a cluster, along x */
};

extern "C" {
extern pthread_mutex_t qs_simt_mutex; /* one call of the runtime at a time, from whatever thread */

/* simt_engine.cpp */
void qs_simt_run(const qs_simt_work *work);
void qs_simt_set_reversed(bool value);

/* simt_shared.cpp: fills the calling thread's __shared__ variables with bytes 0xFF. */
void qs_simt_poison_static_shared(void);

/* simt_stream.cpp: runs what the streams hold. */
void qs_simt_flush_all(void);

/* runtime_simt.cpp */
bool qs_simt_is_device(const void *at, size_t bytes);
bool qs_simt_is_pinned(const void *at, size_t bytes);
int qs_simt_take_launch_fault(void);
int qs_simt_device(void); /* the calling thread's current one */
/* Memory of a device; -1 = of all. */
void qs_simt_let_touch(int device, bool allowed);
}

struct qs_simt_lock {
    qs_simt_lock() { pthread_mutex_lock(&qs_simt_mutex); }
    ~qs_simt_lock() { pthread_mutex_unlock(&qs_simt_mutex); }
};

#endif
