#include "train/row_kernels.h"

#include <pthread.h>

static qs_train_kernels reference_kernels, fastest_kernels;

static void fill(void)
{
    qs_train_kernels_fill_ref(&reference_kernels);
    qs_train_kernels_fill_ref(&fastest_kernels);
#if defined(__x86_64__)
    bool avx2 =
        __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
    bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                  __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
    if (avx2) qs_train_kernels_fill_avx2(&fastest_kernels);
    if (avx2 && avx512) qs_train_kernels_fill_avx512(&fastest_kernels);
#endif
}

const qs_train_kernels *qs_train_kernels_get(bool reference)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    (void)pthread_once(&once, fill);
    return reference ? &reference_kernels : &fastest_kernels;
}
