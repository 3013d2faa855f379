#include "train/layout.h"

#include <stdio.h>
#include <string.h>

#include "base/mem.h"

static qs_err check_architecture(const qs_model_config *c)
{
    const struct {
        bool present;
        const char *what;
    } rows[] = {
        {strcmp(c->architecture, "llama") != 0, "an architecture other than llama"},
        {c->qkv_bias || c->o_bias, "biases"},
        {c->qk_norm, "norms of queries and keys"},
        {!c->tied_head, "a head of its own (\"tie_word_embeddings\" must be true)"},
        {c->sliding_window > 0, "a sliding window"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (rows[i].present)
            return qs_fail(QS_E_UNSUPPORTED, "plan training: %s cannot be trained", rows[i].what);
    return QS_OK;
}

static int64_t add_tensor(qs_train_layout *l, const char *name, int64_t n_out, int64_t n_in, bool is_output)
{
    qs_train_tensor *t = &l->tensors[l->n_tensors++];
    *t = (qs_train_tensor){
        .first = l->n, .n_out = n_out, .n_in = n_in, .is_matrix = n_out > 1, .is_output = is_output};
    (void)snprintf(t->name, sizeof t->name, "%s", name);
    l->n += n_out * n_in;
    return t->first;
}

static int64_t add_of_layer(qs_train_layout *l, int64_t layer, const char *leaf, int64_t n_out, int64_t n_in,
                            bool is_output)
{
    char name[QS_TRAIN_NAME_BYTES];
    (void)snprintf(name, sizeof name, "model.layers.%lld.%s.weight", (long long)layer, leaf);
    return add_tensor(l, name, n_out, n_in, is_output);
}

qs_err qs_train_layout_init(qs_train_layout *out, const qs_model_config *config)
{
    enum { N_TENSORS_PER_LAYER = 9 };
    qs_train_layout *l = out;
    *l = (qs_train_layout){.config = *config};
    const qs_model_config *c = &l->config;
    qs_err err = check_architecture(c);
    if (err != QS_OK) return err;
    QS_TRY(QS_NEW(l->tensors, c->n_layers * N_TENSORS_PER_LAYER + 2, "tensors of the model"));
    QS_TRY(QS_NEW(l->layers, c->n_layers, "layers of the model"));
    l->d_q = c->n_heads * c->head_dim;
    l->d_kv = c->n_kv_heads * c->head_dim;
    l->d_qkv = l->d_q + 2 * l->d_kv;
    l->embed = add_tensor(l, "model.embed_tokens.weight", c->n_vocab, c->d_model, false);
    l->tensors[0].is_table = true;
    for (int64_t i = 0; i < c->n_layers; i++) {
        qs_train_layer *layer = &l->layers[i];
        layer->attn_norm = add_of_layer(l, i, "input_layernorm", 1, c->d_model, false);
        layer->qkv = add_of_layer(l, i, "self_attn.q_proj", l->d_q, c->d_model, false);
        (void)add_of_layer(l, i, "self_attn.k_proj", l->d_kv, c->d_model, false);
        (void)add_of_layer(l, i, "self_attn.v_proj", l->d_kv, c->d_model, false);
        layer->o = add_of_layer(l, i, "self_attn.o_proj", c->d_model, l->d_q, true);
        layer->mlp_norm = add_of_layer(l, i, "post_attention_layernorm", 1, c->d_model, false);
        layer->gate_up = add_of_layer(l, i, "mlp.gate_proj", c->d_ff, c->d_model, false);
        (void)add_of_layer(l, i, "mlp.up_proj", c->d_ff, c->d_model, false);
        layer->down = add_of_layer(l, i, "mlp.down_proj", c->d_model, c->d_ff, true);
    }
    l->final_norm = add_tensor(l, "model.norm.weight", 1, c->d_model, false);
out:
    if (err != QS_OK) qs_train_layout_fini(l);
    return err;
}

void qs_train_layout_fini(qs_train_layout *layout)
{
    qs_mem_free(layout->tensors);
    qs_mem_free(layout->layers);
    layout->tensors = NULL;
    layout->layers = NULL;
}

const qs_train_tensor *qs_train_layout_find(const qs_train_layout *layout, int64_t index)
{
    int64_t i = layout->n_tensors - 1;
    while (i > 0 && layout->tensors[i].first > index) i--;
    return &layout->tensors[i];
}
