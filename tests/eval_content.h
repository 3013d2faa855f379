/* Small eval artifacts for the tests of the report: a reference and configurations with chosen figures. */
#ifndef QS_TESTS_EVAL_CONTENT_H
#define QS_TESTS_EVAL_CONTENT_H

#include <stdio.h>

#include "metric/metrics.h"

enum { EVAL_WINDOWS = 8, EVAL_CTX = 5, EVAL_SCORED = 4, EVAL_LAYERS = 2, EVAL_LINEARS = 7 };

/* One configuration. Zero or NULL leaves a value out. */
typedef struct eval_spec {
    const char *id, *method, *variant;
    int64_t bits, group_size, bytes;
    double bpw, bpw_total;
    double nll_shift; /* added to every token's NLL, more in odd and in late windows */
    double loss;      /* of the first matrix, the others twice, three times ... */
    qs_estimate ppl, ppl_ratio, kld_mean, acc_loss_pct, decode_ms, latency_gain_pct;
    const char *extra_metric; /* any metric, also one that this version has no row for */
    qs_estimate extra;
    int64_t calibration_size;
    const char *device, *protocol; /* defaults: "test CPU", "hf" */
    uint64_t model, tokens;        /* change them to make another model, other windows */
    bool lattice, no_nll;
    int64_t n_items, n_probed;                             /* of questions, for `more` */
    qs_err (*more)(qs_artifact *a, const struct eval_spec *s); /* adds to the artifact (question_content.h) */
} eval_spec;

static inline qs_err eval_put_estimate(qs_artifact *a, const char *name, bool timing, const qs_estimate *e)
{
    qs_metric metric = {.name = name, .timing = timing};
    return e->n != 0 ? qs_metric_put(a, &metric, e) : QS_OK;
}

static inline qs_err eval_put_config(qs_artifact *a, const eval_spec *s)
{
    qs_err err;
    QS_TRY(qs_artifact_put_text(a, "/config/@id", s->id));
    QS_TRY(qs_artifact_put_text(a, "/config/@method", s->method));
    QS_TRY(qs_artifact_put_text(a, "/config/@variant", s->variant != NULL ? s->variant : ""));
    QS_TRY(qs_artifact_put_int(a, "/config/@bits", s->bits));
    QS_TRY(qs_artifact_put_int(a, "/config/@group_size", s->group_size));
    QS_TRY(qs_artifact_put_int(a, "/config/@bytes", s->bytes));
    QS_TRY(qs_artifact_put_real(a, "/config/@bpw", s->bpw));
    QS_TRY(qs_artifact_put_real(a, "/config/@bpw_total", s->bpw_total));
    if (s->calibration_size > 0)
        QS_TRY(qs_artifact_put_int(a, "/calibration/@n_samples", s->calibration_size));
    QS_TRY(qs_artifact_put_text(a, "/model/@name", "tiny"));
    QS_TRY(qs_artifact_put_text(a, "/model/@architecture", "llama"));
    QS_TRY(qs_artifact_put_text(a, "/model/@storage", s->lattice ? "q4_1" : "f16"));
    QS_TRY(qs_artifact_put_int(a, "/model/@lattice", s->lattice));
    QS_TRY(qs_artifact_put_text(a, "/protocol/@name", s->protocol != NULL ? s->protocol : "hf"));
    QS_TRY(qs_artifact_put_text(a, "/protocol/@bos", "once"));
    QS_TRY(qs_artifact_put_text(a, "/protocol/@compute", "f32"));
    QS_TRY(qs_artifact_put_text(a, "/protocol/@text", "0123456789abcdef0123456789abcdef"));
    QS_TRY(qs_artifact_put_int(a, "/protocol/@n_ctx", EVAL_CTX));
    QS_TRY(qs_artifact_put_int(a, "/protocol/@n_windows", EVAL_WINDOWS));
    QS_TRY(qs_artifact_put_int(a, "/protocol/@n_scored", EVAL_WINDOWS * EVAL_SCORED));
    QS_TRY(qs_artifact_add_parent(a, "model", "tiny", (qs_digest){.low = 1 + s->model, .high = 2}));
    if (s->bits > 0) QS_TRY(qs_artifact_add_parent(a, "quant", s->id, (qs_digest){.low = 3, .high = 4}));
out:
    return err;
}

static inline qs_err eval_put_metrics(qs_artifact *a, const eval_spec *s)
{
    qs_err err;
    qs_estimate prefill = {1000, 990, 1010, 5}, bytes = {123456789, 123456789, 123456789, 1},
                visible = {1, 1, 1, 1};
    QS_TRY(eval_put_estimate(a, "ppl", false, &s->ppl));
    QS_TRY(eval_put_estimate(a, "ppl_ratio", false, &s->ppl_ratio));
    QS_TRY(eval_put_estimate(a, "kld_mean", false, &s->kld_mean));
    QS_TRY(eval_put_estimate(a, "acc_loss_pct", false, &s->acc_loss_pct));
    if (s->extra_metric != NULL) QS_TRY(eval_put_estimate(a, s->extra_metric, false, &s->extra));
    QS_TRY(eval_put_estimate(a, "decode_ms_tok_p50", true, &s->decode_ms));
    QS_TRY(eval_put_estimate(a, "latency_gain_pct", true, &s->latency_gain_pct));
    if (s->decode_ms.n == 0) goto out;
    QS_TRY(eval_put_estimate(a, "prefill_tok_s", true, &prefill));
    QS_TRY(eval_put_estimate(a, "mem_peak", true, &bytes));
    QS_TRY(eval_put_estimate(a, "savings_visible", true, &visible));
    QS_TRY(qs_artifact_put_text(a, "/timing/@backend", "cpu"));
    QS_TRY(qs_artifact_put_text(a, "/timing/@device", s->device != NULL ? s->device : "test CPU"));
    QS_TRY(qs_artifact_put_text(a, "/timing/@kernel", "plain"));
    QS_TRY(qs_artifact_put_int(a, "/timing/@n_threads", 2));
    QS_TRY(qs_artifact_put_real(a, "/timing/@quantize_s", 1.5));
out:
    return err;
}

static inline qs_err eval_put_arrays(qs_artifact *a, const eval_spec *s)
{
    const int64_t ids_dims[] = {EVAL_WINDOWS, EVAL_CTX}, nll_dims[] = {EVAL_WINDOWS, EVAL_SCORED},
                  loss_dims[] = {EVAL_LAYERS, EVAL_LINEARS}, n_samples = 3;
    const double reference_ms[] = {12, 10, 14};
    int32_t ids[EVAL_WINDOWS * EVAL_CTX];
    float nll[EVAL_WINDOWS * EVAL_SCORED];
    double loss[EVAL_LAYERS * EVAL_LINEARS];
    qs_err err;
    for (int i = 0; i < EVAL_WINDOWS * EVAL_CTX; i++) ids[i] = i + (int32_t)s->tokens;
    for (int i = 0; i < EVAL_WINDOWS * EVAL_SCORED; i++) {
        int window = i / EVAL_SCORED;
        nll[i] = (float)(2.0 + 0.125 * window + 0.0625 * (i % EVAL_SCORED) +
                         s->nll_shift * (1.0 + 0.25 * (window % 2) + 0.125 * (window / 4)));
    }
    for (int i = 0; i < EVAL_LAYERS * EVAL_LINEARS; i++) loss[i] = s->loss * (i + 1);
    QS_TRY(qs_artifact_put(a, "/tokens/ids", QS_I32, 2, ids_dims, ids));
    if (!s->no_nll) QS_TRY(qs_artifact_put(a, "/tokens/nll", QS_F32, 2, nll_dims, nll));
    if (s->bits > 0) QS_TRY(qs_artifact_put(a, "/layers/loss", QS_F64, 2, loss_dims, loss));
    if (s->latency_gain_pct.n > 0)
        QS_TRY(qs_artifact_put(a, "/timing/reference_decode_ms", QS_F64, 1, &n_samples, reference_ms));
out:
    return err;
}

static inline qs_err eval_write(const char *path, const eval_spec *spec)
{
    qs_artifact *a;
    qs_digest digest;
    qs_err err = qs_artifact_create(&a, path, QS_KIND_EVAL);
    if (err != QS_OK) return err;
    QS_TRY(eval_put_config(a, spec));
    QS_TRY(eval_put_metrics(a, spec));
    QS_TRY(eval_put_arrays(a, spec));
    if (spec->more != NULL) QS_TRY(spec->more(a, spec));
out:
    if (err == QS_OK) return qs_artifact_seal(a, &digest);
    qs_artifact_abort(a);
    return err;
}

/* ---- a sweep ---- */

enum { EVAL_FP, EVAL_RTN, EVAL_GPTQ4, EVAL_GPTQ3, EVAL_GPTQ2, EVAL_N_SPECS };

static const eval_spec eval_specs[EVAL_N_SPECS] = {
    [EVAL_FP] = {.id = "fp",
                 .method = "fp",
                 .bpw = 16,
                 .bpw_total = 16,
                 .bytes = 2000000,
                 .ppl = {12.5, 11, 14, 8},
                 .ppl_ratio = {1, 1, 1, 8},
                 .kld_mean = {0, 0, 0, 8},
                 .decode_ms = {12, 11.5, 12.5, 30}},
    [EVAL_RTN] = {.id = "rtn-b4-g64-sym",
                  .method = "rtn",
                  .variant = "sym",
                  .bits = 4,
                  .group_size = 64,
                  .bpw = 4.25,
                  .bpw_total = 5.5,
                  .bytes = 700000,
                  .nll_shift = 0.0625,
                  .loss = 0.02,
                  .ppl = {13.4101, 12, 15, 8},
                  .ppl_ratio = {1.07281, 1.06, 1.09, 8},
                  .kld_mean = {0.05, 0.04, 0.06, 8},
                  .acc_loss_pct = {2.5, 1, 4, 8},
                  .decode_ms = {8, 7.9, 8.1, 30},
                  .latency_gain_pct = {33.3, 30, 36, 30},
                  .calibration_size = 128},
    [EVAL_GPTQ4] = {.id = "gptq-b4-g64-sym",
                    .method = "gptq",
                    .variant = "sym",
                    .bits = 4,
                    .group_size = 64,
                    .bpw = 4.25,
                    .bpw_total = 5.5,
                    .bytes = 700000,
                    .nll_shift = 0.0078125,
                    .loss = 0.005,
                    .ppl = {12.6104, 11.1, 14.1, 8},
                    .ppl_ratio = {1.00883, 1.001, 1.02, 8},
                    .kld_mean = {0.0123456789, 0.01, 0.015, 8},
                    .acc_loss_pct = {0.5, -0.5, 1.5, 8},
                    .decode_ms = {8.1, 8, 8.2, 30},
                    .latency_gain_pct = {32.5, 30, 35, 30},
                    .calibration_size = 128},
    [EVAL_GPTQ3] = {.id = "gptq-b3-g64-sym",
                    .method = "gptq",
                    .variant = "sym",
                    .bits = 3,
                    .group_size = 64,
                    .bpw = 3.25,
                    .bpw_total = 4.75,
                    .bytes = 600000,
                    .nll_shift = 0.0625,
                    .loss = 0.015,
                    .ppl = {13.4101, 12, 15, 8},
                    .ppl_ratio = {1.07281, 1.03, 1.11, 8},
                    .kld_mean = {0.06, 0.05, 0.07, 8},
                    .acc_loss_pct = {3, 1, 5.5, 8},
                    .decode_ms = {7, 6.9, 7.1, 30},
                    .latency_gain_pct = {41.7, 40, 43, 30},
                    .calibration_size = 128},
    [EVAL_GPTQ2] = {.id = "gptq-b2-g64-sym",
                    .method = "gptq",
                    .variant = "sym",
                    .bits = 2,
                    .group_size = 64,
                    .bpw = 2.25,
                    .bpw_total = 4,
                    .bytes = 500000,
                    .nll_shift = 1,
                    .loss = 0.2,
                    .ppl = {38.5027, 35, 42, 8},
                    .ppl_ratio = {3.0802168, 2.7, 3.5, 8},
                    .kld_mean = {0.9, 0.8, 1, 8},
                    .acc_loss_pct = {40, 35, 45, 8},
                    .decode_ms = {6, 5.9, 6.1, 30},
                    .latency_gain_pct = {50, 48, 52, 30},
                    .calibration_size = 64},
};

#endif
