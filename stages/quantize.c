/* qsweep-quantize: chooses codes for one or many specs and writes one artifact per point. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "artifact/failure.h"
#include "base/args.h"
#include "base/clock.h"
#include "base/json.h"
#include "base/log.h"
#include "base/mem.h"
#include "quant/block_loss.h"
#include "quant/grid.h"
#include "quant/lint.h"
#include "quant/quant_points.h"
#include "stages/common.h"
#include "stat/calib_file.h"

typedef struct options {
    const char *model, *calib, *grid, *awq_loss, *out;
    qs_arg_list specs;
    qs_common_args common;
} options;

typedef struct run {
    options options;
    int n_threads;
    qs_grid grid;
    qs_calib_file *calib;
    qs_gram_source grams;
    int32_t tokens[QS_BLOCK_LOSS_TOKENS]; /* for budgets and block losses */
    qs_backend *backend;
    qs_quant_inputs inputs;
    qs_quant_plan plan;
    qs_quant_point *points; /* [grid.n] */
    int64_t n_refused;      /* points that --keep-going took out of the grid */
} run;

/* ---- take: what can be refused without reading the model comes first ---- */

static qs_err take_specs(run *r)
{
    const options *o = &r->options;
    if (o->model == NULL || o->out == NULL) return qs_fail(QS_E_USAGE, "--model and --out are needed");
    if ((o->grid != NULL) == (o->specs.n > 0))
        return qs_fail(QS_E_USAGE, "give either --spec (repeatable) or --grid");
    qs_err err = o->grid != NULL ? qs_grid_load(&r->grid, o->grid)
                                 : qs_grid_from_specs(&r->grid, o->specs.items, o->specs.n);
    if (err == QS_OK && o->awq_loss != NULL) err = qs_grid_set_awq_loss(&r->grid, o->awq_loss);
    for (int64_t i = 0; err == QS_OK && i < r->grid.n; i++)
        if ((r->grid.specs[i].method->needs & QS_NEED_GRAM) != 0 && o->calib == NULL)
            err = qs_fail(QS_E_USAGE, "%s needs --calib, the file of qsweep-calibrate", r->grid.specs[i].id);
    return err;
}

static qs_err get_gram(void *context, int64_t layer, qs_site site, const float **packed_gram,
                       int64_t *n_tokens)
{
    return qs_calib_file_gram(context, layer, site, packed_gram, n_tokens);
}

static qs_err get_abs(void *context, int64_t layer, qs_site site, const float **abs_mean)
{
    return qs_calib_file_abs_mean(context, layer, site, abs_mean);
}

static qs_err get_head(void *context, const float **packed_gram, int64_t *n_tokens)
{
    return qs_calib_file_head_gram(context, packed_gram, n_tokens);
}

/* Files of older versions have no statistics of the head's input, and nothing but a head in low bits needs them. */
static qs_err check_head(const run *r)
{
    qs_spec head;
    for (int64_t i = 0; i < r->grid.n && !qs_calib_file_has_head(r->calib); i++)
        if (qs_spec_head(&r->grid.specs[i], &head))
            return qs_fail(QS_E_INPUT, "%s: statistics of the head's input are missing, which %s needs; re-run "
                           "qsweep-calibrate", r->options.calib, r->grid.specs[i].id);
    return QS_OK;
}

/* Opens the statistics and makes sure that none is missing. */
static qs_err take_calib(run *r)
{
    const char *name = r->options.calib, *slash = strrchr(name, '/');
    qs_err err = qs_calib_file_open(&r->calib, name, r->inputs.model);
    if (err != QS_OK) return err;
    const qs_artifact *artifact = qs_calib_file_artifact(r->calib);
    char path[96];
    for (int64_t layer = 0; layer < qs_model_get_config(r->inputs.model)->n_layers; layer++) {
        for (int site = 0; site < QS_N_SITES; site++) {
            (void)snprintf(path, sizeof path, "/layers/%" PRId64 "/%s/gram", layer,
                           qs_site_name((qs_site)site));
            if (!qs_artifact_has(artifact, path))
                return qs_fail(QS_E_INPUT, "%s: %s is missing; re-run qsweep-calibrate", name, path);
        }
    }
    err = check_head(r);
    if (err != QS_OK) return err;
    r->grams = (qs_gram_source){.get = get_gram, .get_abs = get_abs, .context = r->calib, .tokens = r->tokens,
                                .get_head = qs_calib_file_has_head(r->calib) ? get_head : NULL,
                                .n_windows = QS_BLOCK_LOSS_WINDOWS, .n_ctx = QS_BLOCK_LOSS_CTX};
    err = qs_calib_file_tokens(r->calib, &r->grams.n_windows, &r->grams.n_ctx, r->tokens);
    if (err != QS_OK) return err;
    r->inputs.calib = artifact;
    r->inputs.calib_name = slash != NULL ? slash + 1 : name;
    return QS_OK;
}

/* Points that the model cannot take leave the grid, recorded as failed. */
static qs_err refuse_points(run *r)
{
    const options *o = &r->options;
    char path[QS_PATH_BYTES];
    int64_t n = 0;
    qs_err err = QS_OK, refusal = QS_OK;
    for (int64_t i = 0; i < r->grid.n; i++) {
        const qs_spec *spec = &r->grid.specs[i];
        refusal = qs_quant_check(r->inputs.model, spec, 1, o->calib != NULL);
        if (refusal == QS_OK) {
            r->grid.specs[n++] = *spec;
        } else if (!o->common.dry_run) {
            QS_TRY(qs_quant_path(path, o->out, spec));
            QS_TRY(qs_failure_record(path, spec->id, refusal));
        }
    }
    r->n_refused = r->grid.n - n;
    r->grid.n = n;
    if (n == 0) err = qs_fail(QS_E_UNSUPPORTED, "quantize: all %" PRId64 " points were refused", r->n_refused);
out:
    return err;
}

static qs_err take_inputs(run *r)
{
    const options *o = &r->options;
    qs_err err;
    QS_TRY(qs_model_open(&r->inputs.model, o->model));
    if (r->inputs.keep_going) {
        if (!o->common.dry_run) QS_TRY(qs_dir_create(o->out));
        QS_TRY(refuse_points(r));
    } else {
        QS_TRY(qs_quant_check(r->inputs.model, r->grid.specs, r->grid.n, o->calib != NULL));
    }
    if (o->calib != NULL) QS_TRY(take_calib(r));
    QS_TRY(qs_backend_create(&r->backend, o->common.backend, o->common.device, r->n_threads));
    r->inputs.backend = r->backend;
    r->inputs.device = o->common.device;
out:
    return err;
}

/* ---- plan ---- */

static qs_err plan(run *r)
{
    char need[QS_MEM_TEXT_BYTES], free[QS_MEM_TEXT_BYTES];
    size_t available = qs_mem_available_bytes();
    qs_err err;
    QS_TRY(QS_NEW(r->points, r->grid.n, "points"));
    QS_TRY(qs_quant_points_find(r->points, r->options.out, &r->inputs, r->grid.specs, r->grid.n));
    for (int64_t i = 0; i < r->grid.n; i++)
        if (r->points[i].current) qs_log_info("%s is up to date", r->points[i].path);
    QS_TRY(qs_quant_points_plan(&r->plan, r->points, r->grid.n, &r->inputs, r->backend));
    (void)qs_mem_format(need, (size_t)r->plan.bytes);
    (void)qs_mem_format(free, available);
    if (r->plan.n_points > 0) qs_lint_tell(r->grid.specs, r->grid.n, qs_model_get_config(r->inputs.model));
    qs_log_info("quantize: %" PRId64 " of %" PRId64 " points to do; %s of memory (%s are free); about %.0f s "
                "on %d threads", r->plan.n_points, r->grid.n, need, free, r->plan.seconds, r->n_threads);
    if (available > 0 && (size_t)r->plan.bytes > available)
        err = qs_fail(QS_E_RESOURCE, "quantize: %s of memory are needed and %s are free; give fewer points at "
                      "once", need, free);
out:
    return err;
}

/* ---- run ---- */

static qs_err quantize(run *r)
{
    qs_err err;
    QS_TRY(qs_dir_create(r->options.out));
    double started = qs_clock_seconds();
    size_t held = stage_begin_work();
    qs_foretold foretold = {0};
    err = qs_quant_points_run(r->points, r->grid.n, &r->inputs, r->backend,
                              r->calib != NULL ? &r->grams : NULL, &foretold);
    if (err == QS_OK)
        stage_tell_estimate("quantize", qs_clock_seconds() - started, r->plan.seconds, held,
                            (size_t)r->plan.bytes, &foretold);
    for (int64_t i = 0; i < r->grid.n; i++) {
        const qs_quant_point *p = &r->points[i];
        if (!p->written) continue;
        double bpw = qs_quant_size_of_bits(p->linear_bits, 0, r->inputs.model).bpw;
        if (p->spec->bpw > 0)
            qs_log_info("%s: %.3f bits per weight, loss %.4g (predicted %.4g)", p->path, bpw, p->loss, p->predicted);
        else
            qs_log_info("%s: %.3f bits per weight, loss %.4g", p->path, bpw, p->loss);
        if (p->n_fallbacks > 0)
            qs_log_warn("%s: %" PRId64 " matrices rounded to nearest: no damping made their second moments "
                        "positive definite", p->path, p->n_fallbacks);
    }
out:
    return err;
}

/* ---- say ---- */

static json_t *point_json(const qs_quant_point *p, const qs_model *model)
{
    char text[QS_DIGEST_TEXT_BYTES];
    qs_quant_size size = qs_quant_size_of_bits(p->linear_bits, qs_quant_head_bits(p->spec, model), model);
    const char *status = p->failed ? "failed" : p->current ? "current" : p->written ? "written" : "planned";
    json_t *item = json_pack("{s:s,s:s,s:o,s:s}", "id", p->spec->id, "spec", p->spec->text, "path",
                             qs_json_text(p->path), "status", status);
    int failed = json_object_update_new(
        item, json_pack("{s:f,s:f,s:I}", "bpw", size.bpw, "bpw_total", size.bpw_total, "bytes",
                        (json_int_t)size.bytes));
    if (p->written)
        failed |= json_object_update_new(
            item, json_pack("{s:f,s:I,s:f,s:s}", "loss", p->loss, "fallbacks", (json_int_t)p->n_fallbacks,
                            "quantize_s", p->quantize_s, "digest", qs_digest_format(text, p->digest)));
    if (failed == 0) return item;
    json_decref(item);
    return NULL;
}

static qs_err print_json(const run *r)
{
    json_t *points = json_array(), *root = json_object();
    json_t *cost = json_pack("{s:I,s:I,s:f}", "points", (json_int_t)r->plan.n_points, "bytes",
                             (json_int_t)r->plan.bytes, "seconds", r->plan.seconds);
    int failed = json_object_set_new(root, "plan", cost);
    for (int64_t i = 0; i < r->grid.n; i++)
        failed |= json_array_append_new(points, point_json(&r->points[i], r->inputs.model));
    failed |= json_object_set_new(root, "points", points);
    failed |= json_dumpf(root, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(6));
    failed |= putchar('\n') == EOF;
    json_decref(root);
    return failed != 0 ? qs_fail(QS_E_RESOURCE, "write the summary: out of memory or disk") : QS_OK;
}

/* With --keep-going the exit status is that of a failure only when nothing is left to go on with. */
static qs_err check_failures(const run *r)
{
    int64_t n = r->n_refused;
    for (int64_t i = 0; i < r->grid.n; i++) n += r->points[i].failed;
    if (n == 0) return QS_OK;
    if (n == r->grid.n + r->n_refused) return qs_fail(QS_E_INPUT, "quantize: all %" PRId64 " points failed", n);
    qs_log_warn("quantize: %" PRId64 " of %" PRId64 " points failed; %s/*.quant.failed say why", n,
                r->grid.n + r->n_refused, r->options.out);
    return QS_OK;
}

static qs_err run_stage(run *r)
{
    qs_err err;
    QS_TRY(take_specs(r));
    QS_TRY(take_inputs(r));
    QS_TRY(plan(r));
    if (!r->options.common.dry_run && r->plan.n_points > 0) QS_TRY(quantize(r));
    if (r->options.common.json) QS_TRY(print_json(r));
    QS_TRY(check_failures(r));
out:
    return err;
}

int main(int argc, char **argv)
{
    run r = {.options = {.common = QS_COMMON_DEFAULTS}, .inputs = {.argc = argc, .argv = argv}};
    options *o = &r.options;
    qs_arg rows[] = {
        {"model", QS_ARG_STRING, &o->model, "DIR|FILE", "Hugging Face directory or GGUF file", 0, 0, false},
        {"calib", QS_ARG_STRING, &o->calib, "FILE", "statistics from qsweep-calibrate", 0, 0, false},
        {"spec", QS_ARG_LIST, &o->specs, "SPEC", "a point: gptq:bits=4,group=64", 0, 0, false},
        {"grid", QS_ARG_STRING, &o->grid, "FILE", "CSV of points: method,bits,group_size,variant", 0, 0, false},
        {"awq-loss", QS_ARG_STRING, &o->awq_loss, "linear|block",
         "what all points of AWQ rate their scalings by, as the key loss of a spec", 0, 0, false},
        {"out", QS_ARG_STRING, &o->out, "DIR", "where SPEC-ID.quant.h5 go", 0, 0, false},
        {"keep-going", QS_ARG_FLAG, &r.inputs.keep_going, NULL,
         "record a point that fails in OUT/SPEC-ID.quant.failed, and go on with the others", 0, 0, false},
        QS_ARGS_WATCHDOG(&o->common),
        QS_ARGS_COMMON(&o->common),
    };
    qs_args args = {.program = "qsweep-quantize",
                    .summary = "choose codes for one or many specs; --list shows methods and their keys",
                    .rows = rows};
    bool done;
    qs_err err = qs_args_parse(&args, argc, argv, stdout, &done);
    if (err == QS_OK && !done && o->common.list) {
        err = stage_list_specs(&o->common);
    } else if (err == QS_OK && !done) {
        qs_args_apply_common(&o->common, &r.n_threads);
        err = run_stage(&r);
    }
    qs_mem_free(r.points);
    qs_backend_destroy(r.backend);
    qs_calib_file_close(r.calib);
    qs_model_close(r.inputs.model);
    qs_grid_free(&r.grid);
    qs_args_free(&args);
    return qs_args_exit(err);
}
