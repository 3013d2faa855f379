/* AdamW in 32 and 8 bits: the dynamic maps by their sha256, the nearest code by exhaustion, steps against a
 * hand-worked case, against float64 and against bitsandbytes (stored by scripts/peers/make_adam_fixtures.py;
 * bounds of its own tests). Checklist B0, B4, B13, B21. */
#include "scratch.h"

#include <math.h>

#include "base/rng.h"
#include "model/safetensors.h"
#include "sha256.h"
#include "train/dynamic_map.h"
#include "train/optimizer.h"

#define NEAR(value, wanted, bound) assert_true(fabs((double)(value) - (double)(wanted)) <= (bound))

static void test_maps(void **state)
{
    (void)state;
    static const char *const wanted[] = {"305f002cc11278fb769d13b25b9fd0c7c83c8402c40a878fe086f4039fde6398",
                                         "e732639a65f497b4ad684bb166a4467708255edd5207757de8b8f0c7e1fda89c"};
    for (int is_signed = 0; is_signed < 2; is_signed++) {
        qs_dynamic_map map;
        char hex[SHA256_TEXT_BYTES];
        qs_dynamic_map_init(&map, is_signed != 0);
        assert_string_equal(sha256_hex(map.values, sizeof map.values, hex), wanted[is_signed]);
        assert_true(map.values[is_signed ? 127 : 0] == 0.0f && map.values[255] == 1.0f);
        for (int i = 1; i < QS_DYNAMIC_CODES; i++) assert_true(map.values[i] > map.values[i - 1]);
    }
}

/* The quick search against all 256 codes: at, just below and just above each midpoint, and at random. */
static void test_nearest(void **state)
{
    (void)state;
    for (int is_signed = 0; is_signed < 2; is_signed++) {
        qs_dynamic_map map;
        qs_dynamic_map_init(&map, is_signed != 0);
        for (int i = 0; i < 255; i++) {
            float mid = map.midpoints[i];
            assert_int_equal(qs_dynamic_nearest(&map, mid), i);
            assert_int_equal(qs_dynamic_nearest(&map, nextafterf(mid, -2)), i);
            assert_int_equal(qs_dynamic_nearest(&map, nextafterf(mid, 2)), i + 1);
            assert_int_equal(qs_dynamic_nearest(&map, map.values[i]), i);
        }
        for (uint64_t i = 0; i < 20000; i++) {
            double size = pow(10, -8 * qs_rng_unit(1, 2 * i)),
                   sign = is_signed ? 2 * qs_rng_unit(1, 2 * i + 1) - 1 : 1;
            float x = (float)(size * sign), nearest = map.values[qs_dynamic_nearest(&map, x)];
            double distance = fabs((double)x - nearest);
            for (int k = 0; k < QS_DYNAMIC_CODES; k++)
                assert_true(distance <= fabs((double)x - map.values[k]) * (1 + 1e-6));
        }
    }
}

static void test_blocks(void **state)
{
    (void)state;
    qs_dynamic_map map;
    float x[5] = {-0.5f, 0.25f, 0, 2, -2}, back[5];
    uint8_t codes[5];
    qs_dynamic_map_init(&map, true);
    assert_true(qs_dynamic_encode(&map, x, 5, codes) == 2.0f);
    assert_int_equal(codes[3], 255);
    assert_int_equal(codes[2], 127);
    qs_dynamic_decode(&map, codes, 2, 5, back);
    assert_true(back[3] == 2.0f && back[4] == -2 * 0.992968738f && back[2] == 0.0f);
    assert_true(fabsf(back[0] + 0.5f) < 0.02f);
    const float zeros[5] = {0}, tiny[5] = {1e-40f, -1e-41f};
    assert_true(qs_dynamic_encode(&map, zeros, 5, codes) == 0.0f);
    assert_true(qs_dynamic_encode(&map, tiny, 5, codes) == 0.0f);
    qs_dynamic_decode(&map, codes, 0, 5, back);
    for (int i = 0; i < 5; i++) assert_true(back[i] == 0.0f);
}

/* ---- the optimizer on a tensor or two, without a model ---- */

typedef struct bench {
    qs_train_tensor tensors[2];
    qs_train_layout layout;
    qs_optimizer *optimizer;
    qs_team *team;
} bench;

static void bench_open(bench *b, int64_t n_matrix, int64_t n_gain, const qs_optimizer_options *options,
                       bool reference)
{
    *b = (bench){.tensors = {{.name = "w", .first = 0, .n_out = n_matrix, .n_in = 1, .is_matrix = true},
                             {.name = "g", .first = n_matrix, .n_out = 1, .n_in = n_gain}},
                 .layout = {.n = n_matrix + n_gain, .n_tensors = n_gain > 0 ? 2 : 1}};
    b->layout.tensors = b->tensors;
    OK(qs_optimizer_create(&b->optimizer, &b->layout, qs_train_kernels_get(reference), options));
    OK(qs_team_create(&b->team, 1));
}

static void bench_close(bench *b)
{
    qs_optimizer_destroy(b->optimizer);
    qs_team_destroy(b->team);
}

static void test_hand_case(void **state)
{
    (void)state;
    const qs_optimizer_options options = {.bits = 32,
                                          .adam = {.beta1 = 0.5, .beta2 = 0.75, .eps = 0.5, .decay = 0.1}};
    bench b;
    float p[4] = {1, -2, 1, -2}, g[4] = {4, -2, 4, -2}, m[2], v[2];
    for (int reference = 0; reference < 2; reference++) {
        bench_open(&b, 2, 2, &options, reference != 0);
        memcpy(p, (float[]){1, -2, 1, -2}, sizeof p);
        qs_optimizer_step(b.optimizer, b.team, 0.1, 0.5, 1, g, p, NULL);
        /* g' = 2, -1; m = 1, -.5; v = 1, .25; corrected: 2, -1 and 4, 1; steps .1 * 2 / 2.5 and .1 * -1
         * / 1.5. */
        const double step0 = 0.08, step1 = -0.1 / 1.5;
        NEAR(p[0], 0.99 - step0, 1e-6);
        NEAR(p[1], -2 * 0.99 - step1, 1e-6);
        NEAR(p[2], 1 - step0, 1e-6); /* a gain: no decay */
        NEAR(p[3], -2 - step1, 1e-6);
        qs_optimizer_moments(b.optimizer, 0, 2, m, v);
        assert_true(m[0] == 1.0f && m[1] == -0.5f && v[0] == 1.0f && v[1] == 0.25f);
        bench_close(&b);
    }
}

/* 32 bits, 50 steps, against the same in f64. */
static void test_against_f64(void **state)
{
    (void)state;
    enum { N = 1000 };
    const qs_optimizer_options options = {.bits = 32,
                                          .adam = {.beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8, .decay = 0.01}};
    bench b;
    float p[N], g[N];
    double q[N], m[N] = {0}, v[N] = {0};
    bench_open(&b, N, 0, &options, false);
    for (uint64_t i = 0; i < N; i++) q[i] = p[i] = (float)(0.1 * qs_rng_normal(3, i));
    for (int64_t t = 1; t <= 50; t++) {
        for (uint64_t i = 0; i < N; i++) {
            g[i] = (float)(0.01 * qs_rng_normal((uint64_t)t + 10, i));
            m[i] = 0.9 * m[i] + 0.1 * g[i];
            v[i] = 0.999 * v[i] + 0.001 * (double)g[i] * g[i];
            q[i] *= 1 - 1e-3 * 0.01;
            q[i] -=
                1e-3 * (m[i] / (1 - pow(0.9, (double)t))) / (sqrt(v[i] / (1 - pow(0.999, (double)t))) + 1e-8);
        }
        qs_optimizer_step(b.optimizer, b.team, 1e-3, 1, t, g, p, NULL);
    }
    for (int i = 0; i < N; i++)
        assert_true(fabs(p[i] - q[i]) <= 1e-6 + 1e-5 * fabs(q[i])); /* bitsandbytes' own bounds */
    bench_close(&b);
}

typedef struct stored {
    qs_file_map map;
    qs_safetensors file;
} stored;

static const void *values(const stored *s, const char *name, int64_t step, int64_t *bytes)
{
    char full[32];
    (void)snprintf(full, sizeof full, "%s%lld", name, (long long)step);
    const qs_safetensor *t = qs_safetensors_find(&s->file, step < 0 ? name : full);
    assert_non_null(t);
    *bytes = (int64_t)t->bytes;
    return t->data;
}

/* The four arrays of 8-bit state: codes of m and v, scales of m and v. */
enum { M_CODES = 2, V_CODES, M_SCALES, V_SCALES };

static void load_state(const stored *s, qs_optimizer *optimizer, int64_t step)
{
    qs_optimizer_array arrays[QS_OPTIMIZER_ARRAYS];
    qs_optimizer_arrays(optimizer, arrays);
    for (int i = M_CODES; i <= V_SCALES; i++) {
        int64_t bytes;
        const void *data = values(s, arrays[i].name, step, &bytes);
        assert_int_equal(bytes, arrays[i].n * (arrays[i].is_codes ? 1 : 4));
        memcpy(arrays[i].data, data, (size_t)bytes);
    }
}

/* Codes that are the same; the others must be one apart, or nearer than the 65,536 steps in which
 * bitsandbytes' CPU path searches. Scales agree to the last bits. */
static int64_t count_equal(const stored *s, qs_optimizer *optimizer, int64_t step, int codes_index,
                           int scales_index)
{
    const float smallest_step = 2.0f / 65536;
    qs_optimizer_array arrays[QS_OPTIMIZER_ARRAYS];
    qs_dynamic_map map;
    int64_t bytes, n_equal = 0;
    qs_optimizer_arrays(optimizer, arrays);
    qs_dynamic_map_init(&map, codes_index == M_CODES);
    const uint8_t *codes = arrays[codes_index].data,
                  *wanted = values(s, arrays[codes_index].name, step, &bytes);
    const float *scales = arrays[scales_index].data,
                *wanted_scales = values(s, arrays[scales_index].name, step, &bytes);
    for (int64_t i = 0; i < arrays[scales_index].n; i++)
        NEAR(scales[i], wanted_scales[i], 1e-6 * wanted_scales[i]);
    for (int64_t i = 0; i < arrays[codes_index].n; i++) {
        n_equal += codes[i] == wanted[i];
        bool is_zero = scales[i / QS_ADAM_BLOCK] == 0.0f;
        float apart = fabsf(map.values[codes[i]] - map.values[wanted[i]]);
        assert_true(is_zero || abs(codes[i] - wanted[i]) <= 1 || apart <= smallest_step);
    }
    return n_equal;
}

static void test_against_bitsandbytes(void **state)
{
    (void)state;
    enum { N_STEPS = 3 };
    const char *path = "tests/fixtures/train/adam8.safetensors";
    const qs_optimizer_options options = {.bits = 8,
                                          .adam = {.beta1 = 0.9, .beta2 = 0.995, .eps = 1e-8, .decay = 0.01}};
    stored s;
    bench b;
    int64_t bytes;
    float *p;
    qs_dynamic_map map;
    OK(qs_file_map_open(&s.map, path));
    OK(qs_safetensors_parse(&s.file, s.map.data, s.map.bytes, path));
    for (int is_signed = 0; is_signed < 2; is_signed++) {
        qs_dynamic_map_init(&map, is_signed != 0);
        assert_memory_equal(values(&s, is_signed ? "signed_map" : "unsigned_map", -1, &bytes), map.values,
                            sizeof map.values);
    }
    (void)values(&s, "p", 0, &bytes);
    int64_t n = bytes / (int64_t)sizeof *p;
    OK(QS_NEW(p, n, "p"));
    bench_open(&b, n, 0, &options, false);
    for (int64_t t = 1; t <= N_STEPS; t++) {
        /* Each step from the same state, as its own test does. */
        memcpy(p, values(&s, "p", t - 1, &bytes), (size_t)n * sizeof *p);
        if (t > 1) load_state(&s, b.optimizer, t - 1);
        qs_optimizer_step(b.optimizer, b.team, 1e-3, 1, t, values(&s, "g", t, &bytes), p, NULL);
        const float *p_bnb = values(&s, "p", t, &bytes);
        double error = 0;
        for (int64_t i = 0; i < n; i++) {
            NEAR(p[i], p_bnb[i], 1e-7 + 1e-6 * fabs(p_bnb[i]));
            error += fabs((double)p[i] - p_bnb[i]) / (double)n;
        }
        int64_t n_m = count_equal(&s, b.optimizer, t, M_CODES, M_SCALES),
                n_v = count_equal(&s, b.optimizer, t, V_CODES, V_SCALES);
        print_message("step %lld: the same codes for m in %lld, for v in %lld of %lld elements, mean |p - "
                      "p_bnb| %.2e\n",
                      (long long)t, (long long)n_m, (long long)n_v, (long long)n, error);
        assert_true(n_m > n * 90 / 100 && n_v > n * 90 / 100 && error < 1e-8);
    }
    bench_close(&b);
    qs_mem_free(p);
    qs_safetensors_free(&s.file);
    qs_file_map_close(&s.map);
}

/* One step from equal states: p moves by the moments before they are rounded, so it is the 32-bit step. */
static void test_one_step(void **state)
{
    (void)state;
    enum { N = 5000 };
    qs_optimizer_options options = {.bits = 8, .adam = {.beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8}};
    float *g, *p8, *p32;
    bench b8, b32;
    OK(QS_NEW(g, N, "g"));
    OK(QS_NEW(p8, N, "p"));
    OK(QS_NEW(p32, N, "p"));
    for (uint64_t i = 0; i < N; i++) g[i] = (float)qs_rng_normal(5, i);
    bench_open(&b8, N, 0, &options, false);
    options.bits = 32;
    bench_open(&b32, N, 0, &options, false);
    qs_optimizer_step(b8.optimizer, b8.team, 1e-3, 1, 1, g, p8, NULL);
    qs_optimizer_step(b32.optimizer, b32.team, 1e-3, 1, 1, g, p32, NULL);
    assert_memory_equal(p8, p32, N * sizeof *p8);
    assert_int_equal(qs_optimizer_bytes(b32.optimizer), N * 8);
    assert_int_equal(qs_optimizer_bytes(b8.optimizer), N * 2 + (N + 255) / 256 * 8);
    /* The table of embeddings may keep 32 bits. */
    b8.tensors[0].is_table = true;
    options.bits = 8;
    assert_int_equal(qs_optimizer_plan_bytes(&b8.layout, &options), qs_optimizer_bytes(b8.optimizer));
    options.embedding_bits = 32;
    assert_int_equal(qs_optimizer_plan_bytes(&b8.layout, &options), N * 8);
    bench_close(&b8);
    bench_close(&b32);
    qs_mem_free(g);
    qs_mem_free(p8);
    qs_mem_free(p32);
}

/* The clamp holds v within a factor of 100 of the block's average: an element that never had a gradient,
 * whose first one would move it by lr / sqrt(1 - b2), moves by less; a spike in one element counts as 100
 * averages. */
static void test_clamp(void **state)
{
    (void)state;
    enum { N = 300 };
    qs_optimizer_options options = {.bits = 32,
                                    .adam = {.beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8, .clamp = 100}};
    bench b;
    float p[N] = {0}, g[N], m[N], v[N];
    bench_open(&b, N, 0, &options, false);
    for (int i = 0; i < N; i++) g[i] = i < 256 ? 1.0f : 2.0f;
    g[3] = 0;
    g[7] = 1000;
    qs_optimizer_step(b.optimizer, b.team, 1e-3, 1, 1, g, p, NULL);
    qs_optimizer_moments(b.optimizer, 0, N, m, v);
    double mean = 0.001 * (254 + 1e6) / 256;
    NEAR(v[3] / (mean / 100), 1, 1e-4);
    NEAR(v[0] / (mean / 100), 1, 1e-4);
    NEAR(v[7] / (mean * 100), 1, 1e-4);
    NEAR(v[299], 0.004, 1e-9); /* the next block has its own average */
    g[7] = 1;
    for (int64_t t = 2; t < 2000; t++) qs_optimizer_step(b.optimizer, b.team, 1e-3, 1, t, g, p, NULL);
    g[7] = 1e4f;
    qs_optimizer_step(b.optimizer, b.team, 1e-3, 1, 2000, g, p, NULL);
    qs_optimizer_moments(b.optimizer, 0, N, m, v);
    double others = v[0];
    assert_true(v[7] < 0.001 * 1e8 && v[7] > others);
    bench_close(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_maps),        cmocka_unit_test(test_nearest),
        cmocka_unit_test(test_blocks),      cmocka_unit_test(test_hand_case),
        cmocka_unit_test(test_against_f64), cmocka_unit_test(test_against_bitsandbytes),
        cmocka_unit_test(test_one_step),    cmocka_unit_test(test_clamp),
    };
    return cmocka_run_group_tests(tests, scratch_create, scratch_remove);
}
