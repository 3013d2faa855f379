#include "report/controls.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "model/weights.h"

static const double self_kld_max = 1e-7; /* nats */

const char *qs_control_status_name(qs_control_status status)
{
    static const char *const names[] = {
        [QS_CONTROL_OK] = "ok", [QS_CONTROL_FAILED] = "FAILED", [QS_CONTROL_NOT_RUN] = "not run"};
    return names[status];
}

static void set(qs_control *control, qs_control_status status, const char *fmt, ...) QS_PRINTF(3, 4);
static void set(qs_control *control, qs_control_status status, const char *fmt, ...)
{
    va_list args;
    control->status = status;
    va_start(args, fmt);
    (void)vsnprintf(control->text, sizeof control->text, fmt, args);
    va_end(args);
}

/* Every comparison with itself must vanish. Metrics whose neutral value is not 0 are given with it. */
static void check_self(const qs_sweep *sweep, qs_control *control)
{
    static const struct {
        const char *metric;
        double neutral, tolerance;
    } selves[] = {
        {"kld_mean", 0, 1e-7},        {"kld_max", 0, 1e-7},           {"flip_rate", 0, 0},
        {"ppl_ratio", 1, 1e-7},       {"dS_drift", 0, 1e-7},          {"anchor_drift", 0, 1e-7},
        {"snippet_divergence", 0, 0}, {"e_resonance_drift", 0, 1e-7}, {"answer_agree", 1, 0},
        {"qa_acc_change", 0, 0},      {"entropy_stable", 1, 0},       {"entropy_rms", 0, 0},
        {"kld_long", 0, 1e-7},        {"entropy_paraphrases", 1, 0},
    };
    int n = 0;
    if (sweep->reference == NULL) {
        set(control, QS_CONTROL_NOT_RUN, "the reference is not among the files");
        return;
    }
    for (size_t i = 0; i < sizeof selves / sizeof *selves; i++) {
        double value = qs_config_row_value(sweep->reference, selves[i].metric);
        if (isnan(value)) continue;
        n++;
        if (fabs(value - selves[i].neutral) <= selves[i].tolerance) continue;
        set(control, QS_CONTROL_FAILED, "%s of the reference against itself is %.3g, not %.3g",
            selves[i].metric, value, selves[i].neutral);
        return;
    }
    double kld = qs_config_row_value(sweep->reference, "kld_mean");
    if (isnan(kld))
        set(control, QS_CONTROL_NOT_RUN, "the reference was not measured against itself (task kld)");
    else
        set(control, QS_CONTROL_OK, "KLD %.2g nat (< %.0e), %d measures vanish", kld, self_kld_max, n);
}

/* "sym" of "sym" and of "sym-act": what RTN and GPTQ have in common. */
static bool same_grid_point(const qs_config_row *a, const qs_config_row *b)
{
    size_t x = strcspn(a->variant, "-"), y = strcspn(b->variant, "-");
    return a->bits == b->bits && a->group_size == b->group_size && x == y &&
           strncmp(a->variant, b->variant, x) == 0;
}

/* Equal codes give equal losses and equal NLLs to the last bit. Unequal ones may share some losses.
 * *comparable is false when there is nothing to compare. */
static bool same_outcome(const qs_config_row *a, const qs_config_row *b, bool *comparable)
{
    bool losses = a->loss != NULL && b->loss != NULL && a->n_layers == b->n_layers;
    bool nlls = a->window_nll != NULL && b->window_nll != NULL && a->n_windows == b->n_windows;
    *comparable = losses || nlls;
    if (losses && memcmp(a->loss, b->loss, (size_t)(a->n_layers * QS_N_LINEARS) * sizeof *a->loss) != 0)
        return false;
    return !nlls || memcmp(a->window_nll, b->window_nll, (size_t)a->n_windows * sizeof *a->window_nll) == 0;
}

static void check_gptq_differs(const qs_sweep *sweep, qs_control *control)
{
    int64_t n_pairs = 0;
    for (int64_t i = 0; i < sweep->n; i++)
        for (int64_t j = 0; j < sweep->n; j++) {
            const qs_config_row *gptq = &sweep->configs[i].row, *rtn = &sweep->configs[j].row;
            bool comparable;
            if (strcmp(gptq->method, "gptq") != 0 || strcmp(rtn->method, "rtn") != 0) continue;
            if (!same_grid_point(gptq, rtn)) continue;
            bool same = same_outcome(gptq, rtn, &comparable);
            if (!comparable) continue;
            n_pairs++;
            if (!same) continue;
            set(control, QS_CONTROL_FAILED,
                "%.90s gives exactly the losses and NLLs of %.90s: its codes are RTN's", gptq->id, rtn->id);
            return;
        }
    if (n_pairs == 0)
        set(control, QS_CONTROL_NOT_RUN, "no GPTQ and RTN of one bit width, group size and symmetry");
    else
        set(control, QS_CONTROL_OK, "%" PRId64 " pair%s of one grid point, all different", n_pairs,
            n_pairs == 1 ? "" : "s");
}

/* With second moments of zero every loss would be zero. */
static void check_statistics(const qs_sweep *sweep, qs_control *control)
{
    int64_t n = 0, n_zero = 0;
    const char *first = "";
    for (int64_t i = 0; i < sweep->n; i++) {
        const qs_config_row *row = &sweep->configs[i].row;
        double largest = 0;
        if (row->reference || row->loss == NULL) continue;
        for (int64_t j = 0; j < row->n_layers * QS_N_LINEARS; j++) largest = fmax(largest, row->loss[j]);
        n++;
        if (largest > 0) continue;
        if (n_zero++ == 0) first = row->id;
    }
    bool lattice = sweep->configs[0].row.frame.lattice;
    if (n == 0)
        set(control, QS_CONTROL_NOT_RUN, "no artifact holds losses");
    else if (n_zero > 0 && !lattice)
        set(control, QS_CONTROL_FAILED, "every loss of %.90s is zero: its calibration statistics are", first);
    else
        set(control, QS_CONTROL_OK, "losses of %" PRId64 " of %" PRId64 " configurations are not zero%s",
            n - n_zero, n, n_zero > 0 ? "; the others represent the low-bit reference exactly" : "");
}

static void check_packed(const qs_sweep *sweep, qs_control *control)
{
    int64_t n = 0;
    for (int64_t i = 0; i < sweep->n; i++) {
        const qs_config_row *row = &sweep->configs[i].row;
        if (row->reference) continue;
        n++;
        if (row->packed) continue;
        set(control, QS_CONTROL_FAILED,
            "%.90s names no quant artifact or checkpoint that it was measured from", row->id);
        return;
    }
    if (n == 0)
        set(control, QS_CONTROL_NOT_RUN, "no quantised configuration is among the files");
    else
        set(control, QS_CONTROL_OK, "all %" PRId64 " were measured from stored codes", n);
}

bool qs_controls_run(const qs_sweep *sweep, qs_control controls[QS_N_CONTROLS])
{
    static const struct {
        const char *name;
        void (*check)(const qs_sweep *sweep, qs_control *control);
    } checks[QS_N_CONTROLS] = {
        {"reference against itself", check_self},
        {"GPTQ differs from RTN", check_gptq_differs},
        {"calibration statistics are not zero", check_statistics},
        {"packed artifact was evaluated", check_packed},
    };
    bool ok = true;
    for (int i = 0; i < QS_N_CONTROLS; i++) {
        controls[i] = (qs_control){.name = checks[i].name};
        checks[i].check(sweep, &controls[i]);
        ok = ok && controls[i].status != QS_CONTROL_FAILED;
    }
    return ok;
}
