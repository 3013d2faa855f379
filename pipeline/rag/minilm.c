/* Sentence-transformers directories: a BERT encoder, the mean of its last hidden states over the text's tokens,
 * length 1. (Reimers and Gurevych 2019; all-MiniLM-L6-v2 is one such directory.) */
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "rag/bert.h"
#include "rag/encoder_impl.h"
#include "rag/wordpiece.h"

typedef struct minilm {
    qs_backend *backend; /* owned: the encoder runs on the CPU, wherever the model under test does */
    qs_bert *bert;
    qs_wordpiece *wordpiece;
    int64_t n_max; /* tokens */
    float *hidden; /* [n_max, d_model] */
    qs_token_list ids;
} minilm;

static void destroy(void *state)
{
    minilm *m = state;
    qs_bert_destroy(m->bert);
    qs_wordpiece_destroy(m->wordpiece);
    if (m->backend != NULL) qs_backend_destroy(m->backend);
    qs_token_list_free(&m->ids);
    qs_mem_free(m->hidden);
    qs_mem_free(m);
}

/* Text by text, so that a vector does not depend on the others. */
static qs_err encode_text(minilm *m, const char *text, float *vector)
{
    int64_t d = qs_bert_get_config(m->bert)->d_model;
    qs_err err;
    QS_TRY(qs_wordpiece_encode(m->wordpiece, text, strlen(text), m->n_max, &m->ids));
    QS_TRY(qs_bert_run(m->bert, m->ids.ids, m->ids.n, m->hidden));
    for (int64_t j = 0; j < d; j++) {
        double sum = 0.0;
        for (int64_t i = 0; i < m->ids.n; i++) sum += m->hidden[i * d + j];
        vector[j] = (float)(sum / (double)m->ids.n);
    }
out:
    return err;
}

static qs_err encode(void *state, const char *const *texts, int64_t n, float *vectors)
{
    minilm *m = state;
    int64_t d = qs_bert_get_config(m->bert)->d_model;
    qs_err err = QS_OK;
    for (int64_t i = 0; i < n && err == QS_OK; i++)
        err = qs_context(encode_text(m, texts[i], &vectors[i * d]), "text %lld", (long long)i);
    return err;
}

static qs_err load_json(json_t **out, char path[QS_PATH_BYTES], const char *dir, const char *name)
{
    qs_err err = qs_path_format(path, "%s/%s", dir, name);
    return err != QS_OK ? err : qs_json_load(out, path);
}

/* The mean over tokens is the only pooling there is here. */
static qs_err check_pooling(const char *dir)
{
    static const char *const others[] = {"pooling_mode_cls_token", "pooling_mode_max_tokens",
                                         "pooling_mode_mean_sqrt_len_tokens", "pooling_mode_weightedmean_tokens",
                                         "pooling_mode_lasttoken"};
    char path[QS_PATH_BYTES];
    json_t *root = NULL;
    bool mean = false;
    qs_err err;
    QS_TRY(load_json(&root, path, dir, "1_Pooling/config.json"));
    QS_TRY(qs_json_opt_bool(&mean, root, "pooling_mode_mean_tokens", path));
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        bool other = false;
        QS_TRY(qs_json_opt_bool(&other, root, others[i], path));
        mean = mean && !other;
    }
    if (!mean) err = qs_fail(QS_E_UNSUPPORTED, "read %s: pooling is not the mean over tokens alone", path);
out:
    json_decref(root);
    return err;
}

static qs_err read_limit(minilm *m, const char *dir)
{
    char path[QS_PATH_BYTES];
    json_t *root = NULL;
    qs_err err;
    m->n_max = qs_bert_get_config(m->bert)->n_positions;
    QS_TRY(load_json(&root, path, dir, "sentence_bert_config.json"));
    QS_TRY(qs_json_opt_int(&m->n_max, root, "max_seq_length", 2, m->n_max, path));
out:
    json_decref(root);
    return err;
}

static qs_err load_wordpiece(minilm *m, const char *dir, qs_digest *digest)
{
    char path[QS_PATH_BYTES], *text = NULL;
    size_t bytes;
    qs_err err;
    QS_TRY(qs_path_format(path, "%s/tokenizer.json", dir));
    QS_TRY(qs_file_read(&text, &bytes, path, (size_t)64 << 20));
    QS_TRY(qs_wordpiece_from_json(&m->wordpiece, text, bytes, path));
    *digest = qs_hash(text, bytes);
    if (qs_wordpiece_n_vocab(m->wordpiece) > qs_bert_get_config(m->bert)->n_vocab)
        err = qs_fail(QS_E_INPUT, "read %s: %lld tokens, but the encoder has %lld", path,
                      (long long)qs_wordpiece_n_vocab(m->wordpiece), (long long)qs_bert_get_config(m->bert)->n_vocab);
out:
    qs_mem_free(text);
    return err;
}

qs_err qs_minilm_open(qs_encoder **out, const qs_encoder_options *options)
{
    const char *dir = options->directory;
    char config[QS_PATH_BYTES], weights[QS_PATH_BYTES];
    minilm *m;
    qs_encoder_model model = {.encode = encode, .destroy = destroy};
    qs_digest vocabulary;
    qs_err err;
    if (dir == NULL || !qs_path_is_dir(dir))
        return qs_fail(QS_E_INPUT, "%s is no directory; scripts/fetch-model minilm brings one",
                       dir != NULL ? dir : "it");
    QS_TRY(QS_NEW(m, 1, "encoder"));
    model.state = m;
    QS_TRY(qs_path_format(config, "%s/config.json", dir));
    QS_TRY(qs_path_format(weights, "%s/model.safetensors", dir));
    QS_TRY(qs_backend_create(&m->backend, "cpu", 0, options->n_threads));
    QS_TRY(check_pooling(dir));
    QS_TRY(qs_bert_open(&m->bert, m->backend, config, weights));
    QS_TRY(load_wordpiece(m, dir, &vocabulary));
    QS_TRY(read_limit(m, dir));
    model.dim = qs_bert_get_config(m->bert)->d_model;
    QS_TRY(QS_NEW(m->hidden, m->n_max * model.dim, "encoder"));
    qs_digest bert = qs_bert_digest(m->bert);
    const uint64_t parts[] = {bert.low, bert.high, vocabulary.low, vocabulary.high, (uint64_t)m->n_max};
    model.digest = qs_hash(parts, sizeof parts);
    model.kernels = qs_backend_describe(m->backend);
    return qs_encoder_create(out, "minilm", &model);
out:
    if (m != NULL) destroy(m);
    return err;
}
