#include "quant/factor.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

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
    float *u;       /* [n_in, n_in]; meaningless when it could not be found */
    bool found;
} entry;

struct qs_factor_cache {
    qs_backend *backend;
    qs_team *team;
    char name[NAME_BYTES];
    int64_t n_in;
    double diag_mean;
    float *h, *diag;
    entry *entries;
    float *work;                   /* [n_in, n_in] host: H in an order */
    float *device_a, *device_u;    /* [n_in, n_in] */
};

void qs_factor_cache_destroy(qs_factor_cache *cache)
{
    if (cache == NULL) return;
    for (entry *e = cache->entries, *next; e != NULL; e = next) {
        next = e->next;
        qs_mem_free(e->order);
        qs_mem_free(e->u);
        qs_mem_free(e);
    }
    if (cache->device_a != NULL) qs_backend_free(cache->backend, cache->device_a);
    if (cache->device_u != NULL) qs_backend_free(cache->backend, cache->device_u);
    qs_mem_free(cache->h);
    qs_mem_free(cache->diag);
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
    cache->team = qs_workspace_team(workspace);
    cache->n_in = n_in;
    QS_TRY(QS_NEW(cache->h, n_in * n_in, "second moments"));
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

qs_err qs_factor_cache_load(qs_factor_cache *cache, const float *packed_gram, int64_t n_tokens,
                            const char *name)
{
    int64_t n = cache->n_in, at = qs_find_nonfinite(packed_gram, n * (n + 1) / 2);
    (void)snprintf(cache->name, sizeof cache->name, "%s", name);
    for (entry *e = cache->entries; e != NULL; e = e->next) e->valid = false;
    if (n_tokens <= 0)
        return qs_fail(QS_E_INPUT, "second moments of %s: %lld tokens", name, (long long)n_tokens);
    if (at >= 0)
        return qs_fail(QS_E_NUMERIC, "second moments of %s: element %lld is not finite", name, (long long)at);
    unpacking work = {cache, packed_gram, (float)(1.0 / (double)n_tokens)};
    qs_team_run(cache->team, n, ROWS_MIN, unpack_rows, &work);
    qs_team_run(cache->team, (n + SIDE - 1) / SIDE, 1, mirror_strips, &work);
    double sum = 0;
    for (int64_t i = 0; i < n; i++) {
        cache->diag[i] = cache->h[i * n + i];
        if (cache->diag[i] < 0)
            return qs_fail(QS_E_INPUT, "second moments of %s: element %lld of the diagonal is negative", name,
                           (long long)i);
        sum += cache->diag[i];
    }
    cache->diag_mean = sum / (double)n;
    if (!(cache->diag_mean > 0))
        return qs_fail(QS_E_INPUT, "second moments of %s: all zero; the calibration text never reached it",
                       name);
    return QS_OK;
}

const float *qs_factor_h(const qs_factor_cache *cache) { return cache->h; }

const float *qs_factor_diag(const qs_factor_cache *cache) { return cache->diag; }

double qs_factor_diag_mean(const qs_factor_cache *cache) { return cache->diag_mean; }

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

static qs_err attempt(qs_factor_cache *cache, entry *e, double shift)
{
    size_t bytes = (size_t)(cache->n_in * cache->n_in) * sizeof(float);
    bool positive;
    qs_err err;
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

/* Formats §1.6: damping grows by its first value (at least 0.01) up to 1; then six floors, each ten times the
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
        QS_TRY(QS_NEW(e->order, n, "Cholesky factor"));
        QS_TRY(QS_NEW(e->u, n * n, "Cholesky factor"));
    }
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
        QS_TRY(reserve_work(cache));
        QS_TRY(search(cache, e));
        e->valid = true;
    }
    *u = e->found ? e->u : NULL;
    *damping_used = e->damping_used;
out:
    if (err != QS_OK) err = qs_context(err, "factor of %s", cache->name);
    return err;
}
