/* Second moments of a turned model's inputs (model/turned.h) from those of its origin, without another
 * calibration: where the stream comes in through a norm of weights D, the input x becomes x D^-1 Q, and H
 * becomes Q^T D^-1 H D^-1 Q. Inputs of o_proj and down_proj are what they were. */
#ifndef QS_QUANT_TURNED_GRAMS_H
#define QS_QUANT_TURNED_GRAMS_H

#include "quant/quant_run.h"

typedef struct qs_turned_grams qs_turned_grams;

/* with_head: the head's input is asked for too. QS_E_UNSUPPORTED names the norm and the channel of a weight that is
 * 0, of whose input the origin's second moments know nothing. */
QS_MUST_CHECK qs_err qs_turned_grams_check(const qs_model *turned, bool with_head);

/* Of a model that passes the check. Everything is borrowed. */
QS_MUST_CHECK qs_err qs_turned_grams_create(qs_turned_grams **out, const qs_model *turned,
                                            const qs_gram_source *origin);
void qs_turned_grams_destroy(qs_turned_grams *grams); /* NULL is fine */
size_t qs_turned_grams_bytes(const qs_model *model);

/* Mean sizes of rotated inputs do not follow from those of the origin: they are taken as those of normal
 * numbers with the same second moments, which sums of many channels nearly are. */
qs_gram_source qs_turned_grams_source(qs_turned_grams *grams);

#endif
