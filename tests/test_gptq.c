/* GPTQ: against a plain column-by-column f64 implementation, by identities, and for every order. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>

#include "quant/order.h"
#include "quant/scale.h"
#include "tests/sanitized.h"
#include "tests/solver_fixture.h"

static int start(void **state)
{
    if (solver_start(state) != 0) return -1;
    qs_workspace_set_whole_panel(workspace, 512); /* so that 640 columns are two panels */
    return 0;
}

static void assert_same_codes(const qs_quant_result *a, const qs_quant_result *b)
{
    const qs_packed *p = &a->packed, *q = &b->packed;
    assert_int_equal(p->n_out, q->n_out);
    assert_int_equal(p->row_bytes, q->row_bytes);
    assert_memory_equal(p->codes, q->codes, (size_t)(p->n_out * p->row_bytes));
    assert_memory_equal(p->scales, q->scales, (size_t)(p->n_out * p->n_groups) * 2);
    assert_int_equal(p->zeros != NULL, q->zeros != NULL);
    assert_int_equal(p->perm != NULL, q->perm != NULL);
    if (p->zeros != NULL) assert_memory_equal(p->zeros, q->zeros, (size_t)(p->n_out * p->n_groups));
    if (p->perm != NULL) assert_memory_equal(p->perm, q->perm, (size_t)p->n_in * 4);
    assert_true(fabs(a->weight_error - b->weight_error) <= 1e-12 * b->weight_error && a->damping == b->damping);
}

static void assert_same(const qs_quant_result *a, const qs_quant_result *b)
{
    assert_same_codes(a, b);
    assert_true(a->loss == b->loss && a->weight_error == b->weight_error);
}

static qs_factor_cache *make_factors(int64_t n_in, int64_t n_tokens, uint64_t key)
{
    float *gram = data_gram(n_in, n_tokens, key);
    qs_factor_cache *cache;
    assert_int_equal(qs_factor_cache_create(&cache, workspace, gram, n_in, n_tokens, "test"), QS_OK);
    free(gram);
    return cache;
}

/* ---- the plain implementation: f64, one column at a time, no blocks ---- */

/* Upper U with inv(a) = U^T U, by Gauss-Jordan and a textbook Cholesky. */
static double *plain_factor(const double *a, int64_t n)
{
    double *m = malloc((size_t)(n * n) * sizeof *m), *inv = calloc((size_t)(n * n), sizeof *inv);
    double *u = calloc((size_t)(n * n), sizeof *u);
    memcpy(m, a, (size_t)(n * n) * sizeof *m);
    for (int64_t i = 0; i < n; i++) inv[i * n + i] = 1;
    for (int64_t k = 0; k < n; k++) {
        double pivot = m[k * n + k];
        for (int64_t j = 0; j < n; j++) {
            m[k * n + j] /= pivot;
            inv[k * n + j] /= pivot;
        }
        for (int64_t i = 0; i < n; i++) {
            double factor = m[i * n + k];
            if (i == k || factor == 0) continue;
            for (int64_t j = 0; j < n; j++) {
                m[i * n + j] -= factor * m[k * n + j];
                inv[i * n + j] -= factor * inv[k * n + j];
            }
        }
    }
    for (int64_t i = 0; i < n; i++) { /* inv = U^T U: row i of U from the rows above */
        for (int64_t j = i; j < n; j++) {
            double sum = inv[i * n + j];
            for (int64_t k = 0; k < i; k++) sum -= u[k * n + i] * u[k * n + j];
            u[i * n + j] = j == i ? sqrt(sum) : sum / u[i * n + i];
        }
    }
    free(m);
    free(inv);
    return u;
}

typedef struct plain_result {
    int *codes;           /* [n_out, n_in] by column */
    float *scales, *zeros; /* [n_out, n_in]: of each weight */
} plain_result;

static void plain_scale(const qs_spec *spec, const double *live, const int32_t *columns, int64_t n,
                        const double *diag, float *scale, float *zero)
{
    float x[1024], weight[1024];
    for (int64_t i = 0; i < n; i++) {
        x[i] = (float)live[columns[i]];
        weight[i] = (float)diag[columns[i]];
    }
    qs_scale_rule rule = {.bits = (int)spec->bits, .sym = spec->sym, .search = spec->search};
    qs_scale_find(&rule, x, n, 1, weight, scale, zero);
}

static plain_result plain_gptq(const qs_spec *spec, const float *w, int64_t n_out, int64_t n_in,
                               const qs_factor_cache *factors, const int32_t *order)
{
    const float *h = qs_factor_h(factors);
    double shift = spec->damping * qs_factor_diag_mean(factors), *diag = malloc((size_t)n_in * sizeof *diag);
    double *a = malloc((size_t)(n_in * n_in) * sizeof *a), *live = malloc((size_t)n_in * sizeof *live);
    int64_t group = spec->group_size > 0 ? spec->group_size : n_in;
    bool fixed = spec->static_groups || spec->group_size < 0;
    plain_result r = {malloc((size_t)(n_out * n_in) * sizeof *r.codes),
                      malloc((size_t)(n_out * n_in) * sizeof *r.scales),
                      malloc((size_t)(n_out * n_in) * sizeof *r.zeros)};
    for (int64_t i = 0; i < n_in; i++) {
        diag[i] = h[i * n_in + i] + shift;
        for (int64_t j = 0; j < n_in; j++)
            a[i * n_in + j] = h[order[i] * n_in + order[j]] + (i == j ? shift : 0);
    }
    double *u = plain_factor(a, n_in);
    int32_t natural[1024];
    for (int32_t i = 0; i < n_in; i++) natural[i] = i;
    for (int64_t row = 0; row < n_out; row++) {
        float *scales = r.scales + row * n_in, *zeros = r.zeros + row * n_in, s = 0, z = 0;
        for (int64_t i = 0; i < n_in; i++) live[i] = w[row * n_in + i];
        for (int64_t g = 0; fixed && g < n_in; g += group) {
            int64_t n = n_in - g < group ? n_in - g : group;
            plain_scale(spec, live, natural + g, n, diag, &s, &z);
            for (int64_t i = g; i < g + n; i++) scales[i] = s, zeros[i] = z;
        }
        for (int64_t i = 0; i < n_in; i++) {
            int64_t column = order[i];
            if (!fixed && i % group == 0)
                plain_scale(spec, live, order + i, n_in - i < group ? n_in - i : group, diag, &s, &z);
            if (!fixed) scales[column] = s, zeros[column] = z;
            double scale = scales[column], zero = zeros[column], maxq = (double)((1 << spec->bits) - 1);
            double code = fmin(fmax(rint(live[column] / scale), -zero), maxq - zero);
            double error = (live[column] - scale * code) / u[i * n_in + i];
            r.codes[row * n_in + column] = (int)(code + zero);
            for (int64_t j = i; j < n_in; j++) live[order[j]] -= error * u[i * n_in + j];
        }
    }
    free(diag);
    free(a);
    free(live);
    free(u);
    return r;
}

/* One weight half-way between two codes, decided otherwise by f32, changes the rest of its row: so the limit
 * of one in a thousand is for all cases together. */
static int64_t n_all_codes, n_different_codes;

static void compare_with_plain(const char *text, int64_t n_out, int64_t n_in, int64_t n_tokens)
{
    qs_spec spec = parse(text);
    qs_factor_cache *factors = make_factors(n_in, n_tokens, 21);
    float *w = data_normal(n_out * n_in, 23, 0.05f);
    int32_t order[1024];
    uint8_t codes[1024];
    for (int32_t i = 0; i < n_in; i++) order[i] = i;
    if (spec.act_order) assert_int_equal(qs_order_act(qs_factor_diag(factors), n_in, order), QS_OK);
    if (spec.group_aware)
        assert_int_equal(qs_order_group_aware(qs_factor_diag(factors), n_in, spec.group_size, order), QS_OK);
    qs_quant_result r = solve(text, w, n_out, n_in, factors);
    plain_result plain = plain_gptq(&spec, w, n_out, n_in, factors, order);
    assert_int_equal(r.packed.perm != NULL, spec.act_order && !spec.static_groups && spec.group_size > 0);
    int64_t n_codes = 0, n_scales = 0;
    for (int64_t row = 0; row < n_out; row++) {
        qs_packed_get_row(&r.packed, row, codes);
        for (int64_t j = 0; j < n_in; j++) {
            int64_t column = r.packed.perm != NULL ? r.packed.perm[j] : j;
            float scale = qs_f32_from_f16(r.packed.scales[row * r.packed.n_groups + j / r.packed.group_size]);
            n_codes += codes[j] != plain.codes[row * n_in + column];
            n_scales += scale != plain.scales[row * n_in + column];
        }
    }
    print_message("%s, %lld x %lld: %lld of %lld codes and %lld scales differ from f64\n", text,
                  (long long)n_out, (long long)n_in, (long long)n_codes, (long long)(n_out * n_in),
                  (long long)n_scales);
    assert_true(n_scales * 50 <= n_out * n_in);
    n_all_codes += n_out * n_in;
    n_different_codes += n_codes;
    qs_packed_free(&r.packed);
    qs_factor_cache_destroy(factors);
    free(plain.codes);
    free(plain.scales);
    free(plain.zeros);
    free(w);
}

static void test_against_plain(void **state)
{
    (void)state;
    compare_with_plain("gptq:bits=4,group=32", 70, 160, 500);
    compare_with_plain("gptq:bits=3,group=64,sym=0,gar=0", 70, 160, 500);    /* ragged: 64, 64, 32 */
    compare_with_plain("gptq:bits=4,group=48", 40, 160, 500); /* group-aware with a ragged tail */
    compare_with_plain("gptq:bits=4,group=32,search=0,gar=0", 70, 160, 100); /* rank deficient */
    compare_with_plain("gptq:bits=2,group=32,act=1", 70, 160, 500);
    compare_with_plain("gptq:bits=4,group=32,act=1,static=1,sym=0", 70, 160, 500);
    compare_with_plain("gptq:bits=8,group=-1,act=1", 70, 160, 500);
    compare_with_plain("gptq:bits=4,group=-1,damp=0.1", 70, 160, 500);
    assert_true(n_different_codes * 1000 <= n_all_codes);
}

/* More columns than a panel: the part between panels goes through the backend's GEMM. */
static void test_against_plain_wide(void **state)
{
    (void)state;
    compare_with_plain("gptq:bits=4,group=64", 66, 640, 900);
    compare_with_plain("gptq:bits=4,group=600,gar=0", 10, 640, 900); /* a group wider than a panel */
    compare_with_plain("gptq:bits=3,group=128,act=1,static=1", 20, 640, 900);
    compare_with_plain("gptq:bits=3,group=-1", 20, 640, 900);
    compare_with_plain("gptq:bits=4,group=48,act=1,sym=0", 20, 640, 900);
    assert_true(n_different_codes * 1000 <= n_all_codes);
}

/* H = c * identity: nothing couples, all columns weigh the same, so GPTQ is RTN. */
static void test_identity_is_rtn(void **state)
{
    (void)state;
    enum { N_OUT = 66, N_IN = 576 };
    static const char *const pairs[][2] = {
        {"gptq:bits=4,group=64,search=0", "rtn:bits=4,group=64"},
        {"gptq:bits=3,group=100,sym=0", "rtn:bits=3,group=100,sym=0,search=1"},
        {"gptq:bits=2,group=-1,act=1", "rtn:bits=2,group=-1,search=1"},
        {"gptq:bits=8,group=32,act=1,static=1,sym=0,search=0", "rtn:bits=8,group=32,sym=0"},
    };
    float *w = data_normal(N_OUT * N_IN, 4, 0.02f), *gram = data_identity_gram(N_IN, 3);
    qs_factor_cache *factors;
    assert_int_equal(qs_factor_cache_create(&factors, workspace, gram, N_IN, 5, "t"), QS_OK);
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        qs_quant_result a = solve(pairs[i][0], w, N_OUT, N_IN, factors),
                        b = solve(pairs[i][1], w, N_OUT, N_IN, factors);
        a.damping = 0;
        assert_same_codes(&a, &b);
        assert_true(fabs(a.loss - b.loss) <= 1e-6 * b.loss);
        qs_packed_free(&a.packed);
        qs_packed_free(&b.packed);
    }
    qs_factor_cache_destroy(factors);
    free(w);
    free(gram);
}

/* On correlated inputs compensation pays, the search pays again, and codes are not RTN's (negative controls:
 * docs/gates.md). */
static void test_beats_rtn(void **state)
{
    (void)state;
    enum { N_OUT = 96, N_IN = 320 };
    static const char *const variants[] = {"bits=4,group=64", "bits=3,group=32,sym=0", "bits=2,group=64",
                                           "bits=4,group=-1"};
    qs_factor_cache *factors = make_factors(N_IN, 1000, 8);
    float *w = data_normal(N_OUT * N_IN, 9, 0.02f);
    for (size_t i = 0; i < sizeof variants / sizeof *variants; i++) {
        char text[3][64];
        (void)snprintf(text[0], 64, "rtn:%s", variants[i]);
        (void)snprintf(text[1], 64, "gptq:%s,search=0", variants[i]);
        (void)snprintf(text[2], 64, "gptq:%s", variants[i]);
        qs_quant_result r[3];
        for (int k = 0; k < 3; k++) r[k] = solve(text[k], w, N_OUT, N_IN, factors);
        print_message("%s: loss rtn %.3g, gptq min-max %.3g, gptq %.3g\n", variants[i], r[0].loss, r[1].loss,
                      r[2].loss);
        assert_true(r[1].loss < 0.8 * r[0].loss);
        assert_true(r[2].loss < r[1].loss);
        assert_memory_not_equal(r[0].packed.codes, r[1].packed.codes,
                                (size_t)(N_OUT * r[0].packed.row_bytes));
        for (int k = 0; k < 3; k++) qs_packed_free(&r[k].packed);
    }
    qs_factor_cache_destroy(factors);
    free(w);
}

/* The compensation identity: errors over U's diagonal give the damped loss exactly, so a matrix on the
 * lattice has none at all. */
static void test_representable_is_exact(void **state)
{
    (void)state;
    enum { N_OUT = 64, N_IN = 600 };
    float *w = malloc(sizeof *w * N_OUT * N_IN), *q = malloc(sizeof *q * N_OUT * N_IN);
    for (int i = 0; i < N_OUT * N_IN; i++) {
        int at = i % N_IN % 50, code = at == 0 ? 0 : at == 1 ? 15 : (int)qs_rng_below(3, (uint64_t)i, 16);
        w[i] = (float)(code - 5) * 0.03125f;
    }
    qs_factor_cache *factors = make_factors(N_IN, 300, 31);
    qs_quant_result r = solve("gptq:bits=4,group=50,sym=0,search=0", w, N_OUT, N_IN, factors);
    qs_packed_dequant_rows(&r.packed, 0, N_OUT, q);
    for (int i = 0; i < N_OUT * N_IN; i++) assert_true(w[i] == q[i]);
    assert_true(r.loss == 0);
    qs_packed_free(&r.packed);
    qs_factor_cache_destroy(factors);
    free(w);
    free(q);
}

/* No damping helps: RTN with a mark, not a failure. What needs more damping gets it. */
static void test_fallback(void **state)
{
    (void)state;
    float w[64], *raised = data_identity_gram(32, 1), *hopeless = data_identity_gram(32, 1);
    for (int i = 0; i < 64; i++) w[i] = (float)qs_rng_normal(1, (uint64_t)i);
    raised[1] = 1.1f;
    hopeless[1] = 1e5f;
    qs_factor_cache *factors;
    assert_int_equal(qs_factor_cache_create(&factors, workspace, raised, 32, 1, "t"), QS_OK);
    qs_quant_result r = solve("gptq:group=16", w, 2, 32, factors);
    assert_true(!r.fallback && r.damping > 0.1 && r.damping < 0.13);
    qs_packed_free(&r.packed);
    assert_int_equal(qs_factor_cache_load(factors, hopeless, 1, "t"), QS_OK);
    r = solve("gptq:group=16,act=1,search=0", w, 2, 32, factors);
    qs_quant_result rtn = solve("rtn:group=16", w, 2, 32, factors);
    assert_true(r.fallback && r.damping == 0);
    assert_same(&r, &rtn);
    qs_packed_free(&r.packed);
    qs_packed_free(&rtn.packed);
    qs_factor_cache_destroy(factors);
    free(raised);
    free(hopeless);
}

/* Inputs that calibration never saw: their weights are rounded, and the others come out as without them. */
static void test_dead_columns(void **state)
{
    (void)state;
    enum { N_OUT = 64, N_IN = 96 };
    float *gram = data_gram(N_IN, 300, 5), *w = data_normal(N_OUT * N_IN, 6, 0.05f), q[N_IN];
    int64_t at = 0;
    for (int64_t i = 0; i < N_IN; i++)
        for (int64_t j = i; j < N_IN; j++, at++)
            if (i / 32 == 1 || j / 32 == 1 || i == 5 || j == 5)
                gram[at] = 0; /* a whole group and one column */
    qs_factor_cache *factors;
    assert_int_equal(qs_factor_cache_create(&factors, workspace, gram, N_IN, 300, "t"), QS_OK);
    qs_quant_result r = solve("gptq:bits=4,group=32", w, N_OUT, N_IN, factors);
    qs_quant_result rtn = solve("rtn:bits=4,group=32,search=1", w, N_OUT, N_IN, factors);
    for (int64_t i = 0; i < N_OUT; i++) {
        uint8_t a[N_IN], b[N_IN];
        qs_packed_get_row(&r.packed, i, a);
        qs_packed_get_row(&rtn.packed, i, b);
        assert_memory_equal(a + 32, b + 32, 32); /* the dead group is RTN's */
        qs_packed_dequant_rows(&r.packed, i, 1, q);
        float scale = qs_f32_from_f16(r.packed.scales[i * 3]), limit = 0.501f * scale,
              amount = fabsf(w[i * N_IN + 5]);
        if (amount < 7 * scale) assert_true(fabsf(q[5] - w[i * N_IN + 5]) <= limit);
    }
    assert_true(r.loss < rtn.loss);
    qs_packed_free(&r.packed);
    qs_packed_free(&rtn.packed);
    qs_factor_cache_destroy(factors);
    free(gram);
    free(w);
}

static const char *const many[] = {
    "gptq:bits=4,group=64", "rtn:bits=4,group=64", "gptq:bits=3,group=64,act=1", "gptq:bits=4,group=32,sym=0",
    "gptq:bits=2,group=-1", "rtn:bits=3,group=-1,search=1", "gptq:bits=4,group=64,damp=0.05,search=0",
    "gptq:bits=8,group=128,act=1,static=1",
};
enum { N_MANY = sizeof many / sizeof *many };

/* Several matrices and specs in one call give what each gives alone, bit by bit. */
static void test_many_equal_each_alone(void **state)
{
    (void)state;
    enum { N_IN = 700 };
    static const int64_t n_outs[] = {66, 20, 130};
    qs_factor_cache *factors = make_factors(N_IN, 800, 12);
    float *w[3];
    qs_quant_job jobs[3];
    qs_spec specs[N_MANY];
    qs_quant_result results[3 * N_MANY];
    qs_quant_task tasks[3 * N_MANY];
    for (int m = 0; m < 3; m++) {
        w[m] = data_normal(n_outs[m] * N_IN, (uint64_t)m + 50, 0.03f);
        jobs[m] = (qs_quant_job){.name = "m",
                                 .weights = w[m],
                                 .n_out = n_outs[m],
                                 .n_in = N_IN,
                                 .factors = factors,
                                 .backend = backend};
        for (int s = 0; s < N_MANY; s++) {
            specs[s] = parse(many[s]);
            tasks[m * N_MANY + s] =
                (qs_quant_task){.spec = &specs[s], .job = &jobs[m], .out = &results[m * N_MANY + s]};
        }
    }
    if (qs_quant_solve(workspace, tasks, 3 * N_MANY) != QS_OK) fail_msg("%s", qs_error_text());
    for (int i = 0; i < 3 * N_MANY; i++) {
        qs_quant_result alone = solve(many[i % N_MANY], w[i / N_MANY], n_outs[i / N_MANY], N_IN, factors);
        assert_same(&results[i], &alone);
        qs_packed_free(&alone.packed);
        qs_packed_free(&results[i].packed);
    }
    qs_factor_cache_destroy(factors);
    for (int m = 0; m < 3; m++) free(w[m]);
}

static void test_threads(void **state)
{
    (void)state;
    enum { N_OUT = 200, N_IN = 700 };
    float *w = data_normal(N_OUT * N_IN, 3, 0.03f), *gram = data_gram(N_IN, 800, 13);
    qs_quant_result first[N_MANY];
    for (int threads = 1; threads <= 3; threads += 1 + SANITIZED) {
        qs_backend *b;
        qs_workspace *ws;
        qs_factor_cache *factors;
        assert_int_equal(qs_backend_create(&b, "cpu", 0, threads), QS_OK);
        assert_int_equal(qs_workspace_create(&ws, b), QS_OK);
        qs_workspace_set_whole_panel(ws, 512);
        assert_int_equal(qs_factor_cache_create(&factors, ws, gram, N_IN, 800, "t"), QS_OK);
        for (int s = 0; s < N_MANY; s++) {
            qs_quant_result r = solve_in(ws, many[s], w, N_OUT, N_IN, factors);
            if (threads == 1) {
                first[s] = r;
                continue;
            }
            assert_same(&first[s], &r);
            qs_packed_free(&r.packed);
        }
        qs_factor_cache_destroy(factors);
        qs_workspace_destroy(ws);
        qs_backend_destroy(b);
    }
    for (int s = 0; s < N_MANY; s++) qs_packed_free(&first[s].packed);
    free(w);
    free(gram);
}

static void test_needs_second_moments(void **state)
{
    (void)state;
    float w[64] = {1};
    qs_spec spec = parse("gptq:group=32");
    qs_quant_result result;
    qs_quant_job job = {.name = "layers.0.o_proj", .weights = w, .n_out = 2, .n_in = 32, .backend = backend};
    qs_quant_task task = {.spec = &spec, .job = &job, .out = &result};
    assert_int_equal(qs_quant_solve(workspace, &task, 1), QS_E_INPUT);
    assert_non_null(strstr(qs_error_text(), "layers.0.o_proj"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_against_plain),
        cmocka_unit_test(test_against_plain_wide),
        cmocka_unit_test(test_identity_is_rtn),
        cmocka_unit_test(test_beats_rtn),
        cmocka_unit_test(test_representable_is_exact),
        cmocka_unit_test(test_fallback),
        cmocka_unit_test(test_dead_columns),
        cmocka_unit_test(test_many_equal_each_alone),
        cmocka_unit_test(test_threads),
        cmocka_unit_test(test_needs_second_moments),
    };
    return cmocka_run_group_tests_name("gptq", tests, start, solver_stop);
}
