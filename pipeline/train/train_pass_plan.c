/* What training passes share (train_pass.h): products, angles, and how the memory of a pass is cut. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "base/minmax.h"
#include "train/train_pass_impl.h"

/* The three products of a matrix W [n_out, n_in] with n_rows rows: y = x W^T, dx = dy W, dW += dy^T x. */
static qs_err linear_products(qs_train_pass_plan *plan, int64_t n_rows, int64_t n_out, int64_t n_in, bool add,
                              const qs_product **forward, const qs_product **dx, const qs_product **dw)
{
    const struct {
        const qs_product **out;
        qs_product_shape shape;
    } rows[] = {{forward, {.m = n_rows, .n = n_out, .k = n_in, .trans_b = true, .add = add}},
                {dx, {.m = n_rows, .n = n_in, .k = n_out}},
                {dw, {.m = n_out, .n = n_in, .k = n_rows, .trans_a = true, .add = true}}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        qs_product *product;
        qs_err err = qs_product_find(&product, plan->engine, &rows[i].shape);
        if (err != QS_OK) return err;
        *rows[i].out = product;
    }
    return QS_OK;
}

static qs_err find_attention_products(qs_train_pass_plan *plan)
{
    qs_err err;
    int64_t n = plan->n_ctx / QS_TRAIN_ROWS, d = plan->layout->config.head_dim;
    QS_TRY(QS_NEW(plan->attention, n, "products of attention"));
    for (int64_t i = 0; i < n; i++) {
        int64_t n_keys = (i + 1) * QS_TRAIN_ROWS;
        attention_products *a = &plan->attention[i];
        const struct {
            const qs_product **out;
            qs_product_shape shape;
        } rows[] = {{&a->scores, {.m = QS_TRAIN_ROWS, .n = n_keys, .k = d, .trans_b = true}},
                    {&a->values, {.m = QS_TRAIN_ROWS, .n = d, .k = n_keys}},
                    {&a->to_keys, {.m = n_keys, .n = d, .k = QS_TRAIN_ROWS, .trans_a = true, .add = true}}};
        for (size_t r = 0; r < sizeof rows / sizeof *rows; r++) {
            qs_product *product;
            QS_TRY(qs_product_find(&product, plan->engine, &rows[r].shape));
            *rows[r].out = product;
        }
    }
out:
    return err;
}

static qs_err find_products(qs_train_pass_plan *plan)
{
    const qs_train_layout *l = plan->layout;
    const qs_model_config *c = &l->config;
    qs_err err;
    QS_TRY(linear_products(plan, plan->n_ctx, l->d_qkv, c->d_model, false, &plan->qkv, &plan->qkv_dx,
                           &plan->qkv_dw));
    QS_TRY(linear_products(plan, plan->n_ctx, c->d_model, l->d_q, true, &plan->o, &plan->o_dx, &plan->o_dw));
    QS_TRY(linear_products(plan, plan->n_ctx, 2 * c->d_ff, c->d_model, false, &plan->gate_up,
                           &plan->gate_up_dx, &plan->gate_up_dw));
    QS_TRY(linear_products(plan, plan->n_ctx, c->d_model, c->d_ff, true, &plan->down, &plan->down_dx,
                           &plan->down_dw));
    QS_TRY(linear_products(plan, plan->head_rows, c->n_vocab, c->d_model, false, &plan->head, &plan->head_dx,
                           &plan->head_dw));
    QS_TRY(find_attention_products(plan));
out:
    return err;
}

/* Angles in f64: position 2,047 times a rounded frequency would be off by 1e-4. */
static qs_err make_angles(qs_train_pass_plan *plan)
{
    int64_t half = plan->layout->config.head_dim / 2;
    float *frequencies = NULL;
    qs_err err;
    QS_TRY(QS_NEW(frequencies, half, "rotary frequencies"));
    QS_TRY(QS_NEW(plan->cosines, plan->n_ctx * half, "cosines"));
    QS_TRY(QS_NEW(plan->sines, plan->n_ctx * half, "sines"));
    qs_rope_frequencies(&plan->layout->config, NULL, frequencies);
    for (int64_t t = 0; t < plan->n_ctx; t++) {
        for (int64_t i = 0; i < half; i++) {
            double angle = (double)t * frequencies[i];
            plan->cosines[t * half + i] = (float)cos(angle);
            plan->sines[t * half + i] = (float)sin(angle);
        }
    }
out:
    qs_mem_free(frequencies);
    return err;
}

static int64_t choose_head_rows(int64_t n_ctx)
{
    int64_t n = HEAD_ROWS_MAX;
    while (n_ctx % n != 0) n /= 2;
    return n;
}

qs_err qs_train_pass_plan_create(qs_train_pass_plan **out, const qs_train_layout *layout, int64_t n_ctx, int n_threads,
                                 qs_compute compute, bool reference_kernels)
{
    qs_err err;
    qs_train_pass_plan *plan = NULL;
    *out = NULL;
    if (n_ctx <= 0 || n_ctx % QS_TRAIN_ROWS != 0)
        return qs_fail(QS_E_USAGE, "plan training: rows of %lld tokens are no multiple of %d",
                       (long long)n_ctx, QS_TRAIN_ROWS);
    QS_TRY(QS_NEW(plan, 1, "plan of training"));
    plan->layout = layout;
    plan->n_ctx = n_ctx;
    plan->head_rows = choose_head_rows(n_ctx);
    plan->compute = compute;
    plan->element_bytes = compute == QS_COMPUTE_BF16 ? sizeof(uint16_t) : sizeof(float);
    plan->kernels = qs_train_kernels_get(reference_kernels);
    QS_TRY(qs_product_engine_create(&plan->engine, n_threads, compute));
    QS_TRY(find_products(plan));
    QS_TRY(make_angles(plan));
    (void)snprintf(plan->text, sizeof plan->text, "%s rows, %s", plan->kernels->from,
                   qs_product_engine_describe(plan->engine));
    *out = plan;
    plan = NULL;
out:
    qs_train_pass_plan_destroy(plan);
    return err;
}

void qs_train_pass_plan_destroy(qs_train_pass_plan *plan)
{
    if (plan == NULL) return;
    qs_product_engine_destroy(plan->engine);
    qs_mem_free(plan->attention);
    qs_mem_free(plan->cosines);
    qs_mem_free(plan->sines);
    qs_mem_free(plan);
}

const char *qs_train_pass_plan_describe(const qs_train_pass_plan *plan) { return plan->text; }
const qs_train_kernels *qs_train_pass_plan_kernels(const qs_train_pass_plan *plan) { return plan->kernels; }
qs_err qs_train_pass_plan_status(const qs_train_pass_plan *plan) { return qs_product_status(plan->engine); }

/* ---- memory of a pass: one allocation, cut twice by the same code, first without memory to count ---- */

typedef struct cutter {
    char *memory; /* NULL: count alone */
    size_t used;
} cutter;

static void *cut(cutter *c, int64_t n, size_t bytes)
{
    size_t size = ((size_t)n * bytes + QS_MEM_ALIGN - 1) / QS_MEM_ALIGN * QS_MEM_ALIGN;
    void *p = c->memory != NULL ? c->memory + c->used : NULL;
    c->used += size;
    return p;
}

static void cut_layer(cutter *c, const qs_train_layout *l, int64_t n_ctx, size_t bytes, layer_state *s)
{
    const qs_model_config *m = &l->config;
    int64_t padded = n_ctx + QS_TRAIN_ROWS;
    s->x = cut(c, n_ctx * m->d_model, sizeof(float));
    s->mid = cut(c, n_ctx * m->d_model, sizeof(float));
    s->factor = cut(c, n_ctx, sizeof(float));
    s->mid_factor = cut(c, n_ctx, sizeof(float));
    s->normed = cut(c, n_ctx * m->d_model, bytes);
    s->mid_normed = cut(c, n_ctx * m->d_model, bytes);
    s->q = cut(c, padded * l->d_q, bytes);
    s->k = cut(c, padded * l->d_kv, bytes);
    s->v = cut(c, padded * l->d_kv, bytes);
    s->attended = cut(c, n_ctx * l->d_q, bytes);
    s->gate_up = cut(c, n_ctx * 2 * m->d_ff, sizeof(float));
    s->gated = cut(c, n_ctx * m->d_ff, bytes);
}

static void cut_pass(cutter *c, const qs_train_layout *l, int64_t n_ctx, size_t bytes, qs_train_pass *p)
{
    const qs_model_config *m = &l->config;
    int64_t padded = n_ctx + QS_TRAIN_ROWS, head_rows = choose_head_rows(n_ctx);
    int64_t widest = qs_max64(qs_max64(m->d_ff, l->d_qkv), m->d_model);
    for (int64_t i = 0; i < m->n_layers; i++) {
        layer_state unused, *state = p->layers != NULL ? &p->layers[i] : &unused;
        cut_layer(c, l, n_ctx, bytes, state);
    }
    p->x = cut(c, n_ctx * m->d_model, sizeof(float));
    p->factor = cut(c, n_ctx, sizeof(float));
    p->normed = cut(c, n_ctx * m->d_model, bytes);
    p->dx = cut(c, n_ctx * m->d_model, sizeof(float));
    p->dx_c = cut(c, n_ctx * m->d_model, bytes);
    p->wide = cut(c, n_ctx * widest, sizeof(float));
    p->wide_c = cut(c, n_ctx * qs_max64(2 * m->d_ff, l->d_qkv), bytes);
    p->logits = cut(c, head_rows * m->n_vocab, sizeof(float));
    p->logits_c = cut(c, head_rows * m->n_vocab, bytes);
    p->hits = cut(c, n_ctx, 1);
    p->row = cut(c, qs_max64(2 * m->d_ff, widest), sizeof(float));
    p->probabilities = cut(c, QS_TRAIN_ROWS * n_ctx, sizeof(float));
    p->dscores = cut(c, QS_TRAIN_ROWS * n_ctx, sizeof(float));
    p->probabilities_c = cut(c, QS_TRAIN_ROWS * n_ctx, bytes);
    p->dscores_c = cut(c, QS_TRAIN_ROWS * n_ctx, bytes);
    p->block = cut(c, QS_TRAIN_ROWS * m->head_dim, sizeof(float));
    p->block_c = cut(c, QS_TRAIN_ROWS * m->head_dim, bytes);
    p->dk = cut(c, padded * m->head_dim, sizeof(float));
    p->dv = cut(c, padded * m->head_dim, sizeof(float));
}

size_t qs_train_pass_bytes(const qs_train_layout *layout, int64_t n_ctx, qs_compute compute)
{
    cutter count = {0};
    qs_train_pass unused = {0};
    cut_pass(&count, layout, n_ctx, compute == QS_COMPUTE_BF16 ? sizeof(uint16_t) : sizeof(float), &unused);
    return count.used;
}

qs_err qs_train_pass_create(qs_train_pass **out, const qs_train_pass_plan *plan)
{
    qs_err err;
    qs_train_pass *pass = NULL;
    *out = NULL;
    QS_TRY(QS_NEW(pass, 1, "pass"));
    pass->plan = plan;
    QS_TRY(QS_NEW(pass->layers, plan->layout->config.n_layers, "layers of a pass"));
    QS_TRY(qs_mem_alloc(&pass->memory, qs_train_pass_bytes(plan->layout, plan->n_ctx, plan->compute),
                        "activations"));
    cutter c = {.memory = pass->memory};
    cut_pass(&c, plan->layout, plan->n_ctx, plan->element_bytes, pass);
    *out = pass;
    pass = NULL;
out:
    qs_train_pass_destroy(pass);
    return err;
}

void qs_train_pass_destroy(qs_train_pass *pass)
{
    if (pass == NULL) return;
    qs_mem_free(pass->memory);
    qs_mem_free(pass->layers);
    qs_mem_free(pass);
}
