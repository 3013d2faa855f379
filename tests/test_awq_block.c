/* AWQ's scalings rated by the output of the block (loss=block): the loss against a block in plain C, a model in which
 * the two losses choose differently, and that nothing chosen loses more than rounding to nearest. Checklist A0, A6. */
#include "tests/scratch.h"

#include "tests/plain_block.h"

#include "base/dtype.h"
#include "base/rng.h"
#include "model/forward.h"
#include "model/shards.h"
#include "quant/block_loss.h"
#include "quant/quant_run.h"

enum { N_CTX = 24, N_WINDOWS = 2, N_TOKENS = N_CTX * N_WINDOWS, D = 64 };

static const char tiny[] = "tests/fixtures/tiny";
static int32_t tokens[N_TOKENS];
static double *embedded; /* [N_TOKENS, D] */

/* ---- statistics of the tokens themselves, layer by layer, in full precision ---- */

typedef struct bank {
    const qs_model_config *config;
    float *gram[2][QS_N_SITES], *abs_mean[2][QS_N_SITES]; /* upper triangle by rows, [width] */
    double *output[2];                                    /* [N_TOKENS, D] of each layer */
    double *input[2];
} bank;

static void collect_site(bank *b, int layer, int site, plain_inputs *inputs, bool first)
{
    int64_t n = qs_site_width(b->config, (qs_site)site), at = 0;
    static const int plain_site[QS_N_SITES] = {
        [QS_SITE_QKV] = 0, [QS_SITE_O] = 1, [QS_SITE_GATE_UP] = 2, [QS_SITE_DOWN] = 3};
    if (first) b->gram[layer][site] = calloc((size_t)(n * (n + 1) / 2), sizeof(float));
    if (first) b->abs_mean[layer][site] = calloc((size_t)n, sizeof(float));
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = i; j < n; j++, at++)
            for (int t = 0; t < N_CTX; t++)
                b->gram[layer][site][at] +=
                    (float)((*inputs)[plain_site[site]][t][i] * (*inputs)[plain_site[site]][t][j]);
    for (int64_t i = 0; i < n; i++)
        for (int t = 0; t < N_CTX; t++)
            b->abs_mean[layer][site][i] += (float)fabs((*inputs)[plain_site[site]][t][i]) / N_TOKENS;
}

static bank collect(const qs_model *model)
{
    static plain_inputs inputs;
    bank b = {.config = qs_model_get_config(model)};
    double *hidden = malloc(sizeof(double) * N_TOKENS * D);
    memcpy(hidden, embedded, sizeof(double) * N_TOKENS * D);
    for (int layer = 0; layer < 2; layer++) {
        plain_block block = plain_block_of(model, layer);
        b.input[layer] = malloc(sizeof(double) * N_TOKENS * D);
        b.output[layer] = malloc(sizeof(double) * N_TOKENS * D);
        memcpy(b.input[layer], hidden, sizeof(double) * N_TOKENS * D);
        for (int w = 0; w < N_WINDOWS; w++) {
            plain_forward(&block, hidden + w * N_CTX * D, N_CTX, &inputs);
            for (int site = 0; site < QS_N_SITES; site++) collect_site(&b, layer, site, &inputs, w == 0);
        }
        memcpy(b.output[layer], hidden, sizeof(double) * N_TOKENS * D);
        plain_block_free(&block);
    }
    free(hidden);
    return b;
}

static void bank_free(bank *b)
{
    for (int layer = 0; layer < 2; layer++) {
        for (int site = 0; site < QS_N_SITES; site++) {
            free(b->gram[layer][site]);
            free(b->abs_mean[layer][site]);
        }
        free(b->input[layer]);
        free(b->output[layer]);
    }
}

static qs_err get_gram(void *context, int64_t layer, qs_site site, const float **gram, int64_t *n_tokens)
{
    *gram = ((bank *)context)->gram[layer][site];
    *n_tokens = N_TOKENS;
    return QS_OK;
}

static qs_err get_abs(void *context, int64_t layer, qs_site site, const float **abs_mean)
{
    *abs_mean = ((bank *)context)->abs_mean[layer][site];
    return QS_OK;
}

static qs_gram_source source_of(bank *b)
{
    return (qs_gram_source){.get = get_gram, .get_abs = get_abs, .context = b, .tokens = tokens, .n_windows = N_WINDOWS,
                            .n_ctx = N_CTX};
}

/* What a block makes of the layer's input, as a loss. */
static double loss_of(const bank *b, const plain_block *block, int layer)
{
    double *hidden = malloc(sizeof(double) * N_TOKENS * D);
    memcpy(hidden, b->input[layer], sizeof(double) * N_TOKENS * D);
    for (int w = 0; w < N_WINDOWS; w++) plain_forward(block, hidden + w * N_CTX * D, N_CTX, NULL);
    double loss = plain_loss(b->output[layer], hidden, N_TOKENS, D);
    free(hidden);
    return loss;
}

/* The same of codes, with the norms that scalings were folded into. */
static double loss_of_codes(const bank *b, const qs_model *model, const qs_quant_layer *quant, int layer)
{
    plain_block block = plain_block_of(model, layer);
    for (qs_role role = 0; role < QS_N_LINEARS; role++)
        qs_packed_dequant_rows(&quant->linears[role].packed, 0, quant->linears[role].packed.n_out, block.linears[role]);
    const float *attn = quant->vectors[QS_ROLE_ATTN_NORM - QS_N_LINEARS],
                *mlp = quant->vectors[QS_ROLE_MLP_NORM - QS_N_LINEARS];
    if (attn != NULL) memcpy(block.attn_norm, attn, D * sizeof *attn);
    if (mlp != NULL) memcpy(block.mlp_norm, mlp, D * sizeof *mlp);
    double loss = loss_of(b, &block, layer);
    plain_block_free(&block);
    return loss;
}

static int start(void **state)
{
    if (scratch_create(state) != 0) return -1;
    qs_model *model;
    OK(qs_model_open(&model, tiny));
    float *table = plain_read(model, QS_ROLE_EMBED, 0);
    embedded = malloc(sizeof(double) * N_TOKENS * D);
    for (int t = 0; t < N_TOKENS; t++) {
        tokens[t] = (int32_t)qs_rng_below(77, (uint64_t)t, 384);
        for (int i = 0; i < D; i++) embedded[t * D + i] = (double)table[tokens[t] * D + i];
    }
    free(table);
    qs_model_close(model);
    return 0;
}

static int stop(void **state)
{
    free(embedded);
    return scratch_remove(state);
}

/* ---- the loss ---- */

/* Some matrices of both layers replaced, then some of them back: only what changed is loaded. */
static void test_loss(void **state)
{
    (void)state;
    qs_backend *backend;
    qs_block_loss *losses;
    qs_model *model;
    double loss;
    OK(qs_model_open(&model, tiny));
    OK(qs_backend_create(&backend, "cpu", 0, 2));
    bank b = collect(model);
    OK(qs_block_loss_create(&losses, backend, model, tokens, N_WINDOWS, N_CTX));
    FAILS(QS_E_USAGE, qs_block_loss_layer(losses, 1));
    TEXT_HOLDS("layer 1", "layer 0 is next");
    for (int layer = 0; layer < 2; layer++) {
        plain_block block = plain_block_of(model, layer);
        OK(qs_block_loss_layer(losses, layer));
        OK(qs_block_loss_measure(losses, block.linears, 0, &loss));
        assert_true(loss < 1e-10); /* the model's own */
        for (qs_role role = 0; role < QS_N_LINEARS; role++) {
            qs_tensor_info info = qs_model_info(model, role, layer);
            float *own = block.linears[role], *other = malloc((size_t)(info.n_out * info.n_in) * sizeof *other);
            for (int64_t i = 0; i < info.n_out * info.n_in; i++)
                other[i] = own[i] + 0.02f * (float)qs_rng_normal(5, (uint64_t)i);
            block.linears[role] = other;
            OK(qs_block_loss_measure(losses, block.linears, 1u << role, &loss));
            double wanted = loss_of(&b, &block, layer);
            assert_true(wanted > 1e-7 && fabs(loss / wanted - 1) < 1e-3);
            if (role == QS_ROLE_V) { /* back again */
                block.linears[role] = own;
                free(other);
                OK(qs_block_loss_measure(losses, block.linears, 1u << role, &loss));
                assert_true(fabs(loss / loss_of(&b, &block, layer) - 1) < 1e-3);
            } else {
                free(own);
            }
        }
        plain_block_free(&block);
    }
    qs_block_loss_destroy(losses);
    bank_free(&b);
    qs_backend_destroy(backend);
    qs_model_close(model);
}

/* ---- what is chosen ---- */

static void quantise(const qs_model *model, bank *b, int n_threads, const char *const *texts, int n,
                     qs_quant_layer (*layers)[8])
{
    qs_backend *backend;
    qs_quantizer *quantizer;
    qs_spec specs[8];
    qs_gram_source grams = source_of(b);
    for (int i = 0; i < n; i++) OK(qs_spec_parse(&specs[i], texts[i]));
    OK(qs_backend_create(&backend, "cpu", 0, n_threads));
    OK(qs_quantizer_create(&quantizer, model, backend, &grams, specs, n));
    for (int layer = 0; layer < 2; layer++) OK(qs_quantizer_layer(quantizer, layer, layers[layer]));
    qs_quantizer_destroy(quantizer);
    qs_backend_destroy(backend);
}

static void free_layers(qs_quant_layer (*layers)[8], int n)
{
    for (int layer = 0; layer < 2; layer++)
        for (int i = 0; i < n; i++) qs_quant_layer_free(&layers[layer][i]);
}

/* In the order of the specs, with what RTN makes of their bits, groups and zero points before each. */
static void test_never_worse_than_rtn(void **state)
{
    (void)state;
    static const char *const texts[] = {
        "rtn:bits=3,group=32,sym=0", "awq:bits=3,group=32,loss=block",
        "rtn:bits=4,group=64,sym=1", "awq:bits=4,group=64,zero=0,loss=block,duo=0",
        "rtn:bits=3,group=-1,sym=0", "awq:bits=3,group=-1,loss=block,clip=0",
    };
    enum { N = sizeof texts / sizeof *texts };
    static qs_quant_layer layers[2][8];
    double gained = 0;
    qs_model *model;
    OK(qs_model_open(&model, tiny));
    bank b = collect(model);
    quantise(model, &b, 2, texts, N, layers);
    for (int layer = 0; layer < 2; layer++)
        for (int i = 0; i < N; i += 2) {
            double rounded = loss_of_codes(&b, model, &layers[layer][i], layer),
                   chosen = loss_of_codes(&b, model, &layers[layer][i + 1], layer);
            assert_true(chosen <= rounded * (1 + 1e-3)); /* codes may differ where f16 scales round elsewhere */
            gained += 1 - chosen / rounded;
        }
    assert_true(gained > 0.1); /* and something is won */
    free_layers(layers, N);
    bank_free(&b);
    qs_model_close(model);
}

/* One and two threads, alone and beside others: the same codes and norms. */
static void test_threads(void **state)
{
    (void)state;
    static const char *const texts[] = {"awq:bits=3,group=32,loss=block", "awq:bits=3,group=32",
                                        "awq:bits=3,group=32,loss=block,gptq=1",
                                        "awq:bits=3,group=32,loss=block,clip=0"};
    static qs_quant_layer one[2][8], two[2][8];
    qs_model *model;
    OK(qs_model_open(&model, tiny));
    bank b = collect(model);
    quantise(model, &b, 1, texts, 1, one);
    quantise(model, &b, 2, texts, 4, two);
    for (int layer = 0; layer < 2; layer++) {
        const qs_quant_layer *a = &one[layer][0], *c = &two[layer][0];
        for (qs_role role = 0; role < QS_N_LINEARS; role++) {
            const qs_packed *p = &a->linears[role].packed, *q = &c->linears[role].packed;
            assert_memory_equal(p->codes, q->codes, (size_t)(p->n_out * p->row_bytes));
            assert_memory_equal(p->scales, q->scales, (size_t)(p->n_out * p->n_groups) * sizeof *p->scales);
        }
        const int at = QS_ROLE_ATTN_NORM - QS_N_LINEARS;
        assert_memory_equal(a->vectors[at], c->vectors[at], D * sizeof(float));
        /* Without cuts and before GPTQ the same scalings are looked for. */
        assert_memory_equal(two[layer][2].vectors[at], two[layer][3].vectors[at], D * sizeof(float));
    }
    free_layers(one, 1);
    free_layers(two, 4);
    bank_free(&b);
    qs_model_close(model);
}

/* ---- where the losses disagree ---- */

/* Multiplies a matrix of layer 0 in <dir>/model.safetensors, f16. */
static void scale_tensor(const char *dir, const char *name, const float *factors, int64_t n_factors)
{
    scratch_path path;
    qs_shards shards;
    OK(qs_shards_open(&shards, dir));
    const qs_shard_entry *entry = qs_shards_find(&shards, name);
    assert_non_null(entry);
    long place = (long)(entry->tensor->data - entry->shard->file.map.data);
    int64_t n = (int64_t)entry->tensor->bytes / 2;
    uint16_t *data = malloc((size_t)n * sizeof *data);
    memcpy(data, entry->tensor->data, (size_t)n * sizeof *data);
    qs_shards_close(&shards);
    for (int64_t i = 0; i < n; i++) data[i] = qs_f16_from_f32(qs_f32_from_f16(data[i]) * factors[i % n_factors]);
    OK(qs_path_format(path, "%s/model.safetensors", dir));
    FILE *file = fopen(path, "r+b");
    assert_true(file != NULL && fseek(file, place, SEEK_SET) == 0 && fwrite(data, 2, (size_t)n, file) == (size_t)n);
    assert_int_equal(fclose(file), 0);
    free(data);
}

/* k_proj is zero, so that every token attends to all before it alike, whatever q_proj says; and q_proj is large, in
 * other columns than v_proj is. The sum of the losses of q, k and v listens to q, which the block does not. */
static void test_planted(void **state)
{
    (void)state;
    static const char *const texts[] = {"awq:bits=3,group=-1,clip=0", "awq:bits=3,group=-1,clip=0,loss=block"};
    static const char prefix[] = "model.layers.0.self_attn.";
    static qs_quant_layer layers[2][8];
    const float none = 0;
    float loud_q[D], loud_v[D];
    char command[4 * QS_PATH_BYTES], name[128];
    scratch_path dir;
    qs_model *model;
    for (int j = 0; j < D; j++) {
        loud_q[j] = j < D / 2 ? 40 : 4;
        loud_v[j] = j < D / 2 ? 0.2f : 4;
    }
    (void)snprintf(command, sizeof command, "cp -r %s '%s'", tiny, scratch(dir, "planted"));
    assert_int_equal(system(command), 0);
    (void)snprintf(name, sizeof name, "%sk_proj.weight", prefix);
    scale_tensor(dir, name, &none, 1);
    (void)snprintf(name, sizeof name, "%sq_proj.weight", prefix);
    scale_tensor(dir, name, loud_q, D);
    (void)snprintf(name, sizeof name, "%sv_proj.weight", prefix);
    scale_tensor(dir, name, loud_v, D);
    OK(qs_model_open(&model, dir));
    bank b = collect(model);
    quantise(model, &b, 2, texts, 2, layers);
    const qs_quant_layer *linear = &layers[0][0], *block = &layers[0][1];
    const float *by_linear = linear->vectors[QS_ROLE_ATTN_NORM - QS_N_LINEARS],
                *by_block = block->vectors[QS_ROLE_ATTN_NORM - QS_N_LINEARS];
    assert_memory_not_equal(by_linear, by_block, D * sizeof *by_linear);
    assert_true(linear->linears[QS_ROLE_Q].loss < block->linears[QS_ROLE_Q].loss);
    assert_true(loss_of_codes(&b, model, block, 0) < loss_of_codes(&b, model, linear, 0));
    free_layers(layers, 2);
    bank_free(&b);
    qs_model_close(model);
}

/* ---- what is refused ---- */

static void test_refused(void **state)
{
    (void)state;
    qs_backend *backend;
    qs_quantizer *quantizer = NULL;
    qs_model *model;
    qs_spec spec;
    OK(qs_model_open(&model, tiny));
    OK(qs_backend_create(&backend, "cpu", 0, 1));
    bank b = collect(model);
    qs_gram_source grams = source_of(&b);
    grams.tokens = NULL;
    OK(qs_spec_parse(&spec, "awq:bits=4,group=32,loss=block"));
    FAILS(QS_E_USAGE, qs_quantizer_create(&quantizer, model, backend, &grams, &spec, 1));
    TEXT_HOLDS("awq-b4-g32-asym-block", "tokens", "loss=linear");
    bank_free(&b);
    qs_backend_destroy(backend);
    qs_model_close(model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_loss), cmocka_unit_test(test_never_worse_than_rtn),
                                       cmocka_unit_test(test_threads), cmocka_unit_test(test_planted),
                                       cmocka_unit_test(test_refused)};
    return cmocka_run_group_tests_name("awq_block", tests, start, stop);
}
