#include "quant/quant_file.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "backend/backend_record.h"
#include "base/args.h"
#include "base/file.h"
#include "base/mem.h"
#include "model/model_record.h"
#include "stat/calib_file.h"

static const char encoding[] = "rows of codes, least significant bit first";
enum { TEXT_BYTES = 256, NODE_BYTES = 96 };

/* ---- writing ---- */

struct qs_quant_writer {
    qs_artifact *artifact;
    const qs_model *model;
    bool *written; /* [n_layers] */
    bool budget;   /* bits were shared out among the matrices */
    double loss_sum, predicted_sum;
    int64_t n_matrices, n_fallbacks;
};

qs_err qs_quant_path(char *path, const char *dir, const qs_spec *spec)
{
    return qs_path_format(path, "%s/%s.quant.h5", dir, spec->id);
}

static qs_err put_inputs(qs_artifact *a, const qs_quant_inputs *inputs)
{
    qs_err err;
    QS_TRY(qs_model_record(inputs->model, a));
    if (inputs->calib != NULL) {
        QS_TRY(qs_artifact_add_parent(a, "calib", inputs->calib_name, qs_artifact_digest(inputs->calib)));
        QS_TRY(qs_calib_copy_record(inputs->calib, a));
    }
    if (inputs->argc > 0) QS_TRY(qs_artifact_set_command(a, inputs->argc, inputs->argv));
    if (inputs->backend != NULL) QS_TRY(qs_backend_record(a, inputs->backend, inputs->device));
out:
    return err;
}

static qs_err put_spec(qs_artifact *a, const qs_spec *spec, int64_t linear_bits, const qs_model *model)
{
    qs_quant_size size = qs_quant_size_of_bits(linear_bits, model);
    qs_err err;
    QS_TRY(qs_artifact_put_text(a, "/spec/@id", spec->id));
    QS_TRY(qs_artifact_put_text(a, "/spec/@text", spec->text));
    QS_TRY(qs_artifact_put_text(a, "/spec/@method", spec->method->name));
    QS_TRY(qs_artifact_put_int(a, "/spec/@bits", spec->bits));
    QS_TRY(qs_artifact_put_int(a, "/spec/@group_size", spec->group_size));
    QS_TRY(qs_artifact_put_text(a, "/spec/@variant", spec->variant));
    QS_TRY(qs_artifact_put_text(a, "/spec/@kernel", QS_QUANT_KERNEL));
    QS_TRY(qs_artifact_put_real(a, "/spec/@bpw", size.bpw));
    QS_TRY(qs_artifact_put_real(a, "/spec/@bpw_total", size.bpw_total));
    QS_TRY(qs_artifact_put_int(a, "/spec/@bytes", size.bytes));
    if (spec->bpw > 0) {
        QS_TRY(qs_artifact_put_real(a, "/spec/@budget_bpw", spec->bpw));
        QS_TRY(qs_artifact_put_int(a, "/spec/@linear_bits", linear_bits));
    }
out:
    return err;
}

qs_err qs_quant_writer_create(qs_quant_writer **out, const char *path, const qs_quant_inputs *inputs,
                              const qs_spec *spec, int64_t linear_bits)
{
    qs_quant_writer *writer = NULL;
    qs_err err;
    QS_TRY(QS_NEW(writer, 1, "quant artifact"));
    writer->model = inputs->model;
    writer->budget = spec->bpw > 0;
    QS_TRY(QS_NEW(writer->written, qs_model_get_config(inputs->model)->n_layers, "quant artifact"));
    QS_TRY(qs_artifact_create(&writer->artifact, path, QS_KIND_QUANT));
    QS_TRY(put_inputs(writer->artifact, inputs));
    QS_TRY(put_spec(writer->artifact, spec, linear_bits, inputs->model));
    *out = writer;
out:
    if (err != QS_OK) qs_quant_writer_abort(writer);
    return err;
}

static void node_path(char path[NODE_BYTES], int64_t layer, int role, const char *leaf)
{
    (void)snprintf(path, NODE_BYTES, "/layers/%" PRId64 "/%s/%s", layer, qs_role_name((qs_role)role), leaf);
}

static qs_err put_data(qs_artifact *a, int64_t layer, int role, const char *leaf, qs_dtype dtype,
                       int64_t n_rows, int64_t n_columns, const void *data)
{
    char path[NODE_BYTES];
    node_path(path, layer, role, leaf);
    return qs_artifact_put(a, path, dtype, n_columns > 0 ? 2 : 1, (int64_t[]){n_rows, n_columns}, data);
}

static qs_err put_int(qs_artifact *a, int64_t layer, int role, const char *leaf, int64_t value)
{
    char path[NODE_BYTES];
    node_path(path, layer, role, leaf);
    return qs_artifact_put_int(a, path, value);
}

static qs_err put_real(qs_artifact *a, int64_t layer, int role, const char *leaf, double value)
{
    char path[NODE_BYTES];
    node_path(path, layer, role, leaf);
    return qs_artifact_put_real(a, path, value);
}

/* What a matrix of EXL2 has instead of scales. */
static qs_err put_exl2(qs_artifact *a, int64_t layer, int role, const qs_packed *p)
{
    qs_err err;
    QS_TRY(put_int(a, layer, role, "@n_groups", p->n_groups));
    QS_TRY(put_data(a, layer, role, "groups", QS_I32, p->n_groups, 2, p->groups));
    QS_TRY(put_data(a, layer, role, "scale_codes", QS_U8, p->n_out, p->n_groups, p->scale_codes));
    QS_TRY(put_data(a, layer, role, "scale_max", QS_F16, p->n_groups, 0, p->scale_max));
out:
    return err;
}

/* Of a matrix that got a share of a budget. */
static qs_err put_share(qs_artifact *a, int64_t layer, int role, const qs_quant_result *result)
{
    qs_err err;
    QS_TRY(put_real(a, layer, role, "@predicted_loss", result->predicted));
    if (result->packed.format != QS_PACKED_INT) goto out;
    QS_TRY(put_int(a, layer, role, "@bits", result->packed.bits));
    QS_TRY(put_int(a, layer, role, "@group_size", result->packed.group_size));
out:
    return err;
}

static qs_err put_matrix(qs_artifact *a, int64_t layer, int role, const qs_quant_result *result)
{
    const qs_packed *p = &result->packed;
    char path[NODE_BYTES];
    qs_err err;
    node_path(path, layer, role, "");
    QS_TRY(qs_packed_check(p, path));
    QS_TRY(put_data(a, layer, role, "codes", QS_U8, p->n_out, p->row_bytes, p->codes));
    if (p->absmax != NULL) QS_TRY(put_data(a, layer, role, "absmax", QS_F32, p->n_absmax, 0, p->absmax));
    if (p->absmax_codes != NULL) {
        int64_t n_nested = qs_packed_n_nested(p);
        QS_TRY(put_data(a, layer, role, "absmax_codes", QS_U8, p->n_absmax, 0, p->absmax_codes));
        QS_TRY(put_data(a, layer, role, "nested_absmax", QS_F32, n_nested, 0, p->nested_absmax));
        QS_TRY(put_real(a, layer, role, "@nested_offset", (double)p->nested_offset));
    }
    if (p->format == QS_PACKED_EXL2) QS_TRY(put_exl2(a, layer, role, p));
    if (p->scales != NULL)
        QS_TRY(put_data(a, layer, role, "scales", QS_F16, p->n_out, p->n_groups, p->scales));
    if (p->zeros != NULL) QS_TRY(put_data(a, layer, role, "zeros", QS_U8, p->n_out, p->n_groups, p->zeros));
    if (p->perm != NULL) QS_TRY(put_data(a, layer, role, "perm", QS_I32, p->n_in, 0, p->perm));
    QS_TRY(put_int(a, layer, role, "@n_out", p->n_out));
    QS_TRY(put_int(a, layer, role, "@n_in", p->n_in));
    node_path(path, layer, role, "@encoding");
    QS_TRY(qs_artifact_put_text(a, path, encoding));
    QS_TRY(put_real(a, layer, role, "@loss", result->loss));
    QS_TRY(put_real(a, layer, role, "@weight_error", result->weight_error));
    QS_TRY(put_real(a, layer, role, "@damping", result->damping));
    QS_TRY(put_int(a, layer, role, "@fallback", result->fallback));
out:
    return err;
}

qs_err qs_quant_writer_add(qs_quant_writer *writer, int64_t layer, const qs_quant_layer *quant)
{
    for (int role = 0; role < QS_N_LINEARS; role++) {
        qs_err err = put_matrix(writer->artifact, layer, role, &quant->linears[role]);
        if (err == QS_OK && writer->budget) err = put_share(writer->artifact, layer, role, &quant->linears[role]);
        if (err != QS_OK) return err;
        writer->predicted_sum += quant->linears[role].predicted;
        writer->loss_sum += quant->linears[role].loss;
        writer->n_fallbacks += quant->linears[role].fallback;
        writer->n_matrices++;
    }
    for (int role = QS_N_LINEARS; role < QS_N_BLOCK_ROLES; role++) {
        const float *vector = quant->vectors[role - QS_N_LINEARS];
        if (vector == NULL) continue;
        int64_t n = qs_model_info(writer->model, (qs_role)role, layer).n_in;
        qs_err err = put_data(writer->artifact, layer, role, "folded", QS_F32, n, 0, vector);
        if (err != QS_OK) return err;
    }
    writer->written[layer] = true;
    return QS_OK;
}

static void free_writer(qs_quant_writer *writer)
{
    qs_mem_free(writer->written);
    qs_mem_free(writer);
}

qs_err qs_quant_writer_finish(qs_quant_writer *writer, double quantize_s, qs_digest *digest)
{
    qs_err err = QS_OK;
    qs_digest ignored;
    for (int64_t layer = 0; layer < qs_model_get_config(writer->model)->n_layers && err == QS_OK; layer++)
        if (!writer->written[layer])
            err = qs_fail(QS_E_INPUT, "finish quant artifact: layer %" PRId64 " is missing", layer);
    if (err == QS_OK) err = qs_artifact_put_real(writer->artifact, "/timing/@quantize_s", quantize_s);
    if (err == QS_OK && writer->budget)
        err = qs_artifact_put_real(writer->artifact, "/spec/@predicted_loss", qs_quant_writer_predicted(writer));
    if (err != QS_OK)
        qs_artifact_abort(writer->artifact);
    else
        err = qs_artifact_seal(writer->artifact, digest != NULL ? digest : &ignored);
    free_writer(writer);
    return err;
}

void qs_quant_writer_abort(qs_quant_writer *writer)
{
    if (writer == NULL) return;
    qs_artifact_abort(writer->artifact);
    free_writer(writer);
}

double qs_quant_writer_loss(const qs_quant_writer *writer)
{
    return writer->n_matrices > 0 ? writer->loss_sum / (double)writer->n_matrices : 0;
}

double qs_quant_writer_predicted(const qs_quant_writer *writer)
{
    return writer->n_matrices > 0 ? writer->predicted_sum / (double)writer->n_matrices : 0;
}

int64_t qs_quant_writer_n_fallbacks(const qs_quant_writer *writer) { return writer->n_fallbacks; }

/* ---- reading ---- */

struct qs_quant_file {
    qs_artifact *artifact;
    const qs_model *model;
    char *path;
    qs_spec spec;
    int64_t linear_bits;
    qs_packed linears[QS_N_LINEARS]; /* of `layer`; memory is kept from layer to layer */
    bool loaded[QS_N_LINEARS];
    int64_t layer;
};

static bool text_is(const qs_artifact *a, const char *path, const char *wanted)
{
    char text[TEXT_BYTES];
    return qs_artifact_get_text(a, path, text, sizeof text) == QS_OK && strcmp(text, wanted) == 0;
}

static bool same_calib(const qs_artifact *a, const qs_artifact *calib)
{
    qs_digest stored, wanted;
    if (calib == NULL) return !qs_artifact_has(a, "/parents/@calib");
    if (qs_artifact_get_parent(a, "calib", &stored) != QS_OK) return false;
    wanted = qs_artifact_digest(calib);
    return stored.low == wanted.low && stored.high == wanted.high;
}

bool qs_quant_is_current(const char *path, const qs_quant_inputs *inputs, const qs_spec *spec)
{
    qs_artifact *a;
    if (qs_artifact_open(&a, path, QS_KIND_QUANT) != QS_OK) return false;
    bool current = qs_model_check_record(inputs->model, a, path) == QS_OK && same_calib(a, inputs->calib) &&
                   text_is(a, "/spec/@text", spec->text) && text_is(a, "/spec/@kernel", QS_QUANT_KERNEL) &&
                   text_is(a, "/provenance/@version", QS_VERSION);
    qs_artifact_close(a);
    return current;
}

static qs_err read_spec(qs_quant_file *file)
{
    char text[TEXT_BYTES];
    qs_err err;
    QS_TRY(qs_artifact_get_text(file->artifact, "/spec/@kernel", text, sizeof text));
    if (strcmp(text, QS_QUANT_KERNEL) != 0) {
        err = qs_fail(QS_E_INPUT, "%s: packed as %s, not %s; re-run qsweep-quantize", file->path, text,
                      QS_QUANT_KERNEL);
        goto out;
    }
    QS_TRY(qs_artifact_get_text(file->artifact, "/spec/@text", text, sizeof text));
    if (qs_spec_parse(&file->spec, text) != QS_OK)
        err = qs_fail(QS_E_INPUT,
                      "%s: made for \"%s\", which this version does not know; re-run qsweep-quantize",
                      file->path, text);
    else if (file->spec.bpw > 0)
        err = qs_context(qs_artifact_get_int(file->artifact, "/spec/@linear_bits", &file->linear_bits), "%s", file->path);
    else
        file->linear_bits = qs_quant_linear_bits(&file->spec, file->model);
out:
    return err;
}

qs_err qs_quant_file_open(qs_quant_file **out, const char *path, qs_model *model)
{
    qs_quant_file *file = NULL;
    qs_err err;
    QS_TRY(QS_NEW(file, 1, "quant artifact"));
    file->model = model;
    file->layer = -1;
    QS_TRY(QS_NEW(file->path, strlen(path) + 1, "path"));
    memcpy(file->path, path, strlen(path) + 1);
    QS_TRY(qs_artifact_open(&file->artifact, path, QS_KIND_QUANT));
    QS_TRY(qs_model_check_record(model, file->artifact, path));
    QS_TRY(read_spec(file));
    *out = file;
out:
    if (err != QS_OK) qs_quant_file_close(file);
    return err;
}

void qs_quant_file_close(qs_quant_file *file)
{
    if (file == NULL) return;
    for (int role = 0; role < QS_N_LINEARS; role++) qs_packed_free(&file->linears[role]);
    if (file->artifact != NULL) qs_artifact_close(file->artifact);
    qs_mem_free(file->path);
    qs_mem_free(file);
}

const qs_spec *qs_quant_file_spec(const qs_quant_file *file) { return &file->spec; }

qs_quant_size qs_quant_file_size(const qs_quant_file *file)
{
    return qs_quant_size_of_bits(file->linear_bits, file->model);
}

const qs_artifact *qs_quant_file_artifact(const qs_quant_file *file) { return file->artifact; }

static qs_err read_data(const qs_quant_file *file, int64_t layer, int role, const char *leaf, qs_dtype dtype,
                        void *dst, int64_t n)
{
    char path[NODE_BYTES];
    node_path(path, layer, role, leaf);
    qs_err err = qs_artifact_read(file->artifact, path, dtype, dst, n);
    return err == QS_OK ? err : qs_context(err, "%s", file->path);
}

static bool has_data(const qs_quant_file *file, int64_t layer, int role, const char *leaf)
{
    char path[NODE_BYTES];
    node_path(path, layer, role, leaf);
    return qs_artifact_has(file->artifact, path);
}

static qs_err get_int(const qs_quant_file *file, int64_t layer, int role, const char *leaf, int64_t *value)
{
    char path[NODE_BYTES];
    node_path(path, layer, role, leaf);
    return qs_context(qs_artifact_get_int(file->artifact, path, value), "%s", file->path);
}

/* Shape from the spec, or of a matrix with bits and group of its own. */
static qs_err wanted_shape(const qs_quant_file *file, int64_t layer, int role, qs_packed *out)
{
    qs_tensor_info info = qs_model_info(file->model, (qs_role)role, layer);
    qs_spec own = file->spec;
    qs_err err = QS_OK;
    if (own.bpw > 0) {
        own.bpw = 0;
        QS_TRY(get_int(file, layer, role, "@bits", &own.bits));
        QS_TRY(get_int(file, layer, role, "@group_size", &own.group_size));
    }
    QS_TRY(qs_context(qs_spec_shape(&own, info.n_out, info.n_in, out), "%s", file->path));
out:
    return err;
}

/* Memory from the layer before when it fits. */
static qs_err shape_slot(qs_quant_file *file, int64_t layer, int role)
{
    qs_packed wanted, *slot = &file->linears[role];
    bool zeros = has_data(file, layer, role, "zeros"), perm = has_data(file, layer, role, "perm");
    qs_err err = wanted_shape(file, layer, role, &wanted);
    if (err != QS_OK) return err;
    if (slot->codes != NULL && slot->n_out == wanted.n_out && slot->n_in == wanted.n_in && slot->bits == wanted.bits &&
        slot->group_size == wanted.group_size && (slot->zeros != NULL) == zeros && (slot->perm != NULL) == perm)
        return QS_OK;
    qs_packed_free(slot);
    *slot = wanted;
    if (wanted.format != QS_PACKED_INT) return qs_packed_alloc_absmax(slot, file->spec.double_quant);
    return qs_packed_alloc(slot, zeros, perm);
}

/* Everything anew: groups differ from matrix to matrix. */
static qs_err load_exl2(qs_quant_file *file, int64_t layer, int role)
{
    qs_packed *p = &file->linears[role];
    qs_tensor_info info = qs_model_info(file->model, (qs_role)role, layer);
    qs_packed_group groups[QS_MIX_GROUPS_MAX];
    int64_t n_groups;
    qs_err err;
    qs_packed_free(p);
    QS_TRY(get_int(file, layer, role, "@n_groups", &n_groups));
    if (n_groups < 1 || n_groups > QS_MIX_GROUPS_MAX) {
        err = qs_fail(QS_E_INPUT, "%s: layer %" PRId64 ", %s: %" PRId64 " groups", file->path, layer,
                      qs_role_name((qs_role)role), n_groups);
        goto out;
    }
    QS_TRY(read_data(file, layer, role, "groups", QS_I32, groups, 2 * n_groups));
    QS_TRY(qs_context(qs_packed_shape_exl2(p, info.n_out, info.n_in, groups, n_groups), "%s", file->path));
    QS_TRY(qs_packed_alloc_exl2(p, groups));
    QS_TRY(read_data(file, layer, role, "scale_codes", QS_U8, p->scale_codes, p->n_out * n_groups));
    QS_TRY(read_data(file, layer, role, "scale_max", QS_F16, p->scale_max, n_groups));
out:
    return err;
}

static qs_err load_absmax(const qs_quant_file *file, int64_t layer, int role, qs_packed *p)
{
    char path[NODE_BYTES];
    double offset;
    qs_err err;
    if (p->absmax != NULL) return read_data(file, layer, role, "absmax", QS_F32, p->absmax, p->n_absmax);
    QS_TRY(read_data(file, layer, role, "absmax_codes", QS_U8, p->absmax_codes, p->n_absmax));
    QS_TRY(read_data(file, layer, role, "nested_absmax", QS_F32, p->nested_absmax, qs_packed_n_nested(p)));
    node_path(path, layer, role, "@nested_offset");
    QS_TRY(qs_context(qs_artifact_get_real(file->artifact, path, &offset), "%s", file->path));
    p->nested_offset = (float)offset;
out:
    return err;
}

static qs_err load_matrix(qs_quant_file *file, int64_t layer, int role)
{
    char path[NODE_BYTES];
    qs_packed *p = &file->linears[role];
    qs_err err;
    bool is_exl2 = file->spec.method->format == QS_PACKED_EXL2;
    QS_TRY(is_exl2 ? load_exl2(file, layer, role) : shape_slot(file, layer, role));
    QS_TRY(read_data(file, layer, role, "codes", QS_U8, p->codes, p->n_out * p->row_bytes));
    if (p->scales != NULL)
        QS_TRY(read_data(file, layer, role, "scales", QS_F16, p->scales, p->n_out * p->n_groups));
    else if (!is_exl2)
        QS_TRY(load_absmax(file, layer, role, p));
    if (p->zeros != NULL)
        QS_TRY(read_data(file, layer, role, "zeros", QS_U8, p->zeros, p->n_out * p->n_groups));
    if (p->perm != NULL) QS_TRY(read_data(file, layer, role, "perm", QS_I32, p->perm, p->n_in));
    node_path(path, layer, role, "");
    err = qs_packed_check(p, path);
    if (err != QS_OK) err = qs_context(err, "%s", file->path);
out:
    return err;
}

static qs_err get_linear(void *context, int64_t layer, qs_role role, qs_matrix_desc *desc)
{
    qs_quant_file *file = context;
    if (layer != file->layer) {
        memset(file->loaded, 0, sizeof file->loaded);
        file->layer = layer;
    }
    if (!file->loaded[role]) {
        qs_err err = load_matrix(file, layer, role);
        if (err != QS_OK) return err;
        file->loaded[role] = true;
    }
    const qs_packed *p = &file->linears[role];
    *desc = (qs_matrix_desc){.format = QS_MATRIX_INT, .n_out = p->n_out, .n_in = p->n_in, .packed = p};
    return QS_OK;
}

static qs_err get_vector(void *context, int64_t layer, qs_role role, int64_t n, float *dst, bool *found)
{
    const qs_quant_file *file = context;
    *found = has_data(file, layer, role, "folded");
    if (*found) return read_data(file, layer, role, "folded", QS_F32, dst, n);
    if (file->spec.method->folds && (role == QS_ROLE_ATTN_NORM || role == QS_ROLE_MLP_NORM))
        return qs_fail(QS_E_INPUT, "%s: layer %" PRId64 " lacks the %s that its linears are scaled for; re-run "
                       "qsweep-quantize", file->path, layer, qs_role_name(role));
    return QS_OK;
}

qs_linear_source qs_quant_file_source(qs_quant_file *file)
{
    return (qs_linear_source){.get = get_linear, .get_vector = get_vector, .context = file};
}

qs_err qs_quant_file_losses(const qs_quant_file *file, double *loss)
{
    char path[NODE_BYTES];
    for (int64_t layer = 0; layer < qs_model_get_config(file->model)->n_layers; layer++) {
        for (int role = 0; role < QS_N_LINEARS; role++) {
            node_path(path, layer, role, "@loss");
            qs_err err = qs_artifact_get_real(file->artifact, path, loss++);
            if (err != QS_OK) return qs_context(err, "%s", file->path);
        }
    }
    return QS_OK;
}
