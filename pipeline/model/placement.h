/* Placement: the bytes of each part of a deployed model, and which parts go on a device of a given budget.
 * Arithmetic on the configuration alone; nothing is opened or allocated. */
#ifndef QS_MODEL_PLACEMENT_H
#define QS_MODEL_PLACEMENT_H

#include <stdio.h>

#include "model/config.h"

typedef struct qs_placement_request {
    double linear_bits;   /* stored bits per weight of a block's linears, scales and zeros included */
    double dense_bits;    /* per weight of embedding and head */
    int64_t batch, n_ctx; /* sequences at once, and tokens that each may reach */
    size_t device_bytes;  /* budget on the device; 0 = there is none */
    size_t host_bytes;    /* budget on the host */
} qs_placement_request;

typedef enum qs_placement_kind {
    QS_PLACE_DEVICE, /* everything on the device */
    QS_PLACE_SPLIT,  /* the first layers on the device, the rest and the head on the host */
    QS_PLACE_HOST,   /* everything on the host */
    QS_PLACE_STREAM, /* too large to be resident: block by block through the host's memory, no decoding */
    QS_PLACE_NONE,   /* not even one block fits */
    QS_N_PLACEMENTS
} qs_placement_kind;
const char *qs_placement_name(qs_placement_kind kind); /* "device", "split", ... */

typedef struct qs_placement {
    qs_placement_kind kind;
    int64_t n_layers, n_device_layers;
    /* bytes of one of each */
    size_t block_bytes;   /* linears as stored, norms and biases in f32 */
    size_t kv_bytes;      /* of one layer, in f32 */
    size_t embed_bytes;   /* 0 when tied: then the head serves for both */
    size_t head_bytes;    /* with the final norm */
    size_t scratch_bytes; /* activations, logits; on every side that computes */
    size_t staging_bytes; /* the largest linear in f32, on the host when streaming */
    size_t device_bytes, host_bytes; /* sums of what is placed there */
} qs_placement;

/* The embedding always stays on the host: a token needs one row of it. A layer's cache lies beside the layer. */
void qs_placement_plan(qs_placement *out, const qs_model_config *config, const qs_placement_request *request);

/* One line per part (part, count, bytes each, where), then the sums against the budgets. */
void qs_placement_print(const qs_placement *placement, const qs_placement_request *request, FILE *stream);

#endif
