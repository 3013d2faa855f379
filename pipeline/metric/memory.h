/* Memory of a deployed point, measured on a backend that holds nothing else: before, after loading, and the
 * most while prompting and decoding. "Savings visible" answers the question whether the low-bit weights
 * really are what was loaded (bitsandbytes page, checklist B7). */
#ifndef QS_METRIC_MEMORY_H
#define QS_METRIC_MEMORY_H

#include "metric/metrics.h"
#include "model/forward.h"
#include "model/placement.h"

/* What is taken from a GPU, its driver's context included; all 0 where none is used. */
typedef struct qs_vram_use {
    size_t before_bytes, after_load_bytes, peak_bytes;
    /* Parts of what is taken after decoding. */
    size_t weights_bytes, kv_bytes, workspace_bytes, context_bytes;
} qs_vram_use;

typedef struct qs_memory_use {
    size_t before_bytes, after_load_bytes, peak_bytes; /* of the backends' allocators, device and host together */
    qs_vram_use vram;
    size_t rss_peak_bytes;                             /* of the process; 0 = unknown */
    size_t expected_bytes, measured_bytes;             /* of the weights */
    int64_t n_linears, n_quantised;                    /* seen while loading; n_linears = 0: the reference */
} qs_memory_use;

/* A model loaded as it would be deployed, on a backend of its own, and on others where it is split. */
typedef struct qs_deployment {
    qs_backend *backend;
    qs_backend *more[QS_DEVICES_MAX - 1]; /* of the devices behind the first, NULL where none is needed */
    qs_backend *host; /* NULL unless layers are on the host while the backend has a device */
    qs_decoder *decoder;
    qs_placement placement; /* meaningful where the backend has a device: of what the first device takes and leaves */
    int64_t layers[QS_DEVICES_MAX]; /* on each device */
    int64_t n_loads; /* plans that were tried: 1 unless memory ran out that was free before */
    qs_memory_use use;
} qs_deployment;

typedef struct qs_deployment_options {
    const char *backend;
    int64_t device;
    int n_threads;
    int64_t n_ctx_cap;
    int64_t batch; /* sequences; 0 = 1 */
    size_t expected_bytes;
    /* Products on a device as good as f32, for answers, instead of 16-bit activations, as served and timed. */
    bool exact;
    /* Of all sequences, that the caller keeps on the decoder's backend; to place the rest beside. */
    int64_t n_more_logits;
    qs_device_map map;
} qs_deployment_options;

/* linears NULL = the reference, in 16 bits: bf16 when the file holds that, else f16. A model that does not fit on the
 * device is split: over the devices numbered after it, as far as there are any, then the host. The plan is logged
 * before it is loaded; QS_E_RESOURCE names a plan that would fit where the map leaves no choice. */
QS_MUST_CHECK qs_err qs_deployment_create(qs_deployment *out, const qs_model *model,
                                          const qs_linear_source *linears,
                                          const qs_deployment_options *options);
void qs_deployment_destroy(qs_deployment *deployment);

/* Reads the peaks; to be called after the decoder has worked. */
void qs_deployment_measure(qs_deployment *deployment);

/* The metrics under /timing; savings_visible only for a quantised point. */
QS_MUST_CHECK qs_err qs_memory_put(qs_artifact *artifact, const qs_memory_use *use);

#endif
