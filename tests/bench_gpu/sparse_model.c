/* A model directory whose tensors are holes of a file: as large as a real one to whoever reads it, and no
 * bytes of disk. */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"
#include "tests/bench_gpu/bench_cuda.h"

enum { HEADER_BYTES = 1 << 17, NAME_BYTES = 96 };

/* The file while it is written: the header grows in memory, data in the file behind room for it. */
typedef struct model_file {
    const bench *b;
    int descriptor;
    char *header; /* [HEADER_BYTES], padded with spaces */
    size_t used;
    int64_t data_bytes;
} model_file;

static qs_err write_at(const model_file *f, int64_t offset, const void *data, size_t bytes)
{
    if (pwrite(f->descriptor, data, bytes, offset) == (ssize_t)bytes) return QS_OK;
    return qs_fail(QS_E_RESOURCE, "write a model of holes: the file cannot be written; set TMPDIR");
}

/* An f16 tensor; the first n_filled elements are not left as a hole: ones, or random. */
static qs_err add(model_file *f, const char *name, int64_t n_out, int64_t n_in, int64_t n_filled, bool ones)
{
    qs_err err = QS_OK;
    uint16_t *elements = NULL;
    int64_t bytes = (n_out > 0 ? n_out : 1) * n_in * (int64_t)sizeof *elements;
    char shape[64];
    if (n_out > 0) (void)snprintf(shape, sizeof shape, "%lld,%lld", (long long)n_out, (long long)n_in);
    else (void)snprintf(shape, sizeof shape, "%lld", (long long)n_in);
    f->used += (size_t)snprintf(f->header + f->used, HEADER_BYTES - f->used,
                                "%c\"%s\":{\"dtype\":\"F16\",\"shape\":[%s],\"data_offsets\":[%lld,%lld]}",
                                f->used == 0 ? '{' : ',', name, shape, (long long)f->data_bytes,
                                (long long)(f->data_bytes + bytes));
    if (f->used >= HEADER_BYTES) return qs_fail(QS_E_USAGE, "write a model of holes: too many tensors for its header");
    QS_TRY(QS_NEW(elements, n_filled + 1, "elements"));
    for (int64_t i = 0; i < n_filled; i++)
        elements[i] = qs_f16_from_f32(ones ? 1.0f : f->b->normal[i % BENCH_PATTERN]);
    QS_TRY(write_at(f, 8 + HEADER_BYTES + f->data_bytes, elements, (size_t)n_filled * sizeof *elements));
    f->data_bytes += bytes;
out:
    qs_mem_free(elements);
    return err;
}

static qs_err add_layer(model_file *f, int64_t layer)
{
    static const char *const linears[BENCH_N_LINEARS] = {
        [BENCH_Q] = "self_attn.q_proj",    [BENCH_K] = "self_attn.k_proj", [BENCH_V] = "self_attn.v_proj",
        [BENCH_O] = "self_attn.o_proj",    [BENCH_GATE] = "mlp.gate_proj", [BENCH_UP] = "mlp.up_proj",
        [BENCH_DOWN] = "mlp.down_proj",
    };
    static const char *const norms[] = {"input_layernorm", "post_attention_layernorm"};
    qs_err err = QS_OK;
    char name[NAME_BYTES];
    const bench_shape *s = &f->b->shape;
    for (int i = 0; i < BENCH_N_LINEARS; i++) {
        int64_t n_out, n_in;
        bench_linear_shape(s, i, &n_out, &n_in);
        (void)snprintf(name, sizeof name, "model.layers.%lld.%s.weight", (long long)layer, linears[i]);
        QS_TRY(add(f, name, n_out, n_in, 0, false));
    }
    for (int i = 0; i < 2; i++) {
        (void)snprintf(name, sizeof name, "model.layers.%lld.%s.weight", (long long)layer, norms[i]);
        QS_TRY(add(f, name, 0, s->d_model, s->d_model, true));
    }
out:
    return err;
}

static qs_err write_tensors(model_file *f)
{
    qs_err err = QS_OK;
    const bench_shape *s = &f->b->shape;
    const uint64_t header_bytes = HEADER_BYTES;
    QS_TRY(add(f, "model.embed_tokens.weight", s->n_vocab, s->d_model, BENCH_TOKENS * s->d_model, false));
    for (int64_t layer = 0; layer < s->n_layers; layer++) QS_TRY(add_layer(f, layer));
    QS_TRY(add(f, "model.norm.weight", 0, s->d_model, s->d_model, true));
    QS_TRY(add(f, "lm_head.weight", s->n_vocab, s->d_model, 0, false));
    f->header[f->used] = '}';
    memset(f->header + f->used + 1, ' ', HEADER_BYTES - f->used - 1);
    QS_TRY(write_at(f, 0, &header_bytes, sizeof header_bytes));
    QS_TRY(write_at(f, sizeof header_bytes, f->header, HEADER_BYTES));
    if (ftruncate(f->descriptor, 8 + HEADER_BYTES + f->data_bytes) != 0)
        err = qs_fail(QS_E_RESOURCE, "write a model of holes: the file system refuses a file of %lld bytes; set TMPDIR",
                      (long long)f->data_bytes);
out:
    return err;
}

static qs_err write_config(const bench_shape *s, const char *path)
{
    FILE *stream = fopen(path, "w");
    if (stream == NULL) return qs_fail(QS_E_RESOURCE, "write %s: it cannot be created", path);
    int n = fprintf(stream,
                    "{\"architectures\": [\"LlamaForCausalLM\"], \"model_type\": \"llama\", \"vocab_size\": %lld, "
                    "\"hidden_size\": %lld, \"intermediate_size\": %lld, \"num_hidden_layers\": %lld, "
                    "\"num_attention_heads\": %lld, \"num_key_value_heads\": %lld, \"head_dim\": %lld, "
                    "\"max_position_embeddings\": 8192, \"rms_norm_eps\": 1e-05, \"rope_theta\": 500000.0, "
                    "\"tie_word_embeddings\": false, \"hidden_act\": \"silu\"}\n",
                    (long long)s->n_vocab, (long long)s->d_model, (long long)s->d_ff, (long long)s->n_layers,
                    (long long)s->n_heads, (long long)s->n_kv_heads, (long long)s->head_dim);
    if (fclose(stream) == 0 && n > 0) return QS_OK;
    return qs_fail(QS_E_RESOURCE, "write %s: it cannot be written", path);
}

qs_err bench_model_create(const bench *b, char directory[QS_PATH_BYTES])
{
    qs_err err = QS_OK;
    char path[QS_PATH_BYTES];
    const char *base = getenv("TMPDIR");
    model_file f = {.b = b, .descriptor = -1};
    QS_TRY(qs_path_format(directory, "%s/bench_cuda-XXXXXX", base != NULL && base[0] != '\0' ? base : "/tmp"));
    if (mkdtemp(directory) == NULL) {
        directory[0] = '\0';
        return qs_fail(QS_E_RESOURCE, "write a model of holes: no directory can be made in TMPDIR");
    }
    QS_TRY(qs_path_format(path, "%s/config.json", directory));
    QS_TRY(write_config(&b->shape, path));
    QS_TRY(qs_path_format(path, "%s/model.safetensors", directory));
    f.descriptor = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (f.descriptor < 0) {
        err = qs_fail(QS_E_RESOURCE, "write %s: it cannot be created", path);
        goto out;
    }
    QS_TRY(QS_NEW(f.header, HEADER_BYTES, "header"));
    QS_TRY(write_tensors(&f));
out:
    if (f.descriptor >= 0) (void)close(f.descriptor);
    qs_mem_free(f.header);
    return err;
}

void bench_model_remove(const char *directory)
{
    static const char *const names[] = {"config.json", "model.safetensors"};
    char path[QS_PATH_BYTES];
    if (directory[0] == '\0') return;
    for (int i = 0; i < 2; i++)
        if (qs_path_format(path, "%s/%s", directory, names[i]) == QS_OK) (void)unlink(path);
    (void)rmdir(directory);
}
