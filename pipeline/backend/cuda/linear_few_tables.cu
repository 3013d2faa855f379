/* Few rows of x times weights that are looked up, and codes of 8 bits (linear_few.cu). */
#include "backend/cuda/linear_alike.h"

extern "C" int qs_cu_few_tables(const qs_cu_few *few)
{
    switch (few->shape->format) {
    case QS_CU_INT8: return run_few(few, launch_steps<QS_CU_INT8>);
    case QS_CU_TABLE_F32: return run_few(few, launch_table<QS_CU_TABLE_F32>);
    case QS_CU_TABLE_BF16: return run_few(few, launch_table<QS_CU_TABLE_BF16>);
    default: return run_few(few, launch_table<QS_CU_TABLE_F16>);
    }
}
