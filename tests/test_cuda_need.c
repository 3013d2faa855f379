/* What the CUDA backend takes is what it says before (backend.h, qs_matrix_need): of every format, use and precision
 * the bytes that its allocator counts as weights, exactly; scratch of loading and of products for one row to many,
 * with and without the products of a warpgroup, within what was planned. Skipped where backend "cuda" cannot be
 * made. */
#include "tests/need_cases.h"

#include "cuda_backends.h"

enum { N_ROWS = 40 };

/* Products of few rows and many; what is held then, beside what a backend begins with. */
typedef struct gpu_check {
    need_check check;
    float *x, *y; /* device */
    size_t first_bytes, planned_bytes;
} gpu_check;

enum { WIDTH_MAX = 1216, HEIGHT_MAX = 64 };

static void multiply_all(need_check *check, const need_case *c, const qs_matrix *matrix)
{
    static const int64_t rows[] = {1, 17, N_ROWS};
    gpu_check *g = (gpu_check *)(void *)check;
    qs_backend_memory memory;
    size_t planned_bytes = qs_need_scratch(&check->scratch);
    /* Most of those that ask for nothing more are left out. */
    if (planned_bytes == g->planned_bytes && check->n_cases % 8 != 0) return;
    g->planned_bytes = planned_bytes;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        qs_linear_job job = {.matrix = matrix, .y = g->y, .add = i != 1};
        OK(qs_op_linears(check->backend, &job, 1, g->x, rows[i]));
    }
    qs_backend_get_memory(check->backend, &memory);
    if (memory.workspace_bytes > g->first_bytes + planned_bytes)
        fail_msg("%s: %zu bytes of scratch, %zu were planned", c->name, memory.workspace_bytes - g->first_bytes,
                 planned_bytes);
}

static void check_device(bool has_wgmma)
{
    gpu_check g = {.check = {.n_rows = N_ROWS, .then = multiply_all}};
    qs_backend_memory memory;
    if (qs_rt_simt_set_wgmma != NULL) qs_rt_simt_set_wgmma(has_wgmma);
    OK(qs_backend_create(&g.check.backend, "cuda", 0, 2));
    OK(qs_backend_alloc(g.check.backend, &g.x, N_ROWS * WIDTH_MAX * sizeof *g.x, "test"));
    OK(qs_backend_alloc(g.check.backend, &g.y, N_ROWS * HEIGHT_MAX * sizeof *g.y, "test"));
    qs_backend_get_memory(g.check.backend, &memory);
    g.first_bytes = memory.workspace_bytes;
    for_each_need(check_need, &g.check);
    qs_backend_get_memory(g.check.backend, &memory);
    print_message("%lld plans; %zu bytes of scratch, %zu were planned for all of them\n", (long long)g.check.n_cases,
                  memory.workspace_bytes - g.first_bytes, qs_need_scratch(&g.check.scratch));
    /* Not by much: the largest wish of each buffer is met by some case. */
    assert_true(memory.workspace_bytes - g.first_bytes >= qs_need_scratch(&g.check.scratch) / 10 * 9);
    qs_backend_free(g.check.backend, g.x);
    qs_backend_free(g.check.backend, g.y);
    qs_backend_destroy(g.check.backend);
}

static void test_matrices(void **state)
{
    (void)take(state);
    check_device(false);
    if (qs_rt_simt_set_wgmma != NULL) check_device(true); /* as it is otherwise */
}

/* Steps of decoding. */
static void test_decoding(void **state)
{
    fixture *f = take(state);
    qs_backend *backend;
    qs_need need;
    qs_backend_memory before, after;
    enum { HEADS = 6, KV_HEADS = 2, DIM = 64, BATCH = 3, CTX = 700, VOCAB = 50 };
    const qs_attention_shape shape = {.n_heads = HEADS, .n_kv_heads = KV_HEADS, .head_dim = DIM};
    const qs_sample_rule rules[BATCH] = {{.banned = -1}, {.banned = -1}, {.banned = -1}};
    float *buffers[6];
    int32_t *positions, tokens[BATCH];
    (void)f;
    OK(qs_backend_create(&backend, "cuda", 0, 2));
    const int64_t sizes[] = {BATCH * HEADS * DIM,    BATCH * KV_HEADS * DIM, BATCH * CTX * KV_HEADS * DIM,
                             BATCH * CTX * KV_HEADS * DIM, BATCH * HEADS * DIM, BATCH * VOCAB};
    for (int i = 0; i < 6; i++) OK(qs_backend_alloc(backend, &buffers[i], (size_t)sizes[i] * sizeof(float), "test"));
    OK(qs_backend_alloc(backend, &positions, BATCH * sizeof *positions, "test"));
    qs_backend_get_memory(backend, &before);
    qs_decoding_need(&need, backend, &shape, BATCH, CTX);
    OK(qs_op_attention_decode(backend, &shape, buffers[0], buffers[1], buffers[1], NULL, buffers[2], buffers[3],
                              positions, BATCH, CTX, buffers[4]));
    OK(qs_op_sample(backend, buffers[5], rules, BATCH, VOCAB, tokens));
    qs_backend_get_memory(backend, &after);
    assert_true(need.own_bytes == 0);
    assert_true(after.workspace_bytes - before.workspace_bytes <= qs_need_scratch(&need));
    assert_true(after.workspace_bytes > before.workspace_bytes);
    for (int i = 0; i < 6; i++) qs_backend_free(backend, buffers[i]);
    qs_backend_free(backend, positions);
    qs_backend_destroy(backend);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_matrices), cmocka_unit_test(test_decoding)};
    return cmocka_run_group_tests(tests, create_backends, destroy_backends);
}
