/* What other matrices do to the output of a decoder block: some tokens of the calibration go through the model in
 * full precision, and at each layer a candidate's output is held against the reference's.
 *
 * The loss of a token is |y' - y|^2 / |y|^2 of the residual stream y behind the block, since whatever reads it divides
 * by its size first; the loss of a candidate is the mean over tokens. */
#ifndef QS_QUANT_BLOCK_LOSS_H
#define QS_QUANT_BLOCK_LOSS_H

#include "model/block.h"

/* Of the calibration's tokens. */
enum {
    QS_BLOCK_LOSS_WINDOWS = 8,
    QS_BLOCK_LOSS_CTX = 128,
    QS_BLOCK_LOSS_TOKENS = QS_BLOCK_LOSS_WINDOWS * QS_BLOCK_LOSS_CTX,
};

typedef struct qs_block_loss qs_block_loss;

/* tokens [n_windows, n_ctx] (host) are not kept. */
QS_MUST_CHECK qs_err qs_block_loss_create(qs_block_loss **out, qs_backend *backend, const qs_model *model,
                                          const int32_t *tokens, int64_t n_windows, int64_t n_ctx);
void qs_block_loss_destroy(qs_block_loss *losses); /* NULL is fine */

/* Streams, scratch and a block, on the backend and the host. */
size_t qs_block_loss_bytes(const qs_model *model, int64_t n_tokens);

/* One layer after the other: its output in full precision. QS_E_USAGE out of order. */
QS_MUST_CHECK qs_err qs_block_loss_layer(qs_block_loss *losses, int64_t layer);

/* The loss of the layer with linears [n_out, n_in] (host, as they act on unscaled inputs) in place of the model's; of
 * `changed` roles (1u << role) the weights differ from those of the last call in this layer. */
QS_MUST_CHECK qs_err qs_block_loss_measure(qs_block_loss *losses, float *const linears[QS_N_LINEARS],
                                           unsigned changed, double *loss);

#endif
