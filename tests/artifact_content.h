/* A small quant artifact for the tests, and a scratch directory that goes away with them. */
#ifndef QS_TESTS_ARTIFACT_CONTENT_H
#define QS_TESTS_ARTIFACT_CONTENT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <ftw.h>
#include <unistd.h>

#include "artifact/artifact.h"
#include "base/file.h"
#include "base/rng.h"

#define OK(call) content_assert((call), QS_OK, #call, __LINE__)
#define FAILS(code, call) content_assert((call), (code), #call, __LINE__)

static void content_assert(qs_err err, qs_err wanted, const char *what, int line)
{
    if (err != wanted)
        fail_msg("line %d: %s: %s, not %s: %s", line, what, qs_err_name(err), qs_err_name(wanted),
                 err != QS_OK ? qs_error_text() : "");
}

/* The last error's text must hold every one of the words. */
static inline void assert_text_holds(const char *const *words)
{
    for (; *words != NULL; words++)
        if (strstr(qs_error_text(), *words) == NULL) fail_msg("\"%s\" is not in \"%s\"", *words, qs_error_text());
    assert_null(strchr(qs_error_text(), '\n'));
}
#define TEXT_HOLDS(...) assert_text_holds((const char *const[]){__VA_ARGS__, NULL})

/* ---- scratch directory ---- */

static char scratch_dir[256];

static inline int scratch_create(void **state)
{
    (void)state;
    const char *base = getenv("TMPDIR");
    (void)snprintf(scratch_dir, sizeof scratch_dir, "%s/qsweep-test-XXXXXX", base != NULL ? base : "/tmp");
    return mkdtemp(scratch_dir) == NULL;
}

static inline int scratch_remove_entry(const char *path, const struct stat *info, int type, struct FTW *at)
{
    (void)info;
    (void)type;
    (void)at;
    return remove(path);
}

static inline int scratch_remove(void **state)
{
    (void)state;
    return nftw(scratch_dir, scratch_remove_entry, 16, FTW_DEPTH | FTW_PHYS);
}

typedef char scratch_path[QS_PATH_BYTES];

static inline const char *scratch(scratch_path path, const char *name)
{
    OK(qs_path_format(path, "%s/%s", scratch_dir, name));
    return path;
}

static inline void file_write(const char *path, const void *data, size_t bytes)
{
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(data, 1, bytes, file), bytes);
    assert_int_equal(fclose(file), 0);
}

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
    const int64_t codes_dims[2] = {N_OUT, N_IN / 2}, scales_dims[2] = {N_OUT, N_GROUPS}, perm_dims[1] = {N_IN};
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
