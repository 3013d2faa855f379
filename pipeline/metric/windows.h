/* Evaluation windows: a text as token windows of one length, and which positions of a window are scored.
 * A perplexity means nothing without them, so every eval artifact carries them.
 *
 *   hf        the text tokenised once, BOS once at its start when the tokenizer adds one; every token of a window but
 *             the first is predicted (Frantar et al. 2022 and the Hugging Face guide on fixed-length models)
 *   llamacpp  the same, but the first token of every window is replaced by BOS, and only positions n_ctx / 2 to
 *             n_ctx - 2 predict, so that each scored token has seen at least half a window (llama-perplexity)
 *
 * Windows do not overlap; what is left at the end of the text is dropped. */
#ifndef QS_METRIC_WINDOWS_H
#define QS_METRIC_WINDOWS_H

#include "data/corpus.h"
#include "model/tokenizer.h"

typedef struct qs_protocol {
    const char *name, *text;
    bool bos_each_window, second_half;
} qs_protocol;
extern const qs_protocol qs_protocols[]; /* ends with name == NULL */
/* QS_E_USAGE names the ones there are. */
QS_MUST_CHECK qs_err qs_protocol_find(const qs_protocol **out, const char *name);

typedef struct qs_windows {
    const qs_protocol *protocol;
    const char *bos; /* "once", "window" or "none" */
    int64_t n_ctx, n_windows;
    int64_t first;    /* position in a window that makes the first scored prediction */
    int64_t n_scored; /* predictions per window, at positions first .. first + n_scored - 1 */
    int32_t *ids;     /* [n_windows, n_ctx] */
    qs_digest text;   /* of the text the tokens came from */
} qs_windows;

/* Cuts tokens without BOS. n_max: at most so many windows, 0 = all. bos < 0: the tokenizer adds none.
 * QS_E_INPUT names both lengths when the text is shorter than a window; QS_E_USAGE when nothing would be
 * scored. */
QS_MUST_CHECK qs_err qs_windows_cut(qs_windows *out, const qs_protocol *protocol, const int32_t *tokens,
                                    int64_t n_tokens, int64_t n_ctx, int64_t n_max, int32_t bos);
/* Tokenises and cuts. */
QS_MUST_CHECK qs_err qs_windows_from_corpus(qs_windows *out, const qs_protocol *protocol,
                                            const qs_tokenizer *tokenizer, const qs_corpus *corpus,
                                            int64_t n_ctx, int64_t n_max);
/* Some of the windows, in the order of which[n]. */
QS_MUST_CHECK qs_err qs_windows_pick(qs_windows *out, const qs_windows *windows, const int64_t *which, int64_t n);
void qs_windows_free(qs_windows *windows);

/* The true next tokens of the scored positions of a window: [n_scored], borrowed. */
const int32_t *qs_windows_targets(const qs_windows *windows, int64_t window);

#endif
