/* ExLlamaV2's EXL2 checkpoints (the layout is written out in export/exl2_export.c). Widths and
 * groups are each matrix's own, so everything follows from its tensors: q_groups says where groups begin, in words
 * of q_weight, and how many columns these hold follows from their width. */
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "model/checkpoint_impl.h"

enum { PAD = 32, PER_WORD = 8, GROUPS_MAX = QS_EXL2_GROUPS_MAX, NAME_BYTES = QS_TENSOR_NAME_BYTES + 64 };

static qs_err read_config(qs_checkpoint_config *out, const json_t *object, const char *name)
{
    (void)object;
    (void)name; /* its "bits" are a mean that says nothing about any tensor */
    *out = (qs_checkpoint_config){.sym = true, .act = true, .variant = "mixed"};
    return QS_OK;
}

static qs_err find(const qs_safetensor **out, const qs_checkpoint *c, const char *prefix, const char *leaf)
{
    char name[NAME_BYTES];
    (void)snprintf(name, sizeof name, "%s%s", prefix, leaf);
    const qs_shard_entry *entry = qs_shards_find(&c->model->shards, name);
    if (entry == NULL)
        return qs_fail(QS_E_INPUT, "read checkpoint %s: tensor %s is missing", qs_model_path(c->model), name);
    *out = entry->tensor;
    return qs_mapped_check(&entry->shard->file);
}

static int16_t int16_at(const qs_safetensor *t, int64_t i)
{
    int16_t value;
    memcpy(&value, t->data + 2 * i, sizeof value);
    return value;
}

static uint32_t word_at(const qs_safetensor *t, int64_t i)
{
    uint32_t value;
    memcpy(&value, t->data + 4 * i, sizeof value);
    return value;
}

/* groups[GROUPS_MAX] from q_groups [2 n] and the number of word rows; the columns of all must be n_in. */
static qs_err read_groups(const qs_safetensor *t, int64_t n_words, int64_t n_in, qs_packed_group *groups, int64_t *n)
{
    int64_t column = 0;
    if (t->type != QS_ST_I16 || t->n_dims != 1 || t->shape[0] < 2 || t->shape[0] % 2 != 0 ||
        t->shape[0] > 2 * GROUPS_MAX)
        return qs_fail(QS_E_INPUT, "tensor %s is not I16 with two numbers for each of 1 to %d groups",
                       t->name, GROUPS_MAX);
    *n = t->shape[0] / 2;
    for (int64_t g = 0; g < *n; g++) {
        int64_t bits = int16_at(t, 2 * g), first = int16_at(t, 2 * g + 1);
        int64_t end = g + 1 < *n ? int16_at(t, 2 * g + 3) : n_words;
        if (bits < 2 || bits > QS_EXL2_BITS_MAX || bits == 7)
            return qs_fail(QS_E_INPUT, "tensor %s: group %lld has %lld bits, not 2, 3, 4, 5, 6 or 8", t->name,
                           (long long)g, (long long)bits);
        if (first < 0 || (g == 0 && first != 0) || end <= first || end > n_words)
            return qs_fail(QS_E_INPUT, "tensor %s: group %lld takes word rows %lld to %lld of %lld", t->name,
                           (long long)g, (long long)first, (long long)end, (long long)n_words);
        if ((end - first) * 32 % bits != 0 || column >= n_in)
            return qs_fail(QS_E_INPUT, "tensor %s: %lld word rows of group %lld hold no whole number of %lld-bit codes "
                           "within rows of %lld (do its bits lie?)", t->name, (long long)(end - first), (long long)g,
                           (long long)bits, (long long)n_in);
        groups[g] = (qs_packed_group){.first = (int32_t)column, .bits = (int32_t)bits};
        column += (end - first) * 32 / bits;
    }
    if (column != n_in)
        return qs_fail(QS_E_INPUT, "tensor %s: its groups hold %lld columns, the matrix has %lld (do its bits lie?)",
                       t->name, (long long)column, (long long)n_in);
    return QS_OK;
}

/* Place of channel i is the stored column; the inverse is what packed.h wants. */
static qs_err read_perm(const qs_safetensor *t, qs_packed *p)
{
    for (int64_t j = 0; j < p->n_in; j++) p->perm[j] = -1;
    for (int64_t i = 0; i < p->n_in; i++) {
        uint32_t place = word_at(t, i);
        if (place >= (uint64_t)p->n_in || p->perm[place] >= 0)
            return qs_fail(QS_E_INPUT, "tensor %s: channel %lld has place %d, %s", t->name, (long long)i, (int)place,
                           place >= (uint64_t)p->n_in ? "outside the row" : "which another one has");
        p->perm[place] = (int32_t)i;
    }
    return QS_OK;
}

static void read_codes(const qs_safetensor *words, const qs_safetensor *scales, qs_packed *p)
{
    int64_t n_out = words->shape[1];
    for (int64_t o = 0; o < p->n_out; o++) {
        for (int64_t r = 0; r < words->shape[0]; r++)
            memcpy(p->codes + o * p->row_bytes + 4 * r, words->data + 4 * (r * n_out + o), 4);
        for (int64_t g = 0; g < p->n_groups; g++)
            p->scale_codes[o * p->n_groups + g] =
                word_at(scales, g * (n_out / PER_WORD) + o / PER_WORD) >> (o % PER_WORD * 4) & 15u;
    }
}

/* Words, and table[GROUPS_MAX] of the groups: no code is looked at. */
static qs_err shape(const qs_checkpoint *c, const char *prefix, int64_t n_out, int64_t n_in, qs_packed_group *table,
                    const qs_safetensor **found, qs_packed *out)
{
    const qs_safetensor *words, *groups;
    int64_t n_groups = 0, padded = (n_out + PAD - 1) / PAD * PAD;
    qs_err err;
    QS_TRY(find(&words, c, prefix, ".q_weight"));
    int64_t n_words = words->n_dims == 2 ? words->shape[0] : 0;
    const qs_leaf words_leaf = {".q_weight", QS_ST_I32, QS_ST_I32, 2, {n_words, padded}, false};
    QS_TRY(qs_checkpoint_leaf(&words, c, prefix, &words_leaf, " (rows are free, columns are outputs in whole 32)"));
    QS_TRY(find(&groups, c, prefix, ".q_groups"));
    QS_TRY(qs_context(read_groups(groups, n_words, n_in, table, &n_groups), "read checkpoint %s",
                      qs_model_path(c->model)));
    QS_TRY(qs_context(qs_packed_shape_exl2(out, n_out, n_in, table, n_groups), "read checkpoint %s: tensor %s",
                      qs_model_path(c->model), groups->name));
    *found = words;
out:
    return err;
}

static qs_err describe(qs_checkpoint *c, const char *prefix, int64_t n_out, int64_t n_in, qs_packed *out)
{
    const qs_safetensor *words;
    qs_err err = shape(c, prefix, n_out, n_in, c->presence.groups, &words, out);
    out->groups = c->presence.groups;
    out->perm = &c->presence.perm;
    return err;
}

static qs_err load(qs_checkpoint *c, const char *prefix, int64_t n_out, int64_t n_in, qs_packed *out)
{
    const qs_safetensor *words, *scales, *largest, *places;
    qs_packed_group table[GROUPS_MAX];
    int64_t padded = (n_out + PAD - 1) / PAD * PAD;
    qs_err err;
    *out = (qs_packed){0};
    QS_TRY(shape(c, prefix, n_out, n_in, table, &words, out));
    const int64_t n_groups = out->n_groups;
    const qs_leaf scales_leaf = {".q_scale", QS_ST_I32, QS_ST_I32, 2, {n_groups, padded / PER_WORD}, false};
    const qs_leaf largest_leaf = {".q_scale_max", QS_ST_F16, QS_ST_F16, 1, {n_groups, 0}, false};
    const qs_leaf places_leaf = {".q_invperm", QS_ST_I32, QS_ST_I32, 1, {n_in, 0}, false};
    QS_TRY(qs_checkpoint_leaf(&scales, c, prefix, &scales_leaf, " and q_groups"));
    QS_TRY(qs_checkpoint_leaf(&largest, c, prefix, &largest_leaf, " and q_groups"));
    QS_TRY(qs_checkpoint_leaf(&places, c, prefix, &places_leaf, ""));
    QS_TRY(qs_packed_alloc_exl2(out, table));
    QS_TRY(qs_context(read_perm(places, out), "read checkpoint %s", qs_model_path(c->model)));
    read_codes(words, scales, out);
    memcpy(out->scale_max, largest->data, (size_t)n_groups * sizeof *out->scale_max);
    err = qs_packed_check(out, prefix);
out:
    if (err != QS_OK) qs_packed_free(out);
    return err;
}

static const char *const exl2_leaves[] = {".q_weight", ".q_scale", ".q_scale_max", ".q_groups", ".q_invperm", NULL};

const qs_checkpoint_layout qs_checkpoint_exl2 = {
    .method = "exl2",
    .foreign = {.mark = ".q_weight", .leaves = exl2_leaves, .head = true},
    .read_config = read_config,
    .load = load,
    .describe = describe,
};
