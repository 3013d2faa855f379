/* Linears of a GGUF file as packed codes, so that they are deployed in low bits too: Q4_0 is d (q - 8), Q8_0
 * is d q. Types with minima or scales of scales are no integer grid with f16 scales; these linears are read
 * as numbers. */
#include <string.h>

#include "base/mem.h"
#include "model/checkpoint_impl.h"
#include "model/dequant.h"

enum { BLOCK = 32 };

static void unpack(qs_storage storage, const uint8_t *qs, uint8_t *codes)
{
    for (int j = 0; j < BLOCK; j++) {
        if (storage == QS_STORE_Q8_0) codes[j] = (uint8_t)(qs[j] + 128); /* int8 from -128 to 0 .. 255 */
        else codes[j] = j < BLOCK / 2 ? qs[j] & 15 : qs[j - BLOCK / 2] >> 4;
    }
}

qs_err qs_checkpoint_gguf_shape(const qs_model *model, qs_role role, int64_t layer, qs_packed *out, bool *packed)
{
    qs_tensor_info info = qs_model_info(model, role, layer);
    *packed = info.storage == QS_STORE_Q4_0 || info.storage == QS_STORE_Q8_0;
    return *packed ? qs_packed_shape(out, info.storage == QS_STORE_Q8_0 ? 8 : 4, info.n_out, info.n_in, BLOCK) : QS_OK;
}

qs_err qs_checkpoint_gguf_load(const qs_model *model, qs_role role, int64_t layer, qs_packed *out, bool *packed)
{
    qs_tensor_info info = qs_model_info(model, role, layer);
    uint8_t *codes = NULL;
    size_t block_bytes = qs_storage_get(info.storage)->block_bytes;
    qs_err err = qs_checkpoint_gguf_shape(model, role, layer, out, packed);
    if (err != QS_OK || !*packed) return err;
    QS_TRY(qs_packed_alloc(out, false, false));
    QS_TRY(QS_NEW(codes, info.n_in, "codes of a row"));
    for (int64_t o = 0; o < info.n_out; o++) {
        const uint8_t *block = qs_model_stored_row(model, role, layer, o);
        for (int64_t g = 0; g < out->n_groups; g++, block += block_bytes) {
            memcpy(&out->scales[o * out->n_groups + g], block, sizeof *out->scales);
            unpack(info.storage, block + sizeof *out->scales, codes + g * BLOCK);
        }
        qs_packed_set_row(out, o, codes);
    }
    err = qs_packed_check(out, info.name);
out:
    qs_mem_free(codes);
    if (err != QS_OK) qs_packed_free(out);
    return err;
}
