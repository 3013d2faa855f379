/* qsweep-plan: the points of a grid, what each will cost, and the files that make and Slurm work on. */
#include <stdio.h>
#include <string.h>

#include "base/args.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "quant/grid.h"
#include "quant/quant_run.h"
#include "quant/quant_size.h"

typedef struct options {
    qs_common_args common;
    const char *grid, *model, *out, *files;
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

static qs_err print_files(const options *opt, const qs_grid *grid)
{
    if (strcmp(opt->files, "quant") != 0 && strcmp(opt->files, "eval") != 0)
        return qs_fail(QS_E_USAGE, "--files: \"%s\" is neither quant nor eval", opt->files);
    if (strcmp(opt->files, "eval") == 0) (void)printf("%s/fp.eval.h5\n", opt->out);
    for (int64_t i = 0; i < grid->n; i++) (void)printf("%s/%s.%s.h5\n", opt->out, grid->specs[i].id, opt->files);
    return QS_OK;
}

static void print_point(const options *opt, const qs_spec *spec, const cost *c, bool last)
{
    char state[32], path[QS_PATH_BYTES];
    bool quant = qs_path_format(path, "%s/%s.quant.h5", opt->out, spec->id) == QS_OK && qs_file_exists(path);
    bool eval = qs_path_format(path, "%s/%s.eval.h5", opt->out, spec->id) == QS_OK && qs_file_exists(path);
    (void)snprintf(state, sizeof state, "%s", eval ? "evaluated" : quant ? "quantized" : "missing");
    if (opt->common.json) {
        (void)printf(
            "  {\"id\": \"%s\", \"method\": \"%s\", \"bits\": %lld, \"group_size\": %lld, \"variant\": "
            "\"%s\", "
            "\"spec\": \"%s\", \"bpw\": %.6g, \"bytes\": %lld, \"quantize_s\": %.3g, \"evaluate_s\": %.3g, "
            "\"state\": \"%s\"}%s\n",
            spec->id, spec->method->name, (long long)spec->bits, (long long)spec->group_size, spec->variant,
            spec->text, c->size.bpw, (long long)c->size.bytes, c->quantize_s, c->evaluate_s, state,
            last ? "" : ",");
        return;
    }
    if (opt->model == NULL) {
        (void)printf("%-32s %-10s %s\n", spec->id, state, spec->text);
        return;
    }
    char bytes[QS_MEM_TEXT_BYTES];
    (void)printf("%-32s %-10s %6.3f %11s %9.1f %9.1f\n", spec->id, state, c->size.bpw,
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
    if (opt->common.json)
        (void)printf("[\n");
    else if (model != NULL)
        (void)printf("%-32s %-10s %6s %11s %9s %9s\n", "config", "state", "bpw", "bytes", "quant s", "eval s");
    for (int64_t i = 0; i < grid->n; i++) {
        cost c = {0};
        if (model != NULL) {
            c.size = qs_quant_size_of(&grid->specs[i], model);
            c.quantize_s =
                qs_quant_cost_of(model, opt->n_threads, true, &grid->specs[i], 1).multiply_adds / solver_rate;
            c.evaluate_s = evaluate_flops(model, opt->n_tokens) / flops_per_s;
            total += c.quantize_s + c.evaluate_s;
        }
        print_point(opt, &grid->specs[i], &c, i + 1 == grid->n);
    }
    if (opt->common.json)
        (void)printf("]\n");
    else if (model != NULL)
        (void)printf("%lld points, about %.0f s one by one, less together: evaluation of %lld tokens at %.0f GFLOP/s\n",
                     (long long)grid->n, total, (long long)opt->n_tokens, flops_per_s * 1e-9);
    else
        (void)printf("%lld points\n", (long long)grid->n);
    return QS_OK;
}

static qs_err run(const options *opt)
{
    qs_grid grid = {0};
    qs_model *model = NULL;
    qs_backend *backend = NULL;
    qs_backend_peaks peaks = {0};
    qs_err err;
    QS_TRY(opt->grid != NULL ? qs_grid_load(&grid, opt->grid)
                             : qs_grid_from_specs(&grid, opt->specs.items, opt->specs.n));
    if (opt->files != NULL) {
        QS_TRY(print_files(opt, &grid));
        goto out;
    }
    if (opt->model != NULL) {
        QS_TRY(qs_model_open(&model, opt->model));
        QS_TRY(qs_backend_create(&backend, opt->common.backend, opt->common.device, opt->n_threads));
        QS_TRY(qs_backend_measure_peaks(backend, &peaks));
    }
    QS_TRY(print_points(opt, &grid, model, peaks.gemm_f32_flops));
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
        QS_ARGS_COMMON(&opt.common),
    };
    qs_args args = {.program = "qsweep-plan", .summary = "list the points of a grid and their cost", .rows = rows};
    bool done;
    qs_err err = qs_args_parse(&args, argc, argv, &done);
    if (err != QS_OK || done) goto out;
    qs_args_apply_common(&opt.common, &opt.n_threads);
    if (opt.common.list) {
        qs_spec_print_keys(stdout);
        goto out;
    }
    if ((opt.grid == NULL) == (opt.specs.n == 0))
        err = qs_fail(QS_E_USAGE, "give either --grid or --spec; see qsweep-plan --help");
    else
        err = run(&opt);
out:
    qs_args_free(&args);
    return qs_args_exit(err);
}
