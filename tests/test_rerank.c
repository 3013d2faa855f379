/* Re-ranking by the model under test: mean ln p(question | snippet), against the windowed forward pass, and the
 * same bits for any batch, threads and company (docs/retrieval.md; checklist G9). */
#include "model_files.h"

#include <math.h>

#include "metric/rerank.h"
#include "model/forward.h"

enum { V = 384, N_PAIRS = 7 };

static const qs_gold_snippet snippets[] = {
    {.id = "S1", .header = "Pumps", .text = "The pump has red."},
    {.id = "S2", .header = "Pumps", .text = "The gate is 4 kg."},
    {.id = "S3", .header = "Weirs", .text = "Weirs go north"},
};
static const qs_rerank_pair pairs[N_PAIRS] = {
    {"What has the pump?", &snippets[1]}, {"What has the pump?", &snippets[0]}, {"Weirs?", &snippets[2]},
    {"How heavy is the gate?", &snippets[1]}, {"How heavy is the gate?", &snippets[0]}, {"Weirs?", &snippets[0]},
    {"What has the pump?", &snippets[2]},
};

static qs_decoder *decoder_of(qs_backend *backend, const qs_model *model, int64_t batch, int64_t n_ctx)
{
    qs_decoder *decoder;
    qs_decoder_options options = {.batch = batch, .n_ctx_cap = n_ctx, .block = {.dense_dtype = QS_F32}};
    assert_ok(qs_decoder_create(&decoder, backend, model, NULL, &options));
    return decoder;
}

static void score(const qs_model *model, int n_threads, int64_t batch, const qs_rerank_pair *list, int64_t n,
                  double *scores)
{
    const qs_tokenizer *tokenizer = qs_model_get_tokenizer(model);
    qs_backend *backend;
    qs_rerank_plan plan;
    assert_ok(qs_backend_create(&backend, "cpu", 0, n_threads));
    assert_ok(qs_rerank_plan_make(&plan, tokenizer, list, n));
    qs_decoder *decoder = decoder_of(backend, model, batch, plan.n_ctx);
    assert_ok(qs_rerank_run(&plan, decoder, tokenizer, scores));
    qs_decoder_destroy(decoder);
    qs_rerank_plan_free(&plan);
    qs_backend_destroy(backend);
}

/* The same text through the forward pass for scoring, in f64. */
static double expected(const qs_model *model, qs_backend *backend, const qs_rerank_pair *pair)
{
    const qs_tokenizer *tokenizer = qs_model_get_tokenizer(model);
    qs_token_list list = {0};
    char text[512];
    float *hidden, *logits;
    double sum = 0.0;
    (void)snprintf(text, sizeof text, "%s\n%s [%s]\nQuestion:", pair->snippet->header, pair->snippet->text,
                   pair->snippet->id);
    if (qs_tokenizer_adds_bos(tokenizer)) fail_msg("the tiny model adds no BOS");
    assert_ok(qs_tokenizer_encode(tokenizer, text, strlen(text), false, &list));
    int64_t first = list.n;
    (void)snprintf(text, sizeof text, " %s", pair->question);
    assert_ok(qs_tokenizer_encode(tokenizer, text, strlen(text), false, &list));
    assert_ok(QS_NEW(hidden, list.n * qs_model_get_config(model)->d_model, "hidden"));
    assert_ok(QS_NEW(logits, list.n * V, "logits"));
    assert_ok(qs_forward_hidden(backend, model, NULL, QS_COMPUTE_F32, list.ids, 1, list.n, NULL, hidden));
    assert_ok(qs_forward_logits(backend, model, QS_COMPUTE_F32, hidden, list.n, logits));
    for (int64_t t = first; t < list.n; t++) {
        const float *row = logits + (t - 1) * V;
        double total = 0.0;
        for (int v = 0; v < V; v++) total += exp((double)row[v]);
        sum += (double)row[list.ids[t]] - log(total);
    }
    sum /= (double)(list.n - first);
    qs_mem_free(hidden);
    qs_mem_free(logits);
    qs_token_list_free(&list);
    return sum;
}

static void test_against_forward(void **state)
{
    (void)state;
    qs_model *model;
    qs_backend *backend;
    double scores[N_PAIRS];
    assert_ok(qs_model_open(&model, "tests/fixtures/tiny"));
    assert_ok(qs_backend_create(&backend, "cpu", 0, 1));
    score(model, 1, 4, pairs, N_PAIRS, scores);
    for (int i = 0; i < N_PAIRS; i++) {
        double wanted = expected(model, backend, &pairs[i]);
        if (fabs(scores[i] - wanted) > 1e-4) fail_msg("pair %d: %.6f, expected %.6f", i, scores[i], wanted);
    }
    qs_backend_destroy(backend);
    qs_model_close(model);
}

static void test_company_is_bitwise(void **state)
{
    (void)state;
    qs_model *model;
    double scores[N_PAIRS], other[N_PAIRS], one;
    assert_ok(qs_model_open(&model, "tests/fixtures/tiny"));
    score(model, 1, 1, pairs, N_PAIRS, scores);
    score(model, 2, 8, pairs, N_PAIRS, other);
    assert_memory_equal(scores, other, sizeof scores);
    for (int i = 0; i < N_PAIRS; i += 3) {
        score(model, 1, 3, &pairs[i], 1, &one);
        assert_true(one == scores[i]);
    }
    score(model, 1, 2, NULL, 0, &one); /* nothing to do */
    qs_model_close(model);
}

static void test_refuses(void **state)
{
    (void)state;
    qs_model *model;
    qs_rerank_plan plan;
    qs_backend *backend;
    double scores[N_PAIRS];
    assert_ok(qs_model_open(&model, "tests/fixtures/tiny"));
    const qs_tokenizer *tokenizer = qs_model_get_tokenizer(model);
    assert_fails(qs_rerank_plan_make(&plan, tokenizer, &(qs_rerank_pair){"\xff", &snippets[0]}, 1), QS_E_INPUT, "");
    assert_ok(qs_rerank_plan_make(&plan, tokenizer, pairs, N_PAIRS));
    assert_int_equal(plan.n_prompts, 3);
    assert_ok(qs_backend_create(&backend, "cpu", 0, 1));
    qs_decoder *decoder = decoder_of(backend, model, 2, plan.n_ctx - 1);
    assert_fails(qs_rerank_run(&plan, decoder, tokenizer, scores), QS_E_USAGE, "do not fit");
    qs_decoder_destroy(decoder);
    qs_rerank_plan_free(&plan);
    qs_backend_destroy(backend);
    qs_model_close(model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_against_forward),
        cmocka_unit_test(test_company_is_bitwise),
        cmocka_unit_test(test_refuses),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
