/* From final hidden states to numbers per scored position. Logits exist only in tiles of rows: one tile of
 * the reference's serves every candidate of the pass, so comparing costs a candidate nothing but its own
 * head. */
#ifndef QS_METRIC_SCORE_H
#define QS_METRIC_SCORE_H

#include "model/forward.h"

/* Host arrays [n], one element per scored position; all but nll may be NULL: not wanted. */
typedef struct qs_token_scores {
    int64_t n;
    float *nll;      /* -ln p(true next token), nats */
    float *entropy;  /* of the next-token distribution, nats */
    int32_t *argmax; /* most probable token, lowest id among equals */
    float *kld;      /* KL(reference || this), nats */
} qs_token_scores;
QS_MUST_CHECK qs_err qs_token_scores_alloc(qs_token_scores *out, int64_t n, bool with_kld);
void qs_token_scores_free(qs_token_scores *scores);
/* Those of some groups of n_each neighbours (windows), in the order of which[n]. */
QS_MUST_CHECK qs_err qs_token_scores_pick(qs_token_scores *out, const qs_token_scores *scores, int64_t n_each,
                                          const int64_t *which, int64_t n);

/* Rows of one stream and where their scores go: elements offset .. offset + n - 1. */
typedef struct qs_scored_rows {
    const char *name;    /* for messages */
    const float *hidden; /* device [n, d_model], after the final norm */
    qs_token_scores *scores;
    int64_t offset;
    const qs_matrix *head; /* NULL = the scorer's, of the reference */
} qs_scored_rows;

typedef struct qs_scorer qs_scorer;
QS_MUST_CHECK qs_err qs_scorer_create(qs_scorer **out, qs_backend *backend, const qs_model *model,
                                      qs_compute compute);
void qs_scorer_destroy(qs_scorer *scorer);
/* Of the two tiles of logits; the head comes on top. */
size_t qs_scorer_tile_bytes(const qs_model_config *config);

/* Scores n rows of the reference (NULL = none, then no candidate may want KL) and of the candidates against
 * host targets[n]. reference->scores->kld must be NULL. QS_E_NUMERIC names stream and position whose
 * probabilities are not finite. */
QS_MUST_CHECK qs_err qs_scorer_run(qs_scorer *scorer, const qs_scored_rows *reference,
                                   const qs_scored_rows *candidates, int64_t n_candidates,
                                   const int32_t *targets, int64_t n);

/* logits[n, n_vocab] (host) of hidden[n, d_model] (device), through the same tiles; head as in qs_scored_rows. */
QS_MUST_CHECK qs_err qs_scorer_logits(qs_scorer *scorer, const qs_matrix *head, const float *hidden, int64_t n,
                                      float *logits);

/* The head of another model of the same shape, or of linears that have their own (NULL = none), for qs_scored_rows;
 * qs_matrix_destroy. */
QS_MUST_CHECK qs_err qs_scorer_make_head(qs_matrix **out, qs_backend *backend, const qs_model *model,
                                         const qs_linear_source *linears, qs_compute compute);

#endif
