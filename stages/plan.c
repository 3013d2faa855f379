/* qsweep-plan: the points of a grid, what each will cost, the files that make and Slurm work on; how far a
 * sweep is, and whether its files are sound. */
#include <stdio.h>
#include <string.h>

#include "base/args.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "quant/grid.h"
#include "quant/lint.h"
#include "quant/quant_run.h"
#include "quant/quant_size.h"
#include "stages/common.h"
#include "sweep/sweep_state.h"
#include "sweep/verify.h"

typedef struct options {
    qs_common_args common;
    const char *grid, *model, *out, *files, *only, *status, *verify;
    bool present, specs_only, complete, keep_parts;
    int64_t n_tokens; /* of the evaluation, for the cost */
    qs_arg_list specs;
    int n_threads;
} options;

/* What one point costs on this machine; zero when unknown. */
typedef struct cost {
    qs_quant_size size;
    double quantize_s, evaluate_s;
} cost;

static double evaluate_flops(const qs_model *model, int64_t n_tokens)
{
    const qs_model_config *config = qs_model_get_config(model);
    double weights = (double)config->n_vocab * (double)config->d_model;
    for (int role = 0; role < QS_N_LINEARS; role++) {
        qs_tensor_info info = qs_model_info(model, (qs_role)role, 0);
        weights += (double)config->n_layers * (double)info.n_out * (double)info.n_in;
    }
    return 2.0 * weights * (double)n_tokens;
}

/* ---- which points ---- */

/* Bits 1 << state of "missing,failed"; all of them for NULL. */
static qs_err parse_states(unsigned *bits, const char *text)
{
    *bits = text == NULL ? (1u << QS_N_POINT_STATES) - 1 : 0;
    while (text != NULL) {
        size_t bytes = strcspn(text, ",");
        int state = 0;
        while (state < QS_N_POINT_STATES &&
               (strlen(qs_point_state_name((qs_point_state)state)) != bytes ||
                strncmp(qs_point_state_name((qs_point_state)state), text, bytes) != 0))
            state++;
        if (state == QS_N_POINT_STATES)
            return qs_fail(QS_E_USAGE,
                           "--only: \"%.*s\" is none of missing, running, failed, quantized, done",
                           (int)bytes, text);
        *bits |= 1u << state;
        text = text[bytes] == ',' ? text + bytes + 1 : NULL;
    }
    return QS_OK;
}

/* Leaves the points of --only in the grid. */
static qs_err select_points(const options *opt, qs_grid *grid)
{
    qs_sweep_state state = {0};
    unsigned bits;
    int64_t n = 0;
    qs_err err = QS_OK;
    if (opt->only == NULL) return QS_OK;
    QS_TRY(parse_states(&bits, opt->only));
    QS_TRY(qs_sweep_state_read(&state, opt->out, grid));
    for (int64_t i = 0; i < grid->n; i++)
        if ((bits & 1u << state.points[i].state) != 0) grid->specs[n++] = grid->specs[i];
    grid->n = n;
out:
    qs_sweep_state_free(&state);
    return err;
}

static qs_err load_grid(const options *opt, qs_grid *grid)
{
    char path[QS_PATH_BYTES];
    if (opt->specs.n > 0) return qs_grid_from_specs(grid, opt->specs.items, opt->specs.n);
    if (opt->grid != NULL) return qs_grid_load(grid, opt->grid);
    if (!qs_path_is_dir(opt->status))
        return qs_fail(QS_E_INPUT, "--status %s: there is no such directory", opt->status);
    qs_err err = qs_path_format(path, "%s/grid.csv", opt->status); /* make sweep leaves it there */
    if (err == QS_OK && !qs_file_exists(path))
        err = qs_fail(QS_E_USAGE, "--status %s: there is no grid.csv in it; give --grid", opt->status);
    return err == QS_OK ? qs_grid_load(grid, path) : err;
}

/* ---- the work list ---- */

/* A line of text, or one more of the list of --json. */
static void put_line(json_t *list, const char *line)
{
    if (list != NULL) (void)json_array_append_new(list, qs_json_text(line));
    else (void)puts(line);
}

/* With --present only those that are there: the rest failed, or is not made yet. */
static qs_err put_file(const options *opt, json_t *list, const char *id)
{
    char path[QS_PATH_BYTES];
    qs_err err = qs_path_format(path, "%s/%s.%s.h5", opt->out, id, opt->files);
    if (err == QS_OK && (!opt->present || qs_file_exists(path))) put_line(list, path);
    return err;
}

static qs_err print_files(const options *opt, const qs_grid *grid)
{
    bool eval = strcmp(opt->files, "eval") == 0;
    if (!eval && strcmp(opt->files, "quant") != 0)
        return qs_fail(QS_E_USAGE, "--files: \"%s\" is neither quant nor eval", opt->files);
    json_t *list = opt->common.json ? json_array() : NULL;
    qs_err err = QS_OK;
    if (eval) QS_TRY(put_file(opt, list, "fp"));
    for (int64_t i = 0; i < grid->n; i++) QS_TRY(put_file(opt, list, grid->specs[i].id));
    if (opt->common.json) return stage_print_json(list);
out:
    json_decref(list);
    return err;
}

static qs_err print_specs(const options *opt, const qs_grid *grid)
{
    json_t *list = opt->common.json ? json_array() : NULL;
    for (int64_t i = 0; i < grid->n; i++) put_line(list, grid->specs[i].text);
    return opt->common.json ? stage_print_json(list) : QS_OK;
}

/* ---- points and cost ---- */

static const char *state_of(const options *opt, const qs_spec *spec)
{
    char path[QS_PATH_BYTES];
    if (qs_path_format(path, "%s/%s.eval.h5", opt->out, spec->id) == QS_OK && qs_file_exists(path)) return "evaluated";
    bool quant = qs_path_format(path, "%s/%s.quant.h5", opt->out, spec->id) == QS_OK && qs_file_exists(path);
    return quant ? "quantized" : "missing";
}

/* Without a model sizes and times are not known: null. */
static json_t *point_json(const options *opt, const qs_spec *spec, const cost *c)
{
    json_t *item = json_pack("{s:s, s:s, s:I, s:I, s:s, s:s}", "id", spec->id, "method", spec->method->name, "bits",
                             (json_int_t)spec->bits, "group_size", (json_int_t)spec->group_size, "variant",
                             spec->variant, "spec", spec->text);
    (void)json_object_set_new(item, "bpw", opt->model != NULL ? json_real(c->size.bpw) : json_null());
    (void)json_object_set_new(item, "bytes", opt->model != NULL ? json_integer(c->size.bytes) : json_null());
    (void)json_object_set_new(item, "quantize_s", opt->model != NULL ? json_real(c->quantize_s) : json_null());
    (void)json_object_set_new(item, "evaluate_s", opt->model != NULL ? json_real(c->evaluate_s) : json_null());
    (void)json_object_set_new(item, "state", json_string(state_of(opt, spec)));
    return item;
}

static void print_point(const options *opt, const qs_spec *spec, const cost *c)
{
    char bytes[QS_MEM_TEXT_BYTES];
    if (opt->model == NULL)
        (void)printf("%-32s %-10s %s\n", spec->id, state_of(opt, spec), spec->text);
    else
        (void)printf("%-32s %-10s %6.3f %11s %9.1f %9.1f\n", spec->id, state_of(opt, spec), c->size.bpw,
                     qs_mem_format(bytes, (size_t)c->size.bytes), c->quantize_s, c->evaluate_s);
}

static qs_err print_points(const options *opt, const qs_grid *grid, const qs_model *model, double flops_per_s)
{
    double solver_rate = 1.0;
    if (model != NULL) {
        qs_err err = qs_quant_measure_rate(&solver_rate);
        if (err != QS_OK) return err;
        solver_rate *= opt->n_threads;
    }
    double total = 0.0;
    json_t *list = opt->common.json ? json_array() : NULL;
    if (list == NULL && model != NULL)
        (void)printf("%-32s %-10s %6s %11s %9s %9s\n", "config", "state", "bpw", "bytes", "quant s",
                     "eval s");
    for (int64_t i = 0; i < grid->n; i++) {
        cost c = {0};
        if (model != NULL) {
            c.size = qs_quant_size_of(&grid->specs[i], model);
            c.quantize_s =
                qs_quant_cost_of(model, opt->n_threads, true, &grid->specs[i], 1).multiply_adds / solver_rate;
            c.evaluate_s = evaluate_flops(model, opt->n_tokens) / flops_per_s;
            total += c.quantize_s + c.evaluate_s;
        }
        if (list != NULL) (void)json_array_append_new(list, point_json(opt, &grid->specs[i], &c));
        else print_point(opt, &grid->specs[i], &c);
    }
    if (opt->common.json) return stage_print_json(list);
    if (model != NULL)
        (void)printf("%lld points, about %.0f s one by one, less together: evaluation of %lld tokens at %.0f "
                     "GFLOP/s\n",
                     (long long)grid->n, total, (long long)opt->n_tokens, flops_per_s * 1e-9);
    else (void)printf("%lld points\n", (long long)grid->n);
    return QS_OK;
}

/* ---- how far a sweep is ---- */

static json_t *state_json(const qs_sweep_state *state)
{
    json_t *points = json_array(), *counts = json_object();
    for (int s = 0; s < QS_N_POINT_STATES; s++)
        (void)json_object_set_new(counts, qs_point_state_name((qs_point_state)s),
                                  json_integer(state->count[s]));
    for (int64_t i = 0; i < state->n; i++) {
        const qs_sweep_point *p = &state->points[i];
        json_t *item = json_pack("{s:s, s:s}", "id", p->spec->id, "state", qs_point_state_name(p->state));
        if (p->state == QS_POINT_FAILED)
            (void)json_object_update_new(
                item, json_pack("{s:i, s:o}", "status", (int)p->failure.status, "error",
                                qs_json_text(p->failure.error)));
        (void)json_array_append_new(points, item);
    }
    return json_pack("{s:b, s:b, s:o, s:o, s:o}", "calibrated", (int)state->calibrated, "reference",
                     (int)state->reference, "counts", counts, "eta_s",
                     state->eta < 0 ? json_null() : json_real(state->eta), "points", points);
}

/* shown: bits 1 << state of the points that get a line. */
static void print_state(const qs_sweep_state *state, unsigned shown)
{
    for (int64_t i = 0; i < state->n; i++) {
        const qs_sweep_point *p = &state->points[i];
        if ((shown & 1u << p->state) == 0) continue;
        (void)printf("%-32s %-10s%s%s\n", p->spec->id, qs_point_state_name(p->state),
                     p->state == QS_POINT_FAILED ? " " : "",
                     p->state == QS_POINT_FAILED ? p->failure.error : "");
    }
    (void)printf("%lld points:", (long long)state->n);
    for (int s = QS_N_POINT_STATES - 1; s >= 0; s--)
        (void)printf(" %lld %s%s", (long long)state->count[s], qs_point_state_name((qs_point_state)s),
                     s > 0 ? "," : "");
    (void)printf("; %s%s", state->calibrated ? "" : "not calibrated yet; ",
                 state->reference ? "" : "no reference yet; ");
    if (state->count[QS_POINT_DONE] + state->count[QS_POINT_FAILED] == state->n)
        (void)printf("nothing left\n");
    else if (state->eta < 0) (void)printf("time left not known yet\n");
    else (void)printf("about %.0f s left at this pace\n", state->eta);
}

static qs_err print_status(const options *opt)
{
    qs_grid grid = {0};
    qs_sweep_state state = {0};
    unsigned shown;
    qs_err err;
    QS_TRY(parse_states(&shown, opt->only));
    QS_TRY(load_grid(opt, &grid));
    QS_TRY(qs_sweep_state_read(&state, opt->status, &grid));
    if (opt->common.json) {
        QS_TRY(stage_print_json(state_json(&state)));
    } else {
        print_state(&state, shown);
    }
    if (err == QS_OK && opt->complete && state.count[QS_POINT_DONE] < state.n)
        err = qs_fail(QS_E_INPUT, "%s: %lld of %lld points are not done", opt->status,
                      (long long)(state.n - state.count[QS_POINT_DONE]), (long long)state.n);
out:
    qs_sweep_state_free(&state);
    qs_grid_free(&grid);
    return err;
}

/* ---- whether its files are sound ---- */

static const char *rebuild_text(const qs_verification *v)
{
    return v->sweep[0] != '\0' ? v->sweep : "the same call as before of the stage that made it";
}

static json_t *verification_json(const qs_verification *v)
{
    json_t *bad = json_array();
    for (int64_t i = 0; i < v->n_bad; i++)
        (void)json_array_append_new(
            bad, json_pack("{s:o, s:s, s:o, s:o}", "path", qs_json_text(v->bad[i].path), "stage",
                           qs_artifact_kind_stage(v->bad[i].kind), "cause", qs_json_text(v->bad[i].cause), "rebuild",
                           qs_json_text(rebuild_text(v))));
    return json_pack("{s:I, s:I, s:I, s:o}", "artifacts", (json_int_t)v->n_artifacts, "removed",
                     (json_int_t)v->n_removed, "being_written", (json_int_t)v->n_written, "bad", bad);
}

static qs_err print_verification(const options *opt)
{
    qs_verification v = {0};
    qs_err err;
    QS_TRY(qs_verify_dir(&v, opt->verify, opt->keep_parts));
    if (opt->common.json) {
        QS_TRY(stage_print_json(verification_json(&v)));
    } else {
        for (int64_t i = 0; i < v.n_bad; i++)
            (void)printf("%s: %s\n  rebuild it (%s): rm '%s' && %s\n", v.bad[i].path, v.bad[i].cause,
                         qs_artifact_kind_stage(v.bad[i].kind), v.bad[i].path, rebuild_text(&v));
        (void)printf("%lld artifacts, %lld bad; %lld stale parts removed, %lld parts being written\n",
                     (long long)v.n_artifacts, (long long)v.n_bad, (long long)v.n_removed,
                     (long long)v.n_written);
    }
    if (err == QS_OK && v.n_bad > 0)
        err = qs_fail(QS_E_INPUT, "verify %s: %lld bad artifacts; rebuild them", opt->verify,
                      (long long)v.n_bad);
out:
    qs_verification_free(&v);
    return err;
}

static qs_err run(const options *opt)
{
    qs_grid grid = {0};
    qs_model *model = NULL;
    qs_backend *backend = NULL;
    qs_backend_peaks peaks = {0};
    qs_err err;
    QS_TRY(load_grid(opt, &grid));
    QS_TRY(select_points(opt, &grid));
    if (opt->files != NULL) {
        QS_TRY(print_files(opt, &grid));
        goto out;
    }
    if (opt->specs_only) {
        QS_TRY(print_specs(opt, &grid));
        goto out;
    }
    if (opt->model != NULL) {
        QS_TRY(qs_model_open(&model, opt->model));
        QS_TRY(qs_backend_create(&backend, opt->common.backend, opt->common.device, opt->n_threads));
        QS_TRY(qs_backend_measure_peaks(backend, QS_PEAK_F32, &peaks));
    }
    QS_TRY(print_points(opt, &grid, model, peaks.gemm_f32_flops));
    qs_lint_tell(grid.specs, grid.n, model != NULL ? qs_model_get_config(model) : NULL);
out:
    qs_backend_destroy(backend);
    qs_model_close(model);
    qs_grid_free(&grid);
    return err;
}

int main(int argc, char **argv)
{
    options opt = {.common = QS_COMMON_DEFAULTS, .out = ".", .n_tokens = 20480};
    qs_arg rows[] = {
        {"grid", QS_ARG_STRING, &opt.grid, "FILE.csv", "the grid: method,bits,group_size,variant", 0, 0,
         false},
        {"spec", QS_ARG_LIST, &opt.specs, "SPEC", "a point, instead of --grid", 0, 0, false},
        {"model", QS_ARG_STRING, &opt.model, "DIR|FILE.gguf", "also estimate size and time for this model", 0,
         0, false},
        {"tokens", QS_ARG_INT, &opt.n_tokens, "N", "evaluation tokens, for the estimate", 1, 1e12, false},
        {"out", QS_ARG_STRING, &opt.out, "DIR", "the sweep's directory", 0, 0, false},
        {"files", QS_ARG_STRING, &opt.files, "KIND", "print the points' files only: quant or eval", 0, 0,
         false},
        {"present", QS_ARG_FLAG, &opt.present, NULL, "of --files: those that are there", 0, 0, false},
        {"specs-only", QS_ARG_FLAG, &opt.specs_only, NULL, "print the points' specs only", 0, 0, false},
        {"only", QS_ARG_STRING, &opt.only, "LIST",
         "points in these states alone: missing, running, failed, quantized, done", 0, 0, false},
        {"status", QS_ARG_STRING, &opt.status, "DIR",
         "how far the sweep in DIR is, also while it runs; the grid is DIR/grid.csv unless --grid says", 0, 0,
         false},
        {"complete", QS_ARG_FLAG, &opt.complete, NULL,
         "of --status: exit status 4 unless every point is done", 0, 0, false},
        {"verify", QS_ARG_STRING, &opt.verify, "DIR",
         "read every artifact in DIR, name the bad ones (exit status 4), and remove parts that killed "
         "writers left",
         0, 0, false},
        {"keep-parts", QS_ARG_FLAG, &opt.keep_parts, NULL, "of --verify: leave those parts", 0, 0, false},
        QS_ARGS_COMMON(&opt.common),
    };
    qs_args args = {
        .program = "qsweep-plan",
        .summary = "list the points of a grid and their cost; say how far a sweep is, and verify its files",
        .rows = rows};
    bool done;
    qs_err err = qs_args_parse(&args, argc, argv, stdout, &done);
    if (err != QS_OK || done) goto out;
    qs_args_apply_common(&opt.common, &opt.n_threads);
    if (opt.common.list) {
        err = stage_list_specs(&opt.common);
        goto out;
    }
    if (opt.verify != NULL) err = print_verification(&opt);
    else if (opt.status != NULL) err = print_status(&opt);
    else if ((opt.grid == NULL) == (opt.specs.n == 0))
        err = qs_fail(QS_E_USAGE, "give either --grid or --spec; see qsweep-plan --help");
    else err = run(&opt);
out:
    qs_args_free(&args);
    return qs_args_exit(err);
}
