/* Scores of positions and the metrics made of them (docs/perplexity.md: natural log, KL over the full vocabulary,
 * argmax, change of p(correct); the same statistics as llama.cpp's). */
#include "model_files.h"

#include <math.h>

#include "backend/backend.h"
#include "metric/quality.h"
#include "metric/score.h"

enum { ROWS = 32 };

static void assert_near(double a, double b, double tolerance)
{
    if (!(fabs(a - b) <= tolerance)) fail_msg("%.12g and %.12g differ by more than %g", a, b, tolerance);
}

/* ---- worked by hand ---- */

/* p = (1/2, 1/2), q = (1/4, 3/4): KL = ln 2 / 2 + ln(2/3) / 2. */
static void test_kl_hand(void **state)
{
    (void)state;
    qs_backend *backend;
    assert_ok(qs_backend_create(&backend, "cpu", 0, 1));
    const float f[] = {3.0f, 3.0f, 0.0f, (float)log(7.0)};
    const float q[] = {1.0f, (float)(1.0 + log(3.0)), 0.0f, (float)log(7.0)};
    const int32_t targets[] = {0, 1};
    double lse_f[2], lse_q[2];
    float nll[2], entropy[2], kld[2];
    int32_t argmax[2];
    float *device_f, *device_q;
    assert_ok(qs_backend_alloc(backend, &device_f, sizeof f, "f"));
    assert_ok(qs_backend_alloc(backend, &device_q, sizeof q, "q"));
    assert_ok(qs_backend_upload(backend, device_f, f, sizeof f));
    assert_ok(qs_backend_upload(backend, device_q, q, sizeof q));
    qs_logit_stats stats = {.lse = lse_f, .nll = nll, .argmax = argmax, .entropy = entropy};
    assert_ok(qs_op_logit_stats(backend, device_f, targets, 2, 2, &stats));
    assert_near(nll[0], log(2.0), 1e-6);
    assert_near(entropy[0], log(2.0), 1e-6);
    assert_int_equal(argmax[0], 0); /* a tie: the lowest */
    assert_near(nll[1], log(8.0 / 7.0), 1e-6);
    assert_int_equal(argmax[1], 1);
    stats.lse = lse_q;
    assert_ok(qs_op_logit_stats(backend, device_q, targets, 2, 2, &stats));
    assert_near(nll[0], log(4.0), 1e-6);
    assert_ok(qs_op_kld(backend, device_f, lse_f, device_q, lse_q, 2, 2, kld));
    assert_near(kld[0], 0.5 * log(2.0) + 0.5 * log(2.0 / 3.0), 1e-6);
    assert_near(kld[1], 0.0, 1e-7);
    qs_backend_free(backend, device_f);
    qs_backend_free(backend, device_q);
    qs_backend_destroy(backend);
}

typedef struct seen {
    int n;
    struct {
        const char *name;
        qs_estimate estimate;
    } rows[32];
} seen;

static qs_err see(void *context, const qs_metric *metric, const qs_estimate *estimate)
{
    seen *s = context;
    s->rows[s->n].name = metric->name;
    s->rows[s->n++].estimate = *estimate;
    return QS_OK;
}

static const qs_estimate *find(const seen *s, const char *name)
{
    for (int i = 0; i < s->n; i++)
        if (strcmp(s->rows[i].name, name) == 0) return &s->rows[i].estimate;
    return NULL;
}

/* Two windows of two predictions, every number of which can be checked on paper. */
static void test_quality_hand(void **state)
{
    (void)state;
    int32_t ids[] = {9, 1, 2, 9, 3, 4}, argmax_f[] = {1, 2, 3, 0}, argmax_q[] = {1, 0, 0, 0};
    float nll_f[] = {1.0f, 2.0f, 1.0f, 4.0f}, nll_q[] = {1.5f, 2.0f, 2.0f, 4.5f},
          kld[] = {0.1f, 0.2f, 0.3f, 0.8f};
    qs_windows windows = {.n_ctx = 3, .n_windows = 2, .first = 0, .n_scored = 2, .ids = ids};
    qs_token_scores f = {.n = 4, .nll = nll_f, .argmax = argmax_f},
                    q = {.n = 4, .nll = nll_q, .argmax = argmax_q, .kld = kld};
    qs_quality_input input = {.windows = &windows,
                              .scores = &q,
                              .reference = &f,
                              .tasks = QS_TASK_PPL | QS_TASK_KLD,
                              .part = QS_QUALITY_ALL};
    seen s = {0};
    assert_ok(qs_quality_measure(&input, see, &s));
    assert_near(find(&s, "ppl")->value, exp(2.5), 1e-12);
    assert_near(find(&s, "ppl_ratio")->value, exp(0.5), 1e-12);
    assert_near(find(&s, "ppl_ratio")->lo, exp(0.25), 1e-12); /* both draws the first window */
    assert_near(find(&s, "ppl_ratio")->hi, exp(0.75), 1e-12);
    assert_int_equal(find(&s, "ppl_ratio")->n, 2);
    assert_near(find(&s, "token_acc")->value, 0.25, 1e-12);
    assert_near(find(&s, "acc_loss_pct")->value, 100.0 * (3.0 - 1.0) / 3.0, 1e-12);
    assert_near(find(&s, "kld_mean")->value, 0.35, 1e-7);
    assert_near(find(&s, "kld_p99")->value, 0.3 + 0.97 * 0.5, 1e-7); /* at 2.97 of 0 .. 3 */
    assert_near(find(&s, "kld_max")->value, 0.8, 1e-7);
    assert_near(find(&s, "top1_agree")->value, 0.5, 1e-12);
    assert_near(find(&s, "flip_rate")->value, 0.5, 1e-12);
    double d0 = exp(-1.5) - exp(-1.0), d2 = exp(-2.0) - exp(-1.0), d3 = exp(-4.5) - exp(-4.0);
    assert_near(find(&s, "dp_rms")->value, sqrt((d0 * d0 + d2 * d2 + d3 * d3) / 4.0), 1e-12);
    assert_int_equal(s.n, 10);
}

/* No loss relative to nothing; no KL without the task; a share of 1 keeps a lower limit below 1. */
static void test_quality_edges(void **state)
{
    (void)state;
    int32_t ids[] = {9, 1, 2, 9, 3, 4}, argmax[] = {0, 0, 0, 0};
    float nll[] = {1.0f, 2.0f, 1.0f, 4.0f}, kld[] = {0, 0, 0, 0};
    qs_windows windows = {.n_ctx = 3, .n_windows = 2, .first = 0, .n_scored = 2, .ids = ids};
    qs_token_scores f = {.n = 4, .nll = nll, .argmax = argmax, .kld = kld};
    qs_quality_input input = {
        .windows = &windows, .scores = &f, .reference = &f, .tasks = QS_TASK_PPL, .part = QS_QUALITY_ALL};
    seen s = {0};
    assert_ok(qs_quality_measure(&input, see, &s));
    assert_null(find(&s, "acc_loss_pct"));
    assert_null(find(&s, "kld_mean"));
    assert_near(find(&s, "ppl_ratio")->value, 1.0, 0);
    assert_true(find(&s, "token_acc")->hi > 0.4);
    input.part = QS_QUALITY_OWN;
    s.n = 0;
    assert_ok(qs_quality_measure(&input, see, &s));
    assert_int_equal(s.n, 2); /* ppl and token_acc */
    input.part = QS_QUALITY_PAIRED;
    input.tasks = QS_TASK_KLD;
    s.n = 0;
    assert_ok(qs_quality_measure(&input, see, &s));
    assert_near(find(&s, "top1_agree")->value, 1.0, 0);
    assert_true(find(&s, "top1_agree")->lo < 0.6 && find(&s, "top1_agree")->hi == 1.0);
    nll[2] = NAN;
    input.tasks = QS_TASK_PPL;
    input.part = QS_QUALITY_OWN;
    assert_fails(qs_quality_measure(&input, see, &s), QS_E_NUMERIC, "ppl");
}

/* ---- golden hidden states and logits of a fixture, scored in f64 here ---- */

typedef struct golden {
    qs_model *model;
    qs_backend *backend;
    qs_scorer *scorer;
    int64_t d, v;
    bytes hidden, logits, tokens;
    float *device[2]; /* [ROWS, d] */
    int32_t targets[ROWS];
} golden;

static int setup(void **state)
{
    golden *g = calloc(1, sizeof *g);
    assert_non_null(g);
    assert_ok(qs_model_open(&g->model, MODELS "smollm2"));
    assert_ok(qs_backend_create(&g->backend, "cpu", 0, 2));
    assert_ok(qs_scorer_create(&g->scorer, g->backend, g->model, QS_COMPUTE_F32));
    g->d = qs_model_get_config(g->model)->d_model;
    g->v = qs_model_get_config(g->model)->n_vocab;
    g->hidden = load_file(MODELS "smollm2/hidden.f32");
    g->logits = load_file(MODELS "smollm2/logits.f32");
    g->tokens = load_file(MODELS "smollm2/tokens.i32");
    assert_int_equal(g->hidden.n, ROWS * (size_t)g->d * 4);
    for (int i = 0; i < 2; i++) {
        assert_ok(qs_backend_alloc(g->backend, &g->device[i], g->hidden.n, "hidden"));
        assert_ok(qs_backend_upload(g->backend, g->device[i], g->hidden.data, g->hidden.n));
    }
    for (int i = 0; i < ROWS; i++)
        g->targets[i] = ((const int32_t *)(const void *)g->tokens.data)[(i + 1) % ROWS];
    *state = g;
    return 0;
}

static int teardown(void **state)
{
    golden *g = *state;
    qs_scorer_destroy(g->scorer);
    for (int i = 0; i < 2; i++) qs_backend_free(g->backend, g->device[i]);
    qs_backend_destroy(g->backend);
    qs_model_close(g->model);
    qs_mem_free(g->hidden.data);
    qs_mem_free(g->logits.data);
    qs_mem_free(g->tokens.data);
    free(g);
    return 0;
}

static const float *golden_row(const golden *g, int i)
{
    return (const float *)(const void *)g->logits.data + i * g->v;
}

static double lse_of(const float *row, int64_t n)
{
    double max = row[0], sum = 0;
    for (int64_t t = 1; t < n; t++) max = fmax(max, row[t]);
    for (int64_t t = 0; t < n; t++) sum += exp((double)row[t] - max);
    return max + log(sum);
}

static double kl_of(const float *f, const float *q, int64_t n)
{
    double a = lse_of(f, n), b = lse_of(q, n), sum = 0;
    for (int64_t t = 0; t < n; t++) sum += exp((double)f[t] - a) * (((double)f[t] - a) - ((double)q[t] - b));
    return sum;
}

/* The reference against golden logits, itself (identity: KL 0) and a stream of other states. */
static void test_scores_against_golden(void **state)
{
    golden *g = *state;
    qs_token_scores f, same, other;
    assert_ok(qs_token_scores_alloc(&f, ROWS, false));
    assert_ok(qs_token_scores_alloc(&same, ROWS, true));
    assert_ok(qs_token_scores_alloc(&other, ROWS, true));
    float *shifted;
    assert_ok(QS_NEW(shifted, ROWS * g->d, "shifted")); /* every row takes the states of the next one */
    memcpy(shifted, g->hidden.data + g->d * 4, (size_t)((ROWS - 1) * g->d) * 4);
    memcpy(shifted + (ROWS - 1) * g->d, g->hidden.data, (size_t)g->d * 4);
    assert_ok(qs_backend_upload(g->backend, g->device[1], shifted, g->hidden.n));
    qs_scored_rows reference = {.name = "fp", .hidden = g->device[0], .scores = &f};
    qs_scored_rows candidates[] = {{.name = "same", .hidden = g->device[0], .scores = &same},
                                   {.name = "other", .hidden = g->device[1], .scores = &other}};
    assert_ok(qs_scorer_run(g->scorer, &reference, candidates, 2, g->targets, ROWS));
    for (int i = 0; i < ROWS; i++) {
        const float *row = golden_row(g, i), *next = golden_row(g, (i + 1) % ROWS);
        double lse = lse_of(row, g->v), entropy = 0;
        int32_t best = 0;
        for (int32_t t = 0; t < g->v; t++) {
            entropy -= exp((double)row[t] - lse) * ((double)row[t] - lse);
            if (row[t] > row[best]) best = t;
        }
        assert_near(f.nll[i], lse - (double)row[g->targets[i]], 2e-5);
        assert_near(f.entropy[i], entropy, 2e-5);
        assert_int_equal(f.argmax[i], best);
        assert_near(same.kld[i], 0.0, 1e-7);
        assert_near(other.kld[i], kl_of(row, next, g->v), 1e-4 * (1.0 + kl_of(row, next, g->v)));
    }
    assert_memory_equal(f.nll, same.nll, ROWS * sizeof *f.nll);
    qs_mem_free(shifted);
    qs_token_scores_free(&f);
    qs_token_scores_free(&same);
    qs_token_scores_free(&other);
}

static void test_logits(void **state)
{
    golden *g = *state;
    float *logits;
    assert_ok(QS_NEW(logits, ROWS * g->v, "logits"));
    assert_ok(qs_scorer_logits(g->scorer, NULL, g->device[0], ROWS, logits));
    for (int64_t i = 0; i < ROWS * g->v; i++) assert_near(logits[i], golden_row(g, 0)[i], 2e-5);
    qs_mem_free(logits);
}

static void test_scorer_refuses(void **state)
{
    golden *g = *state;
    qs_token_scores scores;
    assert_ok(qs_token_scores_alloc(&scores, ROWS, true));
    qs_scored_rows rows = {.name = "broken", .hidden = g->device[0], .scores = &scores};
    assert_fails(qs_scorer_run(g->scorer, NULL, &rows, 1, g->targets, ROWS), QS_E_USAGE,
                 "needs the reference");
    float *bad;
    assert_ok(QS_NEW(bad, ROWS * g->d, "bad"));
    memcpy(bad, g->hidden.data, g->hidden.n);
    bad[3 * g->d + 1] = INFINITY;
    assert_ok(qs_backend_upload(g->backend, g->device[1], bad, g->hidden.n));
    rows.hidden = g->device[1];
    assert_fails(qs_scorer_run(g->scorer, &rows, NULL, 0, g->targets, ROWS), QS_E_NUMERIC,
                 "broken, position 3");
    qs_mem_free(bad);
    qs_token_scores_free(&scores);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_kl_hand),
        cmocka_unit_test(test_quality_hand),
        cmocka_unit_test(test_quality_edges),
        cmocka_unit_test_setup_teardown(test_scores_against_golden, setup, teardown),
        cmocka_unit_test_setup_teardown(test_logits, setup, teardown),
        cmocka_unit_test_setup_teardown(test_scorer_refuses, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
