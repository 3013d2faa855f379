#include "metric/serving.h"

#include <string.h>

const qs_serving qs_serving_plain = {.headers = QS_HEADERS_CANONICAL, .temperature = 0.2};

static const char *const names[] = {
    [QS_HEADERS_CANONICAL] = "canonical", [QS_HEADERS_SHUFFLED] = "shuffled", [QS_HEADERS_REMOVED] = "removed"};

const char *qs_headers_name(qs_prompt_headers headers) { return names[headers]; }

qs_err qs_headers_parse(qs_prompt_headers *out, const char *name)
{
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (strcmp(names[i], name) != 0) continue;
        *out = (qs_prompt_headers)i;
        return QS_OK;
    }
    return qs_fail(QS_E_USAGE, "--headers %s: it is canonical, shuffled or removed", name);
}

static bool is_plain(const qs_serving *s)
{
    const qs_serving *p = &qs_serving_plain;
    return s->headers == p->headers && !s->by_place && s->temperature == p->temperature && s->clamp == p->clamp &&
           s->n_tokens_max == p->n_tokens_max;
}

qs_digest qs_serving_digest(const qs_serving *s, qs_digest plain)
{
    struct {
        qs_digest plain;
        int64_t headers, by_place, n_tokens_max;
        uint64_t header_seed;
        double temperature, clamp;
    } parts = {plain, s->headers, s->by_place, s->n_tokens_max, s->header_seed, s->temperature, s->clamp};
    return is_plain(s) ? plain : qs_hash(&parts, sizeof parts);
}
