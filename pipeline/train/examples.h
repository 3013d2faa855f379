/* Where examples come from: JSON Lines, one {"prompt": ..., "answer": ...} or {"text": ...} a line, or plain
 * text. Files are memory-mapped and tokenised when they are needed; example i is a function of the files, the
 * tokenizer and i.
 *
 * JSON Lines: BOS where the tokenizer adds it, prompt, answer and EOS; prompt and answer are tokenised apart,
 * as they are when the model is used. "more": [[prompt, answer], ...] holds further turns that see those
 * before them, each ended by EOS. Answers and their EOS weigh answer_weight, the rest 1. A {"text"} weighs 1.
 * Text (.md, .txt, or any file that does not end in .jsonl): windows of n_ctx tokens; each round through the
 * text begins at another token. */
#ifndef QS_TRAIN_EXAMPLES_H
#define QS_TRAIN_EXAMPLES_H

#include "model/tokenizer.h"
#include "train/batch.h"

typedef struct qs_examples qs_examples;

typedef struct qs_examples_options {
    int64_t n_ctx; /* longer examples are left out and counted */
    double answer_weight;
    bool shuffle; /* another order in each round, seeded; else that of the files */
    uint64_t seed;
} qs_examples_options;

/* `path`: a file or a directory, whose *.jsonl are taken, or else its text files, in name order. The
 * tokenizer is borrowed. QS_E_INPUT: missing, empty, not UTF-8, shorter than a window. */
QS_MUST_CHECK qs_err qs_examples_open(qs_examples **out, const char *path, const qs_tokenizer *tokenizer,
                                      const qs_examples_options *options);
void qs_examples_close(qs_examples *examples);

int64_t qs_examples_n(const qs_examples *examples); /* of one round */
bool qs_examples_have_answers(const qs_examples *examples);
qs_digest qs_examples_digest(const qs_examples *examples); /* of the files' bytes */
/* Another order, as if opened with shuffle and this seed; cursors start at 0 again. */
void qs_examples_reorder(qs_examples *examples, uint64_t seed);
/* Examples left out because they are longer than n_ctx, counted each time. */
int64_t qs_examples_n_too_long(const qs_examples *examples);

/* Fills a batch with the examples from *cursor on, which moves to the first that did not fit. With `end` >= 0
 * it stops there; a batch of 0 tokens then means that none is left. Errors: QS_E_INPUT names file and line. */
QS_MUST_CHECK qs_err qs_examples_fill(qs_examples *examples, int64_t *cursor, int64_t end, qs_batch *batch);

#endif
