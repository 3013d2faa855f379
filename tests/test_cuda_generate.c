/* What generating rests on, on a GPU or on the CPU that pretends to be one, held against the CPU: answers by the greedy
 * choice and by draws, long texts written, followed and led over bridges, entropies, divergences, vectors of the model
 * under test; for both orders of threads the same bits. Skipped where backend "cuda" cannot be made. */
#include "cuda_model.h"

#include "metric/long_runs.h"
#include "metric/wording_entropy.h"
#include "model/generate.h"
#include "rag/encoder.h"

enum { N_PROMPTS = 3, N_RUNS = 6, N_NEW = 3, V = 384 };

static qs_model *model;
static const qs_tokenizer *tokenizer;
static qs_token_list prompts[N_PROMPTS];

static int setup(void **state)
{
    static const char *const texts[N_PROMPTS] = {"The pump of Wynmere", "Answer:\n", "a"};
    (void)state;
    must(qs_model_open(&model, "tests/fixtures/tiny"));
    tokenizer = qs_model_get_tokenizer(model);
    for (int i = 0; i < N_PROMPTS; i++)
        must(qs_tokenizer_encode(tokenizer, texts[i], strlen(texts[i]), false, &prompts[i]));
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    for (int i = 0; i < N_PROMPTS; i++) qs_token_list_free(&prompts[i]);
    qs_model_close(model);
    return 0;
}

static qs_decoder *decoder_of(qs_backend *backend, int64_t batch, qs_dtype dtype)
{
    qs_decoder *decoder;
    qs_decoder_options options = {.batch = batch, .n_ctx_cap = 40, .block = {.dense_dtype = dtype}};
    must(qs_decoder_create(&decoder, backend, model, NULL, &options));
    return decoder;
}

static void assert_close(const char *what, const float *got, const float *expected, int64_t n, double limit)
{
    double diff = max_abs_diff(got, expected, n);
    print_message("%-28s max abs difference %.1e\n", what, diff);
    if (!(diff <= limit)) fail_msg("%s: %g, limit %g", what, diff, limit);
}

/* ---- answers ---- */

/* Several runs share a prompt, wait for a sequence and end at different steps; one is forced. */
static qs_generation *generate(qs_backend *backend, int64_t batch)
{
    static int32_t line[] = {5, 200};
    static const qs_token_list forced = {.ids = line, .n = 2};
    qs_generate_run runs[N_RUNS];
    qs_generation *out;
    for (int i = 0; i < N_RUNS; i++)
        runs[i] = (qs_generate_run){.prompt = i / 2, .temperature = i % 2 == 0 ? 0.0 : 0.9, .key = (uint64_t)i,
                                    .clamp = i == 3 ? 0.136 : 0.0, .forced = i == 5 ? &forced : NULL};
    qs_decoder *decoder = decoder_of(backend, batch, QS_F16);
    qs_generate_job job = {.decoder = decoder, .tokenizer = tokenizer, .prompts = prompts, .n_prompts = N_PROMPTS,
                           .runs = runs, .n_runs = N_RUNS, .n_tokens_max = N_NEW, .ending = QS_ENDS_LINE};
    must(QS_NEW(out, N_RUNS, "generations"));
    must(qs_generate(&job, out));
    qs_decoder_destroy(decoder);
    return out;
}

static void test_answers(void **state)
{
    (void)state;
    qs_backend *cuda = cuda_open(), *cpu = backend_open("cpu", 2);
    static const int64_t batches[] = {3, 4};
    qs_generation *expected = generate(cpu, 2);
    for (int b = 0; b < 2; b++) {
        qs_rt_simt_set_reverse(b == 1);
        qs_generation *got = generate(cuda, batches[b]);
        for (int i = 0; i < N_RUNS; i++) {
            assert_int_equal(got[i].stop, expected[i].stop);
            assert_int_equal(got[i].n_tokens, expected[i].n_tokens);
            for (int64_t t = 0; t < got[i].n_tokens; t++) assert_int_equal(got[i].tokens[t], expected[i].tokens[t]);
        }
        qs_generations_free(got, N_RUNS);
    }
    qs_generations_free(expected, N_RUNS);
    qs_backend_destroy(cuda);
    qs_backend_destroy(cpu);
}

/* ---- long texts ---- */

/* A reference in f16 that writes, and a candidate in bf16 that follows it beside the reference, then writes. */
static void write_and_follow(qs_backend *backend, qs_backend *beside, qs_long_runs *written, qs_long_runs *followed)
{
    qs_decoder *one = decoder_of(backend, 2, QS_F16), *two = decoder_of(beside, 2, QS_BF16);
    must(qs_long_write(written, one, qs_tokenizer_eos(tokenizer), prompts, N_PROMPTS, N_NEW));
    must(qs_long_follow(followed, two, one, qs_tokenizer_eos(tokenizer), prompts, N_PROMPTS, written));
    qs_decoder_destroy(one);
    qs_decoder_destroy(two);
}

static void test_long_texts(void **state)
{
    (void)state;
    qs_backend *cuda = cuda_open(), *beside = cuda_open(), *cpu = backend_open("cpu", 2);
    enum { N = N_PROMPTS * N_NEW };
    qs_long_runs f[2], q[2], again;
    write_and_follow(cpu, cpu, &f[0], &q[0]);
    qs_rt_simt_set_reverse(false);
    write_and_follow(cuda, beside, &f[1], &q[1]); /* as evaluating does: each deployment has its own backend */
    qs_rt_simt_set_reverse(true);
    qs_decoder *decoder = decoder_of(cuda, 3, QS_F16);
    must(qs_long_write(&again, decoder, qs_tokenizer_eos(tokenizer), prompts, 1, N_NEW));
    assert_memory_equal(f[0].tokens, f[1].tokens, N * sizeof *f[0].tokens);
    assert_memory_equal(q[0].tokens, q[1].tokens, N * sizeof *f[0].tokens);
    assert_close("entropy, written", f[1].entropy, f[0].entropy, N, 1e-4);
    assert_close("entropy, followed", q[1].entropy, q[0].entropy, N, 1e-4);
    assert_close("entropy, own text", q[1].free_entropy, q[0].free_entropy, N, 1e-4);
    assert_close("divergence", q[1].kld, q[0].kld, N, 1e-6);
    assert_memory_equal(f[1].entropy, again.entropy, N_NEW * sizeof *again.entropy);
    qs_long_free(&again);
    qs_decoder_destroy(decoder);
    for (int i = 0; i < 2; i++) {
        qs_long_free(&f[i]);
        qs_long_free(&q[i]);
    }
    qs_backend_destroy(cuda);
    qs_backend_destroy(beside);
    qs_backend_destroy(cpu);
}

/* ---- entropy along answers ---- */

static void test_wordings(void **state)
{
    (void)state;
    qs_backend *cuda = cuda_open(), *cpu = backend_open("cpu", 2), *both[] = {cpu, cuda};
    int32_t tokens[N_PROMPTS * N_NEW] = {5, 200, 17, 9, -1, -1, 31, 32, -1};
    const qs_wordings answers = {.n_prompts = N_PROMPTS, .n_steps = N_NEW, .tokens = tokens};
    qs_wordings along[2];
    for (int i = 0; i < 2; i++) {
        qs_decoder *decoder = decoder_of(both[i], 2, QS_F16);
        must(qs_wordings_follow(&along[i], decoder, tokenizer, prompts, N_PROMPTS, &answers));
        qs_decoder_destroy(decoder);
    }
    for (int64_t i = 0; i < N_PROMPTS * N_NEW; i++) {
        if (tokens[i] < 0) assert_true(isnan(along[1].entropy[i]));
        else assert_true(fabs((double)along[0].entropy[i] - (double)along[1].entropy[i]) < 1e-4);
    }
    for (int i = 0; i < 2; i++) {
        qs_wordings_free(&along[i]);
        qs_backend_destroy(both[i]);
    }
}

/* ---- the model under test as an encoder ---- */

static void test_self(void **state)
{
    (void)state;
    static const char *const texts[] = {"The pump is red.", "", "a gate", "What is the weir?"};
    enum { N = sizeof texts / sizeof *texts, D_MAX = 64 };
    qs_backend *cuda = cuda_open(), *cpu = backend_open("cpu", 2), *both[] = {cpu, cuda};
    float vectors[2][N * D_MAX];
    for (int i = 0; i < 2; i++) {
        qs_encoder *encoder;
        qs_encoder_options options = {.documents = texts, .n_documents = N, .model = model, .backend = both[i]};
        must(qs_encoder_open(&encoder, "self", &options));
        assert_int_equal(qs_encoder_dim(encoder), D_MAX);
        must(qs_encoder_encode(encoder, texts, N, vectors[i]));
        qs_encoder_destroy(encoder);
    }
    assert_close("vectors", vectors[1], vectors[0], N * D_MAX, 1e-5);
    qs_backend_destroy(cuda);
    qs_backend_destroy(cpu);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_answers),
        cmocka_unit_test(test_long_texts),
        cmocka_unit_test(test_wordings),
        cmocka_unit_test(test_self),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
