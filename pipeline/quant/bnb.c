#include "quant/bnb.h"

#include <math.h>
#include <string.h>

#include "base/dtype.h"
#include "base/mem.h"
#include "quant/methods.h"

/* Below this a reciprocal would overflow; such a block is as good as zero. */
static const float absmax_min = 1e-38f;

/* Of FP4's magnitudes, by size. */
static const uint8_t fp4_order[8] = {0, 1, 6, 7, 4, 5, 2, 3};

/* Code of the nearest of n ascending values (a power of two), of two equally near ones the lower; code[i] is
 * that of the i-th, NULL = i. Midpoints in f32 are bitsandbytes' thresholds to the last bit. */
static int nearest_of(const float *values, const uint8_t *code, int n, float t)
{
    int low = 0;
    for (int step = n / 2; step > 0; step /= 2) {
        int left = low + step - 1, right = low + step;
        if (code != NULL) {
            left = code[left];
            right = code[right];
        }
        if (t > (values[left] + values[right]) * 0.5f) low += step;
    }
    return code != NULL ? code[low] : low;
}

uint8_t qs_bnb_code(qs_packed_format format, float t)
{
    const float *values = qs_formats[format].values;
    if (format == QS_PACKED_NF4) return (uint8_t)nearest_of(values, NULL, 16, t);
    return (uint8_t)(nearest_of(values, fp4_order, 8, fabsf(t)) | (t < 0 ? 8 : 0));
}

float qs_bnb_quantise_block(qs_packed_format format, const float *weights, int64_t n, uint8_t *codes)
{
    float absmax = 0;
    for (int64_t i = 0; i < n; i++) absmax = fmaxf(absmax, fabsf(weights[i]));
    float reciprocal = 1.0f / fmaxf(absmax, absmax_min);
    for (int64_t i = 0; i < n; i++) codes[i] = qs_bnb_code(format, weights[i] * reciprocal);
    return absmax;
}

void qs_bnb_double_quantise(qs_packed *packed, float *absmax)
{
    double sum = 0;
    for (int64_t i = 0; i < packed->n_absmax; i++) sum += (double)absmax[i];
    float offset = packed->nested_offset = (float)(sum / (double)packed->n_absmax);
    for (int64_t first = 0; first < packed->n_absmax; first += QS_NESTED_BLOCK) {
        int64_t end = first + QS_NESTED_BLOCK < packed->n_absmax ? first + QS_NESTED_BLOCK : packed->n_absmax;
        float largest = 0;
        for (int64_t i = first; i < end; i++) {
            absmax[i] -= offset;
            largest = fmaxf(largest, fabsf(absmax[i]));
        }
        packed->nested_absmax[first / QS_NESTED_BLOCK] = largest;
        float reciprocal = 1.0f / fmaxf(largest, absmax_min);
        for (int64_t i = first; i < end; i++) packed->absmax_codes[i] = qs_dynamic_code(absmax[i] * reciprocal);
    }
}

float qs_bnb_quantise_row(const float *weights, int64_t n_in, uint8_t *codes)
{
    float absmax = 0;
    for (int64_t j = 0; j < n_in; j++) absmax = fmaxf(absmax, fabsf(qs_round_to(weights[j], QS_ROUND_F16)));
    float factor = qs_int8_factor(absmax);
    for (int64_t j = 0; j < n_in; j++)
        codes[j] = (uint8_t)((int)rintf(qs_round_to(weights[j], QS_ROUND_F16) * factor) + QS_INT8_MIDDLE);
    return absmax;
}

void qs_bnb_flat_codes(const qs_packed *packed, uint8_t *bytes)
{
    memset(bytes, 0, (size_t)((packed->n_out * packed->n_in + 1) / 2));
    for (int64_t o = 0, flat = 0; o < packed->n_out; o++)
        for (int64_t j = 0; j < packed->n_in; j++, flat++) {
            int code = (packed->codes[o * packed->row_bytes + j / 2] >> (j % 2 * 4)) & 15;
            bytes[flat / 2] |= (uint8_t)(code << (flat % 2 == 0 ? 4 : 0));
        }
}

/* ---- whole matrices ---- */

enum { ROWS = 16 /* of a matrix per item */, RUN = 256 /* blocks per item */ };

typedef struct work {
    const float *weights;
    qs_packed *packed;
    uint8_t *codes; /* [n_out, n_in], one to a byte */
    float *absmax;  /* [n_absmax] */
} work;

static void quantise_blocks(void *context, int64_t first, int64_t last, int thread)
{
    (void)thread;
    const work *w = context;
    int64_t block = w->packed->group_size, n = w->packed->n_out * w->packed->n_in;
    for (int64_t b = first * RUN; b < last * RUN && b < w->packed->n_absmax; b++) {
        int64_t at = b * block, size = at + block < n ? block : n - at;
        w->absmax[b] = qs_bnb_quantise_block(w->packed->format, w->weights + at, size, w->codes + at);
    }
}

static void quantise_rows(void *context, int64_t first, int64_t last, int thread)
{
    (void)thread;
    const work *w = context;
    int64_t n_in = w->packed->n_in;
    for (int64_t o = first * ROWS; o < last * ROWS && o < w->packed->n_out; o++)
        w->absmax[o] = qs_bnb_quantise_row(w->weights + o * n_in, n_in, w->codes + o * n_in);
}

static void pack_rows(void *context, int64_t first, int64_t last, int thread)
{
    (void)thread;
    const work *w = context;
    for (int64_t o = first * ROWS; o < last * ROWS && o < w->packed->n_out; o++)
        qs_packed_set_row(w->packed, o, w->codes + o * w->packed->n_in);
}

/* On the host, whatever the backend: there is no arithmetic worth carrying weights for. */
static qs_err solve_one(qs_workspace *workspace, const qs_quant_task *task)
{
    qs_team *team = qs_workspace_team(workspace);
    const qs_quant_job *job = task->job;
    work w = {.weights = job->weights, .packed = &task->out->packed};
    int64_t code_bytes = (job->n_out * job->n_in + 63) / 64 * 64, n_items = (job->n_out + ROWS - 1) / ROWS;
    char *slot;
    qs_err err;
    QS_TRY(qs_spec_shape(task->spec, job->n_out, job->n_in, w.packed));
    QS_TRY(qs_packed_alloc_absmax(w.packed, task->spec->double_quant));
    QS_TRY(qs_workspace_host(workspace, QS_HOST_CODES, code_bytes + w.packed->n_absmax * (int64_t)sizeof *w.absmax,
                             &slot));
    w.codes = (uint8_t *)slot;
    w.absmax = task->spec->double_quant ? (float *)(void *)(slot + code_bytes) : w.packed->absmax;
    if (w.packed->format == QS_PACKED_INT8)
        qs_team_run(team, n_items, 1, quantise_rows, &w);
    else
        qs_team_run(team, (w.packed->n_absmax + RUN - 1) / RUN, 1, quantise_blocks, &w);
    qs_team_run(team, n_items, 1, pack_rows, &w);
    if (task->spec->double_quant) qs_bnb_double_quantise(w.packed, w.absmax);
out:
    return err;
}

static qs_err solve(qs_workspace *workspace, const qs_quant_task *tasks, int64_t n_tasks)
{
    qs_err err = QS_OK;
    for (int64_t i = 0; i < n_tasks; i++) QS_TRY(solve_one(workspace, &tasks[i]));
out:
    return err;
}

const qs_method qs_method_nf4 = {
    .name = "nf4",
    .summary = "bitsandbytes' 4-bit codes for normally distributed weights, largest magnitude of a block as scale",
    .format = QS_PACKED_NF4,
    .solve = solve,
};

const qs_method qs_method_fp4 = {
    .name = "fp4",
    .summary = "bitsandbytes' 4-bit floating point, largest magnitude of a block as scale",
    .format = QS_PACKED_FP4,
    .solve = solve,
};

const qs_method qs_method_int8 = {
    .name = "int8",
    .summary = "LLM.int8: rows in 8 bits, inputs in 8 bits as they come, their outliers in 16",
    .format = QS_PACKED_INT8,
    .solve = solve,
};
