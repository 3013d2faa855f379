/* calib.h5: what calibration decided and collected. Written layer by layer, read one site at a time. */
#ifndef QS_STAT_CALIB_FILE_H
#define QS_STAT_CALIB_FILE_H

#include "artifact/artifact.h"
#include "model/block.h"

/* Everything that determines the statistics besides the model. */
typedef struct qs_calib_plan {
    int64_t n_samples, seqlen, seed;
    int64_t n_text_tokens, n_distinct_tokens;
    const int32_t *windows;     /* [n_samples, seqlen] */
    const char *compute;        /* precision of the layers' products: qs_compute_name */
    const char *propagate_spec; /* canonical text of the propagated spec; "" = full-precision statistics */
} qs_calib_plan;

/* True when `path` holds a sealed artifact of this model and plan, with all statistics that this version collects:
 * the work is done already. A missing, foreign or broken file is not an error here. */
bool qs_calib_is_current(const char *path, qs_model *model, const qs_calib_plan *plan);

/* Creates the artifact and writes all of the plan; statistics follow through qs_collector_write. */
QS_MUST_CHECK qs_err qs_calib_create(qs_artifact **out, const char *path, qs_model *model, const qs_calib_plan *plan);

typedef struct qs_calib_file qs_calib_file;

/* Opens and checks that it was made from this model. */
QS_MUST_CHECK qs_err qs_calib_file_open(qs_calib_file **out, const char *path, qs_model *model);
void qs_calib_file_close(qs_calib_file *file);
const qs_artifact *qs_calib_file_artifact(const qs_calib_file *file);

/* Second moments of a site, upper triangle by rows; borrowed until the next call. */
QS_MUST_CHECK qs_err qs_calib_file_gram(qs_calib_file *file, int64_t layer, qs_site site, const float **packed,
                                        int64_t *n_tokens);

/* The same of the output head's input. QS_E_INPUT when the file has none: it was made by an older version. */
QS_MUST_CHECK qs_err qs_calib_file_head_gram(qs_calib_file *file, const float **packed, int64_t *n_tokens);
bool qs_calib_file_has_head(const qs_calib_file *file);

/* The mean size of a site's input [width]; borrowed until the next call of this or the above. */
QS_MUST_CHECK qs_err qs_calib_file_abs_mean(qs_calib_file *file, int64_t layer, qs_site site, const float **abs_mean);

/* Beginnings of windows[n_samples, seqlen], evenly spread: tokens[*n_windows, *n_ctx], of which there will be no
 * more than are asked for; both get how many there are. */
void qs_calib_spread_tokens(const int32_t *windows, int64_t n_samples, int64_t seqlen, int64_t *n_windows,
                            int64_t *n_ctx, int32_t *tokens);
/* The same of a file's windows: tokens[*n_windows, *n_ctx], of which there will be no more than are asked for; both
 * get how many there are. */
QS_MUST_CHECK qs_err qs_calib_file_tokens(const qs_calib_file *file, int64_t *n_windows, int64_t *n_ctx,
                                          int32_t *tokens);

/* Copies the attributes that gates judge (sample count, window length, divergence to production) into an artifact
 * made from this one; those that are absent stay absent. `from` may be a calib or a quant artifact. */
QS_MUST_CHECK qs_err qs_calib_copy_record(const qs_artifact *from, qs_artifact *to);

#endif
