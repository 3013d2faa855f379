/* The encoder that is the model under test (docs/retrieval.md; checklist B5, E7: what quantisation does to
 * embeddings). */
#include "scratch.h"

#include <math.h>

#include "model/forward.h"
#include "rag/encoder.h"

static const char *const texts[] = {"The pump is red.", "", "a gate",
                                    "What is the weir, and where does it stand?", "x"};
enum { N = sizeof texts / sizeof *texts, D_MAX = 256 };

static qs_model *model;
static qs_backend *backend;

static int setup(void **state)
{
    (void)state;
    OK(qs_model_open(&model, "tests/fixtures/tiny"));
    OK(qs_backend_create(&backend, "cpu", 0, 2));
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    qs_backend_destroy(backend);
    qs_model_close(model);
    return 0;
}

/* Means of final hidden states, by the pass that everything else uses, one text at a time. */
static void mean_states(const char *text, double *mean)
{
    int64_t d = qs_model_get_config(model)->d_model;
    qs_token_list list = {0};
    OK(qs_tokenizer_encode(qs_model_get_tokenizer(model), text, strlen(text), true, &list));
    float *hidden = calloc((size_t)(list.n * d), sizeof *hidden);
    OK(qs_forward_hidden(backend, model, NULL, QS_COMPUTE_F32, list.ids, 1, list.n, NULL, hidden));
    for (int64_t j = 0; j < d; j++) {
        mean[j] = 0.0;
        for (int64_t t = 0; t < list.n; t++) mean[j] += hidden[t * d + j] / (double)list.n;
    }
    free(hidden);
    qs_token_list_free(&list);
}

static void vectors_are_centred_means(void **state)
{
    (void)state;
    static const char *const documents[] = {"The pump is red.", "a gate"};
    int64_t d = qs_model_get_config(model)->d_model;
    double first[D_MAX], second[D_MAX], x[D_MAX];
    float vectors[N][D_MAX], packed[N * D_MAX], alone[D_MAX], again[N * D_MAX];
    qs_encoder *encoder, *follower;
    assert_true(d <= D_MAX);
    qs_encoder_options options = {.documents = documents, .n_documents = 2, .model = model, .backend = backend};
    OK(qs_encoder_open(&encoder, "self", &options));
    assert_int_equal(qs_encoder_dim(encoder), d);
    OK(qs_encoder_encode(encoder, texts, N, packed));
    for (int i = 0; i < N; i++) memcpy(vectors[i], packed + i * d, (size_t)d * sizeof(float));
    mean_states(documents[0], first);
    mean_states(documents[1], second);
    for (int i = 0; i < N; i++) {
        double length = 0.0;
        if (texts[i][0] == '\0') { /* no token, no vector */
            for (int64_t j = 0; j < d; j++) assert_true(vectors[i][j] == 0.0f);
            continue;
        }
        mean_states(texts[i], x);
        for (int64_t j = 0; j < d; j++) x[j] -= (first[j] + second[j]) / 2.0;
        for (int64_t j = 0; j < d; j++) length += x[j] * x[j];
        for (int64_t j = 0; j < d; j++)
            if (fabs(vectors[i][j] - x[j] / sqrt(length)) > 1e-4) fail_msg("text %d, element %lld", i, (long long)j);
    }
    qs_encoder_destroy(encoder);
    /* Neither padding nor the other texts change a bit; and the reference followed by itself is itself. */
    OK(qs_encoder_open(&encoder, "self", &options));
    for (int i = 0; i < N; i++) {
        OK(qs_encoder_encode(encoder, &texts[i], 1, alone));
        assert_memory_equal(alone, vectors[i], (size_t)d * sizeof(float));
    }
    assert_true(qs_encoder_follows(encoder));
    OK(qs_encoder_follow(&follower, encoder, model, NULL));
    OK(qs_encoder_encode(follower, texts, N, again));
    assert_memory_equal(again, packed, (size_t)(N * d) * sizeof(float));
    qs_encoder_destroy(follower);
    qs_encoder_destroy(encoder);
}

static void it_needs_a_model(void **state)
{
    (void)state;
    qs_encoder *encoder, *follower;
    qs_encoder_options options = {.documents = texts, .n_documents = N};
    FAILS(QS_E_USAGE, qs_encoder_open(&encoder, "self", &options));
    OK(qs_encoder_open(&encoder, "auto", &options)); /* no directory, no model */
    assert_string_equal(qs_encoder_name(encoder), "tfidf");
    assert_false(qs_encoder_follows(encoder));
    OK(qs_encoder_follow(&follower, encoder, model, NULL));
    assert_null(follower);
    qs_encoder_destroy(encoder);
    options.model = model;
    options.backend = backend;
    OK(qs_encoder_open(&encoder, "auto", &options));
    assert_string_equal(qs_encoder_name(encoder), "self");
    qs_encoder_destroy(encoder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(vectors_are_centred_means),
        cmocka_unit_test(it_needs_a_model),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
