/* Layers of random weights. Their contents repeat a short random pattern: what counts is where weights lie, how many
 * bytes they are and that they are neither zeros nor alike along a row. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "base/rng.h"
#include "quant/mix.h"
#include "tests/bench_gpu/bench_cuda.h"

enum { LAYERS_MIN = 2, LAYERS_MAX = 8, CHECKED_OUTPUTS = 48 };
#define WEIGHT_SCALE 0.02f /* keeps activations near 1 */

static const bench_format formats[] = {
    {"f32", QS_MATRIX_F32, 32, 0, true},
    {"f16", QS_MATRIX_F16, 16, 0, true},
    {"bf16", QS_MATRIX_BF16, 16, 0, true},
    {"int2-g64-sym", QS_MATRIX_INT, 2, 64, true},
    {"int2-g128-sym", QS_MATRIX_INT, 2, 128, true},
    {"int3-g64-sym", QS_MATRIX_INT, 3, 64, true},
    {"int3-g128-sym", QS_MATRIX_INT, 3, 128, true},
    {"int4-g64-sym", QS_MATRIX_INT, 4, 64, true},
    {"int4-g128-sym", QS_MATRIX_INT, 4, 128, true},
    {"int4-g32-asym", QS_MATRIX_INT, 4, 32, false},
    {"exl2-2.5", QS_MATRIX_INT, 2, 64, true},
    {"exl2-4.1", QS_MATRIX_INT, 4, 64, true},
    {"exl2-6.5", QS_MATRIX_INT, 6, 64, true},
    {"int8-g64-sym", QS_MATRIX_INT, 8, 64, true},
    {"int8-g128-sym", QS_MATRIX_INT, 8, 128, true},
    {"nf4-b64-dq", QS_MATRIX_INT, 4, 64, true},
    {"nf4-b64", QS_MATRIX_INT, 4, 64, true},
    {"fp4-b64", QS_MATRIX_INT, 4, 64, true},
    {"llmint8", QS_MATRIX_INT, 8, 0, true},
};

/* bitsandbytes' formats. Random inputs beyond the threshold are as rare as outliers of models: one in 370. */
#define THRESHOLD 3.0f
static const struct looked_up {
    const char *format;
    qs_packed_format packed;
    bool nested;
    double tolerance; /* of results that are rounded, or whose inputs are coded in 8 bits */
} looked_up[] = {
    {"nf4-b64-dq", QS_PACKED_NF4, true, 1e-2},
    {"nf4-b64", QS_PACKED_NF4, false, 1e-2},
    {"fp4-b64", QS_PACKED_FP4, false, 1e-2},
    {"llmint8", QS_PACKED_INT8, false, 5e-2},
};

/* NULL for other formats. */
static const struct looked_up *looked_up_of(const bench_format *format)
{
    for (size_t i = 0; i < sizeof looked_up / sizeof *looked_up; i++)
        if (strcmp(looked_up[i].format, format->name) == 0) return &looked_up[i];
    return NULL;
}

/* Widths and groups of EXL2: rows of quant/mix.c. */
static const struct {
    const char *format, *mix;
} mixes[] = {
    {"exl2-2.5", "0.05:5b32 0.3:3b64 0.65:2b64"},
    {"exl2-4.1", "0.1:5b64 0.9:4b64"},
    {"exl2-6.5", "0.25:8b64 0.75:6b64"},
};

/* NULL for other formats. */
static const qs_mix *mix_of(const bench_format *format)
{
    for (size_t i = 0; i < sizeof mixes / sizeof *mixes; i++)
        for (int64_t m = 0; m < qs_n_mixes && strcmp(mixes[i].format, format->name) == 0; m++)
            if (strcmp(mixes[i].mix, qs_mixes[m].name) == 0) return &qs_mixes[m];
    return NULL;
}

const bench_format *bench_format_find(const char *name)
{
    for (size_t i = 0; i < sizeof formats / sizeof *formats; i++)
        if (strcmp(formats[i].name, name) == 0) return &formats[i];
    return NULL;
}

int64_t bench_few_rows(const bench *b)
{
    int64_t rows = qs_backend_gemv_rows(b->backend);
    return rows < BENCH_FEW_ROWS ? rows : BENCH_FEW_ROWS;
}

void bench_linear_shape(const bench_shape *s, int linear, int64_t *n_out, int64_t *n_in)
{
    const int64_t heads = s->n_heads * s->head_dim, kv = s->n_kv_heads * s->head_dim;
    const int64_t shapes[BENCH_N_LINEARS][2] = {
        [BENCH_Q] = {heads, s->d_model},     [BENCH_K] = {kv, s->d_model},       [BENCH_V] = {kv, s->d_model},
        [BENCH_O] = {s->d_model, heads},     [BENCH_GATE] = {s->d_ff, s->d_model}, [BENCH_UP] = {s->d_ff, s->d_model},
        [BENCH_DOWN] = {s->d_model, s->d_ff},
    };
    *n_out = shapes[linear][0];
    *n_in = shapes[linear][1];
}

/* ---- contents of a matrix on the host ---- */

void bench_contents_free(bench_contents *c)
{
    qs_packed_free(&c->packed);
    qs_mem_free(c->dense);
}

static void spread(void *data, size_t filled, size_t bytes)
{
    for (; filled < bytes; filled *= 2)
        memcpy((char *)data + filled, data, bytes - filled < filled ? bytes - filled : filled);
}

static qs_err fill_dense(bench_contents *c, const bench *b, const bench_format *format)
{
    int64_t n = c->desc.n_out * c->desc.n_in, first = n < BENCH_PATTERN ? n : BENCH_PATTERN;
    size_t element = (size_t)format->bits / 8;
    qs_err err = qs_mem_array(&c->dense, n, element, "dense weights");
    if (err != QS_OK) return err;
    uint16_t *half = c->dense;
    float *full = c->dense;
    for (int64_t i = 0; i < first; i++) {
        float w = WEIGHT_SCALE * b->normal[i];
        if (format->format == QS_MATRIX_F32) full[i] = w;
        else half[i] = format->format == QS_MATRIX_F16 ? qs_f16_from_f32(w) : qs_bf16_from_f32(w);
    }
    spread(c->dense, (size_t)first * element, (size_t)n * element);
    c->desc.dense = c->dense;
    c->bytes = (double)n * (double)element;
    return QS_OK;
}

static qs_err fill_packed(bench_contents *c, const bench_format *format)
{
    qs_err err = QS_OK;
    qs_packed *p = &c->packed;
    QS_TRY(qs_packed_shape(p, format->bits, c->desc.n_out, c->desc.n_in, format->group_size));
    QS_TRY(qs_packed_alloc(p, !format->sym, false));
    int64_t n_bytes = p->n_out * p->row_bytes, n_groups = p->n_out * p->n_groups;
    int64_t first = n_bytes < BENCH_PATTERN ? n_bytes : BENCH_PATTERN;
    for (int64_t i = 0; i < first; i++) p->codes[i] = (uint8_t)qs_rng_u64(1, (uint64_t)i);
    spread(p->codes, (size_t)first, (size_t)n_bytes);
    float step = WEIGHT_SCALE / (float)(1 << (format->bits - 1));
    for (int64_t i = 0; i < n_groups; i++) {
        p->scales[i] = qs_f16_from_f32(step * (0.5f + (float)qs_rng_unit(2, (uint64_t)i)));
        if (p->zeros != NULL) p->zeros[i] = (uint8_t)qs_rng_below(3, (uint64_t)i, 1 << format->bits);
    }
    c->desc.packed = p;
    c->bytes = (double)n_bytes + (double)n_groups * (p->zeros != NULL ? 3 : 2);
out:
    return err;
}

static qs_err fill_looked_up(bench_contents *c, const bench_format *format, const struct looked_up *f)
{
    /* int8: codes are spread evenly, so results, which are the next inputs, are as large as N(0, 1), and outliers as
     * rare. */
    const float largest = (f->packed == QS_PACKED_INT8 ? 1.3f : 2.5f) * WEIGHT_SCALE;
    qs_err err = QS_OK;
    qs_packed *p = &c->packed;
    QS_TRY(f->packed == QS_PACKED_INT8
               ? qs_packed_shape_int8(p, c->desc.n_out, c->desc.n_in, THRESHOLD)
               : qs_packed_shape_blocks(p, f->packed, c->desc.n_out, c->desc.n_in, format->group_size, QS_ROUND_BF16));
    QS_TRY(qs_packed_alloc_absmax(p, f->nested));
    int64_t n_bytes = p->n_out * p->row_bytes, first = n_bytes < BENCH_PATTERN ? n_bytes : BENCH_PATTERN;
    for (int64_t i = 0; i < first; i++) p->codes[i] = (uint8_t)qs_rng_u64(1, (uint64_t)i);
    spread(p->codes, (size_t)first, (size_t)n_bytes);
    for (int64_t i = 0; i < p->n_absmax; i++) {
        if (f->nested) p->absmax_codes[i] = (uint8_t)qs_rng_u64(2, (uint64_t)i);
        else p->absmax[i] = largest * (0.5f + (float)qs_rng_unit(2, (uint64_t)i));
    }
    for (int64_t i = 0; f->nested && i < qs_packed_n_nested(p); i++) p->nested_absmax[i] = 0.5f * largest;
    if (f->nested) p->nested_offset = largest;
    c->desc.packed = p;
    c->bytes = (double)qs_packed_stored_bits(p) / 8;
out:
    return err;
}

/* Channels in one order for all matrices of an input, as their importance has it. */
static qs_err fill_exl2(bench_contents *c, const qs_mix *mix)
{
    qs_err err = QS_OK;
    qs_packed *p = &c->packed;
    int64_t n_in = c->desc.n_in, n_groups;
    qs_packed_group *groups = NULL;
    QS_TRY(QS_NEW(groups, QS_MIX_GROUPS_MAX, "groups"));
    n_groups = qs_mix_groups(mix, n_in, groups);
    QS_TRY(qs_packed_shape_exl2(p, c->desc.n_out, n_in, groups, n_groups));
    QS_TRY(qs_packed_alloc_exl2(p, groups));
    int64_t n_bytes = p->n_out * p->row_bytes, first = n_bytes < BENCH_PATTERN ? n_bytes : BENCH_PATTERN;
    for (int64_t i = 0; i < first; i++) p->codes[i] = (uint8_t)qs_rng_u64(1, (uint64_t)i);
    spread(p->codes, (size_t)first, (size_t)n_bytes);
    for (int64_t i = 0; i < p->n_out * n_groups; i++) p->scale_codes[i] = (uint8_t)qs_rng_below(2, (uint64_t)i, 16);
    for (int64_t g = 0; g < n_groups; g++)
        p->scale_max[g] = qs_f16_from_f32(2 * WEIGHT_SCALE / (float)(1 << (groups[g].bits - 1)));
    for (int64_t j = n_in - 1; j > 0; j--) {
        int64_t other = qs_rng_below(3, (uint64_t)j, j + 1);
        int32_t kept = p->perm[j];
        p->perm[j] = p->perm[other];
        p->perm[other] = kept;
    }
    c->desc.packed = p;
    c->bytes = (double)n_bytes + (double)(p->n_out * n_groups) * 2; /* scales are kept as f16 */
out:
    qs_mem_free(groups);
    return err;
}

qs_err bench_contents_make(bench_contents *c, const bench *b, const bench_format *format, int64_t n_out, int64_t n_in)
{
    *c = (bench_contents){.desc = {.format = format->format, .n_out = n_out, .n_in = n_in}};
    if (looked_up_of(format) != NULL) return fill_looked_up(c, format, looked_up_of(format));
    if (mix_of(format) != NULL) return fill_exl2(c, mix_of(format));
    return format->format == QS_MATRIX_INT ? fill_packed(c, format) : fill_dense(c, b, format);
}

/* ---- a sample of products against f64 ---- */

static double weight_at(const bench_contents *c, const float *row, int64_t at)
{
    switch (c->desc.format) {
    case QS_MATRIX_F32: return ((const float *)c->dense)[at];
    case QS_MATRIX_F16: return qs_f32_from_f16(((const uint16_t *)c->dense)[at]);
    case QS_MATRIX_BF16: return qs_f32_from_bf16(((const uint16_t *)c->dense)[at]);
    case QS_MATRIX_INT: return row[at % c->desc.n_in];
    }
    return NAN;
}

static qs_err compare(bench *b, const bench_contents *c, const float *y, int64_t rows, double *error)
{
    qs_err err = QS_OK;
    double largest = 0.0, difference = 0.0;
    float *w = NULL;
    int64_t n_in = c->desc.n_in, n_out = c->desc.n_out;
    QS_TRY(QS_NEW(w, n_in, "a row of weights"));
    for (int64_t i = 0; i < CHECKED_OUTPUTS; i++) {
        int64_t out = i == 0 ? 0 : i == 1 ? n_out - 1 : qs_rng_below(4, (uint64_t)i, n_out), r = i % rows;
        double sum = 0.0;
        if (c->desc.format == QS_MATRIX_INT) qs_packed_dequant_rows(&c->packed, out, 1, w);
        for (int64_t j = 0; j < n_in; j++)
            sum += weight_at(c, w, out * n_in + j) * (double)b->normal[(r * n_in + j) % BENCH_PATTERN];
        largest = fmax(largest, fabs(sum));
        double d = fabs(sum - (double)y[r * n_out + out]);
        difference = d > difference || isnan(d) ? d : difference;
    }
    *error = difference / largest;
out:
    qs_mem_free(w);
    return err;
}

/* Sums are f32 in every case; what is rounded before it is multiplied differs. */
static double tolerance(const bench_layers *l, int64_t rows)
{
    if (looked_up_of(l->format) != NULL) return looked_up_of(l->format)->tolerance;
    if (l->compute == QS_COMPUTE_F32) return 2e-5;
    return rows > BENCH_FEW_ROWS || l->uses == QS_USE_GEMM ? 1e-2 : 2e-3; /* both sides in bf16; x alone */
}

static qs_err check(bench *b, const bench_contents *c, const qs_matrix *matrix, bench_layers *l, int64_t rows)
{
    qs_err err = QS_OK;
    float *x = NULL, *y = NULL, *host = NULL;
    double e;
    size_t y_bytes = (size_t)(rows * c->desc.n_out) * sizeof *y;
    QS_TRY(bench_normal(b, &x, rows * c->desc.n_in, 1.0f, "activations"));
    QS_TRY(qs_backend_alloc(b->backend, &y, y_bytes, "results"));
    QS_TRY(QS_NEW(host, rows * c->desc.n_out, "results"));
    QS_TRY(qs_op_linear(b->backend, matrix, x, rows, NULL, y));
    QS_TRY(qs_backend_download(b->backend, host, y, y_bytes));
    QS_TRY(compare(b, c, host, rows, &e));
    if (!(e <= l->error)) l->error = e;
    if (!(e <= tolerance(l, rows))) {
        b->wrong = true;
        fprintf(stderr, "bench_cuda: %s, %lld x %lld, %lld rows: error %.3g is above %.3g\n", l->format->name,
                (long long)c->desc.n_out, (long long)c->desc.n_in, (long long)rows, e, tolerance(l, rows));
    }
out:
    qs_backend_free(b->backend, x);
    qs_backend_free(b->backend, y);
    qs_mem_free(host);
    return err;
}

/* ---- matrices and layers ---- */

qs_err bench_head_create(qs_matrix **out, bench *b, double *bytes)
{
    qs_err err = QS_OK;
    bench_contents c = {0};
    bench_layers like = {.format = bench_format_find("f16"), .compute = QS_COMPUTE_BF16, .uses = QS_USE_GEMV};
    QS_TRY(bench_contents_make(&c, b, like.format, b->shape.n_vocab, b->shape.d_model));
    QS_TRY(qs_matrix_create(out, b->backend, &c.desc, like.uses, like.compute));
    QS_TRY(check(b, &c, *out, &like, 1));
    *bytes = c.bytes;
out:
    bench_contents_free(&c);
    return err;
}

/* The same linear of every layer. */
static qs_err create_linears(bench_layers *layers, bench *b, int linear, int64_t rows)
{
    qs_err err = QS_OK;
    bench_contents c = {0};
    int64_t n_out, n_in;
    bench_linear_shape(&b->shape, linear, &n_out, &n_in);
    QS_TRY(bench_contents_make(&c, b, layers->format, n_out, n_in));
    for (int64_t i = 0; i < layers->n; i++)
        QS_TRY(qs_matrix_create(&layers->linears[i * BENCH_N_LINEARS + linear], b->backend, &c.desc, layers->uses,
                                layers->compute));
    QS_TRY(check(b, &c, layers->linears[linear], layers, rows));
    layers->bytes += c.bytes;
    layers->weights += (double)n_out * (double)n_in;
out:
    bench_contents_free(&c);
    return err;
}

static int64_t layers_in_memory(const bench *b, const bench_format *format)
{
    double bytes = 0.0;
    for (int linear = 0; linear < BENCH_N_LINEARS; linear++) {
        int64_t n_out, n_in;
        bench_linear_shape(&b->shape, linear, &n_out, &n_in);
        bytes += (double)n_out * (double)n_in * format->bits / 8;
    }
    double n = ceil(b->layers_bytes / bytes);
    return n < LAYERS_MIN ? LAYERS_MIN : n > LAYERS_MAX ? LAYERS_MAX : (int64_t)n;
}

qs_err bench_layers_create(bench_layers *out, bench *b, int64_t rows)
{
    qs_err err = QS_OK;
    out->n = layers_in_memory(b, out->format);
    QS_TRY(QS_NEW(out->linears, out->n * BENCH_N_LINEARS, "layers"));
    for (int linear = 0; linear < BENCH_N_LINEARS; linear++) QS_TRY(create_linears(out, b, linear, rows));
out:
    return err;
}

void bench_layers_destroy(bench_layers *layers)
{
    for (int64_t i = 0; layers->linears != NULL && i < layers->n * BENCH_N_LINEARS; i++)
        qs_matrix_destroy(layers->linears[i]);
    qs_mem_free(layers->linears);
    *layers = (bench_layers){0};
}
