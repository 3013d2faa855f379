/* Synthetic statistics of a model's layers, as calibration would give them, for the tests of AWQ. */
#ifndef QS_TESTS_AWQ_DATA_H
#define QS_TESTS_AWQ_DATA_H

#include "tests/quant_data.h"
#include "tests/scratch.h"

#include "quant/quant_run.h"

enum { N_GRAM_TOKENS = 300 };

typedef struct statistics {
    const qs_model_config *config;
    float *gram, *abs_mean; /* of the site that was asked for last */
} statistics;

static inline qs_err get_gram(void *context, int64_t layer, qs_site site, const float **gram,
                              int64_t *n_tokens)
{
    statistics *s = context;
    free(s->gram);
    *gram = s->gram = data_gram(qs_site_width(s->config, site), N_GRAM_TOKENS,
                                1000 + (uint64_t)(4 * layer + (int64_t)site));
    *n_tokens = N_GRAM_TOKENS;
    return QS_OK;
}

static inline float *abs_of(const float *gram, int64_t n)
{
    float *abs_mean = malloc((size_t)n * sizeof *abs_mean);
    for (int64_t i = 0, at = 0; i < n; at += n - i++) abs_mean[i] = 0.8f * sqrtf(gram[at] / N_GRAM_TOKENS);
    return abs_mean;
}

static inline qs_err get_abs(void *context, int64_t layer, qs_site site, const float **abs_mean)
{
    statistics *s = context;
    const float *gram;
    int64_t n_tokens;
    OK(get_gram(context, layer, site, &gram, &n_tokens));
    free(s->abs_mean);
    *abs_mean = s->abs_mean = abs_of(gram, qs_site_width(s->config, site));
    return QS_OK;
}

static inline qs_gram_source source_of(statistics *s)
{
    return (qs_gram_source){.get = get_gram, .get_abs = get_abs, .context = s};
}

static inline void statistics_free(statistics *s)
{
    free(s->gram);
    free(s->abs_mean);
}

#endif
