/* qsweep-quantize: chooses codes for one or many specs and writes one artifact per point. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/args.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/progress.h"
#include "quant/grid.h"
#include "quant/quant_file.h"
#include "stat/calib_file.h"

/* Points solved in one pass over the model. More share more; fewer lose less when the run is killed. */
enum { POINTS_PER_PASS = 32 };
/* Of the kernels' measured rate; what else a pass does takes the rest. */
static const double rate_share = 0.7;

typedef struct options {
    const char *model, *calib, *grid, *out;
    qs_arg_list specs;
    qs_common_args common;
} options;

typedef struct point {
    const qs_spec *spec;
    char path[QS_PATH_BYTES];
    bool current; /* nothing to do */
    qs_quant_writer *writer;
    double loss, quantize_s;
    int64_t n_fallbacks;
    qs_digest digest;
} point;

typedef struct run {
    options options;
    int argc;
    char **argv;
    int n_threads;
    qs_grid grid;
    qs_model *model;
    qs_calib_file *calib;
    qs_gram_source grams;
    qs_backend *backend;
    point *points; /* [grid.n] */
    qs_spec *todo; /* specs of the points that are not current, in order */
    int64_t n_todo;
    double plan_s;
    int64_t plan_bytes;
} run;

/* ---- take ---- */

static qs_err get_gram(void *context, int64_t layer, qs_site site, const float **packed_gram, int64_t *n_tokens)
{
    return qs_calib_file_gram(context, layer, site, packed_gram, n_tokens);
}

/* What can be refused without reading the model comes first. */
static qs_err take_specs(run *r)
{
    const options *o = &r->options;
    if (o->model == NULL || o->out == NULL) return qs_fail(QS_E_USAGE, "--model and --out are needed");
    if ((o->grid != NULL) == (o->specs.n > 0)) return qs_fail(QS_E_USAGE, "give either --spec (repeatable) or --grid");
    qs_err err = o->grid != NULL ? qs_grid_load(&r->grid, o->grid)
                                 : qs_grid_from_specs(&r->grid, o->specs.items, o->specs.n);
    for (int64_t i = 0; err == QS_OK && i < r->grid.n; i++)
        if ((r->grid.specs[i].method->needs & QS_NEED_GRAM) != 0 && o->calib == NULL)
            err = qs_fail(QS_E_USAGE, "%s needs --calib, the file of qsweep-calibrate", r->grid.specs[i].id);
    return err;
}

static qs_err check_calib(const run *r)
{
    const qs_artifact *artifact = qs_calib_file_artifact(r->calib);
    char path[96];
    for (int64_t layer = 0; layer < qs_model_get_config(r->model)->n_layers; layer++)
        for (int site = 0; site < QS_N_SITES; site++) {
            (void)snprintf(path, sizeof path, "/layers/%" PRId64 "/%s/gram", layer, qs_site_name((qs_site)site));
            if (!qs_artifact_has(artifact, path))
                return qs_fail(QS_E_INPUT, "%s: %s is missing; re-run qsweep-calibrate", r->options.calib, path);
        }
    return QS_OK;
}

static qs_err take_inputs(run *r)
{
    const options *o = &r->options;
    qs_err err;
    QS_TRY(qs_model_open(&r->model, o->model));
    QS_TRY(qs_quant_check(r->model, r->grid.specs, r->grid.n, o->calib != NULL));
    if (o->calib != NULL) {
        QS_TRY(qs_calib_file_open(&r->calib, o->calib, r->model));
        QS_TRY(check_calib(r));
        r->grams = (qs_gram_source){.get = get_gram, .context = r->calib};
    }
    QS_TRY(qs_backend_create(&r->backend, o->common.backend, o->common.device, r->n_threads));
out:
    return err;
}

static qs_quant_inputs inputs_of(const run *r)
{
    const char *slash = r->options.calib != NULL ? strrchr(r->options.calib, '/') : NULL;
    return (qs_quant_inputs){.model = r->model,
                             .calib = r->calib != NULL ? qs_calib_file_artifact(r->calib) : NULL,
                             .calib_name = slash != NULL ? slash + 1 : r->options.calib,
                             .argc = r->argc,
                             .argv = r->argv};
}

/* ---- plan ---- */

static qs_err find_work(run *r)
{
    qs_quant_inputs inputs = inputs_of(r);
    qs_err err;
    QS_TRY(QS_NEW(r->points, r->grid.n, "points"));
    QS_TRY(QS_NEW(r->todo, r->grid.n, "points"));
    for (int64_t i = 0; i < r->grid.n; i++) {
        point *p = &r->points[i];
        p->spec = &r->grid.specs[i];
        QS_TRY(qs_quant_path(p->path, r->options.out, p->spec));
        p->current = qs_quant_is_current(p->path, &inputs, p->spec);
        if (p->current)
            qs_log_info("%s is up to date", p->path);
        else
            r->todo[r->n_todo++] = *p->spec;
    }
out:
    return err;
}

static qs_err plan(run *r)
{
    char need_text[QS_MEM_TEXT_BYTES], free_text[QS_MEM_TEXT_BYTES];
    double rate;
    qs_err err = qs_quant_measure_rate(&rate);
    if (err != QS_OK) return err;
    rate *= rate_share * r->n_threads;
    for (int64_t first = 0; first < r->n_todo; first += POINTS_PER_PASS) {
        int64_t n = r->n_todo - first < POINTS_PER_PASS ? r->n_todo - first : POINTS_PER_PASS;
        qs_quant_cost cost = qs_quant_cost_of(r->model, r->n_threads, r->calib != NULL, r->todo + first, n);
        r->plan_s += cost.multiply_adds / rate;
        r->plan_bytes = cost.bytes > r->plan_bytes ? cost.bytes : r->plan_bytes;
    }
    size_t available = qs_mem_available_bytes();
    (void)qs_mem_format(need_text, (size_t)r->plan_bytes);
    (void)qs_mem_format(free_text, available);
    qs_log_info("quantize: %" PRId64 " points, %" PRId64 " to do; %s of memory (%s are free); about %.0f s on %d threads",
                r->grid.n, r->n_todo, need_text, free_text, r->plan_s, r->n_threads);
    if (available > 0 && (size_t)r->plan_bytes > available)
        return qs_fail(QS_E_RESOURCE, "quantize: %s of memory are needed and %s are free; give fewer points at once",
                       need_text, free_text);
    return QS_OK;
}

/* ---- run, seal ---- */

static qs_err seal_pass(run *r, point *const *pass, int64_t n, double seconds)
{
    for (int64_t i = 0; i < n; i++) {
        point *p = pass[i];
        qs_quant_writer *writer = p->writer;
        p->writer = NULL;
        p->loss = qs_quant_writer_loss(writer);
        p->n_fallbacks = qs_quant_writer_n_fallbacks(writer);
        p->quantize_s = seconds / (double)n;
        qs_err err = qs_quant_writer_finish(writer, p->quantize_s, &p->digest);
        if (err != QS_OK) return err;
        qs_quant_size size = qs_quant_size_of(p->spec, r->model);
        qs_log_info("%s: %.3f bits per weight, loss %.4g", p->path, size.bpw, p->loss);
        if (p->n_fallbacks > 0)
            qs_log_warn("%s: %" PRId64 " matrices were rounded to nearest, no damping made their second moments positive "
                        "definite", p->path, p->n_fallbacks);
    }
    return QS_OK;
}

/* All layers for up to POINTS_PER_PASS points; specs[i] is that of pass[i]. */
static qs_err run_pass(run *r, point *const *pass, const qs_spec *specs, int64_t n, qs_progress *progress,
                       int64_t n_layers_done)
{
    int64_t n_layers = qs_model_get_config(r->model)->n_layers;
    qs_quant_inputs inputs = inputs_of(r);
    qs_quantizer *quantizer = NULL;
    qs_quant_layer *layers = NULL;
    double start = qs_clock_seconds();
    qs_err err;
    QS_TRY(qs_quantizer_create(&quantizer, r->model, r->backend, r->calib != NULL ? &r->grams : NULL, specs, n));
    QS_TRY(QS_NEW(layers, n, "results of a layer"));
    for (int64_t i = 0; i < n; i++) QS_TRY(qs_quant_writer_create(&pass[i]->writer, pass[i]->path, &inputs, pass[i]->spec));
    for (int64_t layer = 0; layer < n_layers; layer++) {
        QS_TRY(qs_quantizer_layer(quantizer, layer, layers));
        for (int64_t i = 0; i < n; i++) {
            if (err == QS_OK) err = qs_quant_writer_add(pass[i]->writer, layer, &layers[i]);
            qs_quant_layer_free(&layers[i]);
        }
        if (err != QS_OK) goto out;
        qs_progress_update(progress, n_layers_done + layer + 1);
    }
    QS_TRY(seal_pass(r, pass, n, qs_clock_seconds() - start));
out:
    for (int64_t i = 0; i < n; i++) {
        qs_quant_writer_abort(pass[i]->writer);
        pass[i]->writer = NULL;
    }
    qs_mem_free(layers);
    qs_quantizer_destroy(quantizer);
    return err;
}

static qs_err quantize(run *r)
{
    point *pass[POINTS_PER_PASS];
    int64_t n_layers = qs_model_get_config(r->model)->n_layers, n_done = 0, n = 0;
    int64_t n_passes = (r->n_todo + POINTS_PER_PASS - 1) / POINTS_PER_PASS, n_finished = 0;
    qs_progress progress;
    qs_err err;
    QS_TRY(qs_dir_create(r->options.out));
    qs_progress_start(&progress, "quantize: layer", n_passes * n_layers);
    for (int64_t i = 0; i < r->grid.n; i++) {
        if (!r->points[i].current) pass[n++] = &r->points[i];
        if (n == 0 || (n < POINTS_PER_PASS && n_done + n < r->n_todo)) continue;
        QS_TRY(run_pass(r, pass, r->todo + n_done, n, &progress, n_finished++ * n_layers));
        n_done += n;
        n = 0;
        if (n_done == r->n_todo) break;
    }
    qs_progress_finish(&progress);
out:
    return err;
}

/* ---- say ---- */

static qs_err print_json(const run *r)
{
    char text[QS_DIGEST_TEXT_BYTES];
    json_t *points = json_array(), *root = json_object();
    int failed = json_object_set_new(root, "plan", json_pack("{s:I,s:I,s:f}", "points", (json_int_t)r->n_todo, "bytes",
                                                             (json_int_t)r->plan_bytes, "seconds", r->plan_s));
    for (int64_t i = 0; i < r->grid.n; i++) {
        const point *p = &r->points[i];
        qs_quant_size size = qs_quant_size_of(p->spec, r->model);
        bool written = p->quantize_s > 0;
        json_t *item = json_pack("{s:s,s:s,s:s,s:s,s:f,s:f,s:I}", "id", p->spec->id, "spec", p->spec->text, "path", p->path,
                                 "status", p->current ? "current" : written ? "written" : "planned", "bpw", size.bpw,
                                 "bpw_total", size.bpw_total, "bytes", (json_int_t)size.bytes);
        if (written)
            failed |= json_object_update_new(item, json_pack("{s:f,s:I,s:f,s:s}", "loss", p->loss, "fallbacks",
                                                             (json_int_t)p->n_fallbacks, "quantize_s", p->quantize_s,
                                                             "digest", qs_digest_format(text, p->digest)));
        failed |= json_array_append_new(points, item);
    }
    failed |= json_object_set_new(root, "points", points);
    failed |= json_dumpf(root, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(6)) | (printf("\n") < 0);
    json_decref(root);
    return failed != 0 ? qs_fail(QS_E_RESOURCE, "write the summary as JSON: out of memory or disk") : QS_OK;
}

static qs_err run_stage(run *r)
{
    qs_err err;
    QS_TRY(take_specs(r));
    QS_TRY(take_inputs(r));
    QS_TRY(find_work(r));
    QS_TRY(plan(r));
    if (!r->options.common.dry_run && r->n_todo > 0) QS_TRY(quantize(r));
    if (r->options.common.json) QS_TRY(print_json(r));
out:
    return err;
}

int main(int argc, char **argv)
{
    run r = {.options = {.common = QS_COMMON_DEFAULTS}, .argc = argc, .argv = argv};
    options *o = &r.options;
    qs_arg rows[] = {
        {"model", QS_ARG_STRING, &o->model, "DIR|FILE", "Hugging Face directory or GGUF file", 0, 0, false},
        {"calib", QS_ARG_STRING, &o->calib, "FILE", "statistics from qsweep-calibrate; losses are weighted by them", 0, 0,
         false},
        {"spec", QS_ARG_LIST, &o->specs, "SPEC", "a point, e.g. gptq:bits=4,group=64; --list shows the keys", 0, 0, false},
        {"grid", QS_ARG_STRING, &o->grid, "FILE", "CSV of points: method,bits,group_size,variant", 0, 0, false},
        {"out", QS_ARG_STRING, &o->out, "DIR", "where SPEC-ID.quant.h5 go", 0, 0, false},
        QS_ARGS_COMMON(&o->common),
    };
    qs_args args = {.program = "qsweep-quantize", .summary = "choose codes for one or many specs", .rows = rows};
    bool done;
    qs_err err = qs_args_parse(&args, argc, argv, &done);
    if (err == QS_OK && !done && o->common.list) {
        qs_spec_print_keys(stdout);
        done = true;
    }
    if (err == QS_OK && !done) {
        qs_args_apply_common(&o->common, &r.n_threads);
        err = run_stage(&r);
    }
    qs_mem_free(r.points);
    qs_mem_free(r.todo);
    qs_backend_destroy(r.backend);
    qs_calib_file_close(r.calib);
    qs_model_close(r.model);
    qs_grid_free(&r.grid);
    qs_args_free(&args);
    return qs_args_exit(err);
}
