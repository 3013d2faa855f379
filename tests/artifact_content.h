/* A small quant artifact for the tests. */
#ifndef QS_TESTS_ARTIFACT_CONTENT_H
#define QS_TESTS_ARTIFACT_CONTENT_H

#include "scratch.h"

#include "artifact/artifact.h"
#include "base/rng.h"

/* ---- content ---- */

enum { N_OUT = 40, N_IN = 4096, N_GROUPS = 32, CODES_BYTES = N_OUT * N_IN / 2, N_PUTS = 14 };

typedef struct content {
    uint8_t codes[CODES_BYTES];        /* 80 KiB: chunked */
    uint16_t scales[N_OUT * N_GROUPS]; /* 2560 bytes: in the object header */
    int32_t perm[N_IN];                /* 16 KiB: chunked, shuffled */
    double loss;
    int64_t bits;
    char id[32];
    qs_digest parent;
} content;

static inline void content_init(content *c)
{
    memset(c, 0, sizeof *c); /* contents are compared bytewise */
    for (int64_t i = 0; i < CODES_BYTES; i++) c->codes[i] = (uint8_t)qs_rng_below(1, (uint64_t)i, 256);
    for (int64_t i = 0; i < N_OUT * N_GROUPS; i++)
        c->scales[i] = qs_f16_from_f32((float)qs_rng_normal(2, (uint64_t)i) * 0.01f);
    for (int32_t i = 0; i < N_IN; i++) c->perm[i] = N_IN - 1 - i;
    c->loss = 0.125;
    c->bits = 4;
    (void)snprintf(c->id, sizeof c->id, "rtn-b4-g128-sym");
    c->parent = (qs_digest){.low = 7, .high = 9};
}

static inline qs_err content_put_one(qs_artifact *a, const content *c, int which)
{
    const int64_t codes_dims[2] = {N_OUT, N_IN / 2}, scales_dims[2] = {N_OUT, N_GROUPS},
                  perm_dims[1] = {N_IN};
    switch (which) {
    case 0: return qs_artifact_put(a, "/layers/0/q/codes", QS_U8, 2, codes_dims, c->codes);
    case 1: return qs_artifact_put(a, "/layers/0/q/scales", QS_F16, 2, scales_dims, c->scales);
    case 2: return qs_artifact_put(a, "/layers/0/q/perm", QS_I32, 1, perm_dims, c->perm);
    case 3: return qs_artifact_put_real(a, "/layers/0/q/@loss", c->loss);
    case 4: return qs_artifact_put_int(a, "/spec/@bits", c->bits);
    case 5: return qs_artifact_put_text(a, "/spec/@id", c->id);
    case 6: return qs_artifact_put(a, "/layers/1/q/perm", QS_I32, 1, perm_dims, c->perm);
    case 7: return qs_artifact_put_real(a, "/timing/@quantize_s", 1.5);
    case 8: return qs_artifact_add_parent(a, "model", "model.gguf", c->parent);
    case 9: return qs_artifact_put_text(a, "/model/@name", "");
    case 10: return qs_artifact_put_int(a, "/spec/@group_size", -1);
    case 11: return qs_artifact_put_text(a, "/provenance/@created", "2026-01-31T12:00:00Z");
    case 12: return qs_artifact_put_text(a, "/provenance/@host", "here");
    default: return qs_artifact_put_real(a, "/spec/@bpw", 4.125);
    }
}

/* Order 0 is the order above, others are shuffles of it. */
static inline qs_err content_write(const char *path, const content *c, uint64_t order_seed, qs_digest *digest)
{
    int order[N_PUTS];
    for (int i = 0; i < N_PUTS; i++) order[i] = i;
    for (int i = N_PUTS - 1; i > 0 && order_seed != 0; i--) {
        int j = (int)qs_rng_below(order_seed, (uint64_t)i, i + 1), kept = order[i];
        order[i] = order[j];
        order[j] = kept;
    }
    qs_artifact *a;
    qs_err err = qs_artifact_create(&a, path, QS_KIND_QUANT);
    if (err != QS_OK) return err;
    for (int i = 0; i < N_PUTS && err == QS_OK; i++) err = content_put_one(a, c, order[i]);
    if (err == QS_OK) return qs_artifact_seal(a, digest);
    qs_artifact_abort(a);
    return err;
}

/* Opens and reads everything back. */
static inline qs_err content_read(const char *path, content *c)
{
    qs_artifact *a;
    int32_t *perm = c->perm;
    qs_err err = qs_artifact_open(&a, path, QS_KIND_QUANT);
    if (err != QS_OK) return err;
    memset(c, 0, sizeof *c);
    QS_TRY(qs_artifact_read(a, "/layers/0/q/codes", QS_U8, c->codes, CODES_BYTES));
    QS_TRY(qs_artifact_read(a, "/layers/0/q/scales", QS_F16, c->scales, N_OUT * N_GROUPS));
    QS_TRY(qs_artifact_read(a, "/layers/1/q/perm", QS_I32, perm, N_IN));
    QS_TRY(qs_artifact_read(a, "/layers/0/q/perm", QS_I32, perm, N_IN));
    QS_TRY(qs_artifact_get_real(a, "/layers/0/q/@loss", &c->loss));
    QS_TRY(qs_artifact_get_int(a, "/spec/@bits", &c->bits));
    QS_TRY(qs_artifact_get_text(a, "/spec/@id", c->id, sizeof c->id));
    QS_TRY(qs_artifact_get_parent(a, "model", &c->parent));
out:
    qs_artifact_close(a);
    return err;
}

static inline bool same_digest(qs_digest a, qs_digest b) { return a.low == b.low && a.high == b.high; }

#endif
