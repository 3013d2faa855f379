/* qsweep-calibrate: run the model once over calibration text and bank the statistics that every method and
 * grid point shares. With --propagate the inputs of each layer come from already quantised layers, which makes
 * the artifact fit for that one spec. */
#include <stdio.h>
#include <string.h>

#include "backend/backend_record.h"
#include "base/args.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/progress.h"
#include "data/corpus.h"
#include "model/feed.h"
#include "model/forward.h"
#include "quant/propagate.h"
#include "stat/calib_file.h"
#include "stat/stats.h"
#include "stages/common.h"

typedef struct options {
    qs_common_args common;
    const char *model, *text, *production, *propagate, *out, *device_map, *vram_budget, *compute;
    int64_t n_samples, seqlen;
    int n_threads;
    int argc;
    char **argv;
} options;

typedef struct job {
    const options *opt;
    qs_model *model;
    const qs_model_config *config;
    qs_backend *backend;
    qs_corpus corpus, production;
    qs_token_list tokens, production_tokens;
    int64_t *starts; /* [n_samples] */
    int32_t *windows; /* [n_samples, seqlen] */
    qs_spec spec;    /* of --propagate */
    qs_device_map map;
    qs_compute compute;
    qs_collector collector;
    qs_scratch *scratch;
    qs_feed feed;
    float *hidden;       /* device [n_samples * seqlen, d_model] */
    float *probe_hidden; /* device, a copy that the statistics pass may overwrite; --propagate only */
    qs_propagation *propagation; /* the same */
    qs_artifact *artifact;
} job;

enum { SCRATCH_ROWS = 2048 };

static qs_err take_inputs(job *j)
{
    const options *opt = j->opt;
    qs_err err;
    QS_TRY(qs_device_map_parse(&j->map, opt->device_map, opt->vram_budget));
    QS_TRY(qs_compute_parse(&j->compute, opt->compute));
    if (opt->propagate != NULL) QS_TRY(qs_spec_parse(&j->spec, opt->propagate));
    QS_TRY(qs_model_open(&j->model, opt->model));
    if (opt->propagate != NULL) QS_TRY(qs_context(qs_propagation_check(j->model, &j->spec), "--propagate"));
    j->config = qs_model_get_config(j->model);
    const qs_tokenizer *tokenizer = qs_model_get_tokenizer(j->model);
    if (tokenizer == NULL) {
        err = qs_fail(QS_E_INPUT, "open model %s: it has no tokenizer (tokenizer.json)", opt->model);
        goto out;
    }
    QS_TRY(qs_corpus_load(&j->corpus, opt->text));
    QS_TRY(qs_tokenizer_encode(tokenizer, j->corpus.text, j->corpus.bytes, false, &j->tokens));
    QS_TRY(QS_NEW(j->starts, opt->n_samples, "window starts"));
    err = qs_windows_stratified(j->tokens.n, opt->seqlen, opt->n_samples, (uint64_t)opt->common.seed, j->starts);
    if (err != QS_OK) {
        err = qs_context(err, "use text %s", opt->text);
        goto out;
    }
    QS_TRY(QS_NEW(j->windows, opt->n_samples * opt->seqlen, "calibration windows"));
    for (int64_t i = 0; i < opt->n_samples; i++) {
        int32_t *window = j->windows + i * opt->seqlen;
        memcpy(window, j->tokens.ids + j->starts[i], (size_t)opt->seqlen * sizeof *window);
        /* A deployed model always sees BOS first; its first position is an attention sink. */
        if (qs_tokenizer_adds_bos(tokenizer)) window[0] = qs_tokenizer_bos(tokenizer);
    }
    if (opt->production != NULL) {
        QS_TRY(qs_corpus_load(&j->production, opt->production));
        QS_TRY(qs_tokenizer_encode(tokenizer, j->production.text, j->production.bytes, false, &j->production_tokens));
    }
out:
    return err;
}

static int64_t n_rows(const job *j) { return j->opt->n_samples * j->opt->seqlen; }

static size_t stream_bytes(const job *j)
{
    return (size_t)(n_rows(j) * j->config->d_model) * sizeof(float) * (j->opt->propagate != NULL ? 2 : 1);
}

/* Beside streams and a block. */
static size_t rest_bytes(const job *j)
{
    size_t bytes = qs_collector_bytes(j->config) + qs_scratch_bytes(j->config, SCRATCH_ROWS);
    if (j->opt->propagate == NULL) return bytes;
    return bytes + (size_t)qs_propagation_bytes(j->model, j->opt->n_threads, &j->spec);
}

static qs_err print_plan(const job *j)
{
    const options *opt = j->opt;
    size_t streams = stream_bytes(j), fixed = rest_bytes(j);
    char a[QS_MEM_TEXT_BYTES], b[QS_MEM_TEXT_BYTES];
    qs_log_info("calibrate %s: %lld windows of %lld tokens from %s (%lld tokens), %s statistics", opt->model,
                (long long)opt->n_samples, (long long)opt->seqlen, opt->text, (long long)j->tokens.n,
                opt->propagate != NULL ? j->spec.id : "full-precision");
    qs_log_info("memory: streams %s, statistics and scratch %s, plus one decoder block", qs_mem_format(a, streams),
                qs_mem_format(b, fixed));
    if (opt->n_samples < 100 || opt->n_samples > 500)
        qs_log_warn("%lld samples are outside the accepted 100 to 500; the calibration_size gate will fail",
                    (long long)opt->n_samples);
    if (!opt->common.dry_run || !opt->common.json) return QS_OK;
    return stage_print_json(json_pack("{s:I, s:I, s:I, s:I}", "n_samples", (json_int_t)opt->n_samples, "seqlen",
                                      (json_int_t)opt->seqlen, "n_text_tokens", (json_int_t)j->tokens.n, "bytes",
                                      (json_int_t)(streams + fixed)));
}

/* The artifact as --json has it, whether it was there or made now. */
static qs_err print_artifact(const options *opt, const char *status, qs_digest digest)
{
    char text[QS_DIGEST_TEXT_BYTES];
    if (!opt->common.json) return QS_OK;
    return stage_print_json(json_pack("{s:o, s:s, s:s}", "path", qs_json_text(opt->out), "digest",
                                      qs_digest_format(text, digest), "status", status));
}

static qs_err print_current(const job *j)
{
    qs_artifact *artifact;
    qs_log_info("%s is current: nothing to do", j->opt->out);
    qs_err err = qs_artifact_open(&artifact, j->opt->out, QS_KIND_CALIB);
    if (err != QS_OK) return err;
    err = print_artifact(j->opt, "current", qs_artifact_digest(artifact));
    qs_artifact_close(artifact);
    return err;
}

static qs_err allocate(job *j)
{
    const options *opt = j->opt;
    qs_err err;
    size_t bytes = (size_t)(n_rows(j) * j->config->d_model) * sizeof(float);
    QS_TRY(qs_backend_alloc(j->backend, &j->hidden, bytes, "hidden states"));
    if (opt->propagate != NULL) QS_TRY(qs_backend_alloc(j->backend, &j->probe_hidden, bytes, "hidden states"));
    QS_TRY(qs_scratch_create(&j->scratch, j->backend, j->model, SCRATCH_ROWS));
    QS_TRY(qs_collector_init(&j->collector, j->backend, j->config));
    qs_block_options block = {.uses = QS_USE_GEMM, .compute = j->compute, .dense_dtype = QS_F32};
    qs_feed_init(&j->feed, j->backend, j->model, &block);
    QS_TRY(qs_feed_load(&j->feed, NULL, 0));
    QS_TRY(qs_forward_embed(j->backend, j->model, j->windows, n_rows(j), j->hidden));
    if (opt->propagate != NULL)
        QS_TRY(qs_propagation_create(&j->propagation, j->backend, j->model, &j->spec, &j->collector, j->windows,
                                     opt->n_samples, opt->seqlen));
out:
    return err;
}

/* Statistics from a copy of the stream, then the stream itself moves on through the quantised layer. */
static qs_err propagate_layer(job *j, int64_t layer, const qs_tap *tap)
{
    const options *opt = j->opt;
    qs_quant_layer quant = {0};
    qs_linear_source linears = qs_quant_layer_source(&quant);
    qs_err err;
    QS_TRY(qs_feed_load(&j->feed, NULL, layer));
    QS_TRY(qs_propagation_probe(j->propagation, j->hidden, n_rows(j), j->probe_hidden));
    QS_TRY(qs_block_forward(qs_feed_block(&j->feed), j->scratch, j->probe_hidden, opt->n_samples, opt->seqlen, tap));
    QS_TRY(qs_propagation_layer(j->propagation, layer, &quant));
    QS_TRY(qs_feed_load(&j->feed, &linears, layer));
    QS_TRY(qs_block_forward(qs_feed_block(&j->feed), j->scratch, j->hidden, opt->n_samples, opt->seqlen, NULL));
out:
    qs_quant_layer_free(&quant);
    return err;
}

/* Statistics of a layer that is loaded; the next one is loaded beside that. */
static qs_err collect_layer(job *j, int64_t layer, const qs_tap *tap)
{
    const options *opt = j->opt;
    qs_err err;
    QS_TRY(qs_feed_mark(&j->feed));
    QS_TRY(qs_block_forward(qs_feed_block(&j->feed), j->scratch, j->hidden, opt->n_samples, opt->seqlen, tap));
    if (layer + 1 < j->config->n_layers) QS_TRY(qs_feed_load_next(&j->feed, NULL, layer + 1));
out:
    return err;
}

/* A budget is shared out among all layers, which are measured on the full-precision stream; then the stream starts
 * again. */
static qs_err measure_layers(job *j, const qs_tap *tap, qs_progress *progress, int64_t *n_done)
{
    qs_err err = QS_OK;
    if (!qs_propagation_measures(j->propagation)) goto out;
    for (int64_t layer = 0; layer < j->config->n_layers; layer++) {
        QS_TRY(qs_collector_clear(&j->collector));
        QS_TRY(collect_layer(j, layer, tap));
        QS_TRY(qs_propagation_measure(j->propagation, layer));
        qs_progress_update(progress, ++*n_done);
    }
    QS_TRY(qs_propagation_share(j->propagation));
out:
    return err == QS_OK ? qs_propagation_embed(j->propagation, j->windows, n_rows(j), j->hidden) : err;
}

/* The head's input, which is what the final norm makes of the stream. */
static qs_err collect_head(job *j)
{
    float *states = j->propagation != NULL ? j->probe_hidden : j->hidden;
    qs_err err = QS_OK;
    if (j->propagation != NULL) QS_TRY(qs_propagation_probe(j->propagation, j->hidden, n_rows(j), states));
    QS_TRY(qs_forward_final_norm(j->backend, j->model, states, n_rows(j)));
    err = qs_collector_write_head(&j->collector, states, n_rows(j), j->artifact);
out:
    return err;
}

static qs_err run_layers(job *j)
{
    qs_tap tap = qs_collector_tap(&j->collector);
    qs_progress progress;
    int64_t n_done = 0, n_passes = j->propagation != NULL && qs_propagation_measures(j->propagation) ? 2 : 1;
    qs_err err = QS_OK;
    qs_progress_start(&progress, "calibrate layers", n_passes * j->config->n_layers);
    if (j->propagation != NULL) QS_TRY(measure_layers(j, &tap, &progress, &n_done));
    for (int64_t layer = 0; layer < j->config->n_layers; layer++) {
        QS_TRY(qs_collector_clear(&j->collector));
        QS_TRY(j->propagation != NULL ? propagate_layer(j, layer, &tap) : collect_layer(j, layer, &tap));
        QS_TRY(qs_collector_write(&j->collector, layer, j->artifact));
        qs_progress_update(&progress, ++n_done);
    }
    QS_TRY(collect_head(j));
out:
    qs_progress_finish(&progress);
    return err;
}

/* How many positions of the text at least one window covers; starts ascend. */
static int64_t count_distinct(const job *j)
{
    int64_t covered = 0, end = 0;
    for (int64_t i = 0; i < j->opt->n_samples; i++) {
        int64_t first = j->starts[i] > end ? j->starts[i] : end;
        end = j->starts[i] + j->opt->seqlen;
        covered += end - first;
    }
    return covered;
}

static qs_err write_sanity(job *j)
{
    qs_err err;
    int64_t bins[QS_CORPUS_LENGTH_BINS], n_bins = QS_CORPUS_LENGTH_BINS;
    qs_corpus_length_histogram(&j->corpus, bins);
    QS_TRY(qs_artifact_put(j->artifact, "/calibration/length_histogram", QS_I64, 1, &n_bins, bins));
    if (j->opt->production == NULL) goto out;
    double js, median, production_median;
    QS_TRY(qs_unigram_js(j->tokens.ids, j->tokens.n, j->production_tokens.ids, j->production_tokens.n,
                         j->config->n_vocab, &js));
    QS_TRY(qs_corpus_median_chars(&j->corpus, &median));
    QS_TRY(qs_corpus_median_chars(&j->production, &production_median));
    QS_TRY(qs_artifact_put_real(j->artifact, "/calibration/@js_divergence", js));
    QS_TRY(qs_artifact_put_real(j->artifact, "/calibration/@median_chars_ratio", median / production_median));
    qs_log_info("against the production sample: unigram JS divergence %.3f bits, median document length ratio %.2f", js,
                median / production_median);
out:
    return err;
}

static qs_err run(const options *opt)
{
    job j = {.opt = opt};
    qs_digest digest;
    double started = qs_clock_seconds();
    qs_err err;
    QS_TRY(take_inputs(&j));
    QS_TRY(print_plan(&j));
    if (opt->common.dry_run) goto out;
    qs_calib_plan plan = {
        .n_samples = opt->n_samples,
        .seqlen = opt->seqlen,
        .seed = opt->common.seed,
        .n_text_tokens = j.tokens.n,
        .n_distinct_tokens = count_distinct(&j),
        .windows = j.windows,
        .compute = qs_compute_name(j.compute),
        .propagate_spec = opt->propagate != NULL ? j.spec.text : "",
    };
    if (qs_calib_is_current(opt->out, j.model, &plan)) {
        QS_TRY(print_current(&j));
        goto out;
    }
    size_t widest, block = stage_block_bytes(j.model, &widest);
    stage_need need = {
        .what = "calibrate",
        .weights_bytes = block + widest,
        .states_bytes = stream_bytes(&j),
        .rest_bytes = rest_bytes(&j),
    };
    QS_TRY(stage_backend_create(&j.backend, &opt->common, opt->n_threads, &j.map, &need));
    QS_TRY(qs_dir_create_for(opt->out));
    QS_TRY(qs_calib_create(&j.artifact, opt->out, j.model, &plan));
    QS_TRY(qs_artifact_set_command(j.artifact, opt->argc, opt->argv));
    QS_TRY(qs_backend_record(j.artifact, j.backend, opt->common.device));
    QS_TRY(write_sanity(&j));
    QS_TRY(allocate(&j));
    QS_TRY(run_layers(&j));
    qs_artifact *sealing = j.artifact;
    j.artifact = NULL;
    QS_TRY(qs_artifact_seal(sealing, &digest));
    qs_log_info("wrote %s in %.1f s", opt->out, qs_clock_seconds() - started);
    QS_TRY(print_artifact(opt, "written", digest));
out:
    qs_artifact_abort(j.artifact);
    if (j.backend != NULL) {
        qs_propagation_destroy(j.propagation);
        qs_feed_fini(&j.feed);
        qs_scratch_destroy(j.scratch);
        if (j.collector.backend != NULL) qs_collector_fini(&j.collector);
        qs_backend_free(j.backend, j.hidden);
        qs_backend_free(j.backend, j.probe_hidden);
        qs_backend_destroy(j.backend);
    }
    qs_mem_free(j.windows);
    qs_mem_free(j.starts);
    qs_token_list_free(&j.tokens);
    qs_token_list_free(&j.production_tokens);
    qs_corpus_free(&j.corpus);
    qs_corpus_free(&j.production);
    qs_model_close(j.model);
    return err;
}

int main(int argc, char **argv)
{
    options opt = {.common = QS_COMMON_DEFAULTS, .out = "calib.h5", .n_samples = 128, .seqlen = 512,
                   .compute = "f32", .device_map = "auto", .argc = argc, .argv = argv};
    qs_arg rows[] = {
        {"model", QS_ARG_STRING, &opt.model, "DIR|FILE.gguf", "the full-precision model", 0, 0, false},
        {"text", QS_ARG_STRING, &opt.text, "FILE|DIR", "calibration text", 0, 0, false},
        {"production", QS_ARG_STRING, &opt.production, "FILE|DIR",
         "sample of production text to compare with", 0, 0, false},
        {"samples", QS_ARG_INT, &opt.n_samples, "N",
         "windows; 100 to 500 pass the calibration_size gate", 1, 1e6, false},
        {"seqlen", QS_ARG_INT, &opt.seqlen, "N", "tokens in a window", 2, 1e6, false},
        {"propagate", QS_ARG_STRING, &opt.propagate, "SPEC",
         "collect through layers quantised with this spec", 0, 0, false},
        {"compute", QS_ARG_STRING, &opt.compute, "TYPE", "f32 or bf16: precision of the layers' products", 0, 0, false},
        {"out", QS_ARG_STRING, &opt.out, "FILE", "the artifact", 0, 0, false},
        QS_ARGS_DEVICE_MAP(&opt.device_map, &opt.vram_budget),
        QS_ARGS_WATCHDOG(&opt.common),
        QS_ARGS_COMMON(&opt.common),
    };
    qs_args args = {.program = "qsweep-calibrate",
                    .summary = "collect the statistics that all methods share",
                    .rows = rows};
    bool done;
    qs_err err = qs_args_parse(&args, argc, argv, stdout, &done);
    if (err != QS_OK || done) goto out;
    qs_args_apply_common(&opt.common, &opt.n_threads);
    if (opt.common.list) {
        stage_list list = stage_list_begin(&opt.common);
        for (const qs_stat *stat = qs_stats; stat->name != NULL; stat++)
            stage_list_add(&list, "statistics", stat->name, NULL, stat->text);
        err = stage_list_end(&list);
        goto out;
    }
    if (opt.model == NULL || opt.text == NULL)
        err = qs_fail(QS_E_USAGE, "--model and --text are needed; see qsweep-calibrate --help");
    else
        err = run(&opt);
out:
    qs_args_free(&args);
    return qs_args_exit(err);
}
