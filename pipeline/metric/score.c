#include "metric/score.h"

#include <math.h>
#include <string.h>

#include "base/mem.h"

/* A tile of about 64 MiB, but of few enough rows that two fit beside the head's own copy and of enough rows
 * that the head is read from memory seldom. It depends on the vocabulary alone: results must not depend on
 * the machine. */
enum { TILE_FLOATS = 1 << 24, TILE_ROWS_MIN = 16, TILE_ROWS_MAX = 128 };

struct qs_scorer {
    qs_backend *backend;
    int64_t d_model, n_vocab, n_tile;
    qs_matrix *head;
    float *logits_f, *logits_q; /* device [n_tile, n_vocab] */
    double *lse_f, *lse_q;      /* host [n_tile] */
};

qs_err qs_token_scores_alloc(qs_token_scores *out, int64_t n, bool with_kld)
{
    qs_err err;
    *out = (qs_token_scores){.n = n};
    QS_TRY(QS_NEW(out->nll, n, "NLL of positions"));
    QS_TRY(QS_NEW(out->entropy, n, "entropy of positions"));
    QS_TRY(QS_NEW(out->argmax, n, "most probable tokens"));
    if (with_kld) QS_TRY(QS_NEW(out->kld, n, "KL divergence of positions"));
out:
    return err;
}

void qs_token_scores_free(qs_token_scores *scores)
{
    qs_mem_free(scores->nll);
    qs_mem_free(scores->entropy);
    qs_mem_free(scores->argmax);
    qs_mem_free(scores->kld);
    *scores = (qs_token_scores){0};
}

qs_err qs_token_scores_pick(qs_token_scores *out, const qs_token_scores *scores, int64_t n_each, const int64_t *which,
                            int64_t n)
{
    size_t bytes = (size_t)n_each * sizeof(float);
    qs_err err = qs_token_scores_alloc(out, n * n_each, scores->kld != NULL);
    for (int64_t i = 0; i < n && err == QS_OK; i++) {
        int64_t to = i * n_each, from = which[i] * n_each;
        memcpy(out->nll + to, scores->nll + from, bytes);
        memcpy(out->entropy + to, scores->entropy + from, bytes);
        memcpy(out->argmax + to, scores->argmax + from, (size_t)n_each * sizeof *out->argmax);
        if (scores->kld != NULL) memcpy(out->kld + to, scores->kld + from, bytes);
    }
    return err;
}

static int64_t tile_rows(const qs_model_config *config)
{
    int64_t n = TILE_FLOATS / config->n_vocab;
    return n < TILE_ROWS_MIN ? TILE_ROWS_MIN : n > TILE_ROWS_MAX ? TILE_ROWS_MAX : n;
}

size_t qs_scorer_tile_bytes(const qs_model_config *config)
{
    return 2 * (size_t)(tile_rows(config) * config->n_vocab) * sizeof(float);
}

qs_err qs_scorer_make_head(qs_matrix **out, qs_backend *backend, const qs_model *model, const qs_linear_source *linears,
                           qs_compute compute)
{
    qs_block_options options = {.uses = QS_USE_GEMM, .compute = compute, .dense_dtype = QS_F32};
    return qs_forward_head(out, backend, model, linears, &options);
}

qs_err qs_scorer_create(qs_scorer **out, qs_backend *backend, const qs_model *model, qs_compute compute)
{
    const qs_model_config *config = qs_model_get_config(model);
    qs_scorer *scorer = NULL;
    qs_err err;
    *out = NULL;
    QS_TRY(QS_NEW(scorer, 1, "scorer"));
    scorer->backend = backend;
    scorer->d_model = config->d_model;
    scorer->n_vocab = config->n_vocab;
    scorer->n_tile = tile_rows(config);
    QS_TRY(qs_scorer_make_head(&scorer->head, backend, model, NULL, compute));
    QS_TRY(qs_backend_alloc(backend, &scorer->logits_f, qs_scorer_tile_bytes(config) / 2,
                            "logits of the reference"));
    QS_TRY(qs_backend_alloc(backend, &scorer->logits_q, qs_scorer_tile_bytes(config) / 2,
                            "logits of a candidate"));
    QS_TRY(QS_NEW(scorer->lse_f, scorer->n_tile, "log sums"));
    QS_TRY(QS_NEW(scorer->lse_q, scorer->n_tile, "log sums"));
    *out = scorer;
    scorer = NULL;
out:
    qs_scorer_destroy(scorer);
    return err;
}

void qs_scorer_destroy(qs_scorer *scorer)
{
    if (scorer == NULL) return;
    qs_matrix_destroy(scorer->head);
    qs_backend_free(scorer->backend, scorer->logits_f);
    qs_backend_free(scorer->backend, scorer->logits_q);
    qs_mem_free(scorer->lse_f);
    qs_mem_free(scorer->lse_q);
    qs_mem_free(scorer);
}

/* Head and statistics of one tile of a stream. */
static qs_err score_tile(qs_scorer *s, const qs_scored_rows *rows, const int32_t *targets, int64_t first,
                         int64_t n, float *logits, double *lse)
{
    qs_err err;
    int64_t at = rows->offset + first;
    const qs_token_scores *scores = rows->scores;
    qs_logit_stats stats = {
        .lse = lse,
        .nll = scores->nll + at,
        .argmax = scores->argmax != NULL ? scores->argmax + at : NULL,
        .entropy = scores->entropy != NULL ? scores->entropy + at : NULL,
    };
    QS_TRY(qs_op_linear(s->backend, rows->head != NULL ? rows->head : s->head,
                        rows->hidden + first * s->d_model, n, NULL, logits));
    QS_TRY(qs_op_logit_stats(s->backend, logits, targets + first, n, s->n_vocab, &stats));
    for (int64_t i = 0; i < n; i++)
        if (!isfinite(stats.nll[i]) || (stats.entropy != NULL && !isfinite(stats.entropy[i]))) {
            err = qs_fail(QS_E_NUMERIC, "score %s, position %lld: its logits give no finite probability",
                          rows->name, (long long)(at + i));
            goto out;
        }
out:
    return err;
}

qs_err qs_scorer_run(qs_scorer *scorer, const qs_scored_rows *reference, const qs_scored_rows *candidates,
                     int64_t n_candidates, const int32_t *targets, int64_t n)
{
    qs_scorer *s = scorer;
    qs_err err = QS_OK;
    for (int64_t c = 0; c < n_candidates && reference == NULL; c++)
        if (candidates[c].scores->kld != NULL)
            return qs_fail(QS_E_USAGE, "score candidate %lld: its KL divergence needs the reference",
                           (long long)c);
    for (int64_t first = 0; first < n; first += s->n_tile) {
        int64_t n_rows = n - first < s->n_tile ? n - first : s->n_tile;
        if (reference != NULL)
            QS_TRY(score_tile(s, reference, targets, first, n_rows, s->logits_f, s->lse_f));
        for (int64_t c = 0; c < n_candidates; c++) {
            const qs_scored_rows *rows = &candidates[c];
            QS_TRY(score_tile(s, rows, targets, first, n_rows, s->logits_q, s->lse_q));
            if (rows->scores->kld != NULL)
                QS_TRY(qs_op_kld(s->backend, s->logits_f, s->lse_f, s->logits_q, s->lse_q, n_rows, s->n_vocab,
                                 rows->scores->kld + rows->offset + first));
        }
    }
out:
    return err;
}

qs_err qs_scorer_logits(qs_scorer *scorer, const qs_matrix *head, const float *hidden, int64_t n, float *logits)
{
    qs_scorer *s = scorer;
    if (head == NULL) head = s->head;
    qs_err err = QS_OK;
    for (int64_t first = 0; first < n; first += s->n_tile) {
        int64_t n_rows = n - first < s->n_tile ? n - first : s->n_tile;
        QS_TRY(qs_op_linear(s->backend, head, hidden + first * s->d_model, n_rows, NULL, s->logits_q));
        QS_TRY(qs_backend_download(s->backend, logits + first * s->n_vocab, s->logits_q,
                                   (size_t)(n_rows * s->n_vocab) * sizeof *logits));
    }
out:
    return err;
}
