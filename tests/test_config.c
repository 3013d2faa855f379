/* config.json of every family, in both spellings of the rope parameters, and one bad configuration per check.
 * Frequencies against transformers: scripts/peers/make_model_fixtures.py. */
#include "model_files.h"

#include <math.h>

#include "model/config.h"

static qs_err parse(qs_model_config *config, const char *text)
{
    json_t *root = NULL;
    qs_err err = qs_json_parse(&root, text, strlen(text), "C");
    if (err == QS_OK) err = qs_model_config_from_json(config, root, "C");
    json_decref(root);
    return err;
}

static void test_fixtures(void **state)
{
    (void)state;
    static const struct {
        const char *name, *architecture;
        int64_t d_model, d_ff, n_heads, n_kv_heads, head_dim, window;
        bool qkv_bias, qk_norm, tied;
        double eps, theta;
        qs_rope_kind kind;
    } rows[] = {
        {"llama2", "llama", 64, 96, 4, 4, 16, 0, false, false, false, 1e-5, 1e4, QS_ROPE_DEFAULT},
        {"llama3", "llama", 64, 96, 4, 2, 16, 0, false, false, false, 1e-5, 5e5, QS_ROPE_LLAMA3},
        {"linear", "llama", 32, 64, 2, 1, 16, 0, false, false, false, 1e-5, 1e4, QS_ROPE_LINEAR},
        {"mistral", "mistral", 64, 96, 4, 2, 24, 12, false, false, false, 1e-5, 1e6, QS_ROPE_DEFAULT},
        {"smollm2", "llama", 48, 96, 3, 1, 16, 0, false, false, true, 1e-5, 1e5, QS_ROPE_DEFAULT},
        {"qwen2", "qwen2", 64, 96, 4, 2, 16, 0, true, false, true, 1e-6, 1e6, QS_ROPE_DEFAULT},
        {"qwen3", "qwen3", 64, 96, 4, 2, 24, 0, false, true, true, 1e-6, 1e6, QS_ROPE_DEFAULT},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        char path[QS_PATH_BYTES];
        qs_model_config c;
        assert_ok(qs_path_format(path, MODELS "%s/config.json", rows[i].name));
        bytes text = load_file(path);
        assert_ok(parse(&c, text.data));
        qs_mem_free(text.data);
        assert_string_equal(c.architecture, rows[i].architecture);
        const int64_t numbers[] = {c.n_layers, c.n_vocab,    c.n_ctx_max, c.d_model,       c.d_ff,
                                   c.n_heads,  c.n_kv_heads, c.head_dim,  c.sliding_window};
        const int64_t expected[] = {2,
                                    320,
                                    256,
                                    rows[i].d_model,
                                    rows[i].d_ff,
                                    rows[i].n_heads,
                                    rows[i].n_kv_heads,
                                    rows[i].head_dim,
                                    rows[i].window};
        assert_memory_equal(numbers, expected, sizeof numbers);
        assert_true(c.qkv_bias == rows[i].qkv_bias && c.qk_norm == rows[i].qk_norm && !c.o_bias);
        assert_true(c.tied_head == rows[i].tied && c.norm_eps == rows[i].eps &&
                    c.rope_theta == rows[i].theta);
        assert_int_equal(c.rope_kind, rows[i].kind);

        /* transformers computes in f32: a few ulp between its powers and ours. */
        float inv_freq[32];
        qs_rope_frequencies(&c, NULL, inv_freq);
        assert_ok(qs_path_format(path, MODELS "%s/inv_freq.f32", rows[i].name));
        bytes golden = load_file(path);
        assert_int_equal(golden.n, (size_t)(c.head_dim / 2) * sizeof(float));
        for (int64_t j = 0; j < c.head_dim / 2; j++) {
            float wanted;
            memcpy(&wanted, golden.data + j * 4, 4);
            if (!(fabsf(inv_freq[j] - wanted) <= 5e-7f * wanted))
                fail_msg("%s: inv_freq[%lld] = %.9g, transformers has %.9g", rows[i].name, (long long)j,
                         (double)inv_freq[j], (double)wanted);
        }
        qs_mem_free(golden.data);
    }
}

static const char llama[] = "{\"architectures\": [\"LlamaForCausalLM\"], \"model_type\": \"llama\", "
                            "\"num_hidden_layers\": 4,"
                            " \"vocab_size\": 100, \"hidden_size\": 64, \"intermediate_size\": 128, "
                            "\"num_attention_heads\": 8,"
                            " \"max_position_embeddings\": 512, \"rms_norm_eps\": 1e-05}";
static const char qwen2[] = "{\"architectures\": [\"Qwen2ForCausalLM\"], \"num_hidden_layers\": 4, "
                            "\"vocab_size\": 100, \"hidden_size\": 64,"
                            " \"intermediate_size\": 128, \"num_attention_heads\": 8, "
                            "\"num_key_value_heads\": 4,"
                            " \"max_position_embeddings\": 512, \"sliding_window\": 64}";

static const char mistral[] = "{\"architectures\": [\"MistralForCausalLM\"], \"num_hidden_layers\": 2, "
                              "\"vocab_size\": 100, \"hidden_size\": 64, \"intermediate_size\": 128, "
                              "\"num_attention_heads\": 8, \"num_key_value_heads\": 4, "
                              "\"max_position_embeddings\": 512}";

/* An edit of one of the texts above: the configuration it gives. */
static qs_err parse_edited(qs_model_config *c, const char *text, const char *old, const char *fresh)
{
    char *edited = replaced(text, old, fresh);
    qs_err err = parse(c, edited);
    free(edited);
    return err;
}

static void test_variants(void **state)
{
    (void)state;
    qs_model_config c;
    assert_ok(parse(&c, llama));
    assert_true(c.n_kv_heads == 8 && c.head_dim == 8 && c.rope_theta == 10000 && !c.tied_head && !c.qkv_bias);
    assert_ok(parse_edited(&c, llama, "\"architectures\": [\"LlamaForCausalLM\"], ", ""));
    assert_string_equal(c.architecture, "llama");
    assert_ok(parse_edited(&c, llama, " \"rms_norm_eps\": 1e-05",
                           " \"attention_bias\": true, \"hidden_act\": \"silu\""));
    assert_true(c.qkv_bias && c.o_bias && c.norm_eps == 1e-6);
    assert_ok(parse_edited(&c, llama, "\"vocab_size\"",
                           "\"head_dim\": 16, \"sliding_window\": 32, \"vocab_size\""));
    assert_true(c.head_dim == 16 && c.sliding_window == 0);

    static const char *const ropes[] = {
        "\"rope_theta\": 5e5, \"rope_scaling\": {\"type\": \"llama3\", \"rope_type\": \"llama3\",",
        "\"rope_theta\": 1, \"rope_parameters\": {\"rope_theta\": 5e5, \"rope_type\": \"llama3\",",
    };
    for (size_t i = 0; i < 2; i++) {
        char fresh[512];
        (void)snprintf(fresh, sizeof fresh,
                       "%s \"factor\": 8, \"low_freq_factor\": 1.0, \"high_freq_factor\": 4.0,"
                       " \"original_max_position_embeddings\": 8192}, \"vocab_size\"",
                       ropes[i]);
        assert_ok(parse_edited(&c, llama, "\"vocab_size\"", fresh));
        assert_true(c.rope_kind == QS_ROPE_LLAMA3 && c.rope_theta == 5e5 && c.rope_factor == 8);
        assert_true(c.rope_low_freq_factor == 1 && c.rope_high_freq_factor == 4 &&
                    c.rope_original_ctx == 8192);
    }
    assert_ok(parse_edited(&c, llama, "\"vocab_size\"", "\"rope_scaling\": null, \"vocab_size\""));
    assert_int_equal(c.rope_kind, QS_ROPE_DEFAULT);

    assert_ok(parse(&c, qwen2));
    assert_true(c.sliding_window == 0 && c.qkv_bias && !c.o_bias);
    assert_ok(parse_edited(&c, qwen2, "\"vocab_size\"", "\"use_sliding_window\": true, \"vocab_size\""));
    assert_int_equal(c.sliding_window,
                     0); /* max_window_layers is 28 when absent: all four attend to everything */
    assert_ok(parse_edited(&c, qwen2, "\"vocab_size\"",
                           "\"use_sliding_window\": true, \"max_window_layers\": 0, \"vocab_size\""));
    assert_int_equal(c.sliding_window, 64);
    assert_ok(parse_edited(&c, qwen2, "\"sliding_window\": 64",
                           "\"use_sliding_window\": true, \"max_window_layers\": 0"));
    assert_int_equal(c.sliding_window, 4096);

    /* Missing it is what transformers takes then, null is none. */
    assert_ok(parse(&c, mistral));
    assert_int_equal(c.sliding_window, 4096);
    assert_ok(parse_edited(&c, mistral, "\"vocab_size\"", "\"sliding_window\": null, \"vocab_size\""));
    assert_int_equal(c.sliding_window, 0);
    assert_ok(parse_edited(&c, mistral, "\"vocab_size\"", "\"sliding_window\": 32, \"vocab_size\""));
    assert_int_equal(c.sliding_window, 32);
}

/* GGUF's divisors of the llama3 scaling give the frequencies of the scaling itself. */
static void test_divisors(void **state)
{
    (void)state;
    qs_model_config c = {.head_dim = 64, .rope_theta = 10000, .rope_kind = QS_ROPE_DIVISORS};
    float divisors[32], plain[32], divided[32];
    for (int i = 0; i < 32; i++) divisors[i] = (float)(1 + i);
    qs_rope_frequencies(&c, divisors, divided);
    c.rope_kind = QS_ROPE_DEFAULT;
    qs_rope_frequencies(&c, NULL, plain);
    for (int i = 0; i < 32; i++) assert_true(fabsf(divided[i] * divisors[i] - plain[i]) <= 2e-7f * plain[i]);
    assert_true(plain[0] == 1.0f && fabsf(plain[16] - 0.01f) < 1e-9f);
}

static void test_bad(void **state)
{
    (void)state;
    static const struct {
        const char *old, *fresh;
        qs_err code;
        const char *part;
    } rows[] = {
        {"LlamaForCausalLM", "MixtralForCausalLM", QS_E_UNSUPPORTED,
         "architecture MixtralForCausalLM is not supported"},
        {"[\"LlamaForCausalLM\"], \"model_type\": \"llama\"", "null, \"model_type\": \"gpt2\"",
         QS_E_UNSUPPORTED, "architecture gpt2 is not supported"},
        {"\"model_type\": \"llama\"", "\"model_type\": \"qwen2\"", QS_E_INPUT, "\"model_type\" is qwen2 but"},
        {"\"architectures\": [\"LlamaForCausalLM\"], \"model_type\": \"llama\", ", "", QS_E_INPUT, "neither"},
        {"\"hidden_size\"", "\"hidden\"", QS_E_INPUT, "the key \"hidden_size\" is missing"},
        {"\"hidden_size\": 64", "\"hidden_size\": 0", QS_E_INPUT,
         "\"hidden_size\" must be an integer from 1"},
        {"\"hidden_size\": 64", "\"hidden_size\": 64.0", QS_E_INPUT, "\"hidden_size\" must be an integer"},
        {"\"hidden_size\": 64", "\"hidden_size\": 9000000", QS_E_INPUT, "\"hidden_size\" must be an integer"},
        {"\"hidden_size\": 64", "\"hidden_size\": 65", QS_E_INPUT, "hidden_size 65 is no multiple of"},
        {"\"hidden_size\": 64", "\"hidden_size\": 72", QS_E_INPUT, "the head width 9 is odd"},
        {"\"vocab_size\"", "\"num_key_value_heads\": 3, \"vocab_size\"", QS_E_INPUT,
         "8 heads are no multiple of 3"},
        {"\"vocab_size\"", "\"num_key_value_heads\": 16, \"vocab_size\"", QS_E_INPUT,
         "key-value heads is 16"},
        {"1e-05", "0", QS_E_INPUT, "norm epsilon 0 is outside"},
        {"1e-05", "\"x\"", QS_E_INPUT, "\"rms_norm_eps\" must be a number"},
        {"\"vocab_size\"", "\"rope_theta\": -1, \"vocab_size\"", QS_E_INPUT, "the rope base -1 is outside"},
        {"\"vocab_size\"", "\"hidden_act\": \"gelu\", \"vocab_size\"", QS_E_UNSUPPORTED, "activation gelu"},
        {"\"vocab_size\"", "\"mlp_bias\": true, \"vocab_size\"", QS_E_UNSUPPORTED,
         "\"mlp_bias\" is not supported"},
        {"\"vocab_size\"", "\"partial_rotary_factor\": 0.5, \"vocab_size\"", QS_E_UNSUPPORTED,
         "partial_rotary_factor"},
        {"\"vocab_size\"", "\"rope_scaling\": {\"type\": \"dynamic\", \"factor\": 2.0}, \"vocab_size\"",
         QS_E_UNSUPPORTED, "rope type dynamic is not supported"},
        {"\"vocab_size\"", "\"rope_scaling\": {\"rope_type\": \"yarn\", \"factor\": 2.0}, \"vocab_size\"",
         QS_E_UNSUPPORTED, "rope type yarn is not supported"},
        {"\"vocab_size\"", "\"rope_scaling\": {\"rope_type\": \"longrope\"}, \"vocab_size\"",
         QS_E_UNSUPPORTED, "rope type longrope"},
        {"\"vocab_size\"", "\"rope_parameters\": {\"full_attention\": {}}, \"vocab_size\"", QS_E_UNSUPPORTED,
         "differ between layers"},
        {"\"vocab_size\"", "\"rope_scaling\": {\"type\": \"linear\"}, \"vocab_size\"", QS_E_INPUT,
         "\"factor\" is missing"},
        {"\"vocab_size\"", "\"rope_scaling\": {\"type\": \"linear\", \"factor\": 0.5}, \"vocab_size\"",
         QS_E_INPUT, "the rope factor 0.5 is outside"},
        {"\"vocab_size\"", "\"rope_scaling\": {\"type\": \"linear\", \"factor\": 0}, \"vocab_size\"",
         QS_E_INPUT, "the rope factor 0 is outside"},
        {"\"vocab_size\"", "\"rope_scaling\": 3, \"vocab_size\"", QS_E_INPUT,
         "rope parameters must be an object"},
        {"\"vocab_size\"",
         "\"rope_scaling\": {\"rope_type\": \"llama3\", \"factor\": 8, \"low_freq_factor\": 4,"
         " \"high_freq_factor\": 1, \"original_max_position_embeddings\": 64}, \"vocab_size\"",
         QS_E_INPUT, "rope factors low 4, high 1"},
    };
    qs_model_config c;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        assert_fails(parse_edited(&c, llama, rows[i].old, rows[i].fresh), rows[i].code, rows[i].part);
    assert_fails(parse(&c, "[]"), QS_E_INPUT, "the document is not an object");
    assert_fails(parse_edited(&c, qwen2, " \"num_key_value_heads\": 4,", ""), QS_E_INPUT,
                 "num_key_value_heads");
    assert_fails(parse_edited(&c, qwen2, "Qwen2", "Qwen3"), QS_E_INPUT, "the key \"head_dim\" is missing");
    assert_fails(parse_edited(&c, qwen2, "\"vocab_size\"",
                              "\"use_sliding_window\": true, \"max_window_layers\": 3, \"vocab_size\""),
                 QS_E_UNSUPPORTED, "a sliding window in 1 of 4 layers");
    assert_fails(
        parse_edited(&c, qwen2, "\"vocab_size\"", "\"layer_types\": [\"full_attention\"], \"vocab_size\""),
        QS_E_INPUT, "\"layer_types\" must be an array of 4");
    assert_fails(parse_edited(&c, qwen2, "\"vocab_size\"",
                              "\"layer_types\": [\"full_attention\",\"full_attention\","
                              "\"full_attention\",\"chunked\"], \"vocab_size\""),
                 QS_E_UNSUPPORTED, "layer_types[3]");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fixtures),
        cmocka_unit_test(test_variants),
        cmocka_unit_test(test_divisors),
        cmocka_unit_test(test_bad),
    };
    return cmocka_run_group_tests_name("config", tests, NULL, NULL);
}
