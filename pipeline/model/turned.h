/* A model whose residual stream is rotated (model/rotation.h) and that computes what its origin computes:
 * RMSNorm without weights does not see a rotation, so norms are folded into the linears behind them, whose
 * columns are turned with the stream, as are the rows of the linears that write to it, the embedding and the
 * head, which is no longer tied to it.
 *
 * It is a qs_model like any other, whose weights are made from the origin's as they are read: in f32, in
 * storage f32, with all norms in the stream's way ones. Norms, embedding and head of it go with linears that
 * were quantised in its basis (qs_linear_source.outer). */
#ifndef QS_MODEL_TURNED_H
#define QS_MODEL_TURNED_H

#include "model/rotation.h"
#include "model/weights.h"

/* Made at the first call and kept by the model, which owns it: not to be closed. QS_E_UNSUPPORTED when the
 * stream's width cannot be rotated, or a linear lies in the layout of a quantised checkpoint. */
QS_MUST_CHECK qs_err qs_model_turn(qs_model *model, qs_model **out);

/* Of a turned model; NULL for any other. */
const qs_rotation *qs_model_rotation(const qs_model *model);
/* What a turned model was made from; any other model itself. */
const qs_model *qs_model_origin(const qs_model *model);

/* Final hidden states [n, d_model] (host) of a turned model as its origin has them, in place; those of any
 * other model stay. */
QS_MUST_CHECK qs_err qs_model_turn_back(const qs_model *model, float *hidden, int64_t n);

#endif
