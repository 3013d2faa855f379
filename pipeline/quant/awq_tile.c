#include "quant/awq_tile.h"

#include <string.h>

#include "base/minmax.h"
#include "quant/loss.h"

enum { R = QS_TILE_ROWS, BLOCK = 16 /* columns coded in one call */ };

qs_err qs_awq_lanes(qs_awq_lane **out, qs_workspace *workspace, int64_t n_in)
{
    int64_t n_threads = qs_team_n_threads(qs_workspace_team(workspace));
    int64_t head = (n_threads * (int64_t)sizeof(qs_awq_lane) + 63) / 64 * 64;
    int64_t floats = (3 * n_in + QS_LOSS_STRIP + BLOCK) * R;
    char *at;
    qs_err err = qs_workspace_host(workspace, QS_HOST_LANES,
                                   head + n_threads * floats * (int64_t)sizeof(float), &at);
    if (err != QS_OK) return err;
    *out = (qs_awq_lane *)(void *)at;
    float *data = (float *)(void *)(at + head);
    for (int64_t t = 0; t < n_threads; t++, data += floats)
        (*out)[t] = (qs_awq_lane){.x = data,
                                  .clipped = data + n_in * R,
                                  .e = data + 2 * n_in * R,
                                  .product = data + 3 * n_in * R,
                                  .codes = (uint8_t *)(data + (3 * n_in + QS_LOSS_STRIP) * R)};
    return QS_OK;
}

qs_err qs_awq_device_job(qs_scaling_job *job, void **scratch, qs_workspace *workspace, const qs_quant_task *task)
{
    const qs_spec *spec = task->spec;
    int64_t n_out = task->job->n_out, n_in = task->job->n_in;
    const qs_solver_ops *solver = qs_backend_solver(qs_workspace_backend(workspace));
    qs_err err;
    *job = (qs_scaling_job){.n_out = n_out, .n_in = n_in, .bits = (int)spec->bits, .sym = spec->sym,
                            .group_size = spec->group_size > 0 ? spec->group_size : n_in,
                            .rows = task->rows, .h = qs_factor_h(task->job->factors)};
    QS_TRY(qs_workspace_weights(workspace, task->job->weights, n_out * n_in, &job->weights));
    err = qs_workspace_device(workspace, QS_DEVICE_SOLVER, (int64_t)solver->scaling_bytes(job), scratch);
out:
    return err;
}

void qs_awq_gather(const qs_awq_rows *rows, float *x)
{
    const qs_quant_job *job = rows->task->job;
    /* 16 rows at a time: more, a multiple of 4 KiB apart, push each other's lines out of the cache. */
    for (int64_t part = 0; part < R; part += 16) {
        const float *w[16];
        for (int64_t k = 0; k < 16; k++) {
            int64_t r = rows->first + (part + k) * rows->stride;
            w[k] = r < job->n_out ? job->weights + r * job->n_in : NULL;
        }
        for (int64_t j = 0; j < job->n_in; j++)
            for (int64_t k = 0; k < 16; k++) x[j * R + part + k] = w[k] != NULL ? w[k][j] : 0;
    }
}

/* Of each row of the tile; 1 beyond the matrix. */
static void fill_rows(const qs_awq_rows *rows, float *row)
{
    const qs_quant_task *task = rows->task;
    for (int64_t k = 0; k < R; k++) {
        int64_t r = rows->first + k * rows->stride;
        row[k] = task->rows != NULL && r < task->job->n_out ? task->rows[r] : 1;
    }
}

void qs_awq_scale(const qs_awq_rows *rows, const float *weights, float *x)
{
    float row[R];
    fill_rows(rows, row);
    for (int64_t j = 0; j < rows->task->job->n_in; j++) {
        float column = rows->columns[j];
        for (int k = 0; k < R; k++) x[j * R + k] = weights[j * R + k] * column / row[k];
    }
}

void qs_awq_round(const qs_tile_ops *ops, const qs_scale_rule *rule, const float *x, int64_t n, float *e,
                  uint8_t *codes)
{
    /* Against the identity the solver's error is x - Q(x), and no column takes up another's. */
    static const float identity[BLOCK * BLOCK] = {
        [0] = 1,   [17] = 1,  [34] = 1,  [51] = 1,  [68] = 1,  [85] = 1,  [102] = 1, [119] = 1,
        [136] = 1, [153] = 1, [170] = 1, [187] = 1, [204] = 1, [221] = 1, [238] = 1, [255] = 1};
    float scale[R], zero[R];
    if (e != x) memcpy(e, x, (size_t)(n * R) * sizeof *e);
    ops->scales(rule, e, n, NULL, scale, zero);
    for (int64_t i = 0; i < n; i += BLOCK)
        ops->code(e + i * R, qs_min64(BLOCK, n - i), rule->bits, scale, zero, NULL, identity, BLOCK, codes);
}

void qs_awq_unscale(const qs_awq_rows *rows, int64_t first, int64_t n, float *e)
{
    float row[R];
    fill_rows(rows, row);
    for (int64_t j = 0; j < n; j++) {
        float inverse = 1 / rows->columns[first + j];
        for (int k = 0; k < R; k++) e[j * R + k] *= inverse * row[k];
    }
}

void qs_awq_forms(const qs_tile_ops *ops, const float *h, int64_t n_in, const float *e, int64_t n,
                  float *product, double *form)
{
    memset(form, 0, R * sizeof *form);
    for (int64_t first = 0; first < n; first += QS_LOSS_STRIP) {
        int64_t width = qs_min64(QS_LOSS_STRIP, n - first);
        qs_loss_strip(ops, h, n_in, e, first, width, product);
        for (int64_t j = 0; j < width; j++)
            for (int k = 0; k < R; k++)
                form[k] -= (double)product[j * R + k] * (double)e[(first + j) * R + k];
    }
}

void qs_awq_row_losses(const qs_tile_ops *ops, const qs_awq_rows *rows, const float *h, const float *x,
                       const qs_awq_lane *l, double *form)
{
    const qs_spec *spec = rows->task->spec;
    int64_t n_in = rows->task->job->n_in, group = spec->group_size > 0 ? spec->group_size : n_in;
    qs_scale_rule rule = {.bits = (int)spec->bits, .sym = spec->sym};
    for (int64_t g = 0; g < n_in; g += group)
        qs_awq_round(ops, &rule, x + g * R, qs_min64(group, n_in - g), l->e + g * R, l->codes);
    qs_awq_unscale(rows, 0, n_in, l->e);
    qs_awq_forms(ops, h, n_in, l->e, n_in, l->product, form);
}
