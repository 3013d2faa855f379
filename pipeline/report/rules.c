#include "report/rules.h"

#include <string.h>

#define MISSED(metric) {QS_IF_MISSED, metric, 0}
#define BASELINE(metric) {QS_IF_BASELINE, metric, 0}
#define ABOVE(metric, limit) {QS_IF_ABOVE, metric, limit}
#define BELOW(metric, limit) {QS_IF_BELOW, metric, limit}
#define NOT_ABOVE(metric, limit) {QS_IF_NOT_ABOVE, metric, limit}
#define ROSE(metric, limit) {QS_IF_ROSE, metric, limit}
#define FELL(metric, limit) {QS_IF_FELL, metric, limit}

#define EVALUATE "{evaluate}" /* as it was called, but for what follows */
/* Arms of qsweep-evaluate (docs/fixes.md). */
#define FIX(list) " --fix " list
#define QUANTIZE "qsweep quantize --model {model} --calib {calib} --out {out}"
#define CALIBRATE "qsweep calibrate --model {model} --out {calib}"

const qs_rule qs_rules[] = {
    /* ---- what was loaded is not what was made ---- */
    {.name = "wrong-quant-type", .rows = "B5", .profiles = "bnb",
     .symptom = "output drifts by more than .20 from the full-precision model, or the weights read back are others",
     .cause = "codes are decoded with another table (fp4 for nf4), or products run in a wrong compute type",
     .fix = "make and load the point anew with each quant type and compute type, and keep the best",
     .next = "qsweep quantize --model {model} --out {out} --spec nf4:block={group},compute=bf16 "
             "--spec nf4:block={group},compute=fp16 --spec nf4:block={group},compute=fp32 "
             "--spec fp4:block={group},compute=bf16 --spec fp4:block={group},compute=fp16 "
             "--spec fp4:block={group},compute=fp32",
     .pages = "embedding-vs-semantic retrieval-traceability",
     .any = {ABOVE("dS_drift", 0.20), ABOVE("load_error_share", 0.5), ABOVE("ppl_ratio", 10)}},
    {.name = "misread-weights", .rows = "G5", .profiles = NULL,
     .symptom = "garbage tokens",
     .cause = "most matrices read back are not those that the solver wrote: bits or group size of the file's header do "
              "not fit its codes",
     .fix = "make the file anew from the model with the right group size, and look at load_error_share and ΔS again",
     .next = QUANTIZE " --spec {spec} && " EVALUATE,
     .pages = "bootstrap-ordering",
     .all = {ABOVE("load_error_share", 0.5)}},
    {.name = "damaged-matrix", .rows = "G5", .profiles = NULL,
     .symptom = "a few matrices are not those that the solver wrote, the others are",
     .cause = "codes of a layer were shuffled, cut or overwritten behind the solver's back",
     .fix = "make the file anew; if it comes back, compare the digests of the file where it is made and where it is "
            "loaded",
     .next = QUANTIZE " --spec {spec} && " EVALUATE,
     .pages = "bootstrap-ordering",
     .all = {ABOVE("load_error_share", 0), NOT_ABOVE("load_error_share", 0.5)}},
    {.name = "other-tokenizer", .rows = "G7", .profiles = NULL,
     .symptom = "the checkpoint's tokenizer cuts text otherwise than the model's",
     .cause = "the tokenizer of another model or revision was put beside the weights",
     .fix = "copy tokenizer.json of the model that was quantised into the checkpoint",
     .next = "cp {model}/tokenizer.json CHECKPOINT/ && " EVALUATE,
     .pages = "bootstrap-ordering",
     .all = {MISSED("tokenizer_same")}},
    {.name = "other-index", .rows = "E7", .profiles = NULL,
     .symptom = "wrong snippets despite high similarity",
     .cause = "the retriever's index is of another revision of the corpus than the reference's",
     .fix = "build the index anew from one revision of the corpus, and ask reference and configuration over it",
     .next = EVALUATE,
     .pages = "embedding-vs-semantic patterns/pattern_vectorstore_fragmentation",
     .all = {MISSED("index_same")}},
    {.name = "repeated-snippets", .rows = "E7", .profiles = NULL,
     .symptom = "more than 15 % of the corpus' snippets are there twice",
     .cause = "the index was filled again without being emptied, or sections overlap",
     .fix = "build the index anew from one revision of the corpus",
     .next = EVALUATE,
     .pages = "patterns/pattern_vectorstore_fragmentation chunking-checklist",
     .all = {MISSED("index_duplicates")}},
    {.name = "other-build", .rows = "E10 G8", .profiles = NULL,
     .symptom = "reference and configuration were computed by different builds or kernels",
     .cause = "the machine, the driver or the program changed between the two",
     .fix = "measure both with one build on one machine",
     .next = "qsweep doctor --model {model} && " EVALUATE " --out {out}-again",
     .pages = "bootstrap-ordering predeploy-collapse",
     .all = {MISSED("build_same")}},
    {.name = "cut-answers", .rows = "A10 B9 E8", .profiles = NULL,
     .symptom = "JSON breaks since answers are cut",
     .cause = "answers reach the limit of tokens before they end",
     .fix = "raise the limit of an answer",
     .next = EVALUATE " --answer-tokens 96",
     .pages = "data-contracts",
     .all = {ABOVE("answer_cut", 0.05)},
     .any = {MISSED("json_ok"), MISSED("cite_ok")}},
    {.name = "sampling-noise", .rows = "A19", .profiles = NULL,
     .symptom = "single runs go astray while greedy answers are the reference's",
     .cause = "noise of sampling, not of the weights: the temperature is too high for this model",
     .fix = "sample deterministically or lower the temperature",
     .next = EVALUATE FIX("deterministic"),
     .pages = "entropy-collapse rerankers",
     .all = {BELOW("kld_mean", 0.05), ABOVE("answer_agree", 0.8), BELOW("lambda_agree", 0.8)}},
    {.name = "synthesis-drift", .rows = "A7", .profiles = NULL,
     .symptom = "the right snippets and nearly the same logits on plain text, and other answers",
     .cause = "prompts are built otherwise than the reference's: headers in another order, or none; else jitter of "
              "logits",
     .fix = "lock headers and their order, and clamp noisy steps (bbam)",
     .next = EVALUATE " --headers canonical" FIX("header-lock,bbam"),
     .pages = "retrieval-traceability logic-collapse",
     .all = {BELOW("snippet_jaccard", 0.2), BELOW("kld_mean", 0.05), BELOW("answer_agree", 0.8),
             NOT_ABOVE("answer_cut", 0.05)}},
    {.name = "other-calibration", .rows = "A17 G7", .profiles = NULL,
     .symptom = "calibration text is unlike what the model will see",
     .cause = "another language or domain, or documents much shorter than production's",
     .fix = "calibrate on a sample of production text",
     .next = CALIBRATE " --text PRODUCTION_SAMPLE --samples 128 && " QUANTIZE " --spec {spec}",
     .pages = "chunking-checklist retrieval-playbook",
     .any = {MISSED("calibration_js"), MISSED("calibration_median_ratio")}},
    /* ---- too much was lost ---- */
    {.name = "coarse-attention", .rows = "A6 G7", .profiles = NULL,
     .symptom = "perplexity rises, and the matrices of attention have lost far more than the others",
     .cause = "attention has too few bits or too long groups for what it does",
     .fix = "finer groups, or more bits where they matter (a budget of bits instead of one number for all)",
     .next = QUANTIZE " --spec {finer} --spec {more-bits}",
     .pages = "retrieval-playbook chunking-checklist",
     .all = {ABOVE("loss_attention", 4)},
     .any = {MISSED("ppl_ratio"), MISSED("acc_loss_pct"), MISSED("snippet_divergence"), MISSED("lambda_conv")}},
    {.name = "too-few-bits", .rows = "G5", .profiles = NULL,
     .symptom = "garbage tokens, though the weights are those that the solver wrote",
     .cause = "the method cannot hold this model in so few bits or so long groups",
     .fix = "more bits, or groups half as long",
     .next = QUANTIZE " --spec {more-bits} --spec {finer}",
     .pages = "bootstrap-ordering",
     .all = {NOT_ABOVE("load_error_share", 0)},
     .any = {BELOW("top1_agree", 0.5), ABOVE("ppl_ratio", 10)}},
    {.name = "plain-rounding", .rows = "G7 A6", .profiles = "rtn",
     .symptom = "plain rounding loses more than the budget",
     .cause = "nothing makes up for a rounded weight: no calibration, no scaling",
     .fix = "the same bits by GPTQ and AWQ",
     .next = QUANTIZE " --spec gptq:bits={bits},group={group},sym=0 --spec awq:bits={bits},group={group},gptq=1",
     .pages = "retrieval-playbook",
     .any = {MISSED("ppl_ratio"), MISSED("acc_loss_pct")}},
    {.name = "accuracy-loss", .rows = "G7 E5", .profiles = NULL,
     .symptom = "accuracy falls by more than 5 % against full precision",
     .cause = "the solver met inputs that calibration had not shown it, or bits are too few",
     .fix = "calibrate on a small set like production's with the model's own tokenizer; then more bits",
     .next = CALIBRATE " --text PRODUCTION_SAMPLE --samples 128 && " QUANTIZE " --spec {spec} --spec {more-bits}",
     .pages = "retrieval-playbook",
     .any = {MISSED("acc_loss_pct"), BELOW("qa_acc_change", -0.05)}},
    {.name = "perplexity", .rows = "A6", .profiles = NULL,
     .symptom = "perplexity rises and answers drift",
     .cause = "calibration does not match, or groups are too long for the spread of the weights",
     .fix = "try group sizes, then another calibration text",
     .next = QUANTIZE " --spec {finer} --spec {more-bits}",
     .pages = "retrieval-playbook chunking-checklist",
     .all = {MISSED("ppl_ratio")}},
    {.name = "calibration-size", .rows = "G12", .profiles = NULL,
     .symptom = "the calibration set has fewer than 100 or more than 500 windows",
     .cause = "too few give statistics of single texts; more cost time and add nothing",
     .fix = "take 100 to 500 windows",
     .next = CALIBRATE " --text CALIBRATION_TEXT --samples 128 && " QUANTIZE " --spec {spec}",
     .pages = "chunking-checklist",
     .all = {MISSED("calibration_size")}},
    {.name = "drift", .rows = "A11 G12 B10 E11", .profiles = NULL,
     .symptom = "distances in meaning drift from full precision's",
     .cause = "the quantised model selects other snippets, or places texts elsewhere",
     .fix = "recalibrate, and drop snippets far from the question (bbmc)",
     .next = EVALUATE FIX("recalibrate,bbmc") " --fix-text PRODUCTION_SAMPLE",
     .pages = "retrieval-traceability retrieval-playbook",
     .any = {MISSED("dS_drift"), MISSED("dS_drift_signed")}},
    {.name = "anchor-drift", .rows = "G16", .profiles = NULL,
     .symptom = "the same section lies elsewhere for the quantised model",
     .cause = "the quantiser has moved what separates sections",
     .fix = "requantise, with finer groups",
     .next = QUANTIZE " --spec {finer}",
     .pages = "embedding-vs-semantic",
     .all = {MISSED("anchor_drift")}},
    {.name = "flat-boundaries", .rows = "A18", .profiles = NULL,
     .symptom = "the right section is hardly nearer than its neighbour",
     .cause = "quantisation has flattened the boundaries between sections",
     .fix = "redo calibration, or change bits and group size",
     .next = QUANTIZE " --spec {more-bits} --spec {finer}",
     .pages = "embedding-vs-semantic chunking-checklist",
     .all = {MISSED("anchor_gap")}},
    /* ---- answers ---- */
    {.name = "other-snippets", .rows = "G9 G15 E7", .profiles = NULL,
     .symptom = "other snippets are selected than by full precision",
     .cause = "small errors of logits decide between snippets that retrieval ranks alike",
     .fix = "keep what both rankings select (rerank), then look at trace.jsonl",
     .next = EVALUATE FIX("rerank"),
     .pages = "retrieval-traceability rerankers",
     .all = {MISSED("snippet_divergence")}},
    {.name = "unstable-headers", .rows = "A12 B11 E12 A7", .profiles = NULL,
     .symptom = "states change with the number of snippets or with their headers",
     .cause = "the model leans on the order and the form of headers",
     .fix = "lock headers and order, and clamp noisy steps (bbam)",
     .next = EVALUATE " --probe 10" FIX("header-lock,bbam"),
     .pages = "retrieval-traceability logic-collapse",
     .all = {MISSED("lambda_probe_flips")}},
    {.name = "divergent-runs", .rows = "A14 B11 E14 G13", .profiles = NULL,
     .symptom = "runs of one question do not hang together",
     .cause = "the model is near an edge that paraphrases and seeds push it over",
     .fix = "clamp noisy steps (bbam), lock headers, bridge long texts that are lost (bbcr)",
     .next = EVALUATE FIX("bbam,header-lock,bbcr"),
     .pages = "logic-collapse",
     .any = {MISSED("lambda_conv"), MISSED("lambda_chaotic"), MISSED("lambda_recursive")}},
    {.name = "broken-json", .rows = "A10 B9 E8 E21", .profiles = NULL,
     .symptom = "answers are not the JSON asked for",
     .cause = "noise of quantisation reaches the tokens that hold the form together",
     .fix = "a stricter form of the prompt, greedy answers, more bits",
     .next = EVALUATE " --instruct" FIX("deterministic"),
     .pages = "data-contracts logic-collapse",
     .all = {MISSED("json_ok")}},
    {.name = "missing-citations", .rows = "E6", .profiles = NULL,
     .symptom = "fluent answers that cite nothing there is",
     .cause = "the form of citations has come loose",
     .fix = "say the form in the prompt, and keep what both rankings select",
     .next = EVALUATE " --instruct" FIX("rerank"),
     .pages = "data-contracts retrieval-traceability",
     .all = {MISSED("cite_ok")}},
    {.name = "low-coverage", .rows = "G2 A2 B2 E2", .profiles = NULL,
     .symptom = "cited snippets do not cover what the answer rests on",
     .cause = "the right snippet was not offered, or another one was cited",
     .fix = "more snippets in the prompt, and keep what both rankings select",
     .next = EVALUATE " --k 10" FIX("rerank"),
     .pages = "rag-architecture-and-recovery retrieval-playbook",
     .any = {MISSED("cov_cited"), MISSED("cov_critical"), MISSED("cov_pass_rate")}},
    {.name = "far-snippets", .rows = "A13 B12 E13 G1 A1", .profiles = NULL,
     .symptom = "what is retrieved lies far from the question",
     .cause = "snippets that do not belong to the question are offered",
     .fix = "drop snippets far from the question (bbmc), and look at trace.jsonl",
     .next = EVALUATE FIX("bbmc"),
     .pages = "retrieval-playbook retrieval-traceability",
     .any = {MISSED("dS_QE"), MISSED("dS_QE_transit"), MISSED("dS_QE_risk")}},
    /* ---- long texts ---- */
    {.name = "lost-texts", .rows = "A9 B8 E9 A15 B14 E15", .profiles = NULL,
     .symptom = "long texts lose their subject earlier than full precision's",
     .cause = "errors add up from step to step, with nothing to lead back",
     .fix = "a bridge line when a text is lost (bbcr); alternate paths (bbpf) and a second ranking for answers",
     .next = EVALUATE FIX("bbcr,bbpf,rerank"),
     .pages = "entropy-collapse rerankers context-drift",
     .all = {MISSED("mttf_margin")}},
    {.name = "entropy", .rows = "G14 A19 B15 B20", .profiles = NULL,
     .symptom = "entropy rises, collapses or spikes where full precision's does not",
     .cause = "the distribution of the next token has become flatter or narrower along the text",
     .fix = "greedy answers, a floor under the temperature, a second ranking",
     .next = EVALUATE FIX("deterministic,temp-floor,rerank"),
     .pages = "entropy-collapse rerankers",
     .any = {MISSED("entropy_stable"), MISSED("entropy_paraphrases")}},
    {.name = "resonance", .rows = "G4", .profiles = NULL,
     .symptom = "long texts move away from their subject otherwise than full precision's",
     .cause = "errors add up along the text",
     .fix = "a bridge line when a text is lost (bbcr), then more bits",
     .next = EVALUATE FIX("bbcr") " && " QUANTIZE " --spec {more-bits}",
     .pages = "entropy-collapse",
     .any = {MISSED("e_resonance_drift"), MISSED("e_resonance_slope_excess")}},
    /* ---- the machine ---- */
    {.name = "no-savings", .rows = "B7 G6 A8", .profiles = NULL,
     .symptom = "memory is not saved, or runs out despite quantisation",
     .cause = "linears that should be in low bits are not, or layers lie where they should not",
     .fix = "look at the placement and at the linears that were left out",
     .next = "qsweep doctor --model {model} --spec {spec} && " EVALUATE " --tasks memory",
     .pages = "bootstrap-ordering",
     .all = {MISSED("savings_visible")}},
    {.name = "no-gain", .rows = "A8 E4", .profiles = NULL,
     .symptom = "decoding is not faster, or not fast enough",
     .cause = "the format has no fast kernel here, or the model is too small for weights to bind",
     .fix = "see which kernel runs, and try a format that has a faster one",
     .next = "qsweep doctor --model {model} --spec {spec} && " EVALUATE " --tasks latency,memory",
     .pages = "bootstrap-ordering",
     .all = {MISSED("latency_gain_pct")}},
    /* ---- the optimizer ---- */
    {.name = "optimizer", .rows = "B6 B13 B4 B17", .profiles = "bnb",
     .symptom = "the 8-bit optimizer's updates differ from the 32-bit one's, or are not finite",
     .cause = "no clamp on the variance, or gradients that are too large",
     .fix = "clamp the variance per block and the norm of gradients",
     .next = "qsweep train --compare --clamp 100 --clip 1",
     .pages = "logic-collapse entropy-collapse",
     .any = {MISSED("opt_var_pct"), MISSED("opt_loss_pct"), MISSED("opt_nonfinite")}},
    /* ---- what was asked ---- */
    {.name = "few-questions", .rows = "G10 A11 B10 E11", .profiles = NULL,
     .symptom = "fewer questions were asked than the page demands",
     .cause = "a quick probe, or a small gold set",
     .fix = "ask 20 for a probe, all of them for a verdict",
     .next = EVALUATE " --items 20",
     .pages = "rag-architecture-and-recovery",
     .any = {MISSED("qa_pairs"), MISSED("lambda_runs")}},
    {.name = "system", .rows = "G1 G2 A18", .profiles = "fp",
     .symptom = "the system misses gates before any quantisation",
     .cause = "encoder, gold set or prompt, not quantisation",
     .fix = "another encoder, an instruction in the prompt, more snippets, or a model trained for the task",
     .next = EVALUATE " --encoder minilm --instruct --k 10",
     .pages = "embedding-vs-semantic retrieval-playbook chunking-checklist",
     .any = {BASELINE("dS_QE"), BASELINE("anchor_gap"), BASELINE("cov_cited"), BASELINE("json_ok"),
             BASELINE("cite_ok"), BASELINE("lambda_conv")}},
    {0},
};

bool qs_rule_page(const qs_rule *rule, int n, char *text, size_t bytes)
{
    const char *at = rule->pages;
    for (; n > 0 && at != NULL; n--) {
        at = strchr(at, ' ');
        if (at != NULL) at++;
    }
    if (at == NULL || *at == '\0') return false;
    (void)snprintf(text, bytes, "https://github.com/onestardao/WFGY/blob/main/ProblemMap/%.*s.md",
                   (int)strcspn(at, " "), at);
    return true;
}

static void print_conditions(FILE *stream, const qs_condition *list, const char *between)
{
    static const char *const words[] = {[QS_IF_MISSED] = "misses its budget", [QS_IF_BASELINE] = "is BASELINE_FAIL",
                                        [QS_IF_ABOVE] = ">", [QS_IF_BELOW] = "<",
                                        [QS_IF_NOT_ABOVE] = "(if measured) <=",
                                        [QS_IF_ROSE] = "above the reference's by",
                                        [QS_IF_FELL] = "below the reference's by"};
    for (int i = 0; i < QS_RULE_CONDITIONS && list[i].kind != QS_IF_NONE; i++) {
        (void)fprintf(stream, "%s`%s` %s", i > 0 ? between : "", list[i].metric, words[list[i].kind]);
        if (list[i].kind != QS_IF_MISSED && list[i].kind != QS_IF_BASELINE)
            (void)fprintf(stream, " %g", list[i].limit);
    }
}

void qs_rules_print_markdown(FILE *stream)
{
    (void)fputs("| rule | rows | symptom | when | likely cause | fix | next |\n"
                "|---|---|---|---|---|---|---|\n", stream);
    for (const qs_rule *rule = qs_rules; rule->name != NULL; rule++) {
        bool both = rule->all[0].kind != QS_IF_NONE && rule->any[0].kind != QS_IF_NONE;
        (void)fprintf(stream, "| `%s` | %s%s%s | %s | ", rule->name, rule->rows,
                      rule->profiles != NULL ? ", only " : "", rule->profiles != NULL ? rule->profiles : "",
                      rule->symptom);
        print_conditions(stream, rule->all, " and ");
        (void)fprintf(stream, "%s", both ? ", and " : "");
        print_conditions(stream, rule->any, " or ");
        (void)fprintf(stream, " | %s | %s", rule->cause, rule->fix);
        char page[256];
        for (int i = 0; qs_rule_page(rule, i, page, sizeof page); i++)
            (void)fprintf(stream, "%s[%d](%s)", i == 0 ? " (" : " ", i + 1, page);
        (void)fprintf(stream, "%s | `%s` |\n", rule->pages != NULL ? ")" : "", rule->next);
    }
}
