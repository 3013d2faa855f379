/* The seven linears of a layer for few rows, in every format: weights are read from memory once, so the ceiling is the
 * read bandwidth. */
#include "tests/bench_gpu/bench_cuda.h"

enum { N_BATCHES = 5, CHECKED_ROWS = 5 };
static const int64_t batches[N_BATCHES] = {1, 4, 8, 16, 32};

/* f16 first: the others are compared with it. QS_COMPUTE_BF16 rounds activations to 16 bits, as a deployment does;
 * QS_COMPUTE_F32 makes results as good as in f32. */
static const struct {
    const char *format;
    qs_compute compute;
} cases[] = {
    {"f16", QS_COMPUTE_BF16},           {"bf16", QS_COMPUTE_BF16},         {"int2-g64-sym", QS_COMPUTE_BF16},
    {"int2-g128-sym", QS_COMPUTE_BF16}, {"int3-g64-sym", QS_COMPUTE_BF16}, {"int3-g128-sym", QS_COMPUTE_BF16},
    {"int4-g64-sym", QS_COMPUTE_BF16},  {"int4-g128-sym", QS_COMPUTE_BF16}, {"int4-g32-asym", QS_COMPUTE_BF16},
    {"int8-g64-sym", QS_COMPUTE_BF16},  {"int8-g128-sym", QS_COMPUTE_BF16}, {"nf4-b64-dq", QS_COMPUTE_BF16},
    {"nf4-b64", QS_COMPUTE_BF16},       {"fp4-b64", QS_COMPUTE_BF16},      {"llmint8", QS_COMPUTE_BF16},
    {"exl2-2.5", QS_COMPUTE_BF16},      {"exl2-4.1", QS_COMPUTE_BF16},     {"exl2-6.5", QS_COMPUTE_BF16},
    {"f16", QS_COMPUTE_F32},            {"int4-g128-sym", QS_COMPUTE_F32},
};

typedef struct rotation {
    bench_activations activations;
    const bench_layers *layers;
} rotation;

static qs_err run_layers(void *context)
{
    qs_err err = QS_OK;
    rotation *r = context;
    for (int64_t i = 0; i < r->layers->n; i++) QS_TRY(bench_linears(&r->activations, r->layers, i));
out:
    return err;
}

static qs_err measure_batch(bench *b, const bench_layers *layers, int64_t batch, double *f16_seconds)
{
    qs_err err = QS_OK;
    rotation r = {.layers = layers};
    bench_row row = {.part = "linear", .name = layers->compute == QS_COMPUTE_F32 ? "layer_f32" : "layer",
                     .format = layers->format->name, .rows = batch, .bytes = layers->bytes,
                     .flops = 2.0 * layers->weights * (double)batch, .error = layers->error};
    QS_TRY(bench_activations_create(&r.activations, b, batch, 0));
    QS_TRY(bench_measure(b, run_layers, &r, true, (double)layers->n, &row.time));
    if (layers->format->format == QS_MATRIX_F16 && layers->compute == QS_COMPUTE_BF16) *f16_seconds = row.time.seconds;
    row.f16_seconds = *f16_seconds;
    bench_print(b, &row);
out:
    bench_activations_destroy(&r.activations);
    return err;
}

qs_err bench_part_linear(bench *b)
{
    qs_err err = QS_OK;
    double f16_seconds[N_BATCHES] = {0};
    bench_layers layers = {0};
    int64_t rows_max = bench_few_rows(b);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        if (!bench_wants(b, cases[i].format)) continue;
        layers = (bench_layers){.format = bench_format_find(cases[i].format), .compute = cases[i].compute,
                                .uses = QS_USE_GEMV};
        QS_TRY(bench_layers_create(&layers, b, CHECKED_ROWS));
        for (int k = 0; k < N_BATCHES && batches[k] <= rows_max; k += b->tiny ? 2 : 1)
            QS_TRY(measure_batch(b, &layers, batches[k], &f16_seconds[k]));
        bench_layers_destroy(&layers);
    }
out:
    bench_layers_destroy(&layers);
    return err;
}
