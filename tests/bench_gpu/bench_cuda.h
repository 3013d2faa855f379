/* The benchmark of a device backend: what its parts share. Everything goes through backend.h, so the same program
 * runs on the CPU and, with --tiny, where the device is emulated.
 *
 * A part prints CSV rows; a row is the time of one unit of work (a layer, a step, a call) with the bytes that the
 * unit must read from memory and the floating point operations that it must do. */
#ifndef QS_TESTS_BENCH_CUDA_H
#define QS_TESTS_BENCH_CUDA_H

#include "backend/backend.h"
#include "base/file.h"

typedef struct bench_shape {
    int64_t d_model, d_ff, n_heads, n_kv_heads, head_dim, n_layers, n_vocab;
    int64_t position;            /* of a decoding step */
    int64_t prompts[3];          /* tokens of the prompts */
    int64_t gram_rows, gptq_rows; /* tokens behind second moments */
} bench_shape;

typedef struct bench {
    qs_backend *backend;
    qs_backend_peaks peaks;
    bench_shape shape;
    bool tiny;
    const char *formats; /* NULL = all */
    int64_t n_samples;
    double sample_seconds; /* a sample repeats its work until it takes this long */
    double layers_bytes;   /* weights that a rotation over layers covers at least, well beyond the caches */
    float *normal;         /* host [BENCH_PATTERN]: N(0, 1), what all data is made of */
    bool wrong;            /* a result was outside its tolerance */
} bench;

bool bench_wants(const bench *b, const char *format);

/* The most rows that a part takes to a product in GEMV form. */
enum { BENCH_FEW_ROWS = 32 };
int64_t bench_few_rows(const bench *b);

/* Odd, so that rows of a matrix filled with it differ. */
enum { BENCH_PATTERN = (1 << 20) - 3 };

/* ---- measuring (measure.c) ---- */
typedef struct bench_time {
    double seconds, seconds_min, seconds_max; /* of one unit: median and range of n samples */
    int64_t n;
} bench_time;

/* Puts work on the backend without waiting for it. */
typedef qs_err (*bench_work)(void *context);

/* Time of `work`, which does `units` units. As a recording when `record` and the backend can. */
QS_MUST_CHECK qs_err bench_measure(bench *b, bench_work work, void *context, bool record, double units,
                                   bench_time *out);
void bench_time_of_samples(double *seconds, int64_t n, bench_time *out); /* sorts */

typedef struct bench_row {
    const char *part, *name, *format;
    int64_t rows; /* batch, tokens or rows of the activations */
    bench_time time;
    double bytes, flops; /* of a unit; 0 = not a measure of it */
    double tokens;       /* of a unit */
    double f16_seconds;  /* the same unit on f16 weights; 0 = unknown */
    double error;        /* against f64, relative to the largest value; below 0 = not checked */
} bench_row;
void bench_print_header(void);
void bench_print(const bench *b, const bench_row *row);

/* n floats on the device: scale * N(0, 1), the pattern again and again. */
QS_MUST_CHECK qs_err bench_normal(bench *b, float **out, int64_t n, float scale, const char *what);
/* Device memory of the doubles' bytes set to zero. */
QS_MUST_CHECK qs_err bench_zero(bench *b, double *device, int64_t n);

/* ---- weights and layers (layers.c) ---- */
typedef struct bench_format {
    const char *name;
    qs_matrix_format format;
    int bits; /* of a code, about; of an element when dense */
    int64_t group_size;
    bool sym;
} bench_format;
const bench_format *bench_format_find(const char *name); /* of a name in this program: it is there */

/* A matrix on the host; it stays where it is, its parts refer to each other. */
typedef struct bench_contents {
    qs_matrix_desc desc;
    qs_packed packed;
    void *dense;
    double bytes; /* that a product must read */
} bench_contents;
QS_MUST_CHECK qs_err bench_contents_make(bench_contents *c, const bench *b, const bench_format *format, int64_t n_out,
                                         int64_t n_in);
void bench_contents_free(bench_contents *c);

/* In the order of the decoder block's roles (model/weights.h). */
enum { BENCH_Q, BENCH_K, BENCH_V, BENCH_O, BENCH_GATE, BENCH_UP, BENCH_DOWN, BENCH_N_LINEARS };
void bench_linear_shape(const bench_shape *shape, int linear, int64_t *n_out, int64_t *n_in);

typedef struct bench_layers {
    const bench_format *format;
    qs_compute compute;
    unsigned uses;
    int64_t n; /* distinct layers in memory */
    qs_matrix **linears; /* [n, BENCH_N_LINEARS] */
    double bytes;        /* that one layer's products must read */
    double weights;      /* in one layer */
    double error;        /* of a sample of products of the first layer */
} bench_layers;
/* Enough layers for a rotation, of the format, uses and precision that stand in `out`. Products of the first one are
 * checked with `rows` rows of activations. */
QS_MUST_CHECK qs_err bench_layers_create(bench_layers *out, bench *b, int64_t rows);
void bench_layers_destroy(bench_layers *layers);
/* The output head, f16 for few rows; *bytes gets what a product must read. */
QS_MUST_CHECK qs_err bench_head_create(qs_matrix **out, bench *b, double *bytes);

/* Activations of `rows` rows, and with cap > 0 caches for decoding. */
typedef struct bench_activations {
    bench *b;
    int64_t rows, cap;
    float *hidden, *x, *y, *q, *k, *v, *attended, *gate, *up; /* device */
    float *norm, *inv_freq;
    int32_t *positions;
    float *caches; /* [n_layers, 2, rows, cap, n_kv_heads * head_dim] */
} bench_activations;
QS_MUST_CHECK qs_err bench_activations_create(bench_activations *out, bench *b, int64_t rows, int64_t cap);
void bench_activations_destroy(bench_activations *a);

/* The seven products of a layer, in the groups that share an input. */
QS_MUST_CHECK qs_err bench_linears(bench_activations *a, const bench_layers *layers, int64_t layer);
/* A whole block on `rows` rows: decoding one token of each sequence (cap > 0), or one prompt. `layer` counts from 0 to
 * the model's number of layers and is taken modulo those in memory. */
QS_MUST_CHECK qs_err bench_block(bench_activations *a, const bench_layers *layers, int64_t layer);

/* ---- a model directory without weights (sparse_model.c) ----
 * config.json and a safetensors file whose matrices are holes: it takes no room on the disk and reads as zeros, except
 * norms and the embeddings of the first BENCH_TOKENS tokens. */
enum { BENCH_TOKENS = 64 };
QS_MUST_CHECK qs_err bench_model_create(const bench *b, char directory[QS_PATH_BYTES]);
void bench_model_remove(const char *directory);

/* ---- parts ---- */
qs_err bench_part_linear(bench *b);
qs_err bench_part_decode(bench *b);
qs_err bench_part_prefill(bench *b);
qs_err bench_part_decoder(bench *b);
qs_err bench_part_gram(bench *b);
qs_err bench_part_gptq(bench *b);
qs_err bench_part_awq(bench *b);
qs_err bench_part_ops(bench *b);

#endif
