/* Whole decoding steps: all blocks, final norm and an f16 head. Blocks share the weights of a rotation of layers that
 * is many times larger than the caches; every block has its own KV cache. */
#include "tests/bench_gpu/bench_cuda.h"

enum { CACHE_ROOM = 128, N_BATCHES = 4 };
static const int64_t batches[N_BATCHES] = {1, 4, 16, 32};
static const char *const formats[] = {"f16", "int8-g128-sym", "int4-g128-sym", "int4-g32-asym", "int3-g128-sym",
                                      "nf4-b64-dq", "llmint8", "exl2-4.1"};

typedef struct model {
    bench_activations activations;
    bench_layers layers;
    qs_matrix *head;
    double head_bytes;
    float *logits;
} model;

static qs_err run_step(void *context)
{
    qs_err err = QS_OK;
    model *m = context;
    bench_activations *a = &m->activations;
    const bench_shape *s = &a->b->shape;
    for (int64_t layer = 0; layer < s->n_layers; layer++) QS_TRY(bench_block(a, &m->layers, layer));
    QS_TRY(qs_op_linears_with(a->b->backend,
                              &(qs_linear_with){.norm = a->norm, .norm_eps = 1e-5, .normed = a->x},
                              &(qs_linear_job){.matrix = m->head, .y = m->logits}, 1, a->hidden, a->rows));
out:
    return err;
}

static double step_bytes(const bench *b, const model *m, int64_t batch)
{
    const bench_shape *s = &b->shape;
    double kv = 2.0 * (double)(batch * (s->position + 1) * s->n_kv_heads * s->head_dim) * sizeof(float);
    return (double)s->n_layers * (m->layers.bytes + kv) + m->head_bytes;
}

static qs_err measure_batch(bench *b, model *m, int64_t batch, double *f16_seconds)
{
    qs_err err = QS_OK;
    const bench_shape *s = &b->shape;
    bench_row row = {.part = "decode", .name = "step", .format = m->layers.format->name, .rows = batch,
                     .bytes = step_bytes(b, m, batch), .tokens = (double)batch, .error = m->layers.error};
    QS_TRY(bench_activations_create(&m->activations, b, batch, s->position + CACHE_ROOM));
    QS_TRY(qs_backend_alloc(b->backend, &m->logits, (size_t)(batch * s->n_vocab) * sizeof *m->logits, "logits"));
    QS_TRY(bench_measure(b, run_step, m, true, 1.0, &row.time));
    if (m->layers.format->format == QS_MATRIX_F16) *f16_seconds = row.time.seconds;
    row.f16_seconds = *f16_seconds;
    bench_print(b, &row);
out:
    qs_backend_free(b->backend, m->logits);
    m->logits = NULL;
    bench_activations_destroy(&m->activations);
    return err;
}

qs_err bench_part_decode(bench *b)
{
    qs_err err = QS_OK;
    model m = {0};
    double f16_seconds[N_BATCHES] = {0};
    int64_t rows_max = bench_few_rows(b);
    QS_TRY(bench_head_create(&m.head, b, &m.head_bytes));
    for (size_t i = 0; i < sizeof formats / sizeof *formats; i++) {
        if (!bench_wants(b, formats[i])) continue;
        m.layers = (bench_layers){.format = bench_format_find(formats[i]), .compute = QS_COMPUTE_BF16,
                                  .uses = QS_USE_GEMV};
        QS_TRY(bench_layers_create(&m.layers, b, 1));
        for (int k = 0; k < N_BATCHES && batches[k] <= rows_max; k += b->tiny ? 2 : 1)
            QS_TRY(measure_batch(b, &m, batches[k], &f16_seconds[k]));
        bench_layers_destroy(&m.layers);
    }
out:
    bench_layers_destroy(&m.layers);
    qs_matrix_destroy(m.head);
    return err;
}
