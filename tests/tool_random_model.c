/* A Llama model of any size with random weights in bf16, as a Hugging Face directory: for tests of memory, which does
 * not depend on what the weights are.
 *
 * usage: tool_random_model TOKENIZER.json OUT_DIR D_MODEL N_LAYERS N_HEADS N_KV_HEADS D_FF N_VOCAB */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/dtype.h"
#include "base/file.h"
#include "base/mem.h"
#include "base/rng.h"
#include "model/safetensors_writer.h"

enum { PIECE = 1 << 16, TOKENIZER_BYTES_MAX = 1 << 28 };

typedef struct shape {
    int64_t d_model, n_layers, n_heads, n_kv_heads, d_ff, n_vocab;
} shape;

/* A linear of a block, or n_in = 0: a norm, which is ones. */
typedef struct tensor {
    const char *name;
    int64_t n_out, n_in;
} tensor;

typedef qs_err visitor(qs_safetensors_writer *writer, const char *name, int64_t n_out, int64_t n_in);

static qs_err declare(qs_safetensors_writer *writer, const char *name, int64_t n_out, int64_t n_in)
{
    return qs_safetensors_writer_declare(writer, name, QS_ST_BF16, n_in > 0 ? 2 : 1, (int64_t[]){n_out, n_in});
}

static qs_err put(qs_safetensors_writer *writer, const char *name, int64_t n_out, int64_t n_in)
{
    static uint16_t piece[PIECE];
    static uint64_t counter;
    int64_t n = n_out * (n_in > 0 ? n_in : 1);
    /* Uniform, with the variance that keeps a product's outputs as large as its inputs. */
    double width = n_in > 0 ? sqrt(12.0 / (double)n_in) : 0;
    qs_err err = QS_OK;
    for (int64_t at = 0; err == QS_OK && at < n; at += PIECE) {
        int64_t count = n - at < PIECE ? n - at : PIECE;
        for (int64_t i = 0; i < count; i++)
            piece[i] = qs_bf16_from_f32(n_in > 0 ? (float)(width * (qs_rng_unit(1, counter++) - 0.5)) : 1.0f);
        err = qs_safetensors_writer_put(writer, name, piece, (size_t)count * sizeof *piece);
    }
    return err;
}

static qs_err visit(const shape *s, qs_safetensors_writer *writer, visitor *each)
{
    int64_t d_head = s->d_model / s->n_heads, d_kv = s->n_kv_heads * d_head;
    const tensor block[] = {
        {"input_layernorm", s->d_model, 0},           {"post_attention_layernorm", s->d_model, 0},
        {"self_attn.q_proj", s->d_model, s->d_model}, {"self_attn.k_proj", d_kv, s->d_model},
        {"self_attn.v_proj", d_kv, s->d_model},       {"self_attn.o_proj", s->d_model, s->d_model},
        {"mlp.gate_proj", s->d_ff, s->d_model},       {"mlp.up_proj", s->d_ff, s->d_model},
        {"mlp.down_proj", s->d_model, s->d_ff},
    };
    char name[96];
    qs_err err;
    QS_TRY(each(writer, "model.embed_tokens.weight", s->n_vocab, s->d_model));
    QS_TRY(each(writer, "model.norm.weight", s->d_model, 0));
    for (int64_t layer = 0; layer < s->n_layers; layer++)
        for (size_t i = 0; i < sizeof block / sizeof *block; i++) {
            (void)snprintf(name, sizeof name, "model.layers.%" PRId64 ".%s.weight", layer, block[i].name);
            QS_TRY(each(writer, name, block[i].n_out, block[i].n_in));
        }
out:
    return err;
}

static qs_err write_text(const char *dir, const char *name, const char *text, size_t bytes)
{
    char path[QS_PATH_BYTES];
    qs_err err = qs_path_format(path, "%s/%s", dir, name);
    return err == QS_OK ? qs_file_write(path, text, bytes) : err;
}

static qs_err write_small_files(const shape *s, const char *tokenizer, const char *dir)
{
    char config[1024], *text = NULL;
    size_t bytes;
    qs_err err;
    int n = snprintf(
        config, sizeof config,
        "{\"architectures\": [\"LlamaForCausalLM\"], \"model_type\": \"llama\", \"hidden_act\": \"silu\",\n"
        " \"hidden_size\": %" PRId64 ", \"intermediate_size\": %" PRId64 ", \"num_hidden_layers\": %" PRId64 ",\n"
        " \"num_attention_heads\": %" PRId64 ", \"num_key_value_heads\": %" PRId64 ", \"vocab_size\": %" PRId64 ",\n"
        " \"max_position_embeddings\": 2048, \"rms_norm_eps\": 1e-5, \"rope_theta\": 10000.0,\n"
        " \"tie_word_embeddings\": true, \"bos_token_id\": null, \"eos_token_id\": 0, \"torch_dtype\": \"bfloat16\"}\n",
        s->d_model, s->d_ff, s->n_layers, s->n_heads, s->n_kv_heads, s->n_vocab);
    QS_TRY(write_text(dir, "config.json", config, (size_t)n));
    QS_TRY(qs_file_read(&text, &bytes, tokenizer, TOKENIZER_BYTES_MAX));
    QS_TRY(write_text(dir, "tokenizer.json", text, bytes));
out:
    qs_mem_free(text);
    return err;
}

int main(int argc, char **argv)
{
    qs_safetensors_writer *writer = NULL;
    char path[QS_PATH_BYTES];
    qs_err err = QS_OK;
    if (argc != 9) {
        (void)fprintf(
            stderr,
            "usage: tool_random_model TOKENIZER.json OUT_DIR D_MODEL N_LAYERS N_HEADS N_KV_HEADS D_FF N_VOCAB\n");
        return QS_E_USAGE;
    }
    shape s = {atoll(argv[3]), atoll(argv[4]), atoll(argv[5]), atoll(argv[6]), atoll(argv[7]), atoll(argv[8])};
    QS_TRY(qs_path_format(path, "%s/model.safetensors", argv[2]));
    QS_TRY(write_small_files(&s, argv[1], argv[2]));
    QS_TRY(qs_safetensors_writer_create(&writer, path));
    QS_TRY(qs_safetensors_writer_metadata(writer, "format", "pt"));
    QS_TRY(visit(&s, writer, declare));
    QS_TRY(visit(&s, writer, put));
    qs_safetensors_writer *done = writer;
    writer = NULL;
    QS_TRY(qs_safetensors_writer_publish(done));
out:
    qs_safetensors_writer_discard(writer);
    if (err != QS_OK) (void)fprintf(stderr, "%s\n", qs_error_text());
    return (int)err;
}
