/* Streams of the CUDA twin: launches, copies, events and recordings.
 *
 * As on a GPU, what is put on a stream does not run at once: it waits until somebody waits for it, so that a missing
 * synchronisation shows. Copies from or to ordinary memory are done when the call returns, as the CUDA runtime does
 * it. */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "backend/cuda/runtime.h"
#include "backend/cuda/simt_async.h"
#include "backend/cuda/simt_engine.h"

namespace {

enum { N_PENDING_MAX = 256, N_KERNELS_MAX = 256, SHARED_BYTES_UNASKED = 48 << 10 };

struct event {
    bool is_recorded, has_passed;
    double ms;
};

struct operation {
    enum { LAUNCH, COPY, FILL, RECORD, PLAY } kind;
    qs_simt_work work; /* its arguments are owned */
    void *dst;
    const void *src;
    size_t bytes;
    struct event *event;
    const struct operations *graph;
};

struct operations {
    operation *items;
    size_t n, cap;
};

struct stream {
    operations pending, recorded;
    bool is_recording, is_broken; /* by a call that cannot be recorded */
    int device;
    stream *next;
};

stream *streams;
int launch_error;

struct attributes { /* of a kernel */
    const void *kernel;
    size_t shared_bytes; /* dynamic, allowed */
    unsigned cluster;    /* blocks */
};
attributes kernels[N_KERNELS_MAX];
int n_kernels;

/* What has been said of a kernel; NULL = nothing, if it is not to be added. */
attributes *attributes_of(const void *kernel, bool add)
{
    int i = 0;
    while (i < n_kernels && kernels[i].kernel != kernel) i++;
    if (i < n_kernels) return &kernels[i];
    if (!add) return NULL;
    if (i == N_KERNELS_MAX) abort();
    kernels[n_kernels++] = {kernel, 0, 1};
    return &kernels[i];
}

/* ---- work ---- */

void append(operations *list, const operation *op)
{
    if (list->n == list->cap) {
        list->cap = list->cap == 0 ? 16 : 2 * list->cap;
        list->items = static_cast<operation *>(realloc(list->items, list->cap * sizeof *list->items));
        if (list->items == NULL) abort();
    }
    list->items[list->n++] = *op;
}

void clear(operations *list)
{
    for (size_t i = 0; i < list->n; i++) free(const_cast<void *>(list->items[i].work.arguments));
    free(list->items);
    *list = {NULL, 0, 0};
}

/* The only work that may reach from one device to another. */
void copy(const operation *op, int device)
{
    qs_simt_let_touch(-1, true);
    memmove(op->dst, op->src, op->bytes);
    qs_simt_let_touch(-1, false);
    qs_simt_let_touch(device, true);
}

void run(const operations *list, int device)
{
    for (size_t i = 0; i < list->n; i++) {
        const operation *op = &list->items[i];
        switch (op->kind) {
        case operation::LAUNCH: qs_simt_run(&op->work); break;
        case operation::COPY: copy(op, device); break;
        case operation::FILL: memset(op->dst, 0, op->bytes); break;
        case operation::PLAY: run(op->graph, device); break;
        case operation::RECORD:
            struct timespec now;
            clock_gettime(CLOCK_MONOTONIC, &now);
            op->event->ms = (double)now.tv_sec * 1e3 + (double)now.tv_nsec * 1e-6;
            op->event->has_passed = true;
            break;
        }
    }
}

void flush(stream *s)
{
    if (s->pending.n == 0) return;
    qs_simt_let_touch(s->device, true);
    run(&s->pending, s->device);
    qs_simt_let_touch(s->device, false);
    clear(&s->pending);
}

/* The default stream, NULL, is in order with all others. */
void put(stream *s, const operation *op)
{
    stream now = {};
    if (s != NULL && s->is_recording) {
        append(&s->recorded, op);
        return;
    }
    if (s == NULL) {
        qs_simt_flush_all();
        now.device = qs_simt_device();
        s = &now;
    }
    append(&s->pending, op);
    if (s == &now || s->pending.n >= N_PENDING_MAX) flush(s);
}

/* For calls that wait and so have no place in a recording. */
bool breaks_recording(stream *s)
{
    if (s == NULL || !s->is_recording) return false;
    s->is_broken = true;
    return true;
}

int check_launch(const qs_simt_launch_config *c)
{
    uint64_t n_threads = (uint64_t)c->block.x * c->block.y * c->block.z;
    if (n_threads == 0 || c->block.x > 1024 || c->block.y > 1024 || c->block.z > 64 || n_threads > 1024)
        return QS_SIMT_INVALID_CONFIGURATION;
    if (c->grid.x == 0 || c->grid.x > INT32_MAX || c->grid.y - 1 > 65534 || c->grid.z - 1 > 65534)
        return QS_SIMT_INVALID_CONFIGURATION;
    if (c->shared_bytes > QS_SIMT_SHARED_BYTES_MAX) return QS_SIMT_INVALID_CONFIGURATION;
    const attributes *kernel = attributes_of(c->kernel, false);
    if (c->shared_bytes > SHARED_BYTES_UNASKED && (kernel == NULL || c->shared_bytes > kernel->shared_bytes))
        return QS_SIMT_INVALID_VALUE;
    if (kernel != NULL && (c->grid.x % kernel->cluster != 0 || n_threads * kernel->cluster > 1024))
        return QS_SIMT_INVALID_CONFIGURATION;
    return qs_simt_take_launch_fault();
}

} // namespace

void qs_simt_flush_all(void)
{
    for (stream *s = streams; s != NULL; s = s->next) flush(s);
}

/* ---- launches, for simt.h ---- */

void qs_simt_launch(const qs_simt_launch_config *config, void (*run_kernel)(const void *), const void *arguments,
                    size_t bytes)
{
    qs_simt_lock locked;
    stream *s = static_cast<stream *>(config->stream);
    int code = check_launch(config);
    if (code == 0 && s != NULL && s->device != qs_simt_device()) code = QS_SIMT_INVALID_HANDLE;
    if (code != 0) {
        launch_error = launch_error == 0 ? code : launch_error;
        (void)breaks_recording(s);
        return;
    }
    void *kept = malloc(bytes);
    if (kept == NULL) abort();
    memcpy(kept, arguments, bytes);
    operation op = {};
    op.kind = operation::LAUNCH;
    const attributes *kernel = attributes_of(config->kernel, false);
    op.work = {config->grid, config->block, config->shared_bytes, config->name, run_kernel, kept,
               kernel != NULL ? kernel->cluster : 1};
    put(s, &op);
}

int qs_simt_launch_status(void)
{
    qs_simt_lock locked;
    int code = launch_error;
    launch_error = 0;
    return code;
}

int qs_simt_allow_shared(const void *kernel, size_t bytes)
{
    qs_simt_lock locked;
    if (bytes > QS_SIMT_SHARED_BYTES_MAX) return QS_SIMT_INVALID_VALUE;
    attributes_of(kernel, true)->shared_bytes = bytes;
    return 0;
}

void qs_simt_form_clusters(const void *kernel, unsigned n_blocks)
{
    qs_simt_lock locked;
    if (n_blocks == 0 || n_blocks > QS_SIMT_CLUSTER_MAX) abort();
    attributes_of(kernel, true)->cluster = n_blocks;
}

/* ---- streams ---- */

int qs_rt_stream_create(void **out)
{
    qs_simt_lock locked;
    stream *s = static_cast<stream *>(calloc(1, sizeof *s));
    *out = s;
    if (s == NULL) return QS_RT_OUT_OF_MEMORY;
    s->device = qs_simt_device();
    s->next = streams;
    streams = s;
    return 0;
}

int qs_rt_stream_destroy(void *pointer)
{
    qs_simt_lock locked;
    for (stream **link = &streams; *link != NULL; link = &(*link)->next) {
        stream *s = *link;
        if (s != pointer) continue;
        flush(s);
        clear(&s->recorded);
        *link = s->next;
        free(s);
        return 0;
    }
    return pointer == NULL ? 0 : QS_SIMT_INVALID_HANDLE;
}

int qs_rt_stream_sync(void *pointer)
{
    qs_simt_lock locked;
    stream *s = static_cast<stream *>(pointer);
    if (breaks_recording(s)) return QS_SIMT_CAPTURE_UNSUPPORTED;
    if (s == NULL)
        qs_simt_flush_all();
    else
        flush(s);
    return 0;
}

int qs_rt_copy(void *dst, const void *src, size_t bytes, qs_rt_way way, void *pointer)
{
    qs_simt_lock locked;
    stream *s = static_cast<stream *>(pointer);
    const void *on_device[2] = {way == QS_RT_TO_HOST ? NULL : dst, way == QS_RT_TO_DEVICE ? NULL : src};
    for (const void *side : on_device)
        if (side != NULL && !qs_simt_is_device(side, bytes)) return QS_SIMT_INVALID_VALUE;
    operation op = {};
    op.kind = operation::COPY;
    op.dst = dst;
    op.src = src;
    op.bytes = bytes;
    put(s, &op);
    bool is_later = way == QS_RT_ON_DEVICE || qs_simt_is_pinned(way == QS_RT_TO_HOST ? dst : src, bytes);
    if (!is_later && s != NULL && !s->is_recording) flush(s);
    return 0;
}

int qs_rt_fill_zero(void *dst, size_t bytes, void *pointer)
{
    qs_simt_lock locked;
    if (!qs_simt_is_device(dst, bytes)) return QS_SIMT_INVALID_VALUE;
    operation op = {};
    op.kind = operation::FILL;
    op.dst = dst;
    op.bytes = bytes;
    put(static_cast<stream *>(pointer), &op);
    return 0;
}

/* ---- events ---- */

int qs_rt_event_create(void **out)
{
    *out = calloc(1, sizeof(event));
    return *out == NULL ? QS_RT_OUT_OF_MEMORY : 0;
}

int qs_rt_event_destroy(void *pointer)
{
    qs_simt_lock locked;
    qs_simt_flush_all();
    free(pointer);
    return 0;
}

int qs_rt_event_record(void *pointer, void *pointer_s)
{
    qs_simt_lock locked;
    event *e = static_cast<event *>(pointer);
    e->is_recorded = true;
    e->has_passed = false;
    operation op = {};
    op.kind = operation::RECORD;
    op.event = e;
    put(static_cast<stream *>(pointer_s), &op);
    return 0;
}

int qs_rt_event_sync(void *pointer)
{
    qs_simt_lock locked;
    const event *e = static_cast<event *>(pointer);
    if (e->is_recorded && !e->has_passed) qs_simt_flush_all();
    return 0;
}

int qs_rt_stream_wait(void *pointer, void *pointer_e)
{
    qs_simt_lock locked;
    const event *e = static_cast<event *>(pointer_e);
    if (breaks_recording(static_cast<stream *>(pointer))) return QS_SIMT_CAPTURE_UNSUPPORTED;
    if (e->is_recorded && !e->has_passed) qs_simt_flush_all();
    return 0;
}

int qs_rt_event_ms(float *ms, void *start, void *stop)
{
    qs_simt_lock locked;
    const event *from = static_cast<event *>(start), *to = static_cast<event *>(stop);
    if (!from->is_recorded || !to->is_recorded) return QS_SIMT_INVALID_HANDLE;
    if (!from->has_passed || !to->has_passed) return QS_SIMT_NOT_READY;
    *ms = (float)(to->ms - from->ms);
    return 0;
}

/* ---- recordings ---- */

int qs_rt_record_start(void *pointer)
{
    qs_simt_lock locked;
    stream *s = static_cast<stream *>(pointer);
    if (s == NULL || s->is_recording) return QS_SIMT_CAPTURE_UNSUPPORTED;
    s->is_recording = true;
    s->is_broken = false;
    return 0;
}

int qs_rt_record_stop(void *pointer, void **graph)
{
    qs_simt_lock locked;
    stream *s = static_cast<stream *>(pointer);
    *graph = NULL;
    if (s == NULL || !s->is_recording) return QS_SIMT_CAPTURE_UNMATCHED;
    s->is_recording = false;
    operations *kept = static_cast<operations *>(malloc(sizeof *kept));
    if (s->is_broken || kept == NULL) {
        clear(&s->recorded);
        free(kept);
        return s->is_broken ? (int)QS_SIMT_CAPTURE_INVALIDATED : (int)QS_RT_OUT_OF_MEMORY;
    }
    *kept = s->recorded;
    s->recorded = {NULL, 0, 0};
    *graph = kept;
    return 0;
}

int qs_rt_graph_play(void *graph, void *pointer)
{
    qs_simt_lock locked;
    int code = qs_simt_take_launch_fault();
    if (code != 0) return code;
    operation op = {};
    op.kind = operation::PLAY;
    op.graph = static_cast<operations *>(graph);
    put(static_cast<stream *>(pointer), &op);
    return 0;
}

int qs_rt_graph_destroy(void *graph)
{
    qs_simt_lock locked;
    if (graph == NULL) return 0;
    qs_simt_flush_all();
    clear(static_cast<operations *>(graph));
    free(graph);
    return 0;
}
