/* EXL2 directories for ExLlamaV2 and what is built on it (docs/quantisers.md, "EXL2"). Of a linear P with N
 * outputs (padded to multiples of 32) and K inputs in G groups:
 *
 *   P.q_weight     I32 [R, N]    word r of a column: bits 32 r .. of that output's stream of codes
 *   P.q_scale      I32 [G, N/8]  codes of eight outputs' scales, the first in the lowest four bits
 *   P.q_scale_max  F16 [G]
 *   P.q_groups     I16 [2 G]     bits and first word row of each group
 *   P.q_invperm    I32 [K]       place of each input channel in the stored order */
#include <string.h>

#include "base/args.h"
#include "base/mem.h"
#include "export/hf_dir.h"

enum { PAD = 32, WORD_BYTES = 4, PER_WORD = 8, ROWS_MAX = INT16_MAX };

static int64_t padded(int64_t n_out) { return (n_out + PAD - 1) / PAD * PAD; }

static qs_err check(const qs_export_job *job)
{
    const qs_packed *p;
    qs_err err;
    QS_TRY(qs_export_matrix(job, 0, QS_ROLE_Q, &p));
    if (p->format != QS_PACKED_EXL2)
        return qs_fail(QS_E_UNSUPPORTED, "export %s: EXL2 holds codes with scales of 4 bits and groups along falling "
                       "diag(H), which exl2:bpw= makes; use --format gptq_v2 or gguf",
                       qs_quant_file_spec(job->quant)->id);
    for (qs_role role = 0; role < QS_N_LINEARS; role++) {
        int64_t n_in = qs_model_info(job->model, role, 0).n_in;
        if (n_in * QS_EXL2_BITS_MAX / 32 > ROWS_MAX) /* a group's first word row is a signed 16-bit number */
            return qs_fail(QS_E_UNSUPPORTED, "export %s: rows of %lld weights have more words than EXL2 counts; use "
                           "--format gguf --type f16", qs_role_name(role), (long long)n_in);
    }
out:
    return err;
}

static qs_err parts(const qs_export_job *job, int64_t layer, qs_role role, qs_hf_part *out, int *n)
{
    const qs_packed *p;
    qs_err err = qs_export_matrix(job, layer, role, &p);
    if (err != QS_OK) return err;
    int64_t n_out = padded(p->n_out);
    *n = 0;
    out[(*n)++] = (qs_hf_part){".q_weight", QS_ST_I32, 2, {p->row_bytes / WORD_BYTES, n_out}};
    out[(*n)++] = (qs_hf_part){".q_scale", QS_ST_I32, 2, {p->n_groups, n_out / PER_WORD}};
    out[(*n)++] = (qs_hf_part){".q_scale_max", QS_ST_F16, 1, {p->n_groups, 0}};
    out[(*n)++] = (qs_hf_part){".q_groups", QS_ST_I16, 1, {2 * p->n_groups, 0}};
    out[(*n)++] = (qs_hf_part){".q_invperm", QS_ST_I32, 1, {p->n_in, 0}};
    return QS_OK;
}

/* A row of weights that are 0, as outputs beyond the matrix have them. */
static qs_err make_zero_row(const qs_packed *p, uint8_t *row)
{
    qs_packed one = *p;
    uint8_t *codes;
    qs_err err = QS_NEW(codes, p->n_in, "codes of a row");
    if (err != QS_OK) return err;
    for (int64_t g = 0; g < p->n_groups; g++)
        memset(codes + p->groups[g].first, 1 << (p->groups[g].bits - 1),
               (size_t)(qs_packed_group_end(p, g) - p->groups[g].first));
    one.codes = row;
    one.n_out = 1;
    qs_packed_set_row(&one, 0, codes);
    qs_mem_free(codes);
    return QS_OK;
}

static void put_words(const qs_packed *p, const uint8_t *zero_row, uint8_t *dst)
{
    int64_t n_out = padded(p->n_out), n_words = p->row_bytes / WORD_BYTES;
    for (int64_t o = 0; o < n_out; o++) {
        const uint8_t *row = o < p->n_out ? p->codes + o * p->row_bytes : zero_row;
        for (int64_t r = 0; r < n_words; r++)
            memcpy(dst + (r * n_out + o) * WORD_BYTES, row + r * WORD_BYTES, WORD_BYTES);
    }
}

static void put_scales(const qs_packed *p, uint32_t *dst)
{
    int64_t n_out = padded(p->n_out);
    for (int64_t g = 0; g < p->n_groups; g++)
        for (int64_t o = 0; o < n_out; o++) {
            uint32_t code = o < p->n_out ? p->scale_codes[o * p->n_groups + g] : 15;
            dst[(g * n_out + o) / PER_WORD] |= code << (o % PER_WORD * 4);
        }
}

static void put_groups(const qs_packed *p, int16_t *dst)
{
    int64_t word = 0;
    for (int64_t g = 0; g < p->n_groups; g++) {
        dst[2 * g] = (int16_t)p->groups[g].bits;
        dst[2 * g + 1] = (int16_t)word;
        word += (qs_packed_group_end(p, g) - p->groups[g].first) * p->groups[g].bits / 32;
    }
}

static qs_err encode(const qs_export_job *job, int64_t layer, qs_role role, const char *name, void *const *data)
{
    const qs_packed *p;
    uint8_t *zero_row = NULL;
    int32_t *places = data[4];
    qs_err err;
    QS_TRY(qs_export_matrix(job, layer, role, &p));
    QS_TRY(QS_NEW(zero_row, p->row_bytes, "a row of zeros"));
    QS_TRY(make_zero_row(p, zero_row));
    put_words(p, zero_row, data[0]);
    put_scales(p, data[1]);
    memcpy(data[2], p->scale_max, (size_t)p->n_groups * sizeof *p->scale_max);
    put_groups(p, data[3]);
    for (int64_t j = 0; j < p->n_in; j++) places[p->perm[j]] = (int32_t)j;
out:
    qs_mem_free(zero_row);
    return qs_context(err, "export %s", name);
}

static json_t *config(const qs_export_job *job)
{
    const qs_spec *spec = qs_quant_file_spec(job->quant);
    return json_pack("{s:s, s:s, s:f, s:I, s:s}", "quant_method", "exl2", "version", "0.3.2", "bits", spec->bpw,
                     "head_bits", (json_int_t)spec->head, "quantizer", "qsweep " QS_VERSION);
}

static const qs_hf_codec codec = {.parts = parts, .encode = encode, .config = config};

static qs_err plan_dir(const qs_export_job *job, int64_t *bytes) { return qs_hf_dir_plan(job, &codec, bytes); }
static qs_err write_dir(const qs_export_job *job) { return qs_hf_dir_write(job, &codec); }

const qs_export_format qs_export_exl2 = {
    .name = "exl2",
    .loaders = "ExLlamaV2, TabbyAPI, text-generation-webui",
    .holds = "exl2",
    .directory = true,
    .check = check,
    .plan = plan_dir,
    .write = write_dir,
};
