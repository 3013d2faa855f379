/* Fixes that the pages prescribe, as arms of an evaluation: what a configuration answers when it is served
 * otherwise, beside what it answers as it is (docs/fixes.md). */
#ifndef QS_METRIC_FIXES_H
#define QS_METRIC_FIXES_H

#include "metric/answers.h"
#include "metric/gold_frame.h"

/* What an arm may look at. */
typedef struct qs_fix_context {
    const qs_questions *questions;
    const qs_gold_frame *frame;
    const qs_ranking *own, *reference; /* [n_prompts] as the configuration and the reference ranked */
} qs_fix_context;

typedef struct qs_fix {
    const char *name, *text;
    const char *aims; /* gates that it is meant for, with blanks between them */
    void (*serve)(qs_serving *serving);                           /* NULL = as before */
    void (*rank)(const qs_fix_context *context, qs_ranking *rankings); /* changes a copy of own; NULL = not */
    bool orders;     /* answers and long texts in several orders of the snippets, of which the nearest counts */
    bool long_texts; /* it is about long texts, not about answers */
    bool requantises; /* other weights: all gates are those of a point that was made and evaluated for it */
} qs_fix;

extern const qs_fix qs_fixes[]; /* ends with name == NULL; a bit of --fix each */
const qs_fix *qs_fix_find(const char *name);
bool qs_fix_aims_at(const qs_fix *fix, const char *metric);

/* "a,b" to bits. QS_E_USAGE for what is no fix. */
QS_MUST_CHECK qs_err qs_fixes_parse(unsigned *bits, const char *list);

/* Whether one of them needs points with other weights. */
bool qs_fixes_requantise(unsigned bits);

/* Whether a change makes a gate worse by more than 3 % (of 1 where there was nothing), and whether it makes it
 * better. */
bool qs_fix_worsens(bool lower_is_better, double before, double after);
bool qs_fix_improves(bool lower_is_better, double before, double after);

#endif
