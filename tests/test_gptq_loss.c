/* The loss that GPTQ finds on its way, against the one measured with second moments. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>

#include "quant/loss.h"
#include "tests/solver_fixture.h"

/* The compensation identity gives the loss on the way; measured with H it is the same, in how many panels and in which
 * order ever. With dead inputs, which damping weighs too, it is measured. */
static void check_found(bool dead, int64_t whole_panel)
{
    static const char *const specs[] = {
        "gptq:bits=4,group=64", "gptq:bits=2,group=-1,sym=0", "gptq:bits=3,group=64,act=1",
        "gptq:bits=8,group=128,act=1,static=1", "gptq:bits=3,group=32,damp=0.2",
    };
    enum { N_OUT = 70, N_IN = 700 };
    float *gram = data_gram(N_IN, 800, 21), *w = data_normal(N_OUT * N_IN, 22, 0.05f);
    int64_t at = 0;
    for (int64_t i = 0; i < N_IN; i++)
        for (int64_t j = i; j < N_IN; j++, at++)
            if (dead && (i == 5 || j == 5 || i == 600 || j == 600)) gram[at] = 0;
    qs_workspace_set_whole_panel(workspace, whole_panel);
    qs_factor_cache *factors;
    assert_int_equal(qs_factor_cache_create(&factors, workspace, gram, N_IN, 800, "t"), QS_OK);
    for (size_t i = 0; i < sizeof specs / sizeof *specs; i++) {
        qs_spec spec = parse(specs[i]);
        qs_quant_job job = {
            .name = "m", .weights = w, .n_out = N_OUT, .n_in = N_IN, .factors = factors, .backend = backend};
        qs_quant_result found;
        qs_quant_task task = {.spec = &spec, .job = &job, .out = &found};
        assert_int_equal(qs_quant_solve(workspace, &task, 1), QS_OK);
        assert_true(found.known.form > 0);
        qs_quant_result measured = found;
        measured.known.form = 0;
        task.out = &measured;
        assert_int_equal(qs_loss_measure(workspace, &task, 1), QS_OK);
        if (!(fabs(found.loss - measured.loss) <= (dead ? 0 : 1e-5) * measured.loss))
            fail_msg("%s: %.9g on the way, %.9g measured", specs[i], found.loss, measured.loss);
        assert_true(fabs(found.weight_error - measured.weight_error) <= 1e-12 * measured.weight_error);
        qs_packed_free(&found.packed);
    }
    qs_factor_cache_destroy(factors);
    free(gram);
    free(w);
}

static void test_loss_found_on_the_way(void **state)
{
    (void)state;
    check_found(false, QS_WHOLE_PANEL);
    check_found(false, 512);
    check_found(true, 512);
}

/* Where damping is nearly all of the form, the rest is measured: inputs of one direction alone, which errors avoid. */
static void test_loss_measured_where_damping_rules(void **state)
{
    (void)state;
    enum { N_OUT = 20, N_IN = 64 };
    float *gram = data_gram(N_IN, 1, 23), *w = data_normal(N_OUT * N_IN, 24, 0.05f);
    qs_factor_cache *factors;
    assert_int_equal(qs_factor_cache_create(&factors, workspace, gram, N_IN, 1, "t"), QS_OK);
    qs_spec spec = parse("gptq:bits=4,group=32,damp=1");
    qs_quant_job job = {
        .name = "m", .weights = w, .n_out = N_OUT, .n_in = N_IN, .factors = factors, .backend = backend};
    qs_quant_result r;
    qs_quant_task task = {.spec = &spec, .job = &job, .out = &r};
    assert_int_equal(qs_quant_solve(workspace, &task, 1), QS_OK);
    assert_true(r.damping > 0 && r.known.form == 0 && r.loss > 0 && r.loss < 0.01);
    qs_packed_free(&r.packed);
    qs_factor_cache_destroy(factors);
    free(gram);
    free(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_loss_found_on_the_way),
        cmocka_unit_test(test_loss_measured_where_damping_rules),
    };
    return cmocka_run_group_tests_name("gptq_loss", tests, solver_start, solver_stop);
}
