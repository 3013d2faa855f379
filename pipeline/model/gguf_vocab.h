/* The tokenizer metadata of a GGUF file, copied out of it: what makes a tokenizer, and what tokenizer.json is
 * made of. */
#ifndef QS_MODEL_GGUF_VOCAB_H
#define QS_MODEL_GGUF_VOCAB_H

#include "model/gguf.h"
#include "model/tokenizer.h"

typedef struct qs_gguf_tokens {
    qs_gguf_vocab vocab; /* n_vocab = 0: the file carries no vocabulary. Texts point into the file */
    char model[64], pre[64];
    const char **tokens, **merges;
    int64_t *token_bytes, *merge_bytes;
    int32_t *types;
    float *scores;
    char *text; /* of merges and padding that came from a tokenizer.json */
} qs_gguf_tokens;

/* Errors: QS_E_INPUT names the key. On failure *out is empty. */
QS_MUST_CHECK qs_err qs_gguf_tokens_read(qs_gguf_tokens *out, const qs_gguf *gguf, const char *name);
void qs_gguf_tokens_free(qs_gguf_tokens *tokens);

/* The vocabulary of a tokenizer.json (`root`, which must outlive *out) that `tokenizer` was read from, filled
 * up to n_vocab tokens with padding. QS_E_UNSUPPORTED when GGUF has no name for its way of cutting text. */
QS_MUST_CHECK qs_err qs_gguf_tokens_from_json(qs_gguf_tokens *out, json_t *root, const qs_tokenizer *tokenizer,
                                              int64_t n_vocab, const char *name);

/* A tokenizer.json that gives the same tokens; json_decref. Errors: QS_E_UNSUPPORTED for a vocabulary that
 * qs_tokenizer_from_gguf would refuse too, QS_E_INPUT for a token that is not UTF-8. (Source: the pipeline of
 * tokenizer.json in the `tokenizers` library; order of the merges of a SentencePiece vocabulary: by falling score.) */
QS_MUST_CHECK qs_err qs_tokenizer_json_from_gguf(json_t **out, const qs_gguf_vocab *vocab, const char *name);

#endif
