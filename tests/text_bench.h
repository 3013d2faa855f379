/* A tiny model, a few prompts and decoders, for tests of what is measured along texts that a model writes. */
#ifndef QS_TESTS_TEXT_BENCH_H
#define QS_TESTS_TEXT_BENCH_H

#include "model_files.h"

#include <math.h>

#include "model/forward.h"

enum { BENCH_VOCAB = 384, BENCH_PROMPTS = 8 };

typedef struct bench {
    qs_model *model;
    qs_backend *backend;
    const qs_tokenizer *tokenizer;
    qs_token_list prompts[BENCH_PROMPTS];
} bench;

static inline void bench_open(bench *b, int n_threads)
{
    static const char *const texts[BENCH_PROMPTS] = {"one two",  "the water of the weir", "3",        "Answer:\n",
                                                     "a keeper", "What is it?",           "pressure", "{"};
    *b = (bench){0};
    assert_ok(qs_model_open(&b->model, "tests/fixtures/tiny"));
    assert_ok(qs_backend_create(&b->backend, "cpu", 0, n_threads));
    b->tokenizer = qs_model_get_tokenizer(b->model);
    for (int i = 0; i < BENCH_PROMPTS; i++)
        assert_ok(qs_tokenizer_encode(b->tokenizer, texts[i], strlen(texts[i]), false, &b->prompts[i]));
}

static inline void bench_close(bench *b)
{
    for (int i = 0; i < BENCH_PROMPTS; i++) qs_token_list_free(&b->prompts[i]);
    qs_backend_destroy(b->backend);
    qs_model_close(b->model);
}

static inline qs_decoder *decoder_of(const bench *b, int64_t batch, qs_dtype dtype)
{
    qs_decoder *decoder;
    qs_decoder_options options = {.batch = batch, .n_ctx_cap = 64, .block = {.dense_dtype = dtype}};
    assert_ok(qs_decoder_create(&decoder, b->backend, b->model, NULL, &options));
    return decoder;
}

/* -Σ p log p of p = softmax(logits), in double precision. */
static inline double plain_entropy(const float logits[BENCH_VOCAB])
{
    double sum = 0.0, h = 0.0, most = -INFINITY;
    for (int v = 0; v < BENCH_VOCAB; v++) most = fmax(most, (double)logits[v]);
    for (int v = 0; v < BENCH_VOCAB; v++) sum += exp((double)logits[v] - most);
    for (int v = 0; v < BENCH_VOCAB; v++) {
        double p = exp((double)logits[v] - most) / sum;
        h -= p * log(p);
    }
    return h;
}

#endif
