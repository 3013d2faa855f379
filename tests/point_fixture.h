/* Points of the tiny Qwen2 fixture, quantised with white inputs, for tests that read them back. A test lists the
 * specs' texts in N_POINTS and point_texts before it includes this. */
#ifndef QS_TESTS_POINT_FIXTURE_H
#define QS_TESTS_POINT_FIXTURE_H

#include "tests/export_fixtures.h"
#include "tests/model_fixtures.h"

#include "quant/quant_points.h"

static fixture f;
static qs_backend *backend;
static qs_spec specs[N_POINTS];
static qs_quant_point points[N_POINTS];
static float *room; /* of a second moment, of at most 512 inputs */

/* White inputs; rotated ones are, too. */
static inline qs_err get_gram(void *context, int64_t layer, qs_site site, const float **packed, int64_t *n_tokens)
{
    (void)context;
    (void)layer;
    float *to = room;
    int64_t width = qs_site_width(f.config, site);
    for (int64_t i = 0; i < width; i++)
        for (int64_t j = i; j < width; j++) *to++ = i == j ? 100 : 1;
    *packed = room;
    *n_tokens = 100;
    return QS_OK;
}

static inline int points_start(void **state, const qs_gram_source *grams)
{
    if (scratch_create(state) != 0) return -1;
    f = fixture_open("qwen2");
    room = floats(512 * 512);
    OK(qs_backend_create(&backend, "cpu", 0, 2));
    qs_quant_inputs inputs = {.model = f.model};
    qs_quant_plan plan;
    for (int i = 0; i < N_POINTS; i++) OK(qs_spec_parse(&specs[i], point_texts[i]));
    OK(qs_quant_points_find(points, scratch_dir, &inputs, specs, N_POINTS));
    OK(qs_quant_points_plan(&plan, points, N_POINTS, &inputs, backend));
    assert_true(plan.n_points == N_POINTS && plan.bytes > 0);
    OK(qs_quant_points_run(points, N_POINTS, &inputs, backend, grams, NULL));
    return 0;
}

static inline int points_stop(void **state)
{
    qs_backend_destroy(backend);
    qs_mem_free(room);
    fixture_close(&f);
    return scratch_remove(state);
}

static inline qs_quant_file *open_point(int i)
{
    qs_quant_file *file;
    OK(qs_quant_file_open(&file, points[i].path, f.model));
    return file;
}

/* Of the model in full precision. */
static inline double largest_logit(void)
{
    double largest = 0;
    for (int64_t i = 0; i < N_TOKENS * f.config->n_vocab; i++) largest = fmax(largest, fabs((double)f.logits[i]));
    return largest;
}

#endif
