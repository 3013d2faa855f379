/* Codes found anew on the grids of GGUF's types (gguf_grid.h, gguf_aim.h): what is representable comes back, no type
 * does worse than its plain rounding, losses are those of the bytes as the reader (against peers' files in
 * test_gguf.c) takes them, GPTQ lowers them, and threads change nothing. Formats §6. Checklist A20. */
#include "tests/export_fixtures.h"

#include <math.h>

#include "export/gguf_aim.h"
#include "model/dequant.h"
#include "sanitized.h"

static qs_model *model;

static int start(void **state)
{
    if (scratch_create(state) != 0) return -1;
    model = bare_reader();
    return 0;
}

static int stop(void **state)
{
    qs_model_close(model);
    return scratch_remove(state);
}

/* Inputs that lie near a few directions, so that columns can take up each other's errors. */
typedef struct moments {
    float *packed, *full; /* upper triangle by rows; [n, n] */
    int64_t n, n_tokens;
} moments;

static void make_moments(moments *m, int64_t n)
{
    enum { RANK = 24, TOKENS = 64 };
    float *x, mix[RANK];
    *m = (moments){.n = n, .n_tokens = TOKENS};
    OK(QS_NEW(m->packed, n * (n + 1) / 2, "test"));
    OK(QS_NEW(m->full, n * n, "test"));
    OK(QS_NEW(x, n, "test"));
    for (int t = 0; t < TOKENS; t++) {
        for (int k = 0; k < RANK; k++) mix[k] = (float)qs_rng_unit(7, (uint64_t)(t * RANK + k)) - 0.5f;
        for (int64_t i = 0; i < n; i++) {
            x[i] = 0.05f * ((float)qs_rng_unit(8, (uint64_t)(t * n + i)) - 0.5f);
            for (int k = 0; k < RANK; k++) x[i] += mix[k] * ((float)qs_rng_unit(9, (uint64_t)(k * n + i)) - 0.5f);
        }
        for (int64_t i = 0, at = 0; i < n; i++)
            for (int64_t j = i; j < n; j++) {
                m->packed[at++] += x[i] * x[j];
                m->full[i * n + j] += x[i] * x[j];
                m->full[j * n + i] = m->full[i * n + j];
            }
    }
    qs_mem_free(x);
}

static qs_err get_moments(void *context, int64_t layer, qs_site site, const float **packed_gram, int64_t *n_tokens)
{
    moments *m = context;
    (void)layer;
    (void)site;
    *packed_gram = m->packed;
    *n_tokens = m->n_tokens;
    return QS_OK;
}

static double form(const float *e, int64_t n_out, int64_t n_in, const float *h)
{
    double sum = 0;
    for (int64_t o = 0; o < n_out; o++, e += n_in)
        for (int64_t i = 0; i < n_in; i++) {
            double he = 0;
            if (h == NULL) he = (double)e[i];
            else
                for (int64_t j = 0; j < n_in; j++) he += (double)h[i * n_in + j] * (double)e[j];
            sum += (double)e[i] * he;
        }
    return sum;
}

/* Codes one matrix; returns the reported loss, and the same from the bytes where `whole`, the form of the weights, is
 * given. */
static double aim(const qs_gguf_kind *kind, qs_role role, const float *weights, const qs_gram_source *grams,
                  const float *h, double whole, int n_threads, uint8_t *blocks, double *measured)
{
    qs_tensor_info info = qs_model_info(model, role, 0);
    int64_t n = info.n_out * info.n_in;
    qs_gguf_aim *a;
    float *e;
    OK(qs_gguf_aim_create(&a, model, grams, 0.01, n_threads));
    OK(qs_gguf_aim_matrix(a, kind, 0, role, weights, blocks));
    qs_gguf_aimed facts = qs_gguf_aim_facts(a);
    assert_true(facts.n_matrices == 1 && facts.n_fallbacks == 0);
    qs_gguf_aim_destroy(a);
    if (whole == 0) return facts.loss;
    OK(QS_NEW(e, n, "test"));
    qs_storage_to_f32(kind->storage, e, blocks, n);
    for (int64_t i = 0; i < n; i++) e[i] = weights[i] - e[i];
    *measured = form(e, info.n_out, info.n_in, h) / whole;
    qs_mem_free(e);
    return facts.loss;
}

/* Min-max in blocks of 32 with exact scales: what every type of as many bits has to beat, also with rounded ones. */
static double plain_loss(const float *w, int64_t n, int bits, bool affine)
{
    double error = 0, sum = 0;
    for (int64_t b = 0; b < n; b += 32) {
        float low = w[b], high = w[b], most = 0;
        for (int j = 0; j < 32; j++) {
            low = fminf(low, w[b + j]);
            high = fmaxf(high, w[b + j]);
            most = fmaxf(most, fabsf(w[b + j]));
        }
        float scale = affine ? (high - low) / (float)((1 << bits) - 1) : 2 * most / (float)((1 << bits) - 1);
        for (int j = 0; j < 32; j++) {
            float top = (float)((1 << (bits - 1)) - 1);
            float q = affine ? rintf((w[b + j] - low) / scale) : fminf(rintf(w[b + j] / scale), top);
            double e = (double)w[b + j] - (double)(affine ? q * scale + low : q * scale);
            error += e * e;
            sum += (double)w[b + j] * (double)w[b + j];
        }
    }
    return error / sum;
}

static float *read_weights(qs_role role, int64_t *n)
{
    qs_tensor_info info = qs_model_info(model, role, 0);
    float *w;
    *n = info.n_out * info.n_in;
    OK(QS_NEW(w, *n, "test"));
    OK(qs_model_read_f32(model, role, 0, w));
    return w;
}

/* Numbers that a file of the type holds are coded as themselves, or nearly so where scales are levels of a block's,
 * whose step is found from other numbers than the first time. */
static void check_again(const qs_gguf_kind *kind, uint8_t *blocks, int64_t n, double before)
{
    double measured;
    float *held;
    OK(QS_NEW(held, n, "test"));
    qs_storage_to_f32(kind->storage, held, blocks, n);
    (void)aim(kind, QS_ROLE_K, held, NULL, NULL, form(held, 1, n, NULL), 1, blocks, &measured);
    if (!(measured <= (kind->grid.sub < kind->grid.unit ? 0.2 : 0.02) * before))
        fail_msg("%s: %g again, %g at first", kind->name, measured, before);
    qs_mem_free(held);
}

static void test_rounding(void **state)
{
    (void)state;
    int64_t n;
    float *w = read_weights(QS_ROLE_K, &n);
    uint8_t *blocks;
    OK(QS_NEW(blocks, n * 4, "test"));
    for (const qs_gguf_kind *kind = qs_gguf_kinds; kind->name != NULL; kind++) {
        double measured, plain;
        if (kind->dense) continue;
        double loss = aim(kind, QS_ROLE_K, w, NULL, NULL, form(w, 1, n, NULL), 1, blocks, &measured);
        if (!(fabs(loss - measured) <= 1e-6 * measured))
            fail_msg("%s: loss %g, of the bytes %g", kind->name, loss, measured);
        plain = plain_loss(w, n, kind->grid.bits, kind->grid.affine);
        if (!(loss < (kind->grid.sub < kind->grid.unit ? 0.85 : 0.8) * plain))
            fail_msg("%s: loss %g, plain rounding %g", kind->name, loss, plain);
        check_again(kind, blocks, n, loss);
    }
    qs_mem_free(blocks);
    qs_mem_free(w);
}

/* Blocks of zeros, of one value, of huge and of tiny numbers; rows that are no multiple of 64. */
static void test_extremes(void **state)
{
    (void)state;
    int64_t n;
    float *w = read_weights(QS_ROLE_K, &n), *back;
    uint8_t *blocks;
    double measured;
    OK(QS_NEW(blocks, n * 4, "test"));
    OK(QS_NEW(back, n, "test"));
    for (int64_t i = 0; i < n; i++) {
        static const float values[] = {0, 0.5f, -0.25f, 3e4f, 1e-7f, 1e-42f};
        int kind = (int)(i / 256 % 8);
        if (kind < 6) w[i] = values[kind] * (kind == 3 && i % 2 ? -1.0f : 1.0f);
    }
    for (const qs_gguf_kind *kind = qs_gguf_kinds; kind->name != NULL; kind++) {
        if (kind->dense) continue;
        (void)aim(kind, QS_ROLE_K, w, NULL, NULL, form(w, 1, n, NULL), 1, blocks, &measured);
        qs_storage_to_f32(kind->storage, back, blocks, n);
        for (int64_t i = 0; i < n; i++) {
            assert_true(isfinite(back[i]));
            if (i / 256 % 8 == 0) assert_true(back[i] == 0);
            /* Values of either sign differ in size, by 6 % and more. */
            float part = kind->grid.values != NULL && i / 256 % 8 == 3 ? 0.05f : 0.01f;
            if (i / 256 % 8 < 4) assert_true(fabsf(back[i] - w[i]) <= part * fabsf(w[i]));
        }
    }
    w[1234] = NAN;
    qs_gguf_aim *a;
    OK(qs_gguf_aim_create(&a, model, NULL, 0.01, 1));
    FAILS(QS_E_NUMERIC, qs_gguf_aim_matrix(a, &qs_gguf_kinds[0], 0, QS_ROLE_K, w, blocks));
    TEXT_HOLDS("layers.0.k_proj", "1234", "not finite");
    qs_gguf_aim_destroy(a);
    qs_mem_free(back);
    qs_mem_free(blocks);
    qs_mem_free(w);
}

/* |x - s v|^2 of a block of 32 with the best of the 16 values for each of its numbers. */
static double error_of_values(const float *x, double s)
{
    double sum = 0;
    for (int i = 0; i < QS_GGUF_BLOCK; i++) {
        double least = INFINITY;
        for (int k = 0; k < 16; k++) least = fmin(least, fabs((double)x[i * QS_TILE_ROWS] - s * qs_iq4_values[k]));
        sum += least * least;
    }
    return sum;
}

/* 64 blocks, whose errors are added to what was found and to the least of a fine row of scales of either sign. */
static void try_values(const qs_gguf_grid *grid, uint64_t seed, double *found, double *best)
{
    enum { R = QS_TILE_ROWS };
    static qs_gguf_scales scales;
    float x[QS_GGUF_BLOCK * R] = {0}, left[QS_GGUF_BLOCK * R], s[R], m[R];
    uint8_t codes[QS_GGUF_BLOCK * R];
    for (int i = 0; i < QS_GGUF_BLOCK * R; i++)
        for (int k = 0; k < 4; k++) x[i] += (float)qs_rng_unit(seed, (uint64_t)(4 * i + k)) - 0.5f;
    qs_gguf_grid_block(grid, x, NULL, &scales);
    qs_gguf_grid_sub(grid, x, NULL, false, 0, &scales, s, m);
    memcpy(left, x, sizeof left);
    qs_gguf_grid_code(grid, left, QS_GGUF_BLOCK, s, m, NULL, 0, codes);
    for (int r = 0; r < R; r++) {
        double sum = 0, least = INFINITY, most = 0;
        for (int i = r; i < QS_GGUF_BLOCK * R; i += R) {
            assert_true(codes[i] < 16 && left[i] == x[i] - s[r] * (float)qs_iq4_values[codes[i]]);
            sum += (double)left[i] * (double)left[i];
            most = fmax(most, fabs((double)x[i]));
        }
        double nearest = error_of_values(x + r, (double)s[r]);
        if (!(fabs(sum - nearest) <= 1e-5 * nearest)) fail_msg("row %d: %g, of the nearest values %g", r, sum, nearest);
        for (double t = 0.6; t < 1.8; t += 0.004)
            least = fmin(least, fmin(error_of_values(x + r, t * most / 127), error_of_values(x + r, -t * most / 127)));
        *found += sum;
        *best += least;
    }
}

/* Of a grid of values, against all of them: the code is that of the nearest, and few blocks have a scale that does much
 * better than theirs. */
static void test_values(void **state)
{
    (void)state;
    double found = 0, best = 0;
    for (uint64_t seed = 11; seed < 19; seed++)
        try_values(&qs_gguf_kind_named("iq4_nl")->grid, seed, &found, &best);
    if (!(found <= 1.003 * best)) fail_msg("squared error %g, of the best scales %g", found, best);
}

static void test_gptq(void **state)
{
    (void)state;
    moments m;
    int64_t n;
    float *w = read_weights(QS_ROLE_K, &n);
    uint8_t *blocks, *again;
    make_moments(&m, 256);
    qs_gram_source grams = {.get = get_moments, .context = &m};
    double whole = form(w, n / 256, 256, m.full);
    OK(QS_NEW(blocks, n * 4, "test"));
    OK(QS_NEW(again, n * 4, "test"));
    for (const qs_gguf_kind *kind = qs_gguf_kinds; kind->name != NULL; kind++) {
        double rounded, measured;
        bool some = kind->storage == QS_STORE_Q4_1 || kind->grid.values != NULL || kind->grid.unit > QS_GGUF_BLOCK;
        if (!some || kind->storage == QS_STORE_Q5_K) continue;
        (void)aim(kind, QS_ROLE_K, w, NULL, m.full, whole, 1, blocks, &rounded);
        double loss = aim(kind, QS_ROLE_K, w, &grams, m.full, whole, 1, blocks, &measured);
        if (!(fabs(loss - measured) <= 1e-3 * measured))
            fail_msg("%s: loss %g, of the bytes %g", kind->name, loss, measured);
        if (!(loss < 0.6 * rounded)) fail_msg("%s: loss %g, rounded %g", kind->name, loss, rounded);
        (void)aim(kind, QS_ROLE_K, w, &grams, NULL, 0, 3, again, &measured);
        assert_memory_equal(blocks, again, qs_storage_bytes(kind->storage, n));
    }
    qs_mem_free(m.packed);
    qs_mem_free(m.full);
    qs_mem_free(blocks);
    qs_mem_free(again);
    qs_mem_free(w);
}

/* Matrices of one site in types whose orders of columns differ, as mixtures have them: each as it is alone. */
static void test_one_site(void **state)
{
    (void)state;
    static const char *const kinds[] = {"q4_k", "q6_k", "q4_k", "q8_0"};
    static const qs_role roles[] = {QS_ROLE_Q, QS_ROLE_V, QS_ROLE_K, QS_ROLE_Q};
    moments m;
    uint8_t *blocks, *alone;
    qs_gguf_aim *a;
    int64_t n;
    make_moments(&m, 256);
    qs_gram_source grams = {.get = get_moments, .context = &m};
    n = qs_model_info(model, QS_ROLE_Q, 0).n_out * 256;
    OK(QS_NEW(blocks, n * 4, "test"));
    OK(QS_NEW(alone, n * 4, "test"));
    OK(qs_gguf_aim_create(&a, model, &grams, 0.01, 1));
    for (int i = 0; i < 4; i++) {
        const qs_gguf_kind *kind = qs_gguf_kind_named(kinds[i]);
        float *w = read_weights(roles[i], &n);
        OK(qs_gguf_aim_matrix(a, kind, 0, roles[i], w, blocks));
        (void)aim(kind, roles[i], w, &grams, NULL, 0, 1, alone, NULL);
        assert_memory_equal(blocks, alone, qs_storage_bytes(kind->storage, n));
        qs_mem_free(w);
    }
    qs_gguf_aim_destroy(a);
    qs_mem_free(m.packed);
    qs_mem_free(m.full);
    qs_mem_free(blocks);
    qs_mem_free(alone);
}

/* |a - b|^2 / |b|^2 of a matrix of two models. */
static double model_error(const qs_model *made, const qs_model *parent, qs_role role, int64_t layer)
{
    qs_tensor_info info = qs_model_info(parent, role, layer);
    float *a, *b;
    double error = 0, sum = 0;
    int64_t n = info.n_out * info.n_in;
    OK(QS_NEW(a, n, "test"));
    OK(QS_NEW(b, n, "test"));
    OK(qs_model_read_f32(made, role, layer, a)); /* rows of Q and K back in their order */
    OK(qs_model_read_f32(parent, role, layer, b));
    for (int64_t i = 0; i < n; i++) {
        error += (double)(a[i] - b[i]) * (double)(a[i] - b[i]);
        sum += (double)b[i] * (double)b[i];
    }
    qs_mem_free(a);
    qs_mem_free(b);
    return error / sum;
}

/* The types that a file has for rows of whole blocks and for rows of 704, and how far its numbers may be off. */
typedef struct wanted_file {
    const char *type;
    qs_storage whole, narrow;
    double error;
} wanted_file;

static void check_file(const char *artifact, const wanted_file *wanted)
{
    char name[32];
    scratch_path out;
    (void)snprintf(name, sizeof name, "%s.gguf", wanted->type);
    OK(export_to(model, artifact, "gguf", wanted->type, scratch(out, name)));
    qs_model *made = model_open(out);
    for (qs_role role = 0; role < QS_N_LINEARS; role++) {
        double error = model_error(made, model, role, 3);
        assert_int_equal(qs_model_info(made, role, 3).storage, role == QS_ROLE_DOWN ? wanted->narrow : wanted->whole);
        if (!(error < wanted->error)) fail_msg("%s, %s: %g", name, qs_role_name(role), error);
    }
    assert_int_equal(qs_model_info(made, QS_ROLE_EMBED, 0).storage, QS_STORE_F16);
    qs_model_close(made);
}

/* The whole file: rows of 704 in the narrow type, the rest in the one asked for, and what is refused. */
static void test_file(void **state)
{
    (void)state;
    scratch_path artifact, out;
    (void)made_up_artifact(artifact, model, "nf4:block=64,dq=1,compute=bf16", 0);
    check_file(artifact, &(wanted_file){"q4_k", QS_STORE_Q4_K, QS_STORE_Q5_0, 0.01});
    if (!SANITIZED) check_file(artifact, &(wanted_file){"iq4_xs", QS_STORE_IQ4_XS, QS_STORE_IQ4_NL, 0.0075});
    check_file(artifact, &(wanted_file){"q2_k", QS_STORE_Q2_K, QS_STORE_Q4_0, 0.09});
    (void)made_up_artifact(artifact, model, "awq:bits=4,group=64", 0);
    FAILS(QS_E_UNSUPPORTED, export_to(model, artifact, "gguf", "q6_k", scratch(out, "refused.gguf")));
    TEXT_HOLDS("awq-b4-g64-asym", "scaled", "--type q4_1");
    (void)made_up_artifact(artifact, model, "nf4:block=64,dq=1,compute=bf16", 0);
    FAILS(QS_E_UNSUPPORTED, export_to(model, artifact, "gguf", NULL, out));
    TEXT_HOLDS("q_proj", "nf4", "--type f16");
    assert_false(qs_file_exists(out));
    assert_no_parts();
}

/* Types of the tables: each as its options say, the matrices as ever; a table that has the type is taken over; a tied
 * head has no type of its own. */
static void test_tables(void **state)
{
    (void)state;
    scratch_path artifact, out, again;
    (void)made_up_artifact(artifact, model, "rtn:bits=4,group=64,sym=1", 0);
    qs_export_job job = {.out = scratch(out, "tied.gguf"), .embedding_type = "q6_k"};
    OK(export_job(job, model, artifact, "gguf"));
    qs_model *made = model_open(out);
    assert_int_equal(qs_model_info(made, QS_ROLE_Q, 0).storage, QS_STORE_Q4_0);
    assert_int_equal(qs_model_info(made, QS_ROLE_EMBED, 0).storage, QS_STORE_Q6_K);
    assert_true(model_error(made, model, QS_ROLE_EMBED, 0) < 6e-4);
    qs_model_close(made);
    job.head_type = "q6_k";
    FAILS(QS_E_USAGE, export_job(job, model, artifact, "gguf"));
    TEXT_HOLDS("--head-type q6_k", "--embedding-type");
    job = (qs_export_job){.out = scratch(again, "bad.gguf"), .embedding_type = "q6"};
    FAILS(QS_E_USAGE, export_job(job, model, artifact, "gguf"));
    TEXT_HOLDS("--embedding-type q6:", "q6_k");
    assert_false(qs_file_exists(again));

    qs_model *own = model_open("tests/fixtures/models/llama2"); /* rows of 64, which Q4_K leaves to Q5_0 */
    (void)made_up_artifact(artifact, own, "rtn:bits=4,group=32,sym=1", 0);
    job = (qs_export_job){.out = scratch(out, "own.gguf"), .type = "f16", .embedding_type = "q4_k",
                          .head_type = "q8_0"};
    OK(export_job(job, own, artifact, "gguf"));
    made = model_open(out);
    assert_int_equal(qs_model_info(made, QS_ROLE_Q, 0).storage, QS_STORE_F16);
    assert_int_equal(qs_model_info(made, QS_ROLE_EMBED, 0).storage, QS_STORE_Q5_0);
    assert_int_equal(qs_model_info(made, QS_ROLE_HEAD, 0).storage, QS_STORE_Q8_0);
    assert_true(model_error(made, own, QS_ROLE_EMBED, 0) < 3e-3);
    assert_true(model_error(made, own, QS_ROLE_HEAD, 0) < 1e-4);
    qs_model_close(own);

    /* From that file as the parent: the head is taken over, and what is written is no copy of the rest. */
    (void)made_up_artifact(artifact, made, "rtn:bits=4,group=32,sym=1", 0);
    job = (qs_export_job){.out = scratch(again, "again.gguf"), .embedding_type = "q8_0", .head_type = "q8_0"};
    OK(export_job(job, made, artifact, "gguf"));
    own = model_open(again);
    assert_true(model_error(own, made, QS_ROLE_HEAD, 0) == 0);
    assert_int_equal(qs_model_info(own, QS_ROLE_EMBED, 0).storage, QS_STORE_Q8_0);
    qs_model_close(own);
    qs_model_close(made);
    assert_no_parts();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rounding),
        cmocka_unit_test(test_extremes),
        cmocka_unit_test(test_values),
        cmocka_unit_test(test_gptq),
        cmocka_unit_test(test_one_site),
        cmocka_unit_test(test_file),
        cmocka_unit_test(test_tables),
    };
    return cmocka_run_group_tests_name("export_gguf_aim", tests, start, stop);
}
