/* The fast kernels, compiled for AVX2 with FMA and F16C. */
#include "backend/cpu/attention_simd.h"
#include "backend/cpu/formats_simd.h"
#include "backend/cpu/gemv_dense_simd.h"
#include "backend/cpu/gemv_int_simd.h"
#include "backend/cpu/gram_simd.h"
#include "backend/cpu/kernels.h"
#include "backend/cpu/layout_simd.h"
#include "backend/cpu/logits_simd.h"
#include "backend/cpu/rows_simd.h"

void qs_kernels_fill_avx2(qs_cpu_kernels *kernels)
{
    kernels->rmsnorm.from = "avx2";
    kernels->rmsnorm.run = rmsnorm_simd;
    kernels->rope.from = "avx2";
    kernels->rope.run = rope_simd;
    kernels->attention.from = "avx2";
    kernels->attention.run = attention_simd;
    kernels->attention_decode.from = "avx2";
    kernels->attention_decode.run = attention_decode_simd;
    kernels->silu_mul.from = "avx2";
    kernels->silu_mul.run = silu_mul_simd;
    kernels->add.from = "avx2";
    kernels->add.run = add_simd;
    kernels->abs_stats.from = "avx2";
    kernels->abs_stats.run = abs_stats_simd;
    kernels->logit_stats.from = "avx2";
    kernels->logit_stats.run = logit_stats_simd;
    kernels->kld.from = "avx2";
    kernels->kld.run = kld_simd;
    kernels->gram.from = "avx2";
    kernels->gram.run = gram_simd;
    kernels->dequant.from = "avx2";
    kernels->dequant.run = dequant_simd;
    kernels->to_bf16.from = "avx2";
    kernels->to_bf16.run = to_bf16_simd;
    kernels->turn.from = "avx2";
    kernels->turn.run = turn_simd;
    kernels->sum_groups.from = "avx2";
    kernels->sum_groups.run = sum_groups_simd;
    kernels->gemv_dense[QS_MATRIX_F32] = (qs_gemv_kernel){"avx2", "gemv_f32_avx2", gemv_f32_simd, false};
    kernels->gemv_dense[QS_MATRIX_F16] = (qs_gemv_kernel){"avx2", "gemv_f16_avx2", gemv_f16_simd, false};
    kernels->gemv_dense[QS_MATRIX_BF16] = (qs_gemv_kernel){"avx2", "gemv_bf16_avx2", gemv_bf16_simd, false};
    kernels->gemv_int[QS_CODES_2] = (qs_gemv_kernel){"avx2", "gemv_int2_avx2", gemv_int2_simd, true};
    kernels->gemv_int[QS_CODES_3] = (qs_gemv_kernel){"avx2", "gemv_int3_avx2", gemv_int3_simd, true};
    kernels->gemv_int[QS_CODES_4] = (qs_gemv_kernel){"avx2", "gemv_int4_avx2", gemv_int4_simd, true};
    kernels->gemv_int[QS_CODES_8] = (qs_gemv_kernel){"avx2", "gemv_int8_avx2", gemv_int8_simd, true};
    kernels->gemv_format[QS_PACKED_NF4] = (qs_gemv_kernel){"avx2", "gemv_nf4_avx2", gemv_blocks_simd, true};
    kernels->gemv_format[QS_PACKED_FP4] = (qs_gemv_kernel){"avx2", "gemv_fp4_avx2", gemv_blocks_simd, true};
    kernels->gemv_format[QS_PACKED_INT8] =
        (qs_gemv_kernel){"avx2", "gemv_llmint8_avx2", gemv_llmint8_simd, true};
    /* Panels of integers, segment by segment (cpu_exl2.c). */
    kernels->gemv_format[QS_PACKED_EXL2] = (qs_gemv_kernel){"avx2", "gemv_exl2_avx2", NULL, true};
    kernels->round.from = "avx2";
    kernels->round.run = round_simd;
    kernels->add_scaled.from = "avx2";
    kernels->add_scaled.run = add_scaled_simd;
    kernels->code_row.from = "avx2";
    kernels->code_row.run = code_row_simd;
}
