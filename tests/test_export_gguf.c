/* GGUF export: what is written is what the reader (test_gguf.c, against peers' files) gives back, number by number; the
 * metadata give the parent's configuration and tokens; refusals. Checklist A20. */
#include "tests/export_fixtures.h"

#include <math.h>

#include "export/gguf_blocks.h"
#include "model/gguf.h"

static float *read_all(const qs_model *model, qs_role role, int64_t layer, int64_t *n)
{
    qs_tensor_info info = qs_model_info(model, role, layer);
    float *values;
    *n = info.n_out * info.n_in;
    OK(QS_NEW(values, *n, "test"));
    OK(qs_model_read_f32(model, role, layer, values));
    return values;
}

/* The largest |a - b| / tolerance where tolerance is a scale of the packed matrix: 0 = equal. */
static double distance(const float *a, const qs_packed *p)
{
    float row[1024];
    double most = 0;
    for (int64_t o = 0; o < p->n_out; o++) {
        qs_packed_dequant_rows(p, o, 1, row);
        for (int64_t i = 0; i < p->n_in; i++) {
            double d = fabs((double)a[o * p->n_in + i] - (double)row[i]);
            if (d > most) most = d;
        }
    }
    return most;
}

static void compare_linears(const qs_model *made, const char *artifact, qs_model *parent, qs_storage storage,
                            double tolerance)
{
    qs_quant_file *file;
    qs_matrix_desc desc;
    OK(qs_quant_file_open(&file, artifact, parent));
    qs_linear_source source = qs_quant_file_source(file);
    for (int64_t layer = 0; layer < qs_model_get_config(parent)->n_layers; layer++)
        for (qs_role role = 0; role < QS_N_LINEARS; role++) {
            int64_t n;
            OK(source.get(source.context, layer, role, &desc));
            float *values = read_all(made, role, layer, &n);
            assert_int_equal(qs_model_info(made, role, layer).storage, storage);
            double d = distance(values, desc.packed);
            if (!(d <= tolerance)) fail_msg("%s of layer %d: %g apart", qs_role_name(role), (int)layer, d);
            qs_mem_free(values);
        }
    qs_quant_file_close(file);
}

/* Everything else is the parent's, in Hugging Face order (the reader undoes the order of GGUF). */
static void compare_rest(const qs_model *made, const qs_model *parent)
{
    for (qs_role role = QS_N_LINEARS; role < QS_N_ROLES; role++) {
        assert_int_equal(qs_model_has(made, role, 1), qs_model_has(parent, role, 1));
        if (!qs_model_has(parent, role, 1)) continue;
        int64_t n, m;
        float *a = read_all(made, role, 1, &n), *b = read_all(parent, role, 1, &m);
        assert_int_equal(n, m);
        for (int64_t i = 0; i < n; i++) {
            /* bf16 tables become f16, the rest stays as it is */
            float wanted =
                role == QS_ROLE_EMBED || role == QS_ROLE_HEAD ? qs_f32_from_f16(qs_f16_from_f32(b[i])) : b[i];
            assert_true(a[i] == wanted);
        }
        qs_mem_free(a);
        qs_mem_free(b);
    }
}

static void compare_config(const qs_model *made, const qs_model *parent)
{
    const qs_model_config *a = qs_model_get_config(made), *b = qs_model_get_config(parent);
    assert_true(a->n_layers == b->n_layers && a->n_vocab == b->n_vocab && a->d_model == b->d_model &&
                a->d_ff == b->d_ff);
    assert_true(a->n_heads == b->n_heads && a->n_kv_heads == b->n_kv_heads && a->head_dim == b->head_dim);
    assert_true(a->tied_head == b->tied_head && a->qkv_bias == b->qkv_bias && a->qk_norm == b->qk_norm);
    assert_true(a->n_ctx_max == b->n_ctx_max && a->sliding_window == b->sliding_window);
    assert_true((float)a->norm_eps == (float)b->norm_eps && (float)a->rope_theta == (float)b->rope_theta);
    float x[64], y[64];
    qs_model_rope_frequencies(made, x);
    qs_model_rope_frequencies(parent, y);
    for (int64_t i = 0; i < a->head_dim / 2; i++) assert_true(fabsf(x[i] - y[i]) <= 1e-6f * y[i]);
}

static void check_point(const char *from, const char *text, const char *type, qs_storage storage, double tolerance)
{
    scratch_path artifact, out;
    qs_model *parent = model_open(from), *made;
    (void)made_up_artifact(artifact, parent, text, 0);
    OK(export_to(parent, artifact, "gguf", type, scratch(out, "made.gguf")));
    made = model_open(out);
    compare_linears(made, artifact, parent, storage, tolerance);
    compare_rest(made, parent);
    compare_config(made, parent);
    qs_model_close(made);
    qs_model_close(parent);
    assert_int_equal(remove(out), 0);
}

static const char tiny[] = "tests/fixtures/tiny";

/* The codes are kept: de-quantised numbers are equal, except where a minimum is rounded to f16 (15 steps of
 * at most 0.06 with a relative error of 2^-11). */
static void test_types(void **state)
{
    (void)state;
    check_point(tiny, "rtn:bits=4,group=32,sym=1", NULL, QS_STORE_Q4_0, 0);
    check_point(tiny, "rtn:bits=4,group=64,sym=1", NULL, QS_STORE_Q4_0, 0);
    check_point(tiny, "rtn:bits=4,group=-1,sym=1", NULL, QS_STORE_Q4_0, 0);
    check_point(tiny, "rtn:bits=3,group=32,sym=0", NULL, QS_STORE_Q4_0, 0);
    check_point(tiny, "rtn:bits=2,group=32,sym=0", NULL, QS_STORE_Q4_0, 0);
    check_point(tiny, "rtn:bits=4,group=32,sym=0", NULL, QS_STORE_Q4_1, 15 * 0.06 / 2048);
    check_point(tiny, "rtn:bits=4,group=32,sym=0", "q5_1", QS_STORE_Q5_1, 15 * 0.06 / 2048);
    check_point(tiny, "rtn:bits=4,group=32,sym=0", "q5_0", QS_STORE_Q5_0, 0);
    check_point(tiny, "rtn:bits=4,group=32,sym=0", "q8_0", QS_STORE_Q8_0, 0);
    check_point(tiny, "rtn:bits=8,group=32,sym=1", NULL, QS_STORE_Q8_0, 0);
    check_point(tiny, "rtn:bits=8,group=32,sym=0", "f32", QS_STORE_F32, 0);
    check_point(tiny, "gptq:bits=4,group=32,sym=0,act=1", "f32", QS_STORE_F32, 0);
    check_point(tiny, "gptq:bits=4,group=32,sym=1,act=1", "f16", QS_STORE_F16, 8 * 0.06 / 2048);
}

/* Permuted rows of Q and K (or none), biases, norms of heads, a head of its own, scaled frequencies. */
static void test_families(void **state)
{
    (void)state;
    static const char *const names[] = {"llama2", "llama3", "linear", "mistral", "qwen2", "qwen3"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        scratch_path from;
        OK(qs_path_format(from, "tests/fixtures/models/%s", names[i]));
        check_point(from, "rtn:bits=4,group=32,sym=1", NULL, QS_STORE_Q4_0, 0);
    }
    check_point("tests/fixtures/models/gguf/llama2-f16.gguf", "rtn:bits=4,group=32,sym=1", NULL, QS_STORE_Q4_0, 0);
    check_point("tests/fixtures/models/gguf/llama3-f16.gguf", "rtn:bits=8,group=32,sym=1", NULL, QS_STORE_Q8_0, 0);
}

/* A GGUF parent's tables stay as they are stored, byte by byte, and so do its metadata. */
static void test_kept(void **state)
{
    (void)state;
    scratch_path artifact, out;
    qs_model *parent = model_open("tests/fixtures/models/gguf/llama2-q8_0.gguf"), *made;
    (void)made_up_artifact(artifact, parent, "rtn:bits=4,group=32,sym=1", 0);
    OK(export_to(parent, artifact, "gguf", NULL, scratch(out, "kept.gguf")));
    made = model_open(out);
    const qs_gguf *a = qs_model_get_gguf(made), *b = qs_model_get_gguf(parent);
    static const char *const tables[] = {"token_embd.weight", "output.weight"};
    for (int i = 0; i < 2; i++) {
        const qs_gguf_tensor *x = qs_gguf_find_tensor(a, tables[i]), *y = qs_gguf_find_tensor(b, tables[i]);
        assert_true(x != NULL && y != NULL && x->storage == y->storage && x->bytes == y->bytes);
        assert_memory_equal(x->data, y->data, x->bytes);
    }
    int64_t file_type = -1, n_kept = 0;
    OK(qs_gguf_opt_int(&file_type, a, "general.file_type", 0, 100, out));
    assert_int_equal(file_type, 2);
    for (int64_t i = 0; i < b->n_kvs; i++) {
        char key[128];
        (void)snprintf(key, sizeof key, "%.*s", (int)b->kvs[i].key_bytes, b->kvs[i].key);
        const qs_gguf_kv *kv = qs_gguf_find(a, key);
        if (kv == NULL || strcmp(key, "general.file_type") == 0) continue;
        assert_true(kv->type == b->kvs[i].type && kv->n == b->kvs[i].n);
        n_kept++;
    }
    assert_true(n_kept >= b->n_kvs - 3);
    qs_model_close(made);
    qs_model_close(parent);
}

static void test_refused(void **state)
{
    (void)state;
    static const struct {
        const char *from, *text, *type, *words[3];
        qs_err code;
    } rows[] = {
        {tiny, "rtn:bits=8,group=32,sym=0", NULL, {"no block type", "f16", "sym=1"}, QS_E_UNSUPPORTED},
        {tiny, "awq:bits=4,group=32,zero=1", "q4_0", {"q4_0", "--type q4_1", "scaled"}, QS_E_UNSUPPORTED},
        {tiny, "rtn:bits=4,group=48,sym=1", NULL, {"q_proj", "groups of 48", "group=32"}, QS_E_UNSUPPORTED},
        {tiny, "gptq:bits=4,group=32,sym=1,act=1", NULL, {"q_proj", "act=1", "gar=1"}, QS_E_UNSUPPORTED},
        {tiny, "rtn:bits=4,group=32,sym=1", "q9_9", {"q9_9", "q4_0", "f32"}, QS_E_USAGE},
        {"tests/fixtures/models/smollm2",
         "rtn:bits=4,group=16,sym=1",
         NULL,
         {"q_proj", "rows of 48", "f16"},
         QS_E_UNSUPPORTED},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        scratch_path artifact, out;
        qs_model *parent = model_open(rows[i].from);
        (void)made_up_artifact(artifact, parent, rows[i].text, 0);
        FAILS(rows[i].code, export_to(parent, artifact, "gguf", rows[i].type, scratch(out, "refused.gguf")));
        TEXT_HOLDS(rows[i].words[0], rows[i].words[1], rows[i].words[2]);
        assert_false(qs_file_exists(out));
        qs_model_close(parent);
    }
    assert_no_parts();
}

/* What holds what, by counting: every code minus every zero point. */
static void test_kinds(void **state)
{
    (void)state;
    static const int widths[] = {2, 3, 4, 8};
    for (const qs_gguf_kind *kind = qs_gguf_kinds; kind->name != NULL; kind++) {
        if (kind->dense || kind->grid.unit > QS_GGUF_BLOCK) continue;
        for (int w = 0; w < 4; w++)
            for (int sym = 0; sym < 2; sym++) {
                int n = 1 << widths[w], low = kind->grid.affine ? kind->low : 0;
                bool fits = true;
                for (int code = 0; code < n; code++)
                    for (int zero = sym ? n / 2 : 0; zero < (sym ? n / 2 + 1 : n); zero++) {
                        int value = kind->grid.affine ? code : code - zero;
                        fits = fits && value >= (kind->grid.affine ? low : kind->low) && value <= kind->high;
                    }
                assert_int_equal(qs_gguf_kind_holds(kind, widths[w], sym != 0), fits);
            }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_types),   cmocka_unit_test(test_families), cmocka_unit_test(test_kept),
        cmocka_unit_test(test_refused), cmocka_unit_test(test_kinds),
    };
    return cmocka_run_group_tests_name("export_gguf", tests, scratch_create, scratch_remove);
}
