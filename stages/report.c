/* qsweep-report: hold the measurements of a sweep against budgets, write the tables, name the configuration
 * to ship. Exit status 3 when none passes, or when a negative control failed. */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/args.h"
#include "base/log.h"
#include "base/mem.h"
#include "report/json_report.h"
#include "report/rules.h"
#include "report/run_compare.h"
#include "report/tables.h"
#include "report/terminal.h"
#include "stages/common.h"
#include "train/compare.h"

typedef struct options {
    qs_common_args common;
    const char *budgets, *out, *compare;
    bool strict, markdown, schema, symptoms;
    int n_threads;
} options;

static void print_columns(void)
{
    (void)printf(
        "# Columns\n\n"
        "Generated from `pipeline/metric/metrics.c`, `pipeline/train/compare_figures.c` and `pipeline/report/tables.c` "
        "by `make docs`.\n\n"
        "## Metrics\n\n"
        "Columns of `summary.csv` and names of gates. A column that is not listed here is not measured by this\n"
        "version and stays empty.\n\n");
    qs_metrics_print_markdown(stdout, qs_metrics);
    (void)printf("\n## Figures of an optimizer comparison\n\n"
                 "Names of gates, from `qsweep-train --compare` (docs/training.md).\n\n");
    qs_metrics_print_markdown(stdout, qs_compare_metrics);
    (void)printf("\n## Tables\n\n"
                 "Numbers have 6 significant digits, counts and bytes are exact, an empty cell was not measured. A "
                 "text that\nbegins with `=`, `+`, `-` or `@` gets an apostrophe in front, so that no spreadsheet "
                 "takes it for a formula.\n\n");
    qs_tables_print_markdown(stdout);
}

/* The names that budgets and tables use. */
static qs_err print_names(const qs_common_args *common)
{
    stage_list list = stage_list_begin(common);
    for (const qs_metric *metric = qs_metrics; metric->name != NULL; metric++)
        stage_list_add(&list, "metrics", metric->name, metric->unit, metric->text);
    for (const qs_metric *metric = qs_compare_metrics; metric->name != NULL; metric++)
        stage_list_add(&list, "optimizer", metric->name, metric->unit, metric->text);
    for (const qs_table *table = qs_tables; table->file != NULL; table++)
        stage_list_add(&list, "tables", table->file, NULL, table->text);
    return stage_list_end(&list);
}

static void print_symptoms(void)
{
    (void)printf(
        "# Symptoms\n\n"
        "Generated from `pipeline/report/rules.c` by `make docs`.\n\n"
        "`qsweep-report` writes every row that fires, with the figures, into `diagnosis.csv`, and says in\n"
        "sentences what is wrong with each configuration that fails. A row fires when all of its conditions hold,\n"
        "and one of those joined by \"or\". What was not measured is no evidence. The order is that of suspicion:\n"
        "what makes everything else go wrong stands first. Ids are rows of the four source pages\n"
        "([checklist.md](checklist.md)); of several the one of the configuration's own page is named.\n\n");
    qs_rules_print_markdown(stdout);
}

static qs_err print_plan(const options *opt, const qs_arg_list *paths)
{
    json_t *reads = json_array(), *writes = json_array();
    char path[QS_PATH_BYTES];
    for (int64_t i = 0; i < paths->n; i++) (void)json_array_append_new(reads, qs_json_text(paths->items[i]));
    for (const qs_table *table = qs_tables; opt->out != NULL && table->file != NULL; table++)
        if (qs_path_format(path, "%s/%s", opt->out, table->file) == QS_OK)
            (void)json_array_append_new(writes, qs_json_text(path));
    if (opt->common.json)
        return stage_print_json(json_pack("{s:o, s:o, s:o}", "budgets", qs_json_text(opt->budgets), "reads", reads,
                                          "writes", writes));
    (void)printf("read %lld eval artifacts, judge them by %s\n", (long long)paths->n, opt->budgets);
    for (size_t i = 0; i < json_array_size(writes); i++)
        (void)printf("write %s\n", json_string_value(json_array_get(writes, i)));
    json_decref(reads);
    json_decref(writes);
    return QS_OK;
}

static bool wants_color(void)
{
    const char *no_color = getenv("NO_COLOR"); /* no-color.org: set and not empty */
    return isatty(STDOUT_FILENO) && (no_color == NULL || no_color[0] == '\0');
}

static qs_err print_report(const options *opt, const qs_sweep *sweep, const qs_selection *selection,
                           const qs_control *controls)
{
    if (opt->common.json) return qs_json_report_print(stdout, sweep, selection, controls);
    qs_terminal_options look = {.color = wants_color(), .markdown = opt->markdown};
    return qs_terminal_print(stdout, sweep, selection, controls, &look);
}

/* A misspelt name would leave its gate without a verdict, and nothing fails by it. */
static void warn_unknown(const char *path, const qs_budgets *budgets)
{
    for (int64_t i = 0; i < budgets->n; i++)
        for (int part = 0; part < budgets->rows[i].n_parts; part++)
            if (!qs_config_row_is_known(budgets->rows[i].parts[part].metric))
                qs_log_warn("%s:%lld: nothing that is measured is called \"%s\", so this gate judges nothing; the "
                            "names are in qsweep-report --list", path, (long long)budgets->rows[i].line,
                            budgets->rows[i].parts[part].metric);
}

static qs_err run(const options *opt, const qs_arg_list *paths)
{
    qs_budgets budgets = {0};
    qs_sweep sweep = {0};
    qs_selection selection = {0};
    qs_control controls[QS_N_CONTROLS];
    qs_err err;
    QS_TRY(qs_budgets_load(&budgets, opt->budgets));
    warn_unknown(opt->budgets, &budgets);
    if (opt->common.dry_run) {
        QS_TRY(print_plan(opt, paths));
        goto out;
    }
    err = qs_sweep_load(&sweep, paths->items, paths->n, &budgets, opt->strict);
    for (int64_t i = 0; i < sweep.n_unreadable; i++) qs_log_warn("%s", sweep.unreadable[i].cause);
    if (err != QS_OK) goto out;
    QS_TRY(qs_selection_make(&selection, &sweep, &budgets, (uint64_t)opt->common.seed));
    bool trusted = qs_controls_run(&sweep, controls);
    if (opt->out != NULL) {
        QS_TRY(qs_tables_write(&sweep, &selection, opt->out));
        qs_log_info("wrote the tables into %s", opt->out);
    }
    QS_TRY(print_report(opt, &sweep, &selection, controls));
    if (!trusted)
        err = qs_fail(QS_E_GATE, "a negative control failed: no verdict of this sweep can be trusted");
    else if (sweep.n_passing == 0)
        err = qs_fail(QS_E_GATE, "none of %lld configurations passes",
                      (long long)qs_sweep_n_candidates(&sweep));
out:
    qs_selection_free(&selection);
    qs_sweep_free(&sweep);
    qs_budgets_free(&budgets);
    return err;
}

/* All eval artifacts of a run's directory. */
static qs_err load_run(qs_sweep *out, const char *dir, const qs_budgets *budgets, bool strict)
{
    char **names = NULL, (*paths)[QS_PATH_BYTES] = NULL;
    const char **list = NULL;
    int64_t n = 0;
    qs_err err;
    QS_TRY(qs_dir_list(&names, &n, dir, ".eval.h5"));
    if (n == 0) {
        err = qs_fail(QS_E_INPUT, "compare %s: it holds no eval artifacts; give a directory of qsweep-evaluate", dir);
        goto out;
    }
    QS_TRY(QS_NEW(paths, n, "paths"));
    QS_TRY(QS_NEW(list, n, "paths"));
    for (int64_t i = 0; i < n; i++) {
        QS_TRY(qs_path_format(paths[i], "%s/%s", dir, names[i]));
        list[i] = paths[i];
    }
    QS_TRY(qs_sweep_load(out, list, n, budgets, strict));
    for (int64_t i = 0; i < out->n_unreadable; i++) qs_log_warn("%s", out->unreadable[i].cause);
out:
    qs_dir_list_free(names, n);
    qs_mem_free(paths);
    qs_mem_free(list);
    return err;
}

static qs_err write_changes(const options *opt, const qs_run_changes *changes)
{
    char path[QS_PATH_BYTES];
    qs_file_writer writer = {0};
    qs_err err;
    QS_TRY(qs_dir_create(opt->out));
    QS_TRY(qs_path_format(path, "%s/compare.csv", opt->out));
    QS_TRY(qs_file_writer_open(&writer, path));
    QS_TRY(qs_run_changes_write(writer.stream, changes));
    QS_TRY(qs_file_writer_publish(&writer));
out:
    qs_file_writer_discard(&writer);
    return err;
}

static qs_err compare_runs(const options *opt, const char *after_dir)
{
    qs_budgets budgets = {0};
    qs_sweep before = {0}, after = {0};
    qs_run_changes changes = {0};
    qs_err err;
    QS_TRY(qs_budgets_load(&budgets, opt->budgets));
    QS_TRY(load_run(&before, opt->compare, &budgets, opt->strict));
    QS_TRY(load_run(&after, after_dir, &budgets, opt->strict));
    QS_TRY(qs_runs_compare(&changes, &before, &after));
    if (opt->out != NULL && !opt->common.dry_run) QS_TRY(write_changes(opt, &changes));
    if (opt->common.json) QS_TRY(stage_print_json(qs_run_changes_json(&changes)));
    else QS_TRY(qs_run_changes_print(stdout, &changes, opt->markdown));
    if (changes.n_worse > 0)
        err = qs_fail(QS_E_GATE, "%lld gates are worse than in %s beyond noise", (long long)changes.n_worse,
                      opt->compare);
out:
    qs_run_changes_free(&changes);
    qs_sweep_free(&before);
    qs_sweep_free(&after);
    qs_budgets_free(&budgets);
    return err;
}

int main(int argc, char **argv)
{
    options opt = {.common = QS_COMMON_DEFAULTS};
    qs_arg rows[] = {
        {"budgets", QS_ARG_STRING, &opt.budgets, "FILE.csv", "what a configuration must reach", 0, 0, false},
        {"out", QS_ARG_STRING, &opt.out, "DIR",
         "where the CSV tables go; without it they are only printed", 0, 0, false},
        {"strict", QS_ARG_FLAG, &opt.strict, NULL, "gates that were not measured count as not passed", 0, 0, false},
        {"markdown", QS_ARG_FLAG, &opt.markdown, NULL, "print Markdown", 0, 0, false},
        {"compare", QS_ARG_STRING, &opt.compare, "RUN_A",
         "hold the run in directory RUN_B (the one argument then) against this one: exit status 3 when a gate is worse "
         "beyond noise", 0, 0, false},
        {"schema", QS_ARG_FLAG, &opt.schema, NULL, "print the layout of the artifacts, and stop", 0, 0, false},
        {"symptoms", QS_ARG_FLAG, &opt.symptoms, NULL, "print symptoms, causes and fixes, and stop", 0, 0, false},
        QS_ARGS_COMMON(&opt.common),
    };
    qs_args args = {.program = "qsweep-report",
                    .summary = "tables, verdicts, and the configuration to ship",
                    .positional = "EVAL... [OPTIM]",
                    .rows = rows};
    bool done;
    qs_err err = qs_args_parse(&args, argc, argv, stdout, &done);
    if (err != QS_OK || done) goto out;
    qs_args_apply_common(&opt.common, &opt.n_threads);
    if (opt.common.list && opt.common.json)
        err = print_names(&opt.common);
    else if (opt.common.list)
        print_columns();
    else if ((opt.schema || opt.symptoms) && opt.common.json)
        err = qs_fail(QS_E_USAGE, "--schema and --symptoms print pages in Markdown, and go without --json");
    else if (opt.schema)
        qs_schema_print_markdown(stdout);
    else if (opt.symptoms)
        print_symptoms();
    else if (opt.compare != NULL && args.rest.n != 1)
        err = qs_fail(QS_E_USAGE, "--compare RUN_A takes one more directory, RUN_B");
    else if (opt.budgets == NULL || args.rest.n == 0)
        err = qs_fail(QS_E_USAGE,
                      "--budgets and at least one eval artifact are needed; see qsweep-report --help");
    else if (opt.compare != NULL)
        err = compare_runs(&opt, args.rest.items[0]);
    else
        err = run(&opt, &args.rest);
out:
    qs_args_free(&args);
    return qs_args_exit(err);
}
