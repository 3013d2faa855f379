/* What block.c (loading), block_forward.c (computing) and decoder.c (many resident blocks) share. */
#ifndef QS_MODEL_BLOCK_IMPL_H
#define QS_MODEL_BLOCK_IMPL_H

#include "model/block.h"

enum { QS_N_VECTORS = QS_N_BLOCK_ROLES - QS_N_LINEARS }; /* biases and norms of a block */

/* Host buffers that a load passes through, allocated when first needed. Blocks that are loaded one after the
 * other share one. */
typedef struct qs_staging {
    float *vectors; /* the block's vectors as they lie on the device */
    float *f32;     /* [f32_elems] */
    uint16_t *half; /* [half_elems]: a linear in 16 bits */
    int64_t f32_elems, half_elems;
} qs_staging;
void qs_staging_free(qs_staging *staging);

/* Reads a whole matrix of the model into the staging and fills desc: F32, or dense_dtype when it is to be
 * multiplied in GEMV form. as_stored: 16-bit tensors stay as they are, which halves their way to a device. */
QS_MUST_CHECK qs_err qs_staging_read(qs_staging *staging, const qs_model *model, qs_role role, int64_t layer,
                                     const qs_block_options *options, bool as_stored, qs_matrix_desc *desc);

/* Fills desc without reading. */
void qs_staging_describe(const qs_model *model, qs_role role, int64_t layer, const qs_block_options *options,
                         bool as_stored, qs_matrix_desc *desc);

struct qs_block {
    qs_backend *backend;
    const qs_model *model;
    qs_block_options options;
    int64_t layer;
    qs_matrix *linears[QS_N_LINEARS];
    int64_t n_out[QS_N_LINEARS], n_in[QS_N_LINEARS];
    float *vectors;                       /* device, all biases and norms */
    int64_t vector_offset[QS_N_VECTORS];  /* in floats; -1 = the model has none */
    int64_t vector_floats;
    qs_staging own_staging;
    qs_staging *staging;                  /* own_staging or the one that was lent */
};

/* As qs_block_create, with a staging that outlives every load (NULL = the block's own). */
QS_MUST_CHECK qs_err qs_block_create_staged(qs_block **out, qs_backend *backend, const qs_model *model,
                                            const qs_linear_source *linears, int64_t layer,
                                            const qs_block_options *options, qs_staging *staging);

/* Device pointer of a bias or norm; NULL when the model has none. */
static inline const float *qs_block_vector(const qs_block *block, qs_role role)
{
    int64_t offset = block->vector_offset[role - QS_N_LINEARS];
    return offset < 0 ? NULL : block->vectors + offset;
}

#endif
