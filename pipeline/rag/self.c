/* The model under test as an encoder: the mean of its final hidden states over the tokens of a text, minus a mean
 * vector that is measured once, with the reference over the corpus, and then frozen. What quantisation does to the
 * model's own idea of a text shows as drift; a mean that followed the candidate would take part of it away. */
#include <string.h>

#include "base/mem.h"
#include "model/forward.h"
#include "model/turned.h"
#include "rag/encoder_impl.h"

enum {
    TOKENS_MAX = 512,    /* of a text; the rest does not count */
    CHUNK_TOKENS = 8192, /* of one pass, padding included */
};

typedef struct self {
    qs_backend *backend;
    const qs_model *model;    /* whose embedding and final norm are used */
    qs_linear_source linears; /* of a candidate */
    bool reference;           /* there is no such source */
    int64_t d_model;
    float *mean; /* [d_model] */
} self;

static void destroy(void *state)
{
    self *s = state;
    qs_mem_free(s->mean);
    qs_mem_free(s);
}

/* ---- one pass ---- */

typedef struct chunk {
    qs_token_list *texts; /* [n] */
    int64_t n, n_ctx;
} chunk;

static void chunk_free(chunk *c)
{
    for (int64_t i = 0; c->texts != NULL && i < c->n; i++) qs_token_list_free(&c->texts[i]);
    qs_mem_free(c->texts);
}

static qs_err tokenise(const self *s, const char *text, qs_token_list *list)
{
    const qs_tokenizer *tokenizer = qs_model_get_tokenizer(s->model);
    if (text[0] == '\0') return QS_OK;
    qs_err err = qs_tokenizer_encode(tokenizer, text, strlen(text), true, list);
    if (list->n > TOKENS_MAX) list->n = TOKENS_MAX;
    return err;
}

/* Attention is causal, so what stands behind a text does not reach it. */
static qs_err run_chunk(const self *s, const chunk *c, float *vectors)
{
    int64_t d = s->d_model;
    int32_t *tokens = NULL;
    float *hidden = NULL;
    qs_err err = QS_OK;
    if (c->n_ctx == 0) return QS_OK;
    QS_TRY(QS_NEW(tokens, c->n * c->n_ctx, "tokens of texts"));
    QS_TRY(QS_NEW(hidden, c->n * c->n_ctx * d, "hidden states of texts"));
    for (int64_t i = 0; i < c->n; i++)
        for (int64_t t = 0; t < c->texts[i].n; t++) tokens[i * c->n_ctx + t] = c->texts[i].ids[t];
    QS_TRY(qs_forward_hidden(s->backend, s->model, s->reference ? NULL : &s->linears, QS_COMPUTE_F32, tokens, c->n,
                             c->n_ctx, NULL, hidden));
    QS_TRY(qs_model_turn_back(s->model, hidden, c->n * c->n_ctx));
    for (int64_t i = 0; i < c->n; i++)
        for (int64_t j = 0; j < d && c->texts[i].n > 0; j++) {
            double sum = 0.0;
            for (int64_t t = 0; t < c->texts[i].n; t++) sum += hidden[(i * c->n_ctx + t) * d + j];
            vectors[i * d + j] = (float)(sum / (double)c->texts[i].n - s->mean[j]);
        }
out:
    qs_mem_free(tokens);
    qs_mem_free(hidden);
    return err;
}

/* As many texts as a pass holds. A text without tokens keeps its zero vector. */
static qs_err encode(void *state, const char *const *texts, int64_t n, float *vectors)
{
    const self *s = state;
    qs_err err = QS_OK;
    for (int64_t first = 0; first < n;) {
        chunk c = {0};
        QS_TRY(QS_NEW(c.texts, n - first, "tokens of texts"));
        while (first + c.n < n) {
            qs_token_list *list = &c.texts[c.n];
            err = qs_context(tokenise(s, texts[first + c.n], list), "text %lld", (long long)(first + c.n));
            int64_t n_ctx = list->n > c.n_ctx ? list->n : c.n_ctx;
            bool full = c.n > 0 && (c.n + 1) * n_ctx > CHUNK_TOKENS;
            if (err != QS_OK || full) {
                qs_token_list_free(list);
                break;
            }
            c.n_ctx = n_ctx;
            c.n++;
        }
        if (err == QS_OK) err = run_chunk(s, &c, vectors + first * s->d_model);
        first += c.n;
        chunk_free(&c);
        QS_TRY(err);
    }
out:
    return err;
}

/* ---- opening ---- */

static qs_err make(qs_encoder_model *out, const self *like)
{
    self *s;
    qs_err err;
    QS_TRY(QS_NEW(s, 1, "encoder"));
    *s = *like;
    out->state = s;
    QS_TRY(QS_NEW(s->mean, s->d_model, "encoder"));
    if (like->mean != NULL) memcpy(s->mean, like->mean, (size_t)s->d_model * sizeof *s->mean);
out:
    if (err != QS_OK) qs_mem_free(s);
    return err;
}

static qs_err follow(void *state, const qs_model *model, const qs_linear_source *linears, qs_encoder_model *out)
{
    self like = *(const self *)state;
    like.model = model;
    like.reference = linears == NULL;
    if (linears != NULL) like.linears = *linears;
    return make(out, &like);
}

/* The mean of the documents' vectors, of which each counts as much as another. */
static qs_err freeze_mean(self *s, const qs_encoder_options *options)
{
    int64_t n = options->n_documents, d = s->d_model;
    float *vectors = NULL;
    qs_err err;
    QS_TRY(QS_NEW(vectors, n * d, "vectors of documents"));
    QS_TRY(encode(s, options->documents, n, vectors));
    for (int64_t j = 0; j < d; j++) {
        double sum = 0.0;
        for (int64_t i = 0; i < n; i++) sum += vectors[i * d + j];
        s->mean[j] = n > 0 ? (float)(sum / (double)n) : 0.0f;
    }
out:
    qs_mem_free(vectors);
    return err;
}

qs_err qs_self_open(qs_encoder **out, const qs_encoder_options *options)
{
    qs_encoder_model model = {.encode = encode, .destroy = destroy, .follow = follow};
    qs_digest digest;
    qs_err err;
    if (options->model == NULL || options->backend == NULL)
        return qs_fail(QS_E_USAGE, "it is the model under test, and there is none here");
    self like = {.backend = options->backend, .model = options->model, .reference = true,
                 .d_model = qs_model_get_config(options->model)->d_model};
    QS_TRY(qs_model_digest(options->model, &digest));
    QS_TRY(make(&model, &like));
    model.dim = like.d_model;
    err = freeze_mean(model.state, options);
    if (err != QS_OK) {
        destroy(model.state);
        goto out;
    }
    qs_digest mean = qs_hash(((const self *)model.state)->mean, (size_t)like.d_model * sizeof(float));
    const uint64_t parts[] = {digest.low, digest.high, mean.low, mean.high};
    model.digest = qs_hash(parts, sizeof parts);
    return qs_encoder_create(out, "self", &model);
out:
    return err;
}
