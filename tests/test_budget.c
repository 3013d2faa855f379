/* Budgets of bits over a whole model: what is shared out stays within them, is better than the same for every matrix,
 * is what was predicted, does not depend on threads, and comes back from the artifact (docs/quantisers.md,
 * "EXL2"; checklist E0). */
#include "tests/scratch.h"

#include "model/model_record.h"
#include "quant/quant_size.h"
#include "quant/bit_budget.h"
#include "quant/quant_file.h"
#include "tests/quant_data.h"

static const char *const texts[] = {"exl2:bpw=3.5,head=16", "exl2:bpw=4.5,head=16", "gptq:bpw=4.25",
                                    "gptq:bpw=4.8,group=32,sym=0", "gptq:bits=4,group=64"};
enum { N_SPECS = sizeof texts / sizeof *texts, N_LAYERS = 2, N_TOKENS = 200 };

static qs_model *model;
static qs_spec specs[N_SPECS];
static int64_t n_specs = N_SPECS; /* that are solved */
static float *grams[N_LAYERS][QS_N_SITES];

static qs_err get_gram(void *context, int64_t layer, qs_site site, const float **gram, int64_t *n_tokens)
{
    (void)context;
    *gram = grams[layer][site];
    *n_tokens = N_TOKENS;
    return QS_OK;
}

static qs_gram_source source = {.get = get_gram};

static int start(void **state)
{
    if (scratch_create(state) != 0) return -1;
    OK(qs_model_open(&model, "tests/fixtures/tiny"));
    for (int i = 0; i < N_SPECS; i++) OK(qs_spec_parse(&specs[i], texts[i]));
    /* as many bits as the last spec spends, to two decimals */
    double uniform = (double)qs_quant_linear_bits(&specs[4], model) / (double)qs_model_n_linear_weights(model);
    specs[2].bpw = ceil(100 * uniform) / 100;
    for (int layer = 0; layer < N_LAYERS; layer++)
        for (int site = 0; site < QS_N_SITES; site++)
            grams[layer][site] = data_gram(qs_site_width(qs_model_get_config(model), (qs_site)site), N_TOKENS,
                                           (uint64_t)(4 * layer + site));
    return 0;
}

static int stop(void **state)
{
    for (int i = 0; i < N_LAYERS * QS_N_SITES; i++) free(grams[i / QS_N_SITES][i % QS_N_SITES]);
    qs_model_close(model);
    return scratch_remove(state);
}

/* All specs through the whole model; bits of the linears of each. */
static void quantise(int n_threads, qs_quant_layer out[N_LAYERS][N_SPECS], int64_t bits[N_SPECS])
{
    qs_backend *backend;
    qs_quantizer *quantizer;
    OK(qs_backend_create(&backend, "cpu", 0, n_threads));
    OK(qs_quantizer_create(&quantizer, model, backend, &source, specs, n_specs));
    assert_true(qs_quantizer_has_budgets(quantizer));
    FAILS(QS_E_USAGE, qs_quantizer_layer(quantizer, 0, out[0]));
    for (int layer = 0; layer < N_LAYERS; layer++) OK(qs_quantizer_measure(quantizer, layer));
    OK(qs_quantizer_share(quantizer));
    for (int layer = 0; layer < N_LAYERS; layer++) OK(qs_quantizer_layer(quantizer, layer, out[layer]));
    for (int64_t i = 0; i < n_specs; i++) bits[i] = qs_quantizer_linear_bits(quantizer, i);
    qs_quantizer_destroy(quantizer);
    qs_backend_destroy(backend);
}

static void free_layers(qs_quant_layer layers[N_LAYERS][N_SPECS])
{
    for (int i = 0; i < N_LAYERS * N_SPECS; i++) qs_quant_layer_free(&layers[i / N_SPECS][i % N_SPECS]);
}

static double loss_of(qs_quant_layer layers[N_LAYERS][N_SPECS], int spec)
{
    double sum = 0;
    for (int i = 0; i < N_LAYERS * QS_N_LINEARS; i++)
        sum += layers[i / QS_N_LINEARS][spec].linears[i % QS_N_LINEARS].loss;
    return sum;
}

static void assert_same(const qs_packed *p, const qs_packed *q)
{
    assert_true(p->format == q->format && p->bits == q->bits && p->group_size == q->group_size);
    assert_true(p->n_groups == q->n_groups && p->row_bytes == q->row_bytes);
    assert_memory_equal(p->codes, q->codes, (size_t)(p->n_out * p->row_bytes));
    if (p->scales != NULL) assert_memory_equal(p->scales, q->scales, (size_t)(p->n_out * p->n_groups) * 2);
    if (p->zeros != NULL) assert_memory_equal(p->zeros, q->zeros, (size_t)(p->n_out * p->n_groups));
    if (p->format != QS_PACKED_EXL2) return;
    assert_memory_equal(p->groups, q->groups, (size_t)p->n_groups * sizeof *p->groups);
    assert_memory_equal(p->scale_codes, q->scale_codes, (size_t)(p->n_out * p->n_groups));
    assert_memory_equal(p->scale_max, q->scale_max, (size_t)p->n_groups * 2);
    assert_memory_equal(p->perm, q->perm, (size_t)p->n_in * sizeof *p->perm);
}

static void test_shares(void **state)
{
    (void)state;
    static qs_quant_layer layers[N_LAYERS][N_SPECS], again[N_LAYERS][N_SPECS];
    int64_t bits[N_SPECS], bits_again[N_SPECS];
    double weights = (double)qs_model_n_linear_weights(model);
    quantise(1, layers, bits);
    quantise(3, again, bits_again);
    for (int s = 0; s < N_SPECS; s++) {
        int64_t sum = 0;
        assert_true(bits[s] == bits_again[s]);
        for (int i = 0; i < N_LAYERS * QS_N_LINEARS; i++) {
            const qs_quant_result *r = &layers[i / QS_N_LINEARS][s].linears[i % QS_N_LINEARS];
            sum += qs_packed_stored_bits(&r->packed);
            assert_same(&r->packed, &again[i / QS_N_LINEARS][s].linears[i % QS_N_LINEARS].packed);
            if (specs[s].bpw == 0) continue;
            /* what was measured on all rows is what came, else it is near */
            if (r->packed.n_out <= QS_SAMPLE_ROWS) assert_true(r->predicted == r->loss);
            assert_true(r->predicted > 0.8 * r->loss && r->predicted < 1.25 * r->loss);
        }
        assert_true(sum == bits[s]);
        if (specs[s].bpw > 0)
            assert_true((double)sum <= specs[s].bpw * weights &&
                        (double)sum > (specs[s].bpw - 0.3) * weights);
    }
    assert_true(loss_of(layers, 1) < 0.6 * loss_of(layers, 0));
    /* Chosen against uniform: weights at random leave nothing to choose between, and gate and up were measured on a
     * sample of their rows. */
    assert_true((double)(bits[2] - bits[4]) <= 0.01 * weights && loss_of(layers, 2) < 1.03 * loss_of(layers, 4));
    free_layers(layers);
    free_layers(again);
}

static const qs_spec *options_even(const qs_bit_budgets *budgets)
{
    int64_t n;
    return qs_bit_budgets_options(budgets, 0, &n);
}

/* Where one matrix alone matters it gets all there is, and the others the least. */
static void test_weights(void **state)
{
    (void)state;
    enum { N_MATRICES = N_LAYERS * QS_N_LINEARS, CHOSEN = QS_N_LINEARS + QS_ROLE_V };
    qs_bit_budgets *budgets;
    double weights[N_MATRICES] = {[CHOSEN] = 2.5}, predicted;
    int64_t n;
    OK(qs_bit_budgets_create(&budgets, model, specs, 1));
    const qs_spec *options = qs_bit_budgets_options(budgets, 0, &n);
    for (int m = 0; m < N_MATRICES; m++)
        for (int64_t o = 0; o < n; o++)
            qs_bit_budgets_record(budgets, 0, m / QS_N_LINEARS, (qs_role)(m % QS_N_LINEARS), o, 1.0 / (double)(1 + o));
    qs_bit_budgets_weigh(budgets, weights);
    OK(qs_bit_budgets_share(budgets));
    for (int m = 0; m < N_MATRICES; m++) {
        const qs_spec *got = qs_bit_budgets_spec(budgets, 0, m / QS_N_LINEARS, (qs_role)(m % QS_N_LINEARS), &predicted);
        assert_ptr_equal(got, m == CHOSEN ? &options[n - 1] : &options[0]);
        assert_true(predicted == 1.0 / (m == CHOSEN ? (double)n : 1.0)); /* a loss, not what it costs */
    }
    qs_bit_budgets_destroy(budgets);
    /* even=1: the widest option that all can have */
    qs_spec even;
    double bits[QS_OPTIONS_MAX];
    OK(qs_spec_parse(&even, "exl2:bpw=4.5,even=1"));
    OK(qs_bit_budgets_create(&budgets, model, &even, 1));
    for (int64_t o = 0; o < n; o++) bits[o] = 0;
    for (int m = 0; m < N_MATRICES; m++)
        for (int64_t o = 0; o < n; o++) {
            qs_tensor_info info = qs_model_info(model, (qs_role)(m % QS_N_LINEARS), m / QS_N_LINEARS);
            bits[o] += (double)qs_quant_matrix_bits(&options_even(budgets)[o], info.n_out, info.n_in);
            qs_bit_budgets_record(budgets, 0, m / QS_N_LINEARS, (qs_role)(m % QS_N_LINEARS), o, 1.0 / (double)(1 + o));
        }
    OK(qs_bit_budgets_share(budgets));
    int64_t widest = 0;
    for (int64_t o = 0; o < n; o++)
        if (bits[o] <= 4.5 * (double)qs_model_n_linear_weights(model)) widest = o;
    for (int m = 0; m < N_MATRICES; m++)
        assert_ptr_equal(qs_bit_budgets_spec(budgets, 0, m / QS_N_LINEARS, (qs_role)(m % QS_N_LINEARS), &predicted),
                         &options_even(budgets)[widest]);
    assert_true((double)qs_bit_budgets_bits(budgets, 0) == bits[widest]);
    qs_bit_budgets_destroy(budgets);
}

/* With tokens, what errors do is measured: other shares, the same for any number of threads. */
static void test_weighed(void **state)
{
    (void)state;
    static qs_quant_layer plain[N_LAYERS][N_SPECS], layers[N_LAYERS][N_SPECS], again[N_LAYERS][N_SPECS];
    int64_t bits[N_SPECS], bits_again[N_SPECS];
    int32_t tokens[2 * 24];
    bool same = true;
    n_specs = 1; /* EXL2 */
    quantise(2, plain, bits);
    for (int i = 0; i < 48; i++) tokens[i] = (int32_t)qs_rng_below(5, (uint64_t)i, qs_model_get_config(model)->n_vocab);
    source = (qs_gram_source){.get = get_gram, .tokens = tokens, .n_windows = 2, .n_ctx = 24};
    quantise(1, layers, bits);
    quantise(3, again, bits_again);
    source = (qs_gram_source){.get = get_gram};
    n_specs = N_SPECS;
    assert_true(bits[0] == bits_again[0]);
    assert_true((double)bits[0] <= specs[0].bpw * (double)qs_model_n_linear_weights(model));
    for (int i = 0; i < N_LAYERS * QS_N_LINEARS; i++) {
        const qs_packed *p = &layers[i / QS_N_LINEARS][0].linears[i % QS_N_LINEARS].packed;
        assert_same(p, &again[i / QS_N_LINEARS][0].linears[i % QS_N_LINEARS].packed);
        same = same && p->row_bytes == plain[i / QS_N_LINEARS][0].linears[i % QS_N_LINEARS].packed.row_bytes;
    }
    assert_false(same);
    free_layers(plain);
    free_layers(layers);
    free_layers(again);
}

/* Below the narrowest and above the widest option nothing is begun. */
static void test_unreachable(void **state)
{
    (void)state;
    static const char *const bad[] = {"exl2:bpw=2.01", "exl2:bpw=9", "gptq:bpw=2.05", "gptq:bpw=8.49,group=64"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        qs_spec spec;
        double least, most;
        OK(qs_spec_parse(&spec, bad[i]));
        FAILS(QS_E_USAGE, qs_quant_check(model, &spec, 1, true));
        TEXT_HOLDS(spec.id, "cannot be reached");
        qs_bit_budget_range(model, &spec, &least, &most);
        assert_true(spec.bpw < least || spec.bpw > most);
        spec.bpw = least + 0.001;
        OK(qs_quant_check(model, &spec, 1, true));
    }
    /* rows that EXL2 cannot hold, by name */
    qs_spec spec;
    OK(qs_spec_parse(&spec, "exl2:bpw=4"));
    FAILS(QS_E_UNSUPPORTED, qs_spec_check_row(&spec, 100, "layers.0.o_proj"));
    TEXT_HOLDS("layers.0.o_proj", "100", "multiples of 32");
}

static void test_artifact(void **state)
{
    (void)state;
    static qs_quant_layer layers[N_LAYERS][N_SPECS];
    int64_t bits[N_SPECS];
    qs_quant_inputs inputs = {.model = model};
    quantise(2, layers, bits);
    for (int s = 0; s < N_SPECS; s++) {
        qs_quant_writer *writer;
        qs_quant_file *file;
        char path[QS_PATH_BYTES];
        double predicted;
        OK(qs_quant_path(path, scratch_dir, &specs[s]));
        OK(qs_quant_writer_create(&writer, path, &inputs, &specs[s], bits[s]));
        for (int layer = 0; layer < N_LAYERS; layer++) OK(qs_quant_writer_add(writer, layer, &layers[layer][s]));
        OK(qs_quant_writer_finish(writer, 1, NULL));
        assert_true(qs_quant_is_current(path, &inputs, &specs[s]));
        OK(qs_quant_file_open(&file, path, model));
        assert_true(qs_quant_file_size(file).bpw == (double)bits[s] / (double)qs_model_n_linear_weights(model));
        assert_string_equal(qs_quant_file_spec(file)->id, specs[s].id);
        qs_linear_source linears = qs_quant_file_source(file);
        for (int layer = N_LAYERS - 1; layer >= 0; layer--)
            for (int role = 0; role < QS_N_LINEARS; role++) {
                qs_matrix_desc desc;
                OK(linears.get(linears.context, layer, (qs_role)role, &desc));
                assert_same(desc.packed, &layers[layer][s].linears[role].packed);
            }
        if (specs[s].bpw > 0) { /* side by side */
            OK(qs_artifact_get_real(qs_quant_file_artifact(file), "/layers/1/up_proj/@predicted_loss", &predicted));
            assert_true(predicted == layers[1][s].linears[QS_ROLE_UP].predicted);
            OK(qs_artifact_get_real(qs_quant_file_artifact(file), "/spec/@predicted_loss", &predicted));
            assert_true(predicted > 0.8 * loss_of(layers, s) / (N_LAYERS * QS_N_LINEARS));
        }
        qs_quant_file_close(file);
    }
    free_layers(layers);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_shares), cmocka_unit_test(test_weights),
                                       cmocka_unit_test(test_weighed), cmocka_unit_test(test_unreachable),
                                       cmocka_unit_test(test_artifact)};
    return cmocka_run_group_tests(tests, start, stop);
}
