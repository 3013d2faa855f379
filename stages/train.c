/* qsweep-train: a small language model from text or from prompts with answers, on the CPU, with 32-bit or
 * 8-bit Adam. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/args.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "stages/common.h"
#include "train/train_run.h"

typedef struct options {
    qs_common_args common;
    qs_train_options train;
    const char *optimizer, *compute, *order, *start, *compare;
    int64_t n_seeds, embedding_bits;
    int argc;
    char **argv;
} options;

static const struct {
    const char *name;
    int bits;
    const char *text;
} optimizers[] = {
    {"adam32", 32, "AdamW, both moments in 32 bits: 8 bytes a weight"},
    {"adam8", 8, "AdamW, moments in blocks of 256 codes of 8 bits: 2.03 bytes a weight"},
};

/* Where --lr is not given: from drawn weights, and going on with a model (bitsandbytes page, recipe B). */
static const double lr_training = 1e-3, lr_tuning = 2e-5;

/* Above, second moments of 8 bits stand still: docs/benchmarks.md, "8-bit optimizer". */
static const double beta2_max_8bit = 0.99;

static qs_err choose(const char *value, const char *option, const char *first, const char *second,
                     bool *is_second)
{
    *is_second = strcmp(value, second) == 0;
    return *is_second || strcmp(value, first) == 0
               ? QS_OK
               : qs_fail(QS_E_USAGE, "--%s \"%s\" is neither %s nor %s", option, value, first, second);
}

static qs_err resolve(options *opt, char checkpoint[QS_PATH_BYTES], int n_threads)
{
    qs_train_options *t = &opt->train;
    bool is_8bit, is_bf16, is_reading;
    qs_err err;
    QS_TRY(choose(opt->optimizer, "optimizer", optimizers[0].name, optimizers[1].name, &is_8bit));
    QS_TRY(choose(opt->compute, "compute", "f32", "bf16", &is_bf16));
    QS_TRY(choose(opt->order, "order", "file", "random", &t->shuffle));
    QS_TRY(choose(opt->start, "start", qs_train_start_names[QS_START_PLAIN],
                  qs_train_start_names[QS_START_READING], &is_reading));
    t->start = is_reading ? QS_START_READING : QS_START_PLAIN;
    if (t->config == NULL || t->tokenizer == NULL || t->data == NULL || t->out == NULL) {
        err = qs_fail(QS_E_USAGE,
                      "--config, --tokenizer, --data and --out are needed; see qsweep-train --help");
        goto out;
    }
    if (t->n_ctx % QS_TRAIN_ROWS != 0) {
        err = qs_fail(QS_E_USAGE, "--seqlen %lld is no multiple of %d", (long long)t->n_ctx, QS_TRAIN_ROWS);
        goto out;
    }
    if (opt->embedding_bits != 8 && opt->embedding_bits != 32) {
        err =
            qs_fail(QS_E_USAGE, "--embedding-bits %lld is neither 8 nor 32", (long long)opt->embedding_bits);
        goto out;
    }
    if (is_8bit && t->optimizer.adam.beta2 > beta2_max_8bit)
        qs_log_warn("adam8 with --beta2 %g: a step's change of the second moments is lost in their rounding; 0.95 "
                    "keeps it (docs/benchmarks.md)",
                    t->optimizer.adam.beta2);
    t->optimizer.bits = is_8bit ? 8 : 32;
    t->optimizer.embedding_bits = (int)opt->embedding_bits;
    t->compute = is_bf16 ? QS_COMPUTE_BF16 : QS_COMPUTE_F32;
    t->seed = (uint64_t)opt->common.seed;
    t->n_threads = n_threads;
    t->argc = opt->argc;
    t->argv = opt->argv;
    if (t->n_lanes > t->n_rows) t->n_lanes = t->n_rows;
    if (t->lr == 0) t->lr = t->init != NULL ? lr_tuning : lr_training;
    if (t->checkpoint == NULL) {
        QS_TRY(qs_path_format(checkpoint, "%s.train.h5", t->out));
        t->checkpoint = checkpoint;
    }
out:
    return err;
}

static qs_err print_plan(const options *opt, const qs_train_plan *plan)
{
    const qs_train_options *t = &opt->train;
    char bytes[QS_MEM_TEXT_BYTES];
    qs_log_info("train %s: %lld parameters, %lld examples, %lld steps of %lld rows of %lld tokens (%.3g "
                "tokens), %s, %s",
                t->out, (long long)plan->n_parameters, (long long)plan->n_examples, (long long)t->n_steps,
                (long long)t->n_rows, (long long)t->n_ctx, (double)plan->tokens_per_step * (double)t->n_steps,
                opt->optimizer, opt->compute);
    qs_log_info("memory: %s", qs_mem_format(bytes, plan->bytes));
    if (!opt->common.dry_run || !opt->common.json) return QS_OK;
    return stage_print_json(json_pack("{s:I, s:I, s:I, s:I}", "n_parameters", (json_int_t)plan->n_parameters,
                                      "n_examples", (json_int_t)plan->n_examples, "tokens_per_step",
                                      (json_int_t)plan->tokens_per_step, "bytes", (json_int_t)plan->bytes));
}

/* "adam32,adam8" to the bits of both. */
static qs_err parse_pair(const char *text, int bits[2])
{
    const char *comma = strchr(text, ',');
    for (size_t i = 0; comma != NULL && i < sizeof optimizers / sizeof *optimizers; i++) {
        const char *name = optimizers[i].name;
        if (strlen(name) == (size_t)(comma - text) && memcmp(text, name, strlen(name)) == 0)
            bits[0] = optimizers[i].bits;
        if (strcmp(comma + 1, name) == 0) bits[1] = optimizers[i].bits;
    }
    return bits[0] != 0 && bits[1] != 0 && bits[0] != bits[1]
               ? QS_OK
               : qs_fail(QS_E_USAGE, "--compare \"%s\": give two of qsweep-train --list, as in adam32,adam8",
                         text);
}

static qs_err compare(options *opt, qs_train_run *train)
{
    static qs_comparison comparison; /* a few hundred KiB of arms */
    int bits[2] = {0, 0};
    qs_err err = parse_pair(opt->compare, bits);
    if (err == QS_OK) err = qs_train_run_compare(train, bits[0], bits[1], opt->n_seeds, &comparison);
    if (err != QS_OK) return err;
    if (opt->common.json)
        err = stage_print_json(json_pack("{s:o}", "path", qs_json_text(opt->train.out)));
    else
        qs_comparison_print(&comparison, stdout);
    qs_comparison_free(&comparison);
    return err;
}

static qs_err run(options *opt, int n_threads)
{
    char checkpoint[QS_PATH_BYTES];
    qs_train_run *train = NULL;
    qs_train_plan plan;
    qs_train_result result;
    qs_err err;
    QS_TRY(resolve(opt, checkpoint, n_threads));
    QS_TRY(qs_train_run_open(&train, &opt->train));
    qs_train_run_plan(train, &plan);
    QS_TRY(print_plan(opt, &plan));
    if (opt->common.dry_run) goto out;
    if (opt->compare != NULL) {
        err = compare(opt, train);
        goto out;
    }
    QS_TRY(qs_train_run_all(train, &result));
    if (result.n_steps > 0)
        qs_log_info("%lld steps, %lld tokens in %.1f s (%.0f tokens/s), loss %.4f; wrote %s",
                    (long long)result.n_steps, (long long)result.n_tokens, result.seconds,
                    (double)result.n_tokens / result.seconds, result.loss, opt->train.out);
    /* Of a run that was done already no loss is known. */
    bool is_known = result.n_steps > 0 && isfinite(result.loss);
    if (opt->common.json)
        QS_TRY(stage_print_json(json_pack("{s:o, s:I, s:I, s:f, s:o}", "path", qs_json_text(opt->train.out), "steps",
                                          (json_int_t)result.n_steps, "tokens", (json_int_t)result.n_tokens, "seconds",
                                          result.seconds, "loss", is_known ? json_real(result.loss) : json_null())));
out:
    qs_train_run_close(train);
    return err;
}

static options default_options(int argc, char **argv)
{
    return (options){
        .common = QS_COMMON_DEFAULTS,
        .optimizer = "adam32",
        .compute = "f32",
        .order = "random",
        .start = qs_train_start_names[QS_START_PLAIN],
        .n_seeds = 3,
        .embedding_bits = 32,
        .train = {.n_rows = 16,
                  .n_ctx = 512,
                  .n_steps = 1000,
                  .n_lanes = 4,
                  .n_warmup = 100,
                  .checkpoint_every = 200,
                  .validate_every = 500,
                  .n_validation = 200,
                  .last_share = 0.1,
                  .init_std = 0.02,
                  .answer_weight = 10,
                  .clip = 1,
                  .optimizer = {.adam = {.beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8, .decay = 0.01}}},
        .argc = argc,
        .argv = argv};
}

int main(int argc, char **argv)
{
    options opt = default_options(argc, argv);
    qs_train_options *t = &opt.train;
    qs_adam_options *adam = &t->optimizer.adam;
    qs_arg rows[] = {
        {"config", QS_ARG_STRING, &t->config, "FILE",
         "config.json of the model to train (Llama architecture)", 0, 0, false},
        {"tokenizer", QS_ARG_STRING, &t->tokenizer, "FILE", "its tokenizer.json", 0, 0, false},
        {"data", QS_ARG_STRING, &t->data, "FILE|DIR",
         "JSON Lines of {\"prompt\", \"answer\"} or {\"text\"}, or plain text", 0, 0, false},
        {"validation", QS_ARG_STRING, &t->validation, "FILE|DIR", "held-out examples", 0, 0, false},
        {"init", QS_ARG_STRING, &t->init, "DIR", "start from this model instead of drawn weights", 0, 0, false},
        {"out", QS_ARG_STRING, &t->out, "DIR", "the model, in Hugging Face's format", 0, 0, false},
        {"checkpoint", QS_ARG_STRING, &t->checkpoint, "FILE",
         "where the run resumes from; default OUT.train.h5", 0, 0, false},
        {"steps", QS_ARG_INT, &t->n_steps, "N", "steps", 1, 1e9, false},
        {"batch", QS_ARG_INT, &t->n_rows, "N", "rows in a step", 1, 65536, false},
        {"seqlen", QS_ARG_INT, &t->n_ctx, "N",
         "tokens in a row, a multiple of 64; examples are packed", 64, 8192, false},
        {"optimizer", QS_ARG_STRING, &opt.optimizer, "NAME", "adam32 or adam8", 0, 0, false},
        {"embedding-bits", QS_ARG_INT, &opt.embedding_bits, "N",
         "of adam8's moments of the embeddings: 32, as bitsandbytes recommends, or 8", 8, 32, false},
        {"lr", QS_ARG_REAL, &t->lr, "X", "highest learning rate; 0 = 0.001, or 2e-5 with --init", 0, 1e6, false},
        {"lr-last", QS_ARG_REAL, &t->last_share, "X", "share of it that is left at the end of the cosine", 0, 1, false},
        {"warmup", QS_ARG_INT, &t->n_warmup, "N", "steps of its linear rise", 0, 1e9, false},
        {"beta1", QS_ARG_REAL, &adam->beta1, "X", "decay of the first moments", 0, 0.999999, false},
        {"beta2", QS_ARG_REAL, &adam->beta2, "X", "decay of the second moments", 0, 0.999999, false},
        {"eps", QS_ARG_REAL, &adam->eps, "X", "added to the root of the second moments", 1e-30, 1, false},
        {"decay", QS_ARG_REAL, &adam->decay, "X", "weight decay of matrices", 0, 1, false},
        {"clip", QS_ARG_REAL, &t->clip, "X", "limit of the gradient's norm; 0 = none", 0, 1e9, false},
        {"clamp", QS_ARG_REAL, &adam->clamp, "X",
         "hold second moments within this factor of their block's average; 0 = off", 0, 1e9, false},
        {"answer-weight", QS_ARG_REAL, &t->answer_weight, "X",
         "weight of an answer's tokens; all others weigh 1", 1e-6, 1e6, false},
        {"order", QS_ARG_STRING, &opt.order, "NAME",
         "of the examples: file, or random and another in each round", 0, 0, false},
        {"start", QS_ARG_STRING, &opt.start, "NAME",
         "of drawn weights: plain (noise), or reading (with heads that look back, for small models)", 0, 0, false},
        {"init-std", QS_ARG_REAL, &t->init_std, "X", "standard deviation of weights drawn plain", 1e-9, 10, false},
        {"compute", QS_ARG_STRING, &opt.compute, "NAME",
         "precision of products: f32 or bf16 (sums in f32)", 0, 0, false},
        {"lanes", QS_ARG_INT, &t->n_lanes, "N",
         "parts of a batch with gradients of their own: most threads that work", 1, 256, false},
        {"checkpoint-every", QS_ARG_INT, &t->checkpoint_every, "N",
         "steps; the model is written as well", 1, 1e9, false},
        {"validate-every", QS_ARG_INT, &t->validate_every, "N", "steps", 1, 1e9, false},
        {"validate-examples", QS_ARG_INT, &t->n_validation, "N",
         "held-out examples used, from the first", 1, 1e9, false},
        {"compare", QS_ARG_STRING, &opt.compare, "A,B",
         "instead of a model: two optimizers on the same training; --out is the artifact", 0, 0, false},
        {"seeds", QS_ARG_INT, &opt.n_seeds, "N", "pairs of runs of --compare", 2, 16, false},
        {"stop-after", QS_ARG_INT, &t->stop_after, "N",
         "end after that many steps of this call, without a checkpoint; 0 = go on", 0, 1e9, false},
        QS_ARGS_COMMON(&opt.common),
    };
    qs_args args = {.program = "qsweep-train", .summary = "train a small language model", .rows = rows};
    int n_threads;
    bool done;
    qs_err err = qs_args_parse(&args, argc, argv, stdout, &done);
    if (err != QS_OK || done) goto out;
    qs_args_apply_common(&opt.common, &n_threads);
    if (opt.common.list) {
        stage_list list = stage_list_begin(&opt.common);
        for (size_t i = 0; i < sizeof optimizers / sizeof *optimizers; i++)
            stage_list_add(&list, "optimizers (--optimizer)", optimizers[i].name, NULL, optimizers[i].text);
        err = stage_list_end(&list);
        goto out;
    }
    err = run(&opt, n_threads);
out:
    qs_args_free(&args);
    return qs_args_exit(err);
}
