#include "metric/memory.h"

#include <math.h>
#include <string.h>

#include "base/log.h"
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

static qs_err counting_get_vector(void *context, int64_t layer, qs_role role, int64_t n, float *dst, bool *found)
{
    const qs_linear_source *inner = ((counting_source *)context)->inner;
    return inner->get_vector != NULL ? inner->get_vector(inner->context, layer, role, n, dst, found) : QS_OK;
}

static qs_err counting_get_head(void *context, qs_matrix_desc *desc)
{
    const qs_linear_source *inner = ((counting_source *)context)->inner;
    return inner->get_head(inner->context, desc);
}

static int64_t batch_of(const qs_deployment_options *options) { return options->batch > 0 ? options->batch : 1; }

static qs_decoder_options decoder_options(const qs_deployment *d, const qs_model *model,
                                          const qs_deployment_options *options)
{
    qs_storage storage;
    (void)qs_model_is_lattice(model, &storage);
    /* Deployments on a GPU multiply 16-bit activations with sums in f32, as vLLM and llama.cpp do, and a time is
     * worth comparing only on the same arithmetic. On a CPU f32 activations are the habit and cost nothing. Caches
     * stay in f32 on both. What is said of answers is to be the same on both. */
    bool narrow = qs_backend_has_device(d->backend) && !options->exact;
    return (qs_decoder_options){
        .batch = batch_of(options),
        .n_ctx_cap = options->n_ctx_cap,
        .block = {.compute = narrow ? QS_COMPUTE_BF16 : QS_COMPUTE_F32,
                  .dense_dtype = storage == QS_STORE_BF16 ? QS_BF16 : QS_F16},
    };
}

static qs_placement_request placement_request(const qs_deployment *d, const qs_deployment_options *options)
{
    qs_backend_memory memory;
    qs_backend_get_memory(d->backend, &memory);
    size_t room = memory.free_bytes, budget = options->map.budget_bytes;
    if (budget > 0) {
        size_t left = budget > memory.used_bytes ? budget - memory.used_bytes : 0;
        room = left < room ? left : room;
    }
    return (qs_placement_request){
        .linear_bits = options->linear_bits > 0.0 ? options->linear_bits : 16.0,
        .dense_bits = 16.0,
        .batch = batch_of(options),
        .n_ctx = options->n_ctx_cap,
        .device_bytes = room,
        .host_bytes = qs_mem_available_bytes(),
        .with_workspace = true,
    };
}

/* How many layers go on the device, said in the log unless all of them do. */
static qs_err place(qs_deployment *d, const qs_model_config *config, const qs_deployment_options *options,
                    const qs_placement_request *request)
{
    const qs_device_map *map = &options->map;
    if (map->fixed && map->n_layers > config->n_layers)
        return qs_fail(QS_E_USAGE, "--device-map %lld:layers: the model has %lld", (long long)map->n_layers,
                       (long long)config->n_layers);
    if (map->fixed) qs_placement_fix(&d->placement, config, request, map->n_layers);
    else qs_placement_plan(&d->placement, config, request);
    if (d->placement.kind >= QS_PLACE_STREAM) {
        char need[QS_MEM_TEXT_BYTES], room[QS_MEM_TEXT_BYTES], host[QS_MEM_TEXT_BYTES];
        qs_placement all;
        qs_placement_fix(&all, config, request, 0);
        return qs_fail(QS_E_RESOURCE, "deploy model: it takes %s, and %s of the device's and %s of the host's memory "
                       "are free; leave out the tasks latency and memory, or use a larger machine",
                       qs_mem_format(need, all.host_bytes), qs_mem_format(room, request->device_bytes),
                       qs_mem_format(host, request->host_bytes));
    }
    if (d->placement.kind != QS_PLACE_DEVICE) qs_placement_log(&d->placement, request);
    return QS_OK;
}

/* Loads as d->placement says. What formats take on a device is known exactly only once it is there, so a plan that
 * turns out too tight gives way to one with fewer layers, unless the user fixed it. */
static qs_err load_placed(qs_deployment *d, const qs_model *model, const qs_linear_source *source,
                          const qs_deployment_options *options)
{
    const qs_model_config *config = qs_model_get_config(model);
    qs_placement_request request = placement_request(d, options);
    qs_decoder_options decoder = decoder_options(d, model, options);
    qs_err err;
    QS_TRY(place(d, config, options, &request));
    for (;;) {
        int64_t n = decoder.n_device_layers = d->placement.n_device_layers;
        if (n < config->n_layers && d->host == NULL)
            QS_TRY(qs_backend_create(&d->host, "cpu", 0, options->n_threads));
        decoder.host = d->host;
        d->use.n_linears = d->use.n_quantised = 0;
        err = qs_decoder_create(&d->decoder, d->backend, model, source, &decoder);
        if (err != QS_E_RESOURCE || options->map.fixed || n == 0) break;
        qs_log_info("%s", qs_error_text());
        qs_log_info("trying again with fewer layers on the device");
        qs_placement_fix(&d->placement, config, &request, n - (n + 7) / 8);
        qs_placement_log(&d->placement, &request);
    }
    err = qs_placement_context(err, config, &request, d->placement.n_device_layers);
out:
    return err;
}

static size_t used_bytes(const qs_deployment *d)
{
    qs_backend_memory memory, host = {0};
    qs_backend_get_memory(d->backend, &memory);
    if (d->host != NULL) qs_backend_get_memory(d->host, &host);
    return memory.used_bytes + host.used_bytes;
}

static size_t vram_bytes(const qs_deployment *d)
{
    qs_backend_memory memory;
    if (!qs_backend_has_device(d->backend)) return 0;
    qs_backend_get_memory(d->backend, &memory);
    return memory.context_bytes + memory.used_bytes;
}

/* "cpu" needs no device to be opened. */
static qs_err create_backend(qs_deployment *d, const qs_deployment_options *options)
{
    const qs_device_map *map = &options->map;
    const char *name = map->fixed && map->n_layers == 0 ? "cpu" : options->backend;
    qs_err err;
    if (strcmp(options->backend, "auto") != 0 && strcmp(options->backend, "cuda") != 0) name = options->backend;
    QS_TRY(qs_backend_create(&d->backend, name, options->device, options->n_threads));
    if (!qs_backend_has_device(d->backend)) {
        if (map->fixed && map->n_layers > 0)
            err = qs_fail(QS_E_UNSUPPORTED, "--device-map %lld:layers: backend %s has no device to put them on",
                          (long long)map->n_layers, qs_backend_name(d->backend));
        goto out;
    }
    if (map->budget_bytes > 0) QS_TRY(qs_backend_set_budget(d->backend, map->budget_bytes));
out:
    return err;
}

qs_err qs_deployment_create(qs_deployment *out, const qs_model *model, const qs_linear_source *linears,
                            const qs_deployment_options *options)
{
    size_t kv_bytes;
    qs_err err;
    *out = (qs_deployment){.use.expected_bytes = options->expected_bytes};
    counting_source counting = {.inner = linears, .use = &out->use};
    qs_linear_source counted = {.get = counting_get, .get_vector = counting_get_vector, .context = &counting},
                     *source = linears != NULL ? &counted : NULL;
    if (linears != NULL && linears->get_head != NULL) counted.get_head = counting_get_head;
    QS_TRY(create_backend(out, options));
    out->use.before_bytes = used_bytes(out);
    out->use.vram.before_bytes = vram_bytes(out);
    if (qs_backend_has_device(out->backend)) {
        QS_TRY(load_placed(out, model, source, options));
    } else {
        qs_decoder_options decoder = decoder_options(out, model, options);
        QS_TRY(qs_decoder_create(&out->decoder, out->backend, model, source, &decoder));
    }
    out->use.after_load_bytes = used_bytes(out);
    out->use.vram.after_load_bytes = vram_bytes(out);
    qs_decoder_bytes(out->decoder, &out->use.measured_bytes, &kv_bytes);
out:
    if (err != QS_OK) qs_deployment_destroy(out);
    return err;
}

void qs_deployment_destroy(qs_deployment *deployment)
{
    qs_decoder_destroy(deployment->decoder);
    qs_backend_destroy(deployment->backend);
    qs_backend_destroy(deployment->host);
    deployment->decoder = NULL;
    deployment->backend = deployment->host = NULL;
}

void qs_deployment_measure(qs_deployment *deployment)
{
    qs_memory_use *use = &deployment->use;
    qs_vram_use *vram = &use->vram;
    qs_backend_memory memory, host = {0};
    qs_backend_get_memory(deployment->backend, &memory);
    if (deployment->host != NULL) qs_backend_get_memory(deployment->host, &host);
    use->peak_bytes = memory.peak_bytes + host.peak_bytes;
    use->rss_peak_bytes = qs_mem_rss_bytes_peak();
    if (!qs_backend_has_device(deployment->backend)) return;
    const qs_placement *p = &deployment->placement;
    vram->peak_bytes = memory.context_bytes + memory.peak_bytes;
    vram->weights_bytes = memory.weight_bytes;
    vram->kv_bytes = (size_t)p->n_device_layers * p->kv_bytes;
    vram->workspace_bytes = memory.workspace_bytes + memory.buffer_bytes - vram->kv_bytes;
    vram->context_bytes = memory.context_bytes;
}

static qs_err put(qs_artifact *artifact, const char *name, double value)
{
    qs_estimate estimate = {.value = value, .lo = value, .hi = value, .n = 1};
    return qs_metric_put(artifact, qs_metric_find(name), &estimate);
}

static qs_err put_vram(qs_artifact *artifact, const qs_vram_use *use)
{
    qs_err err;
    QS_TRY(put(artifact, "vram_before", (double)use->before_bytes));
    QS_TRY(put(artifact, "vram_after_load", (double)use->after_load_bytes));
    QS_TRY(put(artifact, "vram_peak", (double)use->peak_bytes));
    QS_TRY(put(artifact, "vram_weights", (double)use->weights_bytes));
    QS_TRY(put(artifact, "vram_kv", (double)use->kv_bytes));
    QS_TRY(put(artifact, "vram_workspace", (double)use->workspace_bytes));
    QS_TRY(put(artifact, "vram_context", (double)use->context_bytes));
out:
    return err;
}

qs_err qs_memory_put(qs_artifact *artifact, const qs_memory_use *use)
{
    double measured = (double)use->measured_bytes, expected = (double)use->expected_bytes;
    qs_err err;
    QS_TRY(put(artifact, "mem_before", (double)use->before_bytes));
    QS_TRY(put(artifact, "mem_after_load", (double)use->after_load_bytes));
    QS_TRY(put(artifact, "mem_peak", (double)use->peak_bytes));
    if (use->rss_peak_bytes > 0) QS_TRY(put(artifact, "rss_peak", (double)use->rss_peak_bytes));
    if (use->vram.after_load_bytes > 0) QS_TRY(put_vram(artifact, &use->vram));
    QS_TRY(put(artifact, "bytes_expected", expected));
    QS_TRY(put(artifact, "bytes_measured", measured));
    if (use->n_linears > 0)
        QS_TRY(put(artifact, "savings_visible",
                   fabs(measured - expected) <= 0.1 * expected && use->n_quantised == use->n_linears));
out:
    return err;
}
