#include "metric/fixes.h"

#include <math.h>
#include <string.h>

#include "metric/delta_s.h"

static const double gamma_bbam = 0.618, residue = 0.60, floor_temperature = 0.3; /* docs/fixes.md */

/* ---- serving ---- */

static void lock_headers(qs_serving *s)
{
    s->headers = QS_HEADERS_CANONICAL;
    s->by_place = true;
}

static void clamp_logits(qs_serving *s) { s->clamp = gamma_bbam; }
static void be_greedy(qs_serving *s) { s->temperature = 0.0; }
static void raise_floor(qs_serving *s) { s->temperature = fmax(s->temperature, floor_temperature); }

/* ---- rankings ---- */

static int64_t place_in(const qs_ranking *ranking, int64_t snippet)
{
    for (int64_t i = 0; i < ranking->n; i++)
        if (ranking->hits[i].snippet == snippet) return i;
    return QS_POOL;
}

/* Insertion by ascending keys: equal ones keep their order. */
static void order_by(qs_ranking *ranking, const double *keys)
{
    qs_ranking sorted = *ranking;
    double held[QS_POOL];
    for (int64_t i = 0; i < ranking->n; i++) {
        int64_t at = i;
        for (; at > 0 && held[at - 1] > keys[i]; at--) {
            held[at] = held[at - 1];
            sorted.hits[at] = sorted.hits[at - 1];
        }
        held[at] = keys[i];
        sorted.hits[at] = ranking->hits[i];
    }
    *ranking = sorted;
}

/* What both rankings place high comes first: the sum of places. */
static void rank_twice(const qs_fix_context *c, qs_ranking *rankings)
{
    for (int64_t p = 0; p < c->questions->n_prompts; p++) {
        double keys[QS_POOL];
        for (int64_t i = 0; i < rankings[p].n; i++)
            keys[i] = (double)(i + place_in(&c->reference[p], rankings[p].hits[i].snippet));
        order_by(&rankings[p], keys);
    }
}

/* Snippets further than that from the question go behind all others: every prompt holds k. */
static void drop_residue(const qs_fix_context *c, qs_ranking *rankings)
{
    const qs_gold_frame *f = c->frame;
    const float *vectors = qs_retriever_vectors(f->retriever);
    for (int64_t p = 0; p < c->questions->n_prompts; p++) {
        double keys[QS_POOL];
        const float *asked = f->asked + p * f->dim;
        for (int64_t i = 0; i < rankings[p].n; i++)
            keys[i] = qs_delta_s(asked, vectors + rankings[p].hits[i].snippet * f->dim, f->dim) > residue;
        order_by(&rankings[p], keys);
    }
}

/* ---- the table ---- */

#define LAMBDA "lambda_conv lambda_chaotic lambda_recursive"
#define LONG "mttf_margin e_resonance_drift e_resonance_slope_excess"
#define CITED "cov_cited cov_critical cov_pass_rate cite_ok"

const qs_fix qs_fixes[] = {
    {.name = "header-lock", .text = "canonical headers, snippets in the order of section and id",
     .aims = LAMBDA " " CITED " snippet_divergence json_ok", .serve = lock_headers},
    {.name = "rerank",
     .text = "snippets that both the reference's and the configuration's ranking place high come first",
     .aims = CITED " snippet_divergence anchor_drift dS_drift", .rank = rank_twice},
    {.name = "bbam", .text = "sampling logits scaled by exp(-.618 sigma); a greedy answer stays what it is",
     .aims = LAMBDA, .serve = clamp_logits},
    {.name = "bbmc", .text = "snippets with dS above .60 to the question go behind the others",
     .aims = "dS_QE dS_QE_transit dS_QE_risk dS_drift " CITED, .rank = drop_residue},
    {.name = "bbpf",
     .text = "three orders of the snippets; of the answers the one that cites the snippet nearest to the "
             "question, of long texts the one nearest to what it is about",
     .aims = LAMBDA " " CITED " snippet_divergence " LONG, .orders = true},
    {.name = "bbcr",
     .text = "a long text that is lost goes back to its best step and over a line that cites what it is about",
     .aims = LONG, .long_texts = true},
    {.name = "deterministic", .text = "greedy answers in place of sampled ones", .aims = LAMBDA, .serve = be_greedy},
    {.name = "temp-floor", .text = "a temperature of at least .3", .aims = LAMBDA, .serve = raise_floor},
    {.name = "recalibrate", .text = "the same point from another calibration text (--fix-text), evaluated whole",
     .aims = "ppl_ratio acc_loss_pct top1_agree dS_QE dS_QE_transit dS_QE_risk dS_drift dS_drift_signed anchor_drift "
             "anchor_gap entropy_stable " LAMBDA " " CITED " snippet_divergence json_ok",
     .requantises = true},
    {0},
};

const qs_fix *qs_fix_find(const char *name)
{
    for (const qs_fix *fix = qs_fixes; fix->name != NULL; fix++)
        if (strcmp(fix->name, name) == 0) return fix;
    return NULL;
}

bool qs_fix_aims_at(const qs_fix *fix, const char *metric)
{
    size_t bytes = strlen(metric);
    for (const char *at = fix->aims; at != NULL; at = strchr(at, ' '), at = at != NULL ? at + 1 : NULL)
        if (strncmp(at, metric, bytes) == 0 && (at[bytes] == ' ' || at[bytes] == '\0')) return true;
    return false;
}

qs_err qs_fixes_parse(unsigned *bits, const char *list)
{
    *bits = 0;
    for (const char *at = list; at != NULL;) {
        char name[32];
        size_t bytes = strcspn(at, ",");
        (void)snprintf(name, sizeof name, "%.*s", (int)(bytes < sizeof name ? bytes : sizeof name - 1), at);
        const qs_fix *fix = qs_fix_find(name);
        if (fix == NULL)
            return qs_fail(QS_E_USAGE, "--fix: \"%s\" is not one; see qsweep-evaluate --list", name);
        *bits |= 1u << (fix - qs_fixes);
        at = at[bytes] == ',' ? at + bytes + 1 : NULL;
    }
    return QS_OK;
}

bool qs_fixes_requantise(unsigned bits)
{
    for (const qs_fix *fix = qs_fixes; fix->name != NULL; fix++)
        if (fix->requantises && (bits & (1u << (fix - qs_fixes))) != 0) return true;
    return false;
}

bool qs_fix_worsens(bool lower_is_better, double before, double after)
{
    static const double slack = 0.03;
    double by = lower_is_better ? after - before : before - after;
    return by > slack * (before != 0.0 ? fabs(before) : 1.0);
}

bool qs_fix_improves(bool lower_is_better, double before, double after)
{
    return lower_is_better ? after < before : after > before;
}
