#include "metric/windows.h"

#include <string.h>

#include "base/mem.h"

const qs_protocol qs_protocols[] = {
    {"hf", "BOS once at the start of the text; all tokens of a window but the first are scored", false,
     false},
    {"llamacpp", "BOS in front of every window; the second half of a window is scored", true, true},
    {0},
};

qs_err qs_protocol_find(const qs_protocol **out, const char *name)
{
    for (const qs_protocol *protocol = qs_protocols; protocol->name != NULL; protocol++) {
        if (strcmp(protocol->name, name) != 0) continue;
        *out = protocol;
        return QS_OK;
    }
    return qs_fail(QS_E_USAGE, "protocol \"%s\": there are hf and llamacpp", name);
}

static qs_err fill(qs_windows *windows, const int32_t *tokens, int32_t bos, int64_t shift)
{
    int64_t n = windows->n_windows * windows->n_ctx;
    qs_err err = QS_NEW(windows->ids, n, "evaluation windows");
    if (err != QS_OK) return err;
    if (shift > 0) windows->ids[0] = bos;
    memcpy(windows->ids + shift, tokens, (size_t)(n - shift) * sizeof *tokens);
    if (windows->protocol->bos_each_window && bos >= 0)
        for (int64_t w = 0; w < windows->n_windows; w++) windows->ids[w * windows->n_ctx] = bos;
    return QS_OK;
}

qs_err qs_windows_cut(qs_windows *out, const qs_protocol *protocol, const int32_t *tokens, int64_t n_tokens,
                      int64_t n_ctx, int64_t n_max, int32_t bos)
{
    *out = (qs_windows){.protocol = protocol, .n_ctx = n_ctx};
    out->bos = bos < 0 ? "none" : protocol->bos_each_window ? "window" : "once";
    out->first = protocol->second_half ? n_ctx / 2 : 0;
    out->n_scored = n_ctx - 1 - out->first;
    if (out->n_scored < 1)
        return qs_fail(QS_E_USAGE, "cut windows of %lld tokens: protocol %s would score none of them",
                       (long long)n_ctx, protocol->name);
    int64_t shift = bos < 0 ? 0 : 1, n = n_tokens + shift; /* BOS is a token of the text */
    out->n_windows = n / n_ctx;
    if (out->n_windows < 1)
        return qs_fail(QS_E_INPUT,
                       "cut windows: the text has %lld tokens, a window needs %lld; give more text or a shorter --ctx",
                       (long long)n, (long long)n_ctx);
    if (n_max > 0 && out->n_windows > n_max) out->n_windows = n_max;
    return fill(out, tokens, bos, shift);
}

qs_err qs_windows_from_corpus(qs_windows *out, const qs_protocol *protocol, const qs_tokenizer *tokenizer,
                              const qs_corpus *corpus, int64_t n_ctx, int64_t n_max)
{
    qs_token_list tokens = {0};
    int32_t bos = qs_tokenizer_adds_bos(tokenizer) ? qs_tokenizer_bos(tokenizer) : -1;
    qs_err err;
    *out = (qs_windows){0};
    QS_TRY(qs_tokenizer_encode(tokenizer, corpus->text, corpus->bytes, false, &tokens));
    QS_TRY(qs_windows_cut(out, protocol, tokens.ids, tokens.n, n_ctx, n_max, bos));
    out->text = qs_corpus_digest(corpus);
out:
    qs_token_list_free(&tokens);
    return err;
}

qs_err qs_windows_pick(qs_windows *out, const qs_windows *windows, const int64_t *which, int64_t n)
{
    int64_t n_ctx = windows->n_ctx;
    *out = *windows;
    out->n_windows = n;
    out->ids = NULL;
    qs_err err = QS_NEW(out->ids, n * n_ctx, "windows");
    for (int64_t i = 0; i < n && err == QS_OK; i++)
        memcpy(out->ids + i * n_ctx, windows->ids + which[i] * n_ctx, (size_t)n_ctx * sizeof *out->ids);
    return err;
}

void qs_windows_free(qs_windows *windows)
{
    qs_mem_free(windows->ids);
    *windows = (qs_windows){0};
}

const int32_t *qs_windows_targets(const qs_windows *windows, int64_t window)
{
    return windows->ids + window * windows->n_ctx + windows->first + 1;
}
