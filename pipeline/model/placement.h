/* Placement: the bytes of each part of a deployed model, and which parts go on a device of a given budget. Arithmetic
 * on the configuration, and on what backends say that they will keep (model/resident.h); nothing is opened or
 * allocated. */
#ifndef QS_MODEL_PLACEMENT_H
#define QS_MODEL_PLACEMENT_H

#include <stdbool.h>
#include <stdio.h>

#include "base/error.h"
#include "model/config.h"

/* What a backend will keep of a model's matrices, and its scratch, whatever the layers that it gets. */
typedef struct qs_placement_weights {
    size_t *layers; /* [n_layers] the linears of each */
    size_t head;
    size_t workspace, head_workspace; /* and more of it with the head */
} qs_placement_weights;

typedef struct qs_placement_request {
    double linear_bits;   /* stored bits per weight of a block's linears, scales and zeros included */
    double dense_bits;    /* per weight of embedding and head */
    int64_t batch, n_ctx; /* sequences at once, and tokens that each may reach */
    int64_t n_more_logits; /* of all sequences, that the decoder's user keeps beside its own */
    size_t device_bytes;  /* budget on the device; 0 = there is none */
    size_t host_bytes;    /* budget on the host */
    const qs_placement_weights *device, *host; /* NULL = nothing is known but the bits */
    int64_t first_layer;  /* in their layers: of a configuration whose first ones are placed already */
} qs_placement_request;

enum { QS_DEVICES_MAX = 8 };

void qs_placement_weights_free(qs_placement_weights *weights);

/* Where the user wants layers to go. All zero: as many of them on the devices as fit, on each before the next. */
typedef struct qs_device_map {
    bool fixed;          /* layers were asked for */
    int64_t n_layers;    /* on devices, from the first on */
    int64_t n_devices;   /* that they are shared out to; 0 and 1 = one */
    int64_t layers[QS_DEVICES_MAX]; /* of each, where there are several */
    size_t budget_bytes; /* most bytes that a model may hold on each; 0 = what is free */
} qs_device_map;
/* Layers of a fixed map on its i-th device; 0 behind the last. */
int64_t qs_device_map_layers(const qs_device_map *map, int64_t i);
/* map: "auto", "cpu" or "N:layers", once for each device, with commas between; budget: bytes, or "4G" (also K, M, T;
 * powers of 1024), NULL = no limit. */
QS_MUST_CHECK qs_err qs_device_map_parse(qs_device_map *out, const char *map, const char *budget);

/* The options' rows in a stage's table of arguments. */
#define QS_ARGS_DEVICE_MAP(map, budget)                                                                           \
    {"device-map", QS_ARG_STRING, (map), "MAP", "auto, cpu or N:layers (on the GPU), M:layers (on the next) ...", \
     0, 0, false},                                                                                                \
    {"vram-budget", QS_ARG_STRING, (budget), "BYTES", "most of a GPU's memory to hold: 4G, 800M", 0, 0, false}

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
    size_t block_bytes, host_block_bytes; /* linears as kept on each side, in the mean; norms and biases in f32 */
    size_t kv_bytes;      /* of one layer, in f32 */
    size_t embed_bytes;   /* 0 when tied: then the head serves for both */
    size_t head_bytes, host_head_bytes; /* as kept on each side, with the final norm */
    size_t logits_bytes;  /* beside the head */
    size_t scratch_bytes; /* activations; on every side that computes */
    size_t staging_bytes; /* the largest linear in f32, on the host when streaming */
    size_t workspace_bytes;      /* of the device's kernels */
    size_t head_workspace_bytes; /* more of it when the head is there too */
    size_t device_bytes, host_bytes; /* sums of what is placed there */
} qs_placement;

/* The embedding always stays on the host: a token needs one row of it. A layer's cache lies beside the layer. */
void qs_placement_plan(qs_placement *out, const qs_model_config *config, const qs_placement_request *request);

/* The same with the first n_device_layers on the device, whether they fit or not. */
void qs_placement_fix(qs_placement *out, const qs_model_config *config, const qs_placement_request *request,
                      int64_t n_device_layers);
/* What the i-th of several devices takes of the layers that are left (config.n_layers of `left`): those that the map
 * gives it or, where it leaves the choice, as many as fit, and no more than `limit`. What is behind them is for the
 * devices that follow, then for the host, so host_bytes of the request does not count. */
void qs_placement_take(qs_placement *out, const qs_model_config *left, const qs_placement_request *request,
                       const qs_device_map *map, int64_t i, int64_t limit);
bool qs_placement_fits(const qs_placement *placement, const qs_placement_request *request);

/* In one line: "20 of 30 layers on the device (3.1 GiB), 10, norm and head on the host (1.2 GiB)". */
enum { QS_PLACEMENT_TEXT_BYTES = 160 };
char *qs_placement_format(char text[QS_PLACEMENT_TEXT_BYTES], const qs_placement *placement);

/* Puts in front of an error of memory which plan would fit the request with fewer layers on the device than
 * n_tried; a no-op for other codes. Returns `code`. */
qs_err qs_placement_context(qs_err code, const qs_model_config *config, const qs_placement_request *request,
                            int64_t n_tried);

/* What there is of a model and where it goes; how many rows, which are those with any bytes. */
typedef struct qs_placement_part {
    const char *name;
    int64_t n;
    size_t bytes; /* of one */
    const char *where;
} qs_placement_part;
enum { QS_PLACEMENT_PARTS_MAX = 9 };
int qs_placement_parts(qs_placement_part parts[QS_PLACEMENT_PARTS_MAX], const qs_placement *placement);

/* One line per part (part, count, bytes each, where), then the sums against the budgets. */
void qs_placement_print(const qs_placement *placement, const qs_placement_request *request, FILE *stream);
/* The same lines to the log. */
void qs_placement_log(const qs_placement *placement, const qs_placement_request *request);

#endif
