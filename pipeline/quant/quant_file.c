#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/args.h"
#include "base/mem.h"
#include "model/model_record.h"
#include "model/turned.h"
#include "quant/quant_file_impl.h"

enum { TEXT_BYTES = 256 };

struct qs_quant_file {
    qs_artifact *artifact;
    const qs_model *model;
    qs_model *turned; /* in whose basis the linears are; NULL = not rotated */
    char *path;
    qs_spec spec;
    int64_t linear_bits;
    qs_packed linears[QS_N_LINEARS]; /* of `layer`; memory is kept from layer to layer */
    bool loaded[QS_N_LINEARS];
    int64_t layer;
    bool has_head;
    qs_packed head; /* from its first use on */
    qs_packed described;                            /* without contents */
    qs_packed_group described_groups[QS_MIX_GROUPS_MAX]; /* its own */
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

/* What a mixture's linears take must be what matrices can take: sizes are worked out from it. */
static qs_err read_linear_bits(qs_quant_file *file)
{
    enum { BITS_MAX = 64 /* of a weight, scales and zeros included */ };
    int64_t n = qs_model_n_linear_weights(file->model);
    qs_err err = qs_artifact_get_int(file->artifact, "/spec/@linear_bits", &file->linear_bits);
    if (err != QS_OK) return qs_context(err, "%s", file->path);
    if (file->linear_bits < 1 || file->linear_bits / BITS_MAX > n)
        return qs_fail(QS_E_INPUT, "%s: /spec/@linear_bits is %" PRId64 " for %" PRId64 " weights; re-run "
                       "qsweep-quantize", file->path, file->linear_bits, n);
    return QS_OK;
}

static qs_err read_spec(qs_quant_file *file)
{
    char text[TEXT_BYTES];
    qs_spec head;
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
        err = read_linear_bits(file);
    else
        file->linear_bits = qs_quant_linear_bits(&file->spec, file->model);
    file->has_head = qs_spec_head(&file->spec, &head);
out:
    return err;
}

/* The artifact was made with this very rotation. */
static qs_err open_rotation(qs_quant_file *file, qs_model *model)
{
    char wanted[QS_DIGEST_TEXT_BYTES];
    qs_err err;
    if (!file->spec.rotate) return QS_OK;
    QS_TRY(qs_model_turn(model, &file->turned));
    (void)qs_digest_format(wanted, qs_rotation_digest(qs_model_rotation(file->turned)));
    if (!text_is(file->artifact, "/rotation/@digest", wanted))
        err = qs_fail(QS_E_INPUT, "%s: its linears were rotated otherwise than this version does; re-run "
                      "qsweep-quantize", file->path);
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
    QS_TRY(open_rotation(file, model));
    *out = file;
out:
    if (err != QS_OK) qs_quant_file_close(file);
    return err;
}

void qs_quant_file_close(qs_quant_file *file)
{
    if (file == NULL) return;
    for (int role = 0; role < QS_N_LINEARS; role++) qs_packed_free(&file->linears[role]);
    qs_packed_free(&file->head);
    if (file->artifact != NULL) qs_artifact_close(file->artifact);
    qs_mem_free(file->path);
    qs_mem_free(file);
}

const qs_spec *qs_quant_file_spec(const qs_quant_file *file) { return &file->spec; }

qs_quant_size qs_quant_file_size(const qs_quant_file *file)
{
    return qs_quant_size_of_bits(file->linear_bits, qs_quant_head_bits(&file->spec, file->model), file->model);
}

const qs_model *qs_quant_file_model(const qs_quant_file *file)
{
    return file->turned != NULL ? file->turned : file->model;
}

const qs_artifact *qs_quant_file_artifact(const qs_quant_file *file) { return file->artifact; }

static qs_err read_data(const qs_quant_file *file, int64_t layer, int role, const char *leaf, qs_dtype dtype,
                        void *dst, int64_t n)
{
    char path[QS_QUANT_NODE_BYTES];
    qs_quant_node_path(path, layer, role, leaf);
    qs_err err = qs_artifact_read(file->artifact, path, dtype, dst, n);
    return err == QS_OK ? err : qs_context(err, "%s", file->path);
}

static bool has_data(const qs_quant_file *file, int64_t layer, int role, const char *leaf)
{
    char path[QS_QUANT_NODE_BYTES];
    qs_quant_node_path(path, layer, role, leaf);
    return qs_artifact_has(file->artifact, path);
}

static qs_err get_int(const qs_quant_file *file, int64_t layer, int role, const char *leaf, int64_t *value)
{
    char path[QS_QUANT_NODE_BYTES];
    qs_quant_node_path(path, layer, role, leaf);
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

/* groups[QS_MIX_GROUPS_MAX], and the numbers that follow from them. */
static qs_err shape_exl2(const qs_quant_file *file, int64_t layer, int role, qs_packed_group *groups, qs_packed *out)
{
    qs_tensor_info info = qs_model_info(file->model, (qs_role)role, layer);
    int64_t n_groups;
    qs_err err;
    QS_TRY(get_int(file, layer, role, "@n_groups", &n_groups));
    if (n_groups < 1 || n_groups > QS_MIX_GROUPS_MAX) {
        char path[QS_QUANT_NODE_BYTES];
        qs_quant_node_path(path, layer, role, "@n_groups");
        err = qs_fail(QS_E_INPUT, "%s: %s is %" PRId64, file->path, path, n_groups);
        goto out;
    }
    QS_TRY(read_data(file, layer, role, "groups", QS_I32, groups, 2 * n_groups));
    QS_TRY(qs_context(qs_packed_shape_exl2(out, info.n_out, info.n_in, groups, n_groups), "%s", file->path));
out:
    return err;
}

/* Everything anew: groups differ from matrix to matrix. */
static qs_err load_exl2(qs_quant_file *file, int64_t layer, int role, qs_packed *p)
{
    qs_packed_group groups[QS_MIX_GROUPS_MAX];
    qs_err err;
    qs_packed_free(p);
    QS_TRY(shape_exl2(file, layer, role, groups, p));
    QS_TRY(qs_packed_alloc_exl2(p, groups));
    QS_TRY(read_data(file, layer, role, "scale_codes", QS_U8, p->scale_codes, p->n_out * p->n_groups));
    QS_TRY(read_data(file, layer, role, "scale_max", QS_F16, p->scale_max, p->n_groups));
out:
    return err;
}

static qs_err load_absmax(const qs_quant_file *file, int64_t layer, int role, qs_packed *p)
{
    char path[QS_QUANT_NODE_BYTES];
    double offset;
    qs_err err;
    if (p->absmax != NULL) return read_data(file, layer, role, "absmax", QS_F32, p->absmax, p->n_absmax);
    QS_TRY(read_data(file, layer, role, "absmax_codes", QS_U8, p->absmax_codes, p->n_absmax));
    QS_TRY(read_data(file, layer, role, "nested_absmax", QS_F32, p->nested_absmax, qs_packed_n_nested(p)));
    qs_quant_node_path(path, layer, role, "@nested_offset");
    QS_TRY(qs_context(qs_artifact_get_real(file->artifact, path, &offset), "%s", file->path));
    p->nested_offset = (float)offset;
out:
    return err;
}

static qs_err load_matrix(qs_quant_file *file, int64_t layer, int role, qs_packed *p)
{
    char path[QS_QUANT_NODE_BYTES];
    qs_err err;
    bool is_exl2 = file->spec.method->format == QS_PACKED_EXL2;
    QS_TRY(is_exl2 ? load_exl2(file, layer, role, p) : shape_slot(file, layer, role));
    QS_TRY(read_data(file, layer, role, "codes", QS_U8, p->codes, p->n_out * p->row_bytes));
    if (p->scales != NULL)
        QS_TRY(read_data(file, layer, role, "scales", QS_F16, p->scales, p->n_out * p->n_groups));
    else if (!is_exl2)
        QS_TRY(load_absmax(file, layer, role, p));
    if (p->zeros != NULL)
        QS_TRY(read_data(file, layer, role, "zeros", QS_U8, p->zeros, p->n_out * p->n_groups));
    if (p->perm != NULL) QS_TRY(read_data(file, layer, role, "perm", QS_I32, p->perm, p->n_in));
    qs_quant_node_path(path, layer, role, "");
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
        qs_err err = load_matrix(file, layer, role, &file->linears[role]);
        if (err != QS_OK) return err;
        file->loaded[role] = true;
    }
    const qs_packed *p = &file->linears[role];
    *desc = (qs_matrix_desc){.format = QS_MATRIX_INT, .n_out = p->n_out, .n_in = p->n_in, .packed = p};
    return QS_OK;
}

static qs_err get_head(void *context, qs_matrix_desc *desc)
{
    qs_quant_file *file = context;
    qs_packed *p = &file->head;
    qs_err err = p->codes != NULL ? QS_OK : load_matrix(file, 0, QS_ROLE_HEAD, p);
    if (err != QS_OK) qs_packed_free(p);
    *desc = (qs_matrix_desc){.format = QS_MATRIX_INT, .n_out = p->n_out, .n_in = p->n_in, .packed = p};
    return err;
}

/* Widths and groups of EXL2 are read, of the others that they are there; no codes. */
static qs_err describe(void *context, int64_t layer, qs_role role, qs_matrix_desc *desc)
{
    static uint8_t some_zeros, some_codes; /* never read: they are not NULL */
    static int32_t some_perm;
    qs_quant_file *file = context;
    qs_packed *p = &file->described;
    qs_err err;
    if (file->spec.method->format == QS_PACKED_EXL2) {
        QS_TRY(shape_exl2(file, layer, role, file->described_groups, p));
        p->groups = file->described_groups;
        p->perm = &some_perm;
    } else {
        QS_TRY(wanted_shape(file, layer, role, p));
        p->zeros = has_data(file, layer, role, "zeros") ? &some_zeros : NULL;
        p->perm = has_data(file, layer, role, "perm") ? &some_perm : NULL;
        p->absmax_codes = file->spec.double_quant ? &some_codes : NULL;
    }
    *desc = (qs_matrix_desc){.format = QS_MATRIX_INT, .n_out = p->n_out, .n_in = p->n_in, .packed = p};
out:
    return err;
}

static qs_err get_vector(void *context, int64_t layer, qs_role role, int64_t n, float *dst, bool *found)
{
    const qs_quant_file *file = context;
    *found = has_data(file, layer, role, "folded");
    if (*found) return read_data(file, layer, role, "folded", QS_F32, dst, n);
    if ((file->spec.method->folds || file->spec.rotate) && (role == QS_ROLE_ATTN_NORM || role == QS_ROLE_MLP_NORM))
        return qs_fail(QS_E_INPUT, "%s: layer %" PRId64 " lacks the %s that its linears were made for; re-run "
                       "qsweep-quantize", file->path, layer, qs_role_name(role));
    return QS_OK;
}

qs_linear_source qs_quant_file_source(qs_quant_file *file)
{
    return (qs_linear_source){.get = get_linear, .get_vector = get_vector, .context = file,
                              .outer = file->turned, .get_head = file->has_head ? get_head : NULL,
                              .describe = describe};
}

qs_err qs_quant_file_losses(const qs_quant_file *file, double *loss)
{
    char path[QS_QUANT_NODE_BYTES];
    for (int64_t layer = 0; layer < qs_model_get_config(file->model)->n_layers; layer++) {
        for (int role = 0; role < QS_N_LINEARS; role++) {
            qs_quant_node_path(path, layer, role, "@loss");
            qs_err err = qs_artifact_get_real(file->artifact, path, loss++);
            if (err != QS_OK) return qs_context(err, "%s", file->path);
        }
    }
    return QS_OK;
}
