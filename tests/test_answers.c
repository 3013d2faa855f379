/* Questions, answers and their metrics, by hand; answers in artifacts; whole evaluations that give the same bits
 * for any number of threads and after a kill (checklist G2, G15, A10, E13: coverage, traces, JSON and citations). */
#include "figures.h"
#include "gold_files.h"

#include <math.h>

#include "base/log.h"
#include "data/overlap.h"
#include "metric/machine_lock.h"
#include "metric/answer_metrics.h"
#include "metric/evaluation.h"

enum { N_CTX = 32, N_WINDOWS = 4, K = 2 };

static char dir[QS_PATH_BYTES];

static int setup(void **state)
{
    static qs_questions q;
    qs_log_set_level(QS_LOG_WARN);
    save_gold_files(make_dir(dir));
    qs_question_options options = {.gold = dir, .k = K, .n_tokens_max = 8};
    assert_ok(qs_questions_load(&q, &options));
    *state = &q;
    return 0;
}

static int teardown(void **state)
{
    qs_questions_free(*state);
    remove_dir(dir);
    return 0;
}

static void test_runs(void **state)
{
    qs_questions *q = *state;
    assert_int_equal(q->n_items, 3);
    assert_int_equal(q->n_runs, 30);
    int64_t n_greedy = 0, prompt = -1;
    for (int64_t i = 0; i < q->n_runs; i++) {
        qs_question_run run = qs_questions_run(i);
        n_greedy += run.seed == QS_GREEDY;
        assert_true(run.prompt == prompt || (run.prompt == prompt + 1 && run.seed == QS_GREEDY));
        prompt = run.prompt;
        assert_true(run.wording > 0 || run.seed == QS_GREEDY);
        for (int64_t j = 0; j < i; j++) { /* no two seeded runs share random numbers */
            qs_question_run other = qs_questions_run(j);
            if (run.seed == QS_GREEDY || other.seed == QS_GREEDY) continue;
            assert_true(qs_questions_key(q, &run, 1) != qs_questions_key(q, &other, 1));
        }
        assert_true(qs_questions_key(q, &run, 1) != qs_questions_key(q, &run, 2));
    }
    assert_int_equal(n_greedy, q->n_prompts);
    assert_string_equal(qs_questions_text(q, 4), "How heavy is the gate?");
    assert_string_equal(qs_questions_text(q, 7), "The gate is?");
}

static void test_overlap(void **state)
{
    qs_questions *q = *state;
    int64_t best[3];
    double scores[3];
    /* "gate" and "is" are in S2 alone, "the" in S1 and S2 */
    qs_overlap_rank(&q->set, "The gate is?", 3, best, scores);
    assert_int_equal(best[0], 1);
    assert_int_equal(best[1], 0);
    assert_int_equal(best[2], 2);
    qs_overlap_rank(&q->set, "nothing", 3, best, scores); /* the order of the corpus */
    for (int i = 0; i < 3; i++) assert_int_equal(best[i], i);
}

static void test_refused_options(void **state)
{
    (void)state;
    qs_questions q;
    qs_question_options options = {.gold = dir, .k = 4, .n_tokens_max = 8};
    assert_fails(qs_questions_load(&q, &options), QS_E_USAGE, "3 snippets");
    options = (qs_question_options){.gold = "/nonexistent/gold.jsonl", .k = 1, .n_tokens_max = 8};
    assert_fails(qs_questions_load(&q, &options), QS_E_INPUT, "No such file");
    char gold[QS_PATH_BYTES], corpus[QS_PATH_BYTES];
    assert_ok(qs_path_format(gold, "%s/gold.jsonl", dir));
    options = (qs_question_options){.gold = gold, .k = 1, .n_tokens_max = 8};
    assert_fails(qs_questions_load(&q, &options), QS_E_USAGE, "--corpus");
    assert_ok(qs_path_format(corpus, "%s/corpus.jsonl", dir));
    options = (qs_question_options){.gold = gold, .corpus = corpus, .k = 2, .n_tokens_max = 8, .n_items = 2};
    assert_ok(qs_questions_load(&q, &options));
    assert_int_equal(q.n_items, 2);
    qs_questions_free(&q);
}

/* ---- chats ---- */

/* Without a chat what is asked has the digest that it always had; with one, prompts are turns and the digest is
 * another. */
static void test_chat(void **state)
{
    qs_questions *plain = *state, q;
    qs_model *model;
    const int64_t ranked[] = {1, 0};
    qs_token_list list = {0};
    char *text;
    assert_ok(qs_model_open(&model, "tests/fixtures/tiny"));
    qs_question_options options = {.gold = dir, .k = K, .n_tokens_max = 8, .model = model, .chat = "none"};
    assert_ok(qs_questions_load(&q, &options));
    assert_memory_equal(&q.digest, &plain->digest, sizeof q.digest);
    assert_string_equal(qs_questions_chat(&q), "none");
    qs_digest seen[3] = {plain->digest};
    qs_questions_free(&q);
    for (int instruct = 0; instruct < 2; instruct++) {
        options.chat = instruct == 0 ? "zephyr" : "llama-2";
        options.instruct = instruct;
        assert_ok(qs_questions_load(&q, &options));
        assert_string_equal(qs_questions_chat(&q), options.chat);
        seen[1 + instruct] = q.digest;
        for (int i = 0; i <= instruct; i++) assert_memory_not_equal(&seen[i], &q.digest, sizeof q.digest);
        list.n = 0;
        assert_ok(qs_questions_prompt(&q, qs_model_get_tokenizer(model), 4, ranked, K, &list));
        assert_ok(qs_tokenizer_decode(qs_model_get_tokenizer(model), list.ids, list.n, false, &text));
        const char *begin = instruct == 0 ? "<|user|>\n"
                                          : "[INST] <<SYS>>\nAnswer the question from the snippets below.",
                   *end = instruct == 0 ? "Question: How heavy is the gate?<|endoftext|>\n<|assistant|>\n"
                                        : "Question: How heavy is the gate? [/INST]";
        assert_int_equal(strncmp(text, begin, strlen(begin)), 0);
        assert_string_equal(text + strlen(text) - strlen(end), end);
        qs_mem_free(text);
        qs_questions_free(&q);
    }
    options.chat = "chatml";
    assert_fails(qs_questions_load(&q, &options), QS_E_UNSUPPORTED, "<|im_end|>");
    qs_token_list_free(&list);
    qs_model_close(model);
}

/* ---- scoring by hand ---- */

typedef struct hand_case {
    int64_t item;
    const char *text;
    qs_answer_row row; /* json_ok, n_citations, n_known, n_correct, selected, anchored, correct, refused */
    double coverage;
} hand_case;

static void test_score(void **state)
{
    qs_questions *q = *state;
    const int64_t ranked[K] = {1, 0}; /* S2, S1 */
    static const hand_case cases[] = {
        {0, "{\"answer\":\"Red.\",\"citations\":[{\"snippet_id\":\"S1\"}]}",
         {.json_ok = 1, .n_citations = 1, .n_known = 1, .n_correct = 1, .selected = 0, .anchored = 1, .correct = 1}, 1},
        {0, "{\"answer\":\"green\",\"citations\":[{\"snippet_id\":\"S2\"}]}",
         {.json_ok = 1, .n_citations = 1, .n_known = 1, .selected = 1, .anchored = 1}, 0},
        {0, "{\"answer\":\"red\",\"citations\":[{\"snippet_id\":\"S3\"},{\"snippet_id\":\"S1\"}]}", /* not S3 */
         {.json_ok = 1, .n_citations = 2, .n_known = 1, .n_correct = 1, .selected = 0, .anchored = 1, .correct = 1}, 1},
        {0, "{\"answer\":\"red\",\"citations\":[{\"snippet_id\":\"S1\"", /* cut off, and yet right */
         {.selected = 1, .anchored = 1, .correct = 1}, 0},
        {1, "{\"answer\":\"not stated\",\"citations\":[]}",
         {.json_ok = 1, .selected = 1, .anchored = 1, .refused = 1}, 0},
        {2, "{\"answer\":\"not stated\",\"citations\":[]}",
         {.json_ok = 1, .selected = 1, .correct = 1, .refused = 1}, NAN},
        {2, "", {.selected = 1}, NAN},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        qs_question_run run = {.item = cases[i].item, .wording = 2, .seed = 1};
        qs_answer_row row = {.n_prompt = 7}, wanted = cases[i].row;
        double coverage;
        assert_ok(qs_answer_score(q, &run, ranked, cases[i].text, &row, &coverage));
        wanted.item = (int32_t)run.item;
        wanted.wording = 2;
        wanted.seed = 1;
        wanted.n_prompt = 7;
        if (memcmp(&row, &wanted, sizeof row) != 0) fail_msg("case %zu", i);
        assert_true(isnan(cases[i].coverage) ? isnan(coverage) : coverage == cases[i].coverage);
    }
}

/* An anchor over two snippets is covered word by word: S1 holds 3 of "pump has red. The gate". */
static void test_coverage_is_a_union(void **state)
{
    qs_questions *q = *state;
    qs_gold_item saved = q->set.items[0];
    char both[] = "The pump has red. The gate is 4 kg.";
    const char *text = q->set.snippets[0].text;
    const int64_t ranked[K] = {0, 1};
    qs_question_run run = {.item = 0};
    qs_answer_row row = {0};
    double coverage;
    q->set.snippets[0].text = both; /* offsets stay */
    q->set.items[0].anchor_end = 26;
    assert_ok(qs_answer_score(q, &run, ranked, "{\"answer\":\"\",\"citations\":[{\"snippet_id\":\"S1\"}]}",
                              &row, &coverage));
    assert_true(coverage == 3.0 / 5.0);
    assert_ok(qs_answer_score(q, &run, ranked,
                              "{\"answer\":\"\",\"citations\":[{\"snippet_id\":\"S2\"},{\"snippet_id\":"
                              "\"S1\"},{\"snippet_id\":\"S1\"}]}",
                              &row, &coverage));
    assert_true(coverage == 1.0);
    q->set.items[0] = saved;
    q->set.snippets[0].text = text;
}

/* ---- metrics by hand ---- */

/* Every greedy run of item i answers texts[i]; seeded runs answer nothing. */
static void answer_with(qs_answers *a, const qs_questions *q, const char *const texts[3])
{
    *a = (qs_answers){.n_runs = q->n_runs, .n_prompts = q->n_prompts, .k = K};
    assert_ok(QS_NEW(a->ranked, a->n_prompts * K, "ranked"));
    assert_ok(QS_NEW(a->texts, a->n_runs, "texts"));
    assert_ok(QS_NEW(a->rows, a->n_runs, "rows"));
    assert_ok(QS_NEW(a->coverage, a->n_runs, "coverage"));
    for (int64_t i = 0; i < a->n_prompts; i++) a->ranked[i * K + 1] = 1; /* S1, S2 */
    for (int64_t i = 0; i < a->n_runs; i++) {
        qs_question_run run = qs_questions_run(i);
        const char *text = run.seed == QS_GREEDY ? texts[run.item] : "";
        assert_ok(QS_NEW(a->texts[i], strlen(text) + 1, "text"));
        (void)strcpy(a->texts[i], text);
        assert_ok(qs_answer_score(q, &run, a->ranked + run.prompt * K, a->texts[i], &a->rows[i], &a->coverage[i]));
    }
}

static void expect(const figures *f, const char *name, double value, int64_t n)
{
    const qs_estimate *e = figure(f, name);
    if (!(fabs(e->value - value) <= 1e-15) || e->n != n)
        fail_msg("%s = %.17g (n %lld)", name, e->value, (long long)e->n);
    assert_true(e->lo <= e->value && e->value <= e->hi);
}

static void test_metrics(void **state)
{
    qs_questions *q = *state;
    static const char *const f_texts[] = {"{\"answer\":\"red\",\"citations\":[{\"snippet_id\":\"S1\"}]}",
                                          "{\"answer\":\"4 kg\",\"citations\":[{\"snippet_id\":\"S2\"}]}",
                                          "{\"answer\":\"not stated\",\"citations\":[]}"},
        *const q_texts[] = {"{\"answer\":\"red\",\"citations\":[{\"snippet_id\":\"S1\"}]}",
                            "{\"answer\":\"4 kg\",\"citations\":[{\"snippet_id\":\"S1\"}]}", "weirs"};
    qs_answers f, c;
    answer_with(&f, q, f_texts);
    answer_with(&c, q, q_texts);
    figures got = {0};
    qs_answer_input input = {.questions = q, .answers = &c, .reference = &f,
                             .tasks = QS_TASK_SEMANTIC | QS_TASK_JSON, .part = QS_QUALITY_ALL, .seed = 1};
    assert_ok(qs_answer_measure(&input, take, &got));
    expect(&got, "json_ok", 2.0 / 3.0, 3);
    expect(&got, "cite_ok", 1.0, 2);
    expect(&got, "cite_precision", 0.5, 2);
    expect(&got, "qa_acc", 1.0, 2);
    expect(&got, "qa_acc_change", 0.0, 2);
    expect(&got, "refusal_ok", 0.0, 1);
    expect(&got, "refusal_wrong", 0.0, 2);
    expect(&got, "anchor_offered", 1.0, 2);
    expect(&got, "cov_cited", 0.5, 2);
    expect(&got, "cov_critical", 0.5, 2);
    expect(&got, "cov_pass_rate", 0.5, 2);
    expect(&got, "snippet_divergence", 1.0 / 3.0, 3); /* Q2; Q3 falls back on the top-ranked in both */
    expect(&got, "answer_agree", 1.0 / 3.0, 3);
    /* the reference against itself: nothing differs */
    got = (figures){0};
    input.answers = &f;
    input.part = QS_QUALITY_PAIRED;
    assert_ok(qs_answer_measure(&input, take, &got));
    assert_int_equal(got.n, 3);
    expect(&got, "snippet_divergence", 0.0, 3);
    expect(&got, "answer_agree", 1.0, 3);
    expect(&got, "qa_acc_change", 0.0, 2);
    qs_answers_free(&f);
    qs_answers_free(&c);
}

/* ---- whole evaluations ---- */

typedef struct bench {
    qs_model *model;
    qs_windows windows;
} bench;

static void bench_open(bench *b)
{
    int32_t tokens[N_CTX * N_WINDOWS];
    const qs_protocol *protocol;
    for (int i = 0; i < N_CTX * N_WINDOWS; i++) tokens[i] = (i * 37 + i / 7) % 384;
    assert_ok(qs_model_open(&b->model, "tests/fixtures/tiny"));
    assert_ok(qs_protocol_find(&protocol, "hf"));
    assert_ok(qs_windows_cut(&b->windows, protocol, tokens, N_CTX * N_WINDOWS, N_CTX, 0, -1));
}

static void bench_close(bench *b)
{
    qs_windows_free(&b->windows);
    qs_model_close(b->model);
}

static void eval_path(char path[QS_PATH_BYTES], const char *name, const char *file)
{
    assert_ok(qs_path_format(path, "%s/%s/%s", dir, name, file));
}

/* Evaluates the reference; gives the number of points that had to be done. */
static int64_t evaluate(const bench *b, const qs_questions *q, const char *name, int n_threads)
{
    char out[QS_PATH_BYTES];
    qs_backend *backend;
    qs_evaluation e;
    qs_evaluation_cost cost;
    assert_ok(qs_path_format(out, "%s/%s", dir, name));
    qs_eval_options options = {.windows = &b->windows, .questions = q, .out_dir = out, .seed = 3,
                               .tasks = QS_TASKS_ANSWERS};
    assert_ok(qs_backend_create(&backend, "cpu", 0, n_threads));
    assert_ok(qs_evaluation_create(&e, backend, b->model, NULL, 0, &options));
    qs_evaluation_plan(&e, &cost);
    assert_ok(qs_evaluation_run(&e));
    qs_evaluation_destroy(&e);
    qs_backend_destroy(backend);
    return cost.n_todo;
}

static void clear(const char *name)
{
    char path[QS_PATH_BYTES];
    char lock[QS_PATH_BYTES];
    assert_ok(qs_path_format(path, "%s/%s", dir, name));
    assert_ok(qs_machine_lock_path(lock, path));
    (void)remove(lock);
    remove_dir(path);
}

static qs_digest digest_of(const char *name)
{
    char path[QS_PATH_BYTES];
    qs_artifact *artifact;
    eval_path(path, name, "fp.eval.h5");
    assert_ok(qs_artifact_open(&artifact, path, QS_KIND_EVAL));
    qs_digest digest = qs_artifact_digest(artifact);
    qs_artifact_close(artifact);
    return digest;
}

static void test_threads_and_reuse(void **state)
{
    qs_questions *q = *state;
    bench b;
    bench_open(&b);
    assert_int_equal(evaluate(&b, q, "one", 1), 1);
    assert_int_equal(evaluate(&b, q, "two", 2), 1);
    qs_digest one = digest_of("one"), two = digest_of("two");
    assert_memory_equal(&one, &two, sizeof one);
    assert_int_equal(evaluate(&b, q, "one", 2), 0); /* current */
    qs_questions fewer;
    qs_question_options options = {.gold = dir, .k = K, .n_tokens_max = 8, .n_items = 2};
    assert_ok(qs_questions_load(&fewer, &options));
    assert_int_equal(evaluate(&b, &fewer, "one", 2), 1); /* other questions */
    qs_questions_free(&fewer);
    clear("one");
    clear("two");
    bench_close(&b);
}

/* What was put is what is read; a control of the reference against itself is in the artifact. */
static void test_artifact(void **state)
{
    qs_questions *q = *state;
    bench b;
    char path[QS_PATH_BYTES];
    qs_artifact *artifact;
    qs_answers read;
    qs_estimate estimate;
    bool present;
    bench_open(&b);
    (void)evaluate(&b, q, "artifact", 1);
    eval_path(path, "artifact", "fp.eval.h5");
    assert_ok(qs_artifact_open(&artifact, path, QS_KIND_EVAL));
    assert_ok(qs_answers_read(&read, artifact));
    assert_int_equal(read.n_runs, 30);
    assert_int_equal(read.k, K);
    for (int64_t i = 0; i < read.n_runs; i++) {
        qs_question_run run = qs_questions_run(i);
        qs_answer_row row = read.rows[i];
        double coverage;
        assert_ok(qs_answer_score(q, &run, read.ranked + run.prompt * K, read.texts[i], &row, &coverage));
        assert_memory_equal(&row, &read.rows[i], sizeof row);
        assert_true(row.n_prompt > 20 && row.n_tokens <= 8);
    }
    assert_ok(qs_metric_get(artifact, qs_metric_find("answer_agree"), &estimate, &present));
    assert_true(present && estimate.value == 1.0 && estimate.n == 2);
    assert_ok(qs_metric_get(artifact, qs_metric_find("snippet_divergence"), &estimate, &present));
    assert_true(present && estimate.value == 0.0);
    qs_answers_free(&read);
    qs_artifact_close(artifact);
    clear("artifact");
    bench_close(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_runs),
        cmocka_unit_test(test_overlap),
        cmocka_unit_test(test_refused_options),
        cmocka_unit_test(test_chat),
        cmocka_unit_test(test_score),
        cmocka_unit_test(test_coverage_is_a_union),
        cmocka_unit_test(test_metrics),
        cmocka_unit_test(test_threads_and_reuse),
        cmocka_unit_test(test_artifact),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
