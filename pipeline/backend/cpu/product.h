/* Products of a shape known beforehand, each on the one thread that asks for it: C[m, n] = A B or C += A B,
 * with A and B dense by rows as they are or transposed, in f32 or in bf16 with f32 sums. For work that is
 * divided between threads above the level of products, as training is; qs_op_linear divides a product itself.
 *
 * All products of an engine are made before work starts; running one neither allocates nor fails, except
 * inside oneDNN, whose first refusal is kept for qs_product_status. Results depend on shape and machine
 * alone. */
#ifndef QS_BACKEND_CPU_PRODUCT_H
#define QS_BACKEND_CPU_PRODUCT_H

#include <stdbool.h>

#include "backend/backend.h"

typedef struct qs_product_engine qs_product_engine;
typedef struct qs_product qs_product;

/* For threads [0, n_threads). QS_E_UNSUPPORTED when compute is bf16 and this CPU would do it by a plain loop. */
QS_MUST_CHECK qs_err qs_product_engine_create(qs_product_engine **out, int n_threads, qs_compute compute);
void qs_product_engine_destroy(qs_product_engine *engine); /* and its products */
/* "oneDNN 2.6.3 bf16 brg:avx512_core_amx_bf16" */
const char *qs_product_engine_describe(const qs_product_engine *engine);

typedef struct qs_product_shape {
    int64_t m, n, k;
    bool trans_a; /* A lies as [k, m], else [m, k] */
    bool trans_b; /* B lies as [n, k], else [k, n] */
    bool add;     /* C += instead of C = */
} qs_product_shape;

/* The same shape gives the same product. */
QS_MUST_CHECK qs_err qs_product_find(qs_product **out, qs_product_engine *engine,
                                     const qs_product_shape *shape);

/* A and B of the engine's type (float or uint16_t bits of bf16), C f32. Must run where OpenMP has one thread. */
void qs_product_run(const qs_product *product, int thread, const void *a, const void *b, float *c);

/* The first failure of any run. */
QS_MUST_CHECK qs_err qs_product_status(const qs_product_engine *engine);

#endif
