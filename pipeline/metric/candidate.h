/* What is held against the reference: a quant artifact of ours, or a checkpoint that someone else made. Both
 * are a source of linears, and are evaluated by the same code. */
#ifndef QS_METRIC_CANDIDATE_H
#define QS_METRIC_CANDIDATE_H

#include "model/checkpoint.h"
#include "quant/quant_file.h"

typedef enum qs_candidate_kind { QS_CANDIDATE_NONE, QS_CANDIDATE_QUANT, QS_CANDIDATE_CHECKPOINT } qs_candidate_kind;

/* One of the two, or none: the reference. */
typedef struct qs_candidate {
    qs_quant_file *quant;
    qs_checkpoint *checkpoint;
} qs_candidate;

/* Errors as qs_quant_file_open and qs_checkpoint_open. */
QS_MUST_CHECK qs_err qs_candidate_open(qs_candidate *out, qs_candidate_kind kind, const char *path, qs_model *model);
void qs_candidate_close(qs_candidate *candidate);

/* The head that its logits come from: the reference's, that of the rotated model, which all rotated points share, or
 * its own. The last two are held beside the reference's, each as large. */
typedef enum qs_candidate_head { QS_HEAD_REFERENCE, QS_HEAD_ROTATED, QS_HEAD_OWN } qs_candidate_head;

/* What identifies it, without holding it open: id[QS_SPEC_ID_BYTES] and digest; and its head. */
QS_MUST_CHECK qs_err qs_candidate_identify(qs_candidate_kind kind, const char *path, qs_model *model, char *id,
                                           qs_digest *digest, qs_candidate_head *head);

qs_linear_source qs_candidate_source(const qs_candidate *candidate);
qs_quant_size qs_candidate_size(const qs_candidate *candidate, const qs_model *model);
/* The model whose embedding, norms and head surround its linears: a checkpoint's own, the rotated one of a
 * rotated point, else `model`. */
const qs_model *qs_candidate_model(const qs_candidate *candidate, const qs_model *model);

/* "gptq": whose budgets it is held against. */
const char *qs_candidate_method(const qs_candidate *candidate);

/* /config except the id, and /checkpoint: what it says of itself, and whether its tokenizer does as the model's on
 * text[0..bytes) (NULL = a built-in text alone); a difference is also a warning. */
QS_MUST_CHECK qs_err qs_candidate_put_config(const qs_candidate *candidate, const qs_model *model, const char *text,
                                             size_t bytes, qs_artifact *artifact);

#endif
