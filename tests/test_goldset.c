/* Gold sets: every mistake that a file can hold is told with its place (bad input of issue 4; checklist E20:
 * ids, offsets and sections of what answers rest on). */
#include "scratch.h"

#include "base/json.h"
#include "data/goldset.h"

static const char source[] = "# Book\n\n## A-1 First\n\nThe flow is 47 litres. Its depth is 12 cm.\n\n## A-2 "
                             "Second\n\nThe flow is 31 litres.\n";
static const char corpus[] =
    "{\"snippet_id\":\"S1\",\"section_id\":\"A-1\",\"source_url\":\"book.md#A-1\",\"header\":\"First\","
    "\"start\":22,\"end\":44,\"tokens\":5,\"rev\":\"1\",\"text\":\"The flow is 47 litres.\"}\n"
    "{\"snippet_id\":\"S2\",\"section_id\":\"A-1\",\"source_url\":\"book.md#A-1\",\"header\":\"First\","
    "\"start\":45,\"end\":64,\"tokens\":5,\"rev\":\"1\",\"text\":\"Its depth is 12 cm.\"}\n"
    "{\"snippet_id\":\"S3\",\"section_id\":\"A-2\",\"source_url\":\"book.md#A-2\",\"header\":\"Second\","
    "\"start\":81,\"end\":103,\"tokens\":5,\"rev\":\"1\",\"text\":\"The flow is 31 litres.\"}\n";
static const char gold[] =
    "{\"qid\":\"Q1\",\"question\":\"Which flow?\",\"paraphrases\":[\"a?\",\"b?\",\"c?\"],\"answer\":\"47 "
    "litres\",\"answerable\":true,\"target_section\":\"A-1\",\"decoy_section\":\"A-2\",\"anchor\":{\"snippet_"
    "id\":\"S1\",\"start\":22,\"end\":44},\"band\":\"easy\"}\n"
    "\n"
    "{\"qid\":\"Q2\",\"question\":\"Which height?\",\"paraphrases\":[\"d?\",\"e?\",\"f?\"],\"answer\":\"not "
    "stated\",\"answerable\":false,\"target_section\":\"A-1\",\"decoy_section\":\"A-2\",\"anchor\":null,"
    "\"band\":\"hard\"}\n";
static const char longform[] = "{\"qid\":\"L1\",\"question\":\"Report.\",\"snippets\":[\"S3\",\"S1\"]}\n";

/* The texts with one place changed: `file` 0 corpus, 1 gold, 2 longform. */
static qs_err parse_changed(qs_goldset *set, int file, const char *from, const char *to)
{
    const char *const texts[] = {corpus, gold, longform};
    char changed[4096] = "";
    if (from != NULL) {
        const char *at = strstr(texts[file], from);
        assert_non_null(at);
        (void)snprintf(changed, sizeof changed, "%.*s%s%s", (int)(at - texts[file]), texts[file], to,
                       at + strlen(from));
    }
    qs_gold_text parts[3];
    static const char *const names[] = {"corpus.jsonl", "gold.jsonl", "longform.jsonl"};
    for (int i = 0; i < 3; i++) {
        const char *text = from != NULL && i == file ? changed : texts[i];
        parts[i] = (qs_gold_text){names[i], text, strlen(text)};
    }
    return qs_goldset_parse(set, &parts[1], &parts[0], &parts[2]);
}

static void a_set_is_read_as_it_stands(void **state)
{
    (void)state;
    qs_goldset set;
    OK(parse_changed(&set, 0, NULL, NULL));
    assert_int_equal(set.n_snippets, 3);
    assert_int_equal(set.n_items, 2);
    assert_int_equal(set.n_longforms, 1);
    assert_string_equal(set.snippets[1].text, "Its depth is 12 cm.");
    assert_int_equal(set.snippets[2].start, 81);
    assert_string_equal(set.items[0].paraphrases[2], "c?");
    assert_int_equal(set.items[0].anchor, 0);
    assert_int_equal(set.items[0].anchor_end, 44);
    assert_int_equal(set.items[1].anchor, -1);
    assert_false(set.items[1].answerable);
    assert_int_equal(set.items[1].band, QS_GOLD_HARD);
    assert_int_equal(set.longforms[0].snippets[0], 2);
    qs_goldset_free(&set);
}

static void every_mistake_is_named(void **state)
{
    (void)state;
    static const struct mistake {
        int file;
        const char *from, *to, *words[3];
    } mistakes[] = {
        {0, "\"rev\"", "\"rew\"", {"corpus.jsonl line 1", "no member", "rew"}},
        {0, "\"end\":44", "\"end\":45", {"line 1", "S1", "23 bytes"}},
        {0, "\"tokens\":5", "\"tokens\":6", {"line 1", "S1", "5 words"}},
        {0, "\"S2\"", "\"S1\"", {"line 2", "second snippet", "S1"}},
        {0, "\"start\":45,\"end\":64", "\"start\":40,\"end\":59", {"line 2", "overlap", "S2"}},
        {0, "\"start\":22", "\"start\":\"22\"", {"line 1", "start", "integer"}},
        {0, "\"header\":\"First\"", "\"header\":\" \"", {"line 1", "header", "nothing"}},
        {0, "{\"snippet_id\":\"S2\"", "[", {"line 2", "parse", "column"}},
        {0,
         "book.md#A-1\",\"header\":\"First\",\"start\":45",
         "cook.md#A-1\",\"header\":\"First\",\"start\":45",
         {"line 2", "source_url", "A-1"}},
        {1, "\"Q2\"", "\"Q1\"", {"gold.jsonl line 3", "second item", "Q1"}},
        {1, "\"d?\"", "\"a?\"", {"line 3", "wording", "a?"}},
        {1, "[\"a?\",\"b?\",\"c?\"]", "[\"a?\",\"b?\"]", {"line 1", "paraphrases", "3"}},
        {1, "\"band\":\"easy\"", "\"band\":\"simple\"", {"line 1", "band", "simple"}},
        {1, "\"target_section\":\"A-1\"", "\"target_section\":\"A-9\"", {"line 1", "target_section", "A-9"}},
        {1, "\"decoy_section\":\"A-2\"", "\"decoy_section\":\"A-9\"", {"line 1", "decoy_section", "A-9"}},
        {1, "\"decoy_section\":\"A-2\"", "\"decoy_section\":\"A-1\"", {"line 1", "decoy", "A-1"}},
        {1, "\"snippet_id\":\"S1\"", "\"snippet_id\":\"S9\"", {"line 1", "anchor", "S9"}},
        {1, "\"snippet_id\":\"S1\"", "\"snippet_id\":\"S3\"", {"line 1", "anchor", "outside the target"}},
        {1,
         "\"start\":22,\"end\":44",
         "\"start\":22,\"end\":45",
         {"line 1", "outside its snippet S1", "22 to 45"}},
        {1, "\"start\":22,\"end\":44", "\"start\":22,\"end\":40", {"line 1", "hold the answer", "47 litres"}},
        {1, "\"start\":22,\"end\":44", "\"start\":40,\"end\":30", {"line 1", "anchor", "outside"}},
        {1, "47 litres", "7 litres", {"line 1", "hold the answer", "7 litres"}},
        {1, "47 litres", "47 litre", {"line 1", "hold the answer", "47 litre"}},
        {1, "47 litres", "31 litres", {"line 1", "decoy", "S3"}},
        {1, "not stated", "unknown", {"line 3", "unanswerable", "unknown"}},
        {1, "\"anchor\":null", "\"anchor\":{}", {"line 3", "unanswerable", "anchor"}},
        {1,
         "\"anchor\":{\"snippet_id\":\"S1\",\"start\":22,\"end\":44}",
         "\"anchor\":null",
         {"line 1", "answerable", "anchor"}},
        {1, "\"answerable\":true", "\"answerable\":1", {"line 1", "answerable", "true or false"}},
        {2, "\"S3\"", "\"S9\"", {"longform.jsonl line 1", "corpus", "S9"}},
        {2, "\"S3\"", "\"S1\"", {"line 1", "twice", "S1"}},
        {2, "\"L1\"", "\"Q1\"", {"line 1", "second item", "Q1"}},
        {2, longform, "\n \n", {"longform.jsonl", "no line", "read"}},
    };
    for (size_t i = 0; i < sizeof mistakes / sizeof *mistakes; i++) {
        const struct mistake *m = &mistakes[i];
        qs_goldset set;
        qs_err err = parse_changed(&set, m->file, m->from, m->to);
        if (err != QS_E_INPUT) fail_msg("mistake %zu, %s: not refused", i, m->to);
        TEXT_HOLDS(m->words[0], m->words[1], m->words[2]);
    }
}

static void snippets_are_held_against_their_source(void **state)
{
    (void)state;
    qs_goldset set;
    scratch_path path;
    text_write(scratch(path, "book.md"), source);
    OK(parse_changed(&set, 0, NULL, NULL));
    OK(qs_goldset_check_sources(&set, scratch_dir));
    qs_goldset_free(&set);

    OK(parse_changed(&set, 0, "\"start\":81,\"end\":103", "\"start\":80,\"end\":102"));
    FAILS(QS_E_INPUT, qs_goldset_check_sources(&set, scratch_dir));
    TEXT_HOLDS("S3", "80 to 102", "81 to 103");
    qs_goldset_free(&set);

    OK(parse_changed(&set, 0, "\"start\":81,\"end\":103", "\"start\":2000,\"end\":2022"));
    FAILS(QS_E_INPUT, qs_goldset_check_sources(&set, scratch_dir));
    TEXT_HOLDS("S3", "104 bytes", "2022");
    qs_goldset_free(&set);

    OK(parse_changed(&set, 0, "book.md#A-2", "book.md#A-1"));
    FAILS(QS_E_INPUT, qs_goldset_check_sources(&set, scratch_dir));
    TEXT_HOLDS("S3", "#A-2");
    qs_goldset_free(&set);

    OK(parse_changed(&set, 0, NULL, NULL));
    text_write(path, "# Book\n\n## A-1 First\n\nThe flow is 47 litres. Its depth is 12 cm.\n\n## A-3 "
                     "Second\n\nThe flow is 31 litres.\n");
    FAILS(QS_E_INPUT, qs_goldset_check_sources(&set, scratch_dir));
    TEXT_HOLDS("S3", "section A-2");
    text_write(path, "# Book\n\n## A-1 First\n\nThe flow is 48 litres. Its depth is 12 cm.\n\n## A-2 "
                     "Second\n\nThe flow is 31 litres.\n");
    FAILS(QS_E_INPUT, qs_goldset_check_sources(&set, scratch_dir));
    TEXT_HOLDS("S1", "nowhere");
    (void)remove(path);
    FAILS(QS_E_INPUT, qs_goldset_check_sources(&set, scratch_dir));
    qs_goldset_free(&set);
}

static void missing_files_are_named(void **state)
{
    (void)state;
    qs_goldset set;
    scratch_path path;
    FAILS(QS_E_INPUT, qs_goldset_load(&set, scratch(path, "none.jsonl"), "datasets/world/corpus.jsonl", NULL));
    TEXT_HOLDS("none.jsonl");
    OK(qs_goldset_load(&set, "datasets/world/gold.jsonl", "datasets/world/corpus.jsonl", NULL));
    assert_int_equal(set.n_longforms, 0);
    qs_goldset_free(&set);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_set_is_read_as_it_stands),
        cmocka_unit_test(every_mistake_is_named),
        cmocka_unit_test(snippets_are_held_against_their_source),
        cmocka_unit_test(missing_files_are_named),
    };
    return cmocka_run_group_tests(tests, scratch_create, scratch_remove);
}
