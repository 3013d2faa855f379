/* Products of many rows by oneDNN, one single-threaded primitive per tile.
 *
 * oneDNN's own threads are not used: tiles are cut by shape alone and handed to the team, so the result cannot
 * depend on the number of threads. Weights are packed 64 output rows at a time (weight_layout.h), which makes
 * a range of columns of the product a product with a contiguous part of the weights.
 *
 * A matmul primitive wants dense source and destination. So a tile is either whole rows of y, written in
 * place, or some columns of a few rows, computed aside and copied. */
#include <omp.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "backend/cpu/gemm.h"
#include "backend/cpu/gemm_tiles.h"
#include "backend/cpu/onednn_api.h"
#include "backend/cpu/weight_layout.h"
#include "base/dtype.h"
#include "base/mem.h"

enum {
    ROWS_MAX = 64,          /* rows of x per tile */
    ROWS_LOG2_MAX = 6,      /* the rest is cut into powers of two, so that few primitives serve all n */
    COLUMNS = 256,          /* columns of y per tile: 64 x 256 f32 fit in half a second-level cache */
    ROWS_IN_PLACE = 4 * ROWS_MAX, /* from here on there are enough tiles of whole rows */
    N_PRIMITIVES_MAX = 256, /* kept; beyond, the least recently used is replaced */
};

/* y[m, n] = x[m, k] W[k, n] for one tile shape; memory objects per thread, pointed anew each time. */
typedef struct tile_memory {
    dnnl_memory_t x, w, y, scratch;
} tile_memory;

typedef struct tile_product {
    int64_t m, n, k; /* n a multiple of 64, k with the layout's padding */
    qs_weight_layout layout;
    uint64_t last_used;
    dnnl_primitive_t primitive;
    size_t scratch_bytes;
    tile_memory *memory; /* [n_threads] */
} tile_product;

typedef struct thread_state {
    dnnl_stream_t stream;
    void *scratch;
    float *tile; /* [ROWS_MAX, COLUMNS] */
} thread_state;

typedef struct onednn {
    qs_team *team;
    const qs_cpu_kernels *kernels;
    int n_threads;
    dnnl_engine_t engine;
    thread_state *threads; /* [n_threads] */
    size_t scratch_bytes;  /* of each thread's scratch */
    qs_weight_layout layout_f32, layout_bf16;
    tile_product products[N_PRIMITIVES_MAX];
    int n_products;
    uint64_t clock;
    void *x; /* x rounded to bf16 or padded */
    size_t x_bytes;
} onednn;

static qs_err check(dnnl_status_t status, const char *what)
{
    if (status == dnnl_success) return QS_OK;
    if (status == dnnl_out_of_memory) return qs_fail(QS_E_RESOURCE, "%s: oneDNN is out of memory", what);
    return qs_fail(QS_E_UNSUPPORTED, "%s: oneDNN refuses with status %d", what, (int)status);
}

/* ---- tile products ---- */

static void product_fini(onednn *self, tile_product *product)
{
    for (int t = 0; product->memory != NULL && t < self->n_threads; t++) {
        tile_memory *memory = &product->memory[t];
        dnnl_memory_t all[] = {memory->x, memory->w, memory->y, memory->scratch};
        for (size_t i = 0; i < sizeof all / sizeof *all; i++)
            if (all[i] != NULL) (void)dnnl_memory_destroy(all[i]);
    }
    qs_mem_free(product->memory);
    if (product->primitive != NULL) (void)dnnl_primitive_destroy(product->primitive);
    *product = (tile_product){0};
}

static onednn_matmul describe_product(const tile_product *product)
{
    bool bf16 = product->layout == QS_LAYOUT_PANEL_BF16;
    dnnl_format_tag_t panel = bf16 ? dnnl_BA16a64b2a : dnnl_BA16a64b;
    return (onednn_matmul){.m = product->m, .n = product->n, .k = product->k,
                           .type = bf16 ? dnnl_bf16 : dnnl_f32, .x_tag = dnnl_ab,
                           .weights_tag = product->layout == QS_LAYOUT_ROWS_F32 ? dnnl_ba : panel};
}

/* A memory object for the argument that `query` names, without data. */
static qs_err argument(onednn *self, const_dnnl_primitive_desc_t pd, dnnl_query_t query, dnnl_memory_t *out)
{
    onednn_desc desc = dnnl_primitive_desc_query_md(pd, query, 0);
    return check(dnnl_memory_create(out, desc, self->engine, DNNL_MEMORY_NONE), "create memory");
}

static qs_err create_memory(onednn *self, tile_product *product, const_dnnl_primitive_desc_t pd)
{
    qs_err err = QS_OK;
    QS_TRY(QS_NEW(product->memory, self->n_threads, "oneDNN memory objects"));
    for (int t = 0; t < self->n_threads; t++) {
        tile_memory *memory = &product->memory[t];
        QS_TRY(argument(self, pd, dnnl_query_src_md, &memory->x));
        QS_TRY(argument(self, pd, dnnl_query_weights_md, &memory->w));
        QS_TRY(argument(self, pd, dnnl_query_dst_md, &memory->y));
        QS_TRY(argument(self, pd, dnnl_query_scratchpad_md, &memory->scratch));
    }
out:
    return err;
}

/* `info` (may be NULL) gets the implementation's name. */
static qs_err product_init(onednn *self, tile_product *product, char *info, size_t info_bytes)
{
    qs_err err = QS_OK;
    onednn_matmul matmul = describe_product(product);
    dnnl_primitive_attr_t attr = NULL;
    dnnl_primitive_desc_t pd = NULL;
    const char *text = "";
    QS_TRY(check(dnnl_primitive_attr_create(&attr), "create product"));
    /* Scratch from the caller is what makes one primitive usable by several threads at once. */
    QS_TRY(check(dnnl_primitive_attr_set_scratchpad_mode(attr, dnnl_scratchpad_mode_user), "create product"));
    QS_TRY(check(onednn_matmul_create(&pd, self->engine, &matmul, attr), "create product"));
    (void)dnnl_primitive_desc_query(pd, dnnl_query_impl_info_str, 0, &text);
    if (info != NULL) (void)snprintf(info, info_bytes, "%s", text);
    onednn_desc scratch = dnnl_primitive_desc_query_md(pd, dnnl_query_scratchpad_md, 0);
    product->scratch_bytes = dnnl_memory_desc_get_size(scratch);
    QS_TRY(check(dnnl_primitive_create(&product->primitive, pd), "create product"));
    QS_TRY(create_memory(self, product, pd));
out:
    if (pd != NULL) (void)dnnl_primitive_desc_destroy(pd);
    if (attr != NULL) (void)dnnl_primitive_attr_destroy(attr);
    if (err != QS_OK) product_fini(self, product);
    return err;
}

static qs_err reserve_scratch(onednn *self, size_t bytes)
{
    if (bytes <= self->scratch_bytes) return QS_OK;
    self->scratch_bytes = 0;
    for (int t = 0; t < self->n_threads; t++) {
        qs_mem_free(self->threads[t].scratch);
        self->threads[t].scratch = NULL;
    }
    for (int t = 0; t < self->n_threads; t++) {
        qs_err err = qs_mem_alloc(&self->threads[t].scratch, bytes, "oneDNN scratch");
        if (err != QS_OK) return err;
    }
    self->scratch_bytes = bytes;
    return QS_OK;
}

/* The product of that shape, made on first use. The slot stays where it is until another 256 were needed. */
static qs_err find_product(onednn *self, const tile_product *wanted, tile_product **out)
{
    tile_product *oldest = NULL;
    self->clock++;
    for (int i = 0; i < self->n_products; i++) {
        tile_product *p = &self->products[i];
        if (p->primitive != NULL && p->m == wanted->m && p->n == wanted->n && p->k == wanted->k &&
            p->layout == wanted->layout) {
            p->last_used = self->clock;
            *out = p;
            return QS_OK;
        }
        if (oldest == NULL || p->last_used < oldest->last_used) oldest = p;
    }
    tile_product *slot = oldest;
    if (self->n_products < N_PRIMITIVES_MAX)
        slot = &self->products[self->n_products++];
    else
        product_fini(self, slot);
    *slot = *wanted;
    slot->last_used = self->clock;
    qs_err err = product_init(self, slot, NULL, 0);
    if (err != QS_OK) return err;
    *out = slot;
    return reserve_scratch(self, slot->scratch_bytes);
}

static dnnl_status_t product_run(onednn *self, const tile_product *product, int thread, const void *x, const void *w,
                                 float *y)
{
    thread_state *state = &self->threads[thread];
    tile_memory *memory = &product->memory[thread];
    dnnl_exec_arg_t args[] = {{DNNL_ARG_SRC, memory->x},
                              {DNNL_ARG_WEIGHTS, memory->w},
                              {DNNL_ARG_DST, memory->y},
                              {DNNL_ARG_SCRATCHPAD, memory->scratch}};
    /* The library takes pointers to mutable memory for inputs too; it does not write them. */
    const void *data[] = {x, w, y, state->scratch};
    enum { N_ARGS = sizeof args / sizeof *args };
    for (int i = 0; i < N_ARGS; i++) {
        dnnl_status_t status = dnnl_memory_set_data_handle(args[i].memory, (void *)(uintptr_t)data[i]);
        if (status != dnnl_success) return status;
    }
    return dnnl_primitive_execute(product->primitive, state->stream, N_ARGS, args);
}

/* ---- y = x W^T ---- */

/* x as the primitives want it: rounded to bf16 where computed so, with zero columns behind n_in. */
typedef struct convert_job {
    const qs_cpu_kernels *kernels;
    qs_weight_layout layout;
    qs_compute compute;
    const float *x;
    int64_t n_in, k;
    void *out;
} convert_job;

static void convert_rows(void *context, int64_t first, int64_t last, int thread)
{
    (void)thread;
    const convert_job *job = context;
    for (int64_t r = first; r < last; r++) {
        const float *x = job->x + r * job->n_in;
        if (job->layout == QS_LAYOUT_PANEL_BF16) {
            uint16_t *out = (uint16_t *)job->out + r * job->k;
            job->kernels->to_bf16.run(x, job->n_in, out);
            memset(out + job->n_in, 0, (size_t)(job->k - job->n_in) * sizeof *out);
            continue;
        }
        float *out = (float *)job->out + r * job->k;
        for (int64_t i = 0; i < job->n_in; i++)
            out[i] = job->compute == QS_COMPUTE_BF16 ? qs_f32_from_bf16(qs_bf16_from_f32(x[i])) : x[i];
        memset(out + job->n_in, 0, (size_t)(job->k - job->n_in) * sizeof *out);
    }
}

static qs_err convert_x(onednn *self, const convert_job *job, int64_t n)
{
    size_t bytes = (size_t)(n * job->k) * sizeof(float);
    if (bytes > self->x_bytes) {
        qs_mem_free(self->x);
        self->x_bytes = 0;
        qs_err err = qs_mem_alloc(&self->x, bytes, "converted activations");
        if (err != QS_OK) return err;
        self->x_bytes = bytes;
    }
    convert_job with_out = *job;
    with_out.out = self->x;
    qs_team_run(self->team, n, 16, convert_rows, &with_out);
    return QS_OK;
}

/* Rows come in tiles of 64 and then of falling powers of two; columns in tiles of `columns` and a rest. */
typedef struct multiply_job {
    onednn *self;
    const qs_gemm_pack *pack;
    const char *x;
    size_t x_row_bytes, block_bytes;
    const float *bias;
    float *y;
    int64_t n, n_row_tiles, n_column_tiles, columns;
    const tile_product *products[ROWS_LOG2_MAX + 1][2]; /* by log2 of the rows, by [is the rest of the columns] */
    atomic_int status; /* of the first tile that failed */
} multiply_job;

/* First row and log2 of the number of rows of a row tile. */
static int64_t row_tile(int64_t n, int64_t tile, int *log2_rows)
{
    int64_t n_full = n / ROWS_MAX, row = n_full * ROWS_MAX, rest = n % ROWS_MAX;
    *log2_rows = ROWS_LOG2_MAX;
    if (tile < n_full) return tile * ROWS_MAX;
    int bit = ROWS_LOG2_MAX - 1;
    for (int64_t i = n_full;; bit--) {
        if ((rest >> bit & 1) == 0) continue;
        if (i++ == tile) break;
        row += 1LL << bit;
    }
    *log2_rows = bit;
    return row;
}

static void multiply_tiles(void *context, int64_t first, int64_t last, int thread)
{
    multiply_job *job = context;
    onednn *self = job->self;
    int64_t n_out = job->pack->n_out;
    for (int64_t item = first; item < last; item++) {
        /* Columns first: a thread keeps its part of the weights in cache while it goes through the rows. */
        int64_t column_tile = item / job->n_row_tiles, column = column_tile * job->columns;
        int log2_rows;
        int64_t row = row_tile(job->n, item % job->n_row_tiles, &log2_rows);
        int64_t columns = n_out - column < job->columns ? n_out - column : job->columns;
        const tile_product *product = job->products[log2_rows][columns < job->columns];
        const char *w = (const char *)job->pack->data + (size_t)(column / QS_PACK_ROWS) * job->block_bytes;
        float *y = job->y + row * n_out + column;
        bool in_place = product->n == n_out || (log2_rows == 0 && product->n == columns);
        float *target = in_place ? y : self->threads[thread].tile;
        dnnl_status_t status =
            product_run(self, product, thread, job->x + (size_t)row * job->x_row_bytes, w, target);
        if (status != dnnl_success) atomic_store(&job->status, (int)status);
        for (int64_t r = 0; !in_place && r < product->m; r++)
            memcpy(y + r * n_out, target + r * product->n, (size_t)columns * sizeof *y);
        for (int64_t r = 0; job->bias != NULL && r < product->m; r++)
            for (int64_t i = 0; i < columns; i++) y[r * n_out + i] += job->bias[column + i];
    }
}

static qs_err find_products(multiply_job *job, const tile_product *shape)
{
    qs_err err = QS_OK;
    int64_t rest = job->pack->n_out % job->columns;
    for (int64_t tile = 0; tile < job->n_row_tiles; tile++) {
        int log2_rows;
        (void)row_tile(job->n, tile, &log2_rows);
        for (int is_rest = 0; is_rest < 2; is_rest++) {
            tile_product wanted = *shape, *found;
            wanted.m = 1LL << log2_rows;
            wanted.n = is_rest ? (rest + QS_PACK_ROWS - 1) / QS_PACK_ROWS * QS_PACK_ROWS : job->columns;
            bool needed = is_rest ? rest > 0 : job->pack->n_out >= job->columns;
            if (!needed || job->products[log2_rows][is_rest] != NULL) continue;
            QS_TRY(find_product(job->self, &wanted, &found));
            job->products[log2_rows][is_rest] = found;
        }
    }
out:
    return err;
}

static qs_err multiply(void *engine, const qs_gemm_pack *pack, const float *x, int64_t n, const float *bias, float *y)
{
    onednn *self = engine;
    qs_err err = QS_OK;
    int saved_threads = omp_get_max_threads();
    omp_set_num_threads(1);
    qs_weight_layout layout = pack->compute == QS_COMPUTE_BF16 ? self->layout_bf16 : self->layout_f32;
    int64_t k = qs_weight_columns(layout, pack->n_in);
    bool whole_rows = n >= ROWS_IN_PLACE && pack->n_out % QS_PACK_ROWS == 0;
    multiply_job job = {.self = self, .pack = pack, .x = (const char *)x, .bias = bias, .y = y, .n = n,
                        .x_row_bytes = (size_t)k * (layout == QS_LAYOUT_PANEL_BF16 ? 2 : 4),
                        .block_bytes = qs_weight_block_bytes(layout, pack->n_in),
                        .columns = whole_rows ? pack->n_out : COLUMNS};
    job.n_row_tiles = n / ROWS_MAX + __builtin_popcountll((unsigned long long)(n % ROWS_MAX));
    job.n_column_tiles = (pack->n_out + job.columns - 1) / job.columns;
    tile_product shape = {.k = k, .layout = layout};
    QS_TRY(find_products(&job, &shape));
    if (pack->compute == QS_COMPUTE_BF16 || k != pack->n_in) {
        convert_job convert = {.kernels = self->kernels,
                               .layout = layout,
                               .compute = pack->compute,
                               .x = x,
                               .n_in = pack->n_in,
                               .k = k};
        QS_TRY(convert_x(self, &convert, n));
        job.x = self->x;
    }
    qs_team_run(self->team, job.n_row_tiles * job.n_column_tiles, 1, multiply_tiles, &job);
    QS_TRY(check((dnnl_status_t)atomic_load(&job.status), "multiply"));
out:
    omp_set_num_threads(saved_threads);
    return err;
}

/* ---- packing ---- */

static qs_weight_layout layout_of(const onednn *self, qs_compute compute)
{
    return compute == QS_COMPUTE_BF16 ? self->layout_bf16 : self->layout_f32;
}

static size_t pack_bytes(const void *engine, int64_t n_out, int64_t n_in, qs_compute compute)
{
    size_t n_blocks = (size_t)((n_out + QS_PACK_ROWS - 1) / QS_PACK_ROWS);
    return n_blocks * qs_weight_block_bytes(layout_of(engine, compute), n_in);
}

static void pack_rows(const void *engine, const qs_gemm_pack *pack, int64_t first_row, int64_t n_rows,
                      const float *rows)
{
    const onednn *self = engine;
    qs_weight_layout layout = layout_of(engine, pack->compute);
    char *dst = (char *)pack->data + (size_t)(first_row / QS_PACK_ROWS) * qs_weight_block_bytes(layout, pack->n_in);
    qs_weight_block_fill(self->kernels, layout, pack->compute, n_rows, pack->n_in, rows, dst);
}

/* ---- plain products ---- */

static int sgemm(char trans_a, char trans_b, int64_t m, int64_t n, int64_t k, float alpha, const float *a,
                 int64_t lda, const float *b, int64_t ldb, float beta, float *c, int64_t ldc)
{
    return (int)dnnl_sgemm(trans_a, trans_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}

static qs_err gemm(void *engine, bool trans_a, bool trans_b, int64_t m, int64_t n, int64_t k, float alpha,
                   const float *a, int64_t lda, const float *b, int64_t ldb, float beta, float *c, int64_t ldc)
{
    onednn *self = engine;
    int saved_threads = omp_get_max_threads();
    omp_set_num_threads(1);
    int status = qs_gemm_tiles(self->team, sgemm, trans_a, trans_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
    omp_set_num_threads(saved_threads);
    return check((dnnl_status_t)status, "multiply");
}

/* ---- the engine ---- */

static void destroy(void *engine)
{
    onednn *self = engine;
    for (int i = 0; i < self->n_products; i++) product_fini(self, &self->products[i]);
    for (int t = 0; self->threads != NULL && t < self->n_threads; t++) {
        if (self->threads[t].stream != NULL) (void)dnnl_stream_destroy(self->threads[t].stream);
        qs_mem_free(self->threads[t].scratch);
        qs_mem_free(self->threads[t].tile);
    }
    if (self->engine != NULL) (void)dnnl_engine_destroy(self->engine);
    qs_mem_free(self->threads);
    qs_mem_free(self->x);
    qs_mem_free(self);
}

static size_t held_bytes(const void *engine)
{
    const onednn *self = engine;
    size_t per_thread = self->scratch_bytes + ROWS_MAX * COLUMNS * sizeof(float);
    return sizeof *self + self->x_bytes + (size_t)self->n_threads * per_thread;
}

/* Whether oneDNN multiplies this layout with a kernel made for it here; otherwise it would fall back to a plain
 * loop, thousands of times slower. */
static bool is_fast(onednn *self, qs_weight_layout layout, char *info, size_t info_bytes)
{
    tile_product product = {.m = ROWS_MAX, .n = COLUMNS, .k = 64, .layout = layout};
    if (product_init(self, &product, info, info_bytes) != QS_OK) return false;
    product_fini(self, &product);
    return strncmp(info, "ref", 3) != 0;
}

static void choose_layouts(onednn *self, char *text, size_t text_bytes)
{
    char f32[64] = "", bf16[64] = "";
    self->layout_f32 = QS_LAYOUT_PANEL_F32;
    self->layout_bf16 = QS_LAYOUT_PANEL_BF16;
    if (!is_fast(self, QS_LAYOUT_PANEL_F32, f32, sizeof f32)) {
        self->layout_f32 = QS_LAYOUT_ROWS_F32;
        (void)is_fast(self, QS_LAYOUT_ROWS_F32, f32, sizeof f32);
    }
    if (!is_fast(self, QS_LAYOUT_PANEL_BF16, bf16, sizeof bf16)) {
        self->layout_bf16 = QS_LAYOUT_ROWS_F32;
        (void)snprintf(bf16, sizeof bf16, "as f32 products of bf16 values");
    }
    const dnnl_version_t *version = dnnl_version();
    (void)snprintf(text, text_bytes, "oneDNN %d.%d.%d (f32 %s, bf16 %s)", version->major, version->minor,
                   version->patch, f32, bf16);
}

static qs_err create(void **out, qs_team *team, const qs_cpu_kernels *kernels, char *text, size_t text_bytes)
{
    qs_err err = QS_OK;
    onednn *self = NULL;
    int saved_threads = omp_get_max_threads();
    omp_set_num_threads(1);
    QS_TRY(QS_NEW(self, 1, "oneDNN engine"));
    self->team = team;
    self->kernels = kernels;
    self->n_threads = qs_team_n_threads(team);
    QS_TRY(QS_NEW(self->threads, self->n_threads, "oneDNN threads"));
    QS_TRY(check(dnnl_engine_create(&self->engine, dnnl_cpu, 0), "create oneDNN engine"));
    for (int t = 0; t < self->n_threads; t++) {
        QS_TRY(check(dnnl_stream_create(&self->threads[t].stream, self->engine, dnnl_stream_default_flags),
                     "create oneDNN stream"));
        QS_TRY(QS_NEW(self->threads[t].tile, ROWS_MAX * COLUMNS, "oneDNN tile"));
    }
    choose_layouts(self, text, text_bytes);
    *out = self;
    self = NULL;
out:
    if (self != NULL) destroy(self);
    omp_set_num_threads(saved_threads);
    return err;
}

const qs_gemm_engine qs_gemm_onednn = {
    .from = "oneDNN",
    .create = create,
    .destroy = destroy,
    .held_bytes = held_bytes,
    .pack_bytes = pack_bytes,
    .pack_rows = pack_rows,
    .multiply = multiply,
    .gemm = gemm,
};
