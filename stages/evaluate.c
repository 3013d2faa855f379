/* evaluate: measure the reference and quantised points against it.
 *
 *   say     options           take   model, text as windows, quant artifacts, what is there already
 *   plan    bytes and time    run    the reference, then groups of points    seal   one artifact per point */
#include <stdio.h>
#include <string.h>

#include "backend/backend.h"
#include "base/args.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "metric/evaluation.h"
#include "stages/common.h"
#include "stages/evaluate_lists.h"
#include "stages/evaluate_options.h"
#include "stages/recalibrate.h"

typedef stage_evaluate_options options;

typedef struct job {
    const options *opt;
    qs_model *model;
    qs_backend *backend;
    qs_corpus corpus;
    qs_windows windows;
    qs_budgets budgets; /* of a race */
    qs_questions questions;
    qs_embeddings embeddings;
    qs_evaluation evaluation;
    char recalibrated[QS_PATH_BYTES]; /* where points of --fix recalibrate are */
    double planned_s; /* of the passes */
    size_t planned_bytes, held_bytes; /* what there was before measuring the machine's rate */
} job;

/* ---- take ---- */

/* The least that a pass takes: one chunk of one stream, a block, the head and two tiles of logits. */
static stage_need pass_need(const job *j, unsigned tasks)
{
    const qs_model_config *config = qs_model_get_config(j->model);
    qs_pass_plan plan;
    if ((tasks & QS_TASKS_QUALITY) == 0) return (stage_need){.what = "evaluate"};
    qs_pass_plan_make(&plan, config, j->windows.n_ctx, j->windows.n_windows, 1, 0);
    size_t widest, block = stage_block_bytes(j->model, &widest),
                   window = (size_t)(plan.n_ctx * config->d_model) * sizeof(float);
    return (stage_need){
        .what = "evaluate",
        .weights_bytes = block + widest + (size_t)(config->n_vocab * config->d_model) * sizeof(float),
        .rest_bytes = plan.scratch_bytes + window + qs_scorer_tile_bytes(config),
        .states_bytes = plan.stream_bytes,
    };
}

/* States share a device with all else; what is left of it would be too much for them, and half of it is enough. */
static size_t states_budget(const qs_backend *backend, const stage_need *need)
{
    qs_backend_memory memory;
    size_t fixed = need->weights_bytes + need->rest_bytes;
    if (!qs_backend_has_device(backend)) return 0;
    qs_backend_get_memory(backend, &memory);
    size_t left = memory.free_bytes > fixed ? memory.free_bytes - fixed : 1;
    return left < memory.free_bytes / 2 ? left : memory.free_bytes / 2;
}

/* Enough of the text to try tokenizers on, and whole lines. */
static size_t probe_bytes(const qs_corpus *corpus)
{
    size_t n = corpus->bytes < 1 << 16 ? corpus->bytes : 1 << 16;
    while (n > 0 && corpus->text[n - 1] != '\n') n--;
    return n;
}

/* Questions of the pages' quick probes: 20 for ExLlamaV2, 10 for the others (checklist G10, A11, B10, E11). All
 * points of a call are asked the same. */
static qs_err count_quick(const options *opt, int64_t *n_items)
{
    *n_items = 10;
    for (int64_t i = 0; i < opt->quants.n; i++) {
        qs_artifact *artifact;
        char method[64];
        qs_err err = qs_artifact_open(&artifact, opt->quants.items[i], QS_KIND_QUANT);
        if (err != QS_OK) return err;
        err = qs_artifact_get_text(artifact, "/spec/@method", method, sizeof method);
        qs_artifact_close(artifact);
        if (err != QS_OK) return err;
        if (strcmp(method, "exl2") == 0) *n_items = 20;
    }
    return QS_OK;
}

/* --fix recalibrate: the arm's points are made and evaluated first, by stages of their own. */
static qs_err recalibrate(job *j, qs_eval_options *eval)
{
    const options *opt = j->opt;
    stage_recalibration r = {.model = opt->model,
                             .text = opt->fix_text,
                             .out = opt->out,
                             .baseline = opt->baseline,
                             .tasks = eval->tasks,
                             .quants = &opt->quants,
                             .common = &opt->common,
                             .argc = opt->argc,
                             .argv = opt->argv};
    eval->requantised = j->recalibrated;
    return stage_recalibrate(j->recalibrated, &r);
}

static qs_err take_windows(job *j, const qs_protocol *protocol)
{
    const options *opt = j->opt;
    const qs_tokenizer *tokenizer = qs_model_get_tokenizer(j->model);
    if (tokenizer == NULL)
        return qs_fail(QS_E_INPUT, "open model %s: it has no tokenizer (tokenizer.json)", opt->model);
    qs_err err = qs_corpus_load(&j->corpus, opt->text);
    if (err != QS_OK) return err;
    err = qs_windows_from_corpus(&j->windows, protocol, tokenizer, &j->corpus, opt->n_ctx, opt->n_windows);
    return err == QS_OK ? QS_OK : qs_context(err, "use text %s", opt->text);
}

static qs_err take_questions(job *j)
{
    const options *opt = j->opt;
    qs_question_options questions = opt->questions;
    qs_err err;
    questions.n_threads = opt->n_threads;
    questions.keep_dir = opt->out;
    if (opt->quick) QS_TRY(count_quick(opt, &questions.n_items));
    questions.rerank = !opt->no_rerank;
    questions.model = j->model;
    questions.backend = j->backend;
    err = qs_questions_load(&j->questions, &questions);
out:
    return err;
}

/* What is evaluated beside the windows, each where an option asks for it. */
static qs_err take_extras(job *j, qs_eval_options *eval)
{
    const options *opt = j->opt;
    qs_err err = QS_OK;
    if (opt->questions.gold != NULL && (eval->tasks & QS_TASKS_ASKED) != 0) {
        QS_TRY(take_questions(j));
        eval->questions = &j->questions;
    }
    if (opt->embed != NULL) {
        qs_encoder_options encoder = {.directory = opt->questions.encoder_dir, .n_threads = opt->n_threads,
                                      .model = j->model, .backend = j->backend};
        QS_TRY(qs_embeddings_make(&j->embeddings, opt->embed, j->questions.encoder, opt->questions.encoder, &encoder));
        eval->embeddings = &j->embeddings;
    }
    if ((eval->tasks & QS_TASK_ENTROPY) != 0 && (eval->tasks & QS_TASKS_QUALITY) == 0 && j->questions.n_longforms == 0)
        err = qs_fail(QS_E_USAGE, "--tasks entropy needs ppl or kld beside it, or --qa DIR with a longform.jsonl");
out:
    return err;
}

static qs_err take_inputs(job *j)
{
    const options *opt = j->opt;
    qs_eval_options eval = {
        .seed = (uint64_t)opt->common.seed,
        .keep_going = opt->keep_going && !opt->common.dry_run,
        .out_dir = opt->out,
        .baseline = opt->baseline,
        .checkpoints = opt->checkpoints.items,
        .n_checkpoints = opt->checkpoints.n,
        .backend = opt->common.backend,
        .device = opt->common.device,
        .latency = QS_LATENCY_DEFAULTS,
        .argc = opt->argc,
        .argv = opt->argv,
    };
    const qs_protocol *protocol;
    qs_err err;
    QS_TRY(stage_evaluate_read(opt, &eval, &protocol));
    if (opt->fix_text != NULL) QS_TRY(recalibrate(j, &eval));
    QS_TRY(qs_model_open(&j->model, opt->model));
    QS_TRY(take_windows(j, protocol));
    eval.windows = &j->windows;
    if (opt->race != NULL) {
        QS_TRY(qs_budgets_load(&j->budgets, opt->race));
        eval.race = &j->budgets;
    }
    stage_need need = pass_need(j, eval.tasks);
    QS_TRY(stage_backend_create(&j->backend, &opt->common, opt->n_threads, &eval.map, &need));
    eval.budget_bytes = states_budget(j->backend, &need);
    QS_TRY(take_extras(j, &eval));
    eval.text = j->corpus.text;
    eval.text_bytes = probe_bytes(&j->corpus);
    QS_TRY(qs_evaluation_create(&j->evaluation, j->backend, j->model, opt->quants.items, opt->quants.n, &eval));
out:
    return err;
}

/* ---- plan ---- */

/* Passes reach well over half of the measured rate; below a second of work, measuring it would cost more. */
static qs_err estimate_seconds(const job *j, double flops, double *seconds)
{
    qs_backend_peaks peaks;
    *seconds = flops / 1e11;
    if (*seconds < 1.0) return QS_OK;
    bool bf16 = j->evaluation.options.compute == QS_COMPUTE_BF16;
    qs_err err = qs_backend_measure_peaks(j->backend, bf16 ? QS_PEAK_BF16 : QS_PEAK_F32, &peaks);
    if (err != QS_OK) return err;
    *seconds = flops / (0.6 * (bf16 ? peaks.gemm_bf16_flops : peaks.gemm_f32_flops));
    return QS_OK;
}

/* How prompts are written, and how a server would write them. */
static qs_err tell_chat(const job *j)
{
    const qs_chat *chat = &j->questions.chat;
    char own[QS_CHAT_TEXT_BYTES];
    qs_err err = qs_model_describe_chat(own, j->model);
    if (err != QS_OK) return err;
    if (chat->row != NULL)
        qs_log_info("prompts: chat template %s (%s), BOS %s, system message %s", chat->row->name, chat->row->text,
                    chat->bos ? "yes" : "no", j->questions.options.instruct ? "the instruction"
                                              : chat->has_system              ? "the template's own" : "none");
    else if (strcmp(j->opt->questions.chat, "auto") == 0)
        qs_log_info("prompts: plain, since the model has no chat template");
    else if (strcmp(own, "none") != 0)
        qs_log_info("prompts: plain, though the model has a chat template (%s); --chat auto asks as its server will",
                    own);
    return QS_OK;
}

static qs_err print_plan(job *j)
{
    const options *opt = j->opt;
    const qs_windows *w = &j->windows;
    qs_evaluation_cost cost;
    double seconds = 0.0;
    char a[QS_MEM_TEXT_BYTES], b[QS_MEM_TEXT_BYTES], c[QS_MEM_TEXT_BYTES];
    qs_evaluation_plan(&j->evaluation, &cost);
    j->held_bytes = qs_mem_bytes();
    qs_err err = estimate_seconds(j, cost.flops, &seconds);
    if (err != QS_OK) return err;
    j->planned_s = seconds;
    j->planned_bytes = cost.pass_bytes;
    qs_log_info("evaluate %s on %s: %lld windows of %lld tokens from %s, protocol %s (BOS %s), %lld positions scored",
                opt->model, qs_backend_describe(j->backend), (long long)w->n_windows, (long long)w->n_ctx, opt->text,
                w->protocol->name, w->bos, (long long)(w->n_windows * w->n_scored));
    qs_log_info("%lld points to evaluate: about %.0f s of passes%s; memory: passes %s, deployed %s; "
                "artifacts up to %s",
                (long long)cost.n_todo, seconds,
                cost.deployed_bytes > 0 ? ", then latency and memory of each" : "",
                qs_mem_format(a, cost.pass_bytes), qs_mem_format(b, cost.deployed_bytes),
                qs_mem_format(c, cost.artifact_bytes));
    const qs_questions *q = j->evaluation.options.questions;
    if (q != NULL)
        qs_log_info("each is asked %lld items, %lld runs with %lld snippets (encoder %s, %s), and writes %lld texts of "
                    "%lld tokens",
                    (long long)q->n_items, (long long)q->n_runs, (long long)q->options.k, qs_encoder_name(q->encoder),
                    q->options.rerank ? "re-ranked by the model" : "as retrieved", (long long)q->n_longforms,
                    (long long)q->options.n_long_tokens);
    if (q != NULL && (err = tell_chat(j)) != QS_OK) return err;
    if (w->n_windows == 1 && cost.n_todo > 0)
        qs_log_warn("one window gives no confidence intervals; give more text");
    if (opt->common.dry_run && opt->common.json)
        (void)printf("{\"n_windows\": %lld, \"n_todo\": %lld, \"flops\": %.6g, \"seconds\": %.3g, \"pass_bytes\": %zu, "
                     "\"deployed_bytes\": %zu, \"artifact_bytes\": %zu, \"chat\": \"%s\"}\n",
                     (long long)w->n_windows, (long long)cost.n_todo, cost.flops, seconds, cost.pass_bytes,
                     cost.deployed_bytes, cost.artifact_bytes, q != NULL ? qs_questions_chat(q) : "none");
    return QS_OK;
}

/* ---- results ---- */

static qs_err add_point(json_t *list, const qs_eval_point *point)
{
    qs_artifact *artifact;
    char text[QS_DIGEST_TEXT_BYTES];
    qs_err err = qs_artifact_open(&artifact, point->path, QS_KIND_EVAL);
    if (err != QS_OK) return err;
    json_t *metrics = json_object();
    for (const qs_metric *metric = qs_metrics; metric->name != NULL; metric++) {
        qs_estimate estimate;
        bool present;
        QS_TRY(qs_metric_get(artifact, metric, &estimate, &present));
        if (present)
            (void)json_object_set_new(metrics, metric->name,
                                      json_pack("{s:f, s:f, s:f, s:I}", "value", estimate.value, "lo",
                                                estimate.lo, "hi", estimate.hi, "n", (json_int_t)estimate.n));
    }
    (void)json_array_append_new(
        list, json_pack("{s:s, s:o, s:s, s:O}", "config", point->id, "path", qs_json_text(point->path), "digest",
                        qs_digest_format(text, qs_artifact_digest(artifact)), "metrics", metrics));
out:
    json_decref(metrics);
    qs_artifact_close(artifact);
    return err;
}

static qs_err print_json(const qs_evaluation *e)
{
    json_t *list = json_array();
    qs_err err = QS_OK;
    if (e->own_reference) QS_TRY(add_point(list, &e->reference));
    for (int64_t i = 0; i < e->n_points; i++)
        if (e->points[i].current) QS_TRY(add_point(list, &e->points[i])); /* all but those that failed */
    if (json_dumpf(list, stdout, JSON_INDENT(1) | JSON_PRESERVE_ORDER) != 0 || putchar('\n') == EOF)
        err = qs_fail(QS_E_RESOURCE, "print results: out of memory, or stdout cannot be written");
out:
    json_decref(list);
    return err;
}

/* With --keep-going the exit status is that of a failure only when every candidate failed. */
static qs_err check_failures(const qs_evaluation *e)
{
    const char *dir = e->options.out_dir;
    if (e->n_failed == 0) return QS_OK;
    for (int64_t i = 0; i < e->n_points; i++)
        if (e->points[i].current) {
            qs_log_warn("evaluate: %lld points failed; %s/*.eval.failed say why", (long long)e->n_failed, dir);
            return QS_OK;
        }
    return qs_fail(QS_E_INPUT, "evaluate: all %lld points failed; %s/*.eval.failed say why",
                   (long long)e->n_failed, dir);
}

static qs_err run(const options *opt)
{
    job j = {.opt = opt};
    double started = qs_clock_seconds();
    qs_err err;
    QS_TRY(take_inputs(&j));
    QS_TRY(print_plan(&j));
    if (opt->common.dry_run) goto out;
    (void)stage_begin_work();
    QS_TRY(qs_evaluation_run(&j.evaluation));
    qs_log_info("evaluated in %.1f s; artifacts in %s", qs_clock_seconds() - started, opt->out);
    stage_tell_estimate("passes", j.evaluation.pass_s, j.planned_s, j.held_bytes, j.planned_bytes,
                        &j.evaluation.foretold);
    if (opt->common.json) QS_TRY(print_json(&j.evaluation));
    QS_TRY(check_failures(&j.evaluation));
out:
    qs_evaluation_destroy(&j.evaluation);
    if (j.backend != NULL) qs_backend_destroy(j.backend);
    qs_windows_free(&j.windows);
    qs_budgets_free(&j.budgets);
    qs_questions_free(&j.questions);
    qs_embeddings_free(&j.embeddings);
    qs_corpus_free(&j.corpus);
    qs_model_close(j.model);
    return err;
}

static options default_options(int argc, char **argv)
{
    return (options){
        .common = QS_COMMON_DEFAULTS,
        .protocol = "hf",
        .questions = {.k = 5, .n_tokens_max = 96, .n_long_tokens = 128, .chat = "none", .encoder = "auto",
                      .encoder_dir = "datasets/models/all-minilm-l6-v2"},
        .serving = qs_serving_plain,
        .headers = "canonical",
        .compute = "f32",
        .out = ".",
        .device_map = "auto",
        .n_ctx = 512,
        .argc = argc,
        .argv = argv};
}

int main(int argc, char **argv)
{
    options opt = default_options(argc, argv);
    qs_arg rows[] = {
        {"model", QS_ARG_STRING, &opt.model, "DIR|FILE.gguf", "the full-precision model", 0, 0, false},
        {"text", QS_ARG_STRING, &opt.text, "FILE|DIR", "evaluation text", 0, 0, false},
        {"quant", QS_ARG_LIST, &opt.quants, "FILE",
         "a quant artifact; none = the reference alone", 0, 0, false},
        {"checkpoint", QS_ARG_LIST, &opt.checkpoints, "DIR|FILE",
         "a checkpoint that someone else quantised (GPTQ, AWQ, GGUF)", 0, 0, false},
        {"baseline", QS_ARG_STRING, &opt.baseline, "FILE",
         "eval artifact of the reference; default OUT/fp.eval.h5, made when needed", 0, 0, false},
        {"protocol", QS_ARG_STRING, &opt.protocol, "NAME", "hf or llamacpp", 0, 0, false},
        {"ctx", QS_ARG_INT, &opt.n_ctx, "N", "tokens in a window", 2, 1e6, false},
        {"windows", QS_ARG_INT, &opt.n_windows, "N", "the first N windows; 0 = all", 0, 1e9, false},
        {"tasks", QS_ARG_STRING, &opt.tasks, "LIST",
         "of ppl, kld, latency, memory, semantic, json, entropy; default all that the inputs allow", 0, 0, false},
        {"qa", QS_ARG_STRING, &opt.questions.gold, "DIR|FILE.jsonl", "a gold set of questions to answer", 0, 0, false},
        {"corpus", QS_ARG_STRING, &opt.questions.corpus, "FILE.jsonl",
         "its snippets; default corpus.jsonl in the directory of --qa", 0, 0, false},
        {"k", QS_ARG_INT, &opt.questions.k, "N", "snippets in a prompt", 1, QS_QUESTION_SNIPPETS_MAX, false},
        {"items", QS_ARG_INT, &opt.questions.n_items, "N", "the first N gold items; 0 = all", 0, 1e9, false},
        {"quick", QS_ARG_FLAG, &opt.quick, NULL,
         "as many items as the pages' quick probes: 10, with a point of EXL2 20", 0, 0, false},
        {"long-tokens", QS_ARG_INT, &opt.questions.n_long_tokens, "N",
         "length of the long texts of the entropy task", 8, 4096, false},
        {"encoder", QS_ARG_STRING, &opt.questions.encoder, "NAME",
         "what distances and dense retrieval rest on: minilm, self, tfidf, or auto = minilm where it was fetched, else "
         "self", 0, 0, false},
        {"encoder-dir", QS_ARG_STRING, &opt.questions.encoder_dir, "DIR",
         "of minilm (scripts/fetch-model minilm)", 0, 0, false},
        {"embed", QS_ARG_STRING, &opt.embed, "FILE",
         "lines to embed into the artifacts (--dump embeddings)", 0, 0, false},
        {"no-rerank", QS_ARG_FLAG, &opt.no_rerank, NULL,
         "offer what was retrieved as it is, not in the order of the model under test", 0, 0, false},
        {"instruct", QS_ARG_FLAG, &opt.questions.instruct, NULL,
         "begin prompts with the instruction for models not trained on the format", 0, 0, false},
        {"chat", QS_ARG_STRING, &opt.questions.chat, "NAME",
         "chat template of prompts: none, auto = what the model's checkpoint says, or a name of --list", 0, 0, false},
        {"headers", QS_ARG_STRING, &opt.headers, "NAME",
         "of snippets in prompts of configurations: canonical, shuffled or removed; the reference's are "
         "canonical", 0, 0, false},
        {"header-seed", QS_ARG_INT, &opt.header_seed, "N", "of shuffled headers", 0, 1e9, false},
        {"temperature", QS_ARG_REAL, &opt.serving.temperature, "T",
         "of a configuration's runs with seeds; the reference's is 0.2", 0, 100, false},
        {"answer-tokens", QS_ARG_INT, &opt.serving.n_tokens_max, "N",
         "limit of a configuration's answer; 0 = 96, as the reference's", 0, 4096, false},
        {"fix", QS_ARG_STRING, &opt.fix, "LIST",
         "answer again with each of these fixes, beside the configuration as it is (--list)", 0, 0, false},
        {"fix-text", QS_ARG_STRING, &opt.fix_text, "FILE|DIR",
         "another calibration text, for --fix recalibrate: points are quantised with it and evaluated too, in "
         "OUT/recalibrated", 0, 0, false},
        {"probe", QS_ARG_INT, &opt.questions.n_probe, "N",
         "ask the first N items with 5, 10 and 20 snippets, and headers canonical, shuffled and removed; 0 = "
         "none", 0, 1e9, false},
        {"compute", QS_ARG_STRING, &opt.compute, "TYPE", "f32 or bf16: precision of large products", 0, 0, false},
        {"dump", QS_ARG_STRING, &opt.dump, "LIST",
         "raw arrays into the artifacts: tokens, logits, hidden, embeddings", 0, 0, false},
        {"race", QS_ARG_STRING, &opt.race, "FILE.csv",
         "stop reading a configuration once it has missed or met these budgets for sure (docs/sweeps.md)", 0, 0, false},
        {"keep-going", QS_ARG_FLAG, &opt.keep_going, NULL,
         "record a point that fails in OUT/ID.eval.failed, and go on with the others", 0, 0, false},
        {"out", QS_ARG_STRING, &opt.out, "DIR", "where ID.eval.h5 of each point goes", 0, 0, false},
        QS_ARGS_DEVICE_MAP(&opt.device_map, &opt.vram_budget),
        QS_ARGS_WATCHDOG(&opt.common),
        QS_ARGS_COMMON(&opt.common),
    };
    qs_args args = {.program = "qsweep-evaluate",
                    .summary = "measure the reference and quantised points against it",
                    .rows = rows};
    bool done;
    qs_err err = qs_args_parse(&args, argc, argv, stdout, &done);
    if (err != QS_OK || done) goto out;
    qs_args_apply_common(&opt.common, &opt.n_threads);
    if (opt.common.list) err = stage_list_evaluate(&opt.common);
    else err = run(&opt);
out:
    qs_args_free(&args);
    return qs_args_exit(err);
}
