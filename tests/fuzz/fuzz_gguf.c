/* The GGUF container, its metadata, the configuration in it, and the dequantisers on any bytes. */
#include "base/mem.h"
#include "model/dequant.h"
#include "model/gguf.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static void read_tensor(const qs_gguf_tensor *tensor)
{
    int64_t n = 1;
    for (int d = 0; d < tensor->n_dims; d++) n *= tensor->ne[d];
    float *values;
    if (QS_NEW(values, n, "values") != QS_OK) return;
    qs_storage_to_f32(tensor->storage, values, tensor->data, n);
    qs_mem_free(values);
}

static void read_strings(const qs_gguf_kv *kv)
{
    const char **texts = NULL;
    int64_t *lengths = NULL;
    if (QS_NEW(texts, kv->n, "texts") == QS_OK && QS_NEW(lengths, kv->n, "lengths") == QS_OK) {
        qs_gguf_strings(kv, texts, lengths);
        for (int64_t i = 0; i < kv->n; i++) {
            const volatile char *text = texts[i];
            if (lengths[i] > 0) (void)text[0], (void)text[lengths[i] - 1];
        }
    }
    qs_mem_free((void *)texts);
    qs_mem_free(lengths);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    qs_gguf gguf;
    qs_model_config config;
    if (qs_gguf_parse(&gguf, data, bytes, "fuzz") != QS_OK) return 0;
    for (int64_t i = 0; i < gguf.n_tensors; i++) read_tensor(&gguf.tensors[i]);
    for (int64_t i = 0; i < gguf.n_kvs; i++)
        if (gguf.kvs[i].type == QS_GGUF_ARRAY && gguf.kvs[i].item_type == QS_GGUF_STRING)
            read_strings(&gguf.kvs[i]);
    if (qs_model_config_from_gguf(&config, &gguf, "fuzz") == QS_OK && config.n_heads % config.n_kv_heads != 0)
        __builtin_trap();
    qs_gguf_free(&gguf);
    return 0;
}
