/* The row kernels of training, compiled for AVX-512; rounding to bf16 by one instruction where the CPU has
 * it. */
#include "train/row_kernels_simd.h"

/* Numbers below the smallest normal one become 0, which no product of f32 sums would notice. */
__attribute__((target("avx512bf16"))) static void to_bf16_instruction(const float *x, int64_t n,
                                                                      uint16_t *out)
{
    int64_t i = 0;
    for (; i + V_LANES <= n; i += V_LANES)
        _mm256_storeu_si256((__m256i_u *)(out + i), (__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(x + i)));
    if (i == n) return;
    __m512 rest = _mm512_maskz_loadu_ps((__mmask16)((1u << (n - i)) - 1u), x + i);
    _mm256_mask_storeu_epi16(out + i, (__mmask16)((1u << (n - i)) - 1u), (__m256i)_mm512_cvtneps_pbh(rest));
}

void qs_train_kernels_fill_avx512(qs_train_kernels *kernels)
{
    *kernels = QS_TRAIN_KERNELS_SIMD("avx512");
    if (__builtin_cpu_supports("avx512bf16")) kernels->to_bf16 = to_bf16_instruction;
}
