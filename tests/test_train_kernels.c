/* The row kernels of training in vectors against the plain-C definition, over lengths that end inside a
 * vector. */
#include "scratch.h"

#include <math.h>

#include "base/dtype.h"
#include "base/rng.h"
#include "train/row_kernels.h"

enum { N_MAX = 203 };

static const int64_t lengths[] = {1, 2, 7, 16, 17, 31, 32, 64, 100, 128, N_MAX};
enum { N_LENGTHS = sizeof lengths / sizeof *lengths };

static const qs_train_kernels *fast, *plain;

static int setup(void **state)
{
    (void)state;
    fast = qs_train_kernels_get(false);
    plain = qs_train_kernels_get(true);
    print_message("%s against %s\n", fast->from, plain->from);
    return 0;
}

static void draw(float *x, int64_t n, uint64_t key, double size)
{
    for (int64_t i = 0; i < n; i++) x[i] = (float)(size * qs_rng_normal(key, (uint64_t)i));
}

/* Relative to the largest magnitude; what lies behind n must be untouched. */
static void same(const float *a, const float *b, int64_t n, double bound, const char *what)
{
    double largest = 1e-30;
    for (int64_t i = 0; i < n; i++) largest = fmax(largest, fabs((double)b[i]));
    for (int64_t i = 0; i < n; i++)
        if (!(fabs((double)a[i] - b[i]) <= bound * largest))
            fail_msg("%s, n %lld: [%lld] is %.9g, not %.9g", what, (long long)n, (long long)i, (double)a[i],
                     (double)b[i]);
    for (int64_t i = n; i < N_MAX; i++)
        if (a[i] != b[i]) fail_msg("%s, n %lld: wrote behind the end", what, (long long)n);
}

static void test_norms(void **state)
{
    (void)state;
    float x[N_MAX], gain[N_MAX], dy[N_MAX], a[N_MAX], b[N_MAX], ga[N_MAX], gb[N_MAX];
    draw(x, N_MAX, 1, 2);
    draw(gain, N_MAX, 2, 1);
    draw(dy, N_MAX, 3, 1);
    for (int k = 0; k < N_LENGTHS; k++) {
        int64_t n = lengths[k];
        draw(a, N_MAX, 4, 1);
        memcpy(b, a, sizeof b);
        float fa = fast->rmsnorm(x, gain, n, 1e-5, a), fb = plain->rmsnorm(x, gain, n, 1e-5, b);
        assert_true(fabsf(fa - fb) <= 1e-6f * fb);
        same(a, b, n, 1e-6, "rmsnorm");
        draw(ga, N_MAX, 5, 1);
        memcpy(gb, ga, sizeof gb);
        fast->rmsnorm_back(dy, x, gain, fb, n, a, ga);
        memcpy(a + n, b + n, (size_t)(N_MAX - n) * sizeof *a);
        plain->rmsnorm_back(dy, x, gain, fb, n, b, gb);
        same(a, b, n, 2e-6, "rmsnorm_back dx");
        same(ga, gb, n, 2e-6, "rmsnorm_back dgain");
    }
}

static void test_softmax(void **state)
{
    (void)state;
    float a[N_MAX], b[N_MAX], p[N_MAX];
    for (int k = 0; k < N_LENGTHS; k++) {
        int64_t n = lengths[k], n_seen = (n + 1) / 2;
        draw(a, N_MAX, 10, 6);
        memcpy(b, a, sizeof b);
        fast->softmax(a, n_seen, n);
        plain->softmax(b, n_seen, n);
        same(a, b, n, 2e-6, "softmax");
        memcpy(p, b, sizeof p);
        draw(a, N_MAX, 11, 1);
        memcpy(b, a, sizeof b);
        fast->softmax_back(p, a, n);
        plain->softmax_back(p, b, n);
        /* Of order 1 before what is common to all is taken off, which may leave little. */
        for (int64_t i = 0; i < n; i++) assert_true(fabsf(a[i] - b[i]) <= 1e-6f);
        draw(a, N_MAX, 12, 5);
        memcpy(b, a, sizeof b);
        int32_t target = (int32_t)(n / 3);
        qs_token_loss la = fast->cross_entropy(a, n, target, 0.5f),
                      lb = plain->cross_entropy(b, n, target, 0.5f);
        assert_true(fabs(la.nll - lb.nll) <= 1e-5 && la.is_largest == lb.is_largest);
        same(a, b, n, 2e-6, "cross_entropy");
    }
    /* The largest logit is a hit; NaN carries on into the loss. */
    memset(a, 0, sizeof a);
    a[5] = 3;
    assert_true(fast->cross_entropy(a, 20, 5, 1).is_largest);
    a[7] = NAN;
    assert_true(isnan(fast->cross_entropy(a, 20, 5, 1).nll) && isnan(plain->cross_entropy(a, 20, 5, 1).nll));
}

static void test_mlp_and_rope(void **state)
{
    (void)state;
    float gate[N_MAX], up[N_MAX], dout[N_MAX], a[N_MAX], b[N_MAX], ga[N_MAX], gb[N_MAX];
    draw(gate, N_MAX, 20, 3);
    draw(up, N_MAX, 21, 1);
    draw(dout, N_MAX, 22, 1);
    gate[0] = -200; /* e^200 overflows */
    for (int k = 0; k < N_LENGTHS; k++) {
        int64_t n = lengths[k];
        draw(a, N_MAX, 23, 1);
        memcpy(b, a, sizeof b);
        memcpy(ga, a, sizeof ga);
        memcpy(gb, a, sizeof gb);
        fast->swiglu(gate, up, n, a);
        plain->swiglu(gate, up, n, b);
        same(a, b, n, 1e-6, "swiglu");
        fast->swiglu_back(gate, up, dout, n, a, ga);
        plain->swiglu_back(gate, up, dout, n, b, gb);
        same(a, b, n, 2e-6, "swiglu_back dgate");
        same(ga, gb, n, 2e-6, "swiglu_back dup");
    }
    for (int64_t head_dim = 2; head_dim <= 66; head_dim += 16) {
        float cosines[33], sines[33];
        draw(a, N_MAX, 24, 1);
        memcpy(b, a, sizeof b);
        memcpy(ga, a, sizeof ga);
        for (int64_t i = 0; i < head_dim / 2; i++) {
            cosines[i] = (float)cos((double)i);
            sines[i] = (float)sin((double)i);
        }
        fast->rope(a, cosines, sines, 1, 0.25f, 3, head_dim);
        plain->rope(b, cosines, sines, 1, 0.25f, 3, head_dim);
        same(a, b, 3 * head_dim, 1e-6, "rope");
        fast->rope(a, cosines, sines, -1, 4, 3, head_dim); /* back again */
        same(a, ga, 3 * head_dim, 1e-6, "rope back");
    }
}

static void test_rounding_and_sums(void **state)
{
    (void)state;
    float x[N_MAX], y[N_MAX], a[N_MAX], b[N_MAX];
    uint16_t ha[N_MAX], hb[N_MAX];
    draw(x, N_MAX, 30, 1);
    draw(y, N_MAX, 31, 1);
    x[0] = 1.00390625f; /* half way between two values of bf16: to the even one */
    x[1] = INFINITY;
    for (int k = 0; k < N_LENGTHS; k++) {
        int64_t n = lengths[k];
        memset(ha, 7, sizeof ha);
        memset(hb, 7, sizeof hb);
        fast->to_bf16(x, n, ha);
        plain->to_bf16(x, n, hb);
        assert_memory_equal(ha, hb, sizeof ha);
        memcpy(a, x, sizeof a);
        memcpy(b, x, sizeof b);
        fast->add(a + 2, y, n - 2 > 0 ? n - 2 : 0);
        plain->add(b + 2, y, n - 2 > 0 ? n - 2 : 0);
        assert_memory_equal(a, b, sizeof a);
        double sa = fast->sum_squares(y, n), sb = plain->sum_squares(y, n);
        assert_true(fabs(sa - sb) <= 1e-12 * sb);
    }
    x[1] = NAN;
    fast->to_bf16(x, 2, ha);
    assert_true(isnan(qs_f32_from_bf16(ha[1])) && isnan(fast->sum_squares(x, 2)));
}

static void test_adam(void **state)
{
    (void)state;
    const qs_adam_options options = {.beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8, .decay = 0.1};
    const qs_adam_step step = qs_adam_step_make(&options, 1e-2, 0.5, 3);
    float g[N_MAX], start[3][N_MAX], a[3][N_MAX], b[3][N_MAX];
    draw(g, N_MAX, 40, 1);
    for (uint64_t i = 0; i < 3; i++) draw(start[i], N_MAX, 41 + i, 1);
    for (int64_t i = 0; i < N_MAX; i++) start[2][i] = fabsf(start[2][i]);
    for (int k = 0; k < N_LENGTHS; k++) {
        int64_t n = lengths[k];
        memcpy(a, start, sizeof a);
        memcpy(b, start, sizeof b);
        fast->adam_moments(&step, n, g, a[1], a[2]);
        plain->adam_moments(&step, n, g, b[1], b[2]);
        fast->adam_apply(&step, true, n, a[1], a[2], a[0]);
        plain->adam_apply(&step, true, n, b[1], b[2], b[0]);
        for (int i = 0; i < 3; i++) same(a[i], b[i], n, 1e-6, "adam");
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_norms), cmocka_unit_test(test_softmax),
                                       cmocka_unit_test(test_mlp_and_rope),
                                       cmocka_unit_test(test_rounding_and_sums), cmocka_unit_test(test_adam)};
    return cmocka_run_group_tests(tests, setup, NULL);
}
