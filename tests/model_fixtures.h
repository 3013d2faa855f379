/* What the tests of forward and decoding share: the tiny models with their golden logits, and sources of
 * made-up packed linears. */
#ifndef TESTS_MODEL_FIXTURES_H
#define TESTS_MODEL_FIXTURES_H

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "backend/backend.h"
#include "base/file.h"
#include "base/mem.h"
#include "base/rng.h"
#include "model/forward.h"

enum { N_TOKENS = 32 };

static const char *const fixture_names[] = {"llama2", "llama3", "linear", "mistral", "smollm2", "qwen2", "qwen3"};
enum { N_FIXTURES = sizeof fixture_names / sizeof *fixture_names };

typedef struct fixture {
    qs_model *model;
    const qs_model_config *config;
    int32_t *tokens; /* [N_TOKENS] */
    float *hidden;   /* [N_TOKENS, d_model] golden, after the final norm */
    float *logits;   /* [N_TOKENS, n_vocab] golden */
} fixture;

static inline void must(qs_err err)
{
    if (err != QS_OK) fail_msg("%s", qs_error_text());
}

static inline void *fixture_read(const char *name, const char *file, size_t bytes_expected)
{
    char path[QS_PATH_BYTES];
    char *data = NULL;
    size_t bytes = 0;
    must(qs_path_format(path, "tests/fixtures/models/%s/%s", name, file));
    must(qs_file_read(&data, &bytes, path, 1 << 24));
    assert_int_equal(bytes, bytes_expected);
    return data;
}

static inline fixture fixture_open(const char *name)
{
    fixture f = {0};
    char path[QS_PATH_BYTES];
    must(qs_path_format(path, "tests/fixtures/models/%s", name));
    must(qs_model_open(&f.model, path));
    f.config = qs_model_get_config(f.model);
    f.tokens = fixture_read(name, "tokens.i32", N_TOKENS * sizeof *f.tokens);
    f.hidden = fixture_read(name, "hidden.f32", (size_t)(N_TOKENS * f.config->d_model) * sizeof *f.hidden);
    f.logits = fixture_read(name, "logits.f32", (size_t)(N_TOKENS * f.config->n_vocab) * sizeof *f.logits);
    return f;
}

static inline void fixture_close(fixture *f)
{
    qs_mem_free(f->tokens);
    qs_mem_free(f->hidden);
    qs_mem_free(f->logits);
    qs_model_close(f->model);
}

static inline qs_backend *backend_open(const char *name, int n_threads)
{
    qs_backend *backend = NULL;
    must(qs_backend_create(&backend, name, 0, n_threads));
    return backend;
}

static inline float *floats(int64_t n)
{
    float *p = NULL;
    must(QS_NEW(p, n, "test"));
    return p;
}

static inline double max_abs_diff(const float *a, const float *b, int64_t n)
{
    double worst = 0.0;
    for (int64_t i = 0; i < n; i++) {
        double diff = fabs((double)a[i] - (double)b[i]);
        if (!(diff <= worst)) worst = diff; /* a NaN sticks */
    }
    return worst;
}

/* The most probable tokens behind a decoder's last step, chosen where its logits are. */
static inline void choose_greedily(qs_decoder *decoder, int64_t batch, int32_t *tokens)
{
    qs_sample_rule rules[QS_GEMV_MAX_ROWS];
    qs_backend *backend;
    const float *logits = qs_decoder_logits(decoder, &backend);
    for (int64_t i = 0; i < batch; i++) rules[i] = (qs_sample_rule){.banned = -1};
    must(qs_op_sample(backend, logits, rules, batch, qs_decoder_n_vocab(decoder), tokens));
}

static inline int32_t argmax(const float *x, int64_t n)
{
    int32_t best = 0;
    for (int64_t i = 1; i < n; i++)
        if (x[i] > x[best]) best = (int32_t)i;
    return best;
}

/* Packed linears with random codes, and the same weights de-quantised, as two sources. */
typedef struct made_up {
    qs_packed *packed; /* [n_layers, QS_N_LINEARS] */
    int64_t n_layers;
    float *dense; /* the matrix that get() gave last */
    qs_linear_source packed_source, dense_source;
} made_up;

typedef struct made_up_options {
    int bits;
    int64_t group_size;
    bool zeros, perm;
} made_up_options;

static inline qs_err made_up_get_packed(void *context, int64_t layer, qs_role role, qs_matrix_desc *desc)
{
    made_up *m = context;
    const qs_packed *packed = &m->packed[layer * QS_N_LINEARS + (int64_t)role];
    *desc = (qs_matrix_desc){.format = QS_MATRIX_INT, .n_out = packed->n_out, .n_in = packed->n_in, .packed = packed};
    return QS_OK;
}

static inline qs_err made_up_get_dense(void *context, int64_t layer, qs_role role, qs_matrix_desc *desc)
{
    made_up *m = context;
    const qs_packed *packed = &m->packed[layer * QS_N_LINEARS + (int64_t)role];
    qs_packed_dequant_rows(packed, 0, packed->n_out, m->dense);
    *desc = (qs_matrix_desc){.format = QS_MATRIX_F32, .n_out = packed->n_out, .n_in = packed->n_in, .dense = m->dense};
    return QS_OK;
}

static inline void made_up_fill(qs_packed *p, uint64_t key)
{
    uint8_t codes[4096];
    assert_true(p->n_in <= (int64_t)sizeof codes);
    int64_t levels = (int64_t)1 << p->bits;
    for (int64_t row = 0; row < p->n_out; row++) {
        for (int64_t j = 0; j < p->n_in; j++)
            codes[j] = (uint8_t)qs_rng_below(key, (uint64_t)(row * p->n_in + j), levels);
        qs_packed_set_row(p, row, codes);
    }
    double width = 4.5 / ((double)levels * sqrt((double)p->n_in)); /* weights of variance about 1.7 / n_in */
    for (int64_t i = 0; i < p->n_out * p->n_groups; i++) {
        p->scales[i] = qs_f16_from_f32((float)(width * (0.75 + 0.5 * qs_rng_unit(key + 1, (uint64_t)i))));
        if (p->zeros != NULL) p->zeros[i] = (uint8_t)(levels / 2 - 1 + qs_rng_below(key + 2, (uint64_t)i, 3));
    }
    for (int64_t j = 0; p->perm != NULL && j < p->n_in; j++) p->perm[j] = (int32_t)((7 * j + 3) % p->n_in);
}

static inline void made_up_create(made_up *out, const qs_model *model, made_up_options options)
{
    int64_t n_layers = qs_model_get_config(model)->n_layers, largest = 0;
    *out = (made_up){.n_layers = n_layers};
    must(QS_NEW(out->packed, n_layers * QS_N_LINEARS, "test"));
    for (int64_t i = 0; i < n_layers * QS_N_LINEARS; i++) {
        qs_tensor_info info = qs_model_info(model, (qs_role)(i % QS_N_LINEARS), i / QS_N_LINEARS);
        qs_packed *p = &out->packed[i];
        must(qs_packed_shape(p, options.bits, info.n_out, info.n_in, options.group_size));
        must(qs_packed_alloc(p, options.zeros, options.perm && info.n_in % 7 != 0));
        made_up_fill(p, 100 * (uint64_t)i);
        must(qs_packed_check(p, qs_role_name((qs_role)(i % QS_N_LINEARS))));
        if (info.n_out * info.n_in > largest) largest = info.n_out * info.n_in;
    }
    out->dense = floats(largest);
    out->packed_source = (qs_linear_source){.get = made_up_get_packed, .context = out};
    out->dense_source = (qs_linear_source){.get = made_up_get_dense, .context = out};
}

static inline void made_up_free(made_up *m)
{
    for (int64_t i = 0; i < m->n_layers * QS_N_LINEARS; i++) qs_packed_free(&m->packed[i]);
    qs_mem_free(m->packed);
    qs_mem_free(m->dense);
}

#endif
