/* How much the error of each matrix matters: its share of the KL divergence of next tokens when the matrices of
 * its half of a layer (attention, or MLP) have errors and all others are as they were. Losses (qs_quant_result) are
 * shares of a matrix's own output; what becomes of that in the residual stream and in the layers behind differs
 * between matrices by orders of magnitude.
 *
 * Two streams for every layer go through the model: they leave the reference's at their layer, with the matrices of one
 * half perturbed, and are held against it after the head. What the layers behind make of an error in the residual
 * stream is much the same wherever in the half it came from, so the divergence is shared out by what each matrix alone
 * does to the stream right behind the layer: the mean over tokens of |error|^2 / |state|^2. A stream of its own for
 * every matrix would be three times the work. */
#ifndef QS_QUANT_SENSITIVITY_H
#define QS_QUANT_SENSITIVITY_H

#include "model/block.h"

/* Of the calibration's tokens: few are enough to tell orders of magnitude apart. */
enum {
    QS_SENSITIVITY_WINDOWS = 2,
    QS_SENSITIVITY_CTX = 128,
    QS_SENSITIVITY_TOKENS = QS_SENSITIVITY_WINDOWS * QS_SENSITIVITY_CTX,
};

typedef struct qs_sensitivity qs_sensitivity;

/* tokens [n_windows, n_ctx] (host) are copied. */
QS_MUST_CHECK qs_err qs_sensitivity_create(qs_sensitivity **out, qs_backend *backend, const qs_model *model,
                                           const int32_t *tokens, int64_t n_windows, int64_t n_ctx);
void qs_sensitivity_destroy(qs_sensitivity *sensitivity); /* NULL is fine */
size_t qs_sensitivity_bytes(const qs_model_config *config, int64_t n_tokens);
/* Multiply-adds of all layers and the head, with `layer_weights` in the linears of a layer. */
double qs_sensitivity_cost(const qs_model_config *config, int64_t n_tokens, double layer_weights);

/* One layer after the other; perturbed[role]: the matrix with its errors. QS_E_USAGE out of order. */
QS_MUST_CHECK qs_err qs_sensitivity_layer(qs_sensitivity *sensitivity, int64_t layer,
                                          const qs_packed *const perturbed[QS_N_LINEARS]);

/* After the last layer: divergence[n_layers * QS_N_LINEARS], shares of means over all tokens in nats. */
QS_MUST_CHECK qs_err qs_sensitivity_finish(qs_sensitivity *sensitivity, double *divergence);

#endif
