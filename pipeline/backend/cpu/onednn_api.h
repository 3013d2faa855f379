/* What differs between the C interfaces of oneDNN 2.x and 3.x, as far as the products need it.
 *
 * 2.x describes an operation in a struct of its own and lets the caller hold memory descriptors by value; 3.x
 * makes the primitive descriptor at once and keeps memory descriptors behind pointers. Both answer questions
 * about a finished primitive descriptor alike, so a product is described by dimensions here and everything
 * else is asked of the result. */
#ifndef QS_BACKEND_CPU_ONEDNN_API_H
#define QS_BACKEND_CPU_ONEDNN_API_H

#include <oneapi/dnnl/dnnl.h>

/* y[m, n] = x[m, k] W[k, n]; y dense by rows and f32, x and W of one type. */
typedef struct onednn_matmul {
    int64_t m, n, k;
    dnnl_data_type_t type;
    dnnl_format_tag_t x_tag; /* dnnl_ab: dense by rows; dnnl_ba: x^T is */
    dnnl_format_tag_t weights_tag;
} onednn_matmul;

#if DNNL_VERSION_MAJOR >= 3

typedef const_dnnl_memory_desc_t onednn_desc; /* borrowed */

/* The result is added to what the destination holds. */
static inline dnnl_status_t onednn_append_sum(dnnl_post_ops_t ops)
{
    return dnnl_post_ops_append_sum(ops, 1.0f, 0, dnnl_data_type_undef);
}

static inline dnnl_status_t onednn_matmul_create(dnnl_primitive_desc_t *pd, dnnl_engine_t engine,
                                                 const onednn_matmul *shape, const_dnnl_primitive_attr_t attr)
{
    dnnl_dims_t x_dims = {shape->m, shape->k}, w_dims = {shape->k, shape->n}, y_dims = {shape->m, shape->n};
    dnnl_memory_desc_t x = NULL, w = NULL, y = NULL;
    dnnl_status_t status = dnnl_memory_desc_create_with_tag(&x, 2, x_dims, shape->type, shape->x_tag);
    if (status == dnnl_success)
        status = dnnl_memory_desc_create_with_tag(&w, 2, w_dims, shape->type, shape->weights_tag);
    if (status == dnnl_success) status = dnnl_memory_desc_create_with_tag(&y, 2, y_dims, dnnl_f32, dnnl_ab);
    if (status == dnnl_success) status = dnnl_matmul_primitive_desc_create(pd, engine, x, w, NULL, y, attr);
    dnnl_memory_desc_t all[] = {x, w, y};
    for (int i = 0; i < 3; i++)
        if (all[i] != NULL) (void)dnnl_memory_desc_destroy(all[i]);
    return status;
}

#else

typedef const dnnl_memory_desc_t *onednn_desc; /* borrowed */

static inline dnnl_status_t onednn_append_sum(dnnl_post_ops_t ops) { return dnnl_post_ops_append_sum(ops, 1.0f); }

static inline dnnl_status_t onednn_matmul_create(dnnl_primitive_desc_t *pd, dnnl_engine_t engine,
                                                 const onednn_matmul *shape, const_dnnl_primitive_attr_t attr)
{
    dnnl_dims_t x_dims = {shape->m, shape->k}, w_dims = {shape->k, shape->n}, y_dims = {shape->m, shape->n};
    dnnl_memory_desc_t x, w, y;
    dnnl_matmul_desc_t desc;
    dnnl_status_t status = dnnl_memory_desc_init_by_tag(&x, 2, x_dims, shape->type, shape->x_tag);
    if (status == dnnl_success)
        status = dnnl_memory_desc_init_by_tag(&w, 2, w_dims, shape->type, shape->weights_tag);
    if (status == dnnl_success) status = dnnl_memory_desc_init_by_tag(&y, 2, y_dims, dnnl_f32, dnnl_ab);
    if (status == dnnl_success) status = dnnl_matmul_desc_init(&desc, &x, &w, NULL, &y);
    if (status == dnnl_success) status = dnnl_primitive_desc_create(pd, &desc, attr, engine, NULL);
    return status;
}

#endif

#endif
