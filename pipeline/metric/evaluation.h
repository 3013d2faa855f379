/* Evaluating a model: the reference and any number of quantised points, what is there already, what it will
 * take, and the run that publishes one artifact per point. */
#ifndef QS_METRIC_EVALUATION_H
#define QS_METRIC_EVALUATION_H

#include "metric/answers.h"
#include "metric/baseline.h"
#include "metric/embeddings.h"
#include "metric/gold_frame.h"
#include "metric/latency.h"
#include "metric/memory.h"
#include "metric/quality_pass.h"
#include "metric/raced.h"

enum {
    QS_TASKS_QUALITY = QS_TASK_PPL | QS_TASK_KLD,
    QS_TASKS_ANSWERS = QS_TASK_SEMANTIC | QS_TASK_JSON,          /* they need questions */
    QS_TASKS_ASKED = QS_TASKS_ANSWERS | QS_TASK_PROBE | QS_TASK_ENTROPY, /* they depend on the questions */
    QS_TASKS_COMPARED = QS_TASKS_QUALITY | QS_TASKS_ASKED,       /* they need the reference */
};

typedef struct qs_eval_options {
    const qs_windows *windows;
    unsigned tasks, dumps;
    const qs_budgets *race; /* candidates race against these (metric/race.h); NULL = all take all windows */
    bool keep_going; /* a candidate that fails is recorded (artifact/failure.h), and the rest goes on */
    const qs_questions *questions; /* NULL without QS_TASKS_ANSWERS */
    qs_serving serving;            /* of candidates; the reference is served plainly */
    unsigned fixes;                /* arms of candidates, bits of qs_fixes (metric/fixes.h) */
    const char *requantised; /* directory with eval artifacts of the same ids, quantised otherwise, for fixes
                                of weights; NULL = none */
    const qs_embeddings *embeddings; /* NULL without QS_DUMP_EMBEDDINGS */
    qs_compute compute;
    uint64_t seed;
    const char *out_dir;
    const char *const *checkpoints; /* candidates that someone else made; [n_checkpoints] */
    int64_t n_checkpoints;
    const char *text; /* on which their tokenizers are tried, text_bytes long; NULL = a built-in one */
    size_t text_bytes;
    const char *baseline; /* an eval artifact of the reference; NULL = <out_dir>/fp.eval.h5, made when needed */
    size_t budget_bytes; /* for residual states; 0 = half of what is free */
    /* Of backends that are created to deploy models: name (NULL = as the evaluation's), device, where layers go. */
    const char *backend;
    int64_t device;
    qs_device_map map;
    qs_latency_options latency;
    int argc; /* for /provenance */
    char *const *argv;
} qs_eval_options;

typedef struct qs_eval_point {
    char id[QS_SPEC_ID_BYTES];
    char path[QS_PATH_BYTES]; /* of its eval artifact */
    qs_candidate_kind kind;   /* QS_CANDIDATE_NONE = the reference */
    const char *quant_path;   /* its artifact or checkpoint; NULL = the reference */
    qs_digest quant;
    char twin_path[QS_PATH_BYTES]; /* its eval artifact when quantised otherwise (requantised); "" = none */
    qs_digest served;         /* of what it is asked, how, and of the twin */
    qs_candidate_head head;   /* of a candidate */
    unsigned tasks, dumps;    /* what it will hold: what is asked, and what is there already */
    bool current;             /* nothing to do */
    qs_raced raced;           /* what a race left of it in its artifact */
    const char *stale;        /* what differs from the artifact that is there; NULL = nothing */
} qs_eval_point;

typedef struct qs_evaluation {
    qs_eval_options options;
    qs_backend *backend;
    qs_model *model;
    int64_t *order;   /* [n_windows] of a race; NULL without one */
    int64_t n_failed; /* candidates that keep_going recorded */
    double pass_s;    /* what the passes took that were run */
    qs_foretold foretold; /* of passes, by the reference's or, where that is there, the first group's; not of a race */
    bool own_reference; /* the reference is a point of this evaluation: no --baseline */
    qs_eval_point reference;
    int64_t n_points;
    qs_eval_point *points; /* [n_points] candidates */
    qs_baseline baseline;
    bool has_baseline; /* it is open */
    qs_digest served;  /* of what candidates are asked, and how */
    qs_gold_frame frame;      /* of the questions, made when it is first needed */
    qs_encoder *own_encoder; /* of the frame, where it is a candidate's own */
} qs_evaluation;

/* Opens and checks everything and finds out what is current. quants [n_quants]: paths of quant artifacts; those of
 * checkpoints are in the options.
 * QS_E_INPUT: another model's artifact, a baseline that differs; QS_E_USAGE: the same id twice, nothing to
 * do. */
QS_MUST_CHECK qs_err qs_evaluation_create(qs_evaluation *out, qs_backend *backend, qs_model *model,
                                          const char *const *quants, int64_t n_quants,
                                          const qs_eval_options *options);
void qs_evaluation_destroy(qs_evaluation *evaluation);

/* What running takes. Bytes are of the quality pass; deployments for latency and memory come after it. */
typedef struct qs_evaluation_cost {
    int64_t n_todo;        /* points, the reference included */
    double flops;          /* of the passes */
    size_t pass_bytes;     /* residual states, activations, a block, head and logits */
    size_t deployed_bytes; /* the 16-bit reference and the largest candidate; 0 without latency and memory */
    size_t artifact_bytes; /* upper bound of what is written */
} qs_evaluation_cost;
void qs_evaluation_plan(const qs_evaluation *evaluation, qs_evaluation_cost *cost);

/* Evaluates what is not current and publishes point by point. Says what it skips and what each took. */
QS_MUST_CHECK qs_err qs_evaluation_run(qs_evaluation *evaluation);

/* For evaluation_run.c: finds out again what is current, once the baseline is known. */
QS_MUST_CHECK qs_err qs_evaluation_check_points(qs_evaluation *evaluation);
QS_MUST_CHECK qs_err qs_evaluation_open_baseline(qs_evaluation *evaluation);
qs_subject qs_evaluation_subject(const qs_evaluation *evaluation, const qs_eval_point *point);
qs_quality_job qs_evaluation_job(const qs_evaluation *evaluation);

#endif
