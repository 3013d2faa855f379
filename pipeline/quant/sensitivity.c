#include "quant/sensitivity.h"

#include <string.h>

#include "base/mem.h"
#include "base/minmax.h"
#include "model/forward.h"

enum { BLOCK_ROWS = 1024, HEAD_ROWS = 64 };

/* The halves of a layer, each with a stream of its own. */
enum { ATTENTION, MLP, N_HALVES };
static int half_of(qs_role role)
{
    qs_site site = qs_role_site(role);
    return site == QS_SITE_QKV || site == QS_SITE_O ? ATTENTION : MLP;
}

struct qs_sensitivity {
    qs_backend *backend;
    const qs_model *model;
    const qs_model_config *config;
    int64_t n_windows, n_ctx, n_tokens, n_streams; /* the reference's stream first, then two for each layer */
    int32_t *tokens;
    float *states;          /* device [n_streams + 2, n_tokens, d_model]; the last two for single matrices */
    float *reference, *own; /* host [n_tokens, d_model]: behind a layer */
    double *error;          /* [n_layers * QS_N_LINEARS] of single matrices there, in parts of the state */
    qs_block *block;
    qs_scratch *scratch;
    float *weights; /* the matrix that get_linear gave last */
    const qs_packed *perturbed[QS_N_LINEARS]; /* in place of the model's; NULL = not */
    int64_t n_layers_done;
};

static int64_t stream_floats(const qs_sensitivity *s) { return s->n_tokens * s->config->d_model; }

static float *stream(const qs_sensitivity *s, int64_t index) { return s->states + index * stream_floats(s); }

static int64_t n_streams_of(const qs_model_config *config) { return 1 + config->n_layers * N_HALVES; }

size_t qs_sensitivity_bytes(const qs_model_config *config, int64_t n_tokens)
{
    const int64_t n_states = n_streams_of(config) + 2 /* on the device */ + 2 /* on the host */;
    return (size_t)(n_states * n_tokens * config->d_model) * sizeof(float) +
           qs_scratch_bytes(config, qs_min64(n_tokens, BLOCK_ROWS));
}

double qs_sensitivity_cost(const qs_model_config *config, int64_t n_tokens, double layer_weights)
{
    double n = (double)config->n_layers, own = QS_N_LINEARS + N_HALVES + 1;
    double layer_passes = n * own + N_HALVES * n * (n - 1) / 2; /* of own layers, and of those behind */
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
    int64_t at_once = n_ctx < BLOCK_ROWS ? qs_min64(n_windows, BLOCK_ROWS / n_ctx) : 1;
    QS_TRY(QS_NEW(s->tokens, s->n_tokens, "tokens"));
    memcpy(s->tokens, tokens, (size_t)s->n_tokens * sizeof *tokens);
    QS_TRY(QS_NEW(s->weights, largest_matrix(model), "weights"));
    QS_TRY(QS_NEW(s->reference, stream_floats(s), "states of the reference"));
    QS_TRY(QS_NEW(s->own, stream_floats(s), "states with errors"));
    QS_TRY(QS_NEW(s->error, config->n_layers * QS_N_LINEARS, "errors behind a layer"));
    QS_TRY(qs_backend_alloc(backend, &s->states, (size_t)((s->n_streams + 2) * stream_floats(s)) * sizeof *s->states,
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
    qs_mem_free(s->reference);
    qs_mem_free(s->own);
    qs_mem_free(s->error);
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
    if (s->perturbed[role] != NULL) {
        qs_packed_dequant_rows(s->perturbed[role], 0, info.n_out, s->weights);
        return QS_OK;
    }
    return qs_model_read_f32(s->model, role, layer, s->weights);
}

/* The block of a layer, with those matrices in place of the model's. */
static qs_err load(qs_sensitivity *s, int64_t layer, const qs_packed *const perturbed[QS_N_LINEARS])
{
    static const qs_block_options options = {.uses = QS_USE_GEMM, .compute = QS_COMPUTE_F32, .dense_dtype = QS_F32};
    const qs_linear_source source = {.get = get_linear, .context = s};
    memcpy(s->perturbed, perturbed, sizeof s->perturbed);
    if (s->block != NULL) return qs_block_load(s->block, &source, layer);
    return qs_block_create(&s->block, s->backend, s->model, &source, layer, &options);
}

/* The stream `from` through the layer as it is loaded, into `to`. */
static qs_err branch(qs_sensitivity *s, const float *from, float *to)
{
    qs_err err = qs_backend_copy(s->backend, to, from, (size_t)stream_floats(s) * sizeof *to);
    return err == QS_OK ? qs_block_forward(s->block, s->scratch, to, s->n_windows, s->n_ctx, NULL) : err;
}

/* Mean over tokens of |own - reference|^2 / |reference|^2. */
static double relative_error(const qs_sensitivity *s)
{
    double sum = 0;
    for (int64_t t = 0; t < s->n_tokens; t++) {
        const float *a = s->own + t * s->config->d_model, *b = s->reference + t * s->config->d_model;
        double error = 0, size = 0;
        for (int64_t i = 0; i < s->config->d_model; i++) {
            error += ((double)a[i] - (double)b[i]) * ((double)a[i] - (double)b[i]);
            size += (double)b[i] * (double)b[i];
        }
        sum += size > 0 ? error / size : 0;
    }
    return sum / (double)s->n_tokens;
}

qs_err qs_sensitivity_layer(qs_sensitivity *sensitivity, int64_t layer,
                            const qs_packed *const perturbed[QS_N_LINEARS])
{
    qs_sensitivity *s = sensitivity;
    qs_err err;
    const qs_packed *some[QS_N_LINEARS] = {NULL};
    const int64_t first = 1 + layer * N_HALVES; /* the first stream that leaves here */
    const size_t bytes = (size_t)stream_floats(s) * sizeof *s->states;
    float *before = stream(s, s->n_streams), *alone = stream(s, s->n_streams + 1);
    if (layer != s->n_layers_done)
        return qs_fail(QS_E_USAGE, "measure layer %lld: %lld is next", (long long)layer, (long long)s->n_layers_done);
    QS_TRY(qs_backend_copy(s->backend, before, s->states, bytes));
    QS_TRY(load(s, layer, some));
    QS_TRY(qs_block_forward(s->block, s->scratch, s->states, first * s->n_windows, s->n_ctx, NULL));
    QS_TRY(qs_backend_download(s->backend, s->reference, s->states, bytes));
    for (qs_role role = 0; role < QS_N_LINEARS; role++) {
        memset(some, 0, sizeof some);
        some[role] = perturbed[role];
        QS_TRY(load(s, layer, some));
        QS_TRY(branch(s, before, alone));
        QS_TRY(qs_backend_download(s->backend, s->own, alone, bytes));
        s->error[layer * QS_N_LINEARS + (int64_t)role] = relative_error(s);
    }
    for (int half = 0; half < N_HALVES; half++) {
        for (qs_role role = 0; role < QS_N_LINEARS; role++) some[role] = half_of(role) == half ? perturbed[role] : NULL;
        QS_TRY(load(s, layer, some));
        QS_TRY(branch(s, before, stream(s, first + half)));
    }
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

/* What a half costs, to its matrices by their errors behind the layer. */
static void share_out(const qs_sensitivity *s, const double *of_half, double *divergence)
{
    for (int64_t layer = 0; layer < s->config->n_layers; layer++) {
        const double *error = s->error + layer * QS_N_LINEARS;
        double sum[N_HALVES] = {0};
        for (qs_role role = 0; role < QS_N_LINEARS; role++) sum[half_of(role)] += error[role];
        for (qs_role role = 0; role < QS_N_LINEARS; role++) {
            int half = half_of(role);
            divergence[layer * QS_N_LINEARS + (int64_t)role] =
                sum[half] > 0 ? of_half[layer * N_HALVES + half] * error[role] / sum[half] : 0;
        }
    }
}

qs_err qs_sensitivity_finish(qs_sensitivity *sensitivity, double *divergence)
{
    qs_sensitivity *s = sensitivity;
    double *of_half = NULL;
    const qs_block_options options = {.uses = QS_USE_GEMM, .compute = QS_COMPUTE_F32, .dense_dtype = QS_F32};
    size_t tile_bytes = (size_t)(HEAD_ROWS * s->config->n_vocab) * sizeof(float);
    tile t = {0};
    qs_err err;
    if (s->n_layers_done != s->config->n_layers)
        return qs_fail(QS_E_USAGE, "finish sensitivities: layer %lld is missing", (long long)s->n_layers_done);
    QS_TRY(QS_NEW(of_half, s->n_streams - 1, "divergences"));
    QS_TRY(qs_forward_head(&t.head, s->backend, s->model, NULL, &options));
    QS_TRY(qs_backend_alloc(s->backend, &t.reference, tile_bytes, "logits"));
    QS_TRY(qs_backend_alloc(s->backend, &t.perturbed, tile_bytes, "logits"));
    QS_TRY(qs_forward_final_norm(s->backend, s->model, s->states, s->n_streams * s->n_tokens));
    for (int64_t first = 0; first < s->n_tokens; first += HEAD_ROWS)
        QS_TRY(compare_rows(s, &t, first, qs_min64(HEAD_ROWS, s->n_tokens - first), of_half));
    share_out(s, of_half, divergence);
out:
    qs_mem_free(of_half);
    qs_matrix_destroy(t.head);
    qs_backend_free(s->backend, t.reference);
    qs_backend_free(s->backend, t.perturbed);
    return err;
}
