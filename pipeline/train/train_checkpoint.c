#include "train/train_checkpoint.h"

#include <math.h>
#include <string.h>

#include "artifact/artifact.h"
#include "base/file.h"
#include "base/mem.h"

enum { SETTINGS_BYTES = 4096, DATASET_BYTES = 64 };

void qs_train_state_fini(qs_train_state *state)
{
    qs_mem_free(state->curve);
    qs_mem_free(state->validation);
    *state = (qs_train_state){0};
}

qs_err qs_train_state_add(qs_train_state *state, double loss, double lr, double gradient_norm)
{
    qs_err err = qs_mem_grow(&state->curve, state->step, &state->curve_capacity,
                             QS_CURVE_COLUMNS * sizeof *state->curve, "curve");
    if (err != QS_OK) return err;
    double *row = state->curve + state->step++ * QS_CURVE_COLUMNS;
    row[0] = loss;
    row[1] = lr;
    row[2] = gradient_norm;
    return QS_OK;
}

qs_err qs_train_state_add_validation(qs_train_state *state, const qs_train_loss *loss)
{
    qs_err err =
        qs_mem_grow(&state->validation, state->n_validations, &state->validation_capacity,
                    QS_VALIDATION_COLUMNS * sizeof *state->validation, "curve");
    if (err != QS_OK) return err;
    double *row = state->validation + state->n_validations++ * QS_VALIDATION_COLUMNS;
    row[0] = (double)state->step;
    row[1] = exp(loss->nll / (double)loss->n);
    row[2] = loss->n_answer > 0 ? exp(loss->answer_nll / (double)loss->n_answer) : 0;
    row[3] = (double)loss->n_hits / (double)loss->n;
    row[4] = loss->n_examples > 0 ? (double)loss->n_examples_hit / (double)loss->n_examples : 0;
    return QS_OK;
}

static qs_err put_rows(qs_artifact *artifact, const char *path, int64_t n, int64_t n_columns,
                       const double *rows)
{
    int64_t dims[2] = {n, n_columns};
    return n > 0 ? qs_artifact_put(artifact, path, QS_F64, 2, dims, rows) : QS_OK;
}

static qs_err put_arrays(qs_artifact *artifact, qs_trainer *trainer)
{
    qs_optimizer_array arrays[QS_OPTIMIZER_ARRAYS];
    int64_t n = qs_trainer_layout(trainer)->n;
    qs_err err;
    QS_TRY(qs_artifact_put(artifact, "/parameters", QS_F32, 1, &n, qs_trainer_parameters(trainer)));
    qs_optimizer_arrays(qs_trainer_optimizer(trainer), arrays);
    for (int i = 0; i < QS_OPTIMIZER_ARRAYS; i++) {
        char path[QS_PATH_BYTES];
        if (arrays[i].n == 0) continue;
        QS_TRY(qs_path_format(path, "/optimizer/%s", arrays[i].name));
        QS_TRY(qs_artifact_put(artifact, path, arrays[i].is_codes ? QS_U8 : QS_F32, 1, &arrays[i].n,
                               arrays[i].data));
    }
out:
    return err;
}

qs_err qs_train_checkpoint_write(const char *path, const char *settings, const qs_train_state *state,
                                 qs_trainer *trainer, int argc, char *const *argv)
{
    qs_err err;
    qs_artifact *artifact = NULL;
    QS_TRY(qs_artifact_create(&artifact, path, QS_KIND_TRAIN));
    if (argv != NULL) QS_TRY(qs_artifact_set_command(artifact, argc, argv));
    QS_TRY(qs_artifact_put_text(artifact, "/training/@settings", settings));
    QS_TRY(qs_artifact_put_int(artifact, "/training/@step", state->step));
    QS_TRY(qs_artifact_put_int(artifact, "/training/@cursor", state->cursor));
    QS_TRY(qs_artifact_put_int(artifact, "/training/@n_tokens", state->n_tokens));
    QS_TRY(put_rows(artifact, "/training/curve", state->step, QS_CURVE_COLUMNS, state->curve));
    QS_TRY(put_rows(artifact, "/training/validation", state->n_validations, QS_VALIDATION_COLUMNS,
                    state->validation));
    QS_TRY(put_arrays(artifact, trainer));
    return qs_artifact_seal(artifact, NULL); /* which takes it, also where it fails */
out:
    qs_artifact_abort(artifact);
    return err;
}

/* Both texts have a setting a line; says the first line that differs. */
static qs_err compare_settings(const char *path, const char *stored, const char *wanted)
{
    while (*stored != '\0' || *wanted != '\0') {
        size_t n = strcspn(stored, "\n"), m = strcspn(wanted, "\n");
        if (n != m || memcmp(stored, wanted, n) != 0)
            return qs_fail(QS_E_INPUT,
                           "resume from %s: it was made with \"%.*s\", not \"%.*s\"; give the same options, or "
                           "remove it to start anew",
                           path, (int)n, stored, (int)m, wanted);
        stored += n + (stored[n] == '\n');
        wanted += m + (wanted[m] == '\n');
    }
    return QS_OK;
}

static qs_err read_array(const qs_artifact *artifact, const char *path, qs_dtype dtype, int64_t n, void *data)
{
    qs_dataset_info info;
    qs_err err = qs_artifact_info(artifact, path, &info);
    if (err != QS_OK) return err;
    if (info.n != n)
        return qs_fail(QS_E_INPUT, "resume: %s has %lld elements, this model needs %lld", path,
                       (long long)info.n, (long long)n);
    return qs_artifact_read(artifact, path, dtype, data, n);
}

static qs_err read_rows(const qs_artifact *artifact, const char *path, int64_t n_columns, int64_t *n,
                        double **rows)
{
    qs_dataset_info info;
    *n = 0;
    *rows = NULL;
    if (!qs_artifact_has(artifact, path)) return QS_OK;
    qs_err err = qs_artifact_info(artifact, path, &info);
    if (err != QS_OK) return err;
    if (info.dims[1] != n_columns)
        return qs_fail(QS_E_INPUT, "resume: %s has %lld columns, not %lld", path, (long long)info.dims[1],
                       (long long)n_columns);
    err = QS_NEW(*rows, info.n, "curve");
    if (err != QS_OK) return err;
    *n = info.dims[0];
    return qs_artifact_read(artifact, path, QS_F64, *rows, info.n);
}

static qs_err read_state(const qs_artifact *artifact, const char *path, qs_train_state *state)
{
    qs_err err;
    int64_t n_curve;
    QS_TRY(qs_artifact_get_int(artifact, "/training/@step", &state->step));
    QS_TRY(qs_artifact_get_int(artifact, "/training/@cursor", &state->cursor));
    QS_TRY(qs_artifact_get_int(artifact, "/training/@n_tokens", &state->n_tokens));
    QS_TRY(read_rows(artifact, "/training/curve", QS_CURVE_COLUMNS, &n_curve, &state->curve));
    QS_TRY(read_rows(artifact, "/training/validation", QS_VALIDATION_COLUMNS, &state->n_validations,
                     &state->validation));
    state->curve_capacity = n_curve;
    state->validation_capacity = state->n_validations;
    if (n_curve != state->step || state->cursor < 0)
        err = qs_fail(QS_E_INPUT, "resume from %s: %lld steps, but a curve of %lld", path,
                      (long long)state->step, (long long)n_curve);
out:
    return err;
}

qs_err qs_train_checkpoint_read(const char *path, const char *settings, qs_train_state *state, qs_trainer *trainer)
{
    qs_err err;
    qs_artifact *artifact = NULL;
    char stored[SETTINGS_BYTES], name[DATASET_BYTES];
    qs_optimizer_array arrays[QS_OPTIMIZER_ARRAYS];
    *state = (qs_train_state){0};
    QS_TRY(qs_artifact_open(&artifact, path, QS_KIND_TRAIN));
    QS_TRY(qs_artifact_get_text(artifact, "/training/@settings", stored, sizeof stored));
    QS_TRY(compare_settings(path, stored, settings));
    QS_TRY(read_state(artifact, path, state));
    QS_TRY(read_array(artifact, "/parameters", QS_F32, qs_trainer_layout(trainer)->n,
                      qs_trainer_parameters(trainer)));
    qs_optimizer_arrays(qs_trainer_optimizer(trainer), arrays);
    for (int i = 0; i < QS_OPTIMIZER_ARRAYS; i++) {
        if (arrays[i].n == 0) continue;
        (void)snprintf(name, sizeof name, "/optimizer/%s", arrays[i].name);
        QS_TRY(read_array(artifact, name, arrays[i].is_codes ? QS_U8 : QS_F32, arrays[i].n, arrays[i].data));
    }
    qs_trainer_refresh(trainer);
out:
    qs_artifact_close(artifact);
    if (err != QS_OK) qs_train_state_fini(state);
    return err;
}
