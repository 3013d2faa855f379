/* Checkpoints that someone else quantised, as candidates beside the model they were made from: directories of
 * GPTQModel, AutoGPTQ and AutoAWQ, and GGUF files. What a checkpoint says about itself is checked against
 * what it holds, and all that surrounds its linears (embedding, norms, biases, head) is its own. */
#ifndef QS_MODEL_CHECKPOINT_H
#define QS_MODEL_CHECKPOINT_H

#include "model/block.h"

typedef struct qs_checkpoint qs_checkpoint;

enum { QS_CHECKPOINT_TEXT_BYTES = 96 };

typedef struct qs_checkpoint_facts {
    char id[QS_CHECKPOINT_TEXT_BYTES];      /* the last part of its path, with what is odd in a file name replaced */
    char method[QS_CHECKPOINT_TEXT_BYTES];  /* "gptq", "awq", "gguf"; "dense" when nothing says that it is quantised */
    char variant[QS_CHECKPOINT_TEXT_BYTES]; /* "sym", "asym-act", "q4_1" */
    int64_t bits, group_size;               /* as the checkpoint says; 0 = it does not */
    int64_t n_linears, n_quantised;         /* of the blocks: all, and those that are stored in low bits */
    int64_t linear_bits;                    /* stored bits of all linears */
    int64_t head_bits;                      /* of a head that is not the embedding; 0 = it is */
    qs_digest digest;                       /* of its files */
} qs_checkpoint_facts;

/* Errors: QS_E_INPUT names file or tensor and cause: another model than `parent` (borrowed), shapes that do
 * not follow from the bits and the group size that it states. QS_E_UNSUPPORTED: a layout that is not read
 * here. */
QS_MUST_CHECK qs_err qs_checkpoint_open(qs_checkpoint **out, const char *path, const qs_model *parent);
void qs_checkpoint_close(qs_checkpoint *checkpoint); /* NULL is fine */

const qs_checkpoint_facts *qs_checkpoint_get_facts(const qs_checkpoint *checkpoint);

/* Embedding, norms, biases, head and tokenizer; its linears, and a head in low bits, are read through the source
 * alone. */
const qs_model *qs_checkpoint_model(const qs_checkpoint *checkpoint);

/* Holds one layer's matrices at a time. get() checks what it reads: QS_E_INPUT names the tensor (group index
 * out of range), QS_E_NUMERIC a scale that is no number. */
qs_linear_source qs_checkpoint_source(qs_checkpoint *checkpoint);

#endif
