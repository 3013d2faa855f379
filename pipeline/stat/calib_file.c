#include "stat/calib_file.h"

#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "model/model_record.h"
#include "stat/stats.h"

struct qs_calib_file {
    qs_artifact *artifact;
    const qs_model_config *config;
    float *gram;
    int64_t gram_capacity; /* elements */
};

static bool same_int(const qs_artifact *artifact, const char *path, int64_t wanted)
{
    int64_t value;
    return qs_artifact_get_int(artifact, path, &value) == QS_OK && value == wanted;
}

static bool same_text(const qs_artifact *artifact, const char *path, const char *wanted)
{
    char value[256];
    return qs_artifact_get_text(artifact, path, value, sizeof value) == QS_OK && strcmp(value, wanted) == 0;
}

static bool same_windows(const qs_artifact *artifact, const qs_calib_plan *plan)
{
    int64_t n = plan->n_samples * plan->seqlen;
    int32_t *stored = NULL;
    bool same = QS_NEW(stored, n, "stored windows") == QS_OK &&
                qs_artifact_read(artifact, "/calibration/tokens", QS_I32, stored, n) == QS_OK &&
                memcmp(stored, plan->windows, (size_t)n * sizeof *stored) == 0;
    qs_mem_free(stored);
    return same;
}

bool qs_calib_is_current(const char *path, qs_model *model, const qs_calib_plan *plan)
{
    qs_artifact *artifact;
    if (qs_artifact_open(&artifact, path, QS_KIND_CALIB) != QS_OK) return false;
    bool current = qs_model_check_record(model, artifact, path) == QS_OK &&
                   same_int(artifact, "/calibration/@n_samples", plan->n_samples) &&
                   same_int(artifact, "/calibration/@seqlen", plan->seqlen) &&
                   same_text(artifact, "/calibration/@compute", plan->compute) &&
                   same_text(artifact, "/calibration/@propagate_spec", plan->propagate_spec) &&
                   same_windows(artifact, plan) && qs_artifact_has(artifact, QS_CALIB_HEAD "/gram");
    qs_artifact_close(artifact);
    return current;
}

qs_err qs_calib_create(qs_artifact **out, const char *path, qs_model *model, const qs_calib_plan *plan)
{
    qs_artifact *a = NULL;
    qs_err err;
    QS_TRY(qs_artifact_create(&a, path, QS_KIND_CALIB));
    QS_TRY(qs_model_record(model, a));
    QS_TRY(qs_artifact_put_int(a, "/calibration/@n_samples", plan->n_samples));
    QS_TRY(qs_artifact_put_int(a, "/calibration/@seqlen", plan->seqlen));
    QS_TRY(qs_artifact_put_int(a, "/calibration/@seed", plan->seed));
    QS_TRY(qs_artifact_put_int(a, "/calibration/@n_text_tokens", plan->n_text_tokens));
    QS_TRY(qs_artifact_put_int(a, "/calibration/@n_distinct_tokens", plan->n_distinct_tokens));
    QS_TRY(qs_artifact_put_text(a, "/calibration/@compute", plan->compute));
    QS_TRY(qs_artifact_put_int(a, "/calibration/@propagated", plan->propagate_spec[0] != '\0'));
    QS_TRY(qs_artifact_put_text(a, "/calibration/@propagate_spec", plan->propagate_spec));
    QS_TRY(qs_artifact_put(a, "/calibration/tokens", QS_I32, 2, (int64_t[]){plan->n_samples, plan->seqlen},
                           plan->windows));
    *out = a;
out:
    if (err != QS_OK) qs_artifact_abort(a);
    return err;
}

qs_err qs_calib_file_open(qs_calib_file **out, const char *path, qs_model *model)
{
    qs_calib_file *file = NULL;
    qs_err err;
    QS_TRY(QS_NEW(file, 1, "calibration file"));
    QS_TRY(qs_artifact_open(&file->artifact, path, QS_KIND_CALIB));
    QS_TRY(qs_model_check_record(model, file->artifact, path));
    file->config = qs_model_get_config(model);
    *out = file;
out:
    if (err != QS_OK) qs_calib_file_close(file);
    return err;
}

void qs_calib_file_close(qs_calib_file *file)
{
    if (file == NULL) return;
    qs_artifact_close(file->artifact);
    qs_mem_free(file->gram);
    qs_mem_free(file);
}

const qs_artifact *qs_calib_file_artifact(const qs_calib_file *file) { return file->artifact; }

enum { PATH_BYTES = 96 };

static const char *site_path(char path[PATH_BYTES], int64_t layer, qs_site site, const char *leaf)
{
    (void)snprintf(path, PATH_BYTES, "/layers/%lld/%s/%s", (long long)layer, qs_site_name(site), leaf);
    return path;
}

/* A dataset of n numbers into file->gram. */
static qs_err read_data(qs_calib_file *file, const char *path, int64_t n)
{
    qs_err err;
    if (n > file->gram_capacity) {
        qs_mem_free(file->gram);
        file->gram_capacity = 0;
        QS_TRY(QS_NEW(file->gram, n, "second moments"));
        file->gram_capacity = n;
    }
    QS_TRY(qs_artifact_read(file->artifact, path, QS_F32, file->gram, n));
out:
    return err;
}

static qs_err read_n_tokens(const qs_calib_file *file, const char *path, int64_t *n_tokens)
{
    qs_err err = qs_artifact_get_int(file->artifact, path, n_tokens);
    if (err == QS_OK && *n_tokens < 1)
        err = qs_fail(QS_E_INPUT, "read %s: %lld is no number of tokens; re-run %s", path, (long long)*n_tokens,
                      qs_artifact_kind_stage(QS_KIND_CALIB));
    return err;
}

qs_err qs_calib_file_gram(qs_calib_file *file, int64_t layer, qs_site site, const float **packed, int64_t *n_tokens)
{
    char path[PATH_BYTES];
    int64_t width = qs_site_width(file->config, site);
    qs_err err;
    *packed = NULL;
    QS_TRY(read_n_tokens(file, site_path(path, layer, site, "@n_tokens"), n_tokens));
    QS_TRY(read_data(file, site_path(path, layer, site, "gram"), width * (width + 1) / 2));
    *packed = file->gram;
out:
    return err;
}

bool qs_calib_file_has_head(const qs_calib_file *file)
{
    return qs_artifact_has(file->artifact, QS_CALIB_HEAD "/gram");
}

qs_err qs_calib_file_head_gram(qs_calib_file *file, const float **packed, int64_t *n_tokens)
{
    int64_t width = file->config->d_model;
    qs_err err;
    *packed = NULL;
    QS_TRY(read_n_tokens(file, QS_CALIB_HEAD "/@n_tokens", n_tokens));
    QS_TRY(read_data(file, QS_CALIB_HEAD "/gram", width * (width + 1) / 2));
    *packed = file->gram;
out:
    return err;
}

qs_err qs_calib_file_abs_mean(qs_calib_file *file, int64_t layer, qs_site site, const float **abs_mean)
{
    char path[PATH_BYTES];
    qs_err err = read_data(file, site_path(path, layer, site, "abs_mean"), qs_site_width(file->config, site));
    *abs_mean = err == QS_OK ? file->gram : NULL;
    return err;
}

/* The windows as they are stored; ids must be in the vocabulary. */
static qs_err read_windows(const qs_calib_file *file, int32_t **tokens, qs_dataset_info *info)
{
    qs_err err;
    QS_TRY(qs_artifact_info(file->artifact, "/calibration/tokens", info));
    if (info->rank != 2 || info->n == 0) {
        err = qs_fail(QS_E_INPUT, "read /calibration/tokens: no windows; re-run %s",
                      qs_artifact_kind_stage(QS_KIND_CALIB));
        goto out;
    }
    QS_TRY(QS_NEW(*tokens, info->n, "tokens of the calibration"));
    QS_TRY(qs_artifact_read(file->artifact, "/calibration/tokens", QS_I32, *tokens, info->n));
    for (int64_t i = 0; i < info->n; i++)
        if ((*tokens)[i] < 0 || (*tokens)[i] >= file->config->n_vocab) {
            err = qs_fail(QS_E_INPUT, "read /calibration/tokens: id %d is outside the vocabulary of %lld; re-run %s",
                          (*tokens)[i], (long long)file->config->n_vocab, qs_artifact_kind_stage(QS_KIND_CALIB));
            goto out;
        }
out:
    return err;
}

void qs_calib_spread_tokens(const int32_t *windows, int64_t n_samples, int64_t seqlen, int64_t *n_windows,
                            int64_t *n_ctx, int32_t *tokens)
{
    if (*n_windows > n_samples) *n_windows = n_samples;
    if (*n_ctx > seqlen) *n_ctx = seqlen;
    for (int64_t w = 0; w < *n_windows; w++)
        memcpy(tokens + w * *n_ctx, windows + w * n_samples / *n_windows * seqlen, (size_t)*n_ctx * sizeof *tokens);
}

qs_err qs_calib_file_tokens(const qs_calib_file *file, int64_t *n_windows, int64_t *n_ctx, int32_t *tokens)
{
    qs_dataset_info info;
    int32_t *all = NULL;
    qs_err err;
    QS_TRY(read_windows(file, &all, &info));
    qs_calib_spread_tokens(all, info.dims[0], info.dims[1], n_windows, n_ctx, tokens);
out:
    qs_mem_free(all);
    return err;
}

qs_err qs_calib_copy_record(const qs_artifact *from, qs_artifact *to)
{
    static const char *const ints[] = {"/calibration/@n_samples", "/calibration/@seqlen", "/calibration/@propagated"};
    static const char *const reals[] = {"/calibration/@js_divergence", "/calibration/@median_chars_ratio"};
    qs_err err = QS_OK;
    for (size_t i = 0; i < sizeof ints / sizeof *ints; i++) {
        int64_t value;
        if (!qs_artifact_has(from, ints[i])) continue;
        QS_TRY(qs_artifact_get_int(from, ints[i], &value));
        QS_TRY(qs_artifact_put_int(to, ints[i], value));
    }
    for (size_t i = 0; i < sizeof reals / sizeof *reals; i++) {
        double value;
        if (!qs_artifact_has(from, reals[i])) continue;
        QS_TRY(qs_artifact_get_real(from, reals[i], &value));
        QS_TRY(qs_artifact_put_real(to, reals[i], value));
    }
out:
    return err;
}
