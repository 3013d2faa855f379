/* GPTQ checkpoints, format v1 ("gptq") and v2 ("gptq_v2"), as AutoGPTQ and GPTQModel lay them out; matrices with
 * bits of their own (budgets) through GPTQModel's "dynamic":
 *
 *   qweight I32 [n_in * bits / 32, n_out]   each column a bit stream over the input channels, lowest bit first
 *   qzeros  I32 [n_groups, n_out * bits / 32]   each row a bit stream over the output channels; v1 stores zero - 1
 *   scales  F16 [n_groups, n_out]
 *   g_idx   I32 [n_in]   group of each input channel
 *
 * 3-bit codes straddle words: the stream of 32 codes in three words is the plain one. */
#include <stdio.h>
#include <string.h>

#include "base/args.h"
#include "base/log.h"
#include "base/mem.h"
#include "export/hf_dir.h"

enum { WORD_BITS = 32 };

/* ---- what it holds ---- */

static bool is_v1(const qs_export_job *job);

static qs_err check_shape(const qs_export_job *job, int64_t layer, qs_role role)
{
    char name[QS_EXPORT_NAME_BYTES];
    qs_tensor_info info = qs_model_info(job->model, role, layer);
    if (info.n_in % WORD_BITS == 0 && info.n_out % WORD_BITS == 0) return QS_OK;
    return qs_fail(QS_E_UNSUPPORTED, "export %s: %lld x %lld is no multiple of 32 in both directions, which GPTQ words "
                   "need; use --format gguf --type f16", qs_export_matrix_name(name, layer, role),
                   (long long)info.n_out, (long long)info.n_in);
}

/* Zero points of 0 would be stored as -1: writers wrap and borrow from the neighbour, and readers disagree on
 * the value. */
static qs_err check_zeros(const qs_export_job *job, int64_t layer, qs_role role)
{
    char name[QS_EXPORT_NAME_BYTES];
    const qs_packed *p;
    qs_err err = qs_export_integers(job, layer, role, &p);
    if (err != QS_OK || p->zeros == NULL || !is_v1(job)) return err;
    const uint8_t *zero = memchr(p->zeros, 0, (size_t)(p->n_out * p->n_groups));
    if (zero == NULL) return QS_OK;
    int64_t at = zero - p->zeros;
    return qs_fail(QS_E_UNSUPPORTED,
                   "export %s: the zero point of row %lld, group %lld is 0, which format gptq (v1) has no "
                   "code for; use --format gptq_v2, or quantise with sym=1",
                   qs_export_matrix_name(name, layer, role), (long long)(at / p->n_groups),
                   (long long)(at % p->n_groups));
}

static qs_err check(const qs_export_job *job)
{
    const qs_spec *spec = qs_quant_file_spec(job->quant);
    int64_t n_layers = qs_model_get_config(job->model)->n_layers;
    qs_err err = QS_OK;
    for (qs_role role = 0; role < QS_N_LINEARS; role++) QS_TRY(check_shape(job, 0, role));
    bool read_all = is_v1(job) && !spec->sym;
    if (read_all)
        qs_log_warn("GPTQModel loads asymmetric points of format gptq (v1) only where it wrote them itself; for it use "
                    "--format gptq_v2");
    for (int64_t layer = 0; layer < (read_all ? n_layers : 1); layer++)
        for (qs_role role = 0; role < QS_N_LINEARS; role++) QS_TRY(check_zeros(job, layer, role));
out:
    return err;
}

/* ---- tensors ---- */

typedef struct width {
    int64_t bits, group_size;
} width;

/* Of a matrix: the spec's, or its own share of a budget. */
static qs_err width_of(const qs_export_job *job, int64_t layer, qs_role role, width *out)
{
    const qs_spec *spec = qs_quant_file_spec(job->quant);
    const qs_artifact *artifact = qs_quant_file_artifact(job->quant);
    char path[QS_EXPORT_NAME_BYTES + 32];
    qs_err err = QS_OK;
    *out = (width){spec->bits, spec->group_size};
    if (spec->bpw == 0) return QS_OK;
    (void)snprintf(path, sizeof path, "/layers/%lld/%s/@bits", (long long)layer, qs_role_name(role));
    QS_TRY(qs_artifact_get_int(artifact, path, &out->bits));
    (void)snprintf(path, sizeof path, "/layers/%lld/%s/@group_size", (long long)layer, qs_role_name(role));
    QS_TRY(qs_artifact_get_int(artifact, path, &out->group_size));
out:
    return err;
}

static qs_err parts(const qs_export_job *job, int64_t layer, qs_role role, qs_hf_part *out, int *n)
{
    qs_tensor_info info = qs_model_info(job->model, role, layer);
    int64_t n_out = info.n_out, n_in = info.n_in;
    width w;
    qs_err err = width_of(job, layer, role, &w);
    if (err != QS_OK) return err;
    int64_t group = w.group_size < 0 ? n_in : w.group_size, n_groups = (n_in + group - 1) / group;
    out[0] = (qs_hf_part){".qweight", QS_ST_I32, 2, {n_in * w.bits / WORD_BITS, n_out}};
    out[1] = (qs_hf_part){".qzeros", QS_ST_I32, 2, {n_groups, n_out * w.bits / WORD_BITS}};
    out[2] = (qs_hf_part){".scales", QS_ST_F16, 2, {n_groups, n_out}};
    out[3] = (qs_hf_part){".g_idx", QS_ST_I32, 1, {n_in, 0}};
    *n = 4;
    return QS_OK;
}

/* Rows of codes in the order of the input channels become columns of words. */
static qs_err put_codes(const qs_packed *p, uint32_t *words)
{
    qs_packed row = *p; /* one row, for its packing */
    uint8_t *codes = NULL, *ordered = NULL;
    uint32_t *stream = NULL;
    int64_t n_words = p->n_in * p->bits / WORD_BITS;
    qs_err err;
    QS_TRY(QS_NEW(codes, p->n_in, "codes of a row"));
    QS_TRY(QS_NEW(ordered, p->n_in, "codes of a row"));
    QS_TRY(QS_NEW(stream, n_words, "words of a row"));
    row.codes = (uint8_t *)stream;
    for (int64_t o = 0; o < p->n_out; o++) {
        qs_packed_get_row(p, o, codes);
        for (int64_t j = 0; j < p->n_in; j++) ordered[p->perm != NULL ? p->perm[j] : j] = codes[j];
        qs_packed_set_row(&row, 0, ordered);
        for (int64_t w = 0; w < n_words; w++) words[w * p->n_out + o] = stream[w];
    }
out:
    qs_mem_free(codes);
    qs_mem_free(ordered);
    qs_mem_free(stream);
    return err;
}

/* One row of words per group, over the output channels. */
static qs_err put_zeros(const qs_packed *p, int offset, uint32_t *words)
{
    qs_packed row = *p;
    uint8_t *zeros = NULL;
    qs_err err;
    QS_TRY(QS_NEW(zeros, p->n_out, "zero points of a group"));
    row.n_in = p->n_out;
    row.row_bytes = p->n_out * p->bits / 8;
    row.codes = (uint8_t *)words;
    for (int64_t g = 0; g < p->n_groups; g++) {
        for (int64_t o = 0; o < p->n_out; o++) {
            int zero = p->zeros != NULL ? p->zeros[o * p->n_groups + g] : 1 << (p->bits - 1);
            zeros[o] = (uint8_t)(zero - offset);
        }
        qs_packed_set_row(&row, g, zeros);
    }
out:
    qs_mem_free(zeros);
    return err;
}

static qs_err encode(const qs_export_job *job, int64_t layer, qs_role role, const char *name, void *const *data)
{
    const qs_packed *p;
    uint16_t *scales = data[2];
    int32_t *groups = data[3];
    qs_err err;
    QS_TRY(qs_export_integers(job, layer, role, &p));
    QS_TRY(put_codes(p, data[0]));
    QS_TRY(put_zeros(p, is_v1(job) ? 1 : 0, data[1]));
    for (int64_t o = 0; o < p->n_out; o++)
        for (int64_t g = 0; g < p->n_groups; g++) scales[g * p->n_out + o] = p->scales[o * p->n_groups + g];
    for (int64_t j = 0; j < p->n_in; j++)
        groups[p->perm != NULL ? p->perm[j] : j] = (int32_t)(j / p->group_size);
out:
    return qs_context(err, "export %s", name);
}

/* ---- configuration ---- */

static bool any_perm(const qs_export_job *job)
{
    for (qs_role role = 0; role < QS_N_LINEARS; role++)
        if (qs_spec_has_perm(qs_quant_file_spec(job->quant), qs_model_info(job->model, role, 0).n_in)) return true;
    return false;
}

/* The width that most matrices have: the general one, of which others are exceptions. */
static width commonest(const width *widths, int64_t n)
{
    width best = widths[0];
    int64_t most = 0;
    for (int64_t i = 0; i < n; i++) {
        int64_t count = 0;
        for (int64_t j = 0; j < n; j++)
            count += widths[j].bits == widths[i].bits && widths[j].group_size == widths[i].group_size;
        if (count > most) best = widths[i];
        most = count > most ? count : most;
    }
    return best;
}

/* A rule of GPTQModel's "dynamic" for a matrix: a regular expression that its name alone matches. */
static int add_rule(json_t *rules, qs_role role, int64_t layer, width w)
{
    char name[QS_TENSOR_NAME_BYTES], rule[2 * QS_TENSOR_NAME_BYTES] = "+:^";
    size_t n = strlen(rule);
    (void)qs_role_tensor_name(name, QS_NAMING_HF, role, layer);
    name[strlen(name) - strlen(".weight")] = '\0';
    for (const char *at = name; *at != '\0'; at++) {
        if (*at == '.') rule[n++] = '\\';
        rule[n++] = *at;
    }
    rule[n++] = '$';
    rule[n] = '\0';
    return json_object_set_new(rules, rule, json_pack("{s:I, s:I}", "bits", (json_int_t)w.bits, "group_size",
                                                      (json_int_t)w.group_size));
}

/* Sets bits and groups that all have, and the exceptions from them. */
static qs_err put_widths(const qs_export_job *job, json_t *root)
{
    int64_t n = qs_model_get_config(job->model)->n_layers * QS_N_LINEARS;
    json_t *rules = json_object();
    width *widths = NULL;
    int failed = rules == NULL;
    qs_err err;
    QS_TRY(QS_NEW(widths, n, "widths of matrices"));
    for (int64_t i = 0; i < n; i++) QS_TRY(width_of(job, i / QS_N_LINEARS, (qs_role)(i % QS_N_LINEARS), &widths[i]));
    width general = commonest(widths, n);
    failed |= json_object_set_new(root, "bits", json_integer((json_int_t)general.bits));
    failed |= json_object_set_new(root, "group_size", json_integer((json_int_t)general.group_size));
    for (int64_t i = 0; i < n; i++)
        if (widths[i].bits != general.bits || widths[i].group_size != general.group_size)
            failed |= add_rule(rules, (qs_role)(i % QS_N_LINEARS), i / QS_N_LINEARS, widths[i]);
    if (json_object_size(rules) > 0) failed |= json_object_set(root, "dynamic", rules);
    if (failed != 0) err = qs_fail(QS_E_RESOURCE, "export: no memory for a document");
out:
    qs_mem_free(widths);
    json_decref(rules);
    return err;
}

static json_t *config(const qs_export_job *job)
{
    const qs_spec *spec = qs_quant_file_spec(job->quant);
    const char *format = is_v1(job) ? "gptq" : "gptq_v2";
    /* Groups in an order of their own are what desc_act means to a loader; a damping of 0 (RTN) would be
     * refused by one. */
    json_t *root =
        json_pack("{s:s, s:s, s:I, s:I, s:b, s:b, s:s, s:s, s:s, s:b, s:b, s:b, s:f, s:{s:[s], s:s}}",
                  "quant_method", "gptq", "method", "gptq", "bits", (json_int_t)spec->bits, "group_size",
                  (json_int_t)spec->group_size, "desc_act", (int)any_perm(job), "sym", (int)spec->sym,
                  "checkpoint_format", format, "format", format, "pack_dtype", "int32", "lm_head", 0,
                  "static_groups", (int)spec->static_groups, "true_sequential", 0, "damp_percent",
                  spec->damping > 0 ? spec->damping : 0.01, "meta", "quantizer", "qsweep:" QS_VERSION,
                  "spec", spec->id);
    if (root == NULL || spec->bpw == 0 || put_widths(job, root) == QS_OK) return root;
    json_decref(root);
    return NULL;
}

static const qs_hf_codec codec = {.parts = parts, .encode = encode, .config = config,
                                  .config_file = "quantize_config.json"};

static qs_err plan_dir(const qs_export_job *job, int64_t *bytes) { return qs_hf_dir_plan(job, &codec, bytes); }
static qs_err write_dir(const qs_export_job *job) { return qs_hf_dir_write(job, &codec); }

const qs_export_format qs_export_gptq = {
    .name = "gptq",
    .loaders = "GPTQModel, AutoGPTQ, transformers, vLLM, ExLlamaV2",
    .holds = "integer codes of 2, 3, 4 and 8 bits, any group and order, also per matrix (GPTQModel's dynamic); asym "
             "only where no zero point is 0, and not for GPTQModel",
    .directory = true,
    .check = check,
    .plan = plan_dir,
    .write = write_dir,
};

const qs_export_format qs_export_gptq_v2 = {
    .name = "gptq_v2",
    .loaders = "GPTQModel, vLLM, ExLlamaV2",
    .holds = "integer codes of 2, 3, 4 and 8 bits, any group and order, also per matrix (GPTQModel's dynamic)",
    .directory = true,
    .check = check,
    .plan = plan_dir,
    .write = write_dir,
};

static bool is_v1(const qs_export_job *job) { return job->format == &qs_export_gptq; }
