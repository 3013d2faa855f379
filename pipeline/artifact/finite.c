#include "artifact/finite.h"

/* NaN and Inf are the values whose exponent bits, the mask, are all ones. The first loop over a block has no
 * early exit, so that it vectorises. */
#define FIND_NONFINITE(name, type, mask)                                                          \
    static int64_t name(const type *bits, int64_t n)                                              \
    {                                                                                             \
        enum { BLOCK = 4096 };                                                                    \
        for (int64_t start = 0; start < n; start += BLOCK) {                                      \
            int64_t end = start + BLOCK < n ? start + BLOCK : n;                                  \
            unsigned found = 0;                                                                   \
            for (int64_t i = start; i < end; i++) found |= (bits[i] & (mask)) == (mask);          \
            for (int64_t i = start; found != 0 && i < end; i++)                                   \
                if ((bits[i] & (mask)) == (mask)) return i;                                       \
        }                                                                                         \
        return -1;                                                                                \
    }

FIND_NONFINITE(find_f64, uint64_t, 0x7ff0000000000000u)
FIND_NONFINITE(find_f32, uint32_t, 0x7f800000u)
FIND_NONFINITE(find_f16, uint16_t, 0x7c00u)
FIND_NONFINITE(find_bf16, uint16_t, 0x7f80u)

int64_t qs_find_nonfinite_any(qs_dtype dtype, const void *data, int64_t n)
{
    switch (dtype) {
    case QS_F64: return find_f64(data, n);
    case QS_F32: return find_f32(data, n);
    case QS_F16: return find_f16(data, n);
    case QS_BF16: return find_bf16(data, n);
    default: return -1;
    }
}
