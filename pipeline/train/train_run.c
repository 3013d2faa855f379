#include "train/train_run.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/out_dir.h"
#include "base/progress.h"
#include "train/examples.h"
#include "train/model_writer.h"
#include "train/train_checkpoint.h"

enum { SETTINGS_BYTES = 4096, TOKENIZER_BYTES_MAX = 1 << 28, N_RECENT = 50, CURVE_LINES = 400 };

struct qs_train_run {
    const qs_train_options *options;
    json_t *config;
    qs_tokenizer *tokenizer;
    qs_train_layout layout;
    qs_examples *data, *validation;
    char settings[SETTINGS_BYTES];
    bool has_checkpoint;
    qs_trainer *trainer;
    qs_batch batch;
    qs_train_state state;
    qs_loss_guard guard;
};

/* ---- opening ---- */

static qs_err open_tokenizer(qs_train_run *run, const char *path)
{
    char *text = NULL, *beside = NULL, config_path[QS_PATH_BYTES];
    size_t bytes;
    const char *slash = strrchr(path, '/');
    int n = slash != NULL ? (int)(slash - path) + 1 : 0;
    qs_err err;
    QS_TRY(qs_file_read(&text, &bytes, path, TOKENIZER_BYTES_MAX));
    QS_TRY(qs_tokenizer_from_json(&run->tokenizer, text, bytes, path));
    QS_TRY(qs_path_format(config_path, "%.*stokenizer_config.json", n, path));
    if (!qs_file_exists(config_path)) goto out;
    QS_TRY(qs_file_read(&beside, &bytes, config_path, TOKENIZER_BYTES_MAX));
    QS_TRY(qs_tokenizer_apply_config(run->tokenizer, beside, bytes, config_path));
out:
    qs_mem_free(text);
    qs_mem_free(beside);
    return err;
}

static qs_err open_config(qs_train_run *run, const char *path)
{
    qs_model_config config;
    qs_err err;
    QS_TRY(qs_json_load(&run->config, path));
    QS_TRY(qs_model_config_from_json(&config, run->config, path));
    QS_TRY(qs_train_layout_init(&run->layout, &config));
    if (qs_tokenizer_n_vocab(run->tokenizer) > config.n_vocab)
        err = qs_fail(QS_E_INPUT, "read %s: vocab_size is %lld, the tokenizer has %lld", path,
                      (long long)config.n_vocab, (long long)qs_tokenizer_n_vocab(run->tokenizer));
    else if (run->options->n_ctx > config.n_ctx_max)
        err = qs_fail(QS_E_USAGE, "--seqlen %lld is more than max_position_embeddings, %lld, in %s",
                      (long long)run->options->n_ctx, (long long)config.n_ctx_max, path);
out:
    return err;
}

static qs_err open_data(qs_train_run *run)
{
    const qs_train_options *o = run->options;
    qs_examples_options how = {
        .n_ctx = o->n_ctx, .answer_weight = o->answer_weight, .shuffle = o->shuffle, .seed = o->seed};
    qs_err err;
    QS_TRY(qs_examples_open(&run->data, o->data, run->tokenizer, &how));
    how.shuffle = false;
    if (o->validation != NULL)
        QS_TRY(qs_examples_open(&run->validation, o->validation, run->tokenizer, &how));
out:
    return err;
}

static const char *hex(char text[QS_DIGEST_TEXT_BYTES], qs_digest digest)
{
    return qs_digest_format(text, digest);
}

/* Everything that determines the bytes of the result, a setting a line. */
static void make_settings(qs_train_run *run)
{
    const qs_train_options *o = run->options;
    char tokenizer[QS_DIGEST_TEXT_BYTES], data[QS_DIGEST_TEXT_BYTES], config[QS_DIGEST_TEXT_BYTES];
    char *text = json_dumps(run->config, JSON_COMPACT | JSON_SORT_KEYS);
    qs_digest of_config = qs_hash(text != NULL ? text : "", text != NULL ? strlen(text) : 0);
    free(text);
    (void)snprintf(
        run->settings, sizeof run->settings,
        "config %s\ntokenizer %s\ndata %s\nseqlen %lld\nbatch %lld\nsteps %lld\nlanes %lld\nseed %llu\n"
        "order %s\nanswer-weight %.9g\noptimizer adam%d%s\nlr %.9g\nlr-last %.9g\nwarmup %lld\nbeta1 %.9g\n"
        "beta2 %.9g\neps %.9g\ndecay %.9g\nclip %.9g\nclamp %.9g\ncompute %s\ninit %.512s\ninit-std %.9g\n",
        hex(config, of_config), hex(tokenizer, qs_tokenizer_digest(run->tokenizer)),
        hex(data, qs_examples_digest(run->data)), (long long)o->n_ctx, (long long)o->n_rows,
        (long long)o->n_steps, (long long)o->n_lanes, (unsigned long long)o->seed,
        o->shuffle ? "random" : "file", o->answer_weight, o->optimizer.bits,
        o->optimizer.bits == 8 && o->optimizer.embedding_bits == 32 ? " (embeddings 32)" : "", o->lr,
        o->last_share, (long long)o->n_warmup, o->optimizer.adam.beta1, o->optimizer.adam.beta2,
        o->optimizer.adam.eps, o->optimizer.adam.decay, o->clip, o->optimizer.adam.clamp,
        o->compute == QS_COMPUTE_BF16 ? "bf16" : "f32", o->init != NULL                  ? o->init
        : o->start == QS_START_PLAIN ? "drawn"
                                     : qs_train_start_names[o->start],
        o->init_std);
}

static qs_trainer_options trainer_options(const qs_train_options *o)
{
    return (qs_trainer_options){.n_ctx = o->n_ctx,
                                .n_lanes = o->n_lanes,
                                .n_threads = o->n_threads,
                                .compute = o->compute,
                                .optimizer = o->optimizer,
                                .clip = o->clip};
}

qs_err qs_train_run_open(qs_train_run **out, const qs_train_options *options)
{
    qs_err err;
    qs_train_run *run = NULL;
    *out = NULL;
    QS_TRY(QS_NEW(run, 1, "training run"));
    run->options = options;
    QS_TRY(open_tokenizer(run, options->tokenizer));
    QS_TRY(open_config(run, options->config));
    QS_TRY(open_data(run));
    make_settings(run);
    run->has_checkpoint = qs_file_exists(options->checkpoint);
    *out = run;
    run = NULL;
out:
    qs_train_run_close(run);
    return err;
}

void qs_train_run_close(qs_train_run *run)
{
    if (run == NULL) return;
    qs_trainer_destroy(run->trainer);
    qs_batch_fini(&run->batch);
    qs_train_state_fini(&run->state);
    qs_examples_close(run->data);
    qs_examples_close(run->validation);
    qs_train_layout_fini(&run->layout);
    qs_tokenizer_destroy(run->tokenizer);
    json_decref(run->config);
    qs_mem_free(run);
}

void qs_train_run_plan(const qs_train_run *run, qs_train_plan *plan)
{
    const qs_train_options *o = run->options;
    qs_trainer_options t = trainer_options(o);
    *plan = (qs_train_plan){.n_parameters = run->layout.n,
                            .n_examples = qs_examples_n(run->data),
                            .tokens_per_step = o->n_rows * o->n_ctx,
                            .bytes = qs_trainer_plan_bytes(&run->layout, &t)};
}

/* ---- files ---- */

/* Steps, loss, learning rate and gradient norm, each the mean of its part of the run. */
static qs_err write_curve(const qs_train_run *run, const char *dir)
{
    const qs_train_state *s = &run->state;
    char path[QS_PATH_BYTES];
    qs_file_writer file = {0};
    qs_err err;
    int64_t n_mean = (run->options->n_steps + CURVE_LINES - 1) / CURVE_LINES;
    QS_TRY(qs_path_format(path, "%s/loss.csv", dir));
    QS_TRY(qs_file_writer_open(&file, path));
    (void)fprintf(file.stream, "step,loss,lr,gradient_norm\n");
    for (int64_t first = 0; first < s->step; first += n_mean) {
        int64_t last = first + n_mean < s->step ? first + n_mean : s->step;
        double mean[QS_CURVE_COLUMNS] = {0};
        for (int64_t i = first; i < last; i++)
            for (int c = 0; c < QS_CURVE_COLUMNS; c++)
                mean[c] += s->curve[i * QS_CURVE_COLUMNS + c] / (double)(last - first);
        (void)fprintf(file.stream, "%lld,%.6g,%.6g,%.6g\n", (long long)last, mean[0], mean[1], mean[2]);
    }
    QS_TRY(qs_file_writer_publish(&file));
    QS_TRY(qs_path_format(path, "%s/validation.csv", dir));
    if (s->n_validations == 0) goto out;
    QS_TRY(qs_file_writer_open(&file, path));
    (void)fprintf(file.stream, "step,ppl,answer_ppl,token_acc,answers_exact\n");
    for (int64_t i = 0; i < s->n_validations; i++) {
        const double *row = s->validation + i * QS_VALIDATION_COLUMNS;
        (void)fprintf(file.stream, "%.0f,%.6g,%.6g,%.6g,%.6g\n", row[0], row[1], row[2], row[3], row[4]);
    }
    QS_TRY(qs_file_writer_publish(&file));
out:
    qs_file_writer_discard(&file);
    return err;
}

static qs_err write_model(const qs_train_run *run)
{
    const qs_train_options *o = run->options;
    const qs_model_writer writer = {
        .config = run->config, .tokenizer_path = o->tokenizer, .tokenizer = run->tokenizer};
    qs_out_dir dir = {0};
    qs_err err;
    QS_TRY(qs_out_dir_open_within(&dir, o->out));
    QS_TRY(qs_model_write(&writer, &run->layout, qs_trainer_parameters(run->trainer), dir.part_path));
    QS_TRY(write_curve(run, dir.part_path));
    QS_TRY(qs_out_dir_publish(&dir));
out:
    qs_out_dir_discard(&dir);
    return err;
}

/* The model first: a checkpoint of the last step then says that all is there. */
static qs_err save(qs_train_run *run)
{
    const qs_train_options *o = run->options;
    qs_err err;
    QS_TRY(write_model(run));
    QS_TRY(qs_train_checkpoint_write(o->checkpoint, run->settings, &run->state, run->trainer, o->argc, o->argv));
    run->has_checkpoint = true;
out:
    if (err == QS_E_RESOURCE)
        return qs_fail(err, "%s; make room and run the same call again: it %s%s", qs_error_text(),
                       run->has_checkpoint ? "goes on from " : "starts anew, since there is no checkpoint yet",
                       run->has_checkpoint ? o->checkpoint : "");
    return err;
}

static qs_err start(qs_train_run *run)
{
    const qs_train_options *o = run->options;
    qs_trainer_options t = trainer_options(o);
    qs_err err;
    QS_TRY(qs_trainer_create(&run->trainer, &run->layout, &t));
    QS_TRY(qs_batch_init(&run->batch, o->n_rows, o->n_ctx));
    if (run->has_checkpoint) {
        QS_TRY(qs_train_checkpoint_read(o->checkpoint, run->settings, &run->state, run->trainer));
        for (int64_t i = 0; i < run->state.step; i++)
            QS_TRY(qs_loss_guard_add(&run->guard, run->state.curve[i * QS_CURVE_COLUMNS],
                                     run->layout.config.n_vocab, i + 1));
        qs_log_info("resume from %s after step %lld", o->checkpoint, (long long)run->state.step);
        goto out;
    }
    if (o->init != NULL)
        QS_TRY(qs_train_init_from(&run->layout, o->init, qs_trainer_parameters(run->trainer)));
    else
        QS_TRY(qs_train_start_draw(&run->layout, o->start, o->seed, o->init_std,
                                   qs_trainer_parameters(run->trainer)));
    qs_trainer_refresh(run->trainer);
out:
    return err;
}

/* ---- the loop ---- */

static qs_err validate(qs_train_run *run, qs_train_loss *sum)
{
    int64_t cursor = 0, end = qs_examples_n(run->validation);
    qs_err err = QS_OK;
    if (run->options->n_validation < end) end = run->options->n_validation;
    *sum = (qs_train_loss){0};
    while (cursor < end) {
        qs_train_loss part;
        QS_TRY(qs_examples_fill(run->validation, &cursor, end, &run->batch));
        if (run->batch.n_tokens == 0) break;
        QS_TRY(qs_trainer_evaluate(run->trainer, &run->batch, &part));
        qs_train_loss_add(sum, &part);
    }
    if (sum->n == 0) {
        err = qs_fail(QS_E_INPUT, "validate: no example of %s fits into --seqlen", run->options->validation);
        goto out;
    }
    QS_TRY(qs_train_state_add_validation(&run->state, sum));
    const double *row = run->state.validation + (run->state.n_validations - 1) * QS_VALIDATION_COLUMNS;
    qs_log_info("step %lld: held-out ppl %.4g, of answers %.4g; tokens right %.1f %%, whole answers right "
                "%.1f %% of %lld",
                (long long)run->state.step, row[1], row[2], 100 * row[3], 100 * row[4],
                (long long)sum->n_examples);
out:
    return err;
}

static double recent_loss(const qs_train_state *s)
{
    int64_t n = s->step < N_RECENT ? s->step : N_RECENT;
    double sum = 0;
    for (int64_t i = s->step - n; i < s->step; i++) sum += s->curve[i * QS_CURVE_COLUMNS];
    return n > 0 ? sum / (double)n : 0;
}

static qs_err one_step(qs_train_run *run)
{
    const qs_train_options *o = run->options;
    const qs_schedule schedule = {
        .lr = o->lr, .last_share = o->last_share, .n_warmup = o->n_warmup, .n_steps = o->n_steps};
    int64_t step = run->state.step + 1;
    double lr = qs_schedule_lr(&schedule, step);
    qs_step_report report;
    qs_err err;
    QS_TRY(qs_examples_fill(run->data, &run->state.cursor, -1, &run->batch));
    QS_TRY(qs_trainer_step(run->trainer, &run->batch, lr, step, &report));
    QS_TRY(qs_train_state_add(&run->state, report.mean, lr, report.gradient_norm));
    QS_TRY(qs_loss_guard_add(&run->guard, report.mean, run->layout.config.n_vocab, step));
    run->state.n_tokens += report.n_tokens;
out:
    return err;
}

static bool has_model(const char *dir)
{
    char path[QS_PATH_BYTES];
    return qs_path_format(path, "%s/model.safetensors", dir) == QS_OK && qs_file_exists(path);
}

static qs_err after_step(qs_train_run *run, bool is_last, qs_train_result *result)
{
    const qs_train_options *o = run->options;
    int64_t step = run->state.step;
    qs_err err = QS_OK;
    if (run->validation != NULL && (is_last || (o->validate_every > 0 && step % o->validate_every == 0)))
        QS_TRY(validate(run, &result->validation));
    if (is_last || (o->checkpoint_every > 0 && step % o->checkpoint_every == 0)) QS_TRY(save(run));
out:
    return err;
}

qs_err qs_train_run_all(qs_train_run *run, qs_train_result *result)
{
    const qs_train_options *o = run->options;
    qs_progress progress;
    qs_err err;
    *result = (qs_train_result){0};
    if (!qs_path_is_dir(o->out)) QS_TRY(qs_out_dir_check(o->out)); /* said before hours of work */
    QS_TRY(start(run));
    int64_t first = run->state.step, first_tokens = run->state.n_tokens;
    if (first >= o->n_steps) {
        bool is_there = has_model(o->out);
        if (!is_there) QS_TRY(save(run));
        qs_log_info("%s is current: %s", o->out, is_there ? "nothing to do" : "written from the checkpoint");
        goto out;
    }
    qs_log_info("train with %s", qs_trainer_describe(run->trainer));
    double started = qs_clock_seconds();
    qs_progress_start(&progress, "train", o->n_steps - first);
    while (err == QS_OK && run->state.step < o->n_steps) {
        err = one_step(run);
        if (err != QS_OK) break;
        bool stops = o->stop_after > 0 && run->state.step - first >= o->stop_after;
        err = after_step(run, run->state.step == o->n_steps, result);
        result->seconds = qs_clock_seconds() - started;
        result->n_tokens = run->state.n_tokens - first_tokens;
        result->n_steps = run->state.step - first;
        result->loss = recent_loss(&run->state);
        qs_progress_note(&progress, "step %lld, loss %.4f, %.0f tokens/s", (long long)run->state.step,
                         result->loss, (double)result->n_tokens / result->seconds);
        qs_progress_update(&progress, run->state.step - first);
        if (stops) break;
    }
    qs_progress_finish(&progress);
    int64_t n_long = qs_examples_n_too_long(run->data);
    if (n_long > 0)
        qs_log_warn("%lld examples were longer than %lld tokens and left out", (long long)n_long,
                    (long long)o->n_ctx);
out:
    return err;
}

/* ---- optimizers against each other ---- */

qs_err qs_train_run_compare(qs_train_run *run, int base_bits, int bits, int64_t n_seeds,
                            qs_comparison *comparison)
{
    const qs_train_options *o = run->options;
    qs_err err;
    if (run->validation == NULL)
        return qs_fail(QS_E_USAGE, "--compare needs --validation, for the held-out perplexity");
    const qs_compare_options options = {
        .trainer = trainer_options(o),
        .bits = {base_bits, bits},
        .schedule = {.lr = o->lr,
                     .last_share = o->last_share,
                     .n_warmup = o->n_warmup,
                     .n_steps = o->n_steps},
        .n_rows = o->n_rows,
        .n_seeds = n_seeds,
        .n_validation = o->n_validation,
        .init_std = o->init_std,
        .answer_weight = o->answer_weight,
        .seed = o->seed,
    };
    QS_TRY(qs_compare_run(comparison, &run->layout, run->data, run->validation, &options));
    err = qs_comparison_write(comparison, o->out, run->settings, o->argc, o->argv);
    if (err != QS_OK) qs_comparison_free(comparison);
out:
    return err;
}
