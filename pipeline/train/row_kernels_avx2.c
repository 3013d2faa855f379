/* The row kernels of training, compiled for AVX2. */
#include "train/row_kernels_simd.h"

void qs_train_kernels_fill_avx2(qs_train_kernels *kernels) { *kernels = QS_TRAIN_KERNELS_SIMD("avx2"); }
