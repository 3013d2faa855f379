#include "stat/stats.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"

const qs_stat qs_stats[] = {
    {"gram", "second-moment matrix of the input: sum over tokens of x x^T, upper triangle, f32 from f64 sums"},
    {"abs_mean", "mean over tokens of |x|"},
    {"abs_max", "maximum over tokens of |x|"},
    {0},
};

/* Second moments travel in blocks of rows of about this many elements, since each trip to a device takes time. */
enum { STAGED_ELEMS = 1 << 18 };

/* Elements of the buffer for rows of up to `width`. */
static int64_t staged_elems(int64_t width)
{
    int64_t n = width * width < STAGED_ELEMS ? width * width : STAGED_ELEMS;
    return n > width ? n : width;
}

static int64_t rows_per_trip(const qs_collector *collector, int64_t width)
{
    return collector->n_row / width < width ? collector->n_row / width : width;
}

qs_err qs_collector_init(qs_collector *collector, qs_backend *backend, const qs_model_config *config)
{
    qs_err err = QS_OK;
    *collector = (qs_collector){.backend = backend};
    int64_t widest = 0;
    for (int s = 0; s < QS_N_SITES; s++) {
        qs_site_stats *site = &collector->sites[s];
        int64_t d = site->width = qs_site_width(config, (qs_site)s);
        if (d > widest) widest = d;
        QS_TRY(qs_backend_alloc(backend, &site->gram, (size_t)(d * d) * sizeof *site->gram, "second moments"));
        QS_TRY(qs_backend_alloc(backend, &site->abs_sum, (size_t)d * sizeof *site->abs_sum, "activation sums"));
        QS_TRY(qs_backend_alloc(backend, &site->abs_max, (size_t)d * sizeof *site->abs_max, "activation maxima"));
    }
    QS_TRY(QS_NEW(collector->packed, widest * (widest + 1) / 2, "packed second moments"));
    collector->n_row = staged_elems(widest);
    QS_TRY(QS_NEW(collector->row, collector->n_row, "rows of second moments"));
    QS_TRY(qs_collector_clear(collector));
out:
    if (err != QS_OK) qs_collector_fini(collector);
    return err;
}

void qs_collector_fini(qs_collector *collector)
{
    for (int s = 0; s < QS_N_SITES; s++) {
        qs_backend_free(collector->backend, collector->sites[s].gram);
        qs_backend_free(collector->backend, collector->sites[s].abs_sum);
        qs_backend_free(collector->backend, collector->sites[s].abs_max);
    }
    qs_mem_free(collector->packed);
    qs_mem_free(collector->row);
    *collector = (qs_collector){0};
}

size_t qs_collector_bytes(const qs_model_config *config)
{
    size_t bytes = 0, widest = 0;
    for (int s = 0; s < QS_N_SITES; s++) {
        size_t d = (size_t)qs_site_width(config, (qs_site)s);
        bytes += d * d * sizeof(double) + d * (sizeof(double) + sizeof(float));
        if (d > widest) widest = d;
    }
    return bytes + widest * (widest + 1) / 2 * sizeof(float) +
           (size_t)staged_elems((int64_t)widest) * sizeof(double);
}

qs_err qs_collector_clear(qs_collector *collector)
{
    for (int s = 0; s < QS_N_SITES; s++) {
        qs_site_stats *site = &collector->sites[s];
        size_t row_bytes = (size_t)site->width * sizeof *collector->row;
        int64_t n_rows = rows_per_trip(collector, site->width);
        memset(collector->row, 0, (size_t)n_rows * row_bytes);
        qs_err err = qs_backend_upload(collector->backend, site->abs_sum, collector->row, row_bytes);
        if (err == QS_OK) err = qs_backend_upload(collector->backend, site->abs_max, collector->row, row_bytes / 2);
        for (int64_t i = 0; i < site->width && err == QS_OK; i += n_rows) {
            int64_t n = site->width - i < n_rows ? site->width - i : n_rows;
            err = qs_backend_upload(collector->backend, site->gram + i * site->width, collector->row,
                                    (size_t)n * row_bytes);
        }
        if (err != QS_OK) return err;
        site->n_tokens = 0;
    }
    return QS_OK;
}

static qs_err see(void *context, int64_t layer, qs_site which, const float *x, int64_t n, int64_t width)
{
    qs_collector *collector = context;
    qs_site_stats *site = &collector->sites[which];
    if (width != site->width)
        return qs_fail(QS_E_INPUT, "collect layer %lld %s: width %lld instead of %lld", (long long)layer,
                       qs_site_name(which), (long long)width, (long long)site->width);
    qs_err err = qs_op_gram(collector->backend, x, n, width, site->gram);
    if (err == QS_OK) err = qs_op_abs_stats(collector->backend, x, n, width, site->abs_sum, site->abs_max);
    site->n_tokens += n;
    return err;
}

qs_tap qs_collector_tap(qs_collector *collector) { return (qs_tap){.see = see, .context = collector}; }

qs_err qs_collector_gram(qs_collector *collector, int64_t layer, qs_site which, const float **packed)
{
    const qs_site_stats *site = &collector->sites[which];
    int64_t d = site->width, k = 0, n_rows = rows_per_trip(collector, d);
    for (int64_t i = 0; i < d; i++) {
        const double *row = collector->row + i % n_rows * d;
        if (i % n_rows == 0) {
            int64_t n = d - i < n_rows ? d - i : n_rows;
            qs_err err = qs_backend_download(collector->backend, collector->row, site->gram + i * d,
                                             (size_t)(n * d) * sizeof *collector->row);
            if (err != QS_OK) return err;
        }
        for (int64_t j = i; j < d; j++, k++) {
            collector->packed[k] = (float)row[j];
            if (!isfinite(collector->packed[k]))
                return qs_fail(QS_E_NUMERIC,
                               "collect layer %lld %s: second moment (%lld, %lld) is %g; the model or the "
                               "text is broken",
                               (long long)layer, qs_site_name(which), (long long)i, (long long)j, row[j]);
        }
    }
    *packed = collector->packed;
    return QS_OK;
}

qs_err qs_collector_abs_mean(qs_collector *collector, qs_site which, const float **abs_mean)
{
    const qs_site_stats *site = &collector->sites[which];
    double n_tokens = (double)(site->n_tokens > 0 ? site->n_tokens : 1);
    qs_err err = qs_backend_download(collector->backend, collector->row, site->abs_sum,
                                     (size_t)site->width * sizeof *collector->row);
    for (int64_t i = 0; i < site->width && err == QS_OK; i++)
        collector->packed[i] = (float)(collector->row[i] / n_tokens);
    *abs_mean = collector->packed;
    return err;
}

enum { CALIB_PATH_BYTES = 96, HEAD_ROWS = 2048 /* at once, as many as come from a block */ };

/* "<group>/<leaf>"; the longest fits by far. */
static const char *leaf_path(char path[CALIB_PATH_BYTES], const char *group, const char *leaf)
{
    (void)snprintf(path, CALIB_PATH_BYTES, "%s/%s", group, leaf);
    return path;
}

/* What a site holds, into `group`; the layer is for messages. */
static qs_err write_site(qs_collector *collector, int64_t layer, qs_site which, const char *group,
                         qs_artifact *artifact)
{
    const qs_site_stats *site = &collector->sites[which];
    int64_t d = site->width, n_packed = d * (d + 1) / 2;
    const float *gram;
    char path[CALIB_PATH_BYTES];
    qs_err err;
    QS_TRY(qs_collector_gram(collector, layer, which, &gram));
    QS_TRY(qs_artifact_put(artifact, leaf_path(path, group, "gram"), QS_F32, 1, &n_packed, gram));

    float *out = collector->packed; /* the second moments are written; their buffer serves the two vectors */
    const float *abs_mean;
    QS_TRY(qs_collector_abs_mean(collector, which, &abs_mean));
    QS_TRY(qs_artifact_put(artifact, leaf_path(path, group, "abs_mean"), QS_F32, 1, &d, abs_mean));
    QS_TRY(qs_backend_download(collector->backend, out, site->abs_max, (size_t)d * sizeof *out));
    QS_TRY(qs_artifact_put(artifact, leaf_path(path, group, "abs_max"), QS_F32, 1, &d, out));
    QS_TRY(qs_artifact_put_int(artifact, leaf_path(path, group, "@n_tokens"), site->n_tokens));
out:
    return err;
}

qs_err qs_collector_write(qs_collector *collector, int64_t layer, qs_artifact *artifact)
{
    char group[CALIB_PATH_BYTES];
    for (int s = 0; s < QS_N_SITES; s++) {
        (void)snprintf(group, sizeof group, "/layers/%lld/%s", (long long)layer, qs_site_name((qs_site)s));
        qs_err err = write_site(collector, layer, (qs_site)s, group, artifact);
        if (err != QS_OK) return err;
    }
    return QS_OK;
}

/* The site of q, k and v is as wide. */
qs_err qs_collector_write_head(qs_collector *collector, const float *x, int64_t n, qs_artifact *artifact)
{
    int64_t width = collector->sites[QS_SITE_QKV].width;
    qs_err err;
    QS_TRY(qs_collector_clear(collector));
    for (int64_t first = 0; first < n; first += HEAD_ROWS)
        QS_TRY(see(collector, 0, QS_SITE_QKV, x + first * width, n - first < HEAD_ROWS ? n - first : HEAD_ROWS, width));
    err = write_site(collector, 0, QS_SITE_QKV, QS_CALIB_HEAD, artifact);
out:
    return qs_context(err, "statistics of the head's input");
}
