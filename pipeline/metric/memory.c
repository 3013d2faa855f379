#include "metric/memory.h"

#include <math.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "model/resident.h"

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

static qs_err counting_describe(void *context, int64_t layer, qs_role role, qs_matrix_desc *desc)
{
    const qs_linear_source *inner = ((counting_source *)context)->inner;
    if (inner->describe != NULL) return inner->describe(inner->context, layer, role, desc);
    return role == QS_ROLE_HEAD ? inner->get_head(inner->context, desc) : inner->get(inner->context, layer, role, desc);
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

/* What is planned for a model: its weights as each backend will keep them, and what the first device was asked for. */
typedef struct plans {
    const qs_model *model;
    const qs_linear_source *source;
    qs_placement_weights devices[QS_DEVICES_MAX], host;
    qs_placement_request first;
} plans;

static void plans_free(plans *p)
{
    for (int i = 0; i < QS_DEVICES_MAX; i++) qs_placement_weights_free(&p->devices[i]);
    qs_placement_weights_free(&p->host);
}

static qs_placement_request placement_request(const qs_backend *backend, const qs_deployment_options *options)
{
    qs_backend_memory memory;
    qs_backend_get_memory(backend, &memory);
    size_t room = memory.free_bytes, budget = options->map.budget_bytes;
    if (budget > 0) {
        size_t left = budget > memory.used_bytes ? budget - memory.used_bytes : 0;
        room = left < room ? left : room;
    }
    return (qs_placement_request){
        .linear_bits = 16.0, /* of a host's share, until that is planned for itself */
        .dense_bits = 16.0,
        .batch = batch_of(options),
        .n_ctx = options->n_ctx_cap,
        .n_more_logits = options->n_more_logits,
        .device_bytes = room,
        .host_bytes = qs_mem_available_bytes(),
    };
}

static qs_err plan_weights(qs_placement_weights *out, const plans *p, const qs_deployment *d, const qs_backend *backend,
                           const qs_deployment_options *options)
{
    const qs_decoder_options decoder = decoder_options(d, p->model, options);
    qs_placement_weights_free(out);
    return qs_resident_plan_decoder(out, backend, p->model, p->source, &decoder);
}

static qs_err refuse_host(const qs_model_config *config, const qs_placement_request *request)
{
    char need[QS_MEM_TEXT_BYTES], room[QS_MEM_TEXT_BYTES], host[QS_MEM_TEXT_BYTES];
    qs_placement all;
    qs_placement_fix(&all, config, request, 0);
    return qs_fail(QS_E_RESOURCE, "deploy model: it takes %s, and %s of the device's and %s of the host's memory "
                   "are free; leave out the tasks latency and memory, or use a larger machine",
                   qs_mem_format(need, all.host_bytes), qs_mem_format(room, request->device_bytes),
                   qs_mem_format(host, request->host_bytes));
}

static qs_backend *backend_of(const qs_deployment *d, int64_t i) { return i == 0 ? d->backend : d->more[i - 1]; }

/* Opens the i-th device unless it is there. False: there is no such device, which ends a plan that is free to
 * choose. */
static qs_err open_device(qs_deployment *d, const qs_deployment_options *options, int64_t i, bool *found)
{
    *found = true;
    if (backend_of(d, i) != NULL) return QS_OK;
    qs_err err = qs_backend_create(&d->more[i - 1], "cuda", options->device + i, options->n_threads);
    *found = err == QS_OK;
    if (err == QS_E_UNSUPPORTED && !options->map.fixed) return QS_OK;
    if (err == QS_OK && options->map.budget_bytes > 0)
        err = qs_backend_set_budget(d->more[i - 1], options->map.budget_bytes);
    return err;
}

/* In the log, unless it takes all that there are. */
static void say_device(int64_t device, const qs_placement *p, const qs_placement_request *request)
{
    char need[QS_MEM_TEXT_BYTES], have[QS_MEM_TEXT_BYTES];
    if (device == 0 && p->n_device_layers == p->n_layers) return;
    qs_log_info("device %lld: %lld of the %lld layers that are left%s, needs %s of %s", (long long)device,
                (long long)p->n_device_layers, (long long)p->n_layers,
                p->n_device_layers == p->n_layers ? ", final norm and head" : "", qs_mem_format(need, p->device_bytes),
                qs_mem_format(have, request->device_bytes));
}

/* The layers that no device takes: the host's backend is opened, and says what it will keep. */
static qs_err place_on_host(qs_deployment *d, const qs_model_config *left, const qs_deployment_options *options,
                            plans *p)
{
    const qs_model_config *config = qs_model_get_config(p->model);
    qs_placement_request request = p->first;
    qs_placement rest;
    qs_err err = QS_OK;
    if (d->host == NULL) QS_TRY(qs_backend_create(&d->host, "cpu", 0, options->n_threads));
    QS_TRY(plan_weights(&p->host, p, d, d->host, options));
    request.host = p->first.host = &p->host;
    request.first_layer = config->n_layers - left->n_layers;
    qs_placement_fix(&d->placement, config, &p->first, d->layers[0]);
    qs_placement_fix(&rest, left, &request, 0);
    if (rest.host_bytes > request.host_bytes) return refuse_host(config, &p->first);
    qs_placement_log(&rest, &request);
out:
    return err;
}

/* Puts layers on device after device, as the map says or as many as fit and limits[] allow; the rest is the host's. The
 * first device's plan becomes d->placement. Said in the log unless everything is on one device. */
static qs_err place(qs_deployment *d, const qs_deployment_options *options, const int64_t limits[QS_DEVICES_MAX],
                    plans *plan)
{
    const qs_device_map *map = &options->map;
    const qs_model_config *config = qs_model_get_config(plan->model);
    qs_model_config left = *config;
    qs_placement p;
    qs_err err = QS_OK;
    if (map->fixed && map->n_layers > config->n_layers)
        return qs_fail(QS_E_USAGE, "--device-map with %lld layers: the model has %lld", (long long)map->n_layers,
                       (long long)config->n_layers);
    memset(d->layers, 0, sizeof d->layers);
    for (int64_t i = 0; i < QS_DEVICES_MAX && left.n_layers > 0; i++) {
        bool found, wanted = !map->fixed || i == 0 || qs_device_map_layers(map, i) > 0;
        if (!wanted) continue;
        QS_TRY(open_device(d, options, i, &found));
        if (!found) break;
        qs_placement_request request = placement_request(backend_of(d, i), options);
        QS_TRY(plan_weights(&plan->devices[i], plan, d, backend_of(d, i), options));
        request.device = &plan->devices[i];
        request.first_layer = config->n_layers - left.n_layers;
        qs_placement_take(&p, &left, &request, map, i, limits[i]);
        if (i == 0) d->placement = p;
        if (i == 0) plan->first = request;
        d->layers[i] = p.n_device_layers;
        left.n_layers -= p.n_device_layers;
        say_device(options->device + i, &p, &request);
    }
    if (left.n_layers > 0) err = place_on_host(d, &left, options, plan);
out:
    return err;
}

/* The decoder as placed; the host's backend is opened when it has work. */
static qs_err create_decoder(qs_deployment *d, const qs_model *model, const qs_linear_source *source,
                             const qs_deployment_options *options)
{
    qs_decoder_options decoder = decoder_options(d, model, options);
    qs_decoder_part parts[QS_DEVICES_MAX + 1];
    int64_t n = 0, n_layers = qs_model_get_config(model)->n_layers;
    qs_err err;
    for (int64_t i = 0; i < QS_DEVICES_MAX; i++) {
        if (d->layers[i] > 0) parts[n++] = (qs_decoder_part){backend_of(d, i), d->layers[i]};
        n_layers -= d->layers[i];
    }
    if (n_layers > 0) parts[n++] = (qs_decoder_part){d->host, n_layers};
    decoder.parts = parts;
    decoder.n_parts = n;
    d->use.n_linears = d->use.n_quantised = 0;
    QS_TRY(qs_decoder_create(&d->decoder, d->backend, model, source, &decoder));
out:
    return err;
}

/* Another process, or the driver itself, may take what was free when it was planned; then fewer layers go on every
 * device, unless the user fixed how many. */
static qs_err load_placed(qs_deployment *d, const qs_model *model, const qs_linear_source *source,
                          const qs_deployment_options *options)
{
    const qs_model_config *config = qs_model_get_config(model);
    plans plan = {.model = model, .source = source};
    int64_t limits[QS_DEVICES_MAX];
    qs_err err;
    for (int i = 0; i < QS_DEVICES_MAX; i++) limits[i] = config->n_layers;
    for (d->n_loads = 1;; d->n_loads++) {
        QS_TRY(place(d, options, limits, &plan));
        err = create_decoder(d, model, source, options);
        int64_t n_device_layers = 0;
        for (int i = 0; i < QS_DEVICES_MAX; i++) {
            n_device_layers += d->layers[i];
            limits[i] = d->layers[i] - (d->layers[i] + 7) / 8;
        }
        if (err != QS_E_RESOURCE || options->map.fixed || n_device_layers == 0) break;
        qs_log_info("%s", qs_error_text());
        qs_log_info("trying again with fewer layers on the device");
    }
    err = qs_placement_context(err, config, &plan.first, d->placement.n_device_layers);
out:
    plans_free(&plan);
    return err;
}

/* ---- memory of all backends together ---- */

enum { N_BACKENDS = QS_DEVICES_MAX + 1 };

static const qs_backend *nth_backend(const qs_deployment *d, int64_t i)
{
    return i == QS_DEVICES_MAX ? d->host : backend_of(d, i);
}

static size_t used_bytes(const qs_deployment *d)
{
    size_t bytes = 0;
    for (int64_t i = 0; i < N_BACKENDS; i++) {
        qs_backend_memory memory;
        if (nth_backend(d, i) == NULL) continue;
        qs_backend_get_memory(nth_backend(d, i), &memory);
        bytes += memory.used_bytes;
    }
    return bytes;
}

/* Of all devices, each with its driver's context. */
static size_t vram_bytes(const qs_deployment *d)
{
    size_t bytes = 0;
    for (int64_t i = 0; i < QS_DEVICES_MAX; i++) {
        qs_backend_memory memory;
        if (backend_of(d, i) == NULL || !qs_backend_has_device(backend_of(d, i))) continue;
        qs_backend_get_memory(backend_of(d, i), &memory);
        bytes += memory.context_bytes + memory.used_bytes;
    }
    return bytes;
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
    qs_linear_source counted = {.get = counting_get, .get_vector = counting_get_vector, .context = &counting,
                                .describe = counting_describe},
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
    for (int64_t i = 0; i < QS_DEVICES_MAX; i++) qs_backend_destroy(backend_of(deployment, i));
    qs_backend_destroy(deployment->host);
    memset(deployment->more, 0, sizeof deployment->more);
    deployment->decoder = NULL;
    deployment->backend = deployment->host = NULL;
}

void qs_deployment_measure(qs_deployment *deployment)
{
    qs_memory_use *use = &deployment->use;
    qs_vram_use *vram = &use->vram;
    size_t buffers = 0;
    use->peak_bytes = vram->peak_bytes = vram->weights_bytes = vram->kv_bytes = vram->workspace_bytes = 0;
    vram->context_bytes = 0;
    use->rss_peak_bytes = qs_mem_rss_bytes_peak();
    for (int64_t i = 0; i < N_BACKENDS; i++) {
        const qs_backend *backend = nth_backend(deployment, i);
        qs_backend_memory memory;
        if (backend == NULL) continue;
        qs_backend_get_memory(backend, &memory);
        use->peak_bytes += memory.peak_bytes;
        if (!qs_backend_has_device(backend)) continue;
        vram->peak_bytes += memory.context_bytes + memory.peak_bytes;
        vram->weights_bytes += memory.weight_bytes;
        vram->kv_bytes += (size_t)deployment->layers[i] * deployment->placement.kv_bytes;
        vram->context_bytes += memory.context_bytes;
        buffers += memory.workspace_bytes + memory.buffer_bytes;
    }
    vram->workspace_bytes = buffers - vram->kv_bytes;
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
