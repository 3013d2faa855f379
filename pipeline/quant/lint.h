/* What is known to go wrong with a spec, said before any work (checklist G10, G17). A rule is a measurement of
 * ours, or what loaders of other programs refuse; nothing here forbids a point. */
#ifndef QS_QUANT_LINT_H
#define QS_QUANT_LINT_H

#include <stdbool.h>

#include "model/config.h"
#include "quant/spec.h"

typedef struct qs_lint_rule {
    const char *name;
    const char *why, *instead; /* phrases; `instead` is what to write */
    bool (*holds)(const qs_spec *spec, const qs_model_config *model); /* model NULL = not known */
} qs_lint_rule;

extern const qs_lint_rule qs_lint_rules[]; /* ends with name == NULL */

/* How many of specs[n] a rule holds for, and the first of them. */
int64_t qs_lint_count(const qs_lint_rule *rule, const qs_spec *specs, int64_t n, const qs_model_config *model,
                      const qs_spec **first);

/* Logs a line for every rule that holds: its name, how many points and which first, why, and what instead. */
void qs_lint_tell(const qs_spec *specs, int64_t n, const qs_model_config *model);

#endif
