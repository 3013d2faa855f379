/* AWQ where a device solves: its searches run on the host, so that codes, norms and losses are those of the
 * CPU, and the device computes with the folded norms. Skipped where backend "cuda" cannot be made. */
#include "cuda_model.h"

#include "awq_data.h"

static void test_like_cpu(void **state)
{
    (void)state;
    enum { N_SPECS = 3 };
    static const char *const texts[N_SPECS] = {"awq:bits=4,group=32", "awq:bits=3,group=32,gptq=1",
                                               "rtn:bits=4,group=32"};
    qs_backend *gpu = cuda_open(), *cpu = backend_open("cpu", 2);
    qs_model *model;
    qs_spec specs[N_SPECS];
    qs_quant_layer on_gpu[N_SPECS], on_cpu[N_SPECS];
    must(qs_model_open(&model, "tests/fixtures/tiny"));
    const qs_model_config *config = qs_model_get_config(model);
    statistics s = {.config = config};
    qs_gram_source grams = source_of(&s);
    for (int i = 0; i < N_SPECS; i++) must(qs_spec_parse(&specs[i], texts[i]));
    must(qs_quantize_layer(model, gpu, 0, &grams, specs, N_SPECS, on_gpu));
    must(qs_quantize_layer(model, cpu, 0, &grams, specs, N_SPECS, on_cpu));
    for (int i = 0; i < N_SPECS; i++) {
        int32_t tokens[N_TOKENS];
        int64_t n = N_TOKENS * config->d_model;
        float *a = floats(n), *b = floats(n);
        for (int role = 0; role < QS_N_LINEARS; role++) {
            const qs_quant_result *p = &on_gpu[i].linears[role], *q = &on_cpu[i].linears[role];
            assert_true(fabs(p->loss - q->loss) <= 1e-4 * q->loss);
            if (!specs[i].then_gptq) /* GPTQ's sums have another order there */
                assert_memory_equal(p->packed.codes, q->packed.codes,
                                    (size_t)(p->packed.n_out * p->packed.row_bytes));
        }
        for (int v = 0; v < QS_N_BLOCK_ROLES - QS_N_LINEARS; v++)
            if (on_cpu[i].vectors[v] != NULL)
                assert_memory_equal(on_gpu[i].vectors[v], on_cpu[i].vectors[v],
                                    (size_t)config->d_model * sizeof(float));
        for (int t = 0; t < N_TOKENS; t++) tokens[t] = t;
        qs_linear_source source = qs_quant_layer_source(&on_cpu[i]);
        must(qs_forward_hidden(gpu, model, &source, QS_COMPUTE_F32, tokens, 1, N_TOKENS, NULL, a));
        must(qs_forward_hidden(cpu, model, &source, QS_COMPUTE_F32, tokens, 1, N_TOKENS, NULL, b));
        assert_true(max_abs_diff(a, b, n) <= 2e-3);
        qs_mem_free(a);
        qs_mem_free(b);
        qs_quant_layer_free(&on_gpu[i]);
        qs_quant_layer_free(&on_cpu[i]);
    }
    statistics_free(&s);
    qs_model_close(model);
    qs_backend_destroy(gpu);
    qs_backend_destroy(cpu);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_like_cpu)};
    return cmocka_run_group_tests_name("cuda_awq", tests, NULL, NULL);
}
