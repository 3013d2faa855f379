/* silu(gate) * up of one element (.cu files only). */
#ifndef QS_BACKEND_CUDA_GATE_H
#define QS_BACKEND_CUDA_GATE_H

#include "backend/cuda/device.h"

/* exp overflows to infinity for a very negative gate, which gives the right answer 0. The quotient is within 2 units in
 * the last place: one that is rounded right has a branch, in front of which results of other elements wait. */
__device__ __forceinline__ float qs_cu_silu_mul_of(float gate, float up)
{
    return qs_quotient(gate, 1.0f + expf(-gate)) * up;
}

#endif
