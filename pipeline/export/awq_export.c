/* AWQ checkpoints, version GEMM, as AutoAWQ lays them out; 4 bits:
 *
 *   qweight I32 [n_in, n_out / 8]      eight output channels in a word, channel 8 c + order[i] in nibble i
 *   qzeros  I32 [n_groups, n_out / 8]  the same
 *   scales  F16 [n_groups, n_out]
 *
 * What AWQ folds into norms and rows is in the artifact's norms and codes; the layout holds any integer codes
 * of 4 bits. */
#include "base/args.h"
#include "base/mem.h"
#include "export/hf_dir.h"

enum { PER_WORD = 8 };
static const int order[PER_WORD] = {0, 2, 4, 6, 1, 3, 5, 7};

static int64_t group_size(const qs_spec *spec, int64_t n_in) { return spec->group_size < 0 ? n_in : spec->group_size; }

static qs_err check(const qs_export_job *job)
{
    const qs_spec *spec = qs_quant_file_spec(job->quant);
    char name[QS_EXPORT_NAME_BYTES];
    const qs_packed *packed;
    qs_err err;
    QS_TRY(qs_export_packed(job, 0, QS_ROLE_Q, &packed));
    if (spec->bits != 4)
        return qs_fail(QS_E_UNSUPPORTED,
                       "export %s: AWQ directories hold 4 bits, not %lld; use --format gptq", spec->id,
                       (long long)spec->bits);
    for (qs_role role = 0; role < QS_N_LINEARS; role++) {
        qs_tensor_info info = qs_model_info(job->model, role, 0);
        int64_t group = group_size(spec, info.n_in);
        (void)qs_export_matrix_name(name, 0, role);
        if (info.n_in % group != 0 || info.n_out % PER_WORD != 0)
            return qs_fail(QS_E_UNSUPPORTED,
                           "export %s: %lld x %lld in groups of %lld: AWQ needs whole groups in a row and rows "
                           "by eights; quantise with a group that divides the row, or use --format gptq",
                           name, (long long)info.n_out, (long long)info.n_in, (long long)group);
        if (qs_spec_has_perm(spec, info.n_in))
            return qs_fail(QS_E_UNSUPPORTED,
                           "export %s: AWQ has no room for the order of act=1; use --format gptq", name);
    }
out:
    return err;
}

static qs_err parts(const qs_export_job *job, int64_t layer, qs_role role, qs_hf_part *out, int *n)
{
    qs_tensor_info info = qs_model_info(job->model, role, layer);
    int64_t n_out = info.n_out, n_in = info.n_in;
    int64_t n_groups = n_in / group_size(qs_quant_file_spec(job->quant), n_in);
    out[0] = (qs_hf_part){".qweight", QS_ST_I32, 2, {n_in, n_out / PER_WORD}};
    out[1] = (qs_hf_part){".qzeros", QS_ST_I32, 2, {n_groups, n_out / PER_WORD}};
    out[2] = (qs_hf_part){".scales", QS_ST_F16, 2, {n_groups, n_out}};
    *n = 3;
    return QS_OK;
}

/* Values of eight rows, rows[i][n], to one column of words. */
static void put_words(uint32_t *words, int64_t n_columns, int64_t column, uint8_t *const rows[PER_WORD], int64_t n)
{
    for (int64_t j = 0; j < n; j++) {
        uint32_t word = 0;
        for (int i = 0; i < PER_WORD; i++) word |= (uint32_t)rows[order[i]][j] << (4 * i);
        words[j * n_columns + column] = word;
    }
}

static qs_err encode(const qs_export_job *job, int64_t layer, qs_role role, const char *name, void *const *data)
{
    uint8_t *room = NULL, *codes[PER_WORD], *zeros[PER_WORD];
    uint16_t *scales = data[2];
    const qs_packed *p;
    qs_err err;
    QS_TRY(qs_export_packed(job, layer, role, &p));
    QS_TRY(QS_NEW(room, PER_WORD * (p->n_in + p->n_groups), "rows of codes"));
    for (int i = 0; i < PER_WORD; i++) {
        codes[i] = room + i * p->n_in;
        zeros[i] = room + PER_WORD * p->n_in + i * p->n_groups;
    }
    for (int64_t c = 0; c < p->n_out / PER_WORD; c++) {
        for (int i = 0; i < PER_WORD; i++) {
            int64_t o = c * PER_WORD + i;
            qs_packed_get_row(p, o, codes[i]);
            for (int64_t g = 0; g < p->n_groups; g++) {
                zeros[i][g] = p->zeros != NULL ? p->zeros[o * p->n_groups + g] : 8;
                scales[g * p->n_out + o] = p->scales[o * p->n_groups + g];
            }
        }
        put_words(data[0], p->n_out / PER_WORD, c, codes, p->n_in);
        put_words(data[1], p->n_out / PER_WORD, c, zeros, p->n_groups);
    }
out:
    qs_mem_free(room);
    return qs_context(err, "export %s", name);
}

/* Loaders of symmetric codes read the zero points all the same, and some take no other word than true. */
static json_t *config(const qs_export_job *job)
{
    const qs_spec *spec = qs_quant_file_spec(job->quant);
    return json_pack("{s:s, s:b, s:I, s:I, s:s, s:n, s:{s:[s], s:s}}", "quant_method", "awq", "zero_point", 1,
                     "group_size", (json_int_t)spec->group_size, "bits", (json_int_t)spec->bits, "version",
                     "gemm", "modules_to_not_convert", "meta", "quantizer", "qsweep:" QS_VERSION, "spec",
                     spec->id);
}

static const qs_hf_codec codec = {.parts = parts, .encode = encode, .config = config};

static qs_err plan_dir(const qs_export_job *job, int64_t *bytes) { return qs_hf_dir_plan(job, &codec, bytes); }
static qs_err write_dir(const qs_export_job *job) { return qs_hf_dir_write(job, &codec); }

const qs_export_format qs_export_awq = {
    .name = "awq",
    .loaders = "AutoAWQ, GPTQModel, transformers, vLLM",
    .holds = "integer codes of 4 bits in groups that divide the row, without a permutation",
    .directory = true,
    .check = check,
    .plan = plan_dir,
    .write = write_dir,
};
