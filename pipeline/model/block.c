#include "model/block.h"

#include "base/mem.h"
#include "model/block_impl.h"

/* Rows are converted to 16 bits through a buffer of about this many floats, which stays in the L2 cache. */
enum { CHUNK_FLOATS = 1 << 17, ALIGN_FLOATS = QS_MEM_ALIGN / (int)sizeof(float) };

static const char *const site_names[QS_N_SITES] = {
    [QS_SITE_QKV] = "qkv", [QS_SITE_O] = "o", [QS_SITE_GATE_UP] = "gate_up", [QS_SITE_DOWN] = "down",
};

const char *qs_site_name(qs_site site) { return site_names[site]; }

qs_site qs_role_site(qs_role role)
{
    static const qs_site sites[QS_N_LINEARS] = {
        [QS_ROLE_Q] = QS_SITE_QKV,        [QS_ROLE_K] = QS_SITE_QKV,      [QS_ROLE_V] = QS_SITE_QKV,
        [QS_ROLE_O] = QS_SITE_O,          [QS_ROLE_GATE] = QS_SITE_GATE_UP, [QS_ROLE_UP] = QS_SITE_GATE_UP,
        [QS_ROLE_DOWN] = QS_SITE_DOWN,
    };
    return sites[role];
}

int64_t qs_site_width(const qs_model_config *config, qs_site site)
{
    if (site == QS_SITE_O) return config->n_heads * config->head_dim;
    return site == QS_SITE_DOWN ? config->d_ff : config->d_model;
}

void qs_staging_free(qs_staging *staging)
{
    qs_mem_free(staging->vectors);
    qs_mem_free(staging->f32);
    qs_mem_free(staging->half);
    *staging = (qs_staging){0};
}

/* Grows a buffer that keeps no contents. */
static qs_err grow(void *pointer, int64_t *n_now, int64_t n, size_t elem_bytes, const char *what)
{
    void **buffer = pointer;
    if (n <= *n_now) return QS_OK;
    qs_mem_free(*buffer);
    *n_now = 0;
    qs_err err = qs_mem_array(buffer, n, elem_bytes, what);
    if (err == QS_OK) *n_now = n;
    return err;
}

static qs_err read_half(qs_staging *staging, const qs_model *model, qs_role role, int64_t layer,
                        qs_dtype dtype, const qs_tensor_info *info)
{
    qs_err err = QS_OK;
    int64_t chunk = CHUNK_FLOATS / info->n_in;
    if (chunk < 1) chunk = 1;
    QS_TRY(grow(&staging->half, &staging->half_elems, info->n_out * info->n_in, sizeof *staging->half,
                "weights on their way to the device"));
    if (info->storage == (dtype == QS_F16 ? QS_STORE_F16 : QS_STORE_BF16))
        return qs_model_read_16(model, role, layer, staging->half);
    QS_TRY(grow(&staging->f32, &staging->f32_elems, chunk * info->n_in, sizeof *staging->f32,
                "rows on their way to 16 bits"));
    for (int64_t row = 0; row < info->n_out; row += chunk) {
        int64_t n_rows = info->n_out - row < chunk ? info->n_out - row : chunk;
        uint16_t *dst = staging->half + row * info->n_in;
        QS_TRY(qs_model_read_rows_f32(model, role, layer, row, n_rows, staging->f32));
        if (dtype == QS_F16) qs_f16_from_f32_array(dst, staging->f32, n_rows * info->n_in);
        else qs_bf16_from_f32_array(dst, staging->f32, n_rows * info->n_in);
    }
out:
    return err;
}

/* GEMM makes a copy of its own, from f32 on the host; only the form that is kept as it is may be 16 bits wide. */
static qs_dtype dtype_of(const qs_block_options *options, bool as_stored, qs_storage storage)
{
    if ((options->uses & QS_USE_GEMV) != 0) return options->dense_dtype;
    if (as_stored && storage == QS_STORE_F16) return QS_F16;
    return as_stored && storage == QS_STORE_BF16 ? QS_BF16 : QS_F32;
}

void qs_staging_describe(const qs_model *model, qs_role role, int64_t layer, const qs_block_options *options,
                         bool as_stored, qs_matrix_desc *desc)
{
    static const qs_matrix_format formats[] = {[QS_F32] = QS_MATRIX_F32, [QS_F16] = QS_MATRIX_F16,
                                               [QS_BF16] = QS_MATRIX_BF16};
    qs_tensor_info info = qs_model_info(model, role, layer);
    *desc = (qs_matrix_desc){.format = formats[dtype_of(options, as_stored, info.storage)], .n_out = info.n_out,
                             .n_in = info.n_in};
}

qs_err qs_staging_read(qs_staging *staging, const qs_model *model, qs_role role, int64_t layer,
                       const qs_block_options *options, bool as_stored, qs_matrix_desc *desc)
{
    qs_err err = QS_OK;
    qs_tensor_info info = qs_model_info(model, role, layer);
    qs_staging_describe(model, role, layer, options, as_stored, desc);
    if (desc->format != QS_MATRIX_F32) {
        QS_TRY(read_half(staging, model, role, layer, desc->format == QS_MATRIX_F16 ? QS_F16 : QS_BF16, &info));
        desc->dense = staging->half;
    } else {
        QS_TRY(grow(&staging->f32, &staging->f32_elems, info.n_out * info.n_in, sizeof *staging->f32,
                    "weights on their way to the device"));
        QS_TRY(qs_model_read_f32(model, role, layer, staging->f32));
        desc->dense = staging->f32;
    }
out:
    return err;
}

static int64_t padded(int64_t n) { return (n + ALIGN_FLOATS - 1) / ALIGN_FLOATS * ALIGN_FLOATS; }

size_t qs_block_vector_bytes(const qs_model_config *config)
{
    const qs_model_config *c = config;
    int64_t kv = c->n_kv_heads * c->head_dim, floats = 2 * padded(c->d_model);
    if (c->qkv_bias) floats += padded(c->n_heads * c->head_dim) + 2 * padded(kv);
    if (c->o_bias) floats += padded(c->d_model);
    if (c->qk_norm) floats += 2 * padded(c->head_dim);
    return (size_t)floats * sizeof(float);
}

/* Where each vector lies in the block's one buffer; layers of a model are all alike. */
static void layout_vectors(qs_block *block)
{
    block->vector_floats = 0;
    for (qs_role role = QS_N_LINEARS; role < QS_N_BLOCK_ROLES; role++) {
        int64_t *offset = &block->vector_offset[role - QS_N_LINEARS];
        *offset = -1;
        if (!qs_model_has(block->model, role, block->layer)) continue;
        *offset = block->vector_floats;
        block->vector_floats += padded(qs_model_info(block->model, role, block->layer).n_in);
    }
}

/* From the source when it has one of its own. */
static qs_err read_vector(const qs_block *block, const qs_linear_source *linears, int64_t layer, qs_role role,
                          float *dst)
{
    bool found = false;
    qs_err err = QS_OK;
    if (linears != NULL && linears->get_vector != NULL)
        err = linears->get_vector(linears->context, layer, role, qs_model_info(block->model, role, layer).n_in, dst,
                                  &found);
    return err == QS_OK && !found ? qs_model_read_f32(block->model, role, layer, dst) : err;
}

static qs_err load_vectors(qs_block *block, const qs_linear_source *linears, int64_t layer)
{
    qs_err err = QS_OK;
    qs_staging *staging = block->staging;
    if (staging->vectors == NULL) QS_TRY(QS_NEW(staging->vectors, block->vector_floats, "norms and biases"));
    for (qs_role role = QS_N_LINEARS; role < QS_N_BLOCK_ROLES; role++) {
        int64_t offset = block->vector_offset[role - QS_N_LINEARS];
        if (offset >= 0) QS_TRY(read_vector(block, linears, layer, role, staging->vectors + offset));
    }
    QS_TRY(qs_backend_upload(block->backend, block->vectors, staging->vectors,
                             (size_t)block->vector_floats * sizeof(float)));
out:
    return err;
}

static qs_err load_linear(qs_block *block, const qs_linear_source *linears, int64_t layer, qs_role role)
{
    qs_err err = QS_OK;
    qs_matrix_desc desc = {0};
    if (linears != NULL) QS_TRY(linears->get(linears->context, layer, role, &desc));
    else
        QS_TRY(qs_staging_read(block->staging, block->model, role, layer, &block->options,
                               qs_backend_has_device(block->backend), &desc));
    qs_tensor_info info = qs_model_info(block->model, role, layer);
    if (desc.n_out != info.n_out || desc.n_in != info.n_in)
        return qs_fail(QS_E_INPUT, "load layer %lld, %s: the matrix is %lld x %lld, the model's %lld x %lld",
                       (long long)layer, qs_role_name(role), (long long)desc.n_out, (long long)desc.n_in,
                       (long long)info.n_out, (long long)info.n_in);
    block->n_out[role] = info.n_out;
    block->n_in[role] = info.n_in;
    qs_matrix **matrix = &block->linears[role];
    if (*matrix != NULL) QS_TRY(qs_matrix_update(*matrix, &desc));
    else QS_TRY(qs_matrix_create(matrix, block->backend, &desc, block->options.uses, block->options.compute));
out:
    return qs_context(err, "layer %lld, %s", (long long)layer, qs_role_name(role));
}

qs_err qs_block_load_linears(qs_block *block, const qs_linear_source *linears, unsigned roles)
{
    qs_err err = QS_OK;
    for (qs_role role = 0; role < QS_N_LINEARS; role++)
        if ((roles >> role & 1) != 0) QS_TRY(load_linear(block, linears, block->layer, role));
out:
    return err;
}

qs_err qs_block_load(qs_block *block, const qs_linear_source *linears, int64_t layer)
{
    qs_err err = QS_OK;
    int64_t n_layers = qs_model_get_config(block->model)->n_layers;
    if (layer < 0 || layer >= n_layers)
        return qs_fail(QS_E_USAGE, "load layer %lld: the model has layers 0 to %lld", (long long)layer,
                       (long long)n_layers - 1);
    for (qs_role role = 0; role < QS_N_LINEARS; role++) QS_TRY(load_linear(block, linears, layer, role));
    QS_TRY(load_vectors(block, linears, layer));
    block->layer = layer;
out:
    return err;
}

qs_err qs_block_create_staged(qs_block **out, qs_backend *backend, const qs_model *model,
                              const qs_linear_source *linears, int64_t layer, const qs_block_options *options,
                              qs_staging *staging)
{
    qs_err err = QS_OK;
    qs_block *block = NULL;
    *out = NULL;
    if (options->dense_dtype != QS_F32 && options->dense_dtype != QS_F16 && options->dense_dtype != QS_BF16)
        return qs_fail(QS_E_USAGE, "create block: dense weights can be f32, f16 or bf16, not %s",
                       qs_dtype_name(options->dense_dtype));
    QS_TRY(QS_NEW(block, 1, "block"));
    block->backend = backend;
    block->model = model;
    block->options = *options;
    block->staging = staging != NULL ? staging : &block->own_staging;
    layout_vectors(block);
    QS_TRY(qs_backend_alloc(backend, &block->vectors, (size_t)block->vector_floats * sizeof(float),
                            "norms and biases of a block"));
    QS_TRY(qs_block_load(block, linears, layer));
    *out = block;
    block = NULL;
out:
    qs_block_destroy(block);
    return err;
}

qs_err qs_block_create(qs_block **out, qs_backend *backend, const qs_model *model, const qs_linear_source *linears,
                       int64_t layer, const qs_block_options *options)
{
    return qs_block_create_staged(out, backend, model, linears, layer, options, NULL);
}

void qs_block_destroy(qs_block *block)
{
    if (block == NULL) return;
    for (qs_role role = 0; role < QS_N_LINEARS; role++) qs_matrix_destroy(block->linears[role]);
    qs_backend_free(block->backend, block->vectors);
    qs_staging_free(&block->own_staging);
    qs_mem_free(block);
}

size_t qs_block_bytes(const qs_block *block)
{
    size_t bytes = (size_t)block->vector_floats * sizeof(float);
    for (qs_role role = 0; role < QS_N_LINEARS; role++) bytes += qs_matrix_bytes(block->linears[role]);
    return bytes;
}
