#include "report/table_columns.h"

enum { MAX_COLUMNS = 32 };

#define CONFIG {"config", "id of the configuration; fp is the reference"}

const qs_column qs_summary_facts[] = {
    CONFIG,
    {"method", "how codes were chosen; fp is the reference"},
    {"bits", "bits of a code; empty of the reference and where matrices differ"},
    {"group_size", "weights that share a scale; -1 = the whole row"},
    {"variant", "the rest of the spec that the id shows: symmetry, order, double quantisation ..."},
    {"bpw", "stored bits of the quantised linears per weight: codes, scales, zeros, permutations"},
    {"bpw_total", "stored bits per weight, embeddings, norms and head included"},
    {"bytes", "stored bytes of the deployed model"},
    {"ppl_ratio_lo", "lower end of the 95 % interval of ppl_ratio"},
    {"ppl_ratio_hi", "its upper end"},
    {"quantize_s", "seconds that quantising took"},
    {"backend", "backend that was timed"},
    {"device", "CPU or GPU model that was timed"},
    {"verdict", "the worst of its gates (docs/gates.md); empty of the reference, unless it misses gates itself"},
    {"failed", "gates with the verdict FAIL, with ; between them"},
    {"tokens", "tokens that the figures of quality rest on", .raced = true},
    {"race", "accepted, dropped or whole", .raced = true},
    {0},
};

const qs_column qs_metrics_columns[] = {
    CONFIG,
    {"metric", "a metric of the list above, or a fact that the artifacts tell (calibration_size, tokenizer_same ...)"},
    {"unit", "its unit; empty for shares and counts"},
    {"value", "estimate"},
    {"lo", "lower end of its 95 % interval"},
    {"hi", "upper end"},
    {"n", "independent units that it rests on: windows, questions, texts, tokens timed"},
    {0},
};

const qs_column qs_verdicts_columns[] = {
    CONFIG,
    {"gate", "metric, or the metric that stands in for it; joint gates have & between two"},
    {"value", "estimate; empty when not measured"},
    {"lo", "lower end of its 95 % interval"},
    {"hi", "upper end"},
    {"op", "how it is held against the limit; ci>= and the like: the whole interval must be"},
    {"limit", "the budget"},
    {"source", "who set it: a page, or the project"},
    {"n", "independent units that the estimate rests on"},
    {"verdict", "PASS, WARN, REVIEW, NOT_EVALUABLE, BASELINE_FAIL or FAIL (docs/gates.md)"},
    {"decided", "yes when the whole interval lies on this side of the budget; no: more samples could change the verdict"},
    {"partial", "yes for what is a mean over a part of the windows", .raced = true},
    {0},
};

const qs_column qs_layers_columns[] = {
    CONFIG,
    {"layer", "decoder block, from 0"},
    {"matrix", "q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj or down_proj"},
    {"loss", "share of the matrix's output on the calibration text that is error"},
    {0},
};

const qs_column qs_latency_columns[] = {
    CONFIG,
    {"metric", "a time or rate of the list above; decode_ms_sample_pNN: that quantile of the times of single tokens; "
               "reference_decode_ms_tok_p50: the reference's median, measured in turns with this configuration"},
    {"unit", "ms, tok/s or %"},
    {"value", "estimate"},
    {"lo", "lower end of its 95 % interval; empty where there is none"},
    {"hi", "upper end"},
    {"n", "samples"},
    {"backend", "backend that was timed"},
    {"device", "CPU or GPU model"},
    {"kernel", "kernels that decoded"},
    {"n_threads", "threads"},
    {0},
};

const qs_column qs_pareto_columns[] = {
    CONFIG,
    {"passes", "yes when all gates of its profile pass, those that the reference misses too excepted"},
    {"on_front", "yes when no other passing point is as good in every cost and better in one"},
    {"recommended", "yes for the one to ship"},
    {"confirmed", "of the recommended one: whether it passes on the half of the windows that did not choose it"},
    {"bpw", "stored bits of the quantised linears per weight"},
    {"bytes", "stored bytes of the deployed model"},
    {"decode_ms_tok_p50", "median time of a decoded token"},
    {"ppl_ratio_select", "ppl_ratio on the half of the windows that chooses"},
    {"select_verdict", "verdict with that figure"},
    {"ppl_ratio_confirm", "ppl_ratio on the other half"},
    {"confirm_lo", "lower end of its 95 % interval"},
    {"confirm_hi", "upper end"},
    {"confirm_verdict", "verdict with that figure"},
    {0},
};

const qs_column qs_diagnosis_columns[] = {
    CONFIG,
    {"rank", "1 = the likeliest symptom of this configuration"},
    {"rule", "name of the row of docs/symptoms.md"},
    {"row", "its row of docs/checklist.md, of this configuration's own page where it has one"},
    {"symptom", "what is seen"},
    {"evidence", "the figures that show it"},
    {"cause", "what usually causes it"},
    {"fix", "what usually mends it"},
    {"next", "the command to run next"},
    {"page", "the first page on it"},
    {0},
};

const qs_column qs_fixes_columns[] = {
    CONFIG,
    {"fix", "name of the fix (docs/fixes.md)"},
    {"metric", "a gate's metric"},
    {"before", "its estimate as the configuration is"},
    {"after", "its estimate with the fix"},
    {"triggered", "yes when the gate was missed before and the fix is meant for it"},
    {"change", "better, same or worse: worse by more than 3 %"},
    {"counts", "yes when the fix counts: a triggering gate gets better, and no other gets worse by more than 3 %"},
    {0},
};

const qs_column qs_items_columns[] = {
    CONFIG,
    {"qid", "question of the gold set"},
    {"wording", "0 = the question itself, 1 to 3 = its paraphrases"},
    {"seed", "greedy, or 0 and 1: seed of the random numbers"},
    {"k", "snippets in the prompt"},
    {"headers", "of the snippets: canonical, shuffled or removed; -1 and -2 are seeds of the probe"},
    {"prompt_tokens", "tokens of the prompt"},
    {"answer_tokens", "tokens of the answer"},
    {"stop", "why it ended: eos, line, limit, nonfinite"},
    {"json_ok", "1 when it is the JSON asked for"},
    {"citations", "snippets that it cites"},
    {"cited_known", "of these in the prompt"},
    {"cited_right", "of these the right one"},
    {"selected", "the first snippet cited that is in the prompt, else the one ranked first"},
    {"anchored", "1 when the right snippet was in the prompt"},
    {"correct", "1 when the gold claim is in the answer, or an unanswerable question is refused"},
    {"refused", "1 when it says that the snippets do not say"},
    {"cov_cited", "share of the right span that cited snippets cover; empty for unanswerable questions"},
    {"lambda", "state of the run: convergent, recursive, divergent or chaotic (docs/lambda.md); empty for greedy runs "
               "outside the probe"},
    {"entropy", "of greedy runs: mean entropy along the reference's answer to this wording, nats (docs/entropy.md)"},
    {"entropy_stable", "1 when that answer's own curve is stable against the reference's"},
    {"answer", "the line that was answered"},
    {0},
};

const qs_column qs_entropy_columns[] = {
    CONFIG,
    {"source", "text = held-out windows; forced = along the reference's long text; free = along the configuration's own; "
               "wording = along the reference's answers to a wording"},
    {"sequence", "mean over all windows; id of the long text; or the wording, 0 = the question, mean over questions"},
    {"step", "token, from 0"},
    {"entropy", "of the next token, nats"},
    {"entropy_mean", "its trailing mean, which the gate looks at"},
    {"kld", "KL(reference || this) at this step, where both take the same text"},
    {"kld_cumulative", "its sum so far"},
    {"delta", "every 8 tokens of a text of its own: distance to question and snippets"},
    {"lambda", "state of that step: convergent, recursive, divergent or chaotic"},
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
        for (const char *c = columns->text; *c != '\0'; c++) (void)fprintf(stream, *c == '|' ? "\\%c" : "%c", *c);
        (void)fprintf(stream, "%s |\n", columns->raced ? "; where a configuration raced (`evaluate --race`)" : "");
    }
}
