#include "report/sweep.h"

#include <stdio.h>
#include <string.h>

#include "base/mem.h"

static void note_unreadable(qs_sweep *sweep, const char *path)
{
    qs_unreadable *one = &sweep->unreadable[sweep->n_unreadable++];
    (void)snprintf(one->path, sizeof one->path, "%s", path);
    (void)snprintf(one->cause, sizeof one->cause, "%s", qs_error_text());
}

/* Sets *again when the same artifact is there already. */
static qs_err check_duplicate(const qs_sweep *sweep, const qs_config_row *row, bool *again)
{
    *again = false;
    for (int64_t i = 0; i < sweep->n; i++) {
        const qs_config_row *other = &sweep->configs[i].row;
        if (strcmp(other->id, row->id) != 0) continue;
        *again = other->digest.low == row->digest.low && other->digest.high == row->digest.high;
        if (*again) return QS_OK;
        return qs_fail(QS_E_INPUT,
                       "report %s and %s together: both hold %s, with different content; give one of them",
                       other->path, row->path, row->id);
    }
    return QS_OK;
}

static bool is_comparison(const char *path)
{
    qs_artifact_kind kind;
    qs_digest digest;
    return qs_artifact_probe(path, &kind, &digest) == QS_OK && kind == QS_KIND_OPTIM;
}

static qs_err read_all(qs_sweep *sweep, const char *const *paths, int64_t n_paths)
{
    for (int64_t i = 0; i < n_paths; i++) {
        qs_sweep_config *config = &sweep->configs[sweep->n];
        bool again = false;
        if (is_comparison(paths[i])) {
            qs_err err = qs_optimizer_figures_load(&sweep->optimizer, paths[i]);
            if (err != QS_OK) return err;
            continue;
        }
        qs_err err = qs_config_row_load(&config->row, paths[i]);
        if (err == QS_E_RESOURCE) return err;
        if (err != QS_OK) {
            note_unreadable(sweep, paths[i]);
            qs_config_row_free(&config->row);
            continue;
        }
        err = check_duplicate(sweep, &config->row, &again);
        if (err != QS_OK || again) qs_config_row_free(&config->row);
        if (err != QS_OK) return err;
        if (!again) sweep->n++;
    }
    if (sweep->n == 0)
        return qs_fail(QS_E_INPUT, "read %lld eval artifacts: none is usable; the first: %s",
                       (long long)n_paths,
                       sweep->n_unreadable > 0 ? sweep->unreadable[0].cause : "no file was given");
    return QS_OK;
}

static void reference_first(qs_sweep *sweep)
{
    for (int64_t i = 0; i < sweep->n; i++) {
        if (!sweep->configs[i].row.reference) continue;
        qs_sweep_config found = sweep->configs[i];
        memmove(sweep->configs + 1, sweep->configs, (size_t)i * sizeof *sweep->configs);
        sweep->configs[0] = found;
        sweep->reference = &sweep->configs[0].row;
        return;
    }
}

qs_err qs_sweep_load(qs_sweep *out, const char *const *paths, int64_t n_paths, const qs_budgets *budgets,
                     bool strict)
{
    *out = (qs_sweep){.strict = strict};
    qs_err err;
    QS_TRY(QS_NEW(out->configs, n_paths, "configurations"));
    QS_TRY(QS_NEW(out->unreadable, n_paths, "unreadable files"));
    QS_TRY(read_all(out, paths, n_paths));
    reference_first(out);
    for (int64_t i = 1; i < out->n; i++)
        QS_TRY(qs_config_row_check_same_frame(&out->configs[0].row, &out->configs[i].row));
    for (int64_t i = 0; i < out->n; i++) {
        qs_sweep_config *config = &out->configs[i];
        if (out->reference != NULL) qs_config_row_compare(&config->row, out->reference);
        QS_TRY(qs_optimizer_figures_add(&out->optimizer, &config->row));
        QS_TRY(qs_judge(&config->judgement, budgets, &config->row, out->reference, NULL));
        /* What a race dropped stays dropped, whatever its part of the windows says. */
        config->passes = !config->row.reference && config->row.raced.decision != QS_RACE_DROPPED &&
                         qs_judgement_passes(&config->judgement, strict);
        out->n_passing += config->passes;
    }
out:
    return err;
}

void qs_sweep_free(qs_sweep *sweep)
{
    for (int64_t i = 0; i < sweep->n; i++) {
        qs_config_row_free(&sweep->configs[i].row);
        qs_judgement_free(&sweep->configs[i].judgement);
    }
    qs_optimizer_figures_free(&sweep->optimizer);
    qs_mem_free(sweep->configs);
    qs_mem_free(sweep->unreadable);
    *sweep = (qs_sweep){0};
}

void qs_sweep_count_raced(const qs_sweep *sweep, int64_t *n_raced, int64_t *n_partial)
{
    *n_raced = *n_partial = 0;
    for (int64_t i = 0; i < sweep->n; i++) {
        *n_raced += sweep->configs[i].row.raced.raced;
        *n_partial += qs_raced_is_partial(&sweep->configs[i].row.raced);
    }
}

int64_t qs_sweep_n_candidates(const qs_sweep *sweep) { return sweep->n - (sweep->reference != NULL ? 1 : 0); }

bool qs_sweep_same_device(const qs_sweep *sweep)
{
    const qs_config_row *first = NULL;
    for (int64_t i = 0; i < sweep->n; i++) {
        const qs_config_row *row = &sweep->configs[i].row;
        if (row->device[0] == '\0' && row->backend[0] == '\0') continue;
        if (first == NULL) first = row;
        if (strcmp(first->device, row->device) != 0 || strcmp(first->backend, row->backend) != 0 ||
            first->n_threads != row->n_threads)
            return false;
    }
    return true;
}
