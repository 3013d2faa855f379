/* What matrices take on the device: the sizes that gpu_matrix.c reserves, and the scratch of loading and multiplying
 * them. */
#include "backend/cuda/gpu_matrix.h"
#include "base/minmax.h"

/* ---- matrices ---- */

/* Pairs of rows, as scales and zero points lie. */
static size_t n_pairs(int64_t n_out, int64_t n_groups) { return (size_t)(qs_cu_n_tiles(n_out) * 8 * n_groups); }

static size_t words_bytes(const qs_gpu_matrix *self, int64_t n_out)
{
    /* Read with the last chunk; mixed pieces are whole. */
    int64_t behind = self->shape.format == QS_CU_MIXED
                         ? 0 : (QS_CU_PIECE_CHUNKS - 1) * 32 * qs_cu_words(self->shape.format);
    return (size_t)(qs_cu_n_tiles(n_out) * self->tile_words + behind) * sizeof(uint32_t);
}

static void packed_sizes(const qs_gpu_matrix *self, const qs_packed *packed, qs_gpu_sizes *out)
{
    int64_t tile_words, n_out = packed->n_out;
    if (self->format == QS_PACKED_INT8) {
        out->scales = n_pairs(n_out, 1) * sizeof(uint32_t);
        out->absmax = (size_t)n_out * sizeof *packed->absmax;
    } else if (self->format != QS_PACKED_INT) {
        out->scales = n_pairs(n_out, packed->n_in / self->shape.group_size) * 2 * sizeof(float);
    } else {
        out->scales = n_pairs(n_out, packed->n_groups) * sizeof(uint32_t);
        out->zeros = self->has_zeros ? n_pairs(n_out, packed->n_groups) * sizeof(uint16_t) : 0;
        out->perm = self->has_perm ? (size_t)packed->n_in * sizeof *packed->perm : 0;
        out->plan = self->shape.format == QS_CU_MIXED ? qs_gpu_mixed_plan_bytes(packed, &tile_words) : 0;
    }
}

qs_gpu_sizes qs_gpu_sizes_of(const qs_gpu_matrix *self, const qs_matrix_desc *desc, unsigned uses, qs_compute compute)
{
    qs_gpu_sizes sizes = {0};
    sizes.keeps = (uses & QS_USE_GEMV) != 0;
    if ((uses & QS_USE_GEMM) != 0) sizes.dense = qs_gpu_dense_bytes(desc->n_out, desc->n_in, compute);
    if (self->is_f32) {
        sizes.words = sizes.keeps ? (size_t)(desc->n_out * desc->n_in) * sizeof(float) : 0;
        return sizes;
    }
    sizes.words = words_bytes(self, desc->n_out);
    if (desc->format == QS_MATRIX_INT) packed_sizes(self, desc->packed, &sizes);
    return sizes;
}

/* ---- scratch ---- */

static void want(qs_need *need, qs_gpu_scratch buffer, size_t bytes)
{
    if (bytes > need->shared_bytes[buffer]) need->shared_bytes[buffer] = bytes;
}

int64_t qs_gpu_piece_rows(int64_t row_bytes)
{
    enum { PIECE_ROWS = 2 * QS_CU_TILE_ROWS }; /* tiles come in pairs */
    int64_t n = QS_GPU_RAW_BYTES / (row_bytes * PIECE_ROWS) * PIECE_ROWS;
    return n > PIECE_ROWS ? n : PIECE_ROWS;
}

void qs_gpu_terms_need(qs_need *out, int64_t n_in)
{
    enum { COLUMNS = 32 /* of a launch */ };
    want(out, QS_GPU_X_TERMS, (size_t)(COLUMNS * qs_cu_x_width(n_in)) * sizeof(uint16_t));
    want(out, QS_GPU_X_SCALE, QS_CU_ROWS_MAX * sizeof(float));
}

static void loading_need(qs_need *need, const qs_gpu_matrix *self, const qs_matrix_desc *desc, qs_compute compute,
                         const qs_gpu_sizes *sizes)
{
    const size_t passing[] = {sizes->words, sizes->scales, sizes->zeros, sizes->perm, sizes->plan};
    const qs_packed *packed = desc->format == QS_MATRIX_INT ? desc->packed : NULL;
    int64_t row_bytes = packed != NULL ? packed->row_bytes : desc->n_in * (int64_t)sizeof(uint16_t);
    if (self->is_f32) {
        size_t bytes = (size_t)(desc->n_out * desc->n_in) * sizeof(float);
        bool passes = sizes->dense > 0 && compute == QS_COMPUTE_BF16;
        want(need, QS_GPU_RAW, !passes ? 0 : bytes < QS_GPU_RAW_BYTES ? bytes : QS_GPU_RAW_BYTES);
        return;
    }
    want(need, QS_GPU_RAW, (size_t)(qs_min64(desc->n_out, qs_gpu_piece_rows(row_bytes)) * row_bytes));
    if (packed != NULL && self->format == QS_PACKED_INT)
        want(need, QS_GPU_RAW, (size_t)(packed->n_out * packed->n_groups) *
                                   (sizeof *packed->scales + (packed->zeros != NULL ? sizeof *packed->zeros : 0)));
    for (int i = 0; i < 5 && !sizes->keeps; i++) want(need, (qs_gpu_scratch)(QS_GPU_STAGE + i), passing[i]);
}

/* Inputs of NF4, FP4 and int8 that are rounded or coded first, and products that are finished after: n rows by dense
 * weights, 0 = none. */
static void format_need(qs_need *need, const qs_gpu_matrix *self, const qs_matrix_desc *desc, unsigned uses,
                        qs_compute compute, int64_t n)
{
    bool as_it_is = self->compute == QS_ROUND_BF16 && compute == QS_COMPUTE_BF16;
    if ((uses & QS_USE_GEMV) != 0 && qs_gpu_rounds_few_rows(self))
        want(need, QS_GPU_CODED, (size_t)(QS_CU_ROWS_MAX * desc->n_in) * sizeof(float));
    if (self->compute == QS_ROUND_F32) return;
    if (!as_it_is) want(need, QS_GPU_CODED, (size_t)(n * desc->n_in) * sizeof(float));
    if (self->format == QS_PACKED_INT8) want(need, QS_GPU_CODED_SCALE, (size_t)n * sizeof(float));
    want(need, QS_GPU_PRODUCT, (size_t)(n * desc->n_out) * sizeof(float));
}

static void products_need(qs_need *need, const qs_gpu *gpu, const qs_gpu_matrix *self, const qs_matrix_desc *desc,
                          unsigned uses, qs_compute compute, int64_t n_rows)
{
    bool takes_few = (uses & QS_USE_GEMV) != 0;
    int64_t n_few = self->is_f32 ? QS_GEMV_MAX_ROWS : QS_CU_ROWS_MAX, stored_rows;
    int64_t n_many = takes_few && n_rows <= n_few ? 0 : n_rows;
    if (takes_few) qs_gpu_terms_need(need, desc->n_in);
    (void)qs_gpu_many_kernel(gpu, self, uses, compute, &stored_rows);
    if (n_many > 0 && stored_rows > 0) qs_gpu_many_need(need, gpu, qs_min64(n_many, stored_rows), desc->n_in);
    /* Scales of integers are not known: codes beyond f16 become dense for any number of rows. */
    bool has_scales = desc->format == QS_MATRIX_INT && self->format == QS_PACKED_INT;
    int64_t n_dense = n_many > stored_rows || has_scales ? n_many : 0;
    format_need(need, self, desc, uses, compute, n_dense);
    if (n_dense == 0) return;
    if (compute == QS_COMPUTE_BF16)
        want(need, QS_GPU_X_BF16,
             (size_t)(qs_gpu_n_dense_terms(self, compute) * n_dense * desc->n_in) * sizeof(uint16_t));
    if ((uses & QS_USE_GEMM) == 0 && !(self->is_f32 && compute == QS_COMPUTE_F32))
        want(need, QS_GPU_DENSE, qs_gpu_dense_bytes(desc->n_out, desc->n_in, compute));
}

qs_err qs_gpu_matrix_need(qs_need *out, const qs_backend *backend, const qs_matrix_desc *desc, unsigned uses,
                          qs_compute compute, int64_t n_rows)
{
    qs_gpu_matrix self = {0};
    qs_err err = qs_gpu_matrix_shape(&self, desc);
    if (err != QS_OK) return err;
    qs_gpu_sizes sizes = qs_gpu_sizes_of(&self, desc, uses, compute);
    out->own_bytes = sizes.dense + sizes.absmax;
    if (sizes.keeps) out->own_bytes += sizes.words + sizes.scales + sizes.zeros + sizes.perm + sizes.plan;
    loading_need(out, &self, desc, compute, &sizes);
    products_need(out, backend->state, &self, desc, uses, compute, n_rows);
    return QS_OK;
}
