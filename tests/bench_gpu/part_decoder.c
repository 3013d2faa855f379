/* The decoder of model/forward.h with every layer resident, as `qsweep evaluate` measures latency: part decode says
 * what the ops allow, this part what a user gets, with uploads and downloads. Weights come from memory, so the model's
 * files hold next to nothing; its head is zeros, which are read like any numbers. */
#include <stdio.h>

#include "base/clock.h"
#include "base/mem.h"
#include "model/forward.h"
#include "tests/bench_gpu/bench_cuda.h"

enum { WARM_STEPS = 3, STEPS = 16, PROMPT_SAMPLES = 3, SAMPLES_MAX = 64 };

static const struct {
    const char *format;
    int64_t batch;
} cases[] = {{"f16", 1}, {"int4-g128-sym", 1}, {"int4-g128-sym", 16}};

typedef struct subject {
    bench *b;
    const bench_format *format;
    int64_t batch, steps, position; /* steps of a sample; tokens in the caches */
    bench_contents linears[BENCH_N_LINEARS];
    qs_decoder *decoder;
    int32_t *tokens;
    float *logits;
} subject;

static qs_err get_linear(void *context, int64_t layer, qs_role role, qs_matrix_desc *desc)
{
    (void)layer;
    subject *s = context;
    *desc = s->linears[role].desc;
    return QS_OK;
}

static int64_t sample_steps(const bench *b) { return b->tiny ? 1 : STEPS; }

/* Steps of one way of asking for the next token. */
static int64_t n_steps(const bench *b) { return WARM_STEPS + b->n_samples * sample_steps(b); }

static qs_err open_subject(subject *s, const qs_model *model)
{
    qs_err err = QS_OK;
    const bench *b = s->b;
    qs_linear_source source = {.get = get_linear, .context = s};
    qs_decoder_options options = {.batch = s->batch, .n_ctx_cap = b->shape.position + 2 * n_steps(b),
                                  .block = {.compute = QS_COMPUTE_BF16, .dense_dtype = QS_F16}};
    for (int i = 0; i < BENCH_N_LINEARS; i++) {
        int64_t n_out, n_in;
        bench_linear_shape(&b->shape, i, &n_out, &n_in);
        QS_TRY(bench_contents_make(&s->linears[i], b, s->format, n_out, n_in));
    }
    int64_t n_tokens = b->shape.position > s->batch ? b->shape.position : s->batch;
    QS_TRY(QS_NEW(s->tokens, n_tokens, "tokens"));
    for (int64_t i = 0; i < n_tokens; i++) s->tokens[i] = (int32_t)(i % BENCH_TOKENS);
    QS_TRY(QS_NEW(s->logits, s->batch * b->shape.n_vocab, "logits"));
    QS_TRY(qs_decoder_create(&s->decoder, b->backend, model, &source, &options));
out:
    return err;
}

static void close_subject(subject *s)
{
    qs_decoder_destroy(s->decoder);
    for (int i = 0; i < BENCH_N_LINEARS; i++) bench_contents_free(&s->linears[i]);
    qs_mem_free(s->tokens);
    qs_mem_free(s->logits);
}

static qs_err measure_prompt(subject *s)
{
    qs_err err = QS_OK;
    const bench *b = s->b;
    double samples[PROMPT_SAMPLES];
    bench_row row = {.part = "decoder", .name = "prompt", .format = s->format->name, .rows = b->shape.position,
                     .tokens = (double)b->shape.position, .error = -1};
    for (int64_t i = 0; i < s->batch; i++)
        QS_TRY(qs_decoder_prefill(s->decoder, i, s->tokens, b->shape.position, s->logits));
    for (int i = 0; i < PROMPT_SAMPLES; i++) {
        double started = qs_clock_seconds();
        QS_TRY(qs_decoder_prefill(s->decoder, 0, s->tokens, b->shape.position, s->logits));
        samples[i] = qs_clock_seconds() - started;
    }
    s->position = b->shape.position;
    bench_time_of_samples(samples, PROMPT_SAMPLES, &row.time);
    bench_print(b, &row);
out:
    return err;
}

static qs_err run_steps(subject *s, bool argmax, int64_t n)
{
    static const qs_sample_rule rules[BENCH_FEW_ROWS]; /* greedy; token 0 is not chosen, which costs nothing else */
    qs_backend *backend;
    const float *logits = qs_decoder_logits(s->decoder, &backend);
    qs_err err = QS_OK;
    for (int64_t i = 0; i < n; i++, s->position++) {
        if (argmax) {
            int32_t next[BENCH_FEW_ROWS];
            QS_TRY(qs_decoder_step(s->decoder, s->tokens, NULL));
            QS_TRY(qs_op_sample(backend, logits, rules, s->batch, s->b->shape.n_vocab, next));
        } else {
            QS_TRY(qs_decoder_step(s->decoder, s->tokens, s->logits));
        }
    }
out:
    return err;
}

/* Logits to the host, or the most probable token alone. */
static qs_err measure_steps(subject *s, bool argmax)
{
    qs_err err = QS_OK;
    bench *b = s->b;
    const bench_shape *shape = &b->shape;
    double samples[SAMPLES_MAX], kv, layers = 0.0;
    int64_t steps = sample_steps(b), n = b->n_samples < SAMPLES_MAX ? b->n_samples : SAMPLES_MAX;
    bench_row row = {.part = "decoder", .name = argmax ? "step_argmax" : "step", .format = s->format->name,
                     .rows = s->batch, .tokens = (double)s->batch, .error = -1};
    QS_TRY(run_steps(s, argmax, WARM_STEPS));
    int64_t middle = s->position + n * steps / 2;
    for (int64_t i = 0; i < n; i++) {
        double started = qs_clock_seconds();
        QS_TRY(run_steps(s, argmax, steps));
        samples[i] = (qs_clock_seconds() - started) / (double)steps;
    }
    bench_time_of_samples(samples, n, &row.time);
    for (int i = 0; i < BENCH_N_LINEARS; i++) layers += s->linears[i].bytes;
    kv = 2.0 * (double)(s->batch * middle * shape->n_kv_heads * shape->head_dim) * sizeof(float);
    row.bytes = (double)shape->n_layers * (layers + kv) + 2.0 * (double)(shape->n_vocab * shape->d_model);
    bench_print(b, &row);
out:
    return err;
}

qs_err bench_part_decoder(bench *b)
{
    qs_err err = QS_OK;
    char directory[QS_PATH_BYTES] = "";
    qs_model *model = NULL;
    subject s = {0};
    QS_TRY(bench_model_create(b, directory));
    QS_TRY(qs_model_open(&model, directory));
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        if (cases[i].batch > bench_few_rows(b)) continue;
        s = (subject){.b = b, .format = bench_format_find(cases[i].format), .batch = cases[i].batch};
        double started = qs_clock_seconds();
        QS_TRY(open_subject(&s, model));
        fprintf(stderr, "bench_cuda: decoder, %s, %lld sequences: loaded in %.1f s\n", s.format->name,
                (long long)s.batch, qs_clock_seconds() - started);
        QS_TRY(measure_prompt(&s));
        QS_TRY(measure_steps(&s, false));
        QS_TRY(measure_steps(&s, true));
        close_subject(&s);
        s = (subject){0};
    }
out:
    close_subject(&s);
    qs_model_close(model);
    bench_model_remove(directory);
    return err;
}
