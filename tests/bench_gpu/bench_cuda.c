/* Speed of a device backend on the shapes of an 8B model (Llama 3), with random weights: no model file is read.
 *
 * usage: bench_cuda [--backend cuda] [--only linear,decode,...] [--tiny] [--no-peaks]        CSV on stdout
 *
 * Columns: us (median of n samples; us_min and us_max their range) is the time of one unit: a layer (linear,
 * prefill), a step (decode), a call (ops, gram), a stage of quantising (gptq). bytes and flops are what the unit
 * must read from memory and compute; read_share and bf16_share relate them to the ceilings that part `peaks`
 * measures on the same device. Exit status 8 when a checked result was outside its tolerance. */
#include <stdio.h>
#include <string.h>

#include "base/args.h"
#include "base/clock.h"
#include "base/mem.h"
#include "base/rng.h"
#include "tests/bench_gpu/bench_cuda.h"

static const bench_shape shape_8b = {
    .d_model = 4096, .d_ff = 14336, .n_heads = 32, .n_kv_heads = 8, .head_dim = 128, .n_layers = 32,
    .n_vocab = 128256, .position = 512, .prompts = {2048, 512, 128}, .gram_rows = 8192, .gptq_rows = 4096,
};

/* Small enough for an emulated device; every code path of the large one but the sizes. */
static const bench_shape shape_tiny = {
    .d_model = 128, .d_ff = 256, .n_heads = 4, .n_kv_heads = 2, .head_dim = 32, .n_layers = 2, .n_vocab = 160,
    .position = 5, .prompts = {48, 40, 36}, .gram_rows = 64, .gptq_rows = 300,
};

static const struct part {
    const char *name, *what;
    qs_err (*run)(bench *b);
} parts[] = {
    {"linear", "the seven linears of a layer, 1 to 32 rows, every format", bench_part_linear},
    {"decode", "whole decoding steps, 1 to 32 sequences", bench_part_decode},
    {"decoder", "the decoder of qsweep itself, prompt and steps", bench_part_decoder},
    {"prefill", "a layer for 512 and 2048 tokens", bench_part_prefill},
    {"gram", "second moments of 8192 activations", bench_part_gram},
    {"ops", "the ops between the products", bench_part_ops},
    {"gptq", "quantising one block with GPTQ", bench_part_gptq},
    {"awq", "quantising one block with AWQ", bench_part_awq},
};
enum { N_PARTS = sizeof parts / sizeof *parts };

typedef struct options {
    const char *backend, *only, *formats;
    int64_t device, n_threads, n_samples;
    double sample_ms;
    bool tiny, no_peaks, list;
} options;

/* Whether `name` is one of the comma-separated words. */
static bool holds(const char *list, const char *name)
{
    size_t length = strlen(name);
    for (const char *at = list; at != NULL; at = strchr(at, ',')) {
        at += *at == ',';
        if (strncmp(at, name, length) == 0 && (at[length] == ',' || at[length] == '\0')) return true;
    }
    return false;
}

bool bench_wants(const bench *b, const char *format) { return b->formats == NULL || holds(b->formats, format); }

static qs_err check_only(const char *only)
{
    char word[32];
    for (const char *at = only; at != NULL; at = strchr(at, ',')) {
        at += *at == ',';
        bool known = false;
        (void)snprintf(word, sizeof word, "%.*s", (int)strcspn(at, ","), at);
        for (int i = 0; i < N_PARTS; i++) known = known || strcmp(word, parts[i].name) == 0;
        if (!known && strcmp(word, "peaks") != 0)
            return qs_fail(QS_E_USAGE, "--only: \"%s\" is no part of this benchmark; --list names them", word);
    }
    return QS_OK;
}

static void list_parts(void)
{
    printf("%-10s %s\n", "peaks", "measured ceilings of the device; run unless --no-peaks");
    for (int i = 0; i < N_PARTS; i++) printf("%-10s %s\n", parts[i].name, parts[i].what);
}

static void print_peak(const bench *b, const char *name, double bytes, double flops)
{
    bench_row row = {.part = "peaks", .name = name, .format = "-", .time = {1.0, 1.0, 1.0, 1}, .bytes = bytes,
                     .flops = flops, .error = -1};
    bench_print(b, &row);
}

static qs_err measure_peaks(bench *b)
{
    qs_err err = qs_backend_measure_peaks(b->backend, QS_PEAKS_ALL, &b->peaks);
    if (err != QS_OK) return err;
    print_peak(b, "read", b->peaks.read_bytes, 0.0);
    print_peak(b, "gemm_f32", 0.0, b->peaks.gemm_f32_flops);
    print_peak(b, "gemm_bf16", 0.0, b->peaks.gemm_bf16_flops);
    return QS_OK;
}

static qs_err run_parts(bench *b, const options *opt)
{
    qs_err err = QS_OK;
    bench_print_header();
    if (!opt->no_peaks) QS_TRY(measure_peaks(b));
    for (int i = 0; i < N_PARTS; i++) {
        if (opt->only != NULL && !holds(opt->only, parts[i].name)) continue;
        double started = qs_clock_seconds();
        err = qs_context(parts[i].run(b), "%s", parts[i].name);
        if (err != QS_OK) goto out;
        fprintf(stderr, "bench_cuda: %s took %.1f s\n", parts[i].name, qs_clock_seconds() - started);
    }
    if (b->wrong)
        err = qs_fail(QS_E_NUMERIC, "a result is outside its tolerance (see column error); its time means nothing");
out:
    return err;
}

static qs_err run(const options *opt)
{
    qs_err err = QS_OK;
    bench b = {.tiny = opt->tiny, .formats = opt->formats, .shape = opt->tiny ? shape_tiny : shape_8b,
               .n_samples = opt->n_samples, .sample_seconds = opt->sample_ms * 1e-3,
               .layers_bytes = opt->tiny ? 0.0 : 1e9};
    QS_TRY(qs_backend_create(&b.backend, opt->backend, opt->device, (int)opt->n_threads));
    fprintf(stderr, "bench_cuda: %s, %s, %s\n", qs_backend_name(b.backend), qs_backend_device(b.backend),
            qs_backend_describe(b.backend));
    QS_TRY(QS_NEW(b.normal, BENCH_PATTERN, "random numbers"));
    for (int64_t i = 0; i < BENCH_PATTERN; i++) b.normal[i] = (float)qs_rng_normal(7, (uint64_t)i);
    QS_TRY(run_parts(&b, opt));
out:
    qs_mem_free(b.normal);
    qs_backend_destroy(b.backend);
    return err;
}

int main(int argc, char **argv)
{
    options opt = {.backend = "cuda", .n_samples = 7, .sample_ms = 20.0};
    qs_arg rows[] = {
        {"backend", QS_ARG_STRING, &opt.backend, "NAME", "what to measure: cuda, cpu", 0, 0, false},
        {"only", QS_ARG_STRING, &opt.only, "PART,...", "parts to run (--list); all when not given", 0, 0, false},
        {"formats", QS_ARG_STRING, &opt.formats, "NAME,...",
         "formats of linear, decode and prefill; all when not given", 0, 0, false},
        {"device", QS_ARG_INT, &opt.device, "N", "GPU index", 0, 1024, false},
        {"threads", QS_ARG_INT, &opt.n_threads, "N", "CPU threads; 0 = OpenMP's default", 0, 4096, false},
        {"samples", QS_ARG_INT, &opt.n_samples, "N", "samples of a row", 1, 64, false},
        {"sample-ms", QS_ARG_REAL, &opt.sample_ms, "MS", "time that a sample takes at least", 0.01, 10000, false},
        {"tiny", QS_ARG_FLAG, &opt.tiny, NULL, "tiny shapes, to test the program itself", 0, 0, false},
        {"no-peaks", QS_ARG_FLAG, &opt.no_peaks, NULL, "leave the ceilings out, and the shares of them", 0, 0, false},
        {"list", QS_ARG_FLAG, &opt.list, NULL, "list the parts, and stop", 0, 0, false},
        {NULL, QS_ARG_FLAG, NULL, NULL, NULL, 0, 0, false},
    };
    qs_args args = {.program = "bench_cuda", .summary = "speed of a device backend on the shapes of an 8B model",
                    .rows = rows};
    bool done = false;
    qs_err err = qs_args_parse(&args, argc, argv, stdout, &done);
    if (err == QS_OK && !done && opt.list) list_parts();
    else if (err == QS_OK && !done) err = check_only(opt.only);
    if (err == QS_OK && !done && !opt.list) err = run(&opt);
    qs_args_free(&args);
    return qs_args_exit(err);
}
