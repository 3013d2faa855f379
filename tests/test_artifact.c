/* Artifacts: what is written is read back, equal inputs have equal digests, and a bad file is refused by name. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "artifact/artifact.h"
#include "base/file.h"
#include "base/mem.h"
#include "base/rng.h"

#define OK(call) assert_ok((call), #call, __LINE__)

static void assert_ok(qs_err err, const char *what, int line)
{
    if (err != QS_OK) fail_msg("line %d: %s: %s: %s", line, what, qs_err_name(err), qs_error_text());
}

static char dir[64]; /* of this run */

static const char *in_dir(char path[QS_PATH_BYTES], const char *name)
{
    OK(qs_path_format(path, "%s/%s", dir, name));
    return path;
}

/* ---- a small quant artifact, put in any order ---- */

enum { N_OUT = 40, N_IN = 4096, N_GROUPS = 32, N_PUTS = 12 };

typedef struct content {
    uint8_t codes[N_OUT * N_IN / 2]; /* 80 KiB: chunked */
    uint16_t scales[N_OUT * N_GROUPS]; /* 2560 bytes: compact */
    int32_t perm[N_IN];
    double loss;
    int64_t bits;
    char text[32];
    qs_digest parent;
} content;

static void content_init(content *c)
{
    for (int64_t i = 0; i < (int64_t)sizeof c->codes; i++) c->codes[i] = (uint8_t)qs_rng_below(1, (uint64_t)i, 256);
    for (int64_t i = 0; i < N_OUT * N_GROUPS; i++)
        c->scales[i] = qs_f16_from_f32((float)qs_rng_normal(2, (uint64_t)i) * 0.01f);
    for (int64_t i = 0; i < N_IN; i++) c->perm[i] = (int32_t)(N_IN - 1 - i);
    c->loss = 0.125;
    c->bits = 4;
    (void)strcpy(c->text, "rtn-b4-g128-sym");
    c->parent = (qs_digest){.low = 7, .high = 9};
}

static qs_err put_one(qs_artifact *a, const content *c, int which)
{
    const int64_t codes_dims[2] = {N_OUT, N_IN / 2}, scales_dims[2] = {N_OUT, N_GROUPS}, perm_dims[1] = {N_IN};
    switch (which) {
    case 0: return qs_artifact_put(a, "/layers/0/q/codes", QS_U8, 2, codes_dims, c->codes);
    case 1: return qs_artifact_put(a, "/layers/0/q/scales", QS_F16, 2, scales_dims, c->scales);
    case 2: return qs_artifact_put(a, "/layers/0/q/perm", QS_I32, 1, perm_dims, c->perm);
    case 3: return qs_artifact_put_real(a, "/layers/0/q/@loss", c->loss);
    case 4: return qs_artifact_put_int(a, "/spec/@bits", c->bits);
    case 5: return qs_artifact_put_text(a, "/spec/@id", c->text);
    case 6: return qs_artifact_put(a, "/layers/1/q/perm", QS_I32, 1, perm_dims, c->perm);
    case 7: return qs_artifact_put_real(a, "/timing/@quantize_s", 1.5);
    case 8: return qs_artifact_add_parent(a, "model", "model.gguf", c->parent);
    case 9: return qs_artifact_put_text(a, "/model/@name", "");
    case 10: return qs_artifact_put_int(a, "/spec/@group_size", -1);
    default: return qs_artifact_put_real(a, "/spec/@bpw", 4.125);
    }
}

/* seed 0: in the order above */
static qs_digest write_content(const char *path, const content *c, uint64_t seed)
{
    int order[N_PUTS];
    for (int i = 0; i < N_PUTS; i++) order[i] = i;
    for (int i = N_PUTS - 1; i > 0 && seed != 0; i--) {
        int j = (int)qs_rng_below(seed, (uint64_t)i, i + 1), kept = order[i];
        order[i] = order[j];
        order[j] = kept;
    }
    qs_artifact *a;
    qs_digest digest;
    OK(qs_artifact_create(&a, path, QS_KIND_QUANT));
    for (int i = 0; i < N_PUTS; i++) OK(put_one(a, c, order[i]));
    OK(qs_artifact_seal(a, &digest));
    return digest;
}

static bool same_digest(qs_digest a, qs_digest b) { return a.low == b.low && a.high == b.high; }

static void test_round_trip(void **state)
{
    (void)state;
    char path[QS_PATH_BYTES], text[64];
    static content c, back;
    content_init(&c);
    qs_digest digest = write_content(in_dir(path, "a.quant.h5"), &c, 0), parent;
    OK(qs_artifact_verify(path));

    qs_artifact *a;
    OK(qs_artifact_open(&a, path, QS_KIND_QUANT));
    assert_int_equal(qs_artifact_get_kind(a), QS_KIND_QUANT);
    assert_true(same_digest(qs_artifact_digest(a), digest));
    OK(qs_artifact_read(a, "/layers/0/q/codes", QS_U8, back.codes, sizeof back.codes));
    assert_memory_equal(back.codes, c.codes, sizeof c.codes);
    OK(qs_artifact_read(a, "/layers/0/q/scales", QS_F16, back.scales, N_OUT * N_GROUPS));
    assert_memory_equal(back.scales, c.scales, sizeof c.scales);
    OK(qs_artifact_read_rows(a, "/layers/0/q/codes", QS_U8, 7, 2, back.codes));
    assert_memory_equal(back.codes, c.codes + 7 * N_IN / 2, N_IN);
    OK(qs_artifact_get_real(a, "/layers/0/q/@loss", &back.loss));
    assert_true(back.loss == c.loss);
    OK(qs_artifact_get_int(a, "/spec/@bits", &back.bits));
    assert_int_equal(back.bits, 4);
    OK(qs_artifact_get_text(a, "/spec/@id", text, sizeof text));
    assert_string_equal(text, c.text);
    OK(qs_artifact_get_text(a, "/model/@name", text, sizeof text));
    assert_string_equal(text, "");
    OK(qs_artifact_get_parent(a, "model", &parent));
    assert_true(same_digest(parent, c.parent));
    assert_true(qs_artifact_has(a, "/provenance/@created"));
    qs_artifact_close(a);
}

static void test_digest_ignores_order(void **state)
{
    (void)state;
    char path[QS_PATH_BYTES];
    static content c;
    content_init(&c);
    qs_digest first = write_content(in_dir(path, "order.quant.h5"), &c, 0);
    for (uint64_t seed = 1; seed <= 20; seed++) {
        assert_true(same_digest(first, write_content(path, &c, seed)));
        OK(qs_artifact_verify(path));
    }
}

int main(void)
{
    (void)snprintf(dir, sizeof dir, "%s/qsweep-artifact-XXXXXX", "/tmp");
    if (mkdtemp(dir) == NULL) return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_digest_ignores_order),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
