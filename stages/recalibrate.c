#include "stages/recalibrate.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "artifact/artifact.h"
#include "base/log.h"
#include "base/mem.h"
#include "metric/evaluation.h"
#include "quant/spec.h"
#include "stages/children.h"
#include "stages/evaluate_lists.h"

/* ---- arguments of a stage ---- */

typedef struct arguments {
    const char **items; /* [n_max + 1], ends with NULL */
    int64_t n, n_max;
} arguments;

static qs_err begin_arguments(arguments *a, int64_t n_max)
{
    *a = (arguments){.n_max = n_max};
    return QS_NEW(a->items, n_max + 1, "arguments");
}

static void add_option(arguments *a, const char *option, const char *value)
{
    if (a->n + 2 > a->n_max) return; /* cannot be: n_max counts them */
    a->items[a->n++] = option;
    if (value != NULL) a->items[a->n++] = value;
}

/* Options of the evaluation that say which points, where and by which fixes; and those that twins are not asked. */
static const struct {
    const char *name;
    bool has_value, of_reference; /* the reference is asked it */
} dropped[] = {
    {"--quant", true, false},   {"--checkpoint", true, false}, {"--baseline", true, false}, {"--out", true, false},
    {"--fix", true, false},     {"--fix-text", true, false},   {"--tasks", true, false},    {"--json", false, false},
    {"--dry-run", false, false}, {"--dump", true, true},       {"--embed", true, true},     {"--probe", true, true},
};

static bool is_dropped(const char *option, bool reference, bool *value_follows)
{
    size_t bytes = strcspn(option, "=");
    for (size_t i = 0; i < sizeof dropped / sizeof *dropped; i++)
        if (strlen(dropped[i].name) == bytes && strncmp(dropped[i].name, option, bytes) == 0) {
            *value_follows = dropped[i].has_value && option[bytes] != '=';
            return !(reference && dropped[i].of_reference);
        }
    return false;
}

static void add_kept(arguments *a, const stage_recalibration *r, bool reference)
{
    for (int i = 1; i < r->argc; i++) {
        bool value_follows = false;
        if (is_dropped(r->argv[i], reference, &value_follows)) i += value_follows;
        else add_option(a, r->argv[i], NULL);
    }
}

static void add_common(arguments *a, const qs_common_args *c, char texts[3][24])
{
    const int64_t numbers[] = {c->n_threads, c->device, c->seed};
    static const char *const names[] = {"--threads", "--device", "--seed"};
    add_option(a, "--backend", c->backend);
    for (int i = 0; i < 3; i++) {
        (void)snprintf(texts[i], sizeof texts[i], "%" PRId64, numbers[i]);
        add_option(a, names[i], texts[i]);
    }
    if (c->quiet) add_option(a, "--quiet", NULL);
}

/* ---- what is made again ---- */

typedef struct twin {
    char id[QS_SPEC_ID_BYTES], spec[QS_SPEC_TEXT_BYTES];
    int64_t n_samples, seqlen;
    bool calibrated; /* else its method needs no statistics */
} twin;

static qs_err read_twin(twin *t, const char *path)
{
    qs_artifact *artifact;
    qs_spec spec;
    qs_err err = qs_artifact_open(&artifact, path, QS_KIND_QUANT);
    if (err != QS_OK) return err;
    QS_TRY(qs_artifact_get_text(artifact, "/spec/@id", t->id, sizeof t->id));
    QS_TRY(qs_artifact_get_text(artifact, "/spec/@text", t->spec, sizeof t->spec));
    QS_TRY(qs_spec_parse(&spec, t->spec));
    t->calibrated = (spec.method->needs & QS_NEED_GRAM) != 0;
    if (t->calibrated) {
        QS_TRY(qs_artifact_get_int(artifact, "/calibration/@n_samples", &t->n_samples));
        QS_TRY(qs_artifact_get_int(artifact, "/calibration/@seqlen", &t->seqlen));
    }
out:
    qs_artifact_close(artifact);
    return err;
}

/* Those without calibration leave the list, by name. */
static qs_err read_twins(twin *twins, int64_t *n, const qs_arg_list *quants)
{
    *n = 0;
    for (int64_t i = 0; i < quants->n; i++) {
        qs_err err = read_twin(&twins[*n], quants->items[i]);
        if (err != QS_OK) return err;
        if (twins[*n].calibrated) (*n)++;
        else qs_log_warn("%s rests on no calibration: there is nothing to recalibrate", twins[*n].id);
    }
    return QS_OK;
}

/* ---- the stages ---- */

static qs_err make_reference(const stage_recalibration *r, const char *tasks)
{
    arguments a = {0};
    qs_err err;
    if (r->baseline != NULL) return QS_OK;
    QS_TRY(begin_arguments(&a, r->argc + 4));
    add_kept(&a, r, true);
    add_option(&a, "--tasks", tasks);
    add_option(&a, "--out", r->out);
    QS_TRY(stage_run("evaluate", a.items));
out:
    qs_mem_free(a.items);
    return err;
}

static qs_err calibrate(const stage_recalibration *r, const twin *like, const char *calib)
{
    char numbers[3][24], n_samples[24], seqlen[24];
    arguments a = {0};
    qs_err err;
    (void)snprintf(n_samples, sizeof n_samples, "%" PRId64, like->n_samples);
    (void)snprintf(seqlen, sizeof seqlen, "%" PRId64, like->seqlen);
    QS_TRY(begin_arguments(&a, 24));
    add_option(&a, "--model", r->model);
    add_option(&a, "--text", r->text);
    add_option(&a, "--samples", n_samples);
    add_option(&a, "--seqlen", seqlen);
    add_option(&a, "--out", calib);
    add_common(&a, r->common, numbers);
    QS_TRY(stage_run("calibrate", a.items));
out:
    qs_mem_free(a.items);
    return err;
}

static qs_err quantize(const stage_recalibration *r, const twin *twins, int64_t n, const char *calib, const char *dir)
{
    char numbers[3][24];
    arguments a = {0};
    qs_err err;
    QS_TRY(begin_arguments(&a, 2 * n + 24));
    add_option(&a, "--model", r->model);
    add_option(&a, "--calib", calib);
    add_option(&a, "--out", dir);
    for (int64_t i = 0; i < n; i++) add_option(&a, "--spec", twins[i].spec);
    add_common(&a, r->common, numbers);
    QS_TRY(stage_run("quantize", a.items));
out:
    qs_mem_free(a.items);
    return err;
}

static qs_err evaluate(const stage_recalibration *r, const twin *twins, int64_t n, const char *tasks, const char *dir)
{
    char(*paths)[QS_PATH_BYTES] = NULL, fp[QS_PATH_BYTES];
    arguments a = {0};
    qs_err err;
    QS_TRY(begin_arguments(&a, r->argc + 2 * n + 6));
    QS_TRY(QS_NEW(paths, n, "paths"));
    QS_TRY(qs_path_format(fp, "%s/fp.eval.h5", r->out));
    add_kept(&a, r, false);
    add_option(&a, "--tasks", tasks);
    add_option(&a, "--baseline", r->baseline != NULL ? r->baseline : fp);
    add_option(&a, "--out", dir);
    for (int64_t i = 0; i < n; i++) {
        QS_TRY(qs_path_format(paths[i], "%s/%s.quant.h5", dir, twins[i].id));
        add_option(&a, "--quant", paths[i]);
    }
    QS_TRY(stage_run("evaluate", a.items));
out:
    qs_mem_free(a.items);
    qs_mem_free(paths);
    return err;
}

qs_err stage_recalibrate(char dir[QS_PATH_BYTES], const stage_recalibration *r)
{
    char calib[QS_PATH_BYTES], tasks[STAGE_NAMES_BYTES], own_tasks[STAGE_NAMES_BYTES];
    twin *twins = NULL;
    int64_t n;
    qs_err err;
    QS_TRY(qs_path_format(dir, "%s/recalibrated", r->out));
    QS_TRY(qs_path_format(calib, "%s/calib.h5", dir));
    QS_TRY(QS_NEW(twins, r->quants->n > 0 ? r->quants->n : 1, "points to recalibrate"));
    QS_TRY(read_twins(twins, &n, r->quants));
    if (n == 0) goto out;
    if (r->common->dry_run) {
        qs_log_info("recalibrate: first %" PRId64 " windows of %s are calibrated with, and %" PRId64
                    " points quantised and evaluated again in %s",
                    twins[0].n_samples, r->text, n, dir);
        goto out;
    }
    QS_TRY(qs_dir_create(dir));
    stage_names_format(own_tasks, stage_task_names, r->tasks);
    stage_names_format(tasks, stage_task_names, r->tasks & ~(unsigned)(QS_TASK_LATENCY | QS_TASK_MEMORY));
    QS_TRY(make_reference(r, own_tasks));
    QS_TRY(calibrate(r, &twins[0], calib));
    QS_TRY(quantize(r, twins, n, calib, dir));
    QS_TRY(evaluate(r, twins, n, tasks, dir));
out:
    qs_mem_free(twins);
    return qs_context(err, "recalibrate with %s", r->text);
}
