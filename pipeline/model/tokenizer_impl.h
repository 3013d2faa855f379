/* The inside of a tokenizer, shared by its makers (tokenizer_json.c, tokenizer_gguf.c) and its user
 * (tokenizer.c). */
#ifndef QS_MODEL_TOKENIZER_IMPL_H
#define QS_MODEL_TOKENIZER_IMPL_H

#include "base/json.h"
#include "model/added.h"
#include "model/bpe.h"
#include "model/detokenizer.h"
#include "model/normalizer.h"
#include "model/pretokenizer.h"
#include "model/tokenizer.h"
#include "model/vocab.h"

/* Tokens that the post-processor puts on either side of a text. */
enum { QS_TEMPLATE_IDS_MAX = 16 };
typedef struct qs_template_side {
    int n;
    int32_t ids[QS_TEMPLATE_IDS_MAX];
} qs_template_side;

struct qs_tokenizer {
    qs_vocab vocab; /* of the BPE model; added tokens may lie outside */
    qs_added added;
    qs_normalizer normalizer;
    qs_pretokenizer pre;
    qs_bpe bpe;
    qs_detokenizer decoder;
    qs_template_side before, after;
    int64_t n_vocab; /* highest id + 1, added tokens included */
    int32_t bos, eos;
    qs_digest digest;
};

/* After all parts are made: the digest. */
QS_MUST_CHECK qs_err qs_tokenizer_seal(qs_tokenizer *tokenizer);

/* Steps of a tokenizer.json, read from their JSON objects (tokenizer_steps.c). NULL and null mean none. */
QS_MUST_CHECK qs_err qs_normalizer_read(qs_normalizer *out, const json_t *node, const char *name);
QS_MUST_CHECK qs_err qs_pretokenizer_read(qs_pretokenizer *out, const json_t *node, const char *name);
QS_MUST_CHECK qs_err qs_detokenizer_read(qs_detokenizer *out, const json_t *node, const char *name);

#endif
