#include "report/table_columns.h"

enum { MAX_COLUMNS = 32 };

#define ROW(name, text) {name, text, false}
#define RACED(name, text) {name, text, true}
#define CONFIG ROW("config", "id of the configuration; fp is the reference")

const qs_column qs_summary_facts[] = {
    CONFIG,
    ROW("method", "how codes were chosen; fp is the reference"),
    ROW("bits", "bits of a code; empty of the reference and where matrices differ"),
    ROW("group_size", "weights that share a scale; -1 = the whole row"),
    ROW("variant", "the rest of the spec that the id shows: symmetry, order, double quantisation ..."),
    ROW("bpw", "stored bits of the quantised linears per weight: codes, scales, zeros, permutations"),
    ROW("bpw_total", "stored bits per weight, embeddings, norms and head included"),
    ROW("bytes", "stored bytes of the deployed model"),
    ROW("ppl_ratio_lo", "lower end of the 95 % interval of ppl_ratio"),
    ROW("ppl_ratio_hi", "its upper end"),
    ROW("quantize_s", "seconds that quantising took"),
    ROW("backend", "backend that was timed"),
    ROW("device", "CPU or GPU model that was timed"),
    ROW("verdict", "the worst of its gates (docs/gates.md); empty of the reference, unless it misses gates itself"),
    ROW("failed", "gates with the verdict FAIL, with ; between them"),
    RACED("tokens", "tokens that the figures of quality rest on"),
    RACED("race", "accepted, dropped or whole"),
    {0},
};

const qs_column qs_metrics_columns[] = {
    CONFIG,
    ROW("metric", "a metric of the list above, or a fact that the artifacts "
                  "tell (calibration_size, tokenizer_same ...)"),
    ROW("unit", "its unit; empty for shares and counts"),
    ROW("value", "estimate"),
    ROW("lo", "lower end of its 95 % interval"),
    ROW("hi", "upper end"),
    ROW("n", "independent units that it rests on: windows, questions, texts, tokens timed"),
    {0},
};

const qs_column qs_verdicts_columns[] = {
    CONFIG,
    ROW("gate", "metric, or the metric that stands in for it; joint gates have & between two"),
    ROW("value", "estimate; empty when not measured"),
    ROW("lo", "lower end of its 95 % interval"),
    ROW("hi", "upper end"),
    ROW("op", "how it is held against the limit; ci>= and the like: the whole interval must be"),
    ROW("limit", "the budget"),
    ROW("source", "who set it: a page, or the project"),
    ROW("n", "independent units that the estimate rests on"),
    ROW("verdict", "PASS, WARN, REVIEW, NOT_EVALUABLE, BASELINE_FAIL or FAIL (docs/gates.md)"),
    ROW("decided", "yes when the whole interval lies on this side of the "
                   "budget; no: more samples could change the verdict"),
    RACED("partial", "yes for what is a mean over a part of the windows"),
    {0},
};

const qs_column qs_layers_columns[] = {
    CONFIG,
    ROW("layer", "decoder block, from 0"),
    ROW("matrix", "q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj or down_proj"),
    ROW("loss", "share of the matrix's output on the calibration text that is error"),
    {0},
};

const qs_column qs_latency_columns[] = {
    CONFIG,
    ROW("metric", "a time or rate of the list above; decode_ms_sample_pNN: that quantile of the times of single "
                  "tokens; reference_decode_ms_tok_p50: the reference's median, measured in turns with this "
                  "configuration"),
    ROW("unit", "ms, tok/s or %"),
    ROW("value", "estimate"),
    ROW("lo", "lower end of its 95 % interval; empty where there is none"),
    ROW("hi", "upper end"),
    ROW("n", "samples"),
    ROW("backend", "backend that was timed"),
    ROW("device", "CPU or GPU model"),
    ROW("kernel", "kernels that decoded"),
    ROW("n_threads", "threads"),
    {0},
};

const qs_column qs_pareto_columns[] = {
    CONFIG,
    ROW("passes", "yes when all gates of its profile pass, those that the reference misses too excepted"),
    ROW("on_front", "yes when no other passing point is as good in every cost and better in one"),
    ROW("recommended", "yes for the one to ship"),
    ROW("confirmed", "of the recommended one: whether it passes on the half of the windows that did not choose it"),
    ROW("bpw", "stored bits of the quantised linears per weight"),
    ROW("bytes", "stored bytes of the deployed model"),
    ROW("decode_ms_tok_p50", "median time of a decoded token"),
    ROW("ppl_ratio_select", "ppl_ratio on the half of the windows that chooses"),
    ROW("select_verdict", "verdict with that figure"),
    ROW("ppl_ratio_confirm", "ppl_ratio on the other half"),
    ROW("confirm_lo", "lower end of its 95 % interval"),
    ROW("confirm_hi", "upper end"),
    ROW("confirm_verdict", "verdict with that figure"),
    {0},
};

const qs_column qs_diagnosis_columns[] = {
    CONFIG,
    ROW("rank", "1 = the likeliest symptom of this configuration"),
    ROW("rule", "name of the row of docs/symptoms.md"),
    ROW("row", "its row of docs/checklist.md, of this configuration's own page where it has one"),
    ROW("symptom", "what is seen"),
    ROW("evidence", "the figures that show it"),
    ROW("cause", "what usually causes it"),
    ROW("fix", "what usually mends it"),
    ROW("next", "the command to run next"),
    ROW("page", "the first page on it"),
    {0},
};

const qs_column qs_fixes_columns[] = {
    CONFIG,
    ROW("fix", "name of the fix (docs/fixes.md)"),
    ROW("metric", "a gate's metric"),
    ROW("before", "its estimate as the configuration is"),
    ROW("after", "its estimate with the fix"),
    ROW("triggered", "yes when the gate was missed before and the fix is meant for it"),
    ROW("change", "better, same or worse: worse by more than 3 %"),
    ROW("counts", "yes when the fix counts: a triggering gate gets better, and no other gets worse by more than 3 %"),
    {0},
};

const qs_column qs_items_columns[] = {
    CONFIG,
    ROW("qid", "question of the gold set"),
    ROW("wording", "0 = the question itself, 1 to 3 = its paraphrases"),
    ROW("seed", "greedy, or 0 and 1: seed of the random numbers"),
    ROW("k", "snippets in the prompt"),
    ROW("headers", "of the snippets: canonical, shuffled or removed; -1 and -2 are seeds of the probe"),
    ROW("prompt_tokens", "tokens of the prompt"),
    ROW("answer_tokens", "tokens of the answer"),
    ROW("stop", "why it ended: eos, line, limit, nonfinite"),
    ROW("json_ok", "1 when it is the JSON asked for"),
    ROW("citations", "snippets that it cites"),
    ROW("cited_known", "of these in the prompt"),
    ROW("cited_right", "of these the right one"),
    ROW("selected", "the first snippet cited that is in the prompt, else the one ranked first"),
    ROW("anchored", "1 when the right snippet was in the prompt"),
    ROW("correct", "1 when the gold claim is in the answer, or an unanswerable question is refused"),
    ROW("refused", "1 when it says that the snippets do not say"),
    ROW("cov_cited", "share of the right span that cited snippets cover; empty for unanswerable questions"),
    ROW("lambda", "state of the run: convergent, recursive, divergent or chaotic (docs/lambda.md); empty for greedy "
                  "runs outside the probe"),
    ROW("entropy", "of greedy runs: mean entropy along the reference's answer to this wording, nats (docs/entropy.md)"),
    ROW("entropy_stable", "1 when that answer's own curve is stable against the reference's"),
    ROW("answer", "the line that was answered"),
    {0},
};

const qs_column qs_entropy_columns[] = {
    CONFIG,
    ROW("source", "text = held-out windows; forced = along the reference's long text; free = along the configuration's "
                  "own; wording = along the reference's answers to a wording"),
    ROW("sequence", "mean over all windows; id of the long text; or the "
                    "wording, 0 = the question, mean over questions"),
    ROW("step", "token, from 0"),
    ROW("entropy", "of the next token, nats"),
    ROW("entropy_mean", "its trailing mean, which the gate looks at"),
    ROW("kld", "KL(reference || this) at this step, where both take the same text"),
    ROW("kld_cumulative", "its sum so far"),
    ROW("delta", "every 8 tokens of a text of its own: distance to question and snippets"),
    ROW("lambda", "state of that step: convergent, recursive, divergent or chaotic"),
    {0},
};

void qs_columns_begin(qs_csv_writer *writer, FILE *stream, const qs_column *columns, bool raced)
{
    const char *names[MAX_COLUMNS];
    int64_t n = 0;
    for (; columns->name != NULL && n < MAX_COLUMNS; columns++)
        if (raced || !columns->raced) names[n++] = columns->name;
    qs_csv_begin(writer, stream, names, n);
}

void qs_columns_print_markdown(FILE *stream, const qs_column *columns)
{
    (void)fprintf(stream, "| column | what it is |\n|---|---|\n");
    for (; columns->name != NULL; columns++) {
        (void)fprintf(stream, "| `%s` | ", columns->name);
        for (const char *c = columns->text; *c != '\0'; c++)
            (void)fprintf(stream, *c == '|' ? "\\%c" : "%c", *c);
        (void)fprintf(stream, "%s |\n",
                      columns->raced ? "; where a configuration raced (`evaluate --race`)" : "");
    }
}
