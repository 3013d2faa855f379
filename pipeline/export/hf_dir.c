#include "export/hf_dir.h"

#include <stdio.h>
#include <string.h>

#include "base/dtype.h"
#include "base/mem.h"
#include "base/progress.h"
#include "export/hf_config.h"
#include "export/shard_writer.h"

/* Rows on their way to f16 pass through about this many floats. */
enum { CHUNK_FLOATS = 1 << 18, PREFIX_BYTES = QS_TENSOR_NAME_BYTES, NAME_BYTES = PREFIX_BYTES + 64 };

typedef struct writer {
    const qs_export_job *job;
    const qs_hf_codec *codec;
    qs_shard_writer *shards;
    qs_out_dir dir;
    float *f32;     /* [n_floats] */
    uint16_t *half; /* [n_floats] */
    int64_t n_floats;
    qs_progress progress;
} writer;

/* ---- what there will be ---- */

/* The name without ".weight". */
static const char *linear_prefix(char prefix[PREFIX_BYTES], qs_role role, int64_t layer)
{
    (void)qs_role_tensor_name(prefix, QS_NAMING_HF, role, layer);
    prefix[strlen(prefix) - strlen(".weight")] = '\0';
    return prefix;
}

static qs_err declare_linear(writer *w, int64_t layer, qs_role role)
{
    qs_hf_part parts[QS_HF_PARTS_MAX];
    char prefix[PREFIX_BYTES], name[NAME_BYTES];
    int n = 0;
    qs_err err = w->codec->parts(w->job, layer, role, parts, &n);
    (void)linear_prefix(prefix, role, layer);
    for (int i = 0; i < n && err == QS_OK; i++) {
        (void)snprintf(name, sizeof name, "%s%s", prefix, parts[i].leaf);
        err = qs_shard_writer_declare(w->shards, name, parts[i].type, parts[i].n_dims, parts[i].shape);
    }
    return err;
}

/* A tied head has no tensor of its own: loaders would take it for an untied one. One in low bits has others. */
static bool is_written(const qs_export_job *job, qs_role role, int64_t layer)
{
    const qs_model *model = job->model;
    if (role == QS_ROLE_HEAD && qs_export_has_head(job)) return false;
    if (role == QS_ROLE_HEAD && qs_model_get_config(model)->tied_head) return false;
    return qs_model_has(model, role, layer);
}

static qs_err declare_dense(writer *w, int64_t layer, qs_role role)
{
    char name[QS_TENSOR_NAME_BYTES];
    if (!is_written(w->job, role, layer)) return QS_OK;
    qs_tensor_info info = qs_model_info(w->job->model, role, layer);
    bool vector = info.n_out == 1;
    int64_t shape[2] = {vector ? info.n_in : info.n_out, info.n_in};
    return qs_shard_writer_declare(w->shards, qs_role_tensor_name(name, QS_NAMING_HF, role, layer), QS_ST_F16,
                                   vector ? 1 : 2, shape);
}

static qs_err declare_all(writer *w)
{
    int64_t n_layers = qs_model_get_config(w->job->model)->n_layers;
    qs_err err;
    QS_TRY(qs_shard_writer_create(&w->shards, w->job->shard_bytes));
    QS_TRY(declare_dense(w, 0, QS_ROLE_EMBED));
    for (int64_t layer = 0; layer < n_layers; layer++)
        for (qs_role role = 0; role < QS_N_BLOCK_ROLES; role++)
            QS_TRY(role < QS_N_LINEARS ? declare_linear(w, layer, role) : declare_dense(w, layer, role));
    QS_TRY(declare_dense(w, 0, QS_ROLE_FINAL_NORM));
    QS_TRY(declare_dense(w, 0, QS_ROLE_HEAD));
    if (qs_export_has_head(w->job)) QS_TRY(declare_linear(w, 0, QS_ROLE_HEAD));
out:
    return err;
}

qs_err qs_hf_dir_plan(const qs_export_job *job, const qs_hf_codec *codec, int64_t *bytes)
{
    writer w = {.job = job, .codec = codec};
    qs_err err = declare_all(&w);
    *bytes = err == QS_OK ? (int64_t)qs_shard_writer_bytes(w.shards) : 0;
    qs_shard_writer_destroy(w.shards);
    return err;
}

/* ---- tensors ---- */

static qs_err to_half(writer *w, const char *name, int64_t first, int64_t n)
{
    qs_f16_from_f32_array(w->half, w->f32, n);
    for (int64_t i = 0; i < n; i++)
        if ((w->half[i] & 0x7C00) == 0x7C00)
            return qs_fail(QS_E_NUMERIC, "export %s: element %lld is %g, beyond the range of f16", name,
                           (long long)(first + i), (double)w->f32[i]);
    return QS_OK;
}

static qs_err write_dense(writer *w, int64_t layer, qs_role role)
{
    const qs_model *model = w->job->model;
    char name[QS_TENSOR_NAME_BYTES];
    qs_err err = QS_OK;
    if (!is_written(w->job, role, layer)) return QS_OK;
    qs_tensor_info info = qs_model_info(model, role, layer);
    int64_t step = w->n_floats / info.n_in;
    (void)qs_role_tensor_name(name, QS_NAMING_HF, role, layer);
    for (int64_t row = 0; row < info.n_out; row += step) {
        int64_t n_rows = info.n_out - row < step ? info.n_out - row : step, n = n_rows * info.n_in;
        QS_TRY(info.n_out == 1 ? qs_export_vector(w->job, layer, role, n, w->f32)
                               : qs_model_read_rows_f32(model, role, layer, row, n_rows, w->f32));
        QS_TRY(to_half(w, name, row * info.n_in, n));
        QS_TRY(qs_shard_writer_put(w->shards, name, w->half, (size_t)n * sizeof *w->half));
    }
out:
    return err;
}

static size_t part_bytes(const qs_hf_part *part)
{
    size_t bytes = (size_t)qs_safetensor_type_bits(part->type) / 8;
    for (int d = 0; d < part->n_dims; d++) bytes *= (size_t)part->shape[d];
    return bytes;
}

static qs_err write_linear(writer *w, int64_t layer, qs_role role)
{
    qs_hf_part parts[QS_HF_PARTS_MAX];
    void *data[QS_HF_PARTS_MAX] = {0};
    char prefix[PREFIX_BYTES], name[NAME_BYTES];
    int n = 0;
    qs_err err;
    QS_TRY(w->codec->parts(w->job, layer, role, parts, &n));
    (void)linear_prefix(prefix, role, layer);
    for (int i = 0; i < n; i++) QS_TRY(qs_mem_alloc(&data[i], part_bytes(&parts[i]), "tensors of a matrix"));
    QS_TRY(w->codec->encode(w->job, layer, role, prefix, data));
    for (int i = 0; i < n; i++) {
        (void)snprintf(name, sizeof name, "%s%s", prefix, parts[i].leaf);
        QS_TRY(qs_shard_writer_put(w->shards, name, data[i], part_bytes(&parts[i])));
    }
out:
    for (int i = 0; i < n; i++) qs_mem_free(data[i]);
    return err;
}

static qs_err write_tensors(writer *w)
{
    const qs_model_config *config = qs_model_get_config(w->job->model);
    qs_err err;
    w->n_floats = CHUNK_FLOATS;
    for (qs_role role = 0; role < QS_N_ROLES; role++) {
        qs_tensor_info info = qs_model_info(w->job->model, role, 0);
        if (info.n_in > w->n_floats) w->n_floats = info.n_in;
    }
    QS_TRY(QS_NEW(w->f32, w->n_floats, "rows on their way to f16"));
    QS_TRY(QS_NEW(w->half, w->n_floats, "rows on their way to f16"));
    QS_TRY(qs_shard_writer_begin(w->shards, &w->dir));
    qs_progress_start(&w->progress, "export layers", config->n_layers);
    QS_TRY(write_dense(w, 0, QS_ROLE_EMBED));
    for (int64_t layer = 0; layer < config->n_layers; layer++) {
        for (qs_role role = 0; role < QS_N_BLOCK_ROLES; role++)
            QS_TRY(role < QS_N_LINEARS ? write_linear(w, layer, role) : write_dense(w, layer, role));
        qs_progress_update(&w->progress, layer + 1);
    }
    QS_TRY(write_dense(w, 0, QS_ROLE_FINAL_NORM));
    QS_TRY(write_dense(w, 0, QS_ROLE_HEAD));
    if (qs_export_has_head(w->job)) QS_TRY(write_linear(w, 0, QS_ROLE_HEAD));
    QS_TRY(qs_shard_writer_finish(w->shards, &w->dir));
out:
    qs_progress_finish(&w->progress);
    return err;
}

/* ---- the whole ---- */

static qs_err write_documents(const writer *w)
{
    json_t *quantised = w->codec->config(w->job);
    qs_err err = quantised != NULL ? QS_OK : qs_fail(QS_E_RESOURCE, "export: no memory for the configuration");
    if (err != QS_OK) return err;
    bool tied = qs_model_get_config(w->job->model)->tied_head && !qs_export_has_head(w->job);
    QS_TRY(qs_hf_config_write(w->job->model, &w->dir, quantised, tied));
    if (w->codec->config_file != NULL) QS_TRY(qs_out_dir_put_json(&w->dir, w->codec->config_file, quantised));
    QS_TRY(qs_hf_tokenizer_write(w->job->model, &w->dir));
out:
    json_decref(quantised);
    return err;
}

qs_err qs_hf_dir_write(const qs_export_job *job, const qs_hf_codec *codec)
{
    writer w = {.job = job, .codec = codec};
    qs_err err;
    QS_TRY(qs_out_dir_open(&w.dir, job->out));
    QS_TRY(declare_all(&w));
    QS_TRY(write_documents(&w)); /* the small things first: what they refuse is refused early */
    QS_TRY(write_tensors(&w));
out:
    qs_shard_writer_destroy(w.shards);
    qs_mem_free(w.f32);
    qs_mem_free(w.half);
    if (err == QS_OK) err = qs_out_dir_publish(&w.dir);
    else qs_out_dir_discard(&w.dir);
    return err;
}
