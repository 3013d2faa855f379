/* AWQ: folding changes no function, the search finds what a plain one finds, and no point is worse than RTN
 * on the calibration set (checklist A0, A6: every q_group_size, A21: 4 bits with zero points). */
#include "tests/model_fixtures.h"
#include "tests/awq_data.h"

#include "base/dtype.h"
#include "metric/memory.h"
#include "quant/awq_search.h"
#include "quant/fold.h"
#include "quant/loss.h"

static const char model_path[] = "tests/fixtures/tiny";

static void parse(qs_spec *specs, const char *const *texts, int n)
{
    for (int i = 0; i < n; i++) OK(qs_spec_parse(&specs[i], texts[i]));
}

/* ---- folding ---- */

/* Two query heads of two channels share one key/value head. */
static void test_fold_by_hand(void **state)
{
    (void)state;
    qs_model_config config = {
        .n_layers = 1, .d_model = 4, .n_heads = 2, .n_kv_heads = 1, .head_dim = 2, .d_ff = 3};
    qs_fold fold;
    int32_t tied[4];
    OK(qs_fold_create(&fold, &config));
    qs_fold_tie_heads(&config, tied);
    assert_memory_equal(tied, ((int32_t[]){0, 1, 0, 1}), sizeof tied);
    memcpy(fold.columns[QS_SITE_O], (float[]){2, 4, 2, 4}, 4 * sizeof(float));
    qs_fold_update(&fold, &config);
    assert_memory_equal(qs_fold_rows(&fold, QS_ROLE_V), ((float[]){2, 4}), 2 * sizeof(float));
    assert_ptr_equal(qs_fold_rows(&fold, QS_ROLE_V_BIAS), qs_fold_rows(&fold, QS_ROLE_V));
    assert_ptr_equal(qs_fold_rows(&fold, QS_ROLE_UP), fold.columns[QS_SITE_DOWN]);
    assert_ptr_equal(qs_fold_rows(&fold, QS_ROLE_ATTN_NORM), fold.columns[QS_SITE_QKV]);
    assert_ptr_equal(qs_fold_rows(&fold, QS_ROLE_MLP_NORM), fold.columns[QS_SITE_GATE_UP]);
    assert_null(qs_fold_rows(&fold, QS_ROLE_Q));
    assert_null(qs_fold_rows(&fold, QS_ROLE_DOWN));
    assert_null(qs_fold_rows(&fold, QS_ROLE_Q_BIAS));
    qs_fold_free(&fold);
}

/* One row (3, 1) at 2 bits, symmetric: the scale is 2 x 3 / 3 = 2 and codes reach from -2 to 1, so Q = (2,
 * 0), E = (1, 1). H = diag(1, 9) makes that a loss of 10 of 18. With the second column scaled by 3, (3, 3) is
 * coded as (2, 2), which counts as (2, 2/3): E = (1, 1/3), a loss of 2 of 18. A row divided by 4 changes
 * neither. */
static void test_loss_by_hand(void **state)
{
    (void)state;
    static const float weights[2] = {3, 1}, gram[3] = {1, 0, 9};
    float columns[2] = {1, 1}, folded[2], rows[1] = {4};
    qs_backend *backend = backend_open("cpu", 1);
    qs_workspace *workspace;
    qs_factor_cache *factors;
    qs_spec spec, rtn;
    const float *h;
    OK(qs_workspace_create(&workspace, backend));
    OK(qs_factor_cache_create(&factors, workspace, gram, 2, 1, "by hand"));
    OK(qs_factor_h_host(factors, &h));
    OK(qs_spec_parse(&spec, "awq:bits=2,group=2,zero=0"));
    OK(qs_spec_parse(&rtn, "rtn:bits=2,group=2"));
    for (int i = 0; i < 3; i++) {
        qs_quant_result result = {0};
        qs_quant_job job = {.name = "by hand",
                            .weights = weights,
                            .n_out = 1,
                            .n_in = 2,
                            .factors = factors,
                            .backend = backend};
        qs_quant_task task = {
            .spec = &spec, .job = &job, .out = &result, .columns = columns, .rows = i == 2 ? rows : NULL};
        if (i > 0) columns[1] = 3;
        OK(qs_awq_fold_weights(workspace, &task, h, false, folded));
        assert_true(folded[0] == 3.0f / (i == 2 ? 4 : 1) &&
                    folded[1] == (i > 0 ? 3.0f : 1.0f) / (i == 2 ? 4 : 1));
        qs_quant_job folded_job = job;
        folded_job.weights = folded;
        qs_quant_task coded = {.spec = &rtn, .job = &folded_job, .out = &result};
        OK(qs_method_rtn.solve(workspace, &coded, 1));
        assert_true(qs_f32_from_f16(result.packed.scales[0]) == (i == 2 ? 0.5f : 2.0f));
        OK(qs_loss_measure(workspace, &task, 1));
        assert_true(fabs(result.loss - (i == 0 ? 10.0 : 2.0) / 18) < 1e-6);
        qs_packed_free(&result.packed);
    }
    qs_factor_cache_destroy(factors);
    qs_workspace_destroy(workspace);
    qs_backend_destroy(backend);
}

/* The model's weights in f32 with random scalings folded in, the same ones in every layer. */
typedef struct folded_model {
    const qs_model *model;
    qs_fold fold;
    float *weights;
} folded_model;

static qs_err get_folded(void *context, int64_t layer, qs_role role, qs_matrix_desc *desc)
{
    folded_model *f = context;
    qs_tensor_info info = qs_model_info(f->model, role, layer);
    const float *columns = f->fold.columns[qs_role_site(role)], *rows = qs_fold_rows(&f->fold, role);
    OK(qs_model_read_f32(f->model, role, layer, f->weights));
    for (int64_t r = 0; r < info.n_out; r++)
        for (int64_t j = 0; j < info.n_in; j++) {
            f->weights[r * info.n_in + j] *= columns[j];
            if (rows != NULL) f->weights[r * info.n_in + j] /= rows[r];
        }
    *desc = (qs_matrix_desc){
        .format = QS_MATRIX_F32, .n_out = info.n_out, .n_in = info.n_in, .dense = f->weights};
    return QS_OK;
}

static qs_err get_folded_vector(void *context, int64_t layer, qs_role role, int64_t n, float *dst,
                                bool *found)
{
    folded_model *f = context;
    const float *divisor = qs_fold_rows(&f->fold, role);
    *found = divisor != NULL;
    if (!*found) return QS_OK;
    OK(qs_model_read_f32(f->model, role, layer, dst));
    for (int64_t i = 0; i < n; i++) dst[i] /= divisor[i];
    return QS_OK;
}

static void fold_at_random(qs_fold *fold, const qs_model_config *config)
{
    int32_t *tied = malloc((size_t)(config->n_heads * config->head_dim) * sizeof *tied);
    OK(qs_fold_create(fold, config));
    qs_fold_tie_heads(config, tied);
    for (int site = 0; site < QS_N_SITES; site++)
        for (int64_t j = 0; j < qs_site_width(config, (qs_site)site); j++) {
            uint64_t channel = (uint64_t)(site == QS_SITE_O ? tied[j] : j);
            fold->columns[site][j] = expf(0.7f * (float)qs_rng_normal(50 + (uint64_t)site, channel));
        }
    qs_fold_update(fold, config);
    free(tied);
}

/* A model deployed for timing: its head is in 16 bits, so the limit is wider. */
static void check_deployed(const fixture *f, const qs_linear_source *source)
{
    int64_t n_vocab = f->config->n_vocab;
    float *logits = floats(n_vocab);
    qs_deployment deployment;
    qs_deployment_options options = {.backend = "cpu", .n_threads = 2, .n_ctx_cap = N_TOKENS};
    OK(qs_deployment_create(&deployment, f->model, source, &options));
    OK(qs_decoder_prefill(deployment.decoder, 0, f->tokens, N_TOKENS, logits));
    assert_true(max_abs_diff(logits, f->logits + (N_TOKENS - 1) * n_vocab, n_vocab) < 2e-2);
    qs_deployment_destroy(&deployment);
    qs_mem_free(logits);
}

/* Every architecture: shared heads, biases, norms of q and k. Forward and decoding read the folded norms. */
static void test_invariance(void **state)
{
    (void)state;
    qs_backend *backend = backend_open("cpu", 2);
    for (int i = 0; i < N_FIXTURES; i++) {
        fixture f = fixture_open(fixture_names[i]);
        folded_model folded = {.model = f.model};
        int64_t n = N_TOKENS * f.config->d_model, n_vocab = f.config->n_vocab;
        float *hidden = floats(n), *without = floats(n), *logits = floats(n_vocab);
        fold_at_random(&folded.fold, f.config);
        folded.weights =
            floats((f.config->d_ff + f.config->n_heads * f.config->head_dim) * f.config->d_model);
        qs_linear_source source = {.get = get_folded, .get_vector = get_folded_vector, .context = &folded};
        OK(qs_forward_hidden(backend, f.model, &source, QS_COMPUTE_F32, f.tokens, 1, N_TOKENS, NULL, hidden));
        assert_true(max_abs_diff(hidden, f.hidden, n) < 5e-4);
        source.get_vector = NULL; /* the check can fail */
        OK(qs_forward_hidden(backend, f.model, &source, QS_COMPUTE_F32, f.tokens, 1, N_TOKENS, NULL,
                             without));
        assert_true(max_abs_diff(without, f.hidden, n) > 0.1);
        source.get_vector = get_folded_vector;
        qs_decoder *decoder;
        qs_decoder_options options = {.batch = 1, .n_ctx_cap = N_TOKENS, .block = {.dense_dtype = QS_F32}};
        OK(qs_decoder_create(&decoder, backend, f.model, &source, &options));
        OK(qs_decoder_prefill(decoder, 0, f.tokens, N_TOKENS, logits));
        assert_true(max_abs_diff(logits, f.logits + (N_TOKENS - 1) * n_vocab, n_vocab) < 2e-3);
        qs_decoder_destroy(decoder);
        check_deployed(&f, &source);
        qs_fold_free(&folded.fold);
        qs_mem_free(folded.weights);
        qs_mem_free(hidden);
        qs_mem_free(without);
        qs_mem_free(logits);
        fixture_close(&f);
    }
    qs_backend_destroy(backend);
}

/* ---- search ---- */

/* tr(E H E^T) of rounding the scaled weights, in plain C. */
static double plain_loss(const float *weights, int64_t n_out, int64_t n_in, const float *h,
                         const float *columns, const qs_spec *spec)
{
    double loss = 0, *e = malloc((size_t)n_in * sizeof *e);
    float *w = malloc((size_t)n_in * sizeof *w);
    qs_scale_rule rule = {.bits = (int)spec->bits, .sym = spec->sym};
    for (int64_t r = 0; r < n_out; r++) {
        for (int64_t j = 0; j < n_in; j++) w[j] = weights[r * n_in + j] * columns[j];
        for (int64_t g = 0; g < n_in; g += spec->group_size) {
            float scale, zero;
            int64_t n = spec->group_size < n_in - g ? spec->group_size : n_in - g;
            qs_scale_find(&rule, w + g, n, 1, NULL, &scale, &zero);
            for (int64_t j = g; j < g + n; j++)
                e[j] = ((double)w[j] - (double)scale * (double)qs_scale_code(w[j], scale, zero, rule.bits)) /
                       (double)columns[j];
        }
        for (int64_t i = 0; i < n_in; i++)
            for (int64_t j = 0; j < n_in; j++) loss += e[i] * (double)h[i * n_in + j] * e[j];
    }
    free(e);
    free(w);
    return loss;
}

/* Candidate c of docs/quantisers.md, "AWQ": identity, x^(c/20) for c = 1 .. 19, x^r / w^(1-r) for c = 20 .. 39. */
static void plain_candidate(int c, const float *weights, int64_t n_out, int64_t n_in, int64_t group,
                            const float *abs_mean, float *columns)
{
    double r = c % 20 / 20.0, low = INFINITY, high = 0;
    double *s = malloc((size_t)n_in * sizeof *s);
    for (int64_t j = 0; j < n_in; j++) {
        double w_mean = 0;
        for (int64_t i = 0; i < n_out; i++) {
            double most = 0;
            for (int64_t k = j / group * group; k < n_in && k < (j / group + 1) * group; k++)
                most = fmax(most, fabs((double)weights[i * n_in + k]));
            w_mean += fabs((double)weights[i * n_in + j]) / (most + 1e-6) / (double)n_out;
        }
        s[j] = fmax(pow((double)abs_mean[j], r) / (c >= 20 ? pow(w_mean, 1 - r) + 1e-4 : 1), 1e-4);
        low = fmin(low, s[j]);
        high = fmax(high, s[j]);
    }
    for (int64_t j = 0; j < n_in; j++) columns[j] = c == 0 ? 1 : (float)(s[j] / sqrt(low * high));
    free(s);
}

typedef struct bench {
    qs_backend *backend;
    qs_workspace *workspace;
    qs_factor_cache *factors;
    float *weights, *gram, *abs_mean;
    int64_t n_out, n_in;
    const float *h;
} bench;

static void bench_open(bench *b, int64_t n_out, int64_t n_in, uint64_t key)
{
    *b = (bench){.n_out = n_out, .n_in = n_in};
    b->backend = backend_open("cpu", 2);
    b->weights = data_normal(n_out * n_in, key, 0.05f);
    b->gram = data_gram(n_in, N_GRAM_TOKENS, key + 1);
    b->abs_mean = abs_of(b->gram, n_in);
    OK(qs_workspace_create(&b->workspace, b->backend));
    OK(qs_factor_cache_create(&b->factors, b->workspace, b->gram, n_in, N_GRAM_TOKENS, "bench"));
    OK(qs_factor_h_host(b->factors, &b->h));
}

static void bench_close(bench *b)
{
    qs_factor_cache_destroy(b->factors);
    qs_workspace_destroy(b->workspace);
    qs_backend_destroy(b->backend);
    free(b->weights);
    free(b->gram);
    free(b->abs_mean);
}

static qs_quant_job job_of(const bench *b)
{
    return (qs_quant_job){.name = "bench",
                          .weights = b->weights,
                          .n_out = b->n_out,
                          .n_in = b->n_in,
                          .factors = b->factors,
                          .backend = b->backend,
                          .abs_mean = b->abs_mean};
}

/* The columns are those of the best candidate, found the long way round. Groups that do not divide the row,
 * too. */
static void test_search(void **state)
{
    (void)state;
    static const char *const texts[] = {"awq:bits=3,group=32", "awq:bits=4,group=32,zero=0",
                                        "awq:bits=4,group=20", "awq:bits=3,group=32,duo=0"};
    bench b;
    bench_open(&b, 40, 72, 7);
    qs_quant_job job = job_of(&b);
    for (size_t t = 0; t < sizeof texts / sizeof *texts; t++) {
        qs_spec spec;
        qs_quant_result result = {0};
        float found[72], candidate[72], best[72];
        double best_loss = INFINITY;
        int which = -1;
        OK(qs_spec_parse(&spec, texts[t]));
        qs_quant_task task = {.spec = &spec, .job = &job, .out = &result, .columns = found};
        qs_awq_site site = {.tasks = &task, .n = 1, .h = b.h};
        OK(qs_awq_find_columns(b.workspace, &site, found));
        for (int c = 0; c < (spec.weight_stats ? 40 : 20); c++) {
            plain_candidate(c, b.weights, b.n_out, b.n_in, spec.group_size, b.abs_mean, candidate);
            double loss = plain_loss(b.weights, b.n_out, b.n_in, b.h, candidate, &spec);
            if (!(loss < best_loss)) continue;
            best_loss = loss;
            which = c;
            memcpy(best, candidate, sizeof best);
        }
        assert_true(which > 0); /* loud channels: something is gained */
        for (int j = 0; j < 72; j++) assert_true(fabsf(found[j] - best[j]) <= 1e-5f * best[j]);
    }
    bench_close(&b);
}

/* Enough rows that a part of them chooses the finalists; clipping lowers the loss further, and tied columns
 * get the same scaling. */
static void test_many_rows(void **state)
{
    (void)state;
    static const char *const texts[] = {"rtn:bits=3,group=32", "awq:bits=3,group=32,zero=0,clip=0",
                                        "awq:bits=3,group=32,zero=0", "awq:bits=3,group=32,zero=0,gptq=1"};
    qs_spec specs[4];
    qs_quant_result results[4] = {0};
    float columns[4][64];
    int32_t tied[64];
    bench b;
    bench_open(&b, 600, 64, 9);
    qs_quant_job job = job_of(&b);
    for (int j = 0; j < 64; j++) tied[j] = j % 32;
    job.tied = tied;
    parse(specs, texts, 4);
    for (int i = 0; i < 4; i++) {
        qs_quant_task task = {
            .spec = &specs[i], .job = &job, .out = &results[i], .columns = i > 0 ? columns[i] : NULL};
        OK(qs_quant_solve(b.workspace, &task, 1));
        qs_packed_free(&results[i].packed);
        if (i > 0) assert_true(results[i].loss < results[i - 1].loss);
        for (int j = 0; i > 0 && j < 32; j++) assert_true(columns[i][j] == columns[i][j + 32]);
    }
    assert_true(results[1].loss < 0.95 * results[0].loss);
    bench_close(&b);
}

/* A task without a place for its scalings, or without the inputs' mean size, is refused. */
static void test_refused(void **state)
{
    (void)state;
    qs_spec spec;
    qs_quant_result result;
    float columns[64];
    bench b;
    bench_open(&b, 8, 64, 11);
    qs_quant_job job = job_of(&b);
    OK(qs_spec_parse(&spec, "awq"));
    qs_quant_task task = {.spec = &spec, .job = &job, .out = &result};
    FAILS(QS_E_USAGE, qs_quant_solve(b.workspace, &task, 1));
    TEXT_HOLDS("bench", "awq-b4-g64-asym");
    task.columns = columns;
    job.abs_mean = NULL;
    FAILS(QS_E_INPUT, qs_quant_solve(b.workspace, &task, 1));
    TEXT_HOLDS("mean size");
    bench_close(&b);
}

/* ---- whole layers ---- */

static const char *const layer_texts[] = {"awq:bits=4,group=32",        "awq:bits=4,group=64,zero=0",
                                          "awq:bits=3,group=32,duo=0",  "awq:bits=8,group=32",
                                          "awq:bits=3,group=32,clip=0", "awq:bits=3,group=32,gptq=1",
                                          "awq:bits=3,group=-1"};
enum { N_LAYER_SPECS = sizeof layer_texts / sizeof *layer_texts };

/* tr(W H W^T), the unit of a matrix's loss. */
static double whole(const qs_model *model, int64_t layer, qs_role role, const float *gram)
{
    qs_tensor_info info = qs_model_info(model, role, layer);
    float *w = floats(info.n_out * info.n_in);
    double sum = 0;
    OK(qs_model_read_f32(model, role, layer, w));
    for (int64_t r = 0; r < info.n_out; r++)
        for (int64_t i = 0, at = 0; i < info.n_in; i++)
            for (int64_t j = i; j < info.n_in; j++)
                sum += (i == j ? 1 : 2) * (double)gram[at++] * (double)w[r * info.n_in + i] *
                       (double)w[r * info.n_in + j];
    qs_mem_free(w);
    return sum;
}

/* Per input, over all its matrices, no point loses more than RTN of its bits, group and symmetry. Rows of
 * v_proj and up_proj are divided by another input's scaling, which moves the rounding of f16 scales: 1 in
 * 1,000 is allowed there. */
static void test_never_worse_than_rtn(void **state)
{
    (void)state;
    qs_backend *backend = backend_open("cpu", 2);
    qs_model *model;
    OK(qs_model_open(&model, model_path));
    statistics s = {.config = qs_model_get_config(model)};
    qs_gram_source grams = source_of(&s);
    for (int i = 0; i < N_LAYER_SPECS; i++) {
        qs_spec specs[2];
        qs_quant_layer layers[2];
        char text[64];
        double sums[2][QS_N_SITES] = {0}, all[2] = {0};
        OK(qs_spec_parse(&specs[0], layer_texts[i]));
        (void)snprintf(text, sizeof text, "rtn:bits=%d,group=%d,sym=%d", (int)specs[0].bits,
                       (int)specs[0].group_size, specs[0].sym);
        OK(qs_spec_parse(&specs[1], text));
        OK(qs_quantize_layer(model, backend, 0, &grams, specs, 2, layers));
        for (int role = 0; role < QS_N_LINEARS; role++) {
            const float *gram;
            int64_t n_tokens;
            OK(get_gram(&s, 0, qs_role_site((qs_role)role), &gram, &n_tokens));
            double unit = whole(model, 0, (qs_role)role, gram);
            for (int k = 0; k < 2; k++) {
                double loss = layers[k].linears[role].loss * unit;
                sums[k][qs_role_site((qs_role)role)] += loss;
                all[k] += loss;
            }
        }
        for (int site = 0; site < QS_N_SITES; site++) {
            double slack = site == QS_SITE_QKV || site == QS_SITE_GATE_UP ? 1.001 : 1 + 1e-5;
            assert_true(sums[0][site] <= slack * sums[1][site]);
        }
        assert_true(all[0] < 0.97 * all[1]);
        for (int k = 0; k < 2; k++) qs_quant_layer_free(&layers[k]);
    }
    statistics_free(&s);
    qs_model_close(model);
    qs_backend_destroy(backend);
}

static void assert_same_layer(const qs_model *model, const qs_quant_layer *a, const qs_quant_layer *b)
{
    for (int role = 0; role < QS_N_LINEARS; role++) {
        const qs_packed *p = &a->linears[role].packed, *q = &b->linears[role].packed;
        assert_memory_equal(p->codes, q->codes, (size_t)(p->n_out * p->row_bytes));
        assert_memory_equal(p->scales, q->scales, (size_t)(p->n_out * p->n_groups) * 2);
        assert_true(a->linears[role].loss == b->linears[role].loss);
    }
    for (int i = 0; i < QS_N_BLOCK_ROLES - QS_N_LINEARS; i++) {
        assert_true((a->vectors[i] == NULL) == (b->vectors[i] == NULL));
        if (a->vectors[i] == NULL) continue;
        int64_t n = qs_model_info(model, (qs_role)(QS_N_LINEARS + i), 0).n_in;
        assert_memory_equal(a->vectors[i], b->vectors[i], (size_t)n * sizeof(float));
    }
}

/* A point is the same alone and beside others, on one thread and on two. */
static void test_alone_and_together(void **state)
{
    (void)state;
    qs_backend *two = backend_open("cpu", 2), *one = backend_open("cpu", 1);
    qs_model *model;
    qs_spec specs[N_LAYER_SPECS + 2];
    qs_quant_layer together[N_LAYER_SPECS + 2], alone;
    OK(qs_model_open(&model, model_path));
    statistics s = {.config = qs_model_get_config(model)};
    qs_gram_source grams = source_of(&s);
    parse(specs + 1, layer_texts, N_LAYER_SPECS);
    OK(qs_spec_parse(&specs[0], "gptq:bits=3,group=32"));
    OK(qs_spec_parse(&specs[N_LAYER_SPECS + 1], "rtn:bits=3,group=32"));
    OK(qs_quantize_layer(model, two, 1, &grams, specs, N_LAYER_SPECS + 2, together));
    for (int i = 0; i < N_LAYER_SPECS + 2; i++) {
        OK(qs_quantize_layer(model, one, 1, &grams, &specs[i], 1, &alone));
        assert_same_layer(model, &alone, &together[i]);
        qs_quant_layer_free(&alone);
        qs_quant_layer_free(&together[i]);
    }
    statistics_free(&s);
    qs_model_close(model);
    qs_backend_destroy(two);
    qs_backend_destroy(one);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fold_by_hand),
        cmocka_unit_test(test_loss_by_hand),
        cmocka_unit_test(test_invariance),
        cmocka_unit_test(test_search),
        cmocka_unit_test(test_many_rows),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_never_worse_than_rtn),
        cmocka_unit_test(test_alone_and_together),
    };
    return cmocka_run_group_tests_name("awq", tests, NULL, NULL);
}
