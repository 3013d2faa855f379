/* Tokenizers: byte-level BPE (GPT-2, Llama-3, Qwen2, SmolLM2 pre-tokenisers) and SPM-style BPE with byte
 * fallback, from a Hugging Face tokenizer.json or from GGUF metadata. Token-exact against the `tokenizers`
 * library (sources: the tokenizer.json pipeline, added tokens -> normaliser -> pre-tokeniser -> BPE ->
 * post-processor; GGUF keys tokenizer.ggml.*). */
#ifndef QS_MODEL_TOKENIZER_H
#define QS_MODEL_TOKENIZER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "base/hash.h"
#include "base/span.h"

typedef struct qs_tokenizer qs_tokenizer;

/* From the text of a tokenizer.json; `name` is its path in error texts. A tokenizer.json of a kind that is
 * not supported is QS_E_UNSUPPORTED and names the component; a broken one is QS_E_INPUT. */
QS_MUST_CHECK qs_err qs_tokenizer_from_json(qs_tokenizer **out, const char *text, size_t bytes,
                                            const char *name);

/* The pieces of GGUF metadata that make a tokenizer; borrowed only during the call. */
typedef struct qs_gguf_vocab {
    const char *model; /* "gpt2" or "llama" */
    const char *pre;   /* "smollm", "llama-bpe", "qwen2", "gpt-2", ...; NULL when absent */
    int64_t n_vocab;
    const char *const *tokens;  /* [n_vocab], with lengths: tokens may hold any byte */
    const int64_t *token_bytes; /* [n_vocab] */
    const int32_t *types;       /* [n_vocab] or NULL: 1 normal 2 unknown 3 control 4 user 5 unused 6 byte */
    const float *scores;        /* [n_vocab] or NULL; needed by "llama" */
    int64_t n_merges;
    const char *const *merges;  /* [n_merges] "left right" */
    const int64_t *merge_bytes; /* [n_merges] */
    int32_t bos_id, eos_id, unknown_id; /* -1 when absent */
    int add_bos;          /* -1 = the default of `model` and `pre` */
    int add_space_prefix; /* -1 = default (1 for "llama") */
} qs_gguf_vocab;
QS_MUST_CHECK qs_err qs_tokenizer_from_gguf(qs_tokenizer **out, const qs_gguf_vocab *vocab, const char *name);

void qs_tokenizer_destroy(qs_tokenizer *tokenizer);

/* Takes bos_token and eos_token from the text of the tokenizer_config.json that lies beside a tokenizer.json,
 * which itself does not say which tokens begin and end a text: without this call the first token of its
 * template counts as BOS and the first of the usual names among its special tokens as EOS. Errors: QS_E_INPUT
 * when the named token does not exist. */
QS_MUST_CHECK qs_err qs_tokenizer_apply_config(qs_tokenizer *tokenizer, const char *text, size_t bytes,
                                               const char *name);

/* Appends the tokens of UTF-8 `text` to a growing array (qs_token_list_free frees it). Added tokens are
 * recognised. `specials`: apply the post-processor (BOS/EOS template). Invalid UTF-8 is QS_E_INPUT with the
 * byte offset. Thread-safe on one tokenizer. */
typedef struct qs_token_list {
    int64_t n, capacity;
    int32_t *ids;
} qs_token_list;
QS_MUST_CHECK qs_err qs_tokenizer_encode(const qs_tokenizer *tokenizer, const char *text, size_t bytes,
                                         bool specials, qs_token_list *list);
/* The same without the post-processor, and without special tokens in the guarded stretches [n_guarded], which are in
 * order: what a user wrote into a template cannot end its turn. Special tokens elsewhere are recognised as they are
 * written. */
QS_MUST_CHECK qs_err qs_tokenizer_encode_guarded(const qs_tokenizer *tokenizer, const char *text, size_t bytes,
                                                 const qs_span *guarded, int64_t n_guarded, qs_token_list *list);
/* Appends BOS where the tokenizer adds it: what a prompt begins with that is put together from pieces. */
QS_MUST_CHECK qs_err qs_tokenizer_begin(const qs_tokenizer *tokenizer, qs_token_list *list);
void qs_token_list_free(qs_token_list *list);

/* UTF-8 text of the tokens (NUL-terminated, qs_mem_free): byte-level or SPM decoding, invalid sequences
 * become U+FFFD; `skip_specials` leaves out special added tokens. */
QS_MUST_CHECK qs_err qs_tokenizer_decode(const qs_tokenizer *tokenizer, const int32_t *ids, int64_t n_ids,
                                         bool skip_specials, char **text);

int64_t qs_tokenizer_n_vocab(const qs_tokenizer *tokenizer);
int32_t qs_tokenizer_bos(const qs_tokenizer *tokenizer);    /* -1 when there is none */
int32_t qs_tokenizer_eos(const qs_tokenizer *tokenizer);    /* -1 when there is none */
bool qs_tokenizer_adds_bos(const qs_tokenizer *tokenizer);
int32_t qs_tokenizer_find(const qs_tokenizer *tokenizer, const char *token); /* literal entry: id or -1 */
/* An added token as it is written, owned by the tokenizer; "" where there is none. */
const char *qs_tokenizer_spelling(const qs_tokenizer *tokenizer, int32_t id);

/* Digest of what determines the tokens (vocabulary, merges, rules): equal tokenizers, equal digest. */
qs_digest qs_tokenizer_digest(const qs_tokenizer *tokenizer);

#endif
