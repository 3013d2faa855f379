#include "quant/sensitivity.h"

#include <string.h>

#include "base/mem.h"
#include "model/forward.h"

enum { BLOCK_ROWS = 1024, HEAD_ROWS = 64 };

struct qs_sensitivity {
    qs_backend *backend;
    const qs_model *model;
    const qs_model_config *config;
    int64_t n_windows, n_ctx, n_tokens, n_streams; /* the reference's stream first, then one for each matrix */
    int32_t *tokens;
    float *states; /* device [n_streams, n_tokens, d_model] */
    qs_block *block;
    qs_scratch *scratch;
    float *weights; /* the matrix that get_linear gave last */
    const qs_packed *perturbed;
    qs_role perturbed_role;
    int64_t n_layers_done;
};

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

static int64_t stream_floats(const qs_sensitivity *s) { return s->n_tokens * s->config->d_model; }

static float *stream(const qs_sensitivity *s, int64_t index) { return s->states + index * stream_floats(s); }

static int64_t n_streams_of(const qs_model_config *config) { return 1 + config->n_layers * QS_N_LINEARS; }

size_t qs_sensitivity_bytes(const qs_model_config *config, int64_t n_tokens)
{
    return (size_t)(n_streams_of(config) * n_tokens * config->d_model) * sizeof(float) +
           qs_scratch_bytes(config, least(n_tokens, BLOCK_ROWS));
}

double qs_sensitivity_cost(const qs_model_config *config, int64_t n_tokens, double layer_weights)
{
    double n = (double)config->n_layers, per_layer = QS_N_LINEARS;
    double layer_passes = n * (per_layer + 1) + per_layer * n * (n - 1) / 2; /* of own layers, and of those behind */
    double head_passes = (double)n_streams_of(config);
    return (double)n_tokens *
           (layer_passes * layer_weights + head_passes * (double)(config->n_vocab * config->d_model));
}

static int64_t largest_matrix(const qs_model *model)
{
    int64_t largest = 0;
    for (qs_role role = 0; role < QS_N_LINEARS; role++) {
        qs_tensor_info info = qs_model_info(model, role, 0);
        if (info.n_out * info.n_in > largest) largest = info.n_out * info.n_in;
    }
    return largest;
}

qs_err qs_sensitivity_create(qs_sensitivity **out, qs_backend *backend, const qs_model *model, const int32_t *tokens,
                             int64_t n_windows, int64_t n_ctx)
{
    const qs_model_config *config = qs_model_get_config(model);
    qs_sensitivity *s = NULL;
    qs_err err;
    *out = NULL;
    QS_TRY(QS_NEW(s, 1, "sensitivities"));
    *s = (qs_sensitivity){.backend = backend, .model = model, .config = config, .n_windows = n_windows,
                          .n_ctx = n_ctx, .n_tokens = n_windows * n_ctx, .n_streams = n_streams_of(config)};
    int64_t at_once = n_ctx < BLOCK_ROWS ? least(n_windows, BLOCK_ROWS / n_ctx) : 1;
    QS_TRY(QS_NEW(s->tokens, s->n_tokens, "tokens"));
    memcpy(s->tokens, tokens, (size_t)s->n_tokens * sizeof *tokens);
    QS_TRY(QS_NEW(s->weights, largest_matrix(model), "weights"));
    QS_TRY(qs_backend_alloc(backend, &s->states, (size_t)(s->n_streams * stream_floats(s)) * sizeof *s->states,
                            "residual states of perturbed streams"));
    QS_TRY(qs_scratch_create(&s->scratch, backend, model, at_once * n_ctx));
    QS_TRY(qs_forward_embed(backend, model, s->tokens, s->n_tokens, s->states));
    *out = s;
    s = NULL;
out:
    qs_sensitivity_destroy(s);
    return err;
}

void qs_sensitivity_destroy(qs_sensitivity *sensitivity)
{
    qs_sensitivity *s = sensitivity;
    if (s == NULL) return;
    qs_block_destroy(s->block);
    qs_scratch_destroy(s->scratch);
    qs_backend_free(s->backend, s->states);
    qs_mem_free(s->weights);
    qs_mem_free(s->tokens);
    qs_mem_free(s);
}

/* ---- a layer ---- */

static qs_err get_linear(void *context, int64_t layer, qs_role role, qs_matrix_desc *desc)
{
    qs_sensitivity *s = context;
    qs_tensor_info info = qs_model_info(s->model, role, layer);
    *desc = (qs_matrix_desc){.format = QS_MATRIX_F32, .n_out = info.n_out, .n_in = info.n_in, .dense = s->weights};
    if (s->perturbed != NULL && role == s->perturbed_role) {
        qs_packed_dequant_rows(s->perturbed, 0, info.n_out, s->weights);
        return QS_OK;
    }
    return qs_model_read_f32(s->model, role, layer, s->weights);
}

/* The block of a layer, with one matrix in place of the model's (NULL = with none). */
static qs_err load(qs_sensitivity *s, int64_t layer, qs_role role, const qs_packed *perturbed)
{
    static const qs_block_options options = {.uses = QS_USE_GEMM, .compute = QS_COMPUTE_F32, .dense_dtype = QS_F32};
    const qs_linear_source source = {.get = get_linear, .context = s};
    s->perturbed = perturbed;
    s->perturbed_role = role;
    if (s->block != NULL) return qs_block_load(s->block, &source, layer);
    return qs_block_create(&s->block, s->backend, s->model, &source, layer, &options);
}

qs_err qs_sensitivity_layer(qs_sensitivity *sensitivity, int64_t layer,
                            const qs_packed *const perturbed[QS_N_LINEARS])
{
    qs_sensitivity *s = sensitivity;
    qs_err err;
    int64_t first = 1 + layer * QS_N_LINEARS; /* the first stream that leaves here */
    if (layer != s->n_layers_done)
        return qs_fail(QS_E_USAGE, "measure layer %lld: %lld is next", (long long)layer, (long long)s->n_layers_done);
    for (qs_role role = 0; role < QS_N_LINEARS; role++) {
        float *to = stream(s, first + (int64_t)role);
        QS_TRY(load(s, layer, role, perturbed[role]));
        QS_TRY(qs_backend_copy(s->backend, to, s->states, (size_t)stream_floats(s) * sizeof *to));
        QS_TRY(qs_block_forward(s->block, s->scratch, to, s->n_windows, s->n_ctx, NULL));
    }
    QS_TRY(load(s, layer, QS_ROLE_Q, NULL));
    QS_TRY(qs_block_forward(s->block, s->scratch, s->states, first * s->n_windows, s->n_ctx, NULL));
    s->n_layers_done++;
out:
    return err;
}

/* ---- behind the last one ---- */

typedef struct tile {
    qs_matrix *head;
    float *reference, *perturbed; /* device [HEAD_ROWS, n_vocab] */
    double lse_reference[HEAD_ROWS], lse_perturbed[HEAD_ROWS];
    float kld[HEAD_ROWS];
} tile;

static qs_err compare_rows(qs_sensitivity *s, tile *t, int64_t first, int64_t n, double *divergence)
{
    int64_t d = s->config->d_model, n_vocab = s->config->n_vocab;
    const qs_logit_stats reference = {.lse = t->lse_reference}, perturbed = {.lse = t->lse_perturbed};
    qs_err err;
    QS_TRY(qs_op_linear(s->backend, t->head, s->states + first * d, n, NULL, t->reference));
    QS_TRY(qs_op_logit_stats(s->backend, t->reference, s->tokens + first, n, n_vocab, &reference));
    for (int64_t k = 1; k < s->n_streams; k++) {
        QS_TRY(qs_op_linear(s->backend, t->head, stream(s, k) + first * d, n, NULL, t->perturbed));
        QS_TRY(qs_op_logit_stats(s->backend, t->perturbed, s->tokens + first, n, n_vocab, &perturbed));
        QS_TRY(qs_op_kld(s->backend, t->reference, t->lse_reference, t->perturbed, t->lse_perturbed, n, n_vocab,
                         t->kld));
        for (int64_t i = 0; i < n; i++) divergence[k - 1] += (double)t->kld[i] / (double)s->n_tokens;
    }
out:
    return err;
}

qs_err qs_sensitivity_finish(qs_sensitivity *sensitivity, double *divergence)
{
    qs_sensitivity *s = sensitivity;
    const qs_block_options options = {.uses = QS_USE_GEMM, .compute = QS_COMPUTE_F32, .dense_dtype = QS_F32};
    size_t tile_bytes = (size_t)(HEAD_ROWS * s->config->n_vocab) * sizeof(float);
    tile t = {0};
    qs_err err;
    if (s->n_layers_done != s->config->n_layers)
        return qs_fail(QS_E_USAGE, "finish sensitivities: layer %lld is missing", (long long)s->n_layers_done);
    memset(divergence, 0, (size_t)(s->n_streams - 1) * sizeof *divergence);
    QS_TRY(qs_forward_head(&t.head, s->backend, s->model, NULL, &options));
    QS_TRY(qs_backend_alloc(s->backend, &t.reference, tile_bytes, "logits"));
    QS_TRY(qs_backend_alloc(s->backend, &t.perturbed, tile_bytes, "logits"));
    QS_TRY(qs_forward_final_norm(s->backend, s->model, s->states, s->n_streams * s->n_tokens));
    for (int64_t first = 0; first < s->n_tokens; first += HEAD_ROWS)
        QS_TRY(compare_rows(s, &t, first, least(HEAD_ROWS, s->n_tokens - first), divergence));
out:
    qs_matrix_destroy(t.head);
    qs_backend_free(s->backend, t.reference);
    qs_backend_free(s->backend, t.perturbed);
    return err;
}
