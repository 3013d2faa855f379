/* Element types and the 16-bit float conversions. IEEE binary16 and bfloat16 are held as uint16_t. */
#ifndef QS_BASE_DTYPE_H
#define QS_BASE_DTYPE_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef enum qs_dtype {
    QS_F64, QS_F32, QS_F16, QS_BF16,
    QS_I64, QS_I32, QS_I16, QS_I8,
    QS_U64, QS_U32, QS_U16, QS_U8,
    QS_N_DTYPES
} qs_dtype;

size_t qs_dtype_bytes(qs_dtype dtype);
const char *qs_dtype_name(qs_dtype dtype); /* "f32", "u8", ... */

/* Round to nearest, ties to even; overflow gives infinity, NaN stays NaN. */
uint16_t qs_f16_from_f32(float value);
float qs_f32_from_f16(uint16_t half);
uint16_t qs_bf16_from_f32(float value);
static inline float qs_f32_from_bf16(uint16_t half)
{
    uint32_t bits = (uint32_t)half << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* Arrays of n elements. */
void qs_f32_from_f16_array(float *dst, const uint16_t *src, int64_t n);
void qs_f32_from_bf16_array(float *dst, const uint16_t *src, int64_t n);
void qs_f16_from_f32_array(uint16_t *dst, const float *src, int64_t n);
void qs_bf16_from_f32_array(uint16_t *dst, const float *src, int64_t n);

/* Index of the first NaN or Inf in x[0..n), or -1. */
int64_t qs_find_nonfinite(const float *x, int64_t n);

#endif
