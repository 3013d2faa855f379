/* Racing: a configuration is read window by window, in a random order that all of them share, and stops as
 * soon as it is sure enough on which side of its budgets it lies.
 *
 * Of every comparison of a budget that is a mean over windows (ppl_ratio, kld_mean, top1_agree, acc_loss_pct
 * ...) the excess of a window over the limit is taken, x_i, paired with the reference's window. Whether the
 * mean excess is 0 is tested by the Gaussian mixture of the scale-invariant likelihood ratio, which is a
 * martingale under that hypothesis:
 *
 *   E_n = (1 + g n)^(-1/2) (V_n / (V_n - g S_n^2 / (1 + g n)))^(n/2),   S_n = sum x_i, V_n = sum x_i^2, g = 1
 *
 * (Lai 1976; Wang and Ramdas, "Anytime-valid t-tests and confidence sequences for Gaussian means with unknown
 * variance", 2024, section 4, with c^2 = 1/g; Perez-Ortiz, Lardy, de Heide and Gruenwald, "E-statistics,
 * group invariance and anytime-valid testing", Annals of Statistics 52, 2024). By Ville's inequality it ever
 * reaches 1/a with a probability of at most a, however often one looks; then the sign of S_n is the side. Of
 * a configuration with k comparisons each gets a = 0.05 / k (Bonferroni), so that at most 5 % of
 * configurations, one by one, are decided wrongly.
 *
 * What is assumed: that window means are independent normal numbers of one distribution. They are means of
 * hundreds of tokens, which makes this an approximation and no guarantee: no bound of the NLL or of the KL
 * divergence is known that a distribution-free test could use. Right-skewed windows make the test accept too
 * often: of configurations that lie exactly on a budget and are read on up to 64 windows, 1.6 % are decided
 * where windows are normal, 2.8 % with a gamma distribution of shape 4 (skewness 1), 8.7 % with an
 * exponential one (skewness 2; tests/test_race.c). The random order makes neighbours in the text independent,
 * and since windows are drawn without being put back, the result of the whole text is missed less often
 * still. */
#ifndef QS_METRIC_RACE_H
#define QS_METRIC_RACE_H

#include "data/budgets.h"
#include "metric/quality.h"

enum {
    QS_RACE_GATES_MAX = 16,
    QS_RACE_WINDOWS_MIN = 8, /* before which nothing is decided */
};
extern const double qs_race_error; /* 0.05 */

/* The test of one mean. */
typedef struct qs_race_test {
    int64_t n;
    double sum, squares;
} qs_race_test;

void qs_race_test_add(qs_race_test *test, double excess);
/* ln E_n; 0 with nothing seen, and where all excess is 0. */
double qs_race_test_evidence(const qs_race_test *test);

typedef enum qs_race_decision { QS_RACE_OPEN, QS_RACE_ACCEPTED, QS_RACE_DROPPED } qs_race_decision;
const char *qs_race_decision_name(qs_race_decision decision); /* "whole", "accepted", "dropped" */

typedef struct qs_race_gate {
    const qs_budget_part *part;
    qs_budget_level level;
    qs_race_test test;
    int side; /* 0 = open, 1 = the mean excess is positive, -1 = negative */
} qs_race_gate;

/* One configuration. */
typedef struct qs_race {
    int64_t n_gates;
    qs_race_gate gates[QS_RACE_GATES_MAX];
    bool needs_all;           /* a budget judges what is no mean over windows: nothing is accepted early */
    qs_race_decision decision;
    const qs_race_gate *missed; /* for which it was dropped */
} qs_race;

/* The comparisons in force for a profile (qs_budgets_profile) whose metrics the tasks measure; they must outlive the
 * race. */
QS_MUST_CHECK qs_err qs_race_start(qs_race *race, const qs_budgets *budgets, const char *profile, unsigned tasks);

/* A window that was scored, of the point and of the reference. */
void qs_race_add(qs_race *race, const qs_quality_input *input, int64_t window);

/* Dropped: a budget of level fail is missed. Accepted: every comparison is decided and none is such a miss.
 * Both are for good. */
qs_race_decision qs_race_decide(qs_race *race);

/* A permutation of n windows. */
void qs_race_order(int64_t *order, int64_t n, uint64_t seed);

/* What decides, as a digest: comparisons, error and seed. */
qs_digest qs_race_digest(const qs_race *race, uint64_t seed);

#endif
