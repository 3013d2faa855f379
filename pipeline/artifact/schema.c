#include "artifact/schema.h"

#include <string.h>

#define CALIB (1u << QS_KIND_CALIB)
#define QUANT (1u << QS_KIND_QUANT)
#define EVAL (1u << QS_KIND_EVAL)
#define ALL (CALIB | QUANT | EVAL)

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
    INT(CALIB, "/calibration/@n_distinct_tokens", "tokens", "positions of the text that at least one window covers"),
    REAL(ALL, "/calibration/@js_divergence", "bits", "unigram Jensen-Shannon divergence to the production sample"),
    REAL(ALL, "/calibration/@median_chars_ratio", "", "median document length over that of the production sample"),
    INT(ALL, "/calibration/@propagated", "", "1 when statistics were collected through quantised layers"),
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
    TEXT(QUANT, "/spec/@method", "rtn or gptq"),
    INT(QUANT, "/spec/@bits", "bit", "bits of a code"),
    INT(QUANT, "/spec/@group_size", "weights", "weights that share a scale; -1 = the whole row"),
    TEXT(QUANT, "/spec/@variant", "symmetry and order as in the id"),
    TEXT(QUANT, "/spec/@kernel", "version of the packed layout that the decode kernels expect"),
    REAL(QUANT, "/spec/@bpw", "bit", "stored bits of the quantised linears per weight"),
    REAL(QUANT, "/spec/@bpw_total", "bit", "stored bits per weight including embeddings, norms and head in f16"),
    INT(QUANT, "/spec/@bytes", "byte", "stored bytes of the deployed model"),
    INT(QUANT, "/layers/*/*/@n_out", "", "rows"),
    INT(QUANT, "/layers/*/*/@n_in", "", "columns"),
    TEXT(QUANT, "/layers/*/*/@encoding", "layout of codes: row bit stream, least significant bit first"),
    DATA(QUANT, "/layers/*/*/codes", QS_U8, 2, "[n_out, row_bytes]", "",
         "codes of one row after another, each row padded to a byte; column order is perm's when there is one"),
    DATA(QUANT, "/layers/*/*/scales", QS_F16, 2, "[n_out, n_groups]", "", "scale of each group"),
    DATA(QUANT, "/layers/*/*/zeros", QS_U8, 2, "[n_out, n_groups]", "code", "zero point; absent when symmetric (2^(bits-1))"),
    DATA(QUANT, "/layers/*/*/perm", QS_I32, 1, "[n_in]", "column", "stored column j is input channel perm[j]; absent = identity"),
    REAL(QUANT, "/layers/*/*/@loss", "", "tr((W - Q) H (W - Q)^T) / tr(W H W^T) with H from the calibration statistics"),
    REAL(QUANT, "/layers/*/*/@weight_error", "", "Frobenius norm of W - Q over that of W"),
    REAL(QUANT, "/layers/*/*/@damping", "", "fraction of the mean diagonal added to H; 0 for methods without H"),
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
    TEXT(EVAL, "/protocol/@name", "hf or llamacpp"),
    INT(EVAL, "/protocol/@n_ctx", "tokens", "window length"),
    INT(EVAL, "/protocol/@n_windows", "windows", "windows evaluated"),
    INT(EVAL, "/protocol/@n_scored", "tokens", "positions that entered the mean"),
    TEXT(EVAL, "/protocol/@bos", "how BOS was handled: once, window or none"),
    TEXT(EVAL, "/protocol/@text", "digest of the evaluation text"),
    TEXT(EVAL, "/protocol/@compute", "f32 or bf16: precision of large matrix products"),
    DATA(EVAL, "/tokens/ids", QS_I32, 2, "[n_windows, n_ctx]", "token id", "the windows"),
    DATA(EVAL, "/tokens/nll", QS_F32, 2, "[n_windows, n_scored_per_window]", "nat", "-ln p of the true next token"),
    DATA(EVAL, "/tokens/argmax", QS_I32, 2, "[n_windows, n_scored_per_window]", "token id", "most probable next token"),
    DATA(EVAL, "/tokens/entropy", QS_F32, 2, "[n_windows, n_scored_per_window]", "nat", "entropy of the next-token distribution"),
    DATA(EVAL, "/tokens/kld", QS_F32, 2, "[n_windows, n_scored_per_window]", "nat", "KL(reference || this) over the full vocabulary"),
    DATA(EVAL, "/reference/hidden", QS_F32, 3, "[n_windows, n_ctx, d_model]", "",
         "final hidden states of the reference, after the last norm"),
    REAL(EVAL, "/metrics/*/@value", "", "point estimate; the unit is the metric's"),
    REAL(EVAL, "/metrics/*/@lo", "", "lower end of the 95 % confidence interval"),
    REAL(EVAL, "/metrics/*/@hi", "", "upper end of the 95 % confidence interval"),
    INT(EVAL, "/metrics/*/@n", "", "independent units: windows, or samples"),
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
    REAL(EVAL, "/timing/@quantize_s", "s", "time that quantising took"),
    REAL(QUANT, "/timing/@quantize_s", "s", "time that quantising took"),
    DATA(EVAL, "/layers/loss", QS_F64, 2, "[n_layers, 7]", "", "loss of each matrix, copied from the quant artifact"),
    DATA(EVAL, "/dump/tokens", QS_I32, 2, "[n_windows, n_ctx]", "token id", "the windows"),
    DATA(EVAL, "/dump/logits", QS_F32, 3, "[n_windows, n_ctx, n_vocab]", "", "logits"),
    DATA(EVAL, "/dump/hidden", QS_F32, 3, "[n_windows, n_ctx, d_model]", "", "final hidden states"),
    DATA(EVAL, "/dump/embeddings", QS_F32, 2, "[n_lines, dim]", "", "embeddings of the lines of --embed"),

    /* provenance, in all kinds; written by the seal */
    TEXT(ALL, "/provenance/@created", "UTC time"),
    TEXT(ALL, "/provenance/@host", "host name"),
    TEXT(ALL, "/provenance/@command", "command line"),
    TEXT(ALL, "/provenance/@cpu", "CPU model"),
    INT(ALL, "/provenance/@n_threads", "", "threads"),
    TEXT(ALL, "/code/@version", "qsweep version"),
    {0},
};
