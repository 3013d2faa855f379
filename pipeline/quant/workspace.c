#include "quant/workspace.h"

#include "base/dtype.h"
#include "base/mem.h"

typedef struct buffer {
    void *data;
    int64_t bytes;
} buffer;

/* A matrix on the device. */
typedef struct resident {
    struct resident *next;
    const float *of; /* host; NULL = free to be used again */
    buffer device;
} resident;

struct qs_workspace {
    qs_backend *backend;
    qs_team *team;
    buffer host[QS_N_HOST_SLOTS], device[QS_N_DEVICE_SLOTS];
    resident *residents;
    int64_t whole_panel;
};

qs_err qs_workspace_create(qs_workspace **out, qs_backend *backend)
{
    qs_workspace *workspace = NULL;
    qs_err err;
    QS_TRY(QS_NEW(workspace, 1, "solver workspace"));
    workspace->backend = backend;
    workspace->whole_panel = QS_WHOLE_PANEL;
    QS_TRY(qs_team_create(&workspace->team, qs_backend_n_threads(backend)));
    *out = workspace;
out:
    if (err != QS_OK) qs_workspace_destroy(workspace);
    return err;
}

void qs_workspace_destroy(qs_workspace *workspace)
{
    if (workspace == NULL) return;
    for (int i = 0; i < QS_N_HOST_SLOTS; i++) qs_mem_free(workspace->host[i].data);
    for (int i = 0; i < QS_N_DEVICE_SLOTS; i++)
        if (workspace->device[i].data != NULL) qs_backend_free(workspace->backend, workspace->device[i].data);
    for (resident *r = workspace->residents, *next; r != NULL; r = next) {
        next = r->next;
        qs_backend_free(workspace->backend, r->device.data);
        qs_mem_free(r);
    }
    if (workspace->team != NULL) qs_team_destroy(workspace->team);
    qs_mem_free(workspace);
}

qs_team *qs_workspace_team(const qs_workspace *workspace) { return workspace->team; }

qs_backend *qs_workspace_backend(const qs_workspace *workspace) { return workspace->backend; }

int64_t qs_workspace_whole_panel(const qs_workspace *workspace) { return workspace->whole_panel; }

void qs_workspace_set_whole_panel(qs_workspace *workspace, int64_t columns) { workspace->whole_panel = columns; }

qs_err qs_workspace_host(qs_workspace *workspace, qs_host_slot slot, int64_t bytes, void *out_pointer)
{
    buffer *b = &workspace->host[slot];
    qs_err err = QS_OK;
    if (bytes > b->bytes || b->data == NULL) {
        qs_mem_free(b->data);
        *b = (buffer){0};
        err = qs_mem_array(&b->data, bytes, 1, "solver workspace");
        if (err == QS_OK) b->bytes = bytes;
    }
    *(void **)out_pointer = b->data;
    return err;
}

static qs_err reserve_device(qs_workspace *workspace, buffer *b, int64_t bytes)
{
    if (bytes <= b->bytes && b->data != NULL) return QS_OK;
    if (b->data != NULL) qs_backend_free(workspace->backend, b->data);
    *b = (buffer){0};
    qs_err err = qs_backend_alloc(workspace->backend, &b->data, (size_t)bytes, "solver workspace");
    if (err == QS_OK) b->bytes = bytes;
    return err;
}

qs_err qs_workspace_device(qs_workspace *workspace, qs_device_slot slot, int64_t bytes, void *out_pointer)
{
    buffer *b = &workspace->device[slot];
    qs_err err = reserve_device(workspace, b, bytes);
    *(void **)out_pointer = b->data;
    return err;
}

/* A free place: the smallest that is large enough, else the largest, which has to grow; NULL when there is
 * none. */
static resident *find_place(const qs_workspace *workspace, int64_t bytes)
{
    resident *best = NULL;
    for (resident *r = workspace->residents; r != NULL; r = r->next) {
        if (r->of != NULL) continue;
        bool fits = r->device.bytes >= bytes, best_fits = best != NULL && best->device.bytes >= bytes;
        if (best == NULL || (fits && !best_fits) ||
            (fits == best_fits && (r->device.bytes < best->device.bytes) == fits))
            best = r;
    }
    return best;
}

qs_err qs_workspace_weights(qs_workspace *workspace, const float *weights, int64_t n, const float **out)
{
    int64_t bytes = n * (int64_t)sizeof *weights;
    resident *r = workspace->residents;
    qs_err err = QS_OK;
    while (r != NULL && r->of != weights) r = r->next;
    if (r == NULL) {
        r = find_place(workspace, bytes);
        if (r == NULL) {
            QS_TRY(QS_NEW(r, 1, "solver workspace"));
            r->next = workspace->residents;
            workspace->residents = r;
        }
        QS_TRY(reserve_device(workspace, &r->device, bytes));
        QS_TRY(qs_backend_upload(workspace->backend, r->device.data, weights, (size_t)bytes));
        r->of = weights;
    }
    *out = r->device.data;
out:
    return err;
}

void qs_workspace_forget_weights(qs_workspace *workspace)
{
    for (resident *r = workspace->residents; r != NULL; r = r->next) r->of = NULL;
}

enum { SCAN = 1 << 20 }; /* elements that are worth a thread */

typedef struct scanning {
    const float *x;
    int64_t n;
    bool found;
} scanning;

static void scan(void *context, int64_t first, int64_t last, int thread)
{
    (void)thread;
    scanning *work = context;
    for (int64_t i = first; i < last; i++) {
        int64_t at = i * SCAN, n = work->n - at < SCAN ? work->n - at : SCAN;
        if (qs_find_nonfinite(work->x + at, n) < 0) continue;
#pragma omp atomic write
        work->found = true;
    }
}

int64_t qs_workspace_find_nonfinite(qs_team *team, const float *x, int64_t n)
{
    scanning work = {.x = x, .n = n};
    qs_team_run(team, (n + SCAN - 1) / SCAN, 1, scan, &work);
    return work.found ? qs_find_nonfinite(x, n) : -1;
}
