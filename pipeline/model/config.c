#include "model/config.h"

#include <math.h>
#include <string.h>

/* What sliding_window means differs: Mistral applies it whenever it is set, Qwen only behind a switch, and
 * Llama configurations may carry the key without using it. */
typedef enum window_rule { WINDOW_IGNORED, WINDOW_ALWAYS, WINDOW_SWITCHED } window_rule;

typedef struct family {
    const char *class_name, *architecture;
    bool head_counts_optional;  /* num_key_value_heads may be missing (first Llama) */
    bool head_dim_required;     /* the family's default is not d_model / n_heads */
    bool qkv_bias, bias_option; /* always there; or for q, k, v and o when "attention_bias" says so */
    bool qk_norm;
    window_rule window;
    int64_t window_default; /* transformers' where the key is missing, which null is not */
} family;

static const family families[] = {
    {.class_name = "LlamaForCausalLM",
     .architecture = "llama",
     .head_counts_optional = true,
     .bias_option = true},
    {.class_name = "MistralForCausalLM", .architecture = "mistral", .window = WINDOW_ALWAYS, .window_default = 4096},
    {.class_name = "Qwen2ForCausalLM",
     .architecture = "qwen2",
     .qkv_bias = true,
     .window = WINDOW_SWITCHED,
     .window_default = 4096},
    {.class_name = "Qwen3ForCausalLM",
     .architecture = "qwen3",
     .head_dim_required = true,
     .bias_option = true,
     .qk_norm = true,
     .window = WINDOW_SWITCHED,
     .window_default = 4096},
    {.class_name = NULL},
};

/* Far beyond any model, and small enough that no product of dimensions overflows. */
static const int64_t count_max = (int64_t)1 << 22;

static qs_err find_family(const family **out, const json_t *root, const char *name)
{
    const char *type = NULL, *class_name = NULL;
    qs_err err = qs_json_opt_string(&type, root, "model_type", name);
    if (err != QS_OK) return err;
    const json_t *classes = json_object_get(root, "architectures");
    if (json_is_array(classes) && json_array_size(classes) > 0)
        class_name = json_string_value(json_array_get(classes, 0));
    if (type == NULL && class_name == NULL)
        return qs_fail(QS_E_INPUT, "read %s: neither \"architectures\" nor \"model_type\" is there", name);
    for (const family *f = families; f->class_name != NULL; f++) {
        bool same = class_name != NULL ? strcmp(class_name, f->class_name) == 0
                                       : strcmp(type, f->architecture) == 0;
        if (!same) continue;
        if (type != NULL && strcmp(type, f->architecture) != 0)
            return qs_fail(QS_E_INPUT, "read %s: \"model_type\" is %.64s but \"architectures\" says %s", name,
                           type, f->class_name);
        *out = f;
        return QS_OK;
    }
    return qs_fail(QS_E_UNSUPPORTED,
                   "read %s: architecture %.64s is not supported; use Llama, Mistral, Qwen2 or Qwen3 models",
                   name, class_name != NULL ? class_name : type);
}

static qs_err read_dimensions(qs_model_config *c, const family *f, const json_t *root, const char *name)
{
    qs_err err;
    QS_TRY(qs_json_get_int(&c->n_layers, root, "num_hidden_layers", 1, 1024, name));
    QS_TRY(qs_json_get_int(&c->n_vocab, root, "vocab_size", 1, count_max, name));
    QS_TRY(qs_json_get_int(&c->d_model, root, "hidden_size", 1, count_max, name));
    QS_TRY(qs_json_get_int(&c->d_ff, root, "intermediate_size", 1, count_max, name));
    QS_TRY(qs_json_get_int(&c->n_heads, root, "num_attention_heads", 1, 4096, name));
    QS_TRY(qs_json_get_int(&c->n_ctx_max, root, "max_position_embeddings", 1, INT32_MAX, name));
    c->n_kv_heads = c->n_heads;
    if (f->head_counts_optional)
        QS_TRY(qs_json_opt_int(&c->n_kv_heads, root, "num_key_value_heads", 1, 4096, name));
    else
        QS_TRY(qs_json_get_int(&c->n_kv_heads, root, "num_key_value_heads", 1, 4096, name));
    c->norm_eps = 1e-6;
    QS_TRY(qs_json_opt_real(&c->norm_eps, root, "rms_norm_eps", name));
    QS_TRY(qs_json_opt_bool(&c->tied_head, root, "tie_word_embeddings", name));
    if (f->head_dim_required) {
        QS_TRY(qs_json_get_int(&c->head_dim, root, "head_dim", 1, 4096, name));
    } else {
        QS_TRY(qs_json_opt_int(&c->head_dim, root, "head_dim", 1, 4096, name));
        if (c->head_dim == 0) {
            if (c->d_model % c->n_heads != 0)
                return qs_fail(QS_E_INPUT,
                               "read %s: hidden_size %lld is no multiple of num_attention_heads %lld", name,
                               (long long)c->d_model, (long long)c->n_heads);
            c->head_dim = c->d_model / c->n_heads;
        }
    }
out:
    return err;
}

/* Switches that would change the arithmetic in a way that the forward pass does not know. */
static qs_err read_switches(qs_model_config *c, const family *f, const json_t *root, const char *name)
{
    const char *activation = "silu";
    bool bias = false, mlp_bias = false;
    double rotated_part = 1;
    qs_err err;
    QS_TRY(qs_json_opt_string(&activation, root, "hidden_act", name));
    if (strcmp(activation, "silu") != 0 && strcmp(activation, "swish") != 0)
        return qs_fail(QS_E_UNSUPPORTED, "read %s: activation %.64s is not supported, only silu", name,
                       activation);
    QS_TRY(qs_json_opt_bool(&mlp_bias, root, "mlp_bias", name));
    if (mlp_bias) return qs_fail(QS_E_UNSUPPORTED, "read %s: \"mlp_bias\" is not supported", name);
    QS_TRY(qs_json_opt_real(&rotated_part, root, "partial_rotary_factor", name));
    if (rotated_part != 1.0)
        return qs_fail(QS_E_UNSUPPORTED, "read %s: \"partial_rotary_factor\" %g is not supported", name,
                       rotated_part);
    c->qkv_bias = f->qkv_bias;
    c->qk_norm = f->qk_norm;
    if (f->bias_option) {
        QS_TRY(qs_json_opt_bool(&bias, root, "attention_bias", name));
        c->qkv_bias = c->o_bias = bias;
    }
out:
    return err;
}

/* transformers 5 lists the kind of every layer; one window for all layers is what we hold. */
static qs_err count_sliding_layers(int64_t *out, const json_t *types, int64_t n_layers, const char *name)
{
    if (!json_is_array(types) || (int64_t)json_array_size(types) != n_layers)
        return qs_fail(QS_E_INPUT, "read %s: \"layer_types\" must be an array of %lld names", name,
                       (long long)n_layers);
    *out = 0;
    for (int64_t i = 0; i < n_layers; i++) {
        const char *type = json_string_value(json_array_get(types, (size_t)i));
        if (type != NULL && strcmp(type, "sliding_attention") == 0)
            ++*out;
        else if (type == NULL || strcmp(type, "full_attention") != 0)
            return qs_fail(QS_E_UNSUPPORTED,
                           "read %s: layer_types[%lld] is neither full_attention nor sliding_attention",
                           name, (long long)i);
    }
    return QS_OK;
}

static qs_err read_window(qs_model_config *c, const family *f, const json_t *root, const char *name)
{
    if (f->window == WINDOW_IGNORED) return QS_OK;
    int64_t window = 0, n_sliding = c->n_layers;
    qs_err err;
    if (json_object_get(root, "sliding_window") == NULL) window = f->window_default;
    QS_TRY(qs_json_opt_int(&window, root, "sliding_window", 0, INT32_MAX, name));
    const json_t *types = json_object_get(root, "layer_types");
    if (types != NULL && !json_is_null(types)) {
        QS_TRY(count_sliding_layers(&n_sliding, types, c->n_layers, name));
    } else if (f->window == WINDOW_SWITCHED) {
        bool used = false;
        int64_t n_full = 28; /* the first max_window_layers attend to everything; 28 is the default */
        QS_TRY(qs_json_opt_bool(&used, root, "use_sliding_window", name));
        QS_TRY(qs_json_opt_int(&n_full, root, "max_window_layers", 0, INT32_MAX, name));
        n_sliding = used && n_full < c->n_layers ? c->n_layers - n_full : 0;
    }
    if (window == 0 || n_sliding == 0) return QS_OK;
    if (n_sliding < c->n_layers)
        return qs_fail(QS_E_UNSUPPORTED, "read %s: a sliding window in %lld of %lld layers is not supported",
                       name, (long long)n_sliding, (long long)c->n_layers);
    c->sliding_window = window;
out:
    return err;
}

static qs_err read_rope_kind(qs_model_config *c, const char *type, const char *name)
{
    static const struct {
        const char *type;
        qs_rope_kind kind;
    } rows[] = {{"default", QS_ROPE_DEFAULT}, {"linear", QS_ROPE_LINEAR}, {"llama3", QS_ROPE_LLAMA3}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        if (strcmp(type, rows[i].type) != 0) continue;
        c->rope_kind = rows[i].kind;
        return QS_OK;
    }
    return qs_fail(QS_E_UNSUPPORTED,
                   "read %s: rope type %.64s is not supported, only default, linear and llama3", name, type);
}

/* Old spelling: rope_theta beside rope_scaling {type or rope_type, ...}. New: all of it in rope_parameters. */
static qs_err read_rope(qs_model_config *c, const json_t *root, const char *name)
{
    qs_err err;
    c->rope_theta = 10000;
    c->rope_factor = 1;
    QS_TRY(qs_json_opt_real(&c->rope_theta, root, "rope_theta", name));
    const json_t *rope = json_object_get(root, "rope_parameters");
    if (rope == NULL || json_is_null(rope)) rope = json_object_get(root, "rope_scaling");
    if (rope == NULL || json_is_null(rope)) return QS_OK;
    if (!json_is_object(rope))
        return qs_fail(QS_E_INPUT, "read %s: the rope parameters must be an object", name);
    if (json_object_get(rope, "full_attention") != NULL || json_object_get(rope, "sliding_attention") != NULL)
        return qs_fail(QS_E_UNSUPPORTED,
                       "read %s: rope parameters that differ between layers are not supported", name);
    const char *type = "default";
    double rotated_part = 1;
    QS_TRY(qs_json_opt_string(&type, rope, "type", name));
    QS_TRY(qs_json_opt_string(&type, rope, "rope_type", name));
    QS_TRY(read_rope_kind(c, type, name));
    QS_TRY(qs_json_opt_real(&c->rope_theta, rope, "rope_theta", name));
    QS_TRY(qs_json_opt_real(&rotated_part, rope, "partial_rotary_factor", name));
    if (rotated_part != 1.0)
        return qs_fail(QS_E_UNSUPPORTED, "read %s: \"partial_rotary_factor\" %g is not supported", name,
                       rotated_part);
    if (c->rope_kind == QS_ROPE_DEFAULT) return QS_OK;
    QS_TRY(qs_json_get_real(&c->rope_factor, rope, "factor", name));
    if (c->rope_kind != QS_ROPE_LLAMA3) return QS_OK;
    QS_TRY(qs_json_get_real(&c->rope_low_freq_factor, rope, "low_freq_factor", name));
    QS_TRY(qs_json_get_real(&c->rope_high_freq_factor, rope, "high_freq_factor", name));
    QS_TRY(qs_json_get_int(&c->rope_original_ctx, rope, "original_max_position_embeddings", 1, INT32_MAX, name));
out:
    return err;
}

qs_err qs_model_config_from_json(qs_model_config *out, const json_t *root, const char *name)
{
    *out = (qs_model_config){0};
    if (!json_is_object(root)) return qs_fail(QS_E_INPUT, "read %s: the document is not an object", name);
    const family *f = NULL;
    qs_err err;
    QS_TRY(find_family(&f, root, name));
    memcpy(out->architecture, f->architecture, strlen(f->architecture) + 1);
    QS_TRY(read_dimensions(out, f, root, name));
    QS_TRY(read_switches(out, f, root, name));
    QS_TRY(read_window(out, f, root, name));
    QS_TRY(read_rope(out, root, name));
    QS_TRY(qs_model_config_check(out, name));
out:
    return err;
}

static qs_err check_counts(const qs_model_config *c, const char *name)
{
    const struct {
        const char *what;
        int64_t value, low, high;
    } rows[] = {
        {"number of layers", c->n_layers, 1, 1024},
        {"vocabulary", c->n_vocab, 1, count_max},
        {"model width", c->d_model, 1, count_max},
        {"MLP width", c->d_ff, 1, count_max},
        {"number of heads", c->n_heads, 1, 4096},
        {"number of key-value heads", c->n_kv_heads, 1, c->n_heads},
        {"head width", c->head_dim, 2, 4096},
        {"context length", c->n_ctx_max, 1, INT32_MAX},
        {"sliding window", c->sliding_window, 0, INT32_MAX},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        if (rows[i].value < rows[i].low || rows[i].value > rows[i].high)
            return qs_fail(QS_E_INPUT, "check %s: the %s is %lld, outside %lld to %lld", name, rows[i].what,
                           (long long)rows[i].value, (long long)rows[i].low, (long long)rows[i].high);
    return QS_OK;
}

qs_err qs_model_config_check(const qs_model_config *c, const char *name)
{
    qs_err err = check_counts(c, name);
    if (err != QS_OK) return err;
    if (c->n_heads % c->n_kv_heads != 0)
        return qs_fail(QS_E_INPUT, "check %s: %lld heads are no multiple of %lld key-value heads", name,
                       (long long)c->n_heads, (long long)c->n_kv_heads);
    if (c->head_dim % 2 != 0)
        return qs_fail(QS_E_INPUT, "check %s: the head width %lld is odd, rotary embedding needs pairs", name,
                       (long long)c->head_dim);
    /* Negated comparisons, so that NaN fails too. */
    if (!(c->norm_eps > 0 && c->norm_eps < 1))
        return qs_fail(QS_E_INPUT, "check %s: the norm epsilon %g is outside 0 to 1", name, c->norm_eps);
    if (!(c->rope_theta > 1 && c->rope_theta <= 1e12))
        return qs_fail(QS_E_INPUT, "check %s: the rope base %g is outside 1 to 1e12", name, c->rope_theta);
    if (c->rope_kind != QS_ROPE_LINEAR && c->rope_kind != QS_ROPE_LLAMA3) return QS_OK;
    if (!(c->rope_factor >= 1 && c->rope_factor <= 1e6))
        return qs_fail(QS_E_INPUT, "check %s: the rope factor %g is outside 1 to 1e6", name, c->rope_factor);
    if (c->rope_kind != QS_ROPE_LLAMA3) return QS_OK;
    if (!(c->rope_low_freq_factor > 0 && c->rope_low_freq_factor < c->rope_high_freq_factor &&
          c->rope_high_freq_factor <= 1e6) ||
        c->rope_original_ctx < 1)
        return qs_fail(QS_E_INPUT,
                       "check %s: rope factors low %g, high %g of context %lld do not make a range", name,
                       c->rope_low_freq_factor, c->rope_high_freq_factor, (long long)c->rope_original_ctx);
    return QS_OK;
}

/* Llama 3.1: long waves are slowed by the factor, short ones kept, and those between blended linearly in the
 * number of their turns in the original context. */
static double scale_llama3(const qs_model_config *c, double inverse)
{
    const double pi = 3.14159265358979323846;
    double turns = (double)c->rope_original_ctx * inverse / (2 * pi);
    double kept = (turns - c->rope_low_freq_factor) / (c->rope_high_freq_factor - c->rope_low_freq_factor);
    kept = fmin(fmax(kept, 0.0), 1.0);
    return (1 - kept) * inverse / c->rope_factor + kept * inverse;
}

void qs_rope_frequencies(const qs_model_config *config, const float *divisors, float *inv_freq)
{
    for (int64_t i = 0; i < config->head_dim / 2; i++) {
        double inverse = pow(config->rope_theta, -2.0 * (double)i / (double)config->head_dim);
        if (config->rope_kind == QS_ROPE_LINEAR) inverse /= config->rope_factor;
        if (config->rope_kind == QS_ROPE_LLAMA3) inverse = scale_llama3(config, inverse);
        if (config->rope_kind == QS_ROPE_DIVISORS && divisors != NULL) inverse /= (double)divisors[i];
        inv_freq[i] = (float)inverse;
    }
}
