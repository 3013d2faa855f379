/* Time of quantising one decoder block of SmolLM2-135M's shapes (hidden 576, feed-forward 1536) for one point
 * and for a grid, split into factors, solving and loss. Synthetic weights and inputs: the time does not
 * depend on the values. */
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "quant/methods.h"
#include "tests/quant_data.h"

enum { N_SITES = 4, N_MATRICES = 7, N_LAYERS = 30 };
static const int64_t widths[N_SITES] = {576, 576, 576, 1536};
static const struct {
    int site;
    int64_t n_out;
} matrices[N_MATRICES] = {{0, 576}, {0, 192}, {0, 192}, {1, 576}, {2, 1536}, {2, 1536}, {3, 576}};

typedef struct bench {
    qs_backend *backend;
    qs_workspace *workspace;
    qs_factor_cache *factors[N_SITES];
    float *grams[N_SITES], *weights[N_MATRICES];
} bench;

static void must(qs_err err)
{
    if (err == QS_OK) return;
    (void)fprintf(stderr, "%s\n", qs_error_text());
    exit((int)err);
}

static void run_block(bench *b, const qs_spec *specs, int64_t n_specs, double *load_s, double *solve_s)
{
    qs_quant_job jobs[N_MATRICES];
    qs_quant_task *tasks = malloc((size_t)(N_MATRICES * n_specs) * sizeof *tasks);
    qs_quant_result *results = calloc((size_t)(N_MATRICES * n_specs), sizeof *results);
    double start = qs_clock_seconds();
    for (int s = 0; s < N_SITES; s++) must(qs_factor_cache_load(b->factors[s], b->grams[s], 1000, "site"));
    *load_s += qs_clock_seconds() - start;
    start = qs_clock_seconds();
    for (int s = 0; s < N_SITES; s++) {
        int64_t n = 0;
        for (int m = 0; m < N_MATRICES; m++) {
            if (matrices[m].site != s) continue;
            jobs[m] = (qs_quant_job){.name = "m", .weights = b->weights[m], .n_out = matrices[m].n_out,
                                     .n_in = widths[s], .factors = b->factors[s], .backend = b->backend};
            for (int64_t i = 0; i < n_specs; i++, n++)
                tasks[n] = (qs_quant_task){.spec = &specs[i], .job = &jobs[m], .out = &results[m * n_specs + i]};
        }
        must(qs_quant_solve(b->workspace, tasks, n));
    }
    *solve_s += qs_clock_seconds() - start;
    for (int64_t i = 0; i < N_MATRICES * n_specs; i++) qs_packed_free(&results[i].packed);
    free(tasks);
    free(results);
}

static void measure(bench *b, const char *label, const char *const *texts, int64_t n_specs, int repeats)
{
    qs_spec specs[64];
    double load_s = 0, solve_s = 0;
    for (int64_t i = 0; i < n_specs; i++) must(qs_spec_parse(&specs[i], texts[i]));
    run_block(b, specs, n_specs, &load_s, &solve_s);
    load_s = solve_s = 0;
    for (int i = 0; i < repeats; i++) run_block(b, specs, n_specs, &load_s, &solve_s);
    (void)printf("%-44s %8.1f ms a block, of which H %5.1f ms; %d blocks: %6.2f s\n", label,
                 1e3 * (load_s + solve_s) / repeats, 1e3 * load_s / repeats, N_LAYERS,
                 N_LAYERS * (load_s + solve_s) / repeats);
}

int main(void)
{
    bench b;
    must(qs_backend_create(&b.backend, "cpu", 0, 0));
    must(qs_workspace_create(&b.workspace, b.backend));
    for (int s = 0; s < N_SITES; s++) {
        b.grams[s] = data_gram(widths[s], 300, (uint64_t)s);
        must(qs_factor_cache_create(&b.factors[s], b.workspace, b.grams[s], widths[s], 1000, "site"));
    }
    for (int m = 0; m < N_MATRICES; m++)
        b.weights[m] = data_normal(matrices[m].n_out * widths[matrices[m].site], (uint64_t)m, 0.05f);
    static const char *const one[] = {"gptq:bits=4,group=64"}, *const plain[] = {
                                                                   "gptq:bits=4,group=64,search=0"};
    static const char *const rtn[] = {"rtn:bits=4,group=64"};
    measure(&b, one[0], one, 1, 5);
    measure(&b, plain[0], plain, 1, 5);
    measure(&b, rtn[0], rtn, 1, 5);
    char text[24][64];
    const char *grid[24];
    for (int i = 0; i < 24; i++) {
        static const char *const bits[] = {"2", "3", "4", "8"}, *const groups[] = {"32", "64", "128"};
        (void)snprintf(text[i], sizeof text[i], "gptq:bits=%s,group=%s,sym=%d", bits[i / 6],
                       groups[i / 2 % 3], i % 2);
        grid[i] = text[i];
    }
    measure(&b, "24 points: 2|3|4|8 x 32|64|128 x sym|asym", grid, 24, 2);
    for (int s = 0; s < N_SITES; s++) {
        qs_factor_cache_destroy(b.factors[s]);
        free(b.grams[s]);
    }
    for (int m = 0; m < N_MATRICES; m++) free(b.weights[m]);
    qs_workspace_destroy(b.workspace);
    qs_backend_destroy(b.backend);
    return 0;
}
