#include "export/gguf_types.h"

#include <stdio.h>
#include <string.h>

enum { WHY_BYTES = 192, NAMES_BYTES = 128 };

/* ---- names ---- */

static qs_err find_type(qs_gguf_types *types, const char *name)
{
    const qs_gguf_mixture *mixture = qs_gguf_mixture_find(name);
    char names[NAMES_BYTES] = "";
    qs_err err;
    for (const qs_gguf_mixture *m = qs_gguf_mixtures; m->name != NULL; m++) {
        size_t used = strlen(names);
        (void)snprintf(names + used, sizeof names - used, "%s%s", used == 0 ? ", or of the mixtures " : ", ", m->name);
    }
    QS_TRY(qs_gguf_kind_find(&types->kind, "type", mixture != NULL ? mixture->rest : name, names));
    types->mixture = mixture;
    types->name = mixture != NULL ? mixture->name : types->kind->name;
    types->file_type = mixture != NULL ? mixture->file_type : types->kind->file_type;
out:
    return err;
}

/* What the options say of a table, or the mixture. */
static qs_err find_table(const qs_gguf_types *types, qs_role role, const char *option, const char *name,
                         const qs_gguf_kind **out)
{
    const qs_export_job *job = types->job;
    const qs_model_config *config = qs_model_get_config(job->model);
    int64_t n_in = qs_model_info(job->model, role, 0).n_in;
    qs_err err;
    if (name == NULL && types->mixture != NULL && (role == QS_ROLE_EMBED || !config->tied_head))
        *out = qs_gguf_mixture_kind(types->mixture, config, role, 0, n_in);
    if (name == NULL) return QS_OK;
    QS_TRY(qs_gguf_kind_find(out, option, name, ""));
    if (role == QS_ROLE_HEAD && config->tied_head)
        return qs_fail(QS_E_USAGE, "--%s %s: the model's head is its embedding; use --embedding-type", option, name);
    if (qs_gguf_kind_for_row(*out, n_in) == NULL)
        return qs_fail(QS_E_UNSUPPORTED, "--%s %s: rows of %lld weights are no whole blocks of 32; use f16", option,
                       name, (long long)n_in);
out:
    return err;
}

/* ---- what a type holds ---- */

/* Whether a matrix's codes are those of the type; else why not, and what to quantise instead. */
static bool keeps_matrix(const qs_export_job *job, qs_role role, char why[WHY_BYTES])
{
    const qs_spec *spec = qs_quant_file_spec(job->quant);
    char name[QS_EXPORT_NAME_BYTES];
    int64_t n_in = qs_model_info(job->model, role, 0).n_in;
    int64_t group = spec->group_size < 0 ? n_in : spec->group_size;
    (void)qs_export_matrix_name(name, 0, role);
    if (group % QS_GGUF_BLOCK != 0 && group < n_in)
        (void)snprintf(why, WHY_BYTES, "%s: groups of %lld weights are no whole blocks of 32; quantise with group=32 "
                       "or a multiple of it", name, (long long)group);
    else if (qs_spec_has_perm(spec, n_in))
        (void)snprintf(why, WHY_BYTES, "%s: with act=1 groups are no neighbours in a row, which blocks are; quantise "
                       "with gar=1 or static=1", name);
    else
        return true;
    return false;
}

/* The same of the whole point; a kind of NULL = no type of blocks has room for its codes. */
static bool keeps(const qs_export_job *job, const qs_gguf_kind *kind, char why[WHY_BYTES])
{
    const qs_spec *spec = qs_quant_file_spec(job->quant);
    if (kind == NULL || !qs_gguf_kind_holds(kind, (int)spec->bits, spec->sym)) {
        (void)snprintf(why, WHY_BYTES, "%s: %s%s %lld bits with%s zero points; quantise with sym=1", spec->id,
                       kind != NULL ? kind->name : "no block type of GGUF", kind != NULL ? " does not hold" : " holds",
                       (long long)spec->bits, spec->sym ? " fixed" : "");
        return false;
    }
    for (qs_role role = 0; role < QS_N_LINEARS; role++)
        if (!keeps_matrix(job, role, why)) return false;
    return true;
}

static qs_err check_rows(const qs_gguf_types *types)
{
    char name[QS_EXPORT_NAME_BYTES];
    for (qs_role role = 0; role < QS_N_LINEARS; role++)
        if (qs_gguf_types_linear(types, role, 0) == NULL)
            return qs_fail(QS_E_UNSUPPORTED,
                           "export %s: rows of %lld weights are no whole blocks of 32; use --type f16",
                           qs_export_matrix_name(name, 0, role),
                           (long long)qs_model_info(types->job->model, role, 0).n_in);
    return QS_OK;
}

/* Codes can be found anew for the parent's weights alone. */
static qs_err check_aim(const qs_gguf_types *types)
{
    const qs_spec *spec = qs_quant_file_spec(types->job->quant);
    const qs_gguf_kind *nearest = spec->bits > 0 ? qs_gguf_kind_choose((int)spec->bits, spec->sym) : NULL;
    if (!spec->method->folds) return QS_OK;
    return qs_fail(QS_E_UNSUPPORTED,
                   "export %s: codes on the grid of %s would be those of the parent's weights, and this point's are "
                   "scaled; use --type %s, which keeps its codes, or a gptq point", spec->id, types->name,
                   nearest != NULL ? nearest->name : "f16");
}

/* ---- the choice ---- */

/* What was asked for by name is done, what was not is refused. */
static qs_err choose_linears(qs_gguf_types *types)
{
    const qs_export_job *job = types->job;
    const qs_spec *spec = qs_quant_file_spec(job->quant);
    const qs_packed *packed;
    char why[WHY_BYTES] = "";
    qs_err err = QS_OK;
    if (job->type != NULL && types->kind->dense) goto out;
    bool integers = spec->method->format == QS_PACKED_INT && spec->bpw == 0;
    if (job->type == NULL) {
        QS_TRY(qs_export_packed(job, 0, QS_ROLE_Q, &packed));
        types->kind = qs_gguf_kind_choose((int)spec->bits, spec->sym);
    }
    if (types->kind != NULL) QS_TRY(check_rows(types));
    types->aimed = types->mixture != NULL || !integers || !keeps(job, types->kind, why);
    if (types->aimed && job->type == NULL)
        return qs_fail(QS_E_UNSUPPORTED,
                       "export %s; or use --type f16, or --type q4_0, q5_1, q4_k and others, which find codes anew",
                       why);
    if (types->aimed) QS_TRY(check_aim(types));
    if (job->type == NULL) {
        types->name = types->kind->name;
        types->file_type = types->kind->file_type;
    }
out:
    return err;
}

qs_err qs_gguf_types_choose(qs_gguf_types *out, const qs_export_job *job)
{
    qs_err err;
    *out = (qs_gguf_types){.job = job};
    if (job->type != NULL) QS_TRY(find_type(out, job->type));
    QS_TRY(find_table(out, QS_ROLE_EMBED, "embedding-type", job->embedding_type, &out->embedding));
    QS_TRY(find_table(out, QS_ROLE_HEAD, "head-type", job->head_type, &out->head));
    if (qs_export_has_head(job))
        return qs_fail(QS_E_UNSUPPORTED,
                       "export %s: its output head is quantised too, for which no type of GGUF is written; "
                       "use --format exl2, or quantise with head=16",
                       qs_quant_file_spec(job->quant)->id);
    err = choose_linears(out);
out:
    return err;
}

const qs_gguf_kind *qs_gguf_types_linear(const qs_gguf_types *types, qs_role role, int64_t layer)
{
    const qs_model *model = types->job->model;
    int64_t n_in = qs_model_info(model, role, layer).n_in;
    if (types->mixture == NULL) return qs_gguf_kind_for_row(types->kind, n_in);
    return qs_gguf_mixture_kind(types->mixture, qs_model_get_config(model), role, layer, n_in);
}

const qs_gguf_kind *qs_gguf_types_table(const qs_gguf_types *types, qs_role role)
{
    const qs_gguf_kind *kind = role == QS_ROLE_EMBED ? types->embedding : role == QS_ROLE_HEAD ? types->head : NULL;
    return kind != NULL ? qs_gguf_kind_for_row(kind, qs_model_get_config(types->job->model)->d_model) : NULL;
}
