/* AWQ where a device solves: its searches find there what the CPU's find, and the device computes with the folded
 * norms. Skipped where backend "cuda" cannot be made. */
#include "cuda_model.h"

#include "awq_data.h"
#include "quant/awq_search.h"

/* Only where the device is the CPU: threads of a kernel run last to first. */
#pragma weak qs_rt_simt_set_reverse

/* ---- one matrix ---- */

typedef struct place {
    qs_backend *backend;
    qs_workspace *workspace;
    qs_factor_cache *factors;
    qs_quant_job job;
} place;

static void place_open(place *p, qs_backend *backend, const float *gram, const float *w, const float *abs_mean,
                       int64_t n_out, int64_t n_in)
{
    *p = (place){.backend = backend};
    must(qs_workspace_create(&p->workspace, backend));
    must(qs_factor_cache_create(&p->factors, p->workspace, gram, n_in, N_GRAM_TOKENS, "m"));
    p->job = (qs_quant_job){.name = "m", .weights = w, .n_out = n_out, .n_in = n_in, .factors = p->factors,
                            .backend = backend, .abs_mean = abs_mean};
}

static void place_close(place *p)
{
    qs_factor_cache_destroy(p->factors);
    qs_workspace_destroy(p->workspace);
    qs_backend_destroy(p->backend);
}

/* The columns that are found, and the weights scaled by them, cut and not. */
static void search(const place *p, const qs_spec *spec, const float *rows, float *columns, float *folded[2])
{
    qs_quant_result result = {0};
    qs_quant_task task = {.spec = spec, .job = &p->job, .out = &result, .columns = columns, .rows = rows};
    qs_awq_site site = {.tasks = &task, .n = 1};
    must(qs_factor_h_host(p->factors, &site.h));
    qs_workspace_forget_weights(p->workspace);
    must(qs_awq_find_columns(p->workspace, &site, columns));
    for (int clip = 0; clip < 2; clip++)
        must(qs_awq_fold_weights(p->workspace, &task, site.h, clip == 1, folded[clip]));
}

/* Ragged groups and tiles, whole rows, rows that are divided, and enough rows that some of them choose the finalists.
 * Cuts may differ where two losses are equal but for the order of sums: in one group of hundred at most. */
static void test_search_like_cpu(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        int64_t n_out, n_in;
        bool rows;
    } rows[] = {
        {"awq:bits=4,group=32", 21, 100, false},       {"awq:bits=3,group=64,zero=0", 40, 70, true},
        {"awq:bits=4,group=-1,duo=0", 9, 48, true}, {"awq:bits=2,group=16", 330, 16, false},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        int64_t n_out = rows[i].n_out, n_in = rows[i].n_in, n_cut = 0, n = n_out * n_in;
        float *gram = data_gram(n_in, N_GRAM_TOKENS, 70 + i), *abs_mean = abs_of(gram, n_in),
              *w = data_normal(n, 80 + i, 0.05f), *divisors = data_normal(n_out, 90 + i, 0.1f);
        float *columns[2], *folded[2][2];
        qs_spec spec;
        must(qs_spec_parse(&spec, rows[i].text));
        for (int64_t r = 0; r < n_out; r++) divisors[r] = 1 + fabsf(divisors[r]);
        if (qs_rt_simt_set_reverse != NULL) qs_rt_simt_set_reverse(i % 2 == 1); /* threads in either order */
        for (int on_gpu = 0; on_gpu < 2; on_gpu++) {
            place p;
            place_open(&p, on_gpu ? cuda_open() : backend_open("cpu", 2), gram, w, abs_mean, n_out, n_in);
            columns[on_gpu] = floats(n_in);
            for (int clip = 0; clip < 2; clip++) folded[on_gpu][clip] = floats(n);
            search(&p, &spec, rows[i].rows ? divisors : NULL, columns[on_gpu], folded[on_gpu]);
            place_close(&p);
        }
        assert_memory_equal(columns[0], columns[1], (size_t)n_in * sizeof(float));
        assert_memory_equal(folded[0][0], folded[1][0], (size_t)n * sizeof(float));
        assert_true(max_abs_diff(folded[0][0], folded[0][1], n) > 0); /* something was cut */
        for (int64_t k = 0; k < n; k++) n_cut += folded[0][1][k] != folded[1][1][k];
        assert_true(n_cut * 100 <= n);
        for (int k = 0; k < 2; k++) {
            qs_mem_free(columns[k]);
            for (int clip = 0; clip < 2; clip++) qs_mem_free(folded[k][clip]);
        }
        free(gram);
        free(abs_mean);
        free(w);
        free(divisors);
    }
    if (qs_rt_simt_set_reverse != NULL) qs_rt_simt_set_reverse(false);
}

/* ---- a layer ---- */

static void test_like_cpu(void **state)
{
    (void)state;
    enum { N_SPECS = 2 };
    static const char *const texts[N_SPECS] = {"awq:bits=4,group=32,duo=0", "awq:bits=4,group=32,duo=0,gptq=1"};
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
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_search_like_cpu), cmocka_unit_test(test_like_cpu)};
    return cmocka_run_group_tests_name("cuda_awq", tests, NULL, NULL);
}
