#include "quant/workspace.h"

#include "base/mem.h"

typedef struct buffer {
    void *data;
    int64_t bytes;
} buffer;

struct qs_workspace {
    qs_backend *backend;
    qs_team *team;
    buffer host[QS_N_HOST_SLOTS], device[QS_N_DEVICE_SLOTS];
};

qs_err qs_workspace_create(qs_workspace **out, qs_backend *backend)
{
    qs_workspace *workspace = NULL;
    qs_err err;
    QS_TRY(QS_NEW(workspace, 1, "solver workspace"));
    workspace->backend = backend;
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
    if (workspace->team != NULL) qs_team_destroy(workspace->team);
    qs_mem_free(workspace);
}

qs_team *qs_workspace_team(const qs_workspace *workspace) { return workspace->team; }

qs_backend *qs_workspace_backend(const qs_workspace *workspace) { return workspace->backend; }

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

qs_err qs_workspace_device(qs_workspace *workspace, qs_device_slot slot, int64_t bytes, void *out_pointer)
{
    buffer *b = &workspace->device[slot];
    qs_err err = QS_OK;
    if (bytes > b->bytes || b->data == NULL) {
        if (b->data != NULL) qs_backend_free(workspace->backend, b->data);
        *b = (buffer){0};
        err = qs_backend_alloc(workspace->backend, &b->data, (size_t)bytes, "solver workspace");
        if (err == QS_OK) b->bytes = bytes;
    }
    *(void **)out_pointer = b->data;
    return err;
}
