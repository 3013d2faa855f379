/* Statistics that calibration collects for each linear input. One pass serves every method and grid point; a
 * method names what it needs (quant/methods.h), calibrate collects all rows of this table. */
#ifndef QS_STAT_STATS_H
#define QS_STAT_STATS_H

#include <stdint.h>

#include "artifact/artifact.h"
#include "model/block.h"

/* Where those of the head's input are, beside "/layers/<l>/<site>". */
#define QS_CALIB_HEAD "/layers/outer/lm_head"

typedef struct qs_stat {
    const char *name; /* dataset under /layers/<l>/<site>/, and of the head's input */
    const char *text;
} qs_stat;
extern const qs_stat qs_stats[]; /* ends with name == NULL */

/* Running statistics of one site, on the device. */
typedef struct qs_site_stats {
    int64_t width, n_tokens;
    double *gram;    /* [width, width], upper triangle: sum x x^T */
    double *abs_sum; /* [width] */
    float *abs_max;  /* [width] */
} qs_site_stats;

/* Accumulators for the four sites of a layer, used as a tap of qs_block_forward and cleared between layers. */
typedef struct qs_collector {
    qs_backend *backend;
    qs_site_stats sites[QS_N_SITES];
    float *packed; /* host, the largest site's upper triangle */
    double *row;   /* host [n_row]: rows on their way */
    int64_t n_row;
} qs_collector;

QS_MUST_CHECK qs_err qs_collector_init(qs_collector *collector, qs_backend *backend, const qs_model_config *config);
void qs_collector_fini(qs_collector *collector);
size_t qs_collector_bytes(const qs_model_config *config);
QS_MUST_CHECK qs_err qs_collector_clear(qs_collector *collector);
qs_tap qs_collector_tap(qs_collector *collector);

/* The site's second moments as f32, upper triangle by rows [width * (width + 1) / 2]; borrowed, valid until the
 * next call. QS_E_NUMERIC names layer and site of a NaN, Inf or overflow. */
QS_MUST_CHECK qs_err qs_collector_gram(qs_collector *collector, int64_t layer, qs_site site, const float **packed);

/* The mean over tokens of |x| [width] of a site; borrowed, valid until the next call of this or the above. */
QS_MUST_CHECK qs_err qs_collector_abs_mean(qs_collector *collector, qs_site site, const float **abs_mean);

/* Writes all statistics of a layer into a calib artifact. */
QS_MUST_CHECK qs_err qs_collector_write(qs_collector *collector, int64_t layer, qs_artifact *artifact);

/* The input of the output head, x [n, d_model] (device) after the final norm: collected after the last layer, in memory
 * that its sites no longer need, and written. */
QS_MUST_CHECK qs_err qs_collector_write_head(qs_collector *collector, const float *x, int64_t n, qs_artifact *artifact);

#endif
