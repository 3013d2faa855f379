/* The reference table: every kernel in plain C. */
#include "backend/cpu/kernels.h"

void qs_kernels_fill_ref(qs_cpu_kernels *kernels)
{
    *kernels = (qs_cpu_kernels){
        .rmsnorm = {"reference", qs_ref_rmsnorm},
        .rope = {"reference", qs_ref_rope},
        .attention = {"reference", qs_ref_attention},
        .attention_decode = {"reference", qs_ref_attention_decode},
        .silu_mul = {"reference", qs_ref_silu_mul},
        .add = {"reference", qs_ref_add},
        .abs_stats = {"reference", qs_ref_abs_stats},
        .logit_stats = {"reference", qs_ref_logit_stats},
        .kld = {"reference", qs_ref_kld},
        .gemv_dense =
            {
                [QS_MATRIX_F32] = {"reference", "gemv_f32_reference", qs_ref_gemv_f32, false},
                [QS_MATRIX_F16] = {"reference", "gemv_f16_reference", qs_ref_gemv_f16, false},
                [QS_MATRIX_BF16] = {"reference", "gemv_bf16_reference", qs_ref_gemv_bf16, false},
            },
        .gemv_int =
            {
                [QS_CODES_2] = {"reference", "gemv_int2_reference", qs_ref_gemv_int, false},
                [QS_CODES_3] = {"reference", "gemv_int3_reference", qs_ref_gemv_int, false},
                [QS_CODES_4] = {"reference", "gemv_int4_reference", qs_ref_gemv_int, false},
                [QS_CODES_8] = {"reference", "gemv_int8_reference", qs_ref_gemv_int, false},
            },
        .gemv_format =
            {
                [QS_PACKED_NF4] = {"reference", "gemv_nf4_reference", qs_ref_gemv_blocks, false},
                [QS_PACKED_FP4] = {"reference", "gemv_fp4_reference", qs_ref_gemv_blocks, false},
                [QS_PACKED_INT8] = {"reference", "gemv_llmint8_reference", qs_ref_gemv_int8, false},
                [QS_PACKED_EXL2] = {"reference", "gemv_exl2_reference", qs_ref_gemv_exl2, false},
            },
        .round = {"reference", qs_ref_round},
        .add_scaled = {"reference", qs_ref_add_scaled},
        .code_row = {"reference", qs_ref_code_row},
        .gram = {"reference", qs_ref_gram},
        .dequant = {"reference", qs_packed_dequant_rows},
        .to_bf16 = {"reference", qs_ref_to_bf16},
        .turn = {"reference", qs_ref_turn},
        .sum_groups = {"reference", qs_ref_sum_groups},
    };
}
