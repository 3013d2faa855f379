/* Symptom -> cause -> fix: what a missed gate and the figures beside it point to, row by row of the four source pages
 * (ids G, A, B, E; docs/checklist.md). The order is that of suspicion: what makes everything else go wrong stands
 * first. */
#ifndef QS_REPORT_RULES_H
#define QS_REPORT_RULES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

typedef enum qs_if {
    QS_IF_NONE,      /* end of the list */
    QS_IF_MISSED,    /* a gate on the metric is FAIL, REVIEW or WARN */
    QS_IF_BASELINE,  /* a gate on it is BASELINE_FAIL */
    QS_IF_ABOVE,     /* the value is above the limit */
    QS_IF_BELOW,     /* below */
    QS_IF_NOT_ABOVE, /* not above, or not measured */
    QS_IF_ROSE,      /* the value is above the reference's by more than the limit */
    QS_IF_FELL,      /* below the reference's by more than the limit */
} qs_if;

typedef struct qs_condition {
    qs_if kind;
    const char *metric;
    double limit;
} qs_condition;

enum { QS_RULE_CONDITIONS = 6 };

typedef struct qs_rule {
    const char *name;     /* "misread-weights" */
    const char *rows;     /* of the checklist, with blanks between them: "G5 B5" */
    const char *profiles; /* that it is for, with blanks between them; NULL = every method; "fp" = the reference */
    const char *symptom, *cause, *fix;
    /* A command. {evaluate} is the evaluation as it was called, with this point alone and without the options that
     * the rule names itself. {model} {out} {calib} are those of the evaluation, {spec} is the configuration,
     * {more-bits} and {finer} are specs with the next number of bits and with groups half as long, {bits} and
     * {group} are numbers. */
    const char *next;
    const char *pages; /* of the problem map, with blanks between them (qs_rule_page) */
    qs_condition all[QS_RULE_CONDITIONS]; /* every one must hold */
    qs_condition any[QS_RULE_CONDITIONS]; /* and one of these, where there are some */
} qs_rule;

extern const qs_rule qs_rules[]; /* ends with name == NULL */
enum { QS_RULES_MAX = 64 };

/* The address of the n-th page of a rule into text[bytes]; false behind the last. */
bool qs_rule_page(const qs_rule *rule, int n, char *text, size_t bytes);

/* The table as Markdown, for docs/symptoms.md. */
void qs_rules_print_markdown(FILE *stream);

#endif
