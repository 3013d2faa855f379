/* EXL2: the layout by hand, scales whose steps are subnormal in f16, kernels against the definition, the solver against
 * identities, and budgets shared out among matrices against every possible choice (docs/quantisers.md, "EXL2";
 * checklist E0, A22). */
#include "tests/scratch.h"

#include "backend/backend.h"
#include "base/dtype.h"
#include "quant/allocate.h"
#include "quant/bit_budget.h"
#include "tests/quant_data.h"

static qs_backend *backend;
static qs_workspace *workspace;

static int start(void **state)
{
    if (scratch_create(state) != 0) return -1;
    OK(qs_backend_create(&backend, "cpu", 0, 2));
    OK(qs_workspace_create(&workspace, backend));
    return 0;
}

static int stop(void **state)
{
    qs_workspace_destroy(workspace);
    qs_backend_destroy(backend);
    return scratch_remove(state);
}

/* ---- the layout ---- */

static const qs_packed_group every_width[] = {{0, 8}, {32, 6}, {96, 5}, {128, 4}, {192, 4}, {224, 3}, {320, 2}};
enum { N_IN = 352, N_EVERY = sizeof every_width / sizeof *every_width, ROW_BYTES = 32 + 48 + 20 + 48 + 36 + 8 };

/* Contents at random: every width, scales of all sizes and a permutation. */
static qs_packed draw(int64_t n_out, uint64_t key)
{
    qs_packed p;
    uint8_t codes[N_IN];
    OK(qs_packed_shape_exl2(&p, n_out, N_IN, every_width, N_EVERY));
    OK(qs_packed_alloc_exl2(&p, every_width));
    for (int64_t j = 0; j < N_IN; j++) p.perm[j] = (int32_t)(j * 53 % N_IN);
    for (int64_t g = 0; g < N_EVERY; g++)
        p.scale_max[g] = qs_f16_from_f32((float)(1e-4 + 0.05 * qs_rng_unit(key, (uint64_t)g)));
    for (int64_t i = 0; i < n_out * N_EVERY; i++) p.scale_codes[i] = (uint8_t)qs_rng_below(key + 1, (uint64_t)i, 16);
    for (int64_t o = 0; o < n_out; o++) {
        for (int64_t g = 0; g < N_EVERY; g++)
            for (int64_t j = p.groups[g].first; j < qs_packed_group_end(&p, g); j++)
                codes[j] = (uint8_t)qs_rng_below(key + 2, (uint64_t)(o * N_IN + j), 1u << p.groups[g].bits);
        qs_packed_set_row(&p, o, codes);
        uint8_t back[N_IN];
        qs_packed_get_row(&p, o, back);
        assert_memory_equal(back, codes, N_IN);
    }
    OK(qs_packed_check(&p, "drawn"));
    return p;
}

/* Bit b of value r of a group is bit r * bits + b of the group's bytes, least significant first. */
static void test_layout(void **state)
{
    (void)state;
    qs_packed p = draw(3, 1);
    uint8_t codes[N_IN];
    assert_int_equal(p.row_bytes, ROW_BYTES);
    for (int64_t o = 0; o < 3; o++) {
        const uint8_t *bytes = p.codes + o * p.row_bytes;
        qs_packed_get_row(&p, o, codes);
        for (int64_t g = 0; g < N_EVERY; g++) {
            int bits = p.groups[g].bits;
            int64_t n = qs_packed_group_end(&p, g) - p.groups[g].first;
            for (int64_t i = 0; i < n * bits; i++)
                assert_int_equal(bytes[i / 8] >> (i % 8) & 1, codes[p.groups[g].first + i / bits] >> (i % bits) & 1);
            bytes += n * bits / 8;
        }
    }
    /* 4 bits a scale; 16 a largest scale and 32 a group; 32 a channel */
    assert_int_equal(qs_packed_stored_bits(&p), 3 * (ROW_BYTES * 8 + N_EVERY * 4) + N_EVERY * 48 + N_IN * 32);
    qs_packed_free(&p);
}

/* Rounding of f16 by the words of IEEE 754: multiples of 2^(e - 10), e >= -14, ties to even. */
static double f16_of(double x)
{
    int e;
    (void)frexp(x, &e);
    double unit = ldexp(1, (e - 1 < -14 ? -14 : e - 1) - 10);
    return nearbyint(x / unit) * unit;
}

static void test_scales(void **state)
{
    (void)state;
    int64_t n_subnormal = 0;
    for (uint32_t half = 1; half < 0x7C00; half += 7) {
        double largest = (double)qs_f32_from_f16((uint16_t)half), step = f16_of(largest / 256);
        n_subnormal += step > 0 && step < 0x1p-14;
        for (int c = 0; c < 16; c++)
            assert_true((double)qs_exl2_scale((uint16_t)half, c) == f16_of((c + 1) * (c + 1) * step));
    }
    assert_true(n_subnormal > 1000);
    /* 8 bits, largest weight .02 */
    uint16_t small = qs_f16_from_f32(0.02f * 2 / 255);
    assert_true(fabs((double)qs_exl2_scale(small, 15) / (double)qs_f32_from_f16(small) - 1) > 0.02);
}

static void test_weights(void **state)
{
    (void)state;
    qs_packed p = draw(2, 5);
    uint8_t codes[N_IN];
    float w[2 * N_IN];
    qs_packed_dequant_rows(&p, 0, 2, w);
    for (int64_t o = 0; o < 2; o++) {
        qs_packed_get_row(&p, o, codes);
        for (int64_t g = 0; g < N_EVERY; g++)
            for (int64_t j = p.groups[g].first; j < qs_packed_group_end(&p, g); j++) {
                double scale = (double)qs_exl2_scale(p.scale_max[g], p.scale_codes[o * N_EVERY + g]);
                double wanted = f16_of((codes[j] - (1 << (p.groups[g].bits - 1))) * scale);
                assert_true((double)w[o * N_IN + p.perm[j]] == wanted);
            }
    }
    qs_packed_free(&p);
}

static void test_bad_contents(void **state)
{
    (void)state;
    static const struct {
        qs_packed_group groups[2];
        int64_t n_groups, n_in;
        const char *part;
    } rows[] = {{{{0, 7}}, 1, 64, "7 bits"},
                {{{0, 4}, {48, 4}}, 2, 64, "group 1 starts at column 48"},
                {{{32, 4}}, 1, 64, "group 0 starts at column 32"},
                {{{0, 4}, {0, 4}}, 2, 64, "group 1 starts at column 0"},
                {{{0, 4}, {64, 4}}, 2, 64, "group 1 starts at column 64"},
                {{{0, 3}, {32, 4}}, 2, 64, "wider codes"},
                {{{0, 4}}, 1, 65, "no multiple of 32"},
                {{{0, 4}}, 3, 64, "3 groups"}};
    qs_packed p;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        FAILS(QS_E_INPUT, qs_packed_shape_exl2(&p, 4, rows[i].n_in, rows[i].groups, rows[i].n_groups));
        TEXT_HOLDS(rows[i].part);
    }
    p = draw(4, 3);
    p.scale_codes[9] = 16;
    FAILS(QS_E_INPUT, qs_packed_check(&p, "layers.0.q_proj"));
    TEXT_HOLDS("layers.0.q_proj", "row 1, group 2");
    p.scale_codes[9] = 3;
    p.scale_max[6] = 0x7C00;
    FAILS(QS_E_NUMERIC, qs_packed_check(&p, "x"));
    TEXT_HOLDS("group 6");
    p.scale_max[6] = 1;
    p.perm[3] = p.perm[4];
    FAILS(QS_E_INPUT, qs_packed_check(&p, "x"));
    p.row_bytes--;
    FAILS(QS_E_INPUT, qs_packed_check(&p, "x"));
    p.row_bytes++;
    qs_packed_free(&p);
}

/* ---- kernels ---- */

/* Sums in f64 over the weights of packed.h. Kernels for few rows may leave out the weights' rounding to f16. */
static void check_products(qs_backend *b, const qs_packed *p, int64_t n, unsigned uses)
{
    float *x = data_normal(n * p->n_in, 11, 1), *bias = data_normal(p->n_out, 12, 1);
    float *w = malloc((size_t)(p->n_out * p->n_in) * sizeof *w), *y = malloc((size_t)(n * p->n_out) * sizeof *y);
    qs_matrix_desc desc = {.format = QS_MATRIX_INT, .n_out = p->n_out, .n_in = p->n_in, .packed = p};
    qs_matrix *matrix;
    qs_packed_dequant_rows(p, 0, p->n_out, w);
    OK(qs_matrix_create(&matrix, b, &desc, uses, QS_COMPUTE_F32));
    OK(qs_op_linear(b, matrix, x, n, bias, y));
    for (int64_t r = 0; r < n; r++)
        for (int64_t o = 0; o < p->n_out; o++) {
            double sum = (double)bias[o], size = 0;
            for (int64_t j = 0; j < p->n_in; j++) {
                double part = (double)w[o * p->n_in + j] * (double)x[r * p->n_in + j];
                sum += part;
                size += part * part;
            }
            if (!(fabs((double)y[r * p->n_out + o] - sum) <= 1e-3 * sqrt(size) + 1e-6 * fabs(sum)))
                fail_msg("%s, %s: row %d of %d, output %d is %g, not %g", qs_backend_name(b), qs_matrix_kernel(matrix),
                         (int)r, (int)n, (int)o, (double)y[r * p->n_out + o], sum);
        }
    qs_matrix_destroy(matrix);
    free(x);
    free(bias);
    free(w);
    free(y);
}

static void test_kernels(void **state)
{
    (void)state;
    static const char *const entries[] = {"reference", "cpu-avx2", "cpu"};
    for (size_t e = 0; e < 3; e++) {
        qs_backend *b;
        qs_err err = qs_backend_create(&b, entries[e], 0, 2);
        if (err == QS_E_UNSUPPORTED) continue;
        OK(err);
        for (int64_t n_out = 1; n_out < 60; n_out += 19) {
            qs_packed p = draw(n_out, 20 + (uint64_t)n_out);
            for (int64_t n = 1; n <= 8; n += n == 3 ? 5 : 1) check_products(b, &p, n, QS_USE_GEMV);
            check_products(b, &p, 13, QS_USE_GEMM);
            qs_packed_free(&p);
        }
        qs_backend_destroy(b);
    }
}

/* More segments than have panels: the plain kernel; the same numbers either way, and for any number of threads. */
static void test_segments(void **state)
{
    (void)state;
    enum { LONG = 64 * 32, N_OUT = 40 };
    qs_packed_group groups[64];
    int64_t n_groups = 0;
    for (int32_t at = 0; at < LONG; at += n_groups % 2 == 0 ? 32 : 64)
        groups[n_groups++] = (qs_packed_group){at, n_groups < 9 ? 6 : 3};
    qs_packed p;
    OK(qs_packed_shape_exl2(&p, N_OUT, LONG, groups, n_groups));
    OK(qs_packed_alloc_exl2(&p, groups));
    for (int64_t i = 0; i < N_OUT * p.row_bytes; i++) p.codes[i] = (uint8_t)qs_rng_below(31, (uint64_t)i, 256);
    for (int64_t g = 0; g < n_groups; g++) p.scale_max[g] = qs_f16_from_f32(0.01f);
    check_products(backend, &p, 2, QS_USE_GEMV);
    qs_packed_free(&p);
    p = draw(300, 4);
    float *x = data_normal(3 * N_IN, 41, 1), y[2][3 * 300];
    for (int t = 0; t < 2; t++) {
        qs_backend *b;
        qs_matrix *matrix;
        qs_matrix_desc desc = {.format = QS_MATRIX_INT, .n_out = 300, .n_in = N_IN, .packed = &p};
        OK(qs_backend_create(&b, "cpu", 0, 1 + 2 * t));
        OK(qs_matrix_create(&matrix, b, &desc, QS_USE_GEMV | QS_USE_GEMM, QS_COMPUTE_F32));
        OK(qs_op_linear(b, matrix, x, 3, NULL, y[t]));
        qs_matrix_destroy(matrix);
        qs_backend_destroy(b);
    }
    assert_memory_equal(y[0], y[1], sizeof y[0]);
    free(x);
    qs_packed_free(&p);
}

/* ---- the solver ---- */

static qs_spec option_of(const qs_mix *mix)
{
    qs_spec spec;
    OK(qs_spec_parse(&spec, "exl2:bpw=4"));
    spec.bpw = 0;
    spec.mix = mix;
    return spec;
}

static qs_quant_result solve(qs_workspace *ws, const qs_mix *mix, const float *w, int64_t n_out, int64_t n_in,
                             const float *gram)
{
    qs_factor_cache *factors;
    qs_quant_result result;
    qs_spec spec = option_of(mix);
    OK(qs_factor_cache_create(&factors, ws, gram, n_in, 100, "m"));
    qs_quant_job job = {.name = "m", .weights = w, .n_out = n_out, .n_in = n_in, .factors = factors};
    qs_quant_task task = {.spec = &spec, .job = &job, .out = &result};
    OK(qs_quant_solve(ws, &task, 1));
    qs_factor_cache_destroy(factors);
    return result;
}

/* What the format holds comes back: codes around 0 times one of the sixteen scales that the widest row's allows. */
static void test_exact(void **state)
{
    (void)state;
    enum { N_OUT = 70, WIDTH = 160 };
    float *w = malloc(N_OUT * WIDTH * sizeof *w), *back = malloc(N_OUT * WIDTH * sizeof *back);
    float *gram = data_identity_gram(WIDTH, 1);
    for (int64_t m = 0; m < qs_n_mixes; m++) {
        qs_packed_group groups[QS_MIX_GROUPS_MAX];
        int64_t n_groups = qs_mix_groups(&qs_mixes[m], WIDTH, groups);
        if (groups[n_groups - 1].bits == 2) continue; /* the top code's scale is beyond what a row may get */
        for (int o = 0; o < N_OUT; o++)
            for (int64_t j = 0, g = 0; j < WIDTH; j++) {
                while (g + 1 < n_groups && groups[g + 1].first <= j) g++;
                int top = (1 << (groups[g].bits - 1)) - 1, level = o % 16 + 1;
                int code = j == groups[g].first
                               ? top
                               : (int)qs_rng_below(7, (uint64_t)(o * WIDTH + j), 2 * (uint64_t)top) - top;
                w[o * WIDTH + j] = (float)(code * level * level) * 0x1p-10f;
            }
        qs_quant_result result = solve(workspace, &qs_mixes[m], w, N_OUT, WIDTH, gram);
        qs_packed_dequant_rows(&result.packed, 0, N_OUT, back);
        for (int64_t i = 0; i < N_OUT * WIDTH; i++) assert_true(back[i] == qs_round_to(w[i], QS_ROUND_F16));
        assert_int_equal(result.fallback, 0);
        qs_packed_free(&result.packed);
    }
    memset(w, 0, N_OUT * WIDTH * sizeof *w);
    qs_quant_result zero = solve(workspace, &qs_mixes[0], w, N_OUT, WIDTH, gram);
    qs_packed_dequant_rows(&zero.packed, 0, N_OUT, back);
    for (int64_t i = 0; i < N_OUT * WIDTH; i++) assert_true(back[i] == 0);
    qs_packed_free(&zero.packed);
    free(w);
    free(back);
    free(gram);
}

/* Wider mixes lose less; 4 bits lose no more than RTN's of the same group; threads do not matter. */
static void test_losses(void **state)
{
    (void)state;
    enum { N_OUT = 150, WIDTH = 256 };
    float *w = data_normal(N_OUT * WIDTH, 8, 0.05f), *gram = data_gram(WIDTH, 400, 9);
    qs_workspace *three;
    qs_backend *b;
    double last = INFINITY;
    OK(qs_backend_create(&b, "cpu", 0, 3));
    OK(qs_workspace_create(&three, b));
    for (int64_t m = 0; m < qs_n_mixes; m += 4) {
        qs_quant_result one = solve(workspace, &qs_mixes[m], w, N_OUT, WIDTH, gram);
        qs_quant_result other = solve(three, &qs_mixes[m], w, N_OUT, WIDTH, gram);
        assert_true(one.loss < last && one.loss > 0);
        last = one.loss;
        assert_true(one.loss == other.loss);
        assert_memory_equal(one.packed.codes, other.packed.codes, (size_t)(N_OUT * one.packed.row_bytes));
        assert_memory_equal(one.packed.scale_codes, other.packed.scale_codes, (size_t)(N_OUT * one.packed.n_groups));
        assert_memory_equal(one.packed.scale_max, other.packed.scale_max, (size_t)one.packed.n_groups * 2);
        for (int64_t j = 1; j < WIDTH; j++) assert_true(one.packed.perm[j] != one.packed.perm[j - 1]);
        qs_packed_free(&one.packed);
        qs_packed_free(&other.packed);
    }
    qs_spec rtn;
    qs_quant_result rounded;
    qs_factor_cache *factors;
    OK(qs_spec_parse(&rtn, "rtn:bits=4,group=128"));
    OK(qs_factor_cache_create(&factors, workspace, gram, WIDTH, 100, "m"));
    qs_quant_job job = {.name = "m", .weights = w, .n_out = N_OUT, .n_in = WIDTH, .factors = factors};
    qs_quant_task task = {.spec = &rtn, .job = &job, .out = &rounded};
    OK(qs_quant_solve(workspace, &task, 1));
    qs_quant_result mixed = solve(workspace, &qs_mixes[8], w, N_OUT, WIDTH, gram);
    assert_true(mixed.loss < 0.7 * rounded.loss);
    qs_packed_free(&mixed.packed);
    qs_packed_free(&rounded.packed);
    qs_factor_cache_destroy(factors);
    qs_workspace_destroy(three);
    qs_backend_destroy(b);
    free(w);
    free(gram);
}

/* ---- budgets ---- */

/* The best of all choices within the budget. */
static double try_all(const qs_allocate_job *job)
{
    int64_t n = 1, at[8] = {0};
    double best = INFINITY;
    for (int64_t m = 0; m < job->n_matrices; m++) n *= job->n_options;
    for (int64_t i = 0; i < n; i++) {
        int64_t bits = 0, rest = i;
        double loss = 0;
        for (int64_t m = 0; m < job->n_matrices; m++, rest /= job->n_options) {
            at[m] = m * job->n_options + rest % job->n_options;
            bits += job->bits[at[m]];
            loss += job->loss[at[m]];
        }
        if (bits <= job->budget && loss < best) best = loss;
    }
    return best;
}

static void test_allocation(void **state)
{
    (void)state;
    enum { M = 5, O = 5, TRIALS = 300 };
    double worst = 0;
    int n_best = 0;
    for (uint64_t t = 0; t < TRIALS; t++) {
        int64_t bits[M * O], choice[M], again[M], least = 0, most = 0, used = 0;
        double loss[M * O], bound, bound_again, total = 0, step = 0;
        for (int64_t m = 0; m < M; m++) {
            for (int64_t o = 0; o < O; o++) {
                bits[m * O + o] = 10 + 10 * o + (int64_t)qs_rng_below(t, (uint64_t)(m * O + o), 8);
                loss[m * O + o] = exp(-1.4 * (double)o) * (0.2 + qs_rng_unit(t + 1000, (uint64_t)(m * O + o)));
            }
            least += bits[m * O];
            most += bits[m * O + O - 1];
        }
        qs_allocate_job job = {.n_matrices = M, .n_options = O, .bits = bits, .loss = loss,
                               .budget = least + (int64_t)qs_rng_below(t, 77, (uint64_t)(most - least + 20))};
        OK(qs_allocate(&job, choice, &bound));
        OK(qs_allocate(&job, again, &bound_again));
        assert_memory_equal(choice, again, sizeof choice);
        for (int64_t m = 0; m < M; m++) {
            used += bits[m * O + choice[m]];
            total += loss[m * O + choice[m]];
            for (int64_t o = 0; o < O; o++) step = fmax(step, loss[m * O] - loss[m * O + o]);
        }
        double best = try_all(&job);
        assert_true(used <= job.budget && bound <= best + 1e-12 && best <= total + 1e-12 && total <= bound + step);
        worst = fmax(worst, total / best);
        n_best += total <= best + 1e-12;
        job.budget = least - 1;
        FAILS(QS_E_INPUT, qs_allocate(&job, choice, &bound));
    }
    /* five matrices are the hard case: a step of one of them is much of the whole */
    if (worst > 1.4 || n_best < TRIALS * 3 / 4) fail_msg("%g times the best, %d best", worst, n_best);
}

/* One option that is better at every size is all that is chosen, and steps go where they save most. */
static void test_allocation_by_hand(void **state)
{
    (void)state;
    const int64_t bits[] = {10, 20, 30, 10, 20, 30, 10, 20, 30};
    const double loss[] = {9, 4, 1, 100, 40, 39, 3, 2.9, 0};
    int64_t choice[3];
    double bound;
    qs_allocate_job job = {.n_matrices = 3, .n_options = 3, .bits = bits, .loss = loss, .budget = 40};
    OK(qs_allocate(&job, choice, &bound));
    assert_true(choice[0] == 0 && choice[1] == 1 && choice[2] == 0 && fabs(bound - 52) < 1e-9);
    job.budget = 59; /* 20 for the second's first step and the first's; 9 too few for anything */
    OK(qs_allocate(&job, choice, &bound));
    assert_true(choice[0] == 1 && choice[1] == 1 && choice[2] == 0 && bound < 47 && bound > 44);
    job.budget = 1000;
    OK(qs_allocate(&job, choice, &bound));
    assert_true(choice[0] == 2 && choice[1] == 2 && choice[2] == 2 && fabs(bound - 40) < 1e-9);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_layout),      cmocka_unit_test(test_scales),     cmocka_unit_test(test_weights),
        cmocka_unit_test(test_bad_contents), cmocka_unit_test(test_kernels),   cmocka_unit_test(test_segments),
        cmocka_unit_test(test_exact),       cmocka_unit_test(test_losses),     cmocka_unit_test(test_allocation),
        cmocka_unit_test(test_allocation_by_hand),
    };
    return cmocka_run_group_tests(tests, start, stop);
}
