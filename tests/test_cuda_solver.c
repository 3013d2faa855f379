/* Quantising on the device of the CUDA backend against the CPU: the same codes but for ties that sums in
 * another order decide otherwise, the same losses, the same refusals. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>

#include "backend/cuda/runtime.h"
#include "backend/solver_ops.h"
#include "base/dtype.h"
#include "quant/loss.h"
#include "quant/order.h"
#include "tests/quant_data.h"

/* Only where the device is the CPU: threads of a kernel run last to first. */
#pragma weak qs_rt_simt_set_reverse

typedef struct place {
    qs_backend *backend;
    qs_workspace *workspace;
} place;
static place cpu, gpu;

static int start(void **state)
{
    (void)state;
    if (qs_backend_create(&gpu.backend, "cuda", 0, 2) != QS_OK) {
        print_message("skipped: %s\n", qs_error_text());
        gpu.backend = NULL;
        return 0;
    }
    return qs_backend_create(&cpu.backend, "cpu", 0, 2) == QS_OK &&
                   qs_workspace_create(&cpu.workspace, cpu.backend) == QS_OK &&
                   qs_workspace_create(&gpu.workspace, gpu.backend) == QS_OK
               ? 0
               : -1;
}

static int stop(void **state)
{
    (void)state;
    if (gpu.backend == NULL) return 0;
    qs_workspace_destroy(cpu.workspace);
    qs_workspace_destroy(gpu.workspace);
    qs_backend_destroy(cpu.backend);
    qs_backend_destroy(gpu.backend);
    return 0;
}

static void need_device(void)
{
    if (gpu.backend == NULL) skip();
}

static qs_spec parse(const char *text)
{
    qs_spec spec;
    if (qs_spec_parse(&spec, text) != QS_OK) fail_msg("%s", qs_error_text());
    return spec;
}

static qs_factor_cache *make_factors(const place *at, const float *gram, int64_t n_in, int64_t n_tokens)
{
    qs_factor_cache *cache;
    if (qs_factor_cache_create(&cache, at->workspace, gram, n_in, n_tokens, "test") != QS_OK)
        fail_msg("%s", qs_error_text());
    return cache;
}

static qs_quant_result solve(const place *at, const char *text, const float *w, int64_t n_out, int64_t n_in,
                             qs_factor_cache *factors)
{
    qs_spec spec = parse(text);
    qs_quant_result result;
    qs_quant_job job =
        {.name = "m", .weights = w, .n_out = n_out, .n_in = n_in, .factors = factors, .backend = at->backend};
    qs_quant_task task = {.spec = &spec, .job = &job, .out = &result};
    if (qs_quant_solve(at->workspace, &task, 1) != QS_OK) fail_msg("%s", qs_error_text());
    return result;
}

/* With second moments, as the GPU does; the solver of the CPU found the loss on its way (tests/test_gptq_loss.c). */
static void measure_loss(const place *at, const char *text, const float *w, qs_factor_cache *factors,
                         qs_quant_result *result)
{
    qs_spec spec = parse(text);
    qs_quant_job job = {.name = "m", .weights = w, .n_out = result->packed.n_out, .n_in = result->packed.n_in,
                        .factors = factors, .backend = at->backend};
    result->known.form = 0;
    if (qs_loss_measure(at->workspace, &(qs_quant_task){.spec = &spec, .job = &job, .out = result}, 1) != QS_OK)
        fail_msg("%s", qs_error_text());
}

/* One tie decided otherwise changes the rest of its row. So the limit of one code in a thousand is for all
 * cases together; a case alone may have one such row beside that, and its loss may differ by as much as such
 * rows weigh. */
static int64_t n_all_codes, n_different_codes;

static int64_t count_different_codes(const qs_packed *p, const qs_packed *q, int64_t *n_rows)
{
    uint8_t *a = malloc((size_t)p->n_in), *b = malloc((size_t)p->n_in);
    int64_t n = 0;
    *n_rows = 0;
    for (int64_t row = 0; row < p->n_out; row++) {
        int64_t before = n;
        qs_packed_get_row(p, row, a);
        qs_packed_get_row(q, row, b);
        for (int64_t j = 0; j < p->n_in; j++) n += a[j] != b[j];
        *n_rows += n > before;
    }
    free(a);
    free(b);
    return n;
}

static int64_t count_codes(const qs_packed *p, const qs_packed *q)
{
    int64_t n_rows;
    return count_different_codes(p, q, &n_rows);
}

static void assert_same_shape(const qs_quant_result *a, const qs_quant_result *b)
{
    const qs_packed *p = &a->packed, *q = &b->packed;
    assert_int_equal(p->row_bytes, q->row_bytes);
    assert_int_equal(p->n_groups, q->n_groups);
    assert_int_equal(p->zeros != NULL, q->zeros != NULL);
    assert_int_equal(p->perm != NULL, q->perm != NULL);
    if (p->perm != NULL) assert_memory_equal(p->perm, q->perm, (size_t)p->n_in * 4);
    assert_int_equal(a->fallback, b->fallback);
    assert_true(a->damping == b->damping);
}

static void compare(const char *text, int64_t n_out, int64_t n_in, int64_t n_tokens)
{
    float *gram = data_gram(n_in, n_tokens, 21), *w = data_normal(n_out * n_in, 23, 0.05f);
    qs_factor_cache *on_cpu = make_factors(&cpu, gram, n_in, n_tokens),
                    *on_gpu = make_factors(&gpu, gram, n_in, n_tokens);
    qs_quant_result a = solve(&cpu, text, w, n_out, n_in, on_cpu),
                    b = solve(&gpu, text, w, n_out, n_in, on_gpu);
    assert_same_shape(&a, &b);
    if (qs_packed_check(&b.packed, text) != QS_OK) fail_msg("%s", qs_error_text());
    int64_t n_rows, n_codes = count_different_codes(&a.packed, &b.packed, &n_rows), n_scales = 0,
                    n_groups = a.packed.scales != NULL ? n_out * a.packed.n_groups : 0;
    for (int64_t i = 0; i < n_groups; i++) {
        n_scales += a.packed.scales[i] != b.packed.scales[i];
        if (a.packed.zeros != NULL) n_scales += a.packed.zeros[i] != b.packed.zeros[i];
    }
    print_message("%s, %lld x %lld: %lld codes and %lld scales differ, loss %.6g and %.6g\n", text,
                  (long long)n_out, (long long)n_in, (long long)n_codes, (long long)n_scales, a.loss, b.loss);
    double limit = n_rows == 0 ? 1e-5 : 1e-3 + (double)n_rows / (double)n_out;
    measure_loss(&cpu, text, w, on_cpu, &a);
    assert_true(fabs(a.loss - b.loss) <= limit * a.loss);
    assert_true(fabs(a.weight_error - b.weight_error) <= limit * a.weight_error);
    assert_true(n_codes <= n_in + n_out * n_in / 1000);
    n_all_codes += n_out * n_in;
    n_different_codes += n_codes;
    qs_packed_free(&a.packed);
    qs_packed_free(&b.packed);
    qs_factor_cache_destroy(on_cpu);
    qs_factor_cache_destroy(on_gpu);
    free(gram);
    free(w);
}

static const struct {
    const char *text;
    int n_out, n_in, n_tokens;
} cases[] = {
    {"gptq:bits=4,group=32", 70, 160, 500},
    {"gptq:bits=3,group=64,sym=0,gar=0", 70, 160, 500}, /* ragged: 64, 64, 32 */
    {"gptq:bits=4,group=48", 40, 170, 500}, /* group-aware, ragged panels and group */
    {"gptq:bits=4,group=32,search=0,gar=0", 64, 160, 100}, /* rank deficient */
    {"gptq:bits=2,group=16,act=1", 33, 150, 500},
    {"gptq:bits=3,group=16,sym=0,search=0", 31, 144, 500},
    {"gptq:bits=4,group=32,act=1,static=1,sym=0", 70, 165, 500},
    {"gptq:bits=8,group=-1,act=1", 20, 160, 500},
    {"gptq:bits=4,group=-1,damp=0.1,sym=0", 32, 130, 500},
    {"gptq:bits=4,group=64", 66, 390, 500},
    {"gptq:bits=4,group=128", 40, 320, 500},
    {"gptq:bits=2,group=128,sym=0,act=1", 20, 300, 500},
    {"gptq:bits=4,group=200,gar=0", 20, 330, 500}, /* groups wider than a panel */
    {"gptq:bits=3,group=150,sym=0", 20, 310, 500},
    {"gptq:bits=4,group=130,act=1,search=0", 20, 300, 500},
    {"gptq:bits=3,group=128,act=1,static=1", 20, 300, 500},
    {"gptq:bits=8,group=7,gar=0", 5, 50, 100},
    {"gptq:bits=4,group=1,gar=0,search=0", 3, 37, 100},
    {"rtn:bits=4,group=64", 70, 200, 100},
    {"rtn:bits=3,group=48,sym=0,search=1", 70, 333, 100},
    {"rtn:bits=2,group=-1,search=1", 40, 333, 100},
    {"rtn:bits=8,group=200,sym=0,search=1", 33, 450, 100},
    {"rtn:bits=4,group=1", 1, 1, 1},
    {"nf4", 40, 170, 100}, /* on the host, whatever the backend; losses on the device */
    {"fp4:block=32,dq=0,compute=fp32", 33, 150, 100},
    {"int8", 20, 160, 100},
};

static void compare_all(int n_in_max)
{
    n_all_codes = n_different_codes = 0;
    assert_non_null(qs_backend_solver(gpu.backend));
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        if (cases[i].n_in <= n_in_max)
            compare(cases[i].text, cases[i].n_out, cases[i].n_in, cases[i].n_tokens);
    print_message("%lld of %lld codes differ\n", (long long)n_different_codes, (long long)n_all_codes);
    assert_true(n_different_codes * 1000 <= n_all_codes);
}

static void test_like_cpu(void **state)
{
    (void)state;
    need_device();
    compare_all(INT32_MAX);
}

static void test_like_cpu_reversed(void **state)
{
    (void)state;
    need_device();
    if (qs_rt_simt_set_reverse == NULL) skip(); /* a real device has no such switch */
    qs_rt_simt_set_reverse(true);
    compare_all(200);
    qs_rt_simt_set_reverse(false);
}

/* U against the CPU's, where every leaf is the same f64 arithmetic; relative to its largest element. */
static void check_factor(int64_t n, int64_t n_tokens, bool permuted)
{
    float *gram = data_gram(n, n_tokens, 11), *copy = malloc((size_t)(n * n) * sizeof *copy);
    qs_factor_cache *on_cpu = make_factors(&cpu, gram, n, n_tokens),
                    *on_gpu = make_factors(&gpu, gram, n, n_tokens);
    const float *u, *device_u;
    double used[2], most = 0, worst = 0;
    int32_t order[400];
    assert_memory_equal(qs_factor_diag(on_cpu), qs_factor_diag(on_gpu), (size_t)n * sizeof(float));
    assert_true(qs_factor_diag_mean(on_cpu) == qs_factor_diag_mean(on_gpu));
    assert_int_equal(
        qs_backend_download(gpu.backend, copy, qs_factor_h(on_gpu), (size_t)(n * n) * sizeof *copy), QS_OK);
    assert_memory_equal(copy, qs_factor_h(on_cpu), (size_t)(n * n) * sizeof *copy);
    assert_int_equal(qs_order_act(qs_factor_diag(on_cpu), n, order), QS_OK);
    assert_int_equal(qs_factor_get(on_cpu, permuted ? order : NULL, 0.01, &u, &used[0]), QS_OK);
    assert_int_equal(qs_factor_get(on_gpu, permuted ? order : NULL, 0.01, &device_u, &used[1]), QS_OK);
    assert_true(used[0] == used[1]);
    assert_int_equal(qs_backend_download(gpu.backend, copy, device_u, (size_t)(n * n) * sizeof *copy), QS_OK);
    for (int64_t i = 0; i < n * n; i++) {
        most = fmax(most, fabs(u[i]));
        worst = fmax(worst, fabs(u[i] - copy[i]));
        if (i % n < i / n) assert_true(copy[i] == 0);
    }
    print_message("n %lld: factors differ by %.2g of their largest element\n", (long long)n, worst / most);
    assert_true(worst <= 1e-4 * most);
    assert_int_equal(qs_factor_get(on_gpu, permuted ? order : NULL, 0.01, &u, &used[1]), QS_OK);
    assert_ptr_equal(u, device_u); /* not computed twice */
    qs_factor_cache_destroy(on_cpu);
    qs_factor_cache_destroy(on_gpu);
    free(gram);
    free(copy);
}

static void test_factor(void **state)
{
    (void)state;
    need_device();
    check_factor(1, 4, false);
    check_factor(63, 200, true);
    check_factor(64, 200, false);
    check_factor(65, 200, true);
    check_factor(200, 90, true); /* rank deficient: the damping carries it */
    check_factor(330, 400, false);
}

/* What needs more damping gets as much as on the CPU; where none helps both fall back. */
static void test_fallback(void **state)
{
    (void)state;
    need_device();
    float w[64], *raised = data_identity_gram(32, 1), *hopeless = data_identity_gram(32, 1);
    for (int i = 0; i < 64; i++) w[i] = (float)qs_rng_normal(1, (uint64_t)i);
    raised[1] = 1.1f;
    hopeless[1] = 1e5f;
    qs_factor_cache *factors = make_factors(&gpu, raised, 32, 1), *on_cpu = make_factors(&cpu, raised, 32, 1);
    qs_quant_result r = solve(&gpu, "gptq:group=16", w, 2, 32, factors),
                    like = solve(&cpu, "gptq:group=16", w, 2, 32, on_cpu);
    assert_same_shape(&r, &like);
    assert_true(r.damping > 0.1);
    qs_packed_free(&r.packed);
    qs_packed_free(&like.packed);
    assert_int_equal(qs_factor_cache_load(factors, hopeless, 1, "t"), QS_OK);
    r = solve(&gpu, "gptq:group=16,act=1,search=0", w, 2, 32, factors);
    like = solve(&cpu, "rtn:group=16", w, 2, 32, NULL);
    assert_true(r.fallback && r.damping == 0);
    assert_int_equal(count_codes(&r.packed, &like.packed), 0);
    qs_packed_free(&r.packed);
    qs_packed_free(&like.packed);
    hopeless[0] = NAN;
    assert_int_equal(qs_factor_cache_load(factors, hopeless, 1, "t"), QS_E_NUMERIC);
    qs_factor_cache_destroy(factors);
    qs_factor_cache_destroy(on_cpu);
    free(raised);
    free(hopeless);
}

/* A matrix on the lattice has no error at all. */
static void test_representable_is_exact(void **state)
{
    (void)state;
    need_device();
    enum { N_OUT = 40, N_IN = 300 };
    float *w = malloc(sizeof *w * N_OUT * N_IN), *q = malloc(sizeof *q * N_OUT * N_IN),
          *gram = data_gram(N_IN, 300, 31);
    for (int i = 0; i < N_OUT * N_IN; i++) {
        int at = i % N_IN % 50, code = at == 0 ? 0 : at == 1 ? 15 : (int)qs_rng_below(3, (uint64_t)i, 16);
        w[i] = (float)(code - 5) * 0.03125f;
    }
    qs_factor_cache *factors = make_factors(&gpu, gram, N_IN, 300);
    qs_quant_result r = solve(&gpu, "gptq:bits=4,group=50,sym=0,search=0", w, N_OUT, N_IN, factors);
    qs_packed_dequant_rows(&r.packed, 0, N_OUT, q);
    for (int i = 0; i < N_OUT * N_IN; i++) assert_true(w[i] == q[i]);
    assert_true(r.loss == 0);
    qs_packed_free(&r.packed);
    qs_factor_cache_destroy(factors);
    free(gram);
    free(w);
    free(q);
}

static const char *const many[] = {"gptq:bits=4,group=64", "rtn:bits=4,group=64",
                                   "gptq:bits=3,group=64,act=1", "rtn:bits=3,group=-1,search=1",
                                   "gptq:bits=8,group=128,act=1,static=1"};
enum { N_MANY = sizeof many / sizeof *many, N_JOBS = 3 };

/* Several matrices and specs in one call give what each gives alone, bit by bit. */
static void test_many_equal_each_alone(void **state)
{
    (void)state;
    need_device();
    enum { N_IN = 200 };
    static const int64_t n_outs[N_JOBS] = {66, 20, 40};
    float *gram = data_gram(N_IN, 400, 12), *w[N_JOBS];
    qs_factor_cache *factors = make_factors(&gpu, gram, N_IN, 400);
    qs_quant_job jobs[N_JOBS];
    qs_spec specs[N_MANY];
    qs_quant_result results[N_JOBS * N_MANY];
    qs_quant_task tasks[N_JOBS * N_MANY];
    for (int m = 0; m < N_JOBS; m++) {
        w[m] = data_normal(n_outs[m] * N_IN, (uint64_t)m + 50, 0.03f);
        jobs[m] = (qs_quant_job){.name = "m",
                                 .weights = w[m],
                                 .n_out = n_outs[m],
                                 .n_in = N_IN,
                                 .factors = factors,
                                 .backend = gpu.backend};
        for (int s = 0; s < N_MANY; s++) {
            specs[s] = parse(many[s]);
            tasks[m * N_MANY + s] =
                (qs_quant_task){.spec = &specs[s], .job = &jobs[m], .out = &results[m * N_MANY + s]};
        }
    }
    if (qs_quant_solve(gpu.workspace, tasks, N_JOBS * N_MANY) != QS_OK) fail_msg("%s", qs_error_text());
    for (int i = 0; i < N_JOBS * N_MANY; i++) {
        const qs_packed *p = &results[i].packed;
        qs_quant_result alone =
            solve(&gpu, many[i % N_MANY], w[i / N_MANY], n_outs[i / N_MANY], N_IN, factors);
        assert_memory_equal(p->codes, alone.packed.codes, (size_t)(p->n_out * p->row_bytes));
        assert_memory_equal(p->scales, alone.packed.scales, (size_t)(p->n_out * p->n_groups) * 2);
        assert_true(results[i].loss == alone.loss && results[i].weight_error == alone.weight_error);
        qs_packed_free(&alone.packed);
        qs_packed_free(&results[i].packed);
    }
    qs_factor_cache_destroy(factors);
    for (int m = 0; m < N_JOBS; m++) free(w[m]);
    free(gram);
}

static int64_t buffer_bytes_after(qs_workspace *workspace, const char *const *texts, int n, const float *gram,
                                  const float *w)
{
    enum { N_OUT = 8, N_IN = 128, N_MAX = 8 };
    qs_spec specs[N_MAX];
    qs_quant_result results[N_MAX];
    qs_quant_task tasks[N_MAX];
    qs_backend_memory memory;
    qs_factor_cache *factors;
    assert_int_equal(qs_factor_cache_create(&factors, workspace, gram, N_IN, 300, "test"), QS_OK);
    qs_quant_job job =
        {.name = "m", .weights = w, .n_out = N_OUT, .n_in = N_IN, .factors = factors, .backend = gpu.backend};
    for (int i = 0; i < n; i++) {
        specs[i] = parse(texts[i]);
        tasks[i] = (qs_quant_task){.spec = &specs[i], .job = &job, .out = &results[i]};
    }
    if (qs_quant_solve(workspace, tasks, n) != QS_OK) fail_msg("%s", qs_error_text());
    qs_backend_get_memory(gpu.backend, &memory);
    for (int i = 0; i < n; i++) qs_packed_free(&results[i].packed);
    qs_factor_cache_destroy(factors);
    return (int64_t)memory.buffer_bytes;
}

/* A grid of many orders and dampings takes no more of the device than one point. */
static void test_one_factor_at_a_time(void **state)
{
    (void)state;
    need_device();
    static const char *const texts[] = {
        "gptq:bits=4,group=32", "gptq:bits=4,group=64",           "gptq:bits=4,group=32,act=1",
        "gptq:bits=3,group=32", "gptq:bits=4,group=32,damp=0.05", "gptq:bits=4,group=32,gar=0",
    };
    float *gram = data_gram(128, 300, 5), *w = data_normal(8 * 128, 6, 0.05f);
    qs_workspace *workspace;
    assert_int_equal(qs_workspace_create(&workspace, gpu.backend), QS_OK);
    int64_t one = buffer_bytes_after(workspace, texts, 1, gram, w),
            all = buffer_bytes_after(workspace, texts, sizeof texts / sizeof *texts, gram, w);
    assert_int_equal(one, all);
    qs_workspace_destroy(workspace);
    free(gram);
    free(w);
}

/* The host's weights may change between two calls, at the same address. */
static void test_weights_change(void **state)
{
    (void)state;
    need_device();
    float w[2 * 32];
    for (int i = 0; i < 64; i++) w[i] = (float)qs_rng_normal(1, (uint64_t)i);
    qs_quant_result first = solve(&gpu, "rtn:group=16", w, 2, 32, NULL);
    for (int i = 0; i < 64; i++) w[i] = (float)qs_rng_normal(2, (uint64_t)i);
    qs_quant_result second = solve(&gpu, "rtn:group=16", w, 2, 32, NULL),
                    like = solve(&cpu, "rtn:group=16", w, 2, 32, NULL);
    assert_true(count_codes(&first.packed, &second.packed) > 0);
    assert_int_equal(count_codes(&like.packed, &second.packed), 0);
    assert_true(fabs(like.loss - second.loss) <= 1e-9);
    qs_packed_free(&first.packed);
    qs_packed_free(&second.packed);
    qs_packed_free(&like.packed);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_like_cpu),
        cmocka_unit_test(test_like_cpu_reversed),
        cmocka_unit_test(test_factor),
        cmocka_unit_test(test_fallback),
        cmocka_unit_test(test_representable_is_exact),
        cmocka_unit_test(test_many_equal_each_alone),
        cmocka_unit_test(test_one_factor_at_a_time),
        cmocka_unit_test(test_weights_change),
    };
    return cmocka_run_group_tests_name("cuda_solver", tests, start, stop);
}
