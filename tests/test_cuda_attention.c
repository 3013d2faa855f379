/* Attention of the CUDA backend beyond the cases of all ops (test_cuda_ops.c): values outside the range of f16, and
 * what shares a batch.
 * Proves: a sequence's attention depends on that sequence alone, whatever its numbers are. */
#include "cuda_backends.h"
#include "op_tables.h"

/* Values that f16 does not hold, or holds some bits of: a block starts again in two terms of bf16, however coarse its
 * factors might have been. */
static void test_attention_beyond_f16(void **state)
{
    enum { N = 70, HEADS = 2, DIM = 64, WIDTH = HEADS * DIM };
    static const double sizes[] = {1e5, 1e-9};
    fixture *f = take(state);
    for (int k = 0; k < 4; k++) {
        const qs_attention_shape shape = {HEADS, HEADS, DIM, 0, k < 2 ? QS_COMPUTE_F32 : QS_COMPUTE_BF16};
        op_memory memories[2] = {{.backend = f->reference}, {.backend = f->cuda}};
        const float *got[2];
        double largest = 0.0, worst = 0.0;
        for (int b = 0; b < 2; b++) {
            op_memory *m = &memories[b];
            float *q = drawn_on_device(m, 64, N * WIDTH, 2.0), *keys = drawn_on_device(m, 65, N * WIDTH, 2.0);
            float *v = drawn_on_device(m, 66, N * WIDTH, sizes[k % 2]), *y = floats_on_device(m, NULL, N * WIDTH);
            OK(qs_op_attention(m->backend, &shape, q, keys, v, 1, N, y));
            got[b] = to_host(m, y, N * WIDTH);
        }
        for (int i = 0; i < N * WIDTH; i++) {
            largest = fmax(largest, fabs((double)got[0][i]));
            worst = fmax(worst, fabs((double)got[1][i] - (double)got[0][i]));
        }
        if (!(worst <= 1e-4 * largest))
            fail_msg("values of %g: %g apart, the largest is %g", sizes[k % 2], worst, largest);
        for (int b = 0; b < 2; b++) free_all(&memories[b]);
    }
}

/* A sequence attends the same way whatever shares its batch. */
static void test_sequences_of_a_batch(void **state)
{
    fixture *f = take(state);
    enum { N = 5, N_CAP = 150, HEADS = 4, KV_HEADS = 2, DIM = 64, Q = HEADS * DIM, KV = KV_HEADS * DIM };
    static const int32_t positions[N] = {149, 0, 77, 63, 64};
    const qs_attention_shape shape = {HEADS, KV_HEADS, DIM, 0, QS_COMPUTE_F32};
    op_memory m = {.backend = f->cuda};
    float *q = drawn_on_device(&m, 60, N * Q, 2.0), *k = drawn_on_device(&m, 61, N * KV, 2.0);
    float *v = drawn_on_device(&m, 62, N * KV, 1.0), *k_cache = drawn_on_device(&m, 63, N * N_CAP * KV, 2.0);
    float *v_cache = drawn_on_device(&m, 64, N * N_CAP * KV, 1.0), *y = floats_on_device(&m, NULL, N * Q);
    const int32_t *at = on_device(&m, positions, sizeof positions);
    OK(qs_op_attention_decode(f->cuda, &shape, q, k, v, NULL, k_cache, v_cache, at, N, N_CAP, y));
    const float *together = to_host(&m, y, N * Q);
    for (int64_t i = 0; i < N; i++) {
        OK(qs_op_attention_decode(f->cuda, &shape, q + i * Q, k + i * KV, v + i * KV, NULL, k_cache + i * N_CAP * KV,
                                  v_cache + i * N_CAP * KV, at + i, 1, N_CAP, y));
        float alone[Q];
        OK(qs_backend_download(f->cuda, alone, y, sizeof alone));
        assert_memory_equal(alone, together + i * Q, sizeof alone);
    }
    free_all(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_attention_beyond_f16),
        cmocka_unit_test(test_sequences_of_a_batch),
    };
    return cmocka_run_group_tests_name("cuda attention", tests, create_backends, destroy_backends);
}
