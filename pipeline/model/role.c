/* Roles of tensors (weights.h): their names in either naming, their shapes, and finding all that a model needs. */
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "model/dequant.h"
#include "model/weights_impl.h"

typedef enum dim { DIM_ONE, DIM_MODEL, DIM_FF, DIM_HEADS, DIM_KV_HEADS, DIM_HEAD, DIM_VOCAB } dim;
typedef enum need { NEED_ALWAYS, NEED_QKV_BIAS, NEED_O_BIAS, NEED_QK_NORM, NEED_OWN_HEAD } need;
typedef enum rotated { ROTATED_NOT, ROTATED_Q, ROTATED_K } rotated;

/* Names of block roles are below "model.layers.N." or "blk.N.". */
static const struct {
    const char *name, *hf, *gguf;
    dim n_out, n_in;
    need need;
    rotated rotated; /* rows follow the pairs of the rotary embedding */
} roles[QS_N_ROLES] = {
    [QS_ROLE_Q] = {"q_proj", "self_attn.q_proj.weight", "attn_q.weight", DIM_HEADS, DIM_MODEL,
                   .rotated = ROTATED_Q},
    [QS_ROLE_K] = {"k_proj", "self_attn.k_proj.weight", "attn_k.weight", DIM_KV_HEADS, DIM_MODEL,
                   .rotated = ROTATED_K},
    [QS_ROLE_V] = {"v_proj", "self_attn.v_proj.weight", "attn_v.weight", DIM_KV_HEADS, DIM_MODEL},
    [QS_ROLE_O] = {"o_proj", "self_attn.o_proj.weight", "attn_output.weight", DIM_MODEL, DIM_HEADS},
    [QS_ROLE_GATE] = {"gate_proj", "mlp.gate_proj.weight", "ffn_gate.weight", DIM_FF, DIM_MODEL},
    [QS_ROLE_UP] = {"up_proj", "mlp.up_proj.weight", "ffn_up.weight", DIM_FF, DIM_MODEL},
    [QS_ROLE_DOWN] = {"down_proj", "mlp.down_proj.weight", "ffn_down.weight", DIM_MODEL, DIM_FF},
    [QS_ROLE_Q_BIAS] = {"q_proj.bias", "self_attn.q_proj.bias", "attn_q.bias", DIM_ONE, DIM_HEADS,
                        NEED_QKV_BIAS, ROTATED_Q},
    [QS_ROLE_K_BIAS] = {"k_proj.bias", "self_attn.k_proj.bias", "attn_k.bias", DIM_ONE, DIM_KV_HEADS,
                        NEED_QKV_BIAS, ROTATED_K},
    [QS_ROLE_V_BIAS] = {"v_proj.bias", "self_attn.v_proj.bias", "attn_v.bias", DIM_ONE, DIM_KV_HEADS,
                        NEED_QKV_BIAS},
    [QS_ROLE_O_BIAS] = {"o_proj.bias", "self_attn.o_proj.bias", "attn_output.bias", DIM_ONE, DIM_MODEL,
                        NEED_O_BIAS},
    [QS_ROLE_Q_NORM] = {"q_norm", "self_attn.q_norm.weight", "attn_q_norm.weight", DIM_ONE, DIM_HEAD,
                        NEED_QK_NORM},
    [QS_ROLE_K_NORM] = {"k_norm", "self_attn.k_norm.weight", "attn_k_norm.weight", DIM_ONE, DIM_HEAD,
                        NEED_QK_NORM},
    [QS_ROLE_ATTN_NORM] = {"input_layernorm", "input_layernorm.weight", "attn_norm.weight", DIM_ONE,
                           DIM_MODEL},
    [QS_ROLE_MLP_NORM] = {"post_attention_layernorm", "post_attention_layernorm.weight", "ffn_norm.weight",
                          DIM_ONE, DIM_MODEL},
    [QS_ROLE_EMBED] = {"embed_tokens", "model.embed_tokens.weight", "token_embd.weight", DIM_VOCAB,
                       DIM_MODEL},
    [QS_ROLE_HEAD] = {"lm_head", "lm_head.weight", "output.weight", DIM_VOCAB, DIM_MODEL, NEED_OWN_HEAD},
    [QS_ROLE_FINAL_NORM] = {"norm", "model.norm.weight", "output_norm.weight", DIM_ONE, DIM_MODEL},
};

const char *qs_role_name(qs_role role) { return roles[role].name; }

static int64_t extent(const qs_model_config *c, dim d)
{
    const int64_t extents[] = {
        [DIM_ONE] = 1,
        [DIM_MODEL] = c->d_model,
        [DIM_FF] = c->d_ff,
        [DIM_HEADS] = c->n_heads * c->head_dim,
        [DIM_KV_HEADS] = c->n_kv_heads * c->head_dim,
        [DIM_HEAD] = c->head_dim,
        [DIM_VOCAB] = c->n_vocab,
    };
    return extents[d];
}

static bool needed(const qs_model_config *c, need what)
{
    const bool answers[] = {
        [NEED_ALWAYS] = true,        [NEED_QKV_BIAS] = c->qkv_bias,   [NEED_O_BIAS] = c->o_bias,
        [NEED_QK_NORM] = c->qk_norm, [NEED_OWN_HEAD] = !c->tied_head,
    };
    return answers[what];
}

/* llama.cpp's graph of the architecture "llama" rotates adjacent rows, so its converter reorders Q and K. */
int64_t qs_role_rotated_heads(const qs_model_config *c, qs_naming naming, qs_role role)
{
    if (naming != QS_NAMING_GGUF || strcmp(c->architecture, "llama") != 0) return 0;
    if (roles[role].rotated == ROTATED_Q) return c->n_heads;
    return roles[role].rotated == ROTATED_K ? c->n_kv_heads : 0;
}

const char *qs_role_tensor_name(char name[QS_TENSOR_NAME_BYTES], qs_naming naming, qs_role role, int64_t layer)
{
    const char *leaf = naming == QS_NAMING_HF ? roles[role].hf : roles[role].gguf;
    const char *block = naming == QS_NAMING_HF ? "model.layers" : "blk";
    if (role < QS_N_BLOCK_ROLES)
        (void)snprintf(name, QS_TENSOR_NAME_BYTES, "%s.%lld.%s", block, (long long)layer, leaf);
    else
        (void)snprintf(name, QS_TENSOR_NAME_BYTES, "%s", leaf);
    return name;
}

enum { SHAPE_BYTES = 64 };

static const char *format_shape(char text[SHAPE_BYTES], int n_dims, const int64_t shape[2])
{
    long long rows = (long long)shape[0], cols = (long long)shape[1];
    if (n_dims == 0)
        (void)snprintf(text, SHAPE_BYTES, "[]");
    else if (n_dims == 1)
        (void)snprintf(text, SHAPE_BYTES, "[%lld]", rows);
    else
        (void)snprintf(text, SHAPE_BYTES, "[%lld, %lld%s]", rows, cols, n_dims > 2 ? ", ..." : "");
    return text;
}

static qs_err check_shape(const qs_model *model, qs_role role, const qs_found *found)
{
    const bool vector = roles[role].n_out == DIM_ONE;
    const int64_t n_out = extent(&model->config, roles[role].n_out);
    const int64_t n_in = extent(&model->config, roles[role].n_in);
    const int64_t wanted[2] = {vector ? n_in : n_out, n_in};
    char expected[SHAPE_BYTES], shape[SHAPE_BYTES];
    bool same = vector ? found->n_dims == 1 && found->shape[0] == n_in
                       : found->n_dims == 2 && found->shape[0] == n_out && found->shape[1] == n_in;
    if (!same)
        return qs_fail(QS_E_INPUT, "open %s: tensor %s has shape %s, the configuration says %s",
                       found->file->path, found->name, format_shape(shape, found->n_dims, found->shape),
                       format_shape(expected, vector ? 1 : 2, wanted));
    /* Rows of vectors are single elements where they have to be reordered. */
    if (vector && qs_storage_get(found->storage)->block_elems != 1)
        return qs_fail(QS_E_UNSUPPORTED,
                       "open %s: vector %s is stored as %s; only f32, f16 and bf16 are supported",
                       found->file->path, found->name, qs_storage_name(found->storage));
    return QS_OK;
}

static qs_err bind_role(qs_model *model, qs_naming naming, qs_find_tensor find, void *context, qs_role role,
                        int64_t layer)
{
    const qs_model_config *c = &model->config;
    if (!needed(c, roles[role].need)) return QS_OK;
    char name[QS_TENSOR_NAME_BYTES];
    (void)qs_role_tensor_name(name, naming, role, layer);
    qs_found found = {0};
    qs_err err;
    QS_TRY(find(context, name, &found));
    if (found.name == NULL)
        return qs_fail(QS_E_INPUT, "open %s: tensor %s is missing%s", model->path, name,
                       role == QS_ROLE_HEAD ? ", and the configuration does not tie the head to the embedding"
                                            : "");
    bool head = role == QS_ROLE_HEAD && model->foreign != NULL && model->foreign->head;
    if (found.data == NULL && role >= QS_N_LINEARS && !head)
        return qs_fail(QS_E_UNSUPPORTED, "open %s: %s is quantised, which only the linears of the blocks may be%s",
                       model->path, name, role == QS_ROLE_HEAD ? " in this layout" : "");
    if (found.data != NULL) QS_TRY(check_shape(model, role, &found));
    int64_t first = role < QS_N_BLOCK_ROLES ? layer * QS_N_BLOCK_ROLES : (c->n_layers - 1) * QS_N_BLOCK_ROLES;
    model->slots[first + role] = (qs_slot){
        .info = {.name = found.name,
                 .storage = found.storage,
                 .n_out = extent(c, roles[role].n_out),
                 .n_in = extent(c, roles[role].n_in),
                 .bytes = found.bytes},
        .data = found.data,
        .file = found.file,
        .n_rotated_heads = qs_role_rotated_heads(c, naming, role),
    };
out:
    return err;
}

qs_err qs_model_bind(qs_model *model, qs_naming naming, qs_find_tensor find, void *context)
{
    const int64_t n_layers = model->config.n_layers;
    qs_err err;
    QS_TRY(QS_NEW(model->slots, n_layers * QS_N_BLOCK_ROLES + QS_N_ROLES - QS_N_BLOCK_ROLES, "tensor slots"));
    for (int64_t layer = 0; layer < n_layers; layer++)
        for (int role = 0; role < QS_N_BLOCK_ROLES; role++)
            QS_TRY(bind_role(model, naming, find, context, (qs_role)role, layer));
    for (int role = QS_N_BLOCK_ROLES; role < QS_N_ROLES; role++)
        QS_TRY(bind_role(model, naming, find, context, (qs_role)role, 0));
out:
    return err;
}
