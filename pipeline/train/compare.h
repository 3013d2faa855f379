/* Two optimizers on the same training: same initial weights, same batches, several seeds
 * (docs/training.md).
 *
 * Each seed draws other weights and another order of the corpus. Each optimizer runs with and without
 * gradient clipping and variance clamp; the combination that the options name is the one that is gated, the
 * others are reported. The two runs of a seed are a pair: what is gated is the mean over seeds of the
 * relative difference within a pair, with an interval by Student's t. (A ratio of two unpaired variances
 * would need 6,450 independent samples to resolve 5 %.) */
#ifndef QS_TRAIN_COMPARE_H
#define QS_TRAIN_COMPARE_H

#include "metric/metrics.h"
#include "train/examples.h"
#include "train/trainer.h"

enum { QS_COMPARE_SEEDS_MAX = 16, QS_COMPARE_LAST = 50, QS_COMPARE_SETTINGS = 4, QS_COMPARE_OPTIMIZERS = 2 };

typedef struct qs_compare_options {
    qs_trainer_options trainer;      /* clip and clamp: 0, or the limits that the runs with them use */
    int bits[QS_COMPARE_OPTIMIZERS]; /* the baseline's first */
    qs_schedule schedule;
    int64_t n_rows, n_seeds, n_validation;
    double init_std, answer_weight;
    uint64_t seed;
} qs_compare_options;

/* One run. */
typedef struct qs_compare_arm {
    double *loss;                        /* [n_steps]; NaN after a failure */
    double *gradient_norm;               /* [n_steps] */
    double update_mean, update_variance; /* of the elements of the last QS_COMPARE_LAST updates */
    double loss_last;                    /* mean of the last QS_COMPARE_LAST losses */
    double ppl;                          /* held-out */
    double largest_jump;                 /* largest loss over the median of the 50 before it */
    int64_t n_starved;                   /* elements with v = 0 and m not, at the end */
    bool failed;                         /* NaN, Inf or divergence */
} qs_compare_arm;

typedef struct qs_comparison {
    qs_compare_options options;
    int64_t n_parameters;
    size_t state_bytes[QS_COMPARE_OPTIMIZERS];
    qs_compare_arm arms[QS_COMPARE_SEEDS_MAX][QS_COMPARE_SETTINGS][QS_COMPARE_OPTIMIZERS];
    /* Of the gated setting: one step from the baseline's last state with either optimizer, mean |u - u_base|
     * over mean |u_base|; distance of the final weights over the baseline's way; cosine of the two ways. */
    double step_error[QS_COMPARE_SEEDS_MAX], drift[QS_COMPARE_SEEDS_MAX], cosine[QS_COMPARE_SEEDS_MAX];
} qs_comparison;

/* Settings as bits: 1 = clip, 2 = clamp. */
const char *qs_compare_setting_name(int setting); /* "plain", "clip", "clamp", "clip-clamp" */
int qs_compare_gated_setting(const qs_compare_options *options);

/* Runs everything. A run that fails with NaN or divergence is a result; other errors end the comparison.
 * `data` gives the batches (it is re-ordered for each seed), `validation` the held-out examples. */
QS_MUST_CHECK qs_err qs_compare_run(qs_comparison *out, const qs_train_layout *layout, qs_examples *data,
                                    qs_examples *validation, const qs_compare_options *options);
void qs_comparison_free(qs_comparison *comparison);

/* What is gated and reported, in the order of this table; ends with name == NULL. */
extern const qs_metric qs_compare_metrics[];
/* NaN value when it could not be measured (a run failed). */
qs_estimate qs_compare_estimate(const qs_comparison *comparison, const char *name, int setting);

QS_MUST_CHECK qs_err qs_comparison_write(const qs_comparison *comparison, const char *path,
                                         const char *settings, int argc, char *const *argv);
void qs_comparison_print(const qs_comparison *comparison, FILE *stream);

#endif
