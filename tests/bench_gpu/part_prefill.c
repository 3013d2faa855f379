/* Many rows at once: one layer, its seven linears alone and as a whole block with attention. f16 and codes lie as a
 * decoder holds them, to be multiplied as they are or made dense for each product; bf16 and f32 are kept as evaluating
 * windows keeps them. tokens_s is that of all layers of the model, without its head. */
#include "tests/bench_gpu/bench_cuda.h"

static const struct {
    const char *format;
    qs_compute compute;
    bool stored;
} cases[] = {
    {"f16", QS_COMPUTE_BF16, true}, {"int4-g128-sym", QS_COMPUTE_BF16, true}, {"bf16", QS_COMPUTE_BF16, false},
    {"f32", QS_COMPUTE_F32, false}, {"nf4-b64-dq", QS_COMPUTE_BF16, true}, {"llmint8", QS_COMPUTE_BF16, true},
    {"exl2-4.1", QS_COMPUTE_BF16, true},
};

typedef struct prompt {
    bench_activations activations;
    const bench_layers *layers;
    int64_t next; /* the layer whose turn it is */
} prompt;

static qs_err run_linears(void *context)
{
    prompt *p = context;
    return bench_linears(&p->activations, p->layers, p->next++);
}

static qs_err run_block(void *context)
{
    prompt *p = context;
    return bench_block(&p->activations, p->layers, p->next++);
}

static qs_err measure(bench *b, const bench_layers *layers, int64_t n, double f16_seconds[2])
{
    qs_err err = QS_OK;
    const bench_shape *s = &b->shape;
    prompt p = {.layers = layers};
    bench_row row = {.part = "prefill", .format = layers->format->name, .rows = n, .error = layers->error,
                     .tokens = (double)n / (double)s->n_layers};
    double attention = 2.0 * (double)(s->n_heads * s->head_dim) * (double)n * ((double)n + 1.0);
    QS_TRY(bench_activations_create(&p.activations, b, n, 0));
    for (int whole = 0; whole < 2; whole++) {
        row.name = whole ? "block" : "linears";
        row.flops = 2.0 * layers->weights * (double)n + (whole ? attention : 0.0);
        QS_TRY(bench_measure(b, whole ? run_block : run_linears, &p, false, 1.0, &row.time));
        if (layers->format->format == QS_MATRIX_F16) f16_seconds[whole] = row.time.seconds;
        row.f16_seconds = f16_seconds[whole];
        bench_print(b, &row);
    }
out:
    bench_activations_destroy(&p.activations);
    return err;
}

qs_err bench_part_prefill(bench *b)
{
    enum { N_PROMPTS = sizeof b->shape.prompts / sizeof *b->shape.prompts };
    qs_err err = QS_OK;
    double f16_seconds[N_PROMPTS][2] = {{0}};
    bench_layers layers = {0};
    bool any_rows = qs_backend_gemv_rows(b->backend) >= b->shape.prompts[0];
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        if (!bench_wants(b, cases[i].format)) continue;
        layers = (bench_layers){.format = bench_format_find(cases[i].format), .compute = cases[i].compute,
                                .uses = cases[i].stored && any_rows ? QS_USE_GEMV : QS_USE_GEMM};
        QS_TRY(bench_layers_create(&layers, b, b->shape.prompts[1]));
        for (int k = 0; k < N_PROMPTS; k++) QS_TRY(measure(b, &layers, b->shape.prompts[k], f16_seconds[k]));
        bench_layers_destroy(&layers);
    }
out:
    bench_layers_destroy(&layers);
    return err;
}
