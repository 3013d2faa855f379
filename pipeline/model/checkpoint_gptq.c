/* GPTQ checkpoints of AutoGPTQ, GPTQModel and their like (layout: export/gptq_export.c). Readers of v1 add 1
 * to the packed words of zero points, so that a zero point of 0, whose writer borrowed from the neighbour,
 * comes back as 0; where they hold 3 bits, each field by itself. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/dtype.h"
#include "base/log.h"
#include "base/mem.h"
#include "model/checkpoint_impl.h"

enum { WORD_BITS = 32, HINT_BYTES = 128, FIT_ROWS = 16, SIGNS_FOUND = 80 /* per cent */ };

/* ---- configuration ---- */

static qs_err read_format(qs_checkpoint_config *out, const json_t *object, const char *name)
{
    const char *format = "gptq", *pack = "int32";
    qs_err err;
    QS_TRY(qs_json_opt_string(&format, object, "format", name));
    QS_TRY(qs_json_opt_string(&format, object, "checkpoint_format", name));
    QS_TRY(qs_json_opt_string(&pack, object, "pack_dtype", name));
    out->v1 = strcmp(format, "gptq") == 0;
    if (!out->v1 && strcmp(format, "gptq_v2") != 0)
        return qs_fail(QS_E_UNSUPPORTED,
                       "read %s: checkpoint_format \"%.32s\" is not read, only gptq and gptq_v2", name,
                       format);
    if (strcmp(pack, "int32") != 0)
        return qs_fail(QS_E_UNSUPPORTED, "read %s: pack_dtype \"%.32s\" is not read, only int32", name, pack);
    const json_t *dynamic = json_object_get(object, "dynamic");
    if (json_object_size(dynamic) > 0) QS_TRY(qs_dynamic_create(&out->dynamic, dynamic, name));
out:
    return err;
}

static qs_err read_config(qs_checkpoint_config *out, const json_t *object, const char *name)
{
    qs_err err;
    *out = (qs_checkpoint_config){.group_size = 128, .sym = true};
    QS_TRY(qs_json_get_int(&out->bits, object, "bits", 1, 32, name));
    QS_TRY(qs_json_opt_int(&out->group_size, object, "group_size", -1, 65536, name));
    if (json_object_get(object, "sym") == NULL)
        qs_log_warn("%s does not say \"sym\": true is assumed, as loaders do", name);
    QS_TRY(qs_json_opt_bool(&out->sym, object, "sym", name));
    QS_TRY(qs_json_opt_bool(&out->act, object, "desc_act", name));
    if (out->bits != 2 && out->bits != 3 && out->bits != 4 && out->bits != 8)
        return qs_fail(QS_E_UNSUPPORTED, "read %s: %lld bits are not read, only 2, 3, 4 and 8", name,
                       (long long)out->bits);
    if (out->group_size == 0)
        return qs_fail(QS_E_INPUT, "read %s: \"group_size\" is 0; -1 means the whole row", name);
    err = read_format(out, object, name);
out:
    return err;
}

/* What holds for one matrix. */
static qs_err config_of(qs_checkpoint_config *out, const qs_checkpoint *c, const char *prefix)
{
    bool skips;
    *out = c->config;
    qs_err err = qs_dynamic_find(c->config.dynamic, prefix, out, &skips);
    if (err == QS_OK && skips)
        err = qs_fail(QS_E_INPUT, "read checkpoint %s: \"dynamic\" leaves %s as it is, and its tensors are quantised",
                      qs_model_path(c->model), prefix);
    return err;
}

/* ---- tensors and what their shapes say ---- */

typedef struct leaves {
    const qs_safetensor *codes, *zeros, *scales, *groups; /* groups may be NULL */
} leaves;

/* When the codes have room for another width, it is probably "bits" that lies (G5). */
static void hint_bits(char hint[HINT_BYTES], const qs_checkpoint *c, const char *prefix, int64_t n_in, int64_t said)
{
    char name[QS_TENSOR_NAME_BYTES + 64];
    (void)snprintf(name, sizeof name, "%s.qweight", prefix);
    const qs_shard_entry *entry = qs_shards_find(&c->model->shards, name);
    hint[0] = '\0';
    if (entry == NULL || entry->tensor->n_dims != 2) return;
    int64_t bits = entry->tensor->shape[0] <= n_in ? entry->tensor->shape[0] * WORD_BITS / n_in : 0;
    if (bits >= 2 && bits <= 8 && bits != said && bits * n_in == entry->tensor->shape[0] * WORD_BITS)
        (void)snprintf(hint, HINT_BYTES, "; it would be right for %lld bits: does \"bits\" %lld lie?", (long long)bits,
                       (long long)said);
}

static void hint_group(char hint[HINT_BYTES], const qs_checkpoint *c, const char *prefix, int64_t n_in, int64_t said)
{
    char name[QS_TENSOR_NAME_BYTES + 64];
    (void)snprintf(name, sizeof name, "%s.scales", prefix);
    const qs_shard_entry *entry = qs_shards_find(&c->model->shards, name);
    hint[0] = '\0';
    if (entry == NULL || entry->tensor->n_dims != 2 || entry->tensor->shape[0] < 1) return;
    (void)snprintf(hint, HINT_BYTES, "; its groups would be of %lld weights: does \"group_size\" %lld lie?",
                   (long long)((n_in + entry->tensor->shape[0] - 1) / entry->tensor->shape[0]),
                   (long long)said);
}

static qs_err find_leaves(leaves *out, const qs_checkpoint *c, const char *prefix, const qs_packed *shape)
{
    char bits[HINT_BYTES], group[HINT_BYTES];
    int64_t n_in = shape->n_in, n_out = shape->n_out;
    const qs_leaf codes = {".qweight", QS_ST_I32, QS_ST_U32, 2, {n_in * shape->bits / WORD_BITS, n_out}, false};
    const qs_leaf zeros = {
        ".qzeros", QS_ST_I32, QS_ST_U32, 2, {shape->n_groups, n_out * shape->bits / WORD_BITS}, false};
    const qs_leaf groups = {".g_idx", QS_ST_I32, QS_ST_I32, 1, {n_in, 0}, true};
    qs_leaf scales = {".scales", QS_ST_F16, QS_ST_BF16, 2, {shape->n_groups, n_out}, false};
    qs_err err;
    hint_bits(bits, c, prefix, n_in, shape->bits);
    hint_group(group, c, prefix, n_in, shape->group_size == n_in ? -1 : shape->group_size);
    QS_TRY(qs_checkpoint_leaf(&out->codes, c, prefix, &codes, bits));
    err = qs_checkpoint_leaf(&out->scales, c, prefix, &scales, group);
    if (err != QS_OK) {
        scales.type = scales.also = QS_ST_F32;
        if (strstr(qs_error_text(), "type F32") == NULL) return err;
        QS_TRY(qs_checkpoint_leaf(&out->scales, c, prefix, &scales, group));
    }
    QS_TRY(qs_checkpoint_leaf(&out->zeros, c, prefix, &zeros, group));
    QS_TRY(qs_checkpoint_leaf(&out->groups, c, prefix, &groups, ""));
out:
    return err;
}

/* ---- groups ---- */

/* g_idx to the order of the stored columns: *perm stays NULL where groups are neighbours. Our layout cuts the
 * stored columns into equal groups, so each index has to occur as often as its group is long. */
static qs_err order_groups(const qs_checkpoint *c, const char *prefix, const qs_safetensor *t, const qs_packed *shape,
                           int32_t *perm, bool *permuted)
{
    int64_t *at = NULL, n_in = shape->n_in;
    qs_err err;
    *permuted = false;
    QS_TRY(QS_NEW(at, shape->n_groups, "places in groups"));
    for (int64_t j = 0; j < n_in; j++) {
        int32_t g;
        memcpy(&g, t->data + 4 * j, sizeof g);
        if (g < 0 || g >= shape->n_groups) {
            err = qs_fail(QS_E_INPUT,
                          "read checkpoint %s: tensor %s.g_idx holds %d at channel %lld, and there are groups 0 to "
                          "%lld",
                          qs_model_path(c->model), prefix, g, (long long)j, (long long)shape->n_groups - 1);
            goto out;
        }
        int64_t first = g * shape->group_size,
                size = n_in - first < shape->group_size ? n_in - first : shape->group_size;
        if (at[g] == size) {
            err = qs_fail(QS_E_UNSUPPORTED,
                          "read checkpoint %s: tensor %s.g_idx gives group %d more than its %lld channels",
                          qs_model_path(c->model), prefix, g, (long long)size);
            goto out;
        }
        perm[first + at[g]++] = (int32_t)j;
        *permuted = *permuted || g != j / shape->group_size;
    }
out:
    qs_mem_free(at);
    return err;
}

/* ---- zero points ---- */

/* Field o of row g, as stored; *raw is the field before the 1 of v1. */
static unsigned zero_at(const qs_safetensor *t, const qs_packed *shape, int64_t g, int64_t o, bool v1, unsigned *raw)
{
    int bits = shape->bits;
    unsigned mask = (1u << bits) - 1u;
    int64_t n_words = shape->n_out * bits / WORD_BITS, at = o * bits;
    const uint8_t *row = t->data + 4 * g * n_words;
    uint32_t words[2] = {0};
    memcpy(words, row + at / WORD_BITS * 4, at / WORD_BITS + 1 < n_words ? 8 : 4);
    uint64_t pair = (uint64_t)words[1] << 32 | words[0];
    *raw = (unsigned)(pair >> (at % WORD_BITS)) & mask;
    if (!v1) return *raw;
    if (bits == 3) return (*raw + 1) & mask;
    uint32_t ones = 0;
    for (int b = 0; b < WORD_BITS; b += bits) ones |= 1u << b;
    return (words[0] + ones) >> (at % WORD_BITS) & mask;
}

/* Of all matrices: how many of the zero points that should be the middle are that of v1 or of v2, and how many fields
 * of any matrix hold what 0 becomes in v1. */
typedef struct zero_count {
    int64_t n, v1, v2, wraps;
} zero_count;

static void count_zeros(zero_count *count, const qs_safetensor *t, const qs_packed *shape, bool sym)
{
    unsigned raw, middle = 1u << (shape->bits - 1), wraps = (1u << shape->bits) - 1u;
    for (int64_t g = 0; g < shape->n_groups; g++)
        for (int64_t o = 0; o < shape->n_out; o++) {
            (void)zero_at(t, shape, g, o, false, &raw);
            count->wraps += raw == wraps;
            if (!sym) continue;
            count->n++;
            count->v1 += raw == middle - 1;
            count->v2 += raw == middle;
        }
}

static qs_err count_all(zero_count *count, const qs_checkpoint *c)
{
    char prefix[QS_TENSOR_NAME_BYTES];
    qs_err err = QS_OK;
    for (int64_t layer = 0; layer < qs_model_get_config(c->model)->n_layers; layer++)
        for (qs_role role = 0; role < QS_N_LINEARS; role++) {
            qs_tensor_info info = qs_model_info(c->model, role, layer);
            qs_checkpoint_config own;
            qs_packed shape;
            leaves l;
            if (qs_model_stored_row(c->model, role, layer, 0) != NULL) continue;
            (void)qs_role_tensor_name(prefix, QS_NAMING_HF, role, layer);
            prefix[strlen(prefix) - strlen(".weight")] = '\0';
            QS_TRY(config_of(&own, c, prefix));
            QS_TRY(qs_packed_shape(&shape, (int)own.bits, info.n_out, info.n_in, own.group_size));
            QS_TRY(find_leaves(&l, c, prefix, &shape));
            count_zeros(count, l.zeros, &shape, own.sym);
        }
out:
    return err;
}

/* ---- one matrix ---- */

static void put_zeros(const qs_checkpoint *c, const qs_safetensor *t, qs_packed *p)
{
    unsigned raw;
    for (int64_t g = 0; p->zeros != NULL && g < p->n_groups; g++)
        for (int64_t o = 0; o < p->n_out; o++)
            p->zeros[o * p->n_groups + g] = (uint8_t)zero_at(t, p, g, o, c->config.v1, &raw);
}

/* Columns of words become rows of codes in stored order. */
static qs_err put_codes(const qs_safetensor *t, qs_packed *p)
{
    qs_packed row = *p;
    uint8_t *natural = NULL, *stored = NULL;
    uint32_t *words = NULL;
    int64_t n_words = p->n_in * p->bits / WORD_BITS;
    qs_err err;
    QS_TRY(QS_NEW(natural, p->n_in, "codes of a row"));
    QS_TRY(QS_NEW(stored, p->n_in, "codes of a row"));
    QS_TRY(QS_NEW(words, n_words, "words of a row"));
    row.codes = (uint8_t *)words;
    for (int64_t o = 0; o < p->n_out; o++) {
        for (int64_t w = 0; w < n_words; w++) memcpy(&words[w], t->data + 4 * (w * p->n_out + o), sizeof *words);
        qs_packed_get_row(&row, 0, natural);
        for (int64_t j = 0; j < p->n_in; j++) stored[j] = natural[p->perm != NULL ? p->perm[j] : j];
        qs_packed_set_row(p, o, stored);
    }
out:
    qs_mem_free(natural);
    qs_mem_free(stored);
    qs_mem_free(words);
    return err;
}

/* Numbers, whether it has zero points, and its tensors. */
static qs_err shape(const qs_checkpoint *c, const char *prefix, int64_t n_out, int64_t n_in, qs_packed *out,
                    bool *has_zeros, leaves *l)
{
    qs_checkpoint_config own;
    qs_err err = config_of(&own, c, prefix);
    if (err != QS_OK) return err;
    *has_zeros = !own.sym;
    if (n_in % WORD_BITS != 0 || n_out * own.bits % WORD_BITS != 0)
        return qs_fail(QS_E_UNSUPPORTED, "read checkpoint %s: %s is %lld x %lld, no multiple of 32",
                       qs_model_path(c->model), prefix, (long long)n_out, (long long)n_in);
    QS_TRY(qs_packed_shape(out, (int)own.bits, n_out, n_in, own.group_size));
    QS_TRY(find_leaves(l, c, prefix, out));
out:
    return err;
}

/* Of permutations the order of groups is read. */
static qs_err describe(qs_checkpoint *c, const char *prefix, int64_t n_out, int64_t n_in, qs_packed *out)
{
    leaves l;
    int32_t *perm = NULL;
    bool has_zeros, permuted = false;
    qs_err err;
    QS_TRY(shape(c, prefix, n_out, n_in, out, &has_zeros, &l));
    if (l.groups != NULL) {
        QS_TRY(QS_NEW(perm, n_in, "order of columns"));
        QS_TRY(order_groups(c, prefix, l.groups, out, perm, &permuted));
    }
    out->zeros = has_zeros ? &c->presence.bytes : NULL;
    out->perm = permuted ? &c->presence.perm : NULL;
out:
    qs_mem_free(perm);
    return err;
}

static qs_err load(qs_checkpoint *c, const char *prefix, int64_t n_out, int64_t n_in, qs_packed *out)
{
    leaves l;
    bool permuted = false, has_zeros;
    qs_err err;
    *out = (qs_packed){0};
    QS_TRY(shape(c, prefix, n_out, n_in, out, &has_zeros, &l));
    QS_TRY(qs_packed_alloc(out, has_zeros, l.groups != NULL));
    if (l.groups != NULL) QS_TRY(order_groups(c, prefix, l.groups, out, out->perm, &permuted));
    if (!permuted) {
        qs_mem_free(out->perm);
        out->perm = NULL;
    }
    QS_TRY(put_codes(l.codes, out));
    put_zeros(c, l.zeros, out);
    QS_TRY(qs_checkpoint_scales(c, prefix, out));
    err = qs_packed_check(out, prefix);
out:
    if (err != QS_OK) qs_packed_free(out);
    return err;
}

/* ---- which format it is ---- */

/* How the weights of some rows lie beside the model's: their mean distance in steps of the scale, and the share that
 * has the model's sign. */
typedef struct row_fit {
    double steps, signs;
} row_fit;

static qs_err fit_rows(row_fit *fit, const qs_checkpoint *c, qs_role role, const qs_packed *p)
{
    int64_t n_rows = p->n_out < FIT_ROWS ? p->n_out : FIT_ROWS, n_in = p->n_in;
    float *own = NULL, *read = NULL;
    qs_err err;
    *fit = (row_fit){0};
    QS_TRY(QS_NEW(own, n_rows * n_in, "rows of the model"));
    QS_TRY(QS_NEW(read, n_rows * n_in, "rows of the checkpoint"));
    QS_TRY(qs_model_read_rows_f32(c->parent, role, 0, 0, n_rows, own));
    qs_packed_dequant_rows(p, 0, n_rows, read);
    for (int64_t i = 0; i < n_rows * n_in; i++) {
        int64_t stored = i % n_in; /* of a permuted matrix any scale of the row will do */
        float scale = qs_f32_from_f16(p->scales[i / n_in * p->n_groups + stored / p->group_size]);
        fit->steps += (double)((own[i] - read[i]) / scale) / (double)(n_rows * n_in);
        fit->signs += (own[i] > 0) == (read[i] > 0) || read[i] == 0 ? 1.0 / (double)(n_rows * n_in) : 0;
    }
out:
    qs_mem_free(own);
    qs_mem_free(read);
    return err;
}

/* The first matrix with zero points; QS_N_LINEARS = the first layer has none. */
static qs_err first_asymmetric(qs_role *role, const qs_checkpoint *c, char prefix[QS_TENSOR_NAME_BYTES])
{
    qs_checkpoint_config own;
    for (*role = 0; *role < QS_N_LINEARS; (*role)++) {
        if (qs_model_stored_row(c->model, *role, 0, 0) != NULL) continue;
        (void)qs_role_tensor_name(prefix, QS_NAMING_HF, *role, 0);
        prefix[strlen(prefix) - strlen(".weight")] = '\0';
        qs_err err = config_of(&own, c, prefix);
        if (err != QS_OK || !own.sym) return err;
    }
    return QS_OK;
}

/* Asymmetric files say nothing themselves; but read as the wrong format all weights are one step away from the model's,
 * whose signs they have (unless they were rotated). */
static qs_err settle_by_model(qs_checkpoint *c)
{
    char prefix[QS_TENSOR_NAME_BYTES];
    qs_role role;
    row_fit fit[2]; /* as it says, and as the other format */
    bool said = c->config.v1;
    qs_err err;
    QS_TRY(first_asymmetric(&role, c, prefix));
    if (role == QS_N_LINEARS) goto out;
    for (int other = 0; other < 2; other++) {
        qs_packed packed;
        qs_tensor_info info = qs_model_info(c->model, role, 0);
        c->config.v1 = other ? !said : said;
        err = load(c, prefix, info.n_out, info.n_in, &packed);
        if (err == QS_OK) err = fit_rows(&fit[other], c, role, &packed);
        qs_packed_free(&packed);
        c->config.v1 = said;
        if (err != QS_OK) goto out;
    }
    if (!(fabs(fit[0].steps) > 0.5) || !(fabs(fit[1].steps) < 0.25) || fit[1].signs < SIGNS_FOUND / 100.0) goto out;
    c->config.v1 = !said;
    qs_log_warn("%s says format %s, but %s would lie %.2f steps off the model's weights; as %s they lie %.2f off: read "
                "as %s", qs_model_path(c->model), said ? "gptq" : "gptq_v2", prefix, fit[0].steps,
                said ? "gptq_v2" : "gptq", fit[1].steps, said ? "gptq_v2" : "gptq");
out:
    return err;
}

/* Symmetric files tell by themselves whether zero points are stored less one; some say the other thing. */
static qs_err settle(qs_checkpoint *c)
{
    zero_count count = {0};
    qs_err err;
    QS_TRY(count_all(&count, c));
    if (count.n == 0) QS_TRY(settle_by_model(c));
    bool all_v1 = count.v1 == count.n, all_v2 = count.v2 == count.n;
    if (count.n > 0 && all_v1 != all_v2 && all_v1 != c->config.v1) {
        qs_log_warn("%s says format %s, but all its zero points are those of %s: read as %s", qs_model_path(c->model),
                    c->config.v1 ? "gptq" : "gptq_v2", all_v1 ? "gptq" : "gptq_v2", all_v1 ? "gptq" : "gptq_v2");
        c->config.v1 = all_v1;
    }
    if (count.n > 0 && !all_v1 && !all_v2)
        return qs_fail(QS_E_INPUT,
                       "open checkpoint %s: it says \"sym\": true, but %lld of its %lld zero points are not the "
                       "middle; loaders that trust \"sym\" and loaders that read them get different models",
                       qs_model_path(c->model), (long long)(count.n - (c->config.v1 ? count.v1 : count.v2)),
                       (long long)count.n);
    if (c->config.v1 && count.wraps > 0)
        qs_log_warn("%s: %lld zero points of 0 in format v1, which has no code for them: loaders disagree; read as "
                    "GPTQModel does", qs_model_path(c->model), (long long)count.wraps);
out:
    return err;
}

static const char *const gptq_leaves[] = {".qweight", ".qzeros", ".scales", ".g_idx", NULL};

const qs_checkpoint_layout qs_checkpoint_gptq = {
    .method = "gptq",
    .foreign = {.mark = ".qweight", .leaves = gptq_leaves},
    .read_config = read_config,
    .load = load,
    .describe = describe,
    .settle = settle,
};
