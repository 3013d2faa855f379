/* The pass that measures quality: the reference once, then candidates in groups, each against the stored
 * reference. Candidates share no weights with the reference (their linears come from their own artifacts), so
 * running the reference first costs nothing over running it alongside, and a kill loses one group at most. */
#ifndef QS_METRIC_QUALITY_PASS_H
#define QS_METRIC_QUALITY_PASS_H

#include "metric/baseline.h"
#include "metric/pass.h"
#include "metric/race.h"

/* Artifacts of a finished group appear together: more in a group means more to lose, fewer means that each
 * carries more of the reference's head. */
enum { QS_GROUP_MAX = 8 };

typedef struct qs_quality_job {
    qs_backend *backend;
    qs_model *model;
    const qs_windows *windows;
    qs_compute compute;
    size_t budget_bytes; /* for residual states */
    const int64_t *order; /* [n_windows] candidates race in this order of windows; NULL = they take all */
} qs_quality_job;

/* One stream: where its scores and dumps go, and what it took. */
typedef struct qs_quality_stream {
    const char *name;                /* for messages */
    const qs_linear_source *linears; /* NULL = the reference */
    qs_artifact *artifact;           /* with its dumps begun */
    unsigned dumps;
    bool with_kld;             /* candidates only */
    qs_race race;              /* of a race, started; out: what was decided */
    int64_t n_windows;         /* out: of the candidate, how many it took: all, or the first of the order */
    qs_token_scores scores;    /* out, of window after window, of all there are; qs_token_scores_free */
    double forward_s, score_s; /* out */
} qs_quality_stream;

/* The reference: writes /reference/hidden to its artifact. As the negative control the first windows, as many as hold
 * 512 tokens, take a second, separate pass and are scored as a candidate would be: control [n_windows * n_scored]. */
typedef struct qs_reference_control {
    int64_t n_windows;
    qs_token_scores scores;
} qs_reference_control;
QS_MUST_CHECK qs_err qs_quality_reference(const qs_quality_job *job, qs_quality_stream *stream,
                                          qs_reference_control *control);

/* A group of candidates; n <= QS_GROUP_MAX. In a race those that are decided stop; what they have no scores of
 * stays 0. */
QS_MUST_CHECK qs_err qs_quality_candidates(const qs_quality_job *job, const qs_baseline *baseline,
                                           qs_quality_stream *streams, int64_t n);

/* The plan that these follow, for n_candidates > 0 or the reference (0). */
void qs_quality_plan(qs_pass_plan *out, const qs_quality_job *job, int64_t n_candidates);

#endif
