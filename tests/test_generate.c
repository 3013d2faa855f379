/* Sampling and generating: the rule against its definition, the same tokens whatever shares the batch and for any
 * number of threads, prompts computed once (counter-based random numbers; batch composition). */
#include "model_files.h"

#include <math.h>

#include "base/rng.h"
#include "model/generate.h"
#include "backend/sampler.h"

enum { V = 50, N_DRAWS = 20000 };

static void made_up_logits(float *logits, int64_t n, uint64_t key)
{
    for (int64_t i = 0; i < n; i++) logits[i] = (float)(4.0 * qs_rng_normal(key, (uint64_t)i));
}

/* Gumbel-max without its short cut. */
static int32_t by_definition(const float *logits, double temperature, uint64_t key, int64_t step)
{
    uint64_t step_key = qs_rng_u64(key, (uint64_t)step);
    int32_t best = -1;
    double best_score = -INFINITY;
    for (int32_t i = 0; i < V; i++) {
        double score = (double)logits[i] / temperature - log(-log(qs_rng_unit(step_key, (uint64_t)i)));
        if (score > best_score) {
            best_score = score;
            best = i;
        }
    }
    return best;
}

static void test_sampling_is_softmax(void **state)
{
    (void)state;
    float logits[V];
    double p[V], sum = 0.0, chi2 = 0.0;
    int64_t counts[V] = {0};
    made_up_logits(logits, V, 5);
    for (int i = 0; i < V; i++) sum += p[i] = exp((double)logits[i] / 2.0);
    for (int step = 0; step < N_DRAWS; step++) {
        int32_t token = qs_sample(logits, V, 2.0, 77, step, -1);
        assert_int_equal(token, by_definition(logits, 2.0, 77, step));
        counts[token]++;
    }
    for (int i = 0; i < V; i++) {
        double expected = p[i] / sum * N_DRAWS;
        chi2 += ((double)counts[i] - expected) * ((double)counts[i] - expected) / expected;
    }
    assert_true(chi2 < 85.4); /* chi-square, 49 degrees of freedom, .999 */
}

static void test_sampling_rules(void **state)
{
    (void)state;
    float logits[V];
    made_up_logits(logits, V, 6);
    logits[7] = logits[31] = 100.0f;
    assert_int_equal(qs_sample(logits, V, 0.0, 1, 0, -1), 7); /* the lowest among equals */
    assert_int_equal(qs_sample(logits, V, 0.0, 1, 0, 7), 31);
    for (int step = 0; step < 50; step++) assert_int_not_equal(qs_sample(logits, V, 0.2, 1, step, 7), 7);
    logits[3] = NAN;
    assert_int_equal(qs_sample(logits, V, 0.0, 1, 0, -1), -1);
    logits[3] = -INFINITY;
    assert_int_equal(qs_sample(logits, V, 0.2, 1, 0, -1), -1);
}

/* Two models that agree to 0.01 of a logit choose the same under the same noise nearly always, where independent draws
 * from these flat distributions would agree seldom. */
static void test_noise_is_shared(void **state)
{
    (void)state;
    float f[V], q[V];
    int64_t same = 0;
    for (int64_t i = 0; i < V; i++) {
        f[i] = (float)qs_rng_unit(1, (uint64_t)i);
        q[i] = f[i] + 0.01f * (float)qs_rng_normal(2, (uint64_t)i);
    }
    for (int step = 0; step < 1000; step++)
        same += qs_sample(f, V, 1.0, 9, step, -1) == qs_sample(q, V, 1.0, 9, step, -1);
    assert_true(same > 950);
}

/* ---- generating ---- */

enum { N_PROMPTS = 5, N_RUNS = 11, N_NEW = 12 };

typedef struct world {
    qs_model *model;
    const qs_tokenizer *tokenizer;
    qs_token_list prompts[N_PROMPTS];
    qs_generate_run runs[N_RUNS];
} world;

static int setup(void **state)
{
    static world w;
    static const char *const texts[N_PROMPTS] = {"The pump of Wynmere is red.\n", "Question: ", "a",
                                                 "Answer:\nfrom the snippets alone, please.\n", "seven"};
    assert_ok(qs_model_open(&w.model, "tests/fixtures/tiny"));
    w.tokenizer = qs_model_get_tokenizer(w.model);
    for (int i = 0; i < N_PROMPTS; i++)
        assert_ok(qs_tokenizer_encode(w.tokenizer, texts[i], strlen(texts[i]), false, &w.prompts[i]));
    for (int i = 0; i < N_RUNS; i++)
        w.runs[i] = (qs_generate_run){.prompt = i / 3 % N_PROMPTS, .temperature = i % 3 == 0 ? 0.0 : 1.5,
                                      .key = (uint64_t)i};
    *state = &w;
    return 0;
}

static int teardown(void **state)
{
    world *w = *state;
    for (int i = 0; i < N_PROMPTS; i++) qs_token_list_free(&w->prompts[i]);
    qs_model_close(w->model);
    return 0;
}

static qs_decoder *decoder_of(const world *w, qs_backend *backend, int64_t batch, int64_t n_ctx)
{
    qs_decoder *decoder;
    qs_decoder_options options = {.batch = batch, .n_ctx_cap = n_ctx, .block = {.dense_dtype = QS_F16}};
    assert_ok(qs_decoder_create(&decoder, backend, w->model, NULL, &options));
    return decoder;
}

static qs_generate_job job_of(const world *w, qs_decoder *decoder, qs_ending ending)
{
    return (qs_generate_job){.decoder = decoder, .tokenizer = w->tokenizer, .prompts = w->prompts,
                             .n_prompts = N_PROMPTS, .runs = w->runs, .n_runs = N_RUNS, .n_tokens_max = N_NEW,
                             .ending = ending};
}

static qs_generation *generate_to(const world *w, int n_threads, int64_t batch, qs_ending ending, qs_stops stops)
{
    qs_backend *backend;
    qs_generation *out;
    assert_ok(qs_backend_create(&backend, "cpu", 0, n_threads));
    qs_decoder *decoder = decoder_of(w, backend, batch, 64);
    qs_generate_job job = job_of(w, decoder, ending);
    job.stops = stops;
    assert_ok(QS_NEW(out, N_RUNS, "generations"));
    assert_ok(qs_generate(&job, out));
    qs_decoder_destroy(decoder);
    qs_backend_destroy(backend);
    return out;
}

static qs_generation *generate(const world *w, int n_threads, int64_t batch, qs_ending ending)
{
    return generate_to(w, n_threads, batch, ending, (qs_stops){0});
}

static void assert_same(const qs_generation *a, const qs_generation *b)
{
    for (int i = 0; i < N_RUNS; i++) {
        assert_int_equal(a[i].n_tokens, b[i].n_tokens);
        assert_int_equal(a[i].stop, b[i].stop);
        assert_memory_equal(a[i].tokens, b[i].tokens, (size_t)a[i].n_tokens * sizeof *a[i].tokens);
    }
}

/* Each run by itself, by the plain rule: prompt, choose, step. */
static void test_against_plain_loop(void **state)
{
    world *w = *state;
    qs_backend *backend;
    float logits[384];
    qs_generation *got = generate(w, 1, 4, QS_ENDS_NEVER);
    assert_ok(qs_backend_create(&backend, "cpu", 0, 1));
    qs_decoder *decoder = decoder_of(w, backend, 1, 64);
    int32_t eos = qs_tokenizer_eos(w->tokenizer);
    for (int i = 0; i < N_RUNS; i++) {
        const qs_token_list *prompt = &w->prompts[w->runs[i].prompt];
        assert_ok(qs_decoder_prefill(decoder, 0, prompt->ids, prompt->n, logits));
        assert_int_equal(got[i].n_tokens, N_NEW);
        assert_int_equal(got[i].stop, QS_STOP_LIMIT);
        for (int step = 0; step < N_NEW; step++) {
            int32_t token = qs_sample(logits, 384, w->runs[i].temperature, w->runs[i].key, step, eos);
            assert_int_equal(token, got[i].tokens[step]);
            if (step + 1 < N_NEW) assert_ok(qs_decoder_step(decoder, &token, logits));
        }
    }
    qs_generations_free(got, N_RUNS);
    qs_decoder_destroy(decoder);
    qs_backend_destroy(backend);
}

static void test_batches_and_threads_are_bitwise(void **state)
{
    world *w = *state;
    qs_generation *first = generate(w, 1, 1, QS_ENDS_LINE);
    for (int64_t batch = 2; batch <= 8; batch += 3) {
        qs_generation *other = generate(w, 2, batch, QS_ENDS_LINE);
        assert_same(first, other);
        qs_generations_free(other, N_RUNS);
    }
    qs_generations_free(first, N_RUNS);
}

/* A line ends with the first token that holds a line end, and nowhere before; EOS is no token of the answer. */
static void test_stops(void **state)
{
    world *w = *state;
    qs_generation *out = generate(w, 1, 8, QS_ENDS_LINE), *free_run = generate(w, 1, 8, QS_ENDS_NEVER);
    for (int i = 0; i < N_RUNS; i++) {
        char *text;
        assert_ok(qs_tokenizer_decode(w->tokenizer, out[i].tokens, out[i].n_tokens, false, &text));
        const char *end = strchr(text, '\n');
        assert_int_equal(end != NULL, out[i].stop == QS_STOP_LINE);
        assert_true(out[i].stop != QS_STOP_LIMIT || out[i].n_tokens == N_NEW);
        for (int64_t t = 0; t < out[i].n_tokens; t++)
            assert_int_not_equal(out[i].tokens[t], qs_tokenizer_eos(w->tokenizer));
        /* the two agree as long as neither has stopped: stopping changes no choice before it */
        assert_memory_equal(out[i].tokens, free_run[i].tokens, (size_t)out[i].n_tokens * sizeof *out[i].tokens);
        qs_mem_free(text);
    }
    qs_generations_free(out, N_RUNS);
    qs_generations_free(free_run, N_RUNS);
}

/* A chat's own tokens end a text as EOS does; neither is a token of it, and what stands before is as without them. */
static void test_stops_of_a_chat(void **state)
{
    world *w = *state;
    qs_generation *plain = generate(w, 1, 8, QS_ENDS_LINE);
    assert_true(plain[0].n_tokens > 1 && plain[4].n_tokens > 2);
    qs_stops stops = {2, {plain[0].tokens[1], plain[4].tokens[2]}};
    qs_generation *out = generate_to(w, 1, 3, QS_ENDS_LINE, stops);
    int n_stopped = 0;
    for (int i = 0; i < N_RUNS; i++) {
        int64_t n = 0;
        while (n < plain[i].n_tokens && plain[i].tokens[n] != stops.ids[0] && plain[i].tokens[n] != stops.ids[1]) n++;
        assert_int_equal(out[i].n_tokens, n);
        assert_int_equal(out[i].stop, n < plain[i].n_tokens ? QS_STOP_EOS : plain[i].stop);
        assert_memory_equal(out[i].tokens, plain[i].tokens, (size_t)n * sizeof *out[i].tokens);
        n_stopped += n < plain[i].n_tokens;
    }
    assert_true(n_stopped >= 2);
    qs_generations_free(out, N_RUNS);
    qs_generations_free(plain, N_RUNS);
}

static qs_err count_steps(void *context, int64_t run, int64_t step, const qs_generate_look *look)
{
    int64_t *n_steps = context;
    assert_int_equal(step, n_steps[run]++);
    assert_true(isfinite(look->lse) && look->nll >= 0.0f && look->entropy > 0.0f);
    return QS_OK;
}

static void test_sees_every_step_and_refuses(void **state)
{
    world *w = *state;
    qs_backend *backend;
    qs_generation *out;
    int64_t n_steps[N_RUNS] = {0};
    assert_ok(qs_backend_create(&backend, "cpu", 0, 1));
    qs_decoder *decoder = decoder_of(w, backend, 3, 40);
    qs_generate_job job = job_of(w, decoder, QS_ENDS_NEVER);
    job.watch = (qs_generate_watch){count_steps, n_steps, true};
    assert_ok(QS_NEW(out, N_RUNS, "generations"));
    assert_ok(qs_generate(&job, out));
    for (int i = 0; i < N_RUNS; i++) assert_int_equal(n_steps[i], N_NEW);
    qs_generations_free(out, N_RUNS);
    job.n_tokens_max = 40;
    assert_ok(QS_NEW(out, N_RUNS, "generations"));
    assert_fails(qs_generate(&job, out), QS_E_USAGE, "do not fit 40");
    qs_generations_free(out, N_RUNS);
    qs_decoder_destroy(decoder);
    qs_backend_destroy(backend);
}

/* A sequence that goes on from another's cache gives the bits of one that computed its prompt. */
static void test_continue(void **state)
{
    world *w = *state;
    qs_backend *backend;
    float logits[2 * 384], expected[384];
    assert_ok(qs_backend_create(&backend, "cpu", 0, 2));
    qs_decoder *decoder = decoder_of(w, backend, 2, 64);
    const qs_token_list *prompt = &w->prompts[0];
    int32_t tokens[2] = {5, 5};
    assert_ok(qs_decoder_prefill(decoder, 0, prompt->ids, prompt->n, logits));
    assert_ok(qs_decoder_prefill(decoder, 1, w->prompts[3].ids, w->prompts[3].n, logits));
    assert_ok(qs_decoder_continue(decoder, 0, 1, prompt->n));
    assert_ok(qs_decoder_step(decoder, tokens, logits));
    assert_memory_equal(logits, logits + 384, 384 * sizeof *logits);
    memcpy(expected, logits, sizeof expected);
    tokens[0] = 9; /* astray, then back */
    assert_ok(qs_decoder_step(decoder, tokens, logits));
    assert_ok(qs_decoder_continue(decoder, 0, 0, prompt->n));
    tokens[0] = 5;
    assert_ok(qs_decoder_step(decoder, tokens, logits));
    assert_memory_equal(logits, expected, sizeof expected);
    assert_fails(qs_decoder_continue(decoder, 0, 1, 60), QS_E_USAGE, "not as many");
    assert_fails(qs_decoder_continue(decoder, 0, 2, 1), QS_E_USAGE, "2 sequences");
    qs_decoder_destroy(decoder);
    qs_backend_destroy(backend);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sampling_is_softmax),
        cmocka_unit_test(test_sampling_rules),
        cmocka_unit_test(test_noise_is_shared),
        cmocka_unit_test(test_continue),
        cmocka_unit_test(test_against_plain_loop),
        cmocka_unit_test(test_batches_and_threads_are_bitwise),
        cmocka_unit_test(test_stops),
        cmocka_unit_test(test_stops_of_a_chat),
        cmocka_unit_test(test_sees_every_step_and_refuses),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
