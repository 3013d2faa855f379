/* Memory of a deployed point, measured on a backend that holds nothing else: before, after loading, and the
 * most while prompting and decoding. "Savings visible" answers the question whether the low-bit weights
 * really are what was loaded (bitsandbytes page, checklist B7). */
#ifndef QS_METRIC_MEMORY_H
#define QS_METRIC_MEMORY_H

#include "metric/metrics.h"
#include "model/forward.h"

typedef struct qs_memory_use {
    size_t before_bytes, after_load_bytes, peak_bytes; /* of the backend's allocator */
    size_t rss_peak_bytes;                             /* of the process; 0 = unknown */
    size_t expected_bytes, measured_bytes;             /* of the weights */
    int64_t n_linears, n_quantised;                    /* seen while loading; n_linears = 0: the reference */
} qs_memory_use;

/* A model loaded as it would be deployed, on a backend of its own. */
typedef struct qs_deployment {
    qs_backend *backend;
    qs_decoder *decoder;
    qs_memory_use use;
} qs_deployment;

typedef struct qs_deployment_options {
    const char *backend;
    int64_t device;
    int n_threads;
    int64_t n_ctx_cap;
    size_t expected_bytes;
} qs_deployment_options;

/* linears NULL = the reference, in 16 bits: bf16 when the file holds that, else f16. */
QS_MUST_CHECK qs_err qs_deployment_create(qs_deployment *out, const qs_model *model,
                                          const qs_linear_source *linears,
                                          const qs_deployment_options *options);
void qs_deployment_destroy(qs_deployment *deployment);

/* Reads the peaks; to be called after the decoder has worked. */
void qs_deployment_measure(qs_deployment *deployment);

/* The metrics under /timing; savings_visible only for a quantised point. */
QS_MUST_CHECK qs_err qs_memory_put(qs_artifact *artifact, const qs_memory_use *use);

#endif
