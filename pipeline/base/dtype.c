#include "base/dtype.h"

#include <math.h>

static const struct {
    const char *name;
    size_t bytes;
} rows[QS_N_DTYPES] = {
    [QS_F64] = {"f64", 8}, [QS_F32] = {"f32", 4}, [QS_F16] = {"f16", 2}, [QS_BF16] = {"bf16", 2},
    [QS_I64] = {"i64", 8}, [QS_I32] = {"i32", 4}, [QS_I16] = {"i16", 2}, [QS_I8] = {"i8", 1},
    [QS_U64] = {"u64", 8}, [QS_U32] = {"u32", 4}, [QS_U16] = {"u16", 2}, [QS_U8] = {"u8", 1},
};

size_t qs_dtype_bytes(qs_dtype dtype) { return rows[dtype].bytes; }

const char *qs_dtype_name(qs_dtype dtype) { return rows[dtype].name; }

static uint32_t bits_of(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static float float_of(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* Integer arithmetic only, so the result does not depend on flush-to-zero or on the instruction set. */
uint16_t qs_f16_from_f32(float value)
{
    uint32_t bits = bits_of(value);
    uint32_t sign = (bits >> 16) & 0x8000u, magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return (uint16_t)(sign | 0x7e00u);   /* NaN */
    if (magnitude >= 0x477ff000u) return (uint16_t)(sign | 0x7c00u);  /* >= 65520 rounds to infinity */
    if (magnitude >= 0x38800000u) {                                   /* normal: rebias, round the low 13 bits */
        uint32_t rounded = magnitude - 0x38000000u + 0x0fffu + ((magnitude >> 13) & 1u);
        return (uint16_t)(sign | (rounded >> 13));
    }
    if (magnitude < 0x33000000u) return (uint16_t)sign; /* < 2^-25, half of the smallest subnormal */
    uint32_t exponent = magnitude >> 23, mantissa = (magnitude & 0x7fffffu) | 0x800000u;
    uint32_t shift = 126u - exponent; /* 14..24 bits to drop */
    uint32_t half = 1u << (shift - 1), rest = mantissa & ((1u << shift) - 1u), result = mantissa >> shift;
    if (rest > half || (rest == half && (result & 1u))) result++;
    return (uint16_t)(sign | result);
}

float qs_f32_from_f16(uint16_t half)
{
    uint32_t sign = (uint32_t)(half & 0x8000u) << 16, exponent = (half >> 10) & 31u, mantissa = half & 0x3ffu;
    if (exponent == 31) return float_of(sign | 0x7f800000u | (mantissa << 13));
    if (exponent != 0) return float_of(sign | ((exponent + 112u) << 23) | (mantissa << 13));
    float magnitude = (float)mantissa * 0x1p-24f; /* exact: subnormal or zero */
    return float_of(sign | bits_of(magnitude));
}

uint16_t qs_bf16_from_f32(float value)
{
    uint32_t bits = bits_of(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return (uint16_t)((bits >> 16) | 0x40u);
    return (uint16_t)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

typedef union pun {
    uint32_t bits;
    float value;
} pun;

/* The same function without branches, which is what lets compilers put lanes side by side: rebias all three
 * cases and select by mask. A subnormal m * 2^-24 is (2^-14 + m * 2^-24) - 2^-14, exactly. */
static inline float f32_from_f16_lane(uint16_t half)
{
    uint32_t sign = (uint32_t)(half & 0x8000u) << 16, magnitude = (uint32_t)(half & 0x7fffu) << 13;
    uint32_t special = -(uint32_t)(magnitude >= 0x0f800000u), small = -(uint32_t)(magnitude < 0x00800000u);
    pun subnormal = {.bits = magnitude + 0x38800000u};
    subnormal.value -= 0x1p-14f;
    uint32_t normal = magnitude + 0x38000000u + (special & 0x38000000u);
    pun result = {.bits = (subnormal.bits & small) | (normal & ~small) | sign};
    return result.value;
}

void qs_f32_from_f16_array(float *dst, const uint16_t *src, int64_t n)
{
#pragma omp simd
    for (int64_t i = 0; i < n; i++) dst[i] = f32_from_f16_lane(src[i]);
}

void qs_f32_from_bf16_array(float *dst, const uint16_t *src, int64_t n)
{
    for (int64_t i = 0; i < n; i++) dst[i] = qs_f32_from_bf16(src[i]);
}

void qs_f16_from_f32_array(uint16_t *dst, const float *src, int64_t n)
{
    for (int64_t i = 0; i < n; i++) dst[i] = qs_f16_from_f32(src[i]);
}

void qs_bf16_from_f32_array(uint16_t *dst, const float *src, int64_t n)
{
    for (int64_t i = 0; i < n; i++) dst[i] = qs_bf16_from_f32(src[i]);
}

int64_t qs_find_nonfinite(const float *x, int64_t n)
{
    /* Exponent bits all set mark NaN and Inf. Their maximum over a block, unlike a loop that may stop at each
     * element, can be taken side by side. */
    enum { BLOCK = 256 };
    for (int64_t first = 0; first < n; first += BLOCK) {
        int64_t last = n - first < BLOCK ? n : first + BLOCK;
        uint32_t most = 0;
#pragma omp simd reduction(max : most)
        for (int64_t i = first; i < last; i++) {
            uint32_t bits;
            memcpy(&bits, &x[i], sizeof bits);
            bits &= 0x7f800000u;
            most = bits > most ? bits : most;
        }
        for (int64_t i = first; most == 0x7f800000u && i < last; i++)
            if (!isfinite(x[i])) return i;
    }
    return -1;
}
