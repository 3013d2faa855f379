/* Forward and backward pass: gradients against torch autograd (stored) and against differences of the loss;
 * packing, lanes and threads change nothing; NaN and divergence have names. Demands: issue "A model of our
 * own" (gradients checked, same bytes for 1 and 2 threads), checklist B6. */
#include "train_fixture.h"

#include <math.h>

#define NEAR(value, wanted, bound) assert_true(fabs((double)(value) - (double)(wanted)) <= (bound))

/* Largest difference over the tensor's largest magnitude, worst over tensors. */
static double worst_difference(const qs_train_layout *layout, const float *a, const float *b)
{
    double worst = 0;
    for (int64_t i = 0; i < layout->n_tensors; i++) {
        const qs_train_tensor *t = &layout->tensors[i];
        double largest = 0, difference = 0;
        for (int64_t k = t->first; k < t->first + t->n_out * t->n_in; k++) {
            largest = fmax(largest, fabs((double)b[k]));
            difference = fmax(difference, fabs((double)a[k] - b[k]));
        }
        worst = fmax(worst, difference / largest);
    }
    return worst;
}

static void check_against_torch(qs_trainer_options options, int64_t n_rows, double loss_bound, double bound)
{
    train_fixture f;
    qs_step_report report;
    fixture_open(&f);
    fixture_fill(&f, n_rows, options.n_ctx);
    qs_trainer *trainer = fixture_trainer(&f, &options);
    float *wanted;
    OK(QS_NEW(wanted, f.layout.n, "gradient"));
    fixture_read(&f, "grad:", wanted);
    OK(qs_trainer_gradient_step(trainer, &f.batch, 1, &report));
    if (fabs(report.mean - f.loss) > loss_bound) fail_msg("loss %.9f, torch %.9f", report.mean, f.loss);
    double worst = worst_difference(&f.layout, qs_trainer_gradient(trainer), wanted);
    print_message("%s: loss %.7f, torch %.7f, gradients differ by %.2e\n", qs_trainer_describe(trainer),
                  report.mean, f.loss, worst);
    assert_true(worst < bound);
    double squares = 0;
    for (int64_t i = 0; i < f.layout.n; i++) squares += (double)wanted[i] * wanted[i];
    assert_true(fabs(report.gradient_norm / sqrt(squares) - 1) < bound);
    qs_mem_free(wanted);
    qs_trainer_destroy(trainer);
    fixture_close(&f);
}

static void test_gradients_of_torch(void **state)
{
    (void)state;
    qs_trainer_options options = fixture_options();
    options.reference_kernels = true;
    check_against_torch(options, 3, 1e-6, 1e-5);
    options.reference_kernels = false;
    check_against_torch(options, 3, 1e-6, 1e-5);
    options.n_ctx = 192; /* other rows, other blocks, the same numbers */
    check_against_torch(options, 2, 1e-6, 1e-5);
    check_against_torch(options, 4, 1e-6, 1e-5); /* with an empty row */
}

static void test_gradients_in_bf16(void **state)
{
    (void)state;
    qs_trainer_options options = fixture_options();
    qs_product_engine *engine;
    options.compute = QS_COMPUTE_BF16;
    if (qs_product_engine_create(&engine, 1, QS_COMPUTE_BF16) == QS_E_UNSUPPORTED) {
        print_message("skipped: this CPU has no bf16 products\n");
        skip();
    }
    qs_product_engine_destroy(engine);
    /* bf16 has 8 bits: each product's inputs are off by up to 0.4 %. */
    check_against_torch(options, 3, 2e-3, 4e-2);
}

/* The derivative along random directions, one tensor at a time, by central differences of the loss. */
static void test_gradients_by_differences(void **state)
{
    (void)state;
    train_fixture f;
    qs_step_report report;
    qs_train_loss up, down;
    qs_trainer_options options = fixture_options();
    fixture_open(&f);
    fixture_fill(&f, 3, options.n_ctx);
    qs_trainer *trainer = fixture_trainer(&f, &options);
    float *p = qs_trainer_parameters(trainer), *start;
    OK(QS_NEW(start, f.layout.n, "parameters"));
    memcpy(start, p, (size_t)f.layout.n * sizeof *p);
    OK(qs_trainer_gradient_step(trainer, &f.batch, 1, &report));
    const float *g = qs_trainer_gradient(trainer);
    for (int64_t i = 0; i < f.layout.n_tensors; i++) {
        const qs_train_tensor *t = &f.layout.tensors[i];
        int64_t end = t->first + t->n_out * t->n_in;
        double along = 0, norm = 0, h = 2e-3;
        /* Along the gradient itself: the largest derivative there is, so rounding matters least. */
        for (int64_t k = t->first; k < end; k++) norm += (double)g[k] * g[k];
        norm = sqrt(norm);
        for (int64_t k = t->first; k < end; k++) {
            p[k] = (float)(start[k] + h * g[k] / norm);
            along += (double)g[k] * ((double)p[k] - start[k]);
        }
        OK(qs_trainer_evaluate(trainer, &f.batch, &up));
        for (int64_t k = t->first; k < end; k++) p[k] = 2 * start[k] - p[k];
        OK(qs_trainer_evaluate(trainer, &f.batch, &down));
        memcpy(p, start, (size_t)f.layout.n * sizeof *p);
        double difference = (up.weighted - down.weighted) / f.batch.weight / 2;
        if (fabs(difference / along - 1) > 0.01)
            fail_msg("%s: %.6e by differences, %.6e", t->name, difference, along);
    }
    qs_mem_free(start);
    qs_trainer_destroy(trainer);
    fixture_close(&f);
}

/* Parameters after a few steps. */
static void train_steps(qs_trainer_options options, float *result)
{
    train_fixture f;
    qs_step_report report;
    fixture_open(&f);
    fixture_fill(&f, 4, options.n_ctx);
    qs_trainer *trainer = fixture_trainer(&f, &options);
    for (int64_t step = 1; step <= 3; step++) OK(qs_trainer_step(trainer, &f.batch, 1e-2, step, &report));
    memcpy(result, qs_trainer_parameters(trainer), (size_t)f.layout.n * sizeof *result);
    qs_trainer_destroy(trainer);
    fixture_close(&f);
}

static void test_threads(void **state)
{
    (void)state;
    float *one, *two;
    OK(QS_NEW(one, 20000, "parameters"));
    OK(QS_NEW(two, 20000, "parameters"));
    for (int bits = 8; bits <= 32; bits += 24) {
        qs_trainer_options options = fixture_options();
        options.optimizer.bits = bits;
        options.n_lanes = 4;
        train_steps(options, one);
        for (int n_threads = 2; n_threads <= 5; n_threads += 3) {
            options.n_threads = n_threads;
            train_steps(options, two);
            assert_memory_equal(one, two, 20000 * sizeof *one);
        }
    }
    qs_mem_free(one);
    qs_mem_free(two);
}

/* Hits, and examples answered whole, against the loss's own definition: a target is a hit when its
 * probability is the largest; after training on four examples all are. */
static void test_learns(void **state)
{
    (void)state;
    train_fixture f;
    qs_step_report report;
    qs_train_loss loss;
    qs_trainer_options options = fixture_options();
    options.clip = 1;
    fixture_open(&f);
    fixture_fill(&f, 3, options.n_ctx);
    qs_trainer *trainer = fixture_trainer(&f, &options);
    double first = 0;
    for (int64_t step = 1; step <= 300; step++) {
        OK(qs_trainer_step(trainer, &f.batch, 1e-2, step, &report));
        if (step == 1) first = report.mean;
    }
    OK(qs_trainer_evaluate(trainer, &f.batch, &loss));
    print_message("loss %.3f to %.3f, %lld of %lld targets, %lld of %lld examples\n", first, report.mean,
                  (long long)loss.n_hits, (long long)loss.n, (long long)loss.n_examples_hit,
                  (long long)loss.n_examples);
    assert_true(first > 3.5 && report.mean < 0.7 * first);
    assert_int_equal(loss.n, 70 + 37 + 128 + 2 + 64 - 5 - 4);
    assert_true(loss.n_hits > loss.n / 4 && loss.n_answer_hits <= loss.n_answer && loss.n_examples <= 5);
    qs_trainer_destroy(trainer);
    fixture_close(&f);
}

static void test_nonfinite(void **state)
{
    (void)state;
    train_fixture f;
    qs_step_report report;
    qs_trainer_options options = fixture_options();
    fixture_open(&f);
    fixture_fill(&f, 3, options.n_ctx);
    qs_trainer *trainer = fixture_trainer(&f, &options);
    float *p = qs_trainer_parameters(trainer), saved = p[f.layout.layers[1].down + 3];
    p[f.layout.layers[1].down + 3] = NAN;
    FAILS(QS_E_NUMERIC, qs_trainer_step(trainer, &f.batch, 1e-3, 7, &report));
    TEXT_HOLDS("step 7", "row 0", "nan");
    p[f.layout.layers[1].down + 3] = saved;
    OK(qs_trainer_step(trainer, &f.batch, 1e-3, 1, &report));
    /* Losses that are finite, times a factor that is not. */
    double weight = f.batch.weight;
    f.batch.weight = 1e-40;
    FAILS(QS_E_NUMERIC, qs_trainer_step(trainer, &f.batch, 1e-3, 8, &report));
    TEXT_HOLDS("step 8", "the gradient of model.");
    f.batch.weight = weight;
    qs_trainer_destroy(trainer);

    qs_batch_clear(&f.batch);
    trainer = fixture_trainer(&f, &options);
    FAILS(QS_E_INPUT, qs_trainer_step(trainer, &f.batch, 1e-3, 1, &report));
    qs_trainer_destroy(trainer);
    fixture_close(&f);
}

static void test_guard(void **state)
{
    (void)state;
    qs_loss_guard guard = {0};
    int64_t step = 0;
    for (; step < 100; step++) OK(qs_loss_guard_add(&guard, 6 - 0.05 * (double)step, 512, step + 1));
    qs_err err = QS_OK;
    for (; err == QS_OK && step < 200; step++) err = qs_loss_guard_add(&guard, 6.2, 512, step + 1);
    assert_int_equal(err, QS_E_NUMERIC);
    TEXT_HOLDS("diverged", "--lr", "guessing gives 6.238");
    assert_true(step < 130);
    guard = (qs_loss_guard){0};
    for (step = 0; step < QS_GUARD_STEPS - 1; step++) OK(qs_loss_guard_add(&guard, 9, 512, step + 1));
    FAILS(QS_E_NUMERIC, qs_loss_guard_add(&guard, 9, 512, step + 1));
}

static void test_schedule(void **state)
{
    (void)state;
    const qs_schedule s = {.lr = 2, .last_share = 0.1, .n_warmup = 10, .n_steps = 110};
    NEAR(qs_schedule_lr(&s, 1), 0.2, 1e-12);
    NEAR(qs_schedule_lr(&s, 10), 2, 1e-12);
    NEAR(qs_schedule_lr(&s, 60), 1.1, 1e-12);
    NEAR(qs_schedule_lr(&s, 110), 0.2, 1e-12);
}

static void test_refusals(void **state)
{
    (void)state;
    train_fixture f;
    qs_trainer *trainer;
    qs_train_layout layout;
    qs_trainer_options options = fixture_options();
    fixture_open(&f);
    options.n_ctx = 100;
    FAILS(QS_E_USAGE, qs_trainer_create(&trainer, &f.layout, &options));
    qs_model_config config = f.layout.config;
    config.tied_head = false;
    FAILS(QS_E_UNSUPPORTED, qs_train_layout_init(&layout, &config));
    TEXT_HOLDS("tie_word_embeddings");
    config = f.layout.config;
    config.qkv_bias = true;
    FAILS(QS_E_UNSUPPORTED, qs_train_layout_init(&layout, &config));
    fixture_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gradients_of_torch),
        cmocka_unit_test(test_gradients_in_bf16),
        cmocka_unit_test(test_gradients_by_differences),
        cmocka_unit_test(test_threads),
        cmocka_unit_test(test_learns),
        cmocka_unit_test(test_nonfinite),
        cmocka_unit_test(test_guard),
        cmocka_unit_test(test_schedule),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, scratch_create, scratch_remove);
}
