/* The architecture of a model (config.h) from GGUF metadata. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "model/gguf.h"

/* The architecture names of GGUF; Mistral and SmolLM2 are "llama" there. */
static const struct {
    const char *architecture;
    bool qkv_bias, qk_norm;
    bool window; /* attention.sliding_window is honoured (Mistral 7B v0.1) */
} families[] = {
    {.architecture = "llama", .window = true},
    {.architecture = "qwen2", .qkv_bias = true},
    {.architecture = "qwen3", .qk_norm = true},
};
enum { N_FAMILIES = sizeof families / sizeof families[0] };

typedef struct reader {
    const qs_gguf *gguf;
    const char *name, *architecture;
    char key[128];
} reader;

static const char *key_of(reader *r, const char *leaf)
{
    (void)snprintf(r->key, sizeof r->key, "%s.%s", r->architecture, leaf);
    return r->key;
}

static qs_err opt_int(reader *r, const char *leaf, int64_t low, int64_t high, int64_t *out)
{
    return qs_gguf_opt_int(out, r->gguf, key_of(r, leaf), low, high, r->name);
}

static qs_err opt_real(reader *r, const char *leaf, double *out)
{
    return qs_gguf_opt_real(out, r->gguf, key_of(r, leaf), r->name);
}

static qs_err get_int(reader *r, const char *leaf, int64_t low, int64_t high, int64_t *out)
{
    if (qs_gguf_find(r->gguf, key_of(r, leaf)) == NULL)
        return qs_fail(QS_E_INPUT, "read %s: the key \"%s\" is missing", r->name, r->key);
    return opt_int(r, leaf, low, high, out);
}

static qs_err find_family(size_t *out, qs_model_config *c, const qs_gguf *gguf, const char *name)
{
    c->architecture[0] = '\0';
    qs_err err = qs_gguf_opt_text(c->architecture, sizeof c->architecture, gguf, "general.architecture",
                                  name);
    if (err != QS_OK) return err;
    if (c->architecture[0] == '\0')
        return qs_fail(QS_E_INPUT, "read %s: the key \"general.architecture\" is missing", name);
    for (*out = 0; *out < N_FAMILIES; ++*out)
        if (strcmp(c->architecture, families[*out].architecture) == 0) return QS_OK;
    return qs_fail(QS_E_UNSUPPORTED, "read %s: architecture %s is not supported, only llama, qwen2 and qwen3",
                   name, c->architecture);
}

static qs_err read_head_dim(qs_model_config *c, reader *r)
{
    int64_t value_length = 0, rotated = 0;
    qs_err err;
    QS_TRY(opt_int(r, "attention.key_length", 1, 4096, &c->head_dim));
    if (c->head_dim == 0) {
        if (c->d_model % c->n_heads != 0)
            return qs_fail(QS_E_INPUT, "read %s: embedding_length %lld is no multiple of head_count %lld",
                           r->name, (long long)c->d_model, (long long)c->n_heads);
        c->head_dim = c->d_model / c->n_heads;
    }
    value_length = rotated = c->head_dim;
    QS_TRY(opt_int(r, "attention.value_length", 1, 4096, &value_length));
    QS_TRY(opt_int(r, "rope.dimension_count", 1, 4096, &rotated));
    if (value_length != c->head_dim || rotated != c->head_dim)
        return qs_fail(QS_E_UNSUPPORTED,
                       "read %s: key width %lld, value width %lld and rotated width %lld differ,"
                       " which is not supported",
                       r->name, (long long)c->head_dim, (long long)value_length, (long long)rotated);
out:
    return err;
}

static qs_err read_dimensions(qs_model_config *c, reader *r)
{
    const int64_t most = (int64_t)1 << 22;
    int64_t n_experts = 0;
    qs_err err;
    QS_TRY(get_int(r, "block_count", 1, 1024, &c->n_layers));
    QS_TRY(get_int(r, "embedding_length", 1, most, &c->d_model));
    QS_TRY(get_int(r, "feed_forward_length", 1, most, &c->d_ff));
    QS_TRY(get_int(r, "attention.head_count", 1, 4096, &c->n_heads));
    QS_TRY(get_int(r, "context_length", 1, INT32_MAX, &c->n_ctx_max));
    c->n_kv_heads = c->n_heads;
    QS_TRY(opt_int(r, "attention.head_count_kv", 1, 4096, &c->n_kv_heads));
    QS_TRY(opt_int(r, "expert_count", 0, INT32_MAX, &n_experts));
    if (n_experts > 0)
        return qs_fail(QS_E_UNSUPPORTED, "read %s: a mixture of %lld experts is not supported", r->name,
                       (long long)n_experts);
    QS_TRY(read_head_dim(c, r));
    if (qs_gguf_find(r->gguf, key_of(r, "attention.layer_norm_rms_epsilon")) == NULL)
        return qs_fail(QS_E_INPUT, "read %s: the key \"%s\" is missing", r->name, r->key);
    QS_TRY(opt_real(r, "attention.layer_norm_rms_epsilon", &c->norm_eps));
    /* The table of embeddings is the truth; vocab_size is optional and must agree. */
    const qs_gguf_tensor *embed = qs_gguf_find_tensor(r->gguf, "token_embd.weight");
    if (embed == NULL || embed->n_dims != 2)
        return qs_fail(QS_E_INPUT, "read %s: the matrix token_embd.weight is missing", r->name);
    c->n_vocab = embed->ne[1];
    QS_TRY(opt_int(r, "vocab_size", 1, most, &c->n_vocab));
out:
    return err;
}

static qs_err read_rope(qs_model_config *c, reader *r)
{
    char type[32] = "none";
    qs_err err;
    c->rope_theta = 10000;
    c->rope_factor = 1;
    QS_TRY(opt_real(r, "rope.freq_base", &c->rope_theta));
    QS_TRY(qs_gguf_opt_text(type, sizeof type, r->gguf, key_of(r, "rope.scaling.type"), r->name));
    if (strcmp(type, "linear") == 0) {
        c->rope_kind = QS_ROPE_LINEAR;
        QS_TRY(opt_real(r, "rope.scaling.factor", &c->rope_factor));
    } else if (strcmp(type, "none") != 0) {
        return qs_fail(QS_E_UNSUPPORTED, "read %s: rope scaling \"%s\" is not supported, only linear",
                       r->name, type);
    }
    const qs_gguf_tensor *divisors = qs_gguf_find_tensor(r->gguf, "rope_freqs.weight");
    if (divisors == NULL) return QS_OK;
    if (divisors->storage != QS_STORE_F32 || divisors->n_dims != 1 || divisors->ne[0] != c->head_dim / 2)
        return qs_fail(QS_E_INPUT, "read %s: tensor rope_freqs.weight must hold %lld F32 numbers", r->name,
                       (long long)c->head_dim / 2);
    if (c->rope_kind != QS_ROPE_DEFAULT)
        return qs_fail(QS_E_UNSUPPORTED, "read %s: rope_freqs.weight together with linear scaling", r->name);
    for (int64_t i = 0; i < divisors->ne[0]; i++) {
        float divisor;
        memcpy(&divisor, divisors->data + (size_t)i * sizeof divisor, sizeof divisor);
        if (!(isfinite(divisor) && divisor > 0))
            return qs_fail(QS_E_NUMERIC, "read %s: tensor rope_freqs.weight: %g at index %lld", r->name,
                           (double)divisor, (long long)i);
    }
    c->rope_kind = QS_ROPE_DIVISORS;
out:
    return err;
}

qs_err qs_model_config_from_gguf(qs_model_config *out, const qs_gguf *gguf, const char *name)
{
    *out = (qs_model_config){0};
    size_t family = 0;
    qs_err err;
    QS_TRY(find_family(&family, out, gguf, name));
    reader r = {.gguf = gguf, .name = name, .architecture = out->architecture};
    QS_TRY(read_dimensions(out, &r));
    QS_TRY(read_rope(out, &r));
    /* Biases of the llama family (attention_bias) have no key: their tensors tell. */
    out->qkv_bias = families[family].qkv_bias || qs_gguf_find_tensor(gguf, "blk.0.attn_q.bias") != NULL;
    out->o_bias = qs_gguf_find_tensor(gguf, "blk.0.attn_output.bias") != NULL;
    out->qk_norm = families[family].qk_norm;
    out->tied_head = qs_gguf_find_tensor(gguf, "output.weight") == NULL;
    if (families[family].window)
        QS_TRY(opt_int(&r, "attention.sliding_window", 0, INT32_MAX, &out->sliding_window));
    QS_TRY(qs_model_config_check(out, name));
out:
    return err;
}
