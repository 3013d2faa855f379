#include "quant/quant_points.h"

#include "artifact/failure.h"
#include "base/clock.h"
#include "base/mem.h"
#include "base/progress.h"
#include "model/turned.h"
#include "quant/turned_grams.h"

/* Of the kernels' measured rate; memory traffic and whatever else runs take the rest. On a device products
 * are not square, and what comes and goes does so at about this rate, page-locked on the way. */
static const double rate_share = 0.7, device_rate_share = 0.5, carried_bytes_per_s = 6e9;

/* The points of one pass; [n] each. Rotated points share nothing with the others and have passes of their own. */
typedef struct pass {
    int64_t n;
    bool rotated;
    qs_quant_point *points[QS_POINTS_PER_PASS];
    qs_quant_writer *writers[QS_POINTS_PER_PASS];
    qs_spec specs[QS_POINTS_PER_PASS];
    qs_quant_layer layers[QS_POINTS_PER_PASS];
    qs_quant_result heads[QS_POINTS_PER_PASS];
    /* What its first two layers took, and the second of them, which allocates nothing any more. */
    double first_s, layer_s;
} pass;

qs_err qs_quant_points_find(qs_quant_point *points, const char *dir, const qs_quant_inputs *inputs,
                            const qs_spec *specs, int64_t n_specs)
{
    for (int64_t i = 0; i < n_specs; i++) {
        points[i] = (qs_quant_point){.spec = &specs[i],
                                     .linear_bits = qs_quant_linear_bits(&specs[i], inputs->model)};
        qs_err err = qs_quant_path(points[i].path, dir, &specs[i]);
        if (err != QS_OK) return err;
        points[i].current = qs_quant_is_current(points[i].path, inputs, &specs[i]);
        if (points[i].current) qs_failure_clear(points[i].path);
    }
    return QS_OK;
}

/* The next points that are not current, from *at on, rotated or not; n = 0 when there are none left. */
static void fill_pass(pass *p, qs_quant_point *points, int64_t n_points, bool rotated, int64_t *at)
{
    p->n = 0;
    p->rotated = rotated;
    for (; *at < n_points && p->n < QS_POINTS_PER_PASS; ++*at) {
        if (points[*at].current || points[*at].spec->rotate != rotated) continue;
        p->writers[p->n] = NULL;
        p->specs[p->n] = *points[*at].spec;
        p->points[p->n++] = &points[*at];
    }
}

/* Multiply-adds per second. */
static qs_err measure_rate(qs_backend *backend, double *rate)
{
    qs_backend_peaks peaks;
    qs_err err;
    if (qs_backend_solver(backend) == NULL) {
        err = qs_quant_measure_rate(rate);
        *rate *= rate_share * qs_backend_n_threads(backend);
        return err;
    }
    err = qs_backend_measure_peaks(backend, QS_PEAK_F32, &peaks);
    if (err == QS_OK) *rate = device_rate_share * peaks.gemm_f32_flops / 2;
    return err;
}

static qs_err check_device_memory(const qs_backend *backend, int64_t bytes)
{
    char need[QS_MEM_TEXT_BYTES], free[QS_MEM_TEXT_BYTES];
    qs_backend_memory memory;
    qs_backend_get_memory(backend, &memory);
    if ((size_t)bytes <= memory.free_bytes) return QS_OK;
    return qs_fail(QS_E_RESOURCE,
                   "quantize: %s of memory are needed on %s and %s are free; use --backend cpu",
                   qs_mem_format(need, (size_t)bytes), qs_backend_device(backend),
                   qs_mem_format(free, memory.free_bytes));
}

/* How many specs, those that are not rotated first, the next pass takes. */
static int64_t pass_length(const qs_spec *specs, int64_t n_specs)
{
    int64_t n = 1;
    while (n < n_specs && n < QS_POINTS_PER_PASS && specs[n].rotate == specs[0].rotate) n++;
    return n;
}

/* What a model refuses is refused before any pass. */
static qs_err check_rotation(const qs_quant_inputs *inputs, const qs_spec *specs, int64_t n_specs)
{
    qs_model *turned;
    qs_spec ignored;
    bool heads = false;
    for (int64_t i = 0; i < n_specs; i++) heads = heads || (specs[i].rotate && qs_spec_head(&specs[i], &ignored));
    qs_err err = qs_model_turn(inputs->model, &turned);
    return err == QS_OK && inputs->calib != NULL ? qs_turned_grams_check(turned, heads) : err;
}

/* specs [n_points] of the points that are to do, those that are not rotated first; how many. */
static int64_t specs_to_do(const qs_quant_point *points, int64_t n_points, qs_spec *specs)
{
    int64_t n = 0;
    for (int rotated = 0; rotated < 2; rotated++)
        for (int64_t i = 0; i < n_points; i++)
            if (!points[i].current && points[i].spec->rotate == (rotated == 1)) specs[n++] = *points[i].spec;
    return n;
}

qs_err qs_quant_points_plan(qs_quant_plan *out, const qs_quant_point *points, int64_t n_points,
                            const qs_quant_inputs *inputs, qs_backend *backend)
{
    bool on_device = qs_backend_solver(backend) != NULL;
    qs_spec *specs = NULL;
    double rate;
    qs_err err;
    *out = (qs_quant_plan){0};
    QS_TRY(QS_NEW(specs, n_points, "plan"));
    out->n_points = specs_to_do(points, n_points, specs);
    if (out->n_points == 0) goto out;
    if (specs[out->n_points - 1].rotate) QS_TRY(check_rotation(inputs, specs, out->n_points));
    QS_TRY(measure_rate(backend, &rate));
    for (int64_t first = 0, n; first < out->n_points; first += n) {
        n = pass_length(specs + first, out->n_points - first);
        qs_quant_cost cost = qs_quant_cost_of(inputs->model, qs_backend_n_threads(backend),
                                              inputs->calib != NULL, specs + first, n);
        int64_t bytes = on_device ? cost.solver_host_bytes : cost.bytes;
        if (specs[first].rotate) bytes += (int64_t)qs_turned_grams_bytes(inputs->model);
        out->seconds += cost.multiply_adds / rate;
        out->bytes = bytes > out->bytes ? bytes : out->bytes;
        if (!on_device) continue;
        out->seconds += (double)cost.solver_moved_bytes / carried_bytes_per_s;
        out->device_bytes =
            cost.solver_device_bytes > out->device_bytes ? cost.solver_device_bytes : out->device_bytes;
    }
    if (on_device) QS_TRY(check_device_memory(backend, out->device_bytes));
out:
    qs_mem_free(specs);
    return err;
}

static qs_err add_layer(pass *p, int64_t layer)
{
    qs_err err = QS_OK;
    for (int64_t i = 0; i < p->n; i++) {
        if (err == QS_OK) err = qs_quant_writer_add(p->writers[i], layer, &p->layers[i]);
        qs_quant_layer_free(&p->layers[i]);
    }
    return err;
}

/* Behind the last layer, in the memory that layers no longer need. */
static qs_err add_heads(pass *p, qs_quantizer *quantizer)
{
    qs_err err = qs_quantizer_head(quantizer, p->heads);
    if (err != QS_OK) return err;
    for (int64_t i = 0; i < p->n; i++) {
        if (err == QS_OK && p->heads[i].packed.codes != NULL)
            err = qs_quant_writer_add_head(p->writers[i], &p->heads[i]);
        qs_packed_free(&p->heads[i].packed);
    }
    return err;
}

static qs_err seal(pass *p, double seconds)
{
    for (int64_t i = 0; i < p->n; i++) {
        qs_quant_point *point = p->points[i];
        qs_quant_writer *writer = p->writers[i];
        p->writers[i] = NULL;
        point->loss = qs_quant_writer_loss(writer);
        point->predicted = qs_quant_writer_predicted(writer);
        point->n_fallbacks = qs_quant_writer_n_fallbacks(writer);
        point->quantize_s = seconds / (double)p->n;
        qs_err err = qs_quant_writer_finish(writer, point->quantize_s, &point->digest);
        if (err != QS_OK) return err;
        point->written = true;
    }
    return QS_OK;
}

static qs_err run_pass(pass *p, const qs_quant_inputs *inputs, qs_backend *backend,
                       const qs_gram_source *grams, qs_progress *progress, int64_t *n_done)
{
    int64_t n_layers = qs_model_get_config(inputs->model)->n_layers;
    qs_quantizer *quantizer = NULL;
    qs_turned_grams *turned_grams = NULL;
    qs_gram_source turned_source;
    qs_model *model = inputs->model;
    double start = qs_clock_seconds();
    qs_err err = QS_OK;
    if (p->rotated) QS_TRY(qs_model_turn(inputs->model, &model));
    if (p->rotated && grams != NULL) {
        QS_TRY(qs_turned_grams_create(&turned_grams, model, grams));
        turned_source = qs_turned_grams_source(turned_grams);
        grams = &turned_source;
    }
    QS_TRY(qs_quantizer_create(&quantizer, model, backend, grams, p->specs, p->n));
    for (int64_t layer = 0; qs_quantizer_has_budgets(quantizer) && layer < n_layers; layer++) {
        QS_TRY(qs_quantizer_measure(quantizer, layer));
        qs_progress_update(progress, ++*n_done);
    }
    QS_TRY(qs_quantizer_share(quantizer));
    for (int64_t i = 0; i < p->n; i++) {
        p->points[i]->linear_bits = qs_quantizer_linear_bits(quantizer, i);
        QS_TRY(qs_quant_writer_create(&p->writers[i], p->points[i]->path, inputs, p->points[i]->spec,
                                      p->points[i]->linear_bits));
    }
    for (int64_t layer = 0; layer < n_layers; layer++) {
        double began = qs_clock_seconds();
        QS_TRY(qs_quantizer_layer(quantizer, layer, p->layers));
        QS_TRY(add_layer(p, layer));
        if (layer < 2) {
            p->layer_s = qs_clock_seconds() - began;
            p->first_s = (layer == 0 ? 0 : p->first_s) + p->layer_s;
        }
        qs_progress_update(progress, ++*n_done);
    }
    QS_TRY(add_heads(p, quantizer));
    QS_TRY(seal(p, qs_clock_seconds() - start));
out:
    for (int64_t i = 0; i < p->n; i++) {
        qs_quant_writer_abort(p->writers[i]);
        p->writers[i] = NULL;
    }
    qs_quantizer_destroy(quantizer);
    qs_turned_grams_destroy(turned_grams);
    return err;
}

static qs_err run_or_split(pass *p, const qs_quant_inputs *inputs, qs_backend *backend, const qs_gram_source *grams,
                           qs_progress *progress, int64_t *n_done);

/* Those of points [first, last) of a pass that are not written, in a pass of their own. */
static qs_err run_some(const pass *whole, int64_t first, int64_t last, const qs_quant_inputs *inputs,
                       qs_backend *backend, const qs_gram_source *grams, qs_progress *progress, int64_t *n_done)
{
    pass *some;
    qs_err err = QS_NEW(some, 1, "pass");
    if (err != QS_OK) return err;
    some->rotated = whole->rotated;
    for (int64_t i = first; i < last; i++) {
        if (whole->points[i]->written) continue;
        some->specs[some->n] = whole->specs[i];
        some->points[some->n++] = whole->points[i];
    }
    if (some->n > 0) err = run_or_split(some, inputs, backend, grams, progress, n_done);
    qs_mem_free(some);
    return err;
}

static qs_err run_or_split(pass *p, const qs_quant_inputs *inputs, qs_backend *backend, const qs_gram_source *grams,
                           qs_progress *progress, int64_t *n_done)
{
    int64_t n_done_before = *n_done;
    qs_err err = run_pass(p, inputs, backend, grams, progress, n_done);
    if (err == QS_OK || !inputs->keep_going || !qs_failure_is_of_point(err)) return err;
    if (p->n == 1) {
        p->points[0]->failed = true;
        return qs_failure_record(p->points[0]->path, p->points[0]->spec->id, err);
    }
    *n_done = n_done_before;
    QS_TRY(run_some(p, 0, p->n / 2, inputs, backend, grams, progress, n_done));
    *n_done = n_done_before; /* both halves do the same layers */
    QS_TRY(run_some(p, p->n / 2, p->n, inputs, backend, grams, progress, n_done));
out:
    return err;
}

/* Times that a layer will be worked on: once in each pass, and once more in those that measure before they solve. */
static int64_t n_layer_runs(const qs_quant_point *points, int64_t n_points, bool rotated)
{
    int64_t n = 0, at = 0;
    bool budget = false;
    for (int64_t i = 0; i < n_points; i++) {
        if (points[i].current || points[i].spec->rotate != rotated) continue;
        if (at++ % QS_POINTS_PER_PASS == 0) {
            budget = false;
            n++;
        }
        n += !budget && points[i].spec->bpw > 0;
        budget = budget || points[i].spec->bpw > 0;
    }
    return n;
}

/* What all passes cost, in units of a layer of the first: passes of GPTQ take half as long again as those of RTN. 0
 * where budgets are measured first, which takes a time of its own. */
static qs_err count_lots(double *out, const qs_quant_point *points, int64_t n_points, const qs_quant_inputs *inputs,
                         int n_threads)
{
    int64_t n_layers = qs_model_get_config(inputs->model)->n_layers;
    double first_cost = 0, all = 0;
    bool budget = false;
    qs_spec *specs = NULL;
    qs_err err = QS_NEW(specs, n_points, "plan");
    if (err != QS_OK) return err;
    int64_t n_specs = specs_to_do(points, n_points, specs);
    for (int64_t i = 0; i < n_specs; i++) budget = budget || specs[i].bpw > 0;
    for (int64_t first = 0, n; first < n_specs; first += n) {
        n = pass_length(specs + first, n_specs - first);
        qs_quant_cost cost = qs_quant_cost_of(inputs->model, n_threads, inputs->calib != NULL, specs + first, n);
        if (first == 0) first_cost = cost.multiply_adds;
        all += cost.multiply_adds;
    }
    *out = budget || first_cost <= 0 ? 0 : all / first_cost * (double)n_layers;
    qs_mem_free(specs);
    return QS_OK;
}

qs_err qs_quant_points_run(qs_quant_point *points, int64_t n_points, const qs_quant_inputs *inputs,
                           qs_backend *backend, const qs_gram_source *grams, qs_foretold *foretold)
{
    int64_t n_layers = qs_model_get_config(inputs->model)->n_layers, n_done = 0;
    double first_s = 0, layer_s = 0, n_lots;
    qs_progress progress = {0};
    pass *p = NULL;
    qs_err err;
    QS_TRY(QS_NEW(p, 1, "pass"));
    QS_TRY(count_lots(&n_lots, points, n_points, inputs, qs_backend_n_threads(backend)));
    int64_t n_runs = n_layer_runs(points, n_points, false) + n_layer_runs(points, n_points, true);
    qs_progress_start(&progress, "quantize: layer", n_runs * n_layers);
    for (int rotated = 0; rotated < 2; rotated++)
        for (int64_t at = 0;;) {
            fill_pass(p, points, n_points, rotated == 1, &at);
            if (p->n == 0) break;
            QS_TRY(run_or_split(p, inputs, backend, grams, &progress, &n_done));
            if (first_s <= 0) {
                first_s = p->first_s;
                layer_s = p->layer_s;
            }
        }
    if (foretold != NULL && n_lots > 0) *foretold = (qs_foretold){first_s, layer_s * (n_lots - (n_layers > 1 ? 2 : 1))};
out:
    qs_progress_finish(&progress);
    qs_mem_free(p);
    return err;
}
