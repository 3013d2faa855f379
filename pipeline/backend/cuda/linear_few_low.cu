/* Few rows of x times codes of 2 and 3 bits (linear_few.cu). */
#include "backend/cuda/linear_alike.h"

extern "C" int qs_cu_few_low(const qs_cu_few *few)
{
    return few->shape->format == QS_CU_INT2 ? run_few(few, launch_steps<QS_CU_INT2>)
                                            : run_few(few, launch_steps<QS_CU_INT3>);
}
