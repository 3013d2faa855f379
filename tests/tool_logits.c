/* Holds our logits against those that scripts/peers/logits_smollm2.py wrote: the windowed forward, then
 * decoding (half of the first window as the prompt, the rest token by token).
 *
 * usage: tool_logits MODEL DIR N_CTX [BACKEND]     exit status 1 when a difference is above 2e-3 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/mem.h"
#include "model/forward.h"

static const double limit = 2e-3;

typedef struct golden {
    int64_t n_ctx, n_windows, n_vocab;
    qs_file_map tokens_map, logits_map;
    const int32_t *tokens; /* [n_windows, n_ctx] */
    const float *logits;   /* [n_windows, n_ctx, n_vocab] */
} golden;

static qs_err golden_open(golden *g, const char *dir, int64_t n_ctx, int64_t n_vocab)
{
    qs_err err = QS_OK;
    char path[QS_PATH_BYTES];
    QS_TRY(qs_path_format(path, "%s/tokens.i32", dir));
    QS_TRY(qs_file_map_open(&g->tokens_map, path));
    QS_TRY(qs_path_format(path, "%s/logits.f32", dir));
    QS_TRY(qs_file_map_open(&g->logits_map, path));
    g->n_ctx = n_ctx;
    g->n_vocab = n_vocab;
    g->n_windows = (int64_t)(g->tokens_map.bytes / sizeof(int32_t)) / n_ctx;
    g->tokens = (const int32_t *)(const void *)g->tokens_map.data;
    g->logits = (const float *)(const void *)g->logits_map.data;
    if (g->n_windows < 1 || g->logits_map.bytes != (size_t)(g->n_windows * n_ctx * n_vocab) * sizeof(float))
        err = qs_fail(QS_E_INPUT, "read %s: not logits of windows of %lld tokens", dir, (long long)n_ctx);
out:
    return err;
}

typedef struct difference {
    double max;
    int64_t n_rows, n_same_top;
} difference;

static void compare(difference *d, const float *ours, const float *theirs, int64_t n_vocab)
{
    int64_t top_a = 0, top_b = 0;
    for (int64_t i = 0; i < n_vocab; i++) {
        double diff = fabs((double)ours[i] - (double)theirs[i]);
        if (!(diff <= d->max)) d->max = diff;
        if (ours[i] > ours[top_a]) top_a = i;
        if (theirs[i] > theirs[top_b]) top_b = i;
    }
    d->n_rows++;
    d->n_same_top += top_a == top_b;
}

static bool report(const char *what, const difference *d, double seconds)
{
    printf("%-22s max abs difference %.2e, same first choice %lld of %lld, %.1f s\n", what, d->max,
           (long long)d->n_same_top, (long long)d->n_rows, seconds);
    return d->max <= limit;
}

static qs_err check_forward(qs_backend *backend, const qs_model *model, const golden *g, bool *good)
{
    qs_err err = QS_OK;
    float *hidden = NULL, *logits = NULL;
    difference d = {0};
    double start = qs_clock_seconds();
    int64_t n = g->n_windows * g->n_ctx, width = qs_model_get_config(model)->d_model;
    QS_TRY(QS_NEW(hidden, n * width, "hidden"));
    QS_TRY(QS_NEW(logits, g->n_ctx * g->n_vocab, "logits"));
    QS_TRY(qs_forward_hidden(backend, model, NULL, QS_COMPUTE_F32, g->tokens, g->n_windows, g->n_ctx, NULL, hidden));
    for (int64_t w = 0; w < g->n_windows; w++) {
        QS_TRY(qs_forward_logits(backend, model, QS_COMPUTE_F32, hidden + w * g->n_ctx * width, g->n_ctx, logits));
        for (int64_t i = 0; i < g->n_ctx; i++)
            compare(&d, logits + i * g->n_vocab, g->logits + (w * g->n_ctx + i) * g->n_vocab, g->n_vocab);
    }
    *good &= report("windowed forward", &d, qs_clock_seconds() - start);
out:
    qs_mem_free(hidden);
    qs_mem_free(logits);
    return err;
}

static qs_err check_decode(qs_backend *backend, const qs_model *model, const golden *g, bool *good)
{
    qs_err err = QS_OK;
    qs_decoder *decoder = NULL;
    float *logits = NULL;
    difference d = {0};
    int64_t n_prompt = g->n_ctx / 2;
    qs_decoder_options options = {.batch = 1, .n_ctx_cap = g->n_ctx,
                                  .block = {.compute = QS_COMPUTE_F32, .dense_dtype = QS_F32}};
    QS_TRY(QS_NEW(logits, g->n_vocab, "logits"));
    QS_TRY(qs_decoder_create(&decoder, backend, model, NULL, &options));
    double start = qs_clock_seconds();
    QS_TRY(qs_decoder_prefill(decoder, 0, g->tokens, n_prompt, logits));
    for (int64_t i = n_prompt; i < g->n_ctx; i++) {
        compare(&d, logits, g->logits + (i - 1) * g->n_vocab, g->n_vocab);
        QS_TRY(qs_decoder_step(decoder, g->tokens + i, logits));
    }
    compare(&d, logits, g->logits + (g->n_ctx - 1) * g->n_vocab, g->n_vocab);
    *good &= report("prefill and decode", &d, qs_clock_seconds() - start);
out:
    qs_decoder_destroy(decoder);
    qs_mem_free(logits);
    return err;
}

int main(int argc, char **argv)
{
    if (argc < 4) {
        fprintf(stderr, "usage: tool_logits MODEL DIR N_CTX [BACKEND]\n");
        return QS_E_USAGE;
    }
    qs_err err = QS_OK;
    qs_model *model = NULL;
    qs_backend *backend = NULL;
    golden g = {0};
    bool good = true;
    QS_TRY(qs_model_open(&model, argv[1]));
    QS_TRY(qs_backend_create(&backend, argc > 4 ? argv[4] : "cpu", 0, 0));
    printf("%s on %s: %s\n", qs_backend_name(backend), qs_backend_device(backend), qs_backend_describe(backend));
    int64_t n_ctx = strtoll(argv[3], NULL, 10);
    QS_TRY(golden_open(&g, argv[2], n_ctx > 0 ? n_ctx : 1, qs_model_get_config(model)->n_vocab));
    QS_TRY(check_forward(backend, model, &g, &good));
    QS_TRY(check_decode(backend, model, &g, &good));
out:
    qs_file_map_close(&g.tokens_map);
    qs_file_map_close(&g.logits_map);
    qs_backend_destroy(backend);
    qs_model_close(model);
    if (err != QS_OK) fprintf(stderr, "tool_logits: %s\n", qs_error_text());
    return err != QS_OK ? (int)err : good ? 0 : 1;
}
