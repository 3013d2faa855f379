/* AutoAWQ checkpoints, version GEMM, 4 bits: qweight I32 [n_in, n_out / 8] and qzeros I32 [n_groups, n_out /
 * 8] pack eight output channels in a word, channel 8 c + order[i] in nibble i; scales F16 [n_groups, n_out];
 * W = (q - zero) scale. */
#include <ctype.h>
#include <string.h>
#include <strings.h>

#include "base/mem.h"
#include "model/checkpoint_impl.h"

enum { PER_WORD = 8, ORDER_ROWS = 16 /* that tell the order */, SIGNS_LOST = 70, SIGNS_FOUND = 85 /* per cent */ };

/* The nibble of channel j of a word. */
static const int nibble[PER_WORD] = {0, 4, 1, 5, 2, 6, 3, 7};

static qs_err read_config(qs_checkpoint_config *out, const json_t *object, const char *name)
{
    const char *version = "gemm";
    bool zero_point = true;
    qs_err err;
    *out = (qs_checkpoint_config){.bits = 4, .group_size = 128};
    QS_TRY(qs_json_opt_int(&out->bits, object, "w_bit", 1, 32, name));
    QS_TRY(qs_json_opt_int(&out->bits, object, "bits", 1, 32, name));
    QS_TRY(qs_json_opt_int(&out->group_size, object, "q_group_size", -1, 65536, name));
    QS_TRY(qs_json_opt_int(&out->group_size, object, "group_size", -1, 65536, name));
    QS_TRY(qs_json_opt_bool(&zero_point, object, "zero_point", name));
    QS_TRY(qs_json_opt_string(&version, object, "version", name));
    QS_TRY(qs_json_opt_string(&version, object, "checkpoint_format", name));
    if (out->bits != 4)
        return qs_fail(QS_E_UNSUPPORTED, "read %s: AWQ of %lld bits is not read, only of 4", name,
                       (long long)out->bits);
    if (strcasecmp(version, "gemm") != 0)
        return qs_fail(QS_E_UNSUPPORTED,
                       "read %s: AWQ version \"%.32s\" orders its nibbles in another way than gemm, the only "
                       "one that is read",
                       name, version);
    if (out->group_size == 0) return qs_fail(QS_E_INPUT, "read %s: the group size is 0; -1 means the whole row", name);
    /* Whether all zero points are the middle is seen from them: writers of symmetric codes say zero_point too. */
    out->sym = false;
out:
    return err;
}

static unsigned field_at(const qs_safetensor *t, int64_t row, int64_t o, int field)
{
    uint32_t word;
    memcpy(&word, t->data + 4 * (row * t->shape[1] + o / PER_WORD), sizeof word);
    return word >> (4 * field) & 15u;
}

static unsigned code_at(const qs_safetensor *t, int64_t row, int64_t o)
{
    return field_at(t, row, o, nibble[o % PER_WORD]);
}

/* ---- the order of nibbles ---- */

/* Whose tensors these are; QS_N_LINEARS = nobody's. */
static qs_role role_of(const char *prefix, int64_t layer)
{
    char name[QS_TENSOR_NAME_BYTES];
    size_t n = strlen(prefix);
    qs_role role = 0;
    for (; role < QS_N_LINEARS; role++) {
        (void)qs_role_tensor_name(name, QS_NAMING_HF, role, layer);
        if (strncmp(name, prefix, n) == 0 && strcmp(name + n, ".weight") == 0) break;
    }
    return role;
}

/* A scaling that is folded in changes no sign: in the right order nearly all weights have the sign of the model's, in
 * another one half of them. Files of other versions that say gemm are known by their natural order. */
static qs_err check_order(const qs_checkpoint *c, const char *prefix, const qs_safetensor *codes,
                          const qs_safetensor *zeros, const qs_packed *p)
{
    qs_role role = role_of(prefix, c->layer);
    int64_t n_rows = p->n_out < ORDER_ROWS ? p->n_out : ORDER_ROWS, n = 0, same[2] = {0, 0};
    float *own = NULL;
    qs_err err = QS_OK;
    if (role == QS_N_LINEARS) return QS_OK;
    QS_TRY(QS_NEW(own, n_rows * p->n_in, "rows of the model"));
    QS_TRY(qs_model_read_rows_f32(c->parent, role, c->layer, 0, n_rows, own));
    for (int64_t o = 0; o < n_rows; o++)
        for (int64_t i = 0; i < p->n_in; i++) {
            float w = own[o * p->n_in + i];
            for (int k = 0; k < 2; k++) {
                int field = k == 0 ? nibble[o % PER_WORD] : (int)(o % PER_WORD);
                int q = (int)field_at(codes, i, o, field) - (int)field_at(zeros, i / p->group_size, o, field);
                same[k] += (q > 0 && w > 0) || (q < 0 && w < 0) || q == 0;
            }
            n++;
        }
    if (same[0] * 100 < n * SIGNS_LOST && same[1] * 100 > n * SIGNS_FOUND)
        err = qs_fail(QS_E_INPUT,
                      "read checkpoint %s: tensor %s.qweight: in the order of version gemm %lld %% of its weights have "
                      "the sign of the model's, with the nibbles in their natural order %lld %%: another version "
                      "packed it",
                      qs_model_path(c->model), prefix, (long long)(same[0] * 100 / n), (long long)(same[1] * 100 / n));
out:
    qs_mem_free(own);
    return err;
}

/* ---- one matrix ---- */

static qs_err put_codes(const qs_safetensor *t, qs_packed *p)
{
    uint8_t *codes;
    qs_err err = QS_NEW(codes, p->n_in, "codes of a row");
    if (err != QS_OK) return err;
    for (int64_t o = 0; o < p->n_out; o++) {
        for (int64_t i = 0; i < p->n_in; i++) codes[i] = (uint8_t)code_at(t, i, o);
        qs_packed_set_row(p, o, codes);
    }
    qs_mem_free(codes);
    return QS_OK;
}

static qs_err describe(qs_checkpoint *c, const char *prefix, int64_t n_out, int64_t n_in, qs_packed *out)
{
    qs_err err = qs_packed_shape(out, 4, n_out, n_in, c->config.group_size);
    (void)prefix;
    out->zeros = &c->presence.bytes;
    return err;
}

static qs_err load(qs_checkpoint *c, const char *prefix, int64_t n_out, int64_t n_in, qs_packed *out)
{
    const qs_safetensor *codes, *zeros, *scales;
    qs_err err;
    *out = (qs_packed){0};
    if (n_out % PER_WORD != 0)
        return qs_fail(QS_E_INPUT, "read checkpoint %s: %s has %lld rows, no multiple of 8",
                       qs_model_path(c->model), prefix, (long long)n_out);
    QS_TRY(qs_packed_shape(out, 4, n_out, n_in, c->config.group_size));
    const qs_leaf codes_leaf = {".qweight", QS_ST_I32, QS_ST_I32, 2, {n_in, n_out / PER_WORD}, false};
    const qs_leaf zeros_leaf = {".qzeros", QS_ST_I32, QS_ST_I32, 2, {out->n_groups, n_out / PER_WORD}, false};
    const qs_leaf scales_leaf = {".scales", QS_ST_F16, QS_ST_BF16, 2, {out->n_groups, n_out}, false};
    QS_TRY(qs_checkpoint_leaf(&codes, c, prefix, &codes_leaf, " (is it of version gemm?)"));
    QS_TRY(qs_checkpoint_leaf(&zeros, c, prefix, &zeros_leaf, " (does the group size lie?)"));
    QS_TRY(qs_checkpoint_leaf(&scales, c, prefix, &scales_leaf, " (does the group size lie?)"));
    QS_TRY(check_order(c, prefix, codes, zeros, out));
    QS_TRY(qs_packed_alloc(out, true, false));
    QS_TRY(put_codes(codes, out));
    for (int64_t g = 0; g < out->n_groups; g++)
        for (int64_t o = 0; o < n_out; o++) out->zeros[o * out->n_groups + g] = (uint8_t)code_at(zeros, g, o);
    QS_TRY(qs_checkpoint_scales(c, prefix, out));
    err = qs_packed_check(out, prefix);
out:
    if (err != QS_OK) qs_packed_free(out);
    return err;
}

static const char *const awq_leaves[] = {".qweight", ".qzeros", ".scales", NULL};

const qs_checkpoint_layout qs_checkpoint_awq = {
    .method = "awq",
    .foreign = {.mark = ".qweight", .leaves = awq_leaves},
    .read_config = read_config,
    .load = load,
    .describe = describe,
};
