/* Products of one row behind each other in one launch (linear_row.h): the longest runs of a chain that one kernel serves. */
#include <stdlib.h>

#include "backend/cuda/gpu_matrix.h"

static qs_err run_call(qs_backend *backend, const qs_linear_call *call, int64_t n)
{
    if (call->with == NULL) return qs_gpu_linears(backend, call->jobs, call->n_jobs, call->x, n);
    return qs_gpu_linears_with(backend, call->with, call->jobs, call->n_jobs, call->x, n);
}

/* How many calls from the first on have the form of the first, as many as a launch takes. */
static int64_t n_alike(const qs_linear_call *calls, int64_t n_calls, int64_t n)
{
    int64_t k = 0;
    while (k < n_calls && k < QS_CU_CHAIN_MAX && qs_gpu_takes_with(calls[k].with, calls[k].jobs, calls[k].n_jobs, n) &&
           qs_gpu_is_alike(calls[0].jobs[0].matrix, calls[k].jobs[0].matrix))
        k++;
    const char *asked = getenv("QS_ROW_CHAIN");
    return n == 1 && !(asked != NULL && asked[0] == '0') ? k : 0;
}

qs_err qs_gpu_reserve_chain(qs_gpu *gpu)
{
    qs_err err = QS_OK;
    if (gpu->chain_counter.bytes > 0) return QS_OK;
    QS_TRY(qs_gpu_reserve(gpu, &gpu->chain_counter, sizeof(uint64_t), QS_GPU_WORKSPACE, "a counter"));
    QS_TRY(qs_gpu_check(gpu, qs_rt_fill_zero(gpu->chain_counter.data, sizeof(uint64_t), gpu->stream), "clear memory"));
out:
    return err;
}

/* All calls in one launch, if there is one: *taken. */
static qs_err run_chain(qs_gpu *gpu, const qs_linear_call *calls, int64_t n_calls, bool *taken)
{
    qs_cu_linear linears[QS_CU_CHAIN_MAX][QS_CU_LINEARS_MAX];
    qs_cu_product products[QS_CU_CHAIN_MAX];
    const qs_matrix *first = calls[0].jobs[0].matrix;
    const qs_gpu_matrix *form = first->state;
    for (int64_t k = 0; k < n_calls; k++) {
        const qs_linear_call *call = &calls[k];
        const qs_gpu_matrix *self = call->jobs[0].matrix->state;
        for (int64_t i = 0; i < call->n_jobs; i++) linears[k][i] = qs_gpu_linear_of(&call->jobs[i]);
        linears[k][0].gates = call->with != NULL && call->with->is_gated;
        products[k] = (qs_cu_product){
            .shape = &self->shape, .linears = linears[k], .n_linears = (int)call->n_jobs, .x = call->x,
            .perm = self->has_perm ? self->stored.perm.data : NULL,
            .norm = call->with != NULL ? call->with->norm : NULL,
            .norm_eps = call->with != NULL ? (float)call->with->norm_eps : 0.0f,
        };
    }
    bool soon = qs_gpu_take_soon(gpu);
    int status = (form->shape.format == QS_CU_MIXED ? qs_cu_linear_mixed_chain : qs_cu_linear_few_chain)(
        gpu->stream, products, (int)n_calls, qs_gpu_n_terms(first), gpu->chain_counter.data, gpu->device.n_sms,
        gpu->device.shared_bytes_max, soon);
    *taken = status != QS_CU_NOT_TAKEN;
    if (*taken) return qs_gpu_check(gpu, status, "run linears");
    gpu->weights_are_fresh = !soon;
    return QS_OK;
}

qs_err qs_gpu_linears_chain(qs_backend *backend, const qs_linear_call *calls, int64_t n_calls, int64_t n)
{
    qs_err err = QS_OK;
    for (int64_t i = 0; i < n_calls;) {
        int64_t n_together = n_alike(calls + i, n_calls - i, n);
        bool taken = false;
        if (n_together > 1) QS_TRY(run_chain(qs_gpu_of(backend), calls + i, n_together, &taken));
        if (!taken) QS_TRY(run_call(backend, &calls[i], n));
        i += taken ? n_together : 1;
    }
out:
    return err;
}
