#include "backend/cpu/product.h"

#include <omp.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "backend/cpu/onednn_api.h"
#include "base/mem.h"

enum {
    N_PRODUCTS_MAX = 512, /* a run of training needs about 15, and 5 for each 64 tokens of context */
    TEXT_BYTES = 128,
};

/* Memory objects of one thread, pointed anew each time. */
typedef struct thread_memory {
    dnnl_memory_t a, b, c, scratch;
} thread_memory;

struct qs_product {
    qs_product_engine *engine;
    qs_product_shape shape;
    dnnl_primitive_t primitive; /* NULL in f32: sgemm needs none */
    thread_memory *memory;      /* [n_threads] */
};

struct qs_product_engine {
    int n_threads;
    qs_compute compute;
    dnnl_engine_t engine;
    dnnl_stream_t *streams; /* [n_threads] */
    void **scratch;         /* [n_threads] */
    size_t scratch_bytes;
    int n_products;
    qs_product products[N_PRODUCTS_MAX];
    atomic_int status; /* of the first run that failed */
    char text[TEXT_BYTES];
};

static qs_err check(dnnl_status_t status, const char *what)
{
    if (status == dnnl_success) return QS_OK;
    if (status == dnnl_out_of_memory) return qs_fail(QS_E_RESOURCE, "%s: oneDNN is out of memory", what);
    return qs_fail(QS_E_UNSUPPORTED, "%s: oneDNN refuses with status %d", what, (int)status);
}

static void product_fini(qs_product *product)
{
    for (int t = 0; product->memory != NULL && t < product->engine->n_threads; t++) {
        thread_memory *memory = &product->memory[t];
        dnnl_memory_t all[] = {memory->a, memory->b, memory->c, memory->scratch};
        for (size_t i = 0; i < sizeof all / sizeof *all; i++)
            if (all[i] != NULL) (void)dnnl_memory_destroy(all[i]);
    }
    qs_mem_free(product->memory);
    if (product->primitive != NULL) (void)dnnl_primitive_destroy(product->primitive);
}

void qs_product_engine_destroy(qs_product_engine *engine)
{
    if (engine == NULL) return;
    for (int i = 0; i < engine->n_products; i++) product_fini(&engine->products[i]);
    for (int t = 0; t < engine->n_threads; t++) {
        if (engine->scratch != NULL) qs_mem_free(engine->scratch[t]);
        if (engine->streams != NULL && engine->streams[t] != NULL)
            (void)dnnl_stream_destroy(engine->streams[t]);
    }
    if (engine->engine != NULL) (void)dnnl_engine_destroy(engine->engine);
    qs_mem_free(engine->scratch);
    qs_mem_free(engine->streams);
    qs_mem_free(engine);
}

static qs_err create_memory(qs_product *product, const_dnnl_primitive_desc_t pd)
{
    const qs_product_engine *engine = product->engine;
    qs_err err;
    QS_TRY(QS_NEW(product->memory, engine->n_threads, "oneDNN memory objects"));
    for (int t = 0; t < engine->n_threads; t++) {
        thread_memory *memory = &product->memory[t];
        const struct {
            dnnl_query_t query;
            dnnl_memory_t *out;
        } rows[] = {{dnnl_query_src_md, &memory->a},
                    {dnnl_query_weights_md, &memory->b},
                    {dnnl_query_dst_md, &memory->c},
                    {dnnl_query_scratchpad_md, &memory->scratch}};
        for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
            onednn_desc desc = dnnl_primitive_desc_query_md(pd, rows[i].query, 0);
            QS_TRY(check(dnnl_memory_create(rows[i].out, desc, engine->engine, DNNL_MEMORY_NONE),
                         "create memory"));
        }
    }
out:
    return err;
}

static qs_err reserve_scratch(qs_product_engine *engine, size_t bytes)
{
    if (bytes <= engine->scratch_bytes) return QS_OK;
    for (int t = 0; t < engine->n_threads; t++) {
        qs_mem_free(engine->scratch[t]);
        engine->scratch[t] = NULL;
        qs_err err = qs_mem_alloc(&engine->scratch[t], bytes, "oneDNN scratch");
        if (err != QS_OK) return err;
    }
    engine->scratch_bytes = bytes;
    return QS_OK;
}

/* `info` gets the implementation's name. */
static qs_err product_init(qs_product *product, char info[TEXT_BYTES])
{
    const qs_product_shape *shape = &product->shape;
    qs_err err;
    dnnl_primitive_attr_t attr = NULL;
    dnnl_post_ops_t ops = NULL;
    dnnl_primitive_desc_t pd = NULL;
    const char *text = "";
    const onednn_matmul matmul = {.m = shape->m,
                                  .n = shape->n,
                                  .k = shape->k,
                                  .type = dnnl_bf16,
                                  .x_tag = shape->trans_a ? dnnl_ba : dnnl_ab,
                                  .weights_tag = shape->trans_b ? dnnl_ba : dnnl_ab};
    QS_TRY(check(dnnl_primitive_attr_create(&attr), "create product"));
    QS_TRY(check(dnnl_primitive_attr_set_scratchpad_mode(attr, dnnl_scratchpad_mode_user), "create product"));
    if (shape->add) {
        QS_TRY(check(dnnl_post_ops_create(&ops), "create product"));
        QS_TRY(check(onednn_append_sum(ops), "create product"));
        QS_TRY(check(dnnl_primitive_attr_set_post_ops(attr, ops), "create product"));
    }
    QS_TRY(check(onednn_matmul_create(&pd, product->engine->engine, &matmul, attr), "create product"));
    (void)dnnl_primitive_desc_query(pd, dnnl_query_impl_info_str, 0, &text);
    (void)snprintf(info, TEXT_BYTES, "%s", text);
    QS_TRY(check(dnnl_primitive_create(&product->primitive, pd), "create product"));
    QS_TRY(create_memory(product, pd));
    QS_TRY(reserve_scratch(product->engine,
                           dnnl_memory_desc_get_size(dnnl_primitive_desc_query_md(pd, dnnl_query_scratchpad_md, 0))));
out:
    if (pd != NULL) (void)dnnl_primitive_desc_destroy(pd);
    if (ops != NULL) (void)dnnl_post_ops_destroy(ops);
    if (attr != NULL) (void)dnnl_primitive_attr_destroy(attr);
    return err;
}

static bool same_shape(const qs_product_shape *a, const qs_product_shape *b)
{
    return a->m == b->m && a->n == b->n && a->k == b->k && a->trans_a == b->trans_a &&
           a->trans_b == b->trans_b && a->add == b->add;
}

qs_err qs_product_find(qs_product **out, qs_product_engine *engine, const qs_product_shape *shape)
{
    for (int i = 0; i < engine->n_products; i++) {
        *out = &engine->products[i];
        if (same_shape(&(*out)->shape, shape)) return QS_OK;
    }
    *out = NULL;
    if (engine->n_products == N_PRODUCTS_MAX)
        return qs_fail(QS_E_UNSUPPORTED, "plan products: more than %d shapes; use a shorter context",
                       N_PRODUCTS_MAX);
    qs_product *product = &engine->products[engine->n_products++];
    *product = (qs_product){.engine = engine, .shape = *shape};
    *out = product;
    if (engine->compute == QS_COMPUTE_F32) return QS_OK;
    char info[TEXT_BYTES];
    int saved_threads = omp_get_max_threads();
    omp_set_num_threads(1);
    qs_err err = product_init(product, info);
    omp_set_num_threads(saved_threads);
    if (err == QS_OK && strncmp(info, "ref", 3) == 0)
        err = qs_fail(QS_E_UNSUPPORTED,
                      "multiply in bf16: oneDNN has only a plain loop for it on this CPU; use f32");
    return err;
}

qs_err qs_product_engine_create(qs_product_engine **out, int n_threads, qs_compute compute)
{
    qs_err err;
    qs_product_engine *engine = NULL;
    *out = NULL;
    QS_TRY(QS_NEW(engine, 1, "product engine"));
    engine->n_threads = n_threads;
    engine->compute = compute;
    QS_TRY(QS_NEW(engine->streams, n_threads, "oneDNN streams"));
    QS_TRY(QS_NEW(engine->scratch, n_threads, "oneDNN scratch"));
    QS_TRY(check(dnnl_engine_create(&engine->engine, dnnl_cpu, 0), "create oneDNN engine"));
    for (int t = 0; t < n_threads; t++)
        QS_TRY(check(dnnl_stream_create(&engine->streams[t], engine->engine, dnnl_stream_default_flags),
                     "create oneDNN stream"));
    char info[TEXT_BYTES] = "sgemm";
    if (compute == QS_COMPUTE_BF16) {
        qs_product probe = {.engine = engine, .shape = {.m = 64, .n = 64, .k = 64, .trans_b = true}};
        err = product_init(&probe, info);
        product_fini(&probe);
        if (err == QS_OK && strncmp(info, "ref", 3) == 0) err = QS_E_UNSUPPORTED;
        if (err == QS_E_UNSUPPORTED)
            err = qs_fail(QS_E_UNSUPPORTED,
                          "multiply in bf16: this CPU has no bf16 products; use --compute f32");
        if (err != QS_OK) goto out;
    }
    const dnnl_version_t *version = dnnl_version();
    (void)snprintf(engine->text, sizeof engine->text, "oneDNN %d.%d.%d, %s %.40s", version->major,
                   version->minor, version->patch, compute == QS_COMPUTE_BF16 ? "bf16" : "f32", info);
    *out = engine;
    engine = NULL;
out:
    qs_product_engine_destroy(engine);
    return err;
}

const char *qs_product_engine_describe(const qs_product_engine *engine) { return engine->text; }

static dnnl_status_t run_primitive(const qs_product *product, int thread, const void *a, const void *b,
                                   float *c)
{
    const qs_product_engine *engine = product->engine;
    thread_memory *memory = &product->memory[thread];
    dnnl_exec_arg_t args[] = {{DNNL_ARG_SRC, memory->a},
                              {DNNL_ARG_WEIGHTS, memory->b},
                              {DNNL_ARG_DST, memory->c},
                              {DNNL_ARG_SCRATCHPAD, memory->scratch}};
    const void *data[] = {a, b, c, engine->scratch[thread]};
    enum { N_ARGS = sizeof args / sizeof *args };
    for (int i = 0; i < N_ARGS; i++) {
        /* The library takes pointers to mutable memory for inputs too; it does not write them. */
        dnnl_status_t status = dnnl_memory_set_data_handle(args[i].memory, (void *)(uintptr_t)data[i]);
        if (status != dnnl_success) return status;
    }
    return dnnl_primitive_execute(product->primitive, engine->streams[thread], N_ARGS, args);
}

void qs_product_run(const qs_product *product, int thread, const void *a, const void *b, float *c)
{
    const qs_product_shape *s = &product->shape;
    dnnl_status_t status;
    if (product->primitive != NULL) {
        status = run_primitive(product, thread, a, b, c);
    } else {
        int64_t lda = s->trans_a ? s->m : s->k, ldb = s->trans_b ? s->k : s->n;
        status = dnnl_sgemm(s->trans_a ? 'T' : 'N', s->trans_b ? 'T' : 'N', s->m, s->n, s->k, 1.0f, a, lda, b,
                            ldb, s->add ? 1.0f : 0.0f, c, s->n);
    }
    if (status != dnnl_success) atomic_store(&product->engine->status, (int)status);
}

qs_err qs_product_status(const qs_product_engine *engine)
{
    return check((dnnl_status_t)atomic_load(&engine->status), "multiply");
}
