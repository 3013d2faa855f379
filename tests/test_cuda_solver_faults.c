/* Quantising on the CUDA backend's device when memory runs out or the device fails. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "backend/cuda/runtime.h"
#include "quant/methods.h"
#include "tests/quant_data.h"

enum { N_OUT = 40, N_IN = 96 };

static qs_backend *cpu, *gpu;

static int start(void **state)
{
    (void)state;
    if (qs_backend_create(&gpu, "cuda", 0, 2) != QS_OK) {
        print_message("skipped: %s\n", qs_error_text());
        return 0;
    }
    return qs_backend_create(&cpu, "cpu", 0, 2) == QS_OK ? 0 : -1;
}

static int stop(void **state)
{
    (void)state;
    qs_backend_destroy(cpu);
    qs_backend_destroy(gpu);
    return 0;
}

static void need_device(void)
{
    if (gpu == NULL) skip();
}

static qs_spec spec_of(const char *text)
{
    qs_spec spec;
    if (qs_spec_parse(&spec, text) != QS_OK) fail_msg("%s", qs_error_text());
    return spec;
}

/* All steps from second moments to codes with memory of its own; the first failure. */
static qs_err solve_anew(qs_backend *backend, const float *gram, const float *w, qs_quant_result *out)
{
    qs_workspace *workspace = NULL;
    qs_factor_cache *factors = NULL;
    qs_spec spec = spec_of("gptq:bits=4,group=32,act=1,sym=0");
    qs_quant_job job = {.name = "m", .weights = w, .n_out = N_OUT, .n_in = N_IN, .backend = backend};
    qs_quant_task task = {.spec = &spec, .job = &job, .out = out};
    qs_err err;
    QS_TRY(qs_workspace_create(&workspace, backend));
    QS_TRY(qs_factor_cache_create(&factors, workspace, gram, N_IN, 300, "test"));
    job.factors = factors;
    err = qs_quant_solve(workspace, &task, 1);
    /* What failed half-way is no trap for the next call. */
    if (err != QS_OK) assert_int_equal(qs_quant_solve(workspace, &task, 1), err);
out:
    qs_factor_cache_destroy(factors);
    qs_workspace_destroy(workspace);
    return err;
}

static void check_like_cpu(const float *gram, const float *w, qs_quant_result *r)
{
    qs_quant_result like;
    uint8_t a[N_IN], b[N_IN];
    int n = 0;
    assert_int_equal(solve_anew(cpu, gram, w, &like), QS_OK);
    for (int64_t row = 0; row < N_OUT; row++) {
        qs_packed_get_row(&r->packed, row, a);
        qs_packed_get_row(&like.packed, row, b);
        for (int64_t j = 0; j < N_IN; j++) n += a[j] != b[j];
    }
    assert_true(n <= 2 * N_IN); /* a tie decided otherwise changes the rest of its row */
    qs_packed_free(&like.packed);
    qs_packed_free(&r->packed);
}

/* With less memory than it takes: an error wherever it strikes, nothing lost, and success once there is
 * enough. */
static void test_out_of_memory(void **state)
{
    (void)state;
    need_device();
    enum { STEP = 10000 };
    float *gram = data_gram(N_IN, 300, 5), *w = data_normal(N_OUT * N_IN, 6, 0.05f);
    qs_backend_memory before, after;
    qs_quant_result r;
    int n_failures = 0;
    qs_backend_get_memory(gpu, &before);
    qs_err err;
    for (size_t budget = before.used_bytes + 1;; budget += STEP, n_failures++) {
        assert_int_equal(qs_backend_set_budget(gpu, budget), QS_OK);
        err = solve_anew(gpu, gram, w, &r);
        if (err == QS_OK) break;
        assert_int_equal(err, QS_E_RESOURCE);
        qs_backend_get_memory(gpu, &after);
        assert_int_equal(after.buffer_bytes, before.buffer_bytes);
    }
    assert_int_equal(qs_backend_set_budget(gpu, 0), QS_OK);
    assert_true(n_failures > 5);
    check_like_cpu(gram, w, &r);
    free(gram);
    free(w);
}

static void test_failed_launches(void **state)
{
    (void)state;
    need_device();
    if (strcmp(qs_rt_architectures(), "cpu") != 0) {
        print_message("skipped: failures can be provoked on the pretended device alone\n");
        skip();
    }
    float *gram = data_gram(N_IN, 300, 5), *w = data_normal(N_OUT * N_IN, 6, 0.05f);
    qs_quant_result r;
    int64_t n_launches = 0;
    for (;; n_launches++) {
        qs_rt_simt_fail_launch(n_launches, QS_RT_LAUNCH_FAILURE);
        qs_err err = solve_anew(gpu, gram, w, &r);
        qs_rt_simt_fail_launch(0, QS_RT_OK);
        if (err == QS_OK) break;
        assert_int_equal(err, QS_E_DEVICE);
    }
    assert_true(n_launches > 10);
    check_like_cpu(gram, w, &r);
    free(gram);
    free(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_out_of_memory),
        cmocka_unit_test(test_failed_launches),
    };
    return cmocka_run_group_tests_name("cuda_solver_faults", tests, start, stop);
}
