#include "export/export.h"

#include <stdio.h>
#include <string.h>

const qs_export_format *const qs_export_formats[] = {&qs_export_gptq, &qs_export_gptq_v2, &qs_export_awq,
                                                      &qs_export_bnb,  &qs_export_exl2,    &qs_export_gguf, NULL};

qs_err qs_export_format_find(const qs_export_format **out, const char *name)
{
    char names[256] = "";
    for (int i = 0; qs_export_formats[i] != NULL; i++) {
        *out = qs_export_formats[i];
        if (strcmp((*out)->name, name) == 0) return QS_OK;
        size_t used = strlen(names);
        (void)snprintf(names + used, sizeof names - used, "%s%s", i == 0 ? "" : ", ", (*out)->name);
    }
    *out = NULL;
    return qs_fail(QS_E_USAGE, "--format %s: it is one of %s", name, names);
}

const char *qs_export_matrix_name(char name[QS_EXPORT_NAME_BYTES], int64_t layer, qs_role role)
{
    if (role == QS_ROLE_HEAD) (void)snprintf(name, QS_EXPORT_NAME_BYTES, "%s", qs_role_name(role));
    else (void)snprintf(name, QS_EXPORT_NAME_BYTES, "layers.%lld.%s", (long long)layer, qs_role_name(role));
    return name;
}

bool qs_export_has_head(const qs_export_job *job) { return qs_quant_file_source(job->quant).get_head != NULL; }

qs_err qs_export_matrix(const qs_export_job *job, int64_t layer, qs_role role, const qs_packed **out)
{
    qs_linear_source source = qs_quant_file_source(job->quant);
    qs_matrix_desc desc;
    qs_err err = role == QS_ROLE_HEAD ? source.get_head(source.context, &desc)
                                      : source.get(source.context, layer, role, &desc);
    *out = desc.packed;
    return err;
}

qs_err qs_export_integers(const qs_export_job *job, int64_t layer, qs_role role, const qs_packed **out)
{
    char name[QS_EXPORT_NAME_BYTES];
    qs_err err = qs_export_matrix(job, layer, role, out);
    if (err == QS_OK && (*out)->format != QS_PACKED_INT)
        err = qs_fail(QS_E_UNSUPPORTED,
                      "export %s: its format is %s, not integer codes with scales; use --format %s, or gguf "
                      "with --type f16",
                      qs_export_matrix_name(name, layer, role), qs_formats[(*out)->format].name,
                      (*out)->format == QS_PACKED_EXL2 ? "exl2" : "bnb");
    return err;
}

qs_err qs_export_packed(const qs_export_job *job, int64_t layer, qs_role role, const qs_packed **out)
{
    char name[QS_EXPORT_NAME_BYTES];
    qs_err err = qs_export_integers(job, layer, role, out);
    if (err == QS_OK && qs_quant_file_spec(job->quant)->bpw > 0)
        err = qs_fail(QS_E_UNSUPPORTED,
                      "export %s: each matrix has bits of its own, and this format one width for all; use --format "
                      "gptq_v2, or gguf with --type f16", qs_export_matrix_name(name, layer, role));
    return err;
}

qs_err qs_export_vector(const qs_export_job *job, int64_t layer, qs_role role, int64_t n, float *dst)
{
    qs_linear_source source = qs_quant_file_source(job->quant);
    bool found = false;
    qs_err err = QS_OK;
    if (role < QS_N_BLOCK_ROLES) err = source.get_vector(source.context, layer, role, n, dst, &found);
    return err == QS_OK && !found ? qs_model_read_f32(job->model, role, layer, dst) : err;
}
