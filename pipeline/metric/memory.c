#include "metric/memory.h"

#include <math.h>

#include "base/mem.h"

/* Passes a source on and counts how its linears are stored. */
typedef struct counting_source {
    const qs_linear_source *inner;
    qs_memory_use *use;
} counting_source;

static qs_err counting_get(void *context, int64_t layer, qs_role role, qs_matrix_desc *desc)
{
    counting_source *source = context;
    qs_err err = source->inner->get(source->inner->context, layer, role, desc);
    if (err != QS_OK) return err;
    source->use->n_linears++;
    source->use->n_quantised += desc->format == QS_MATRIX_INT;
    return QS_OK;
}

qs_err qs_deployment_create(qs_deployment *out, const qs_model *model, const qs_linear_source *linears,
                            const qs_deployment_options *options)
{
    qs_backend_memory memory;
    qs_storage storage;
    size_t kv_bytes;
    qs_err err;
    *out = (qs_deployment){.use.expected_bytes = options->expected_bytes};
    (void)qs_model_is_lattice(model, &storage);
    qs_decoder_options decoder = {
        .batch = 1,
        .n_ctx_cap = options->n_ctx_cap,
        .block = {.compute = QS_COMPUTE_F32, .dense_dtype = storage == QS_STORE_BF16 ? QS_BF16 : QS_F16},
    };
    counting_source counting = {.inner = linears, .use = &out->use};
    qs_linear_source source = {.get = counting_get, .context = &counting};
    QS_TRY(qs_backend_create(&out->backend, options->backend, options->device, options->n_threads));
    qs_backend_get_memory(out->backend, &memory);
    out->use.before_bytes = memory.used_bytes;
    QS_TRY(qs_decoder_create(&out->decoder, out->backend, model, linears != NULL ? &source : NULL, &decoder));
    qs_backend_get_memory(out->backend, &memory);
    out->use.after_load_bytes = memory.used_bytes;
    qs_decoder_bytes(out->decoder, &out->use.measured_bytes, &kv_bytes);
out:
    if (err != QS_OK) qs_deployment_destroy(out);
    return err;
}

void qs_deployment_destroy(qs_deployment *deployment)
{
    qs_decoder_destroy(deployment->decoder);
    if (deployment->backend != NULL) qs_backend_destroy(deployment->backend);
    deployment->decoder = NULL;
    deployment->backend = NULL;
}

void qs_deployment_measure(qs_deployment *deployment)
{
    qs_backend_memory memory;
    qs_backend_get_memory(deployment->backend, &memory);
    deployment->use.peak_bytes = memory.peak_bytes;
    deployment->use.rss_peak_bytes = qs_mem_rss_bytes_peak();
}

static qs_err put(qs_artifact *artifact, const char *name, double value)
{
    qs_estimate estimate = {.value = value, .lo = value, .hi = value, .n = 1};
    return qs_metric_put(artifact, qs_metric_find(name), &estimate);
}

qs_err qs_memory_put(qs_artifact *artifact, const qs_memory_use *use)
{
    double measured = (double)use->measured_bytes, expected = (double)use->expected_bytes;
    qs_err err;
    QS_TRY(put(artifact, "mem_before", (double)use->before_bytes));
    QS_TRY(put(artifact, "mem_after_load", (double)use->after_load_bytes));
    QS_TRY(put(artifact, "mem_peak", (double)use->peak_bytes));
    if (use->rss_peak_bytes > 0) QS_TRY(put(artifact, "rss_peak", (double)use->rss_peak_bytes));
    QS_TRY(put(artifact, "bytes_expected", expected));
    QS_TRY(put(artifact, "bytes_measured", measured));
    if (use->n_linears > 0)
        QS_TRY(put(artifact, "savings_visible",
                   fabs(measured - expected) <= 0.1 * expected && use->n_quantised == use->n_linears));
out:
    return err;
}
