#include "artifact/schema.h"

#include <string.h>

#define CALIB (1u << QS_KIND_CALIB)
#define QUANT (1u << QS_KIND_QUANT)
#define EVAL (1u << QS_KIND_EVAL)
#define TRAIN (1u << QS_KIND_TRAIN)
#define OPTIM (1u << QS_KIND_OPTIM)
#define EMBED (1u << QS_KIND_EMBED)
#define ALL (CALIB | QUANT | EVAL | TRAIN | OPTIM | EMBED)

#define DATA(kinds, path, dtype, rank, dims, unit, text) \
    {kinds, path, QS_CELL_DATASET, dtype, rank, dims, unit, text, false}
#define DATA_NAN(kinds, path, dtype, rank, dims, unit, text) \
    {kinds, path, QS_CELL_DATASET, dtype, rank, dims, unit, text, true}
#define INT(kinds, path, unit, text) {kinds, path, QS_CELL_INT, QS_I64, 0, "", unit, text, false}
#define REAL(kinds, path, unit, text) {kinds, path, QS_CELL_REAL, QS_F64, 0, "", unit, text, false}
#define TEXT(kinds, path, text) {kinds, path, QS_CELL_TEXT, QS_U8, 0, "", "", text, false}

const qs_schema_row qs_schema_rows[] = {
    TEXT(ALL, "/model/@name", "base name of the model's path"),
    TEXT(ALL, "/model/@architecture", "llama, mistral, qwen2 or qwen3"),
    TEXT(ALL, "/model/@storage", "commonest storage type of the linears in the model file"),
    INT(ALL, "/model/@lattice", "", "1 when the reference's weights already sit on a low-bit lattice"),
    INT(ALL, "/model/@n_layers", "", "decoder blocks"),
    INT(ALL, "/model/@d_model", "", "width of the residual stream"),
    INT(ALL, "/model/@n_weights", "weights", "weights of the quantisable linears"),
    INT(ALL, "/model/@n_weights_total", "weights", "all weights, a tied head counted once"),
    TEXT(ALL, "/model/@tokenizer", "digest of the tokenizer"),

    /* calibrate */
    INT(ALL, "/calibration/@n_samples", "samples", "windows drawn from the text"),
    INT(ALL, "/calibration/@seqlen", "tokens", "length of a window"),
    INT(CALIB, "/calibration/@seed", "", "seed of the window positions"),
    INT(CALIB, "/calibration/@n_text_tokens", "tokens", "length of the calibration text"),
    INT(CALIB, "/calibration/@n_distinct_tokens", "tokens",
        "positions of the text that at least one window covers"),
    REAL(ALL, "/calibration/@js_divergence", "bits",
         "unigram Jensen-Shannon divergence to the production sample"),
    REAL(ALL, "/calibration/@median_chars_ratio", "",
         "median document length over that of the production sample"),
    INT(ALL, "/calibration/@propagated", "", "1 when statistics were collected through quantised layers"),
    TEXT(CALIB, "/calibration/@compute", "f32 or bf16: precision of the layers' products"),
    TEXT(CALIB, "/calibration/@propagate_spec", "the spec whose quantised layers were propagated"),
    DATA(CALIB, "/calibration/tokens", QS_I32, 2, "[n_samples, seqlen]", "token id", "the windows"),
    DATA(CALIB, "/calibration/length_histogram", QS_I64, 1, "[n_bins]", "documents",
         "documents by length, bin i holds 2^i to 2^(i+1) - 1 characters"),
    INT(CALIB, "/layers/*/*/@n_tokens", "tokens", "rows that entered the statistics"),
    DATA(CALIB, "/layers/*/*/gram", QS_F32, 1, "[n_in * (n_in + 1) / 2]", "",
         "sum over tokens of x x^T, upper triangle by rows; the second-moment matrix of this site's input"),
    DATA(CALIB, "/layers/*/*/abs_mean", QS_F32, 1, "[n_in]", "", "mean over tokens of |x|"),
    DATA(CALIB, "/layers/*/*/abs_max", QS_F32, 1, "[n_in]", "", "maximum over tokens of |x|"),

    /* quantize */
    TEXT(QUANT, "/spec/@id", "canonical id"),
    TEXT(QUANT, "/spec/@text", "canonical spec string with every key"),
    TEXT(QUANT, "/spec/@method", "how codes were chosen, and their format"),
    INT(QUANT, "/spec/@bits", "bit", "bits of a code"),
    INT(QUANT, "/spec/@group_size", "weights",
        "weights that share a scale; -1 = the whole row; of nf4 and fp4 a block of the flattened matrix"),
    TEXT(QUANT, "/spec/@variant", "the rest of the id: symmetry and order, or dq and compute"),
    TEXT(QUANT, "/spec/@kernel", "version of the packed layout that the decode kernels expect"),
    REAL(QUANT, "/spec/@bpw", "bit", "stored bits of the blocks' linears per weight; the output head is not counted"),
    REAL(QUANT, "/spec/@bpw_total", "bit",
         "stored bits per weight including embedding, norms and head"),
    INT(QUANT, "/spec/@bytes", "byte", "stored bytes of the deployed model"),
    REAL(QUANT, "/spec/@budget_bpw", "bit", "bits per weight that were shared out among the matrices"),
    INT(QUANT, "/spec/@linear_bits", "bit", "stored bits of all linears, where matrices have sizes of their own"),
    INT(QUANT, "/rotation/@seed", "", "of the rotation of the residual stream that the linears are coded in"),
    TEXT(QUANT, "/rotation/@digest", "XXH3-128 of the rotation's numbers (model/rotation.h)"),
    REAL(QUANT, "/spec/@predicted_loss", "", "with a budget: mean of the matrices' predicted losses"),
    INT(QUANT, "/layers/*/*/@n_out", "", "rows"),
    INT(QUANT, "/layers/*/*/@n_in", "", "columns"),
    TEXT(QUANT, "/layers/*/*/@encoding", "layout of codes: row bit stream, least significant bit first"),
    DATA(QUANT, "/layers/*/*/codes", QS_U8, 2, "[n_out, row_bytes]", "",
         "codes of one row after another, each row padded to a byte; column order is perm's if there is one"),
    INT(QUANT, "/layers/*/*/@bits", "bit", "bits of a code, where matrices have their own"),
    INT(QUANT, "/layers/*/*/@group_size", "weights", "weights that share a scale, where matrices have their own"),
    INT(QUANT, "/layers/*/*/@n_groups", "", "groups of EXL2"),
    DATA(QUANT, "/layers/*/*/groups", QS_I32, 2, "[n_groups, 2]", "",
         "EXL2: first stored column of each group and bits of its codes"),
    DATA(QUANT, "/layers/*/*/scale_codes", QS_U8, 2, "[n_out, n_groups]", "code",
         "EXL2: c of the scale f16((c + 1)^2 f16(scale_max / 256))"),
    DATA(QUANT, "/layers/*/*/scale_max", QS_F16, 1, "[n_groups]", "", "EXL2: largest scale of each group"),
    DATA(QUANT, "/layers/*/*/scales", QS_F16, 2, "[n_out, n_groups]", "", "scale of each group"),
    DATA(QUANT, "/layers/*/*/zeros", QS_U8, 2, "[n_out, n_groups]", "code",
         "zero point; absent when symmetric (2^(bits-1))"),
    DATA(QUANT, "/layers/*/*/perm", QS_I32, 1, "[n_in]", "column",
         "stored column j is input channel perm[j]; absent = identity"),
    DATA(QUANT, "/layers/*/*/folded", QS_F32, 1, "[n]", "",
         "of a norm or bias: what stands in for the model's own, since a scaling or rotation is folded"),
    DATA(QUANT, "/layers/*/*/absmax", QS_F32, 1, "[n_absmax]", "",
         "nf4, fp4: largest magnitude of each block of the flattened matrix; int8: of each row"),
    DATA(QUANT, "/layers/*/*/absmax_codes", QS_U8, 1, "[n_absmax]", "",
         "instead of absmax when double-quantised: index into the signed dynamic map of 256 entries"),
    DATA(QUANT, "/layers/*/*/nested_absmax", QS_F32, 1, "[ceil(n_absmax / 256)]", "",
         "largest magnitude of 256 block maxima less their mean"),
    REAL(QUANT, "/layers/*/*/@nested_offset", "", "mean of the block maxima, an f32 number"),
    REAL(QUANT, "/layers/*/*/@loss", "",
         "tr((W - Q) H (W - Q)^T) / tr(W H W^T) with H from the calibration statistics"),
    REAL(QUANT, "/layers/*/*/@predicted_loss", "",
         "with a budget: the loss of a sample of rows, by which this matrix got its share"),
    REAL(QUANT, "/layers/*/*/@weight_error", "", "Frobenius norm of W - Q over that of W"),
    REAL(QUANT, "/layers/*/*/@damping", "",
         "fraction of the mean diagonal added to H; 0 for methods without H"),
    INT(QUANT, "/layers/*/*/@fallback", "", "1 when the solver gave up and RTN was used"),

    /* evaluate */
    TEXT(EVAL, "/config/@id", "config column: spec id, or fp for the reference"),
    TEXT(EVAL, "/config/@method", "method, or fp"),
    INT(EVAL, "/config/@bits", "bit", "bits of a code; 0 for the reference"),
    INT(EVAL, "/config/@group_size", "weights", "weights that share a scale"),
    TEXT(EVAL, "/config/@variant", "variant"),
    REAL(EVAL, "/config/@bpw", "bit", "stored bits of the linears per weight"),
    REAL(EVAL, "/config/@bpw_total", "bit", "stored bits per weight of the whole model"),
    INT(EVAL, "/config/@bytes", "byte", "stored bytes of the deployed model"),
    INT(EVAL, "/checkpoint/@n_linears", "", "linears of the blocks of a checkpoint that someone else made"),
    INT(EVAL, "/checkpoint/@n_quantised", "", "those of them that are stored in low bits"),
    TEXT(EVAL, "/checkpoint/@tokenizer", "same as the model's, none, or where it differs"),
    TEXT(EVAL, "/protocol/@name", "hf or llamacpp"),
    INT(EVAL, "/protocol/@n_ctx", "tokens", "window length"),
    INT(EVAL, "/protocol/@n_windows", "windows", "windows evaluated"),
    INT(EVAL, "/protocol/@n_scored", "tokens", "positions that entered the mean"),
    TEXT(EVAL, "/protocol/@bos", "how BOS was handled: once, window or none"),
    TEXT(EVAL, "/protocol/@text", "digest of the evaluation text"),
    INT(EVAL, "/race/@n_windows", "windows",
        "of a race (--race): windows that the point was read on before it was decided"),
    INT(EVAL, "/race/@n_windows_all", "windows", "windows that there were"),
    TEXT(EVAL, "/race/@decision", "accepted or dropped after n_windows, or whole: undecided to the end"),
    TEXT(EVAL, "/race/@missed", "metric whose budget was missed for certain, of a point that was dropped"),
    REAL(EVAL, "/race/@error", "", "share of points that may be decided wrongly (metric/race.h)"),
    TEXT(EVAL, "/race/@tokens", "digest of the token ids of all windows"),
    TEXT(EVAL, "/race/@rules", "digest of budgets, error and seed that decided"),
    TEXT(EVAL, "/protocol/@compute", "f32 or bf16: precision of large matrix products"),
    INT(EVAL, "/protocol/@seed", "", "seed of the bootstrap's draws"),
    DATA(EVAL, "/tokens/ids", QS_I32, 2, "[n_windows, n_ctx]", "token id", "the windows"),
    DATA(EVAL, "/tokens/nll", QS_F32, 2, "[n_windows, n_scored_per_window]", "nat",
         "-ln p of the true next token"),
    DATA(EVAL, "/tokens/argmax", QS_I32, 2, "[n_windows, n_scored_per_window]", "token id",
         "most probable next token"),
    DATA(EVAL, "/tokens/entropy", QS_F32, 2, "[n_windows, n_scored_per_window]", "nat",
         "entropy of the next-token distribution"),
    DATA(EVAL, "/tokens/kld", QS_F32, 2, "[n_windows, n_scored_per_window]", "nat",
         "KL(reference || this) over the full vocabulary"),
    DATA(EVAL, "/reference/hidden", QS_F32, 3, "[n_windows, n_ctx, d_model]", "",
         "final hidden states of the reference, after the last norm"),
    REAL(EVAL | OPTIM, "/metrics/*/@value", "", "point estimate; the unit is the metric's"),
    REAL(EVAL | OPTIM, "/metrics/*/@lo", "", "lower end of the 95 % confidence interval"),
    REAL(EVAL | OPTIM, "/metrics/*/@hi", "", "upper end of the 95 % confidence interval"),
    INT(EVAL | OPTIM, "/metrics/*/@n", "", "independent units: windows, or samples"),
    REAL(EVAL, "/fixes/*/*/@value", "", "a metric of the configuration's answers with a fix (--fix)"),
    REAL(EVAL, "/fixes/*/*/@lo", "", "lower end of its 95 % confidence interval"),
    REAL(EVAL, "/fixes/*/*/@hi", "", "upper end of its 95 % confidence interval"),
    REAL(EVAL, "/timing/*/@value", "", "point estimate of a latency or memory metric"),
    REAL(EVAL, "/timing/*/@lo", "", "lower end of the 95 % confidence interval"),
    REAL(EVAL, "/timing/*/@hi", "", "upper end of the 95 % confidence interval"),
    INT(EVAL, "/timing/*/@n", "", "samples"),
    DATA(EVAL, "/timing/decode_ms", QS_F64, 1, "[n_samples]", "ms", "time of each decoded token"),
    DATA(EVAL, "/timing/reference_decode_ms", QS_F64, 1, "[n_samples]", "ms",
         "time of each decoded token of the reference, interleaved with the above"),
    TEXT(EVAL, "/timing/@backend", "backend that was timed"),
    TEXT(EVAL, "/timing/@device", "CPU or GPU model"),
    TEXT(EVAL, "/timing/@kernel", "kernel set that decoded"),
    INT(EVAL, "/timing/@n_threads", "", "threads"),
    TEXT(EVAL, "/timing/@placement", "what lay on the GPU and what on the host while timed"),
    TEXT(EVAL, "/timing/@clocks", "of a GPU: its clocks and what held them down, right after it was timed"),
    REAL(EVAL, "/timing/@forward_s", "s",
         "time of this point's way through the blocks, loading of weights included"),
    REAL(EVAL, "/timing/@score_s", "s",
         "time of this point's head and statistics; the reference's head is shared alike"),
    REAL(EVAL, "/timing/@quantize_s", "s", "time that quantising took"),
    REAL(QUANT, "/timing/@quantize_s", "s", "time that quantising took"),
    DATA(EVAL, "/layers/loss", QS_F64, 2, "[n_layers, 7]", "",
         "loss of each matrix of the blocks, copied from the quant artifact"),
    TEXT(EVAL, "/protocol/@questions", "digest of gold set, corpus and settings of the questions"),
    INT(EVAL, "/qa/@n_items", "items", "gold items that were asked"),
    INT(EVAL, "/qa/@k", "snippets", "snippets in a prompt"),
    INT(EVAL, "/qa/@n_tokens_max", "tokens", "limit of an answer"),
    TEXT(EVAL, "/qa/@headers", "of the snippets in a prompt: canonical, shuffled or removed"),
    REAL(EVAL, "/qa/@temperature", "", "of the runs with seeds"),
    INT(EVAL, "/qa/@instruct", "", "1 when prompts began with the instruction"),
    TEXT(EVAL, "/qa/@chat", "chat template of the prompts; absent for plain ones"),
    DATA(EVAL, "/qa/qids", QS_U8, 1, "[n_bytes]", "text", "ids of the items, a line each"),
    DATA(EVAL, "/qa/questions", QS_U8, 1, "[n_bytes]", "text", "wordings of the items' questions, a line each"),
    DATA(EVAL, "/qa/snippets", QS_U8, 1, "[n_bytes]", "text",
         "the corpus's snippets without their text, a line of JSON each"),
    DATA(EVAL, "/answers/ranked", QS_I64, 2, "[n_prompts, k]", "snippet",
         "snippets in each prompt, best first; prompts are items times four wordings"),
    INT(EVAL, "/qa/@rerank", "", "1 when the model under test re-ranked what was retrieved"),
    DATA(EVAL, "/answers/ranks", QS_I32, 3, "[n_prompts, 20, 4]", "",
         "snippets retrieved, best first: snippet, rank in the pool, by BM25 and by the encoder (0 = not in that "
         "list); -1 behind the last"),
    DATA(EVAL, "/answers/scores", QS_F64, 3, "[n_prompts, 20, 4]", "",
         "of these: score of the order, BM25, cosine, reciprocal ranks fused"),
    DATA(EVAL, "/answers/runs", QS_I32, 2, "[n_runs, 14]", "",
         "of each run: item, wording (0 = the question), seed (-1 = greedy), tokens of prompt and answer, why it "
         "stopped (eos, line, limit, nonfinite), 1 when the JSON is right, citations, those in the prompt, those of "
         "the anchor, selected snippet, 1 when the anchor was offered, 1 when the claim is in it, 1 when it refuses"),
    DATA_NAN(EVAL, "/answers/coverage", QS_F64, 1, "[n_runs]", "",
             "share of the anchor's words in cited snippets; NaN without an anchor"),
    DATA(EVAL, "/answers/texts", QS_U8, 1, "[n_bytes]", "text", "answers, a line each"),
    TEXT(EVAL, "/semantic/@encoder", "in whose space distances are measured"),
    TEXT(EVAL, "/semantic/@encoder_digest", "of its weights, vocabulary and rules"),
    TEXT(EVAL, "/semantic/@index_hash", "of corpus, encoder and rules of retrieval"),
    TEXT(EVAL, "/semantic/@corpus_hash", "of the corpus alone: its snippets and their revisions"),
    DATA_NAN(EVAL, "/semantic/rows", QS_F64, 2, "[n_prompts, 6]", "",
             "of each wording: dS_QE, dS_EA, dS_QA, dS_AR, anchor_gap, cov_retr10; NaN without an anchor"),
    DATA(EVAL, "/semantic/lambda", QS_I32, 2, "[n_items, 6]", "",
         "state of each run, paraphrase by paraphrase: 0 ->, 1 <>, 2 <-, 3 x; -1 without an anchor"),
    DATA(EVAL, "/probe/states", QS_I32, 3, "[n_items, 3, 4]", "",
         "λ of a question with 5, 10 and 20 snippets, and headers canonical, shuffled with seeds 1 and 2, removed; "
         "-1 = none"),
    DATA(EVAL, "/probe/runs", QS_I32, 2, "[n_items * 12, 14]", "", "the same in the columns of /answers/runs"),
    DATA(EVAL, "/probe/texts", QS_U8, 1, "[n_bytes]", "text", "its answers, a line each"),
    INT(EVAL, "/qa/@n_long_tokens", "tokens", "length of the long texts"),
    DATA(EVAL, "/longform/qids", QS_U8, 1, "[n_bytes]", "text", "ids of the long-form questions, a line each"),
    DATA(EVAL, "/longform/tokens", QS_I32, 2, "[n_longforms, n_steps]", "token id", "what was written, greedily"),
    DATA(EVAL, "/longform/entropy", QS_F32, 2, "[n_longforms, n_steps]", "nat", "along the reference's text"),
    DATA(EVAL, "/longform/delta", QS_F64, 2, "[n_longforms, n_steps / 8]", "",
         "distance of the text written so far to its question and snippets, every 8 tokens"),
    DATA(EVAL, "/longform/lambda", QS_I32, 2, "[n_longforms, n_steps / 8]", "",
         "its state: 0 convergent, 1 recursive, 2 divergent, 3 chaotic"),
    DATA(EVAL, "/longform/kld", QS_F32, 2, "[n_longforms, n_steps]", "nat", "KL(reference || this) along it"),
    DATA(EVAL, "/longform/free_entropy", QS_F32, 2, "[n_longforms, n_steps]", "nat", "along the text written"),
    DATA(EVAL, "/wordings/tokens", QS_I32, 2, "[n_prompts, n_steps]", "token id",
         "the reference's greedy answer to each wording; -1 behind its end"),
    DATA_NAN(EVAL, "/wordings/entropy", QS_F32, 2, "[n_prompts, n_steps]", "nat",
             "along it, over the reference's prompt; NaN behind its end"),
    DATA(EVAL, "/wordings/stable", QS_I32, 1, "[n_prompts]", "",
         "1 when this answer's curve is stable against the reference's, -1 for an empty answer"),
    REAL(EVAL, "/timing/@entropy_s", "s", "time of long texts, loading included"),
    REAL(EVAL, "/timing/@answers_s", "s", "time of retrieval, prompts and answers, loading included"),
    DATA(EVAL, "/dump/tokens", QS_I32, 2, "[n_windows, n_ctx]", "token id", "the windows"),
    DATA(EVAL, "/dump/logits", QS_F32, 3, "[n_windows, n_ctx, n_vocab]", "", "logits"),
    DATA(EVAL, "/dump/hidden", QS_F32, 3, "[n_windows, n_ctx, d_model]", "", "final hidden states"),
    TEXT(EVAL, "/dump/@encoder", "of the embeddings"),
    TEXT(EVAL, "/dump/@embedded", "digest of encoder and lines"),
    DATA(EVAL, "/dump/embeddings", QS_F32, 2, "[n_lines, dim]", "", "embeddings of the lines of --embed"),

    /* kept by evaluate, so that texts of a gold set are encoded once */
    TEXT(EMBED, "/encoder/@name", "the encoder"),
    TEXT(EMBED, "/encoder/@digest", "of its weights, vocabulary and rules"),
    TEXT(EMBED, "/encoder/@kernels", "what computed; other kernels round otherwise"),
    DATA(EMBED, "/embeddings/digests", QS_I64, 2, "[n_texts, 2]", "", "XXH3-128 of a text, low and high half"),
    DATA(EMBED, "/embeddings/vectors", QS_F32, 2, "[n_texts, dim]", "", "its vector, of length 1"),

    /* train */
    TEXT(TRAIN, "/training/@settings",
         "what determines the result, as text: a checkpoint goes on with the same alone"),
    INT(TRAIN, "/training/@step", "steps", "steps done"),
    INT(TRAIN, "/training/@cursor", "examples", "the next example of the corpus, counted over its rounds"),
    INT(TRAIN, "/training/@n_tokens", "tokens", "tokens seen"),
    DATA(TRAIN, "/training/curve", QS_F64, 2, "[n_steps, 3]", "",
         "of each step: weighted mean loss, learning rate, norm of the gradient before clipping"),
    DATA(TRAIN, "/training/validation", QS_F64, 2, "[n_validations, 5]", "",
         "step, perplexity, perplexity of answers, share of tokens predicted, share of answers predicted "
         "whole"),
    DATA(TRAIN, "/parameters", QS_F32, 1, "[n_parameters]", "",
         "tensor after tensor: embeddings, blocks, last norm"),
    DATA(TRAIN, "/optimizer/m", QS_F32, 1, "[n_32bit]", "", "first moments of the tensors that keep 32 bits"),
    DATA(TRAIN, "/optimizer/v", QS_F32, 1, "[n_32bit]", "", "second moments of these"),
    DATA(TRAIN, "/optimizer/m_codes", QS_U8, 1, "[n_8bit]", "code",
         "first moments, signed dynamic map, blocks of 256"),
    DATA(TRAIN, "/optimizer/v_codes", QS_U8, 1, "[n_8bit]", "code", "second moments, unsigned dynamic map"),
    DATA(TRAIN, "/optimizer/m_scales", QS_F32, 1, "[n_scales]", "", "largest magnitude of each block"),
    DATA(TRAIN, "/optimizer/v_scales", QS_F32, 1, "[n_scales]", "", "the same of the second moments"),
    DATA(TRAIN, "/optimizer/v_average", QS_F32, 1, "[n_blocks]", "", "moving averages of the variance clamp"),

    /* train --compare */
    TEXT(OPTIM, "/comparison/@settings", "what determines the runs, as text"),
    TEXT(OPTIM, "/comparison/@gated",
         "the setting whose figures are gated: plain, clip, clamp or clip-clamp"),
    INT(OPTIM, "/comparison/@n_seeds", "seeds", "pairs of runs of each setting"),
    INT(OPTIM, "/comparison/@n_steps", "steps", "steps of a run"),
    INT(OPTIM, "/comparison/@n_last", "steps", "steps whose losses and updates are compared, the last ones"),
    INT(OPTIM, "/comparison/@n_parameters", "weights", "weights of the model"),
    INT(OPTIM, "/comparison/@base_bits", "bit", "of the moments of the optimizer that is compared with"),
    INT(OPTIM, "/comparison/@bits", "bit", "of the moments of the other"),
    INT(OPTIM, "/comparison/@base_state_bytes", "byte", "optimizer state of the one that is compared with"),
    INT(OPTIM, "/comparison/@state_bytes", "byte", "optimizer state of the other"),
    DATA_NAN(OPTIM, "/arms/*/loss", QS_F64, 2, "[n_seeds, n_steps]", "nat",
             "weighted mean loss; NaN after a failure"),
    DATA_NAN(OPTIM, "/arms/*/gradient_norm", QS_F64, 2, "[n_seeds, n_steps]", "", "before clipping"),
    DATA_NAN(OPTIM, "/arms/*/summary", QS_F64, 2, "[n_seeds, 7]", "",
             "mean loss of the last steps, held-out perplexity, mean and variance of their updates, largest loss over "
             "the median of the 50 before it, starved weights, 1 when it failed"),
    REAL(OPTIM, "/settings/*/*/@value", "", "estimate of a figure under this setting"),
    REAL(OPTIM, "/settings/*/*/@lo", "", "lower end of its 95 % confidence interval"),
    REAL(OPTIM, "/settings/*/*/@hi", "", "upper end of its 95 % confidence interval"),

    /* in all kinds, written by the seal */
    TEXT(ALL, "/@kind", "calib, quant, eval, train or optim"),
    INT(ALL, "/@schema_version", "", "version of this schema"),
    TEXT(ALL, "/@digest", "content digest: an identity of everything outside /provenance and /timing"),
    INT(ALL, "/@complete", "", "1; a file without it was not finished"),
    TEXT(ALL, "/parents/@*", "content digest of the input with this role: model, calib, quant, baseline"),
    TEXT(ALL, "/provenance/parents/@*", "name of the input with this role"),
    TEXT(ALL, "/provenance/@created", "UTC time"),
    TEXT(ALL, "/provenance/@host", "host name"),
    TEXT(ALL, "/provenance/@command", "command line"),
    TEXT(ALL, "/provenance/@cpu", "CPU model"),
    INT(ALL, "/provenance/@n_threads", "", "threads"),
    TEXT(ALL, "/provenance/@backend", "backend that computed"),
    TEXT(ALL, "/provenance/@device", "CPU or GPU model"),
    TEXT(ALL, "/provenance/@kernels", "its kernels; of a GPU also driver, runtime and compute capability"),
    TEXT(ALL, "/provenance/@clocks",
         "of a GPU: its clocks and what held them down, when the artifact was begun"),
    TEXT(ALL, "/provenance/@version", "qsweep version"),
    {0},
};

static const struct {
    const char *name, *stage, *file;
} kinds[QS_N_KINDS] = {
    [QS_KIND_CALIB] = {"calib", "qsweep-calibrate", "calib.h5"},
    [QS_KIND_QUANT] = {"quant", "qsweep-quantize", "SPEC-ID.quant.h5"},
    [QS_KIND_EVAL] = {"eval", "qsweep-evaluate", "ID.eval.h5"},
    [QS_KIND_TRAIN] = {"train", "qsweep-train", "MODEL.train.h5"},
    [QS_KIND_OPTIM] = {"optim", "qsweep-train --compare", "NAME.optim.h5"},
    [QS_KIND_EMBED] = {"embed", "qsweep-evaluate", "ENCODER.embed.h5"},
};

const char *qs_artifact_kind_name(qs_artifact_kind kind) { return kinds[kind].name; }

const char *qs_artifact_kind_stage(qs_artifact_kind kind) { return kinds[kind].stage; }

const char *qs_cell_name(qs_cell cell)
{
    static const char *const names[] = {
        [QS_CELL_DATASET] = "dataset",
        [QS_CELL_INT] = "int",
        [QS_CELL_REAL] = "real",
        [QS_CELL_TEXT] = "text",
    };
    return names[cell];
}

/* "*" takes a whole segment (or what follows its "@"), which must be a plain name: no space, since the
 * manifest separates by spaces; no "@" in front, since that marks an attribute. */
static bool wildcard_takes(const char *segment, size_t bytes)
{
    if (bytes == 0 || segment[0] == '@' ||
        (segment[0] == '.' && (bytes == 1 || (bytes == 2 && segment[1] == '.'))))
        return false;
    for (size_t i = 0; i < bytes; i++)
        if (segment[i] <= ' ' || segment[i] > '~') return false;
    return true;
}

static bool segment_matches(const char *pattern, size_t pattern_bytes, const char *segment, size_t bytes)
{
    if (pattern_bytes > 0 && pattern[pattern_bytes - 1] == '*') {
        size_t fixed = pattern_bytes - 1;
        return bytes > fixed && memcmp(pattern, segment, fixed) == 0 &&
               wildcard_takes(segment + fixed, bytes - fixed);
    }
    return bytes == pattern_bytes && memcmp(pattern, segment, bytes) == 0;
}

static bool path_matches(const char *pattern, const char *path)
{
    while (*pattern == '/' && *path == '/') {
        pattern++;
        path++;
        size_t pattern_bytes = strcspn(pattern, "/"), bytes = strcspn(path, "/");
        if (!segment_matches(pattern, pattern_bytes, path, bytes)) return false;
        pattern += pattern_bytes;
        path += bytes;
    }
    return *pattern == '\0' && *path == '\0';
}

const qs_schema_row *qs_schema_find(qs_artifact_kind kind, const char *path)
{
    if (strlen(path) >= QS_SCHEMA_PATH_BYTES) return NULL;
    for (const qs_schema_row *row = qs_schema_rows; row->path != NULL; row++)
        if ((row->kinds & (1u << kind)) != 0 && path_matches(row->path, path)) return row;
    return NULL;
}

/* A vertical bar would end a table cell. */
static void print_cell(FILE *stream, const char *text)
{
    (void)fputs(" ", stream);
    for (const char *c = text; *c != '\0'; c++) (void)fprintf(stream, *c == '|' ? "\\%c" : "%c", *c);
    (void)fputs(" |", stream);
}

static void print_row(FILE *stream, const qs_schema_row *row)
{
    (void)fprintf(stream, "| `%s` | %s | %s |", row->path,
                  row->cell == QS_CELL_DATASET ? qs_dtype_name(row->dtype) : qs_cell_name(row->cell),
                  row->dims[0] != '\0' ? row->dims : "");
    print_cell(stream, row->unit);
    print_cell(stream, row->text);
    (void)fputs("\n", stream);
}

static void print_table(FILE *stream, bool shared, unsigned kind_bit)
{
    const unsigned all = (1u << QS_N_KINDS) - 1;
    (void)fputs("| path | type | shape | unit | what |\n|---|---|---|---|---|\n", stream);
    for (const qs_schema_row *row = qs_schema_rows; row->path != NULL; row++)
        if ((row->kinds == all) == shared && (row->kinds & kind_bit) != 0) print_row(stream, row);
}

static const char intro[] =
    "# Artifacts\n\n"
    "Generated from `pipeline/artifact/schema.c` by `make docs`; edit the rows there.\n\n"
    "An artifact is an HDF5 file (1.10 format, little-endian). A path that ends in `/@name` is an attribute\n"
    "of the object before it; `*` stands for a name. Datasets of 4 KiB and more are chunked (about 1 MiB,\n"
    "whole rows) and pass shuffle (not u8 and i8), zstd level 1 (filter 32015) and fletcher32. Each dataset\n"
    "has the attribute `digest`, the XXH3-128 of its little-endian bytes in row-major order, and `unit`\n"
    "where it has one. Beside the matrices and sites of the layers, `/layers/outer/lm_head` has the same of the\n"
    "output head and its input.\n\n"
    "What varies from run to run is under `/provenance` and `/timing`; everything else enters the content\n"
    "digest `/@digest`, which stands for the artifact wherever it is an input (`/parents`): equal inputs,\n"
    "equal digest. It is the XXH3-128 of the line `qsweep KIND schema VERSION` and of one line\n"
    "`PATH TYPE [D0,D1] DIGEST` per dataset and attribute, sorted bytewise, where TYPE is the element type,\n"
    "`int`, `real` or `text`. The root's own attributes and those named `digest` and `unit` of datasets\n"
    "have no line.\n\n"
    "## Opening one with h5py\n\n"
    "```python\n"
    "import h5py, hdf5plugin            # hdf5plugin brings the zstd filter\n"
    "with h5py.File(\"calib.h5\") as f:\n"
    "    print(f.attrs[\"kind\"].decode(), f.attrs[\"digest\"].decode())\n"
    "    f.visititems(print)\n"
    "```\n\n"
    "Texts are of fixed length and come as bytes (`.decode()`). f16 comes as `float16`, bf16 as `float32`,\n"
    "converted exactly. `scripts/peers/check_artifact.py FILE` recomputes every digest. For h5dump, h5diff\n"
    "and h5repack: `make plugin`, then `HDF5_PLUGIN_PATH=build/plugin h5dump FILE`; without it h5dump\n"
    "prints empty data and exits with 0. qsweep reads only files with its own filters, so recompressed\n"
    "ones are refused.\n";

void qs_schema_print_markdown(FILE *stream)
{
    (void)fputs(intro, stream);
    (void)fputs("\n## Rows of all kinds\n\n", stream);
    print_table(stream, true, ~0u);
    for (unsigned kind = 0; kind < QS_N_KINDS; kind++) {
        (void)fprintf(stream, "\n## %s (%s, from %s)\n\n", kinds[kind].name, kinds[kind].file,
                      kinds[kind].stage);
        print_table(stream, false, 1u << kind);
    }
}
