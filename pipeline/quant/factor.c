#include "quant/factor.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "backend/solver_ops.h"
#include "base/mem.h"
#include "quant/cholesky.h"

enum {
    NAME_BYTES = 96,
    N_FLOORS = 6,
    SIDE = 32,     /* of the squares in which a matrix is transposed */
    ROWS_MIN = 16, /* rows that are worth a thread */
};

/* One factor. `order` and `u` stay allocated when the cache is loaded anew. */
typedef struct entry {
    struct entry *next;
    bool valid;
    double damping, damping_used;
    int32_t *order; /* [n_in] */
    float *u;       /* [n_in, n_in], where the solver works; meaningless when it could not be found */
    bool found;
} entry;

/* Where the backend has a solver, H, the work on it and every U are on the device, and only the diagonal is
 * here. */
struct qs_factor_cache {
    qs_backend *backend;
    const qs_solver_ops *solver; /* NULL = none */
    qs_team *team;
    char name[NAME_BYTES];
    int64_t n_in;
    double diag_mean;
    bool has_dead;
    float *h, *diag;
    float *host_h;      /* [n_in, n_in]; with a solver, once asked for */
    bool host_current;  /* it is this h */
    entry *entries;
    float *work;                   /* [n_in, n_in] host: H in an order; not with a solver */
    float *device_a, *device_u;    /* [n_in, n_in]; with a solver there is no device_u */
    int32_t *device_order;         /* [n_in]; with a solver */
};

/* [n_in, n_in] f32 where the solver works. */
static qs_err new_square(const qs_factor_cache *cache, float **out, const char *what)
{
    int64_t n = cache->n_in * cache->n_in;
    if (cache->solver == NULL) return QS_NEW(*out, n, what);
    return qs_backend_alloc(cache->backend, out, (size_t)n * sizeof **out, what);
}

static void free_square(const qs_factor_cache *cache, float *square)
{
    if (cache->solver == NULL)
        qs_mem_free(square);
    else
        qs_backend_free(cache->backend, square);
}

void qs_factor_cache_destroy(qs_factor_cache *cache)
{
    if (cache == NULL) return;
    for (entry *e = cache->entries, *next; e != NULL; e = next) {
        next = e->next;
        qs_mem_free(e->order);
        free_square(cache, e->u);
        qs_mem_free(e);
    }
    qs_backend_free(cache->backend, cache->device_a);
    qs_backend_free(cache->backend, cache->device_u);
    qs_backend_free(cache->backend, cache->device_order);
    free_square(cache, cache->h);
    qs_mem_free(cache->diag);
    qs_mem_free(cache->host_h);
    qs_mem_free(cache->work);
    qs_mem_free(cache);
}

qs_err qs_factor_cache_create(qs_factor_cache **out, qs_workspace *workspace, const float *packed_gram,
                              int64_t n_in, int64_t n_tokens, const char *name)
{
    qs_factor_cache *cache = NULL;
    qs_err err;
    QS_TRY(QS_NEW(cache, 1, "second moments"));
    cache->backend = qs_workspace_backend(workspace);
    cache->solver = qs_backend_solver(cache->backend);
    cache->team = qs_workspace_team(workspace);
    cache->n_in = n_in;
    QS_TRY(new_square(cache, &cache->h, "second moments"));
    QS_TRY(QS_NEW(cache->diag, n_in, "second moments"));
    QS_TRY(qs_factor_cache_load(cache, packed_gram, n_tokens, name));
    *out = cache;
out:
    if (err != QS_OK) qs_factor_cache_destroy(cache);
    return err;
}

typedef struct unpacking {
    qs_factor_cache *cache;
    const float *packed_gram;
    float factor;
} unpacking;

static void unpack_rows(void *context, int64_t first, int64_t last, int thread)
{
    (void)thread;
    const unpacking *work = context;
    int64_t n = work->cache->n_in;
    for (int64_t i = first; i < last; i++) {
        const float *row = work->packed_gram + i * n - i * (i - 1) / 2 - i; /* row i starts at its diagonal */
        for (int64_t j = i; j < n; j++) work->cache->h[i * n + j] = row[j] * work->factor;
    }
}

/* The lower triangle from the upper, by squares that fit the cache. */
static void mirror_strips(void *context, int64_t first, int64_t last, int thread)
{
    (void)thread;
    const unpacking *work = context;
    int64_t n = work->cache->n_in;
    float *h = work->cache->h;
    for (int64_t i0 = first * SIDE; i0 < last * SIDE; i0 += SIDE)
        for (int64_t j0 = 0; j0 <= i0; j0 += SIDE)
            for (int64_t i = i0; i < n && i < i0 + SIDE; i++)
                for (int64_t j = j0; j < i && j < j0 + SIDE; j++) h[i * n + j] = h[j * n + i];
}

/* Device memory for the work on H, once. */
static qs_err reserve_device(qs_factor_cache *cache)
{
    qs_err err = QS_OK;
    if (cache->device_a == NULL) QS_TRY(new_square(cache, &cache->device_a, "Cholesky factor"));
    if (cache->device_order == NULL)
        QS_TRY(qs_backend_alloc(cache->backend, &cache->device_order, (size_t)cache->n_in * sizeof(int32_t),
                                "Cholesky factor"));
out:
    return err;
}

static qs_err unpack(qs_factor_cache *cache, const float *packed_gram, float factor)
{
    int64_t n = cache->n_in;
    qs_err err = QS_OK;
    if (cache->solver == NULL) {
        unpacking work = {cache, packed_gram, factor};
        qs_team_run(cache->team, n, ROWS_MIN, unpack_rows, &work);
        qs_team_run(cache->team, (n + SIDE - 1) / SIDE, 1, mirror_strips, &work);
        return QS_OK;
    }
    QS_TRY(reserve_device(cache));
    QS_TRY(qs_backend_upload(cache->backend, cache->device_a, packed_gram,
                             (size_t)(n * (n + 1) / 2) * sizeof(float)));
    QS_TRY(cache->solver->unpack_moments(cache->backend, cache->device_a, n, factor, cache->h));
out:
    return err;
}

qs_err qs_factor_cache_load(qs_factor_cache *cache, const float *packed_gram, int64_t n_tokens,
                            const char *name)
{
    int64_t n = cache->n_in, at = qs_workspace_find_nonfinite(cache->team, packed_gram, n * (n + 1) / 2);
    (void)snprintf(cache->name, sizeof cache->name, "%s", name);
    qs_factor_cache_forget(cache);
    cache->host_current = false;
    if (n_tokens <= 0)
        return qs_fail(QS_E_INPUT, "second moments of %s: %lld tokens", name, (long long)n_tokens);
    if (at >= 0)
        return qs_fail(QS_E_NUMERIC, "second moments of %s: element %lld is not finite", name, (long long)at);
    float factor = (float)(1.0 / (double)n_tokens);
    double sum = 0;
    cache->has_dead = false;
    for (int64_t i = 0; i < n; i++) {
        cache->diag[i] = packed_gram[i * n - i * (i - 1) / 2] * factor;
        if (cache->diag[i] < 0)
            return qs_fail(QS_E_INPUT, "second moments of %s: element %lld of the diagonal is negative", name,
                           (long long)i);
        sum += cache->diag[i];
        cache->has_dead |= !(cache->diag[i] > 0);
    }
    cache->diag_mean = sum / (double)n;
    if (!(cache->diag_mean > 0))
        return qs_fail(QS_E_INPUT, "second moments of %s: all zero: its inputs are zeros in every token of the "
                       "calibration text, so a gate or the matrix before it may consist of zeros",
                       name);
    return unpack(cache, packed_gram, factor);
}

void qs_factor_cache_forget(qs_factor_cache *cache)
{
    for (entry *e = cache->entries; e != NULL; e = e->next) e->valid = false;
}

const float *qs_factor_h(const qs_factor_cache *cache) { return cache->h; }

qs_err qs_factor_h_host(qs_factor_cache *cache, const float **h)
{
    size_t bytes = (size_t)(cache->n_in * cache->n_in) * sizeof **h;
    qs_err err = QS_OK;
    *h = cache->solver == NULL ? cache->h : cache->host_h;
    if (cache->solver == NULL || cache->host_current) return QS_OK;
    if (cache->host_h == NULL) QS_TRY(qs_mem_alloc(&cache->host_h, bytes, "second moments"));
    QS_TRY(qs_backend_download(cache->backend, cache->host_h, cache->h, bytes));
    cache->host_current = true;
    *h = cache->host_h;
out:
    return err;
}

const float *qs_factor_diag(const qs_factor_cache *cache) { return cache->diag; }

double qs_factor_diag_mean(const qs_factor_cache *cache) { return cache->diag_mean; }

bool qs_factor_has_dead(const qs_factor_cache *cache) { return cache->has_dead; }

static qs_err reserve_work(qs_factor_cache *cache)
{
    size_t bytes = (size_t)(cache->n_in * cache->n_in) * sizeof(float);
    qs_err err;
    if (cache->work != NULL) return QS_OK;
    if (cache->device_a == NULL)
        QS_TRY(qs_backend_alloc(cache->backend, &cache->device_a, bytes, "Cholesky factor"));
    if (cache->device_u == NULL)
        QS_TRY(qs_backend_alloc(cache->backend, &cache->device_u, bytes, "Cholesky factor"));
    QS_TRY(qs_mem_alloc(&cache->work, bytes, "Cholesky factor"));
    /* zeros, which the lower half keeps */
    QS_TRY(qs_backend_upload(cache->backend, cache->device_u, cache->work, bytes));
out:
    return err;
}

typedef struct permuting {
    const qs_factor_cache *cache;
    const int32_t *order;
    double shift;
} permuting;

/* H in the order with `shift` on the diagonal, dead inputs set to the mean. */
static void permute_rows(void *context, int64_t first, int64_t last, int thread)
{
    (void)thread;
    const permuting *work = context;
    const qs_factor_cache *cache = work->cache;
    int64_t n = cache->n_in;
    for (int64_t i = first; i < last; i++) {
        const float *row = cache->h + work->order[i] * n;
        for (int64_t j = i; j < n; j++) cache->work[i * n + j] = row[work->order[j]];
        double diagonal = row[work->order[i]];
        cache->work[i * n + i] = (float)((diagonal > 0 ? diagonal : cache->diag_mean) + work->shift);
    }
}

/* U must be finite too: an overflow in it would spoil every column after it. */
static bool usable(const qs_factor_cache *cache, const entry *e)
{
    return qs_find_nonfinite(e->u, cache->n_in * cache->n_in) < 0;
}

static qs_err attempt_on_device(qs_factor_cache *cache, entry *e, double shift)
{
    qs_err err;
    QS_TRY(reserve_device(cache));
    QS_TRY(qs_backend_upload(cache->backend, cache->device_order, e->order,
                             (size_t)cache->n_in * sizeof *e->order));
    QS_TRY(cache->solver->order_moments(cache->backend, cache->h, cache->device_order, cache->n_in, shift,
                                        cache->diag_mean, cache->device_a, e->u));
    QS_TRY(qs_cholesky_inverse_factor(cache->backend, cache->device_a, e->u, cache->n_in, &e->found));
out:
    return err;
}

static qs_err attempt(qs_factor_cache *cache, entry *e, double shift)
{
    if (cache->solver != NULL) return attempt_on_device(cache, e, shift);
    size_t bytes = (size_t)(cache->n_in * cache->n_in) * sizeof(float);
    bool positive;
    qs_err err;
    QS_TRY(reserve_work(cache));
    qs_team_run(cache->team, cache->n_in, ROWS_MIN, permute_rows, &(permuting){cache, e->order, shift});
    QS_TRY(qs_backend_upload(cache->backend, cache->device_a, cache->work, bytes));
    QS_TRY(qs_cholesky_inverse_factor(cache->backend, cache->device_a, cache->device_u, cache->n_in,
                                      &positive));
    if (!positive) goto out;
    QS_TRY(qs_backend_download(cache->backend, e->u, cache->device_u, bytes));
    e->found = usable(cache, e);
out:
    return err;
}

/* As GPTQModel does it: damping grows by its first value (at least 0.01) up to 1; then six floors, each ten times the
 * one before, lift the diagonal beyond that. */
static qs_err search(qs_factor_cache *cache, entry *e)
{
    double step = e->damping > 0.01 ? e->damping : 0.01;
    float most = 0;
    qs_err err = QS_OK;
    for (int64_t i = 0; i < cache->n_in; i++) most = most > cache->diag[i] ? most : cache->diag[i];
    for (double damping = e->damping; !e->found && damping <= 1; damping += step) {
        e->damping_used = damping;
        QS_TRY(attempt(cache, e, damping * cache->diag_mean));
    }
    double floor = (double)most * 1e-6;
    for (int k = 0; !e->found && k < N_FLOORS; k++, floor *= 10) {
        e->damping_used = 1 + floor / cache->diag_mean;
        QS_TRY(attempt(cache, e, e->damping_used * cache->diag_mean));
    }
out:
    return err;
}

/* An entry for (order, damping): the one that has it, a stale one, or a new one. */
static qs_err find_entry(entry **out, qs_factor_cache *cache, const int32_t *order, double damping)
{
    int64_t n = cache->n_in;
    entry *stale = NULL, *e;
    qs_err err = QS_OK;
    for (e = cache->entries; e != NULL; e = e->next) {
        if (!e->valid) {
            stale = e;
            continue;
        }
        bool same = e->damping == damping;
        for (int64_t i = 0; same && i < n; i++) same = e->order[i] == (order != NULL ? order[i] : i);
        if (same) break;
    }
    if (e == NULL) e = stale;
    if (e == NULL) {
        QS_TRY(QS_NEW(e, 1, "Cholesky factor"));
        e->next = cache->entries;
        cache->entries = e;
    }
    if (e->order == NULL) QS_TRY(QS_NEW(e->order, n, "Cholesky factor"));
    if (e->u == NULL) QS_TRY(new_square(cache, &e->u, "Cholesky factor"));
    if (!e->valid) {
        e->damping = damping;
        e->found = false;
        for (int64_t i = 0; i < n; i++) e->order[i] = order != NULL ? order[i] : (int32_t)i;
    }
    *out = e;
out:
    return err;
}

qs_err qs_factor_get(qs_factor_cache *cache, const int32_t *order, double damping, const float **u,
                     double *damping_used)
{
    entry *e;
    qs_err err;
    QS_TRY(find_entry(&e, cache, order, damping));
    if (!e->valid) {
        QS_TRY(search(cache, e));
        e->valid = true;
    }
    *u = e->found ? e->u : NULL;
    *damping_used = e->damping_used;
out:
    if (err != QS_OK) err = qs_context(err, "factor of %s", cache->name);
    return err;
}
