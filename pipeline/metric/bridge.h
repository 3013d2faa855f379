/* BBCR, the fix of long texts (docs/fixes.md; checklist A14, E14): three steps of 8 tokens in a row at a distance
 * of .85 and more lead back to the best of the three, where a line that quotes and cites what the text is about is
 * put in, and the writing goes on. At most three times a text. */
#ifndef QS_METRIC_BRIDGE_H
#define QS_METRIC_BRIDGE_H

#include "metric/long_runs.h"
#include "rag/encoder.h"

enum { QS_BRIDGES_MAX = 3 };

/* tokens of out [n, n_steps]: what a decoder of one sequence, with room for prompt and n_steps, writes over prompts
 * [n] with bridges, which count as written; *n_bridges of all texts together. Errors of encoder, decoder and
 * tokenizer. */
QS_MUST_CHECK qs_err qs_bridge_write(qs_long_runs *out, qs_encoder *encoder, const qs_questions *questions,
                                     const qs_tokenizer *tokenizer, qs_decoder *decoder, const qs_token_list *prompts,
                                     int64_t n, int64_t n_steps, int64_t *n_bridges);

#endif
