#include "metric/metrics.h"

#include <string.h>

#define LOWER QS_BETTER_LOWER
#define HIGHER QS_BETTER_HIGHER
#define NONE QS_BETTER_NONE

const qs_metric qs_metrics[] = {
    {"ppl", "", LOWER, QS_TASK_PPL, false, false,
     "perplexity: exp of the mean NLL of the scored tokens, natural log"},
    {"ppl_ratio", "", LOWER, QS_TASK_PPL, false, true,
     "ppl over the reference's, paired; CI by block bootstrap over windows"},
    {"token_acc", "", HIGHER, QS_TASK_PPL, false, false,
     "share of positions whose most probable token is the true next one"},
    {"acc_loss_pct", "%", LOWER, QS_TASK_PPL, false, true,
     "relative loss of token_acc against the reference, paired CI"},
    {"kld_mean", "nat", LOWER, QS_TASK_KLD, false, true,
     "mean KL(reference || this) over the full vocabulary"},
    {"kld_p99", "nat", LOWER, QS_TASK_KLD, false, true,
     "99th percentile over positions of the KL divergence"},
    {"kld_max", "nat", LOWER, QS_TASK_KLD, false, true, "largest KL divergence of a position"},
    {"top1_agree", "", HIGHER, QS_TASK_KLD, false, true,
     "share of positions with the reference's most probable token"},
    {"flip_rate", "", LOWER, QS_TASK_KLD, false, true, "1 - top1_agree"},
    {"dp_rms", "", LOWER, QS_TASK_KLD, false, true,
     "RMS over positions of p(correct) minus the reference's p(correct)"},
    {"prefill_tok_s", "tok/s", HIGHER, QS_TASK_LATENCY, true, false, "prompt tokens per second, batch 1"},
    {"decode_ms_tok_p50", "ms", LOWER, QS_TASK_LATENCY, true, false,
     "median time of one decoded token, batch 1, packed kernels"},
    {"decode_ms_tok_p90", "ms", LOWER, QS_TASK_LATENCY, true, false, "90th percentile of the same"},
    {"decode_ms_tok_p95", "ms", LOWER, QS_TASK_LATENCY, true, false, "95th percentile of the same"},
    {"decode_tok_s", "tok/s", HIGHER, QS_TASK_LATENCY, true, false, "decoded tokens per second, 1000 / p50"},
    {"latency_gain_pct", "%", HIGHER, QS_TASK_LATENCY, true, true,
     "100 (L_ref - L) / L_ref of the median decode time, both measured interleaved in one run"},
    {"mem_before", "byte", NONE, QS_TASK_MEMORY, true, false,
     "bytes held before the deployed model is loaded"},
    {"mem_after_load", "byte", LOWER, QS_TASK_MEMORY, true, false, "bytes held after loading"},
    {"mem_peak", "byte", LOWER, QS_TASK_MEMORY, true, false, "most bytes held while prompting and decoding"},
    {"rss_peak", "byte", LOWER, QS_TASK_MEMORY, true, false,
     "largest resident set of the measuring process so far"},
    {"vram_before", "byte", NONE, QS_TASK_MEMORY, true, false,
     "bytes taken from the GPU before the deployed model is loaded, its driver's context included"},
    {"vram_after_load", "byte", LOWER, QS_TASK_MEMORY, true, false, "the same after loading"},
    {"vram_peak", "byte", LOWER, QS_TASK_MEMORY, true, false, "the most while prompting and decoding"},
    {"vram_weights", "byte", LOWER, QS_TASK_MEMORY, true, false, "part of it after decoding: matrices"},
    {"vram_kv", "byte", LOWER, QS_TASK_MEMORY, true, false, "part of it after decoding: KV caches"},
    {"vram_workspace", "byte", LOWER, QS_TASK_MEMORY, true, false,
     "part of it after decoding: activations, logits, scratch of kernels"},
    {"vram_context", "byte", NONE, QS_TASK_MEMORY, true, false, "part of it after decoding: the driver's own"},
    {"bytes_expected", "byte", NONE, QS_TASK_MEMORY, true, false,
     "bytes of the weights by the format's arithmetic"},
    {"bytes_measured", "byte", NONE, QS_TASK_MEMORY, true, false, "bytes of the weights as loaded"},
    {"savings_visible", "", HIGHER, QS_TASK_MEMORY, true, false,
     "1 when measured is within 10 % of expected and every linear that should be quantised is"},
    {"load_error", "", LOWER, QS_TASK_NONE, false, true,
     "|W - Q| / |W| of all matrices as they were read back, Q being what is multiplied"},
    {"load_error_share", "", LOWER, QS_TASK_NONE, false, true,
     "share of matrices whose error is not the one that the solver wrote down: another group size, table or order of "
     "codes"},
    {"json_ok", "", HIGHER, QS_TASK_JSON, false, false,
     "share of answers that are the JSON asked for, parsed strictly"},
    {"answer_cut", "", LOWER, QS_TASK_JSON, false, false, "share of answers that the limit of tokens ended"},
    {"cite_ok", "", HIGHER, QS_TASK_JSON, false, false,
     "share of answers that cite a snippet of their prompt, where the prompt holds the one to cite"},
    {"cite_precision", "", HIGHER, QS_TASK_JSON, false, false, "share of citations that are the anchor's snippet"},
    {"qa_acc", "", HIGHER, QS_TASK_SEMANTIC, false, false,
     "share of answers to answerable items that contain the gold claim, both in canonical form"},
    {"qa_acc_change", "", HIGHER, QS_TASK_SEMANTIC, false, true, "qa_acc minus the reference's, paired"},
    {"refusal_ok", "", HIGHER, QS_TASK_SEMANTIC, false, false, "share of unanswerable items' answers that refuse"},
    {"refusal_wrong", "", LOWER, QS_TASK_SEMANTIC, false, false, "share of answerable items' answers that refuse"},
    {"anchor_offered", "", HIGHER, QS_TASK_SEMANTIC, false, false,
     "share of answerable items' prompts that hold the snippet with the answer"},
    {"cov_cited", "", HIGHER, QS_TASK_SEMANTIC, false, false,
     "share of the anchor's words in cited snippets, by union of offsets; mean over answerable items"},
    {"cov_critical", "", LOWER, QS_TASK_SEMANTIC, false, false, "share of answerable items with cov_cited below .60"},
    {"cov_pass_rate", "", HIGHER, QS_TASK_SEMANTIC, false, false,
     "share of answerable items with cov_cited of .70 or more"},
    {"snippet_divergence", "", LOWER, QS_TASK_SEMANTIC, false, true,
     "share of wordings whose selected snippet (first cited, else top-ranked) is not the reference's"},
    {"answer_agree", "", HIGHER, QS_TASK_SEMANTIC, false, true, "share of greedy answers equal to the reference's"},
    {"dS_QE", "", LOWER, QS_TASK_SEMANTIC, false, false,
     "distance of question and retrieved snippets in the encoder's space, mean over items"},
    {"dS_QE_transit", "", LOWER, QS_TASK_SEMANTIC, false, false, "share of wordings with dS_QE in [.40, .60)"},
    {"dS_QE_risk", "", LOWER, QS_TASK_SEMANTIC, false, false, "share of wordings with dS_QE of .60 and more"},
    {"dS_EA", "", LOWER, QS_TASK_SEMANTIC, false, false, "distance of retrieved snippets and the anchor's text"},
    {"dS_QA", "", LOWER, QS_TASK_SEMANTIC, false, false, "distance of question and answer"},
    {"dS_AR", "", LOWER, QS_TASK_SEMANTIC, false, false, "distance of answer and gold answer"},
    {"dS_drift", "", LOWER, QS_TASK_SEMANTIC, false, true,
     "mean |difference| of dS_QE or of dS_EA to the reference's, whichever is larger"},
    {"dS_drift_signed", "", LOWER, QS_TASK_SEMANTIC, false, true, "the same with its sign, the larger one"},
    {"dS_drift_p50", "", LOWER, QS_TASK_SEMANTIC, false, true, "median over items of the larger |difference|"},
    {"dS_drift_p95", "", LOWER, QS_TASK_SEMANTIC, false, true, "95th percentile of the same"},
    {"dS_drift_max", "", LOWER, QS_TASK_SEMANTIC, false, true, "the largest"},
    {"anchor_drift", "", LOWER, QS_TASK_SEMANTIC, false, true, "mean |difference| of dS_EA to the reference's"},
    {"anchor_gap", "", HIGHER, QS_TASK_SEMANTIC, false, false,
     "distance of retrieved snippets to the nearest distractor section minus distance to the anchor"},
    {"cov_retr10", "", HIGHER, QS_TASK_SEMANTIC, false, false,
     "share of the target section's words in the first 10 retrieved snippets, by union of offsets"},
    {"index_duplicates", "", LOWER, QS_TASK_SEMANTIC, false, false,
     "share of the corpus' snippets whose header and text another one has too"},
    {"snippet_jaccard", "", LOWER, QS_TASK_SEMANTIC, false, true,
     "1 - Jaccard index of the prompt's snippets and the reference's"},
    {"snippet_tau", "", HIGHER, QS_TASK_SEMANTIC, false, true, "Kendall's tau of their order, over common snippets"},
    {"lambda_conv", "", HIGHER, QS_TASK_SEMANTIC, false, false,
     "share of runs (3 paraphrases x 2 seeds, answerable items) whose state is convergent"},
    {"lambda_recursive", "", LOWER, QS_TASK_SEMANTIC, false, false, "share in state <>"},
    {"lambda_divergent", "", LOWER, QS_TASK_SEMANTIC, false, false, "share in state <-"},
    {"lambda_chaotic", "", LOWER, QS_TASK_SEMANTIC, false, false, "share in state x"},
    {"lambda_runs", "", HIGHER, QS_TASK_SEMANTIC, false, false, "runs per question"},
    {"lambda_flip_rate", "", LOWER, QS_TASK_SEMANTIC, false, false,
     "share of runs whose state is not that of the first paraphrase and seed"},
    {"lambda_agree", "", HIGHER, QS_TASK_SEMANTIC, false, true, "share of runs whose state is the reference's"},
    {"lambda_probe_flips", "", LOWER, QS_TASK_PROBE, false, false,
     "share of states that change with the headers, at 5, 10 and 20 snippets (--probe)"},
    {"entropy_stable", "", HIGHER, QS_TASK_ENTROPY, false, true,
     "1 when entropy along held-out text and along the reference's long texts neither rises, collapses nor spikes "
     "where the reference's does not"},
    {"entropy_rms", "", LOWER, QS_TASK_ENTROPY, false, true,
     "RMS of the trailing means' difference over the reference's level, the worse of both texts"},
    {"entropy_stable_share", "", HIGHER, QS_TASK_ENTROPY, false, true, "share of single long texts that are stable"},
    {"entropy_stable_64", "", HIGHER, QS_TASK_ENTROPY, false, true,
     "the same rule for the first 64 tokens of the long texts alone (--long-tokens at least as many)"},
    {"entropy_stable_128", "", HIGHER, QS_TASK_ENTROPY, false, true, "for the first 128"},
    {"entropy_stable_256", "", HIGHER, QS_TASK_ENTROPY, false, true, "for the first 256"},
    {"entropy_stable_512", "", HIGHER, QS_TASK_ENTROPY, false, true, "for the first 512"},
    {"entropy_paraphrases", "", HIGHER, QS_TASK_ENTROPY, false, true,
     "1 when on each of the 3 paraphrases entropy along the reference's answers, mean over questions, is stable by the "
     "same rule; the worst of the next three"},
    {"entropy_paraphrase_1", "", HIGHER, QS_TASK_ENTROPY, false, true, "the same of the first paraphrase alone"},
    {"entropy_paraphrase_2", "", HIGHER, QS_TASK_ENTROPY, false, true, "of the second"},
    {"entropy_paraphrase_3", "", HIGHER, QS_TASK_ENTROPY, false, true, "of the third"},
    {"entropy_paraphrases_rms", "", LOWER, QS_TASK_ENTROPY, false, true,
     "RMS of the trailing means' difference along these answers over the reference's level, the worst of 3 "
     "paraphrases"},
    {"entropy_slope_change", "nat", LOWER, QS_TASK_ENTROPY, false, true,
     "how much faster entropy grows along the reference's long texts: difference of least-squares slopes, per 100 "
     "tokens"},
    {"entropy_mean", "nat", NONE, QS_TASK_ENTROPY, false, false, "mean entropy along the reference's long texts"},
    {"kld_long", "nat", LOWER, QS_TASK_ENTROPY, false, true, "mean KL(reference || this) along them"},
    {"kld_cumulative", "nat", LOWER, QS_TASK_ENTROPY, false, true, "its sum over a text, mean over texts"},
    {"first_divergence_step", "token", HIGHER, QS_TASK_ENTROPY, false, true,
     "first token of a long text, written greedily, that is not the reference's; its length when none; mean"},
    {"e_resonance", "", LOWER, QS_TASK_ENTROPY, false, false,
     "rolling mean of the distance of a long text so far to its question and snippets, mean over texts and steps"},
    {"e_resonance_drift", "", LOWER, QS_TASK_ENTROPY, false, true,
     "mean abs difference to the reference's, step by step"},
    {"e_resonance_slope_excess", "", LOWER, QS_TASK_ENTROPY, false, true,
     "its slope minus max(.02, the reference's slope + .02), mean over texts"},
    {"lambda_step_conv", "", HIGHER, QS_TASK_ENTROPY, false, false,
     "share of the long texts' steps of 8 tokens whose state is convergent (docs/lambda.md)"},
    {"lambda_step_chaotic", "", LOWER, QS_TASK_ENTROPY, false, false, "share in state x"},
    {"mttf", "token", HIGHER, QS_TASK_ENTROPY, false, false,
     "tokens until a long text is lost (three steps of 8 tokens at a distance of .85 or more); its length when never"},
    {"mttf_margin", "token", HIGHER, QS_TASK_ENTROPY, false, true,
     "mttf minus 40 or minus the reference's, whichever is more"},
    {0},
};

const qs_metric *qs_metric_find(const char *name)
{
    for (const qs_metric *metric = qs_metrics; metric->name != NULL; metric++)
        if (strcmp(metric->name, name) == 0) return metric;
    return NULL;
}

enum { METRIC_PATH_BYTES = 96 };

static const char *leaf_path(char path[METRIC_PATH_BYTES], const qs_metric *metric, const char *leaf)
{
    (void)snprintf(path, METRIC_PATH_BYTES, "/%s/%s/@%s", metric->timing ? "timing" : "metrics", metric->name,
                   leaf);
    return path;
}

qs_err qs_metric_put(qs_artifact *artifact, const qs_metric *metric, const qs_estimate *estimate)
{
    char path[METRIC_PATH_BYTES];
    qs_err err;
    QS_TRY(qs_artifact_put_real(artifact, leaf_path(path, metric, "value"), estimate->value));
    QS_TRY(qs_artifact_put_real(artifact, leaf_path(path, metric, "lo"), estimate->lo));
    QS_TRY(qs_artifact_put_real(artifact, leaf_path(path, metric, "hi"), estimate->hi));
    QS_TRY(qs_artifact_put_int(artifact, leaf_path(path, metric, "n"), estimate->n));
out:
    return qs_context(err, "metric %s", metric->name);
}

qs_err qs_metric_get(const qs_artifact *artifact, const qs_metric *metric, qs_estimate *estimate,
                     bool *present)
{
    char path[METRIC_PATH_BYTES];
    qs_err err = QS_OK;
    *present = qs_artifact_has(artifact, leaf_path(path, metric, "value"));
    if (!*present) return QS_OK;
    QS_TRY(qs_artifact_get_real(artifact, path, &estimate->value));
    QS_TRY(qs_artifact_get_real(artifact, leaf_path(path, metric, "lo"), &estimate->lo));
    QS_TRY(qs_artifact_get_real(artifact, leaf_path(path, metric, "hi"), &estimate->hi));
    QS_TRY(qs_artifact_get_int(artifact, leaf_path(path, metric, "n"), &estimate->n));
out:
    return err;
}

void qs_metrics_print_markdown(FILE *stream, const qs_metric *metrics)
{
    static const char *const better[] = {[LOWER] = "lower", [HIGHER] = "higher", [NONE] = ""};
    (void)fprintf(stream, "| metric | unit | better | what it is |\n|---|---|---|---|\n");
    for (const qs_metric *metric = metrics; metric->name != NULL; metric++)
        (void)fprintf(stream, "| `%s` | %s | %s | %s |\n", metric->name, metric->unit, better[metric->better],
                      metric->text);
}
