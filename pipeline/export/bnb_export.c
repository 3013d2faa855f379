/* bitsandbytes directories for transformers, NF4 and FP4 with and without double quantisation, and LLM.int8:
 *
 *   4 bits   P.weight U8 [(n + 1) / 2, 1], two codes a byte of the flattened matrix, the first in the high nibble
 *            P.weight.absmax F32, or U8 codes with .nested_absmax F32 and .nested_quant_map F32 [256]
 *            P.weight.quant_map F32 [16]; P.weight.quant_state.bitsandbytes__nf4 (or __fp4) U8, JSON
 *   int8     P.weight I8 [n_out, n_in], P.SCB F32 [n_out], P.weight_format U8, 0 for rows */
#include <stdio.h>
#include <string.h>

#include "base/args.h"
#include "base/mem.h"
#include "export/hf_dir.h"

/* Its text is padded with blanks, which JSON allows: sizes are declared before an offset is known. */
enum { STATE_BYTES = 256 };

static const char *torch_name(int64_t rounding)
{
    static const char *const names[] = {
        [QS_ROUND_F32] = "float32", [QS_ROUND_BF16] = "bfloat16", [QS_ROUND_F16] = "float16"};
    return names[rounding];
}

static qs_packed shape_of(const qs_export_job *job, int64_t n_out, int64_t n_in)
{
    qs_packed packed = {0};
    if (qs_spec_shape(qs_quant_file_spec(job->quant), n_out, n_in, &packed) != QS_OK) packed = (qs_packed){0};
    return packed;
}

static qs_err check(const qs_export_job *job)
{
    const qs_packed *p;
    qs_err err;
    QS_TRY(qs_export_matrix(job, 0, QS_ROLE_Q, &p));
    if (p->format == QS_PACKED_INT || p->format == QS_PACKED_EXL2)
        return qs_fail(QS_E_UNSUPPORTED,
                       "export %s: bitsandbytes holds nf4, fp4 and int8, not integer codes with groups; use "
                       "--format %s",
                       qs_quant_file_spec(job->quant)->id, p->format == QS_PACKED_INT ? "gptq_v2" : "exl2");
out:
    return err;
}

static qs_err parts(const qs_export_job *job, int64_t layer, qs_role role, qs_hf_part *out, int *n_parts)
{
    qs_tensor_info info = qs_model_info(job->model, role, layer);
    int64_t n_out = info.n_out, n_in = info.n_in;
    static const char *const states[] = {[QS_PACKED_NF4] = ".weight.quant_state.bitsandbytes__nf4",
                                         [QS_PACKED_FP4] = ".weight.quant_state.bitsandbytes__fp4"};
    bool nested = qs_quant_file_spec(job->quant)->double_quant;
    qs_packed p = shape_of(job, n_out, n_in);
    int n = 0;
    if (p.format == QS_PACKED_INT8) {
        out[n++] = (qs_hf_part){".weight", QS_ST_I8, 2, {n_out, n_in}};
        out[n++] = (qs_hf_part){".SCB", QS_ST_F32, 1, {n_out, 0}};
        out[n++] = (qs_hf_part){".weight_format", QS_ST_U8, 0, {0, 0}};
        *n_parts = n;
        return QS_OK;
    }
    out[n++] = (qs_hf_part){".weight", QS_ST_U8, 2, {(n_out * n_in + 1) / 2, 1}};
    out[n++] = (qs_hf_part){".weight.absmax", nested ? QS_ST_U8 : QS_ST_F32, 1, {p.n_absmax, 0}};
    out[n++] = (qs_hf_part){".weight.quant_map", QS_ST_F32, 1, {16, 0}};
    out[n++] = (qs_hf_part){states[p.format], QS_ST_U8, 1, {STATE_BYTES, 0}};
    *n_parts = n + (nested ? 2 : 0);
    if (!nested) return QS_OK;
    out[n++] = (qs_hf_part){".weight.nested_absmax", QS_ST_F32, 1, {qs_packed_n_nested(&p), 0}};
    out[n] = (qs_hf_part){".weight.nested_quant_map", QS_ST_F32, 1, {256, 0}};
    return QS_OK;
}

/* ---- one linear ---- */

static qs_err put_codes(const qs_packed *p, uint8_t *dst)
{
    uint8_t *codes;
    qs_err err = QS_NEW(codes, p->n_in, "codes of a row");
    if (err != QS_OK) return err;
    for (int64_t o = 0; o < p->n_out; o++) {
        qs_packed_get_row(p, o, codes);
        for (int64_t j = 0; j < p->n_in; j++) {
            int64_t at = o * p->n_in + j;
            if (p->format == QS_PACKED_INT8) dst[at] = (uint8_t)(codes[j] - QS_INT8_MIDDLE); /* int8 */
            else dst[at / 2] |= (uint8_t)(at % 2 == 0 ? codes[j] << 4 : codes[j]);
        }
    }
    qs_mem_free(codes);
    return QS_OK;
}

static qs_err put_state(const qs_packed *p, char *dst)
{
    char text[STATE_BYTES + 1], nested[128] = "";
    if (p->absmax_codes != NULL)
        (void)snprintf(nested, sizeof nested,
                       ", \"nested_blocksize\": %d, \"nested_dtype\": \"float32\", \"nested_offset\": %.17g",
                       QS_NESTED_BLOCK, (double)p->nested_offset);
    int n = snprintf(text, sizeof text,
                     "{\"quant_type\": \"%s\", \"blocksize\": %lld, \"dtype\": \"%s\", \"shape\": [%lld, %lld]%s}",
                     qs_formats[p->format].name, (long long)p->group_size, torch_name((int64_t)p->compute),
                     (long long)p->n_out, (long long)p->n_in, nested);
    if (n < 0 || n > STATE_BYTES) return qs_fail(QS_E_UNSUPPORTED, "the state of the matrix takes %d bytes", n);
    memset(dst, ' ', STATE_BYTES);
    memcpy(dst, text, (size_t)n);
    return QS_OK;
}

static qs_err encode(const qs_export_job *job, int64_t layer, qs_role role, const char *name, void *const *data)
{
    const qs_packed *p;
    qs_err err;
    QS_TRY(qs_export_matrix(job, layer, role, &p));
    QS_TRY(put_codes(p, data[0]));
    if (p->absmax_codes != NULL) memcpy(data[1], p->absmax_codes, (size_t)p->n_absmax);
    else memcpy(data[1], p->absmax, (size_t)p->n_absmax * sizeof *p->absmax);
    if (p->format == QS_PACKED_INT8) goto out; /* the format of rows is 0 */
    memcpy(data[2], qs_formats[p->format].values, 16 * sizeof(float));
    QS_TRY(put_state(p, data[3]));
    if (p->absmax_codes == NULL) goto out;
    memcpy(data[4], p->nested_absmax, (size_t)qs_packed_n_nested(p) * sizeof *p->nested_absmax);
    memcpy(data[5], qs_dynamic_map, 256 * sizeof *qs_dynamic_map);
out:
    return qs_context(err, "export %s", name);
}

/* ---- configuration ---- */

static json_t *config(const qs_export_job *job)
{
    const qs_spec *spec = qs_quant_file_spec(job->quant);
    qs_packed p = shape_of(job, 64, 64);
    bool four = p.format != QS_PACKED_INT8;
    json_t *root = json_pack("{s:s, s:b, s:b, s:b, s:b, s:f, s:b, s:b, s:n}", "quant_method", "bitsandbytes",
                             "load_in_4bit", (int)four, "load_in_8bit", (int)!four, "_load_in_4bit",
                             (int)four, "_load_in_8bit", (int)!four, "llm_int8_threshold",
                             four ? 6.0 : spec->threshold, "llm_int8_has_fp16_weight", 0,
                             "llm_int8_enable_fp32_cpu_offload", 0, "llm_int8_skip_modules");
    /* Loaders want these also where they say nothing. */
    json_t *more = json_pack("{s:s, s:b, s:s, s:s}", "bnb_4bit_quant_type", four ? qs_formats[p.format].name : "fp4",
                             "bnb_4bit_use_double_quant", (int)(four && spec->double_quant), "bnb_4bit_compute_dtype",
                             four ? torch_name(spec->compute) : "float32", "bnb_4bit_quant_storage", "uint8");
    int failed = json_object_update_new(root, more);
    if (failed == 0) return root;
    json_decref(root);
    return NULL;
}

static const qs_hf_codec codec = {.parts = parts, .encode = encode, .config = config};

static qs_err plan_dir(const qs_export_job *job, int64_t *bytes) { return qs_hf_dir_plan(job, &codec, bytes); }
static qs_err write_dir(const qs_export_job *job) { return qs_hf_dir_write(job, &codec); }

const qs_export_format qs_export_bnb = {
    .name = "bnb",
    .loaders = "transformers with bitsandbytes, vLLM",
    .holds = "nf4 and fp4 with and without double quantisation, int8",
    .directory = true,
    .check = check,
    .plan = plan_dir,
    .write = write_dir,
};
