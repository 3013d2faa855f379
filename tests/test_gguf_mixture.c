/* Mixtures of GGUF types: types by matrix against ones worked out by hand for a few shapes; the names of the rows; and
 * files whose tensors have them. scripts/peers/test_peers holds every row against llama.cpp's own files. */
#include "tests/export_fixtures.h"

#include "export/gguf_mixture.h"
#include "model/gguf.h"

/* "2" to "6": q2_k to q6_k; "x" iq4_xs, "n" iq4_nl; what rows take that are no whole blocks of 256: "d" q4_0, "e" q5_0,
 * "f" q5_1, "h" q8_0; "-" none. */
static char letter_of(const qs_gguf_kind *kind)
{
    static const char *const names[] = {"2q2_k", "3q3_k", "4q4_k", "5q5_k",   "6q6_k",  "dq4_0",
                                        "eq5_0", "fq5_1", "hq8_0", "xiq4_xs", "niq4_nl"};
    for (size_t i = 0; kind != NULL && i < sizeof names / sizeof *names; i++)
        if (strcmp(names[i] + 1, kind->name) == 0) return names[i][0];
    return '-';
}

/* A model, of which only what the rules look at is set, and the types of one role by layer (of a table one). */
typedef struct wanted {
    const char *mixture, *architecture;
    int64_t n_layers, n_heads, n_kv_heads;
    bool tied_head;
    int64_t n_in;
    qs_role role;
    const char *types;
} wanted;

#define SAME_10(c) c c c c c c c c c c
#define SAME_80(c) SAME_10(c) SAME_10(c) SAME_10(c) SAME_10(c) SAME_10(c) SAME_10(c) SAME_10(c) SAME_10(c)

static const wanted rows[] = {
    /* 32 layers: 0 to 3, 28 to 31, and of those between 6, 9 .. 27. */
    {"q4_k_m", "llama", 32, 32, 32, false, 4096, QS_ROLE_V, "6666" "446446446446446446446446" "6666"},
    {"q4_k_m", "llama", 32, 32, 32, false, 11008, QS_ROLE_DOWN, "6666" "446446446446446446446446" "6666"},
    {"q5_k_m", "llama", 32, 32, 8, false, 4096, QS_ROLE_V, "6666" "556556556556556556556556" "6666"},
    {"q4_k_m", "llama", 32, 32, 32, false, 4096, QS_ROLE_O, SAME_10("4") SAME_10("4") SAME_10("4") "44"},
    /* 30 layers with rows of 576, as SmolLM2 has them: 0 to 2, 26 to 29, and 5, 8 .. 23. */
    {"q4_k_m", "llama", 30, 9, 3, true, 576, QS_ROLE_V, "hhh" "eeheeheeheeheeheeheehee" "hhhh"},
    {"q4_k_m", "llama", 30, 9, 3, true, 1536, QS_ROLE_DOWN, "666" "44644644644644644644644" "6666"},
    {"q4_k_m", "llama", 30, 9, 3, true, 576, QS_ROLE_EMBED, "h"},
    /* Fewer than eight layers have no first eighth, but a last one, from 7 n / 8 on, rounded down. */
    {"q4_k_m", "llama", 1, 4, 2, true, 256, QS_ROLE_DOWN, "6"},
    {"q4_k_m", "llama", 2, 4, 2, true, 256, QS_ROLE_DOWN, "46"},
    {"q4_k_m", "llama", 4, 4, 2, true, 256, QS_ROLE_V, "4466"},
    {"q4_k_s", "llama", 2, 4, 2, true, 256, QS_ROLE_V, "55"},
    {"q4_k_s", "llama", 6, 4, 2, true, 256, QS_ROLE_V, "555544"},
    {"q4_k_s", "llama", 6, 4, 2, true, 256, QS_ROLE_DOWN, "444444"},
    {"q4_k_s", "mistral", 17, 4, 2, true, 256, QS_ROLE_DOWN, "55" SAME_10("4") "44444"},
    {"q3_k_m", "qwen3", 17, 4, 2, true, 256, QS_ROLE_DOWN, "5" SAME_10("4") "444444"},
    {"q3_k_m", "qwen3", 15, 4, 2, true, 256, QS_ROLE_DOWN, SAME_10("4") "44444"},
    {"q3_k_m", "qwen3", 5, 4, 2, true, 256, QS_ROLE_V, "55444"},
    {"q3_k_m", "qwen3", 3, 4, 2, true, 256, QS_ROLE_O, "444"},
    {"q3_k_m", "qwen3", 3, 4, 2, true, 256, QS_ROLE_Q, "333"},
    {"q3_k_l", "qwen2", 3, 4, 2, true, 256, QS_ROLE_O, "555"},
    {"q3_k_l", "qwen2", 3, 4, 2, true, 256, QS_ROLE_V, "555"},
    {"q3_k_l", "qwen2", 3, 4, 2, true, 704, QS_ROLE_DOWN, "fff"},
    {"q3_k_s", "qwen2", 3, 8, 1, true, 256, QS_ROLE_V, "333"},
    {"q5_k_s", "qwen2", 3, 8, 1, true, 256, QS_ROLE_V, "555"},
    /* Four heads and more to one of v. */
    {"q2_k_m", "llama", 3, 8, 1, false, 256, QS_ROLE_V, "444"},
    {"q2_k_m", "llama", 3, 4, 1, false, 256, QS_ROLE_V, "444"},
    {"q2_k_m", "llama", 3, 6, 2, false, 256, QS_ROLE_V, "333"},
    {"q2_k_m", "llama", 3, 4, 1, false, 64, QS_ROLE_V, "eee"},
    {"q2_k_m", "llama", 3, 4, 1, false, 256, QS_ROLE_K, "222"},
    {"q2_k_m", "llama", 3, 4, 1, false, 256, QS_ROLE_O, "333"},
    {"q2_k_m", "llama", 3, 4, 1, false, 256, QS_ROLE_DOWN, "333"},
    {"q2_k_m", "llama", 3, 4, 1, false, 64, QS_ROLE_GATE, "ddd"},
    {"q2_k_m", "llama", 3, 4, 1, false, 48, QS_ROLE_GATE, "---"},
    {"iq4_xs_m", "llama", 32, 32, 32, false, 11008, QS_ROLE_DOWN, "5555" SAME_10("x") SAME_10("x") "xxxxxxxx"},
    {"iq4_nl_m", "llama", 17, 4, 2, true, 256, QS_ROLE_DOWN, "55" SAME_10("n") "nnnnn"},
    {"iq4_xs_m", "llama", 17, 4, 2, true, 288, QS_ROLE_DOWN, "ff" SAME_10("n") "nnnnn"},
    {"iq4_xs_m", "llama", 3, 4, 2, true, 256, QS_ROLE_DOWN, "xxx"},
    {"iq4_xs_m", "llama", 3, 8, 2, false, 256, QS_ROLE_V, "555"},
    {"iq4_xs_m", "llama", 3, 6, 2, false, 256, QS_ROLE_V, "xxx"},
    {"iq4_xs_m", "llama", 3, 8, 2, false, 256, QS_ROLE_K, "xxx"},
    {"iq4_nl_m", "llama", 3, 8, 2, false, 64, QS_ROLE_V, "fff"},
    {"iq4_nl_m", "llama", 3, 8, 2, false, 256, QS_ROLE_O, "nnn"},
    {"iq4_xs_m", "llama", 3, 8, 2, false, 48, QS_ROLE_GATE, "---"},
    {"iq4_xs_m", "llama", 3, 8, 2, true, 256, QS_ROLE_EMBED, "6"},
    {"iq4_xs_m", "llama", 3, 8, 2, false, 256, QS_ROLE_EMBED, "x"},
    {"iq4_xs_m", "llama", 3, 8, 2, false, 64, QS_ROLE_EMBED, "n"},
    /* Tables: beside a head of its own the embedding is as the rest. */
    {"q2_k_m", "llama", 3, 4, 1, false, 256, QS_ROLE_EMBED, "2"},
    {"q2_k_m", "llama", 3, 4, 1, true, 256, QS_ROLE_EMBED, "6"},
    {"q5_k_m", "llama", 3, 4, 1, false, 256, QS_ROLE_EMBED, "5"},
    {"q5_k_m", "llama", 3, 4, 1, false, 256, QS_ROLE_HEAD, "6"},
    {"q5_k_m", "llama", 3, 4, 1, false, 64, QS_ROLE_HEAD, "h"},
    /* 80 layers: 10 + 10, and 12, 15 .. 69; and v with few bits gets more, unless no heads share it or it is qwen3. */
    {"q3_k_s", "llama", 80, 64, 8, false, 256, QS_ROLE_V, SAME_80("5")},
    {"q3_k_s", "mistral", 80, 64, 8, false, 256, QS_ROLE_V, SAME_80("5")},
    {"q2_k_m", "llama", 80, 64, 8, false, 256, QS_ROLE_V, SAME_80("5")},
    {"q3_k_s", "llama", 80, 64, 64, false, 256, QS_ROLE_V, SAME_80("3")},
    {"q3_k_s", "qwen2", 80, 64, 64, false, 256, QS_ROLE_V, SAME_80("5")},
    {"q3_k_s", "qwen3", 80, 64, 8, false, 256, QS_ROLE_V, SAME_80("3")},
    {"iq4_xs_m", "llama", 80, 64, 64, false, 256, QS_ROLE_V, SAME_80("x")},
    {"iq4_xs_m", "qwen2", 80, 64, 64, false, 256, QS_ROLE_V, SAME_80("x")},
    {"q4_k_m", "llama", 80, 64, 8, false, 256, QS_ROLE_V,
     SAME_10("6") SAME_10("556") SAME_10("556") SAME_10("6")},
    {"q4_k_s", "llama", 80, 64, 8, false, 256, QS_ROLE_K, SAME_80("4")},
};

static void test_types(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const wanted *w = &rows[i];
        qs_model_config config = {.n_layers = w->n_layers, .n_heads = w->n_heads, .n_kv_heads = w->n_kv_heads,
                                  .tied_head = w->tied_head};
        (void)snprintf(config.architecture, sizeof config.architecture, "%s", w->architecture);
        const qs_gguf_mixture *mixture = qs_gguf_mixture_find(w->mixture);
        bool table = w->role >= QS_N_BLOCK_ROLES;
        assert_non_null(mixture);
        assert_int_equal(strlen(w->types), table ? 1 : w->n_layers);
        for (int64_t layer = 0; layer < (table ? 1 : w->n_layers); layer++) {
            char got = letter_of(qs_gguf_mixture_kind(mixture, &config, w->role, layer, w->n_in));
            if (got != w->types[layer])
                fail_msg("%s of %s, row %d, %s of layer %d: %c, not %c", w->mixture, w->architecture, (int)i,
                         qs_role_name(w->role), (int)layer, got, w->types[layer]);
        }
    }
}

/* Every row names types that there are, and none has a single type's name. */
static void test_rows(void **state)
{
    (void)state;
    for (const qs_gguf_mixture *m = qs_gguf_mixtures; m->name != NULL; m++) {
        const char *const names[] = {m->rest, m->head, m->v_shared, m->v.rest, m->v.better,
                                     m->o.rest, m->o.better, m->down.rest, m->down.better};
        char text[QS_GGUF_MIXTURE_TEXT_BYTES];
        assert_null(qs_gguf_kind_named(m->name));
        for (size_t i = 0; i < sizeof names / sizeof *names; i++)
            if (names[i] != NULL && qs_gguf_kind_named(names[i]) == NULL) fail_msg("%s: %s", m->name, names[i]);
        assert_true((m->v.place == NULL) == (m->v.better == NULL));
        assert_true((m->down.place == NULL) == (m->down.better == NULL));
        assert_true(strlen(qs_gguf_mixture_text(text, m)) < sizeof text - 1);
        assert_non_null(strstr(text, m->peer));
        for (const qs_gguf_mixture *other = m + 1; other->name != NULL; other++)
            assert_true(strcmp(m->name, other->name) != 0 && m->file_type != other->file_type);
    }
}

static void expect_storage(const qs_model *made, qs_role role, int64_t layer, qs_storage storage)
{
    qs_storage got = qs_model_info(made, role, layer).storage;
    if (got != storage) fail_msg("%s of layer %d: type %d, not %d", qs_role_name(role), (int)layer, got, storage);
}

/* A file: its types, its file type, and tables that their options change. The reader has four layers and rows of 256,
 * of down 704; the other model has a head of its own and rows of 64. */
static void test_file(void **state)
{
    (void)state;
    scratch_path artifact, out;
    qs_model *model = bare_reader(), *made;
    (void)made_up_artifact(artifact, model, "rtn:bits=4,group=64,sym=1", 0);
    OK(export_to(model, artifact, "gguf", "q4_k_m", scratch(out, "m.gguf")));
    made = model_open(out);
    for (int64_t layer = 0; layer < 4; layer++) {
        expect_storage(made, QS_ROLE_Q, layer, QS_STORE_Q4_K);
        expect_storage(made, QS_ROLE_O, layer, QS_STORE_Q4_K);
        expect_storage(made, QS_ROLE_V, layer, layer < 2 ? QS_STORE_Q4_K : QS_STORE_Q6_K);
        expect_storage(made, QS_ROLE_DOWN, layer, layer < 2 ? QS_STORE_Q5_0 : QS_STORE_Q8_0);
    }
    expect_storage(made, QS_ROLE_EMBED, 0, QS_STORE_Q6_K);
    int64_t file_type = -1;
    OK(qs_gguf_opt_int(&file_type, qs_model_get_gguf(made), "general.file_type", 0, 100, out));
    assert_int_equal(file_type, 15);
    qs_model_close(made);
    qs_export_job job = {.out = scratch(out, "tables.gguf"), .type = "q4_k_m", .embedding_type = "f16"};
    OK(export_job(job, model, artifact, "gguf"));
    made = model_open(out);
    expect_storage(made, QS_ROLE_EMBED, 0, QS_STORE_F16);
    expect_storage(made, QS_ROLE_V, 3, QS_STORE_Q6_K);
    qs_model_close(made);
    FAILS(QS_E_USAGE, export_to(model, artifact, "gguf", "q4_k_l", scratch(out, "no.gguf")));
    TEXT_HOLDS("--type q4_k_l", "q6_k", "mixtures q2_k_m");
    qs_model_close(model);

    model = model_open("tests/fixtures/models/llama2");
    (void)made_up_artifact(artifact, model, "rtn:bits=4,group=32,sym=1", 0);
    job = (qs_export_job){.out = scratch(out, "own.gguf"), .type = "q5_k_m", .head_type = "q5_0"};
    OK(export_job(job, model, artifact, "gguf"));
    made = model_open(out);
    expect_storage(made, QS_ROLE_EMBED, 0, QS_STORE_Q5_1);
    expect_storage(made, QS_ROLE_HEAD, 0, QS_STORE_Q5_0);
    qs_model_close(made);
    qs_model_close(model);
    assert_no_parts();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_types),
        cmocka_unit_test(test_rows),
        cmocka_unit_test(test_file),
    };
    return cmocka_run_group_tests_name("gguf_mixture", tests, scratch_create, scratch_remove);
}
