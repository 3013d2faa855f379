/* One configuration as the report sees it: everything that its eval artifact says, without the big arrays. */
#ifndef QS_REPORT_CONFIG_ROW_H
#define QS_REPORT_CONFIG_ROW_H

#include "base/file.h"
#include "base/hash.h"
#include "metric/raced.h"

enum { QS_CONFIG_TEXT_BYTES = 512, QS_MEASURE_NAME_BYTES = 64 };

/* Quantiles that tell how times are spread: 5, 25, 50, 75 and 95 %. */
enum { QS_SPREAD_P05, QS_SPREAD_P25, QS_SPREAD_P50, QS_SPREAD_P75, QS_SPREAD_P95, QS_N_SPREAD };
extern const double qs_spread_shares[QS_N_SPREAD];

typedef struct qs_measure {
    char name[QS_MEASURE_NAME_BYTES];
    qs_estimate estimate;
    bool timing; /* varies from run to run */
    bool fact;   /* not a sample: it has no uncertainty */
} qs_measure;

/* What two artifacts must share to stand in one table. */
typedef struct qs_frame {
    char model[QS_CONFIG_TEXT_BYTES], architecture[QS_CONFIG_TEXT_BYTES], storage[QS_CONFIG_TEXT_BYTES];
    char protocol[QS_CONFIG_TEXT_BYTES], bos[QS_CONFIG_TEXT_BYTES], compute[QS_CONFIG_TEXT_BYTES];
    char text[QS_CONFIG_TEXT_BYTES]; /* digest of the evaluation text */
    char tokenizer[QS_CONFIG_TEXT_BYTES];
    char encoder[QS_CONFIG_TEXT_BYTES]; /* of distances; empty where none were measured */
    char chat[QS_CONFIG_TEXT_BYTES];    /* template of prompts, "none" for plain ones; empty where nothing was asked */
    int64_t n_ctx, n_windows, n_scored, n_weights, n_weights_total;
    bool lattice;
    qs_digest model_digest, tokens; /* of the model, of the windows' token ids */
    bool has_tokens;
} qs_frame;

typedef struct qs_config_row {
    char path[QS_PATH_BYTES];
    char id[QS_CONFIG_TEXT_BYTES], method[QS_CONFIG_TEXT_BYTES], variant[QS_CONFIG_TEXT_BYTES];
    bool reference;           /* full precision */
    int64_t bits, group_size; /* 0 for the reference; group -1 = the whole row */
    int64_t bytes;
    double bpw, bpw_total;
    char backend[QS_CONFIG_TEXT_BYTES], device[QS_CONFIG_TEXT_BYTES],
        kernel[QS_CONFIG_TEXT_BYTES]; /* "" = not timed */
    int64_t n_threads;
    double quantize_s; /* NaN when not recorded */
    bool packed;       /* measured from a quant artifact or a checkpoint, not from a simulation */
    bool has_baseline; /* names the reference artifact that it was compared with */
    qs_digest digest, baseline;
    char *command; /* of the evaluation; NULL when not recorded */
    char corpus[QS_CONFIG_TEXT_BYTES];  /* digest of what was retrieved from; "" = nothing */
    char build[QS_CONFIG_TEXT_BYTES];   /* program and kernels that evaluated it; "" = not recorded */
    qs_frame frame;
    qs_raced raced; /* of a race; its figures may be means over a part of the frame's windows */

    int64_t n_measures;
    qs_measure *measures; /* [n_measures] */
    int64_t n_windows, n_scored_per_window;
    double *window_nll; /* [n_windows], sum over the scored positions; NULL when not stored */
    int64_t n_layers;
    double *loss;                   /* [n_layers, QS_N_LINEARS]; NULL when not stored */
    double reference_decode_ms_p50; /* of the reference, interleaved with this one's timing; NaN when not
                                       timed */
    int64_t n_decoded;                           /* tokens that were timed; 0 = none are on record */
    double decode_ms_spread[QS_N_SPREAD];        /* quantiles of their times, NaN without them */
} qs_config_row;

/* Tokens that the figures of quality rest on; 0 = none were scored. */
int64_t qs_config_row_tokens(const qs_config_row *row);

/* QS_E_INPUT when the artifact is unusable; the text names file and cause. Free also after failure. */
QS_MUST_CHECK qs_err qs_config_row_load(qs_config_row *out, const char *path);
void qs_config_row_free(qs_config_row *row);

/* The measure with this name, or NULL when it was not measured. Besides the metrics of the artifact there are
 * the facts calibration_size, calibration_js, calibration_median_ratio, qa_pairs, tokenizer_same and
 * loss_attention (mean loss of q, k, v and o over that of the other matrices), and those of
 * qs_config_row_compare. */
const qs_measure *qs_config_row_find(const qs_config_row *row, const char *name);
/* Its value, or NaN. */
double qs_config_row_value(const qs_config_row *row, const char *name);

/* Whether a gate's metric is one of these facts. */
bool qs_config_row_is_fact(const char *name);
/* Whether this version measures anything of this name: a metric, a fact, or a figure of an optimizer comparison. */
bool qs_config_row_is_known(const char *name);

/* Adds the facts that two artifacts tell together, where both say enough: index_same, whether both were
 * retrieved from one revision of the corpus (checklist E7), and build_same, whether one program with the same
 * kernels evaluated them (E10). */
void qs_config_row_compare(qs_config_row *row, const qs_config_row *reference);

/* Whether answers were asked for in a chat template. */
bool qs_frame_is_chat(const qs_frame *frame);
/* QS_OK, or QS_E_INPUT that names both files and what differs: model, tokens, protocol or how prompts are written. */
QS_MUST_CHECK qs_err qs_config_row_check_same_frame(const qs_config_row *a, const qs_config_row *b);

#endif
