/* What rows of one table must share. */
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "report/config_row.h"

bool qs_frame_is_chat(const qs_frame *frame) { return frame->chat[0] != '\0' && strcmp(frame->chat, "none") != 0; }

static qs_err differ(const qs_config_row *a, const qs_config_row *b, const char *what, const char *x,
                     const char *y)
{
    return qs_fail(QS_E_INPUT,
                   "report %s and %s together: %s differs (%s, %s); evaluate them alike or report them apart",
                   a->path, b->path, what, x, y);
}

static bool same_digest(qs_digest a, qs_digest b) { return a.low == b.low && a.high == b.high; }

qs_err qs_config_row_check_same_frame(const qs_config_row *a, const qs_config_row *b)
{
    const qs_frame *x = &a->frame, *y = &b->frame;
    char first[QS_DIGEST_TEXT_BYTES], second[QS_DIGEST_TEXT_BYTES];
    if (strcmp(x->model, y->model) != 0) return differ(a, b, "the model", x->model, y->model);
    if (!same_digest(x->model_digest, y->model_digest))
        return differ(a, b, "the model's content", qs_digest_format(first, x->model_digest),
                      qs_digest_format(second, y->model_digest));
    const struct {
        const char *what, *x, *y;
        bool measured; /* empty where it was not */
    } texts[] = {
        {"the tokenizer", x->tokenizer, y->tokenizer, false},
        {"the protocol", x->protocol, y->protocol, false},
        {"the BOS rule", x->bos, y->bos, false},
        {"the evaluation text", x->text, y->text, false},
        {"the compute precision", x->compute, y->compute, false},
        {"the encoder", x->encoder, y->encoder, true},
        {"the chat template of prompts", x->chat, y->chat, true},
    };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        if (strcmp(texts[i].x, texts[i].y) != 0 &&
            !(texts[i].measured && (texts[i].x[0] == '\0' || texts[i].y[0] == '\0')))
            return differ(a, b, texts[i].what, texts[i].x, texts[i].y);
    const struct {
        const char *what;
        int64_t x, y;
    } counts[] = {
        {"the window length", x->n_ctx, y->n_ctx},
        {"the number of windows", x->n_windows, y->n_windows},
        {"the number of scored tokens", x->n_scored, y->n_scored},
    };
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        (void)snprintf(first, sizeof first, "%" PRId64, counts[i].x);
        (void)snprintf(second, sizeof second, "%" PRId64, counts[i].y);
        if (counts[i].x != counts[i].y) return differ(a, b, counts[i].what, first, second);
    }
    if (x->has_tokens && y->has_tokens && !same_digest(x->tokens, y->tokens))
        return differ(a, b, "the digest of the token windows", qs_digest_format(first, x->tokens),
                      qs_digest_format(second, y->tokens));
    return QS_OK;
}
