/* WordPiece as BERT encoders use it, from a tokenizer.json: BertNormalizer, BertPreTokenizer, greedy longest match with
 * "##" for what continues a word, and the two special tokens around the text. Token-exact against the `tokenizers`
 * library (scripts/peers/compare_minilm.py). */
#ifndef QS_RAG_WORDPIECE_H
#define QS_RAG_WORDPIECE_H

#include "base/hash.h"
#include "model/tokenizer.h"

typedef struct qs_wordpiece qs_wordpiece;

/* `text` is a tokenizer.json, `name` its path in error texts. QS_E_UNSUPPORTED names a component that is none of these;
 * QS_E_INPUT: broken. */
QS_MUST_CHECK qs_err qs_wordpiece_from_json(qs_wordpiece **out, const char *text, size_t bytes, const char *name);
void qs_wordpiece_destroy(qs_wordpiece *wordpiece);

/* list = at most n_max >= 2 ids, the special ones included: what is longer loses its end. QS_E_INPUT: not UTF-8.
 * Thread-safe on one qs_wordpiece. */
QS_MUST_CHECK qs_err qs_wordpiece_encode(const qs_wordpiece *wordpiece, const char *text, size_t bytes, int64_t n_max,
                                         qs_token_list *list);

int64_t qs_wordpiece_n_vocab(const qs_wordpiece *wordpiece); /* highest id + 1 */

#endif
