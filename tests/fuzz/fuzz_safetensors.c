/* The safetensors parser on any bytes; every byte of every tensor must be readable. */
#include "model/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    qs_safetensors file;
    if (qs_safetensors_parse(&file, data, bytes, "fuzz") != QS_OK) return 0;
    unsigned sum = 0;
    for (int64_t i = 0; i < file.n_tensors; i++) {
        const qs_safetensor *tensor = &file.tensors[i];
        if (qs_safetensors_find(&file, tensor->name) != tensor) __builtin_trap();
        for (size_t k = 0; k < tensor->bytes; k++) sum += tensor->data[k];
    }
    (void)qs_safetensors_metadata(&file, "format");
    qs_safetensors_free(&file);
    return sum == 1 ? 1 : 0; /* keeps the reads */
}
