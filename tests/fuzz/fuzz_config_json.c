/* config.json: any text; what passes must give finite rotary frequencies in falling order. */
#include <math.h>

#include "base/mem.h"
#include "model/config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    json_t *root;
    qs_model_config config;
    if (qs_json_parse(&root, (const char *)data, bytes, "fuzz") != QS_OK) return 0;
    float *inv_freq;
    if (qs_model_config_from_json(&config, root, "fuzz") == QS_OK &&
        QS_NEW(inv_freq, config.head_dim / 2, "frequencies") == QS_OK) {
        qs_rope_frequencies(&config, NULL, inv_freq);
        for (int64_t i = 0; i < config.head_dim / 2; i++)
            if (!isfinite(inv_freq[i]) || inv_freq[i] < 0 || (i > 0 && inv_freq[i] > inv_freq[i - 1]))
                __builtin_trap();
        qs_mem_free(inv_freq);
    }
    json_decref(root);
    return 0;
}
