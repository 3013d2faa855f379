/* How a deployment asks and chooses, beside its weights. The reference is always served plainly: what is measured of a
 * configuration is then of its weights and of its serving together. */
#ifndef QS_METRIC_SERVING_H
#define QS_METRIC_SERVING_H

#include <stdbool.h>
#include <stdint.h>

#include "base/hash.h"
#include "data/prompt.h"

typedef struct qs_serving {
    qs_prompt_headers headers;
    uint64_t header_seed; /* of shuffled headers, with the prompt's number */
    bool by_place;        /* snippets of a prompt in the order of section and id, not of rank */
    double temperature;   /* of the runs with seeds; 0 = greedy */
    double clamp;         /* logits are multiplied by exp(-clamp * their standard deviation) before sampling */
    int64_t n_tokens_max; /* of an answer; 0 = as the questions say */
} qs_serving;

/* Canonical headers, snippets by rank, temperature .2, no clamp. */
extern const qs_serving qs_serving_plain;

/* "canonical", "shuffled", "removed". */
const char *qs_headers_name(qs_prompt_headers headers);
/* QS_E_USAGE names the ones there are. */
QS_MUST_CHECK qs_err qs_headers_parse(qs_prompt_headers *out, const char *name);

/* `plain` where a serving is plain: artifacts made before there was a choice stay current. */
qs_digest qs_serving_digest(const qs_serving *serving, qs_digest plain);

#endif
