/* bitsandbytes directories, 4 bits (NF4, FP4) and LLM.int8 (layout: export/bnb_export.c). What a matrix is
 * like stands in a JSON text beside it, and is checked against the tensors. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "model/checkpoint_impl.h"

/* ---- configuration ---- */

static bool flag(const json_t *object, const char *key) { return json_is_true(json_object_get(object, key)); }
static bool accepts_4(const json_t *object) { return flag(object, "load_in_4bit"); }
static bool accepts_8(const json_t *object) { return !flag(object, "load_in_4bit"); }

static qs_err read_4(qs_checkpoint_config *out, const json_t *object, const char *name)
{
    static const struct {
        const char *name;
        qs_rounding rounding;
    } rows[] = {{"float32", QS_ROUND_F32}, {"bfloat16", QS_ROUND_BF16}, {"float16", QS_ROUND_F16}};
    const char *compute = "float32", *storage = "uint8";
    qs_err err;
    *out = (qs_checkpoint_config){.bits = 4, .group_size = 64, .variant = "fp4"};
    QS_TRY(qs_json_opt_string(&compute, object, "bnb_4bit_compute_dtype", name));
    QS_TRY(qs_json_opt_string(&storage, object, "bnb_4bit_quant_storage", name));
    if (strcmp(storage, "uint8") != 0)
        return qs_fail(QS_E_UNSUPPORTED, "read %s: bnb_4bit_quant_storage \"%.32s\" is not read, only uint8",
                       name, storage);
    for (int i = 0; i < 3; i++)
        if (strcmp(compute, rows[i].name) == 0) {
            out->compute = rows[i].rounding;
            return QS_OK;
        }
    err = qs_fail(QS_E_UNSUPPORTED, "read %s: bnb_4bit_compute_dtype \"%.32s\" is not read", name, compute);
out:
    return err;
}

static qs_err read_8(qs_checkpoint_config *out, const json_t *object, const char *name)
{
    *out = (qs_checkpoint_config){.bits = 8, .group_size = -1, .threshold = 6.0, .variant = "int8"};
    if (!flag(object, "load_in_8bit"))
        return qs_fail(QS_E_INPUT, "read %s: neither load_in_4bit nor load_in_8bit is true", name);
    return qs_json_opt_real(&out->threshold, object, "llm_int8_threshold", name);
}

/* ---- 4 bits ---- */

typedef struct state {
    qs_packed_format format;
    int64_t block;
    double offset;
    bool nested;
} state;

static qs_err read_state(state *out, const qs_checkpoint *c, const char *prefix, int64_t n_out, int64_t n_in)
{
    static const struct {
        const char *leaf, *type;
        qs_packed_format format;
    } rows[] = {{".weight.quant_state.bitsandbytes__nf4", "nf4", QS_PACKED_NF4},
                {".weight.quant_state.bitsandbytes__fp4", "fp4", QS_PACKED_FP4}};
    const qs_shard_entry *entry = NULL;
    char name[QS_TENSOR_NAME_BYTES + 64];
    const char *type = "";
    int64_t nested_block = QS_NESTED_BLOCK;
    json_t *root = NULL;
    int row = 0;
    qs_err err;
    for (; row < 2 && entry == NULL; row++) {
        (void)snprintf(name, sizeof name, "%s%s", prefix, rows[row].leaf);
        entry = qs_shards_find(&c->model->shards, name);
    }
    if (entry == NULL)
        return qs_fail(QS_E_INPUT, "read checkpoint %s: %s.weight has no quant_state", qs_model_path(c->model), prefix);
    row--;
    QS_TRY(qs_json_parse(&root, (const char *)entry->tensor->data, entry->tensor->bytes, name));
    QS_TRY(qs_json_get_string(&type, root, "quant_type", name));
    QS_TRY(qs_json_get_int(&out->block, root, "blocksize", 32, 4096, name));
    QS_TRY(qs_json_opt_int(&nested_block, root, "nested_blocksize", 1, 65536, name));
    out->nested = json_object_get(root, "nested_offset") != NULL;
    QS_TRY(qs_json_opt_real(&out->offset, root, "nested_offset", name));
    out->format = rows[row].format;
    const json_t *shape = json_object_get(root, "shape");
    if (json_array_size(shape) != 2 || json_integer_value(json_array_get(shape, 0)) != n_out ||
        json_integer_value(json_array_get(shape, 1)) != n_in)
        err = qs_fail(QS_E_INPUT, "read %s: its shape is not the [%lld, %lld] of the configuration", name,
                      (long long)n_out, (long long)n_in);
    else if (strcmp(type, rows[row].type) != 0 || nested_block != QS_NESTED_BLOCK || !isfinite((float)out->offset))
        err = qs_fail(QS_E_UNSUPPORTED, "read %s: quant_type \"%.16s\", blocks of %lld maxima, offset %g", name, type,
                      (long long)nested_block, out->offset);
out:
    json_decref(root);
    return err;
}

static qs_err find(const qs_safetensor **out, const qs_checkpoint *c, const char *prefix, const char *leaf,
                   qs_safetensor_type type, int64_t rows, int64_t columns)
{
    const qs_leaf wanted = {leaf, type, type, columns > 0 ? 2 : 1, {rows, columns}, false};
    return qs_checkpoint_leaf(out, c, prefix, &wanted, "");
}

/* The quant_map says what codes mean; another one than bitsandbytes' is another format. */
static qs_err check_map(const qs_safetensor *t, const float *wanted, int n)
{
    for (int i = 0; i < n; i++) {
        float value;
        memcpy(&value, t->data + 4 * i, sizeof value);
        if (!(fabsf(value - wanted[i]) <= 1e-6f))
            return qs_fail(QS_E_UNSUPPORTED,
                           "read checkpoint: entry %d of %s is %g, of bitsandbytes' own map %g", i, t->name,
                           (double)value, (double)wanted[i]);
    }
    return QS_OK;
}

static qs_err put_codes_4(const qs_safetensor *t, qs_packed *p)
{
    uint8_t *codes;
    qs_err err = QS_NEW(codes, p->n_in, "codes of a row");
    if (err != QS_OK) return err;
    for (int64_t o = 0; o < p->n_out; o++) {
        for (int64_t j = 0; j < p->n_in; j++) {
            int64_t at = o * p->n_in + j;
            codes[j] = at % 2 == 0 ? t->data[at / 2] >> 4 : t->data[at / 2] & 15;
        }
        qs_packed_set_row(p, o, codes);
    }
    qs_mem_free(codes);
    return QS_OK;
}

static qs_err describe_4(qs_checkpoint *c, const char *prefix, int64_t n_out, int64_t n_in, qs_packed *out)
{
    state s = {0};
    qs_err err;
    QS_TRY(read_state(&s, c, prefix, n_out, n_in));
    QS_TRY(qs_packed_shape_blocks(out, s.format, n_out, n_in, s.block, c->config.compute));
    out->absmax_codes = s.nested ? &c->presence.bytes : NULL;
out:
    return err;
}

static qs_err load_4(qs_checkpoint *c, const char *prefix, int64_t n_out, int64_t n_in, qs_packed *out)
{
    const qs_safetensor *weight, *absmax, *map, *nested;
    state s = {0};
    qs_err err;
    *out = (qs_packed){0};
    QS_TRY(read_state(&s, c, prefix, n_out, n_in));
    QS_TRY(qs_packed_shape_blocks(out, s.format, n_out, n_in, s.block, c->config.compute));
    QS_TRY(find(&weight, c, prefix, ".weight", QS_ST_U8, (n_out * n_in + 1) / 2, 1));
    QS_TRY(find(&absmax, c, prefix, ".weight.absmax", s.nested ? QS_ST_U8 : QS_ST_F32, out->n_absmax, 0));
    QS_TRY(find(&map, c, prefix, ".weight.quant_map", QS_ST_F32, 16, 0));
    QS_TRY(check_map(map, qs_formats[s.format].values, 16));
    QS_TRY(qs_packed_alloc_absmax(out, s.nested));
    QS_TRY(put_codes_4(weight, out));
    if (s.nested) {
        QS_TRY(find(&nested, c, prefix, ".weight.nested_absmax", QS_ST_F32, qs_packed_n_nested(out), 0));
        QS_TRY(find(&map, c, prefix, ".weight.nested_quant_map", QS_ST_F32, 256, 0));
        QS_TRY(check_map(map, qs_dynamic_map, 256));
        memcpy(out->absmax_codes, absmax->data, (size_t)out->n_absmax);
        memcpy(out->nested_absmax, nested->data, nested->bytes);
        out->nested_offset = (float)s.offset;
    } else {
        memcpy(out->absmax, absmax->data, absmax->bytes);
    }
    err = qs_packed_check(out, prefix);
out:
    if (err != QS_OK) qs_packed_free(out);
    return err;
}

/* ---- int8 ---- */

static qs_err describe_8(qs_checkpoint *c, const char *prefix, int64_t n_out, int64_t n_in, qs_packed *out)
{
    (void)prefix;
    return qs_packed_shape_int8(out, n_out, n_in, (float)c->config.threshold);
}

static qs_err load_8(qs_checkpoint *c, const char *prefix, int64_t n_out, int64_t n_in, qs_packed *out)
{
    const qs_safetensor *weight, *scales;
    uint8_t *codes = NULL;
    qs_err err;
    *out = (qs_packed){0};
    QS_TRY(qs_packed_shape_int8(out, n_out, n_in, (float)c->config.threshold));
    QS_TRY(find(&weight, c, prefix, ".weight", QS_ST_I8, n_out, n_in));
    QS_TRY(find(&scales, c, prefix, ".SCB", QS_ST_F32, n_out, 0));
    QS_TRY(qs_packed_alloc_absmax(out, false));
    QS_TRY(QS_NEW(codes, n_in, "codes of a row"));
    for (int64_t o = 0; o < n_out; o++) {
        for (int64_t j = 0; j < n_in; j++) codes[j] = (uint8_t)(weight->data[o * n_in + j] + QS_INT8_MIDDLE);
        qs_packed_set_row(out, o, codes);
    }
    memcpy(out->absmax, scales->data, scales->bytes);
    err = qs_packed_check(out, prefix);
out:
    qs_mem_free(codes);
    if (err != QS_OK) qs_packed_free(out);
    return err;
}

/* What the first matrix says stands for all in the facts. */
static qs_err settle_4(qs_checkpoint *c)
{
    char prefix[QS_TENSOR_NAME_BYTES];
    state s = {0};
    qs_tensor_info info = qs_model_info(c->model, QS_ROLE_Q, 0);
    if (qs_model_stored_row(c->model, QS_ROLE_Q, 0, 0) != NULL) return QS_OK;
    (void)qs_role_tensor_name(prefix, QS_NAMING_HF, QS_ROLE_Q, 0);
    prefix[strlen(prefix) - strlen(".weight")] = '\0';
    qs_err err = read_state(&s, c, prefix, info.n_out, info.n_in);
    if (err != QS_OK) return err;
    c->config.group_size = s.block;
    c->config.variant = s.format == QS_PACKED_NF4 ? (s.nested ? "nf4-dq" : "nf4") : s.nested ? "fp4-dq" : "fp4";
    return QS_OK;
}

static const char *const leaves_4[] = {".weight", ".weight.absmax", ".weight.quant_map", ".weight.nested_absmax",
                                       ".weight.nested_quant_map", ".weight.quant_state.bitsandbytes__nf4",
                                       ".weight.quant_state.bitsandbytes__fp4", NULL};
static const char *const leaves_8[] = {".weight", ".SCB", ".weight_format", NULL};

const qs_checkpoint_layout qs_checkpoint_bnb_4 = {
    .method = "bitsandbytes", .foreign = {.mark = ".weight.absmax", .leaves = leaves_4}, .accepts = accepts_4,
    .read_config = read_4, .load = load_4, .describe = describe_4, .settle = settle_4,
};

const qs_checkpoint_layout qs_checkpoint_bnb_8 = {
    .method = "bitsandbytes", .foreign = {.mark = ".SCB", .leaves = leaves_8}, .accepts = accepts_8,
    .read_config = read_8, .load = load_8, .describe = describe_8,
};
