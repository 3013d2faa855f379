#include "train/optimizer.h"

#include <string.h>

#include "base/mem.h"
#include "train/dynamic_map.h"

enum { CHUNK_ELEMENTS = 4096 }; /* a piece of work: whole blocks of one tensor */

static const float average_decay = 0.99f; /* of the variance clamp's moving average */

typedef struct chunk {
    int64_t first, n; /* elements of the layout */
    int64_t state;    /* first element of its 32-bit moments, or of its codes */
    int64_t block;    /* first of its blocks, among those of all tensors */
    int64_t scale;    /* first of its blocks, among those with scales */
    bool is_8bit, decays;
} chunk;

struct qs_optimizer {
    const qs_train_layout *layout;
    const qs_train_kernels *kernels;
    qs_optimizer_options options;
    int64_t n_chunks, n_32, n_8, n_scales, n_blocks;
    chunk *chunks;              /* [n_chunks] */
    float *m, *v;               /* [n_32] */
    uint8_t *m_codes, *v_codes; /* [n_8] */
    float *m_scales, *v_scales; /* [n_scales] */
    float *v_average;           /* [n_blocks]; with the variance clamp */
    qs_dynamic_map m_map, v_map;
};

static int64_t n_blocks_of(int64_t n) { return (n + QS_ADAM_BLOCK - 1) / QS_ADAM_BLOCK; }

/* Cuts the tensors into chunks and counts the state; without an array for the chunks it only counts. */
static void cut(qs_optimizer *o)
{
    o->n_chunks = o->n_32 = o->n_8 = o->n_scales = o->n_blocks = 0;
    for (int64_t i = 0; i < o->layout->n_tensors; i++) {
        const qs_train_tensor *t = &o->layout->tensors[i];
        int64_t n_tensor = t->n_out * t->n_in;
        int bits =
            t->is_table && o->options.embedding_bits != 0 ? o->options.embedding_bits : o->options.bits;
        bool is_8bit = o->options.bits == 8 && bits == 8 && n_tensor >= QS_ADAM8_MIN_SIZE;
        for (int64_t done = 0; done < n_tensor; done += CHUNK_ELEMENTS) {
            int64_t n = n_tensor - done < CHUNK_ELEMENTS ? n_tensor - done : CHUNK_ELEMENTS;
            if (o->chunks != NULL)
                o->chunks[o->n_chunks] = (chunk){.first = t->first + done,
                                                 .n = n,
                                                 .state = is_8bit ? o->n_8 : o->n_32,
                                                 .block = o->n_blocks,
                                                 .scale = o->n_scales,
                                                 .is_8bit = is_8bit,
                                                 .decays = t->is_matrix};
            o->n_chunks++;
            o->n_blocks += n_blocks_of(n);
            *(is_8bit ? &o->n_8 : &o->n_32) += n;
            if (is_8bit) o->n_scales += n_blocks_of(n);
        }
    }
    if (o->options.adam.clamp <= 0) o->n_blocks = 0;
}

static size_t state_bytes(const qs_optimizer *o)
{
    return (size_t)o->n_32 * 2 * sizeof(float) + (size_t)o->n_8 * 2 +
           (size_t)o->n_scales * 2 * sizeof(float) + (size_t)o->n_blocks * sizeof(float);
}

qs_err qs_optimizer_create(qs_optimizer **out, const qs_train_layout *layout, const qs_train_kernels *kernels,
                           const qs_optimizer_options *options)
{
    qs_err err;
    qs_optimizer *o = NULL;
    *out = NULL;
    QS_TRY(QS_NEW(o, 1, "optimizer"));
    o->layout = layout;
    o->kernels = kernels;
    o->options = *options;
    cut(o);
    QS_TRY(QS_NEW(o->chunks, o->n_chunks, "chunks of the optimizer"));
    cut(o);
    QS_TRY(QS_NEW(o->m, o->n_32, "first moments"));
    QS_TRY(QS_NEW(o->v, o->n_32, "second moments"));
    QS_TRY(QS_NEW(o->m_codes, o->n_8, "first moments in 8 bits"));
    QS_TRY(QS_NEW(o->v_codes, o->n_8, "second moments in 8 bits"));
    QS_TRY(QS_NEW(o->m_scales, o->n_scales, "scales of first moments"));
    QS_TRY(QS_NEW(o->v_scales, o->n_scales, "scales of second moments"));
    QS_TRY(QS_NEW(o->v_average, o->n_blocks, "averages of second moments"));
    qs_dynamic_map_init(&o->m_map, true);
    qs_dynamic_map_init(&o->v_map, false);
    *out = o;
    o = NULL;
out:
    qs_optimizer_destroy(o);
    return err;
}

void qs_optimizer_destroy(qs_optimizer *o)
{
    if (o == NULL) return;
    void *all[] = {o->chunks, o->m, o->v, o->m_codes, o->v_codes, o->m_scales, o->v_scales, o->v_average};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) qs_mem_free(all[i]);
    qs_mem_free(o);
}

/* ---- the step ---- */

typedef struct step_job {
    qs_optimizer *optimizer;
    qs_adam_step step;
    int64_t t;
    const float *gradient;
    float *parameters;
    uint16_t *narrow;
} step_job;

/* v of a block into [a / clamp, clamp a], a the moving average of the block's mean; it starts with the first
 * mean. */
static void clamp_block(float *v, int64_t n, float clamp, bool is_first, float *average)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += v[i];
    float mean = (float)(sum / (double)n);
    *average = is_first ? mean : average_decay * *average + (1 - average_decay) * mean;
    float low = *average / clamp, high = *average * clamp;
    for (int64_t i = 0; i < n; i++) {
        v[i] = v[i] < low ? low : v[i];
        v[i] = v[i] > high ? high : v[i];
    }
}

static void step_block(const step_job *job, const chunk *c, int64_t block)
{
    qs_optimizer *o = job->optimizer;
    const qs_train_kernels *kernels = o->kernels;
    int64_t done = block * QS_ADAM_BLOCK, n = c->n - done < QS_ADAM_BLOCK ? c->n - done : QS_ADAM_BLOCK;
    float m_decoded[QS_ADAM_BLOCK], v_decoded[QS_ADAM_BLOCK], *m, *v;
    if (c->is_8bit) {
        m = m_decoded;
        v = v_decoded;
        qs_dynamic_decode(&o->m_map, o->m_codes + c->state + done, o->m_scales[c->scale + block], n, m);
        qs_dynamic_decode(&o->v_map, o->v_codes + c->state + done, o->v_scales[c->scale + block], n, v);
    } else {
        m = o->m + c->state + done;
        v = o->v + c->state + done;
    }
    kernels->adam_moments(&job->step, n, job->gradient + c->first + done, m, v);
    if (job->step.clamp > 0) clamp_block(v, n, job->step.clamp, job->t == 1, &o->v_average[c->block + block]);
    kernels->adam_apply(&job->step, c->decays, n, m, v, job->parameters + c->first + done);
    if (!c->is_8bit) return;
    o->m_scales[c->scale + block] = qs_dynamic_encode(&o->m_map, m, n, o->m_codes + c->state + done);
    o->v_scales[c->scale + block] = qs_dynamic_encode(&o->v_map, v, n, o->v_codes + c->state + done);
}

static void step_chunks(void *context, int64_t first, int64_t last, int thread)
{
    (void)thread;
    const step_job *job = context;
    for (int64_t i = first; i < last; i++) {
        const chunk *c = &job->optimizer->chunks[i];
        for (int64_t block = 0; block < n_blocks_of(c->n); block++) step_block(job, c, block);
        if (job->narrow != NULL)
            job->optimizer->kernels->to_bf16(job->parameters + c->first, c->n, job->narrow + c->first);
    }
}

void qs_optimizer_step(qs_optimizer *optimizer, qs_team *team, double lr, double clip, int64_t t,
                       const float *gradient, float *parameters, uint16_t *narrow)
{
    step_job job = {.optimizer = optimizer,
                    .step = qs_adam_step_make(&optimizer->options.adam, lr, clip, t),
                    .t = t,
                    .gradient = gradient,
                    .parameters = parameters,
                    .narrow = narrow};
    qs_team_run(team, optimizer->n_chunks, 1, step_chunks, &job);
}

/* ---- looking at the state ---- */

void qs_optimizer_moments(const qs_optimizer *o, int64_t first, int64_t n, float *m, float *v)
{
    for (int64_t i = 0; i < o->n_chunks; i++) {
        const chunk *c = &o->chunks[i];
        for (int64_t block = 0; block < n_blocks_of(c->n); block++) {
            int64_t at = c->first + block * QS_ADAM_BLOCK, done = at - c->first, out = at - first;
            int64_t count = c->n - done < QS_ADAM_BLOCK ? c->n - done : QS_ADAM_BLOCK;
            if (out < 0 || out >= n) continue;
            count = n - out < count ? n - out : count;
            if (c->is_8bit) {
                qs_dynamic_decode(&o->m_map, o->m_codes + c->state + done, o->m_scales[c->scale + block],
                                  count, m + out);
                qs_dynamic_decode(&o->v_map, o->v_codes + c->state + done, o->v_scales[c->scale + block],
                                  count, v + out);
            } else {
                memcpy(m + out, o->m + c->state + done, (size_t)count * sizeof *m);
                memcpy(v + out, o->v + c->state + done, (size_t)count * sizeof *v);
            }
        }
    }
}

void qs_optimizer_set_moments(qs_optimizer *o, const qs_optimizer *other, const float *m, const float *v)
{
    if (o->n_blocks > 0 && other->n_blocks == o->n_blocks)
        memcpy(o->v_average, other->v_average, (size_t)o->n_blocks * sizeof *o->v_average);
    for (int64_t i = 0; i < o->n_chunks; i++) {
        const chunk *c = &o->chunks[i];
        if (!c->is_8bit) {
            memcpy(o->m + c->state, m + c->first, (size_t)c->n * sizeof *m);
            memcpy(o->v + c->state, v + c->first, (size_t)c->n * sizeof *v);
        }
        for (int64_t block = 0; c->is_8bit && block < n_blocks_of(c->n); block++) {
            int64_t done = block * QS_ADAM_BLOCK,
                    n = c->n - done < QS_ADAM_BLOCK ? c->n - done : QS_ADAM_BLOCK;
            int64_t state = c->state + done, at = c->first + done;
            o->m_scales[c->scale + block] = qs_dynamic_encode(&o->m_map, m + at, n, o->m_codes + state);
            o->v_scales[c->scale + block] = qs_dynamic_encode(&o->v_map, v + at, n, o->v_codes + state);
        }
    }
}

int64_t qs_optimizer_n_starved(const qs_optimizer *o)
{
    int64_t n = 0;
    for (int64_t i = 0; i < o->n_8; i++) n += o->v_codes[i] == 0 && o->m_map.values[o->m_codes[i]] != 0.0f;
    for (int64_t i = 0; i < o->n_32; i++) n += o->v[i] == 0.0f && o->m[i] != 0.0f;
    return n;
}

void qs_optimizer_arrays(qs_optimizer *o, qs_optimizer_array arrays[QS_OPTIMIZER_ARRAYS])
{
    const qs_optimizer_array all[QS_OPTIMIZER_ARRAYS] = {
        {"m", false, o->n_32, o->m},
        {"v", false, o->n_32, o->v},
        {"m_codes", true, o->n_8, o->m_codes},
        {"v_codes", true, o->n_8, o->v_codes},
        {"m_scales", false, o->n_scales, o->m_scales},
        {"v_scales", false, o->n_scales, o->v_scales},
        {"v_average", false, o->n_blocks, o->v_average},
    };
    memcpy(arrays, all, sizeof all);
}

size_t qs_optimizer_bytes(const qs_optimizer *optimizer) { return state_bytes(optimizer); }

size_t qs_optimizer_plan_bytes(const qs_train_layout *layout, const qs_optimizer_options *options)
{
    qs_optimizer count = {.layout = layout, .options = *options};
    cut(&count);
    return state_bytes(&count);
}
