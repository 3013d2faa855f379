/* Writing quant artifacts, layer by layer (quant_file.h). */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "backend/backend_record.h"
#include "base/file.h"
#include "base/mem.h"
#include "model/model_record.h"
#include "model/turned.h"
#include "quant/quant_file_impl.h"
#include "stat/calib_file.h"

static const char encoding[] = "rows of codes, least significant bit first";

struct qs_quant_writer {
    qs_artifact *artifact;
    const qs_model *model;
    bool *written; /* [n_layers] */
    bool wants_head;
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

/* What makes sure that a reader turns embedding and head as the linears were turned. */
static qs_err put_rotation(qs_artifact *a, const qs_model *turned)
{
    char text[QS_DIGEST_TEXT_BYTES];
    qs_err err;
    QS_TRY(qs_artifact_put_int(a, "/rotation/@seed", QS_ROTATION_SEED));
    (void)qs_digest_format(text, qs_rotation_digest(qs_model_rotation(turned)));
    QS_TRY(qs_artifact_put_text(a, "/rotation/@digest", text));
out:
    return err;
}

static qs_err put_spec(qs_artifact *a, const qs_spec *spec, int64_t linear_bits, const qs_model *model)
{
    qs_quant_size size = qs_quant_size_of_bits(linear_bits, qs_quant_head_bits(spec, model), model);
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
    qs_spec head;
    qs_err err;
    QS_TRY(QS_NEW(writer, 1, "quant artifact"));
    writer->model = inputs->model;
    writer->wants_head = qs_spec_head(spec, &head);
    writer->budget = spec->bpw > 0;
    QS_TRY(QS_NEW(writer->written, qs_model_get_config(inputs->model)->n_layers, "quant artifact"));
    QS_TRY(qs_artifact_create(&writer->artifact, path, QS_KIND_QUANT));
    QS_TRY(put_inputs(writer->artifact, inputs));
    QS_TRY(put_spec(writer->artifact, spec, linear_bits, inputs->model));
    if (spec->rotate) {
        qs_model *turned;
        QS_TRY(qs_model_turn(inputs->model, &turned));
        QS_TRY(put_rotation(writer->artifact, turned));
    }
    *out = writer;
out:
    if (err != QS_OK) qs_quant_writer_abort(writer);
    return err;
}

static qs_err put_data(qs_artifact *a, int64_t layer, int role, const char *leaf, qs_dtype dtype,
                       int64_t n_rows, int64_t n_columns, const void *data)
{
    char path[QS_QUANT_NODE_BYTES];
    qs_quant_node_path(path, layer, role, leaf);
    return qs_artifact_put(a, path, dtype, n_columns > 0 ? 2 : 1, (int64_t[]){n_rows, n_columns}, data);
}

static qs_err put_int(qs_artifact *a, int64_t layer, int role, const char *leaf, int64_t value)
{
    char path[QS_QUANT_NODE_BYTES];
    qs_quant_node_path(path, layer, role, leaf);
    return qs_artifact_put_int(a, path, value);
}

static qs_err put_real(qs_artifact *a, int64_t layer, int role, const char *leaf, double value)
{
    char path[QS_QUANT_NODE_BYTES];
    qs_quant_node_path(path, layer, role, leaf);
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
    char path[QS_QUANT_NODE_BYTES];
    qs_err err;
    qs_quant_node_path(path, layer, role, "");
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
    qs_quant_node_path(path, layer, role, "@encoding");
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

qs_err qs_quant_writer_add_head(qs_quant_writer *writer, const qs_quant_result *head)
{
    qs_err err = put_matrix(writer->artifact, 0, QS_ROLE_HEAD, head);
    writer->n_fallbacks += head->fallback;
    writer->wants_head = false;
    return err;
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
    if (err == QS_OK && writer->wants_head) err = qs_fail(QS_E_INPUT, "finish quant artifact: the head is missing");
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
