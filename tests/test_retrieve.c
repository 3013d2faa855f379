/* Retrieval: terms, BM25, the tfidf encoder, reciprocal ranks, ties, re-ranking (docs/retrieval.md; checklist G9,
 * E7: retrieval that can be traced). */
#include "scratch.h"

#include <math.h>

#include "rag/lexicon.h"
#include "rag/retrieve.h"
#include "rag/terms.h"

static void assert_near(double a, double b, double tolerance)
{
    if (!(fabs(a - b) <= tolerance)) fail_msg("%.12g and %.12g differ by more than %g", a, b, tolerance);
}

/* ---- terms and weights ---- */

static void assert_terms(const char *text, const char *wanted)
{
    char found[256] = "";
    qs_terms terms;
    OK(qs_terms_start(&terms, text));
    while (qs_terms_next(&terms)) {
        strncat(found, terms.term, terms.bytes);
        strcat(found, "|");
    }
    qs_terms_end(&terms);
    assert_string_equal(found, wanted);
}

static void terms_are_folded_words(void **state)
{
    (void)state;
    qs_terms terms;
    assert_terms("", "");
    assert_terms(" -- ", "");
    assert_terms("Pump-House no. 14, 3.5 bar", "pump|house|no|14|3|5|bar|");
    assert_terms("Stra\xc3\x9f"
                 "e \xc3\x89\xc3\x89N \xef\xbc\xa1", /* sharp s, E acute twice, full-width A */
                 "strasse|\xc3\xa9\xc3\xa9n|a|");
    assert_terms("e\xcc\x81", "\xc3\xa9|"); /* composed */
    FAILS(QS_E_INPUT, qs_terms_start(&terms, "ab\xff"));
    TEXT_HOLDS("byte 2");
}

static const char *const three[] = {"red pump", "red red tank", "blue gate at the weir"};

static void bm25_by_hand(void **state)
{
    (void)state;
    qs_lexicon lexicon;
    int32_t counts[8];
    double scores[3];
    OK(qs_lexicon_build(&lexicon, three, 3));
    assert_int_equal(lexicon.n_terms, 8);
    assert_int_equal(lexicon.frequency[qs_vocab_find(&lexicon.terms, "red", 3)], 2);
    OK(qs_lexicon_count(&lexicon, "RED tank? unheard", counts));
    qs_bm25_scores(&lexicon, counts, scores);
    /* 10 terms in 3 documents: mean length 10/3. "red" stands in 2 documents, "tank" in one. */
    double red = log(1.0 + 1.5 / 2.5), tank = log(1.0 + 2.5 / 1.5);
    double first = 1.2 * (0.25 + 0.75 * 2.0 / (10.0 / 3.0)), second = 1.2 * (0.25 + 0.75 * 3.0 / (10.0 / 3.0));
    assert_near(scores[0], red * 2.2 / (1.0 + first), 1e-12);
    assert_near(scores[1], red * 2.0 * 2.2 / (2.0 + second) + tank * 2.2 / (1.0 + second), 1e-12);
    assert_true(scores[2] == 0.0);
    qs_lexicon_free(&lexicon);
    const char *const none[] = {"-", "..."};
    FAILS(QS_E_INPUT, qs_lexicon_build(&lexicon, none, 2));
}

static double dot(const float *a, const float *b, int64_t n)
{
    double sum = 0.0;
    for (int64_t i = 0; i < n; i++) sum += (double)a[i] * b[i];
    return sum;
}

static qs_encoder *open_tfidf(const char *const *documents, int64_t n)
{
    qs_encoder *encoder;
    OK(qs_encoder_open(&encoder, "tfidf", &(qs_encoder_options){.documents = documents, .n_documents = n}));
    return encoder;
}

static void tfidf_by_hand_and_cached(void **state)
{
    (void)state;
    qs_encoder *encoder = open_tfidf(three, 3);
    const char *const texts[] = {"red pump", "pump", "unheard of", "red pump", "Red red"};
    float v[5][8];
    assert_int_equal(qs_encoder_dim(encoder), 8);
    OK(qs_encoder_encode(encoder, texts, 5, v[0]));
    /* One of 3 documents: 1 + ln(4/2); two of 3: 1 + ln(4/3). */
    double pump = 1.0 + log(2.0), red = 1.0 + log(4.0 / 3.0);
    assert_near(dot(v[0], v[1], 8), pump / sqrt(pump * pump + red * red), 1e-6);
    assert_near(dot(v[0], v[4], 8), red / sqrt(pump * pump + red * red), 1e-6);
    assert_near(dot(v[0], v[0], 8), 1.0, 1e-6);
    assert_true(dot(v[2], v[2], 8) == 0.0);
    assert_memory_equal(v[0], v[3], sizeof v[0]);
    assert_int_equal(qs_encoder_n_encoded(encoder), 4);
    float again[8];
    OK(qs_encoder_encode(encoder, texts, 1, again));
    assert_memory_equal(v[0], again, sizeof again);
    assert_int_equal(qs_encoder_n_encoded(encoder), 4);
    qs_encoder *other = open_tfidf(three, 2);
    qs_digest a = qs_encoder_digest(encoder), b = qs_encoder_digest(other);
    assert_true(a.low != b.low || a.high != b.high);
    qs_encoder_destroy(other);
    qs_encoder_destroy(encoder);
    FAILS(QS_E_USAGE, qs_encoder_open(&encoder, "word2vec", &(qs_encoder_options){.documents = three}));
    TEXT_HOLDS("word2vec", "--list");
}

/* A few thousand texts: the cache grows and still finds each. */
static void the_cache_grows(void **state)
{
    (void)state;
    enum { N = 700 };
    static char store[N][16];
    static const char *texts[N];
    static float first[N][8], second[N][8];
    static const char *const names[] = {"red", "pump", "tank", "blue", "gate"};
    for (int i = 0; i < N; i++) {
        (void)snprintf(store[i], sizeof store[i], "%s x%d %s", names[i % 5], i, names[i / 5 % 5]);
        texts[i] = store[i];
    }
    qs_encoder *encoder = open_tfidf(three, 3);
    OK(qs_encoder_encode(encoder, texts, N, first[0]));
    assert_int_equal(qs_encoder_n_encoded(encoder), N);
    for (int i = 0; i < N; i++) OK(qs_encoder_encode(encoder, &texts[i], 1, second[i]));
    assert_memory_equal(first, second, sizeof first);
    assert_int_equal(qs_encoder_n_encoded(encoder), N);
    qs_encoder_destroy(encoder);
}

/* ---- retrieval ---- */

static qs_gold_snippet corpus[] = {
    {"S4", "B", "f#B", "Weir", "1", "the gate is red", 0, 15, 4},
    {"S3", "B", "f#B", "Weir", "1", "the gate is tall", 16, 32, 4},
    {"S2", "A", "f#A", "Weir", "1", "the gate is tall", 0, 16, 4},
    {"S1", "C", "f#C", "Pump", "1", "nothing here", 0, 12, 2},
};
static const qs_goldset set = {.n_snippets = 4, .snippets = corpus};

typedef struct index {
    qs_encoder *encoder;
    qs_retriever *retriever;
} index_pair;

static index_pair open_index(void)
{
    static const char *const documents[] = {"Weir\nthe gate is red", "Weir\nthe gate is tall", "Weir\nthe gate is tall",
                                            "Pump\nnothing here"};
    index_pair index = {.encoder = open_tfidf(documents, 4)};
    OK(qs_retriever_create(&index.retriever, &set, index.encoder));
    return index;
}

static void close_index(index_pair *index)
{
    qs_retriever_destroy(index->retriever);
    qs_encoder_destroy(index->encoder);
}

static const char *id(const qs_ranking *ranking, int64_t i) { return corpus[ranking->hits[i].snippet].id; }

/* S2 and S3 are the same text: the section decides. S1 shares nothing with the question. */
static void ranks_are_fused_and_ties_go_by_section(void **state)
{
    (void)state;
    index_pair index = open_index();
    const char *question = "Is the gate red?";
    qs_ranking ranking;
    OK(qs_retrieve(index.retriever, &question, 1, NULL, &ranking));
    assert_int_equal(ranking.n, 3);
    assert_string_equal(id(&ranking, 0), "S4");
    assert_string_equal(id(&ranking, 1), "S2");
    assert_string_equal(id(&ranking, 2), "S3");
    for (int i = 0; i < 3; i++) {
        assert_int_equal(ranking.hits[i].bm25_rank, i + 1);
        assert_int_equal(ranking.hits[i].dense_rank, i + 1);
        assert_int_equal(ranking.hits[i].pool_rank, i + 1);
        assert_near(ranking.hits[i].fused, 2.0 / (61.0 + i), 1e-15);
    }
    assert_true(ranking.hits[1].bm25 == ranking.hits[2].bm25);
    question = "unheard of";
    OK(qs_retrieve(index.retriever, &question, 1, NULL, &ranking));
    assert_int_equal(ranking.n, 0);
    question = "the \xff";
    FAILS(QS_E_INPUT, qs_retrieve(index.retriever, &question, 1, NULL, &ranking));
    close_index(&index);
}

typedef struct judge {
    int n_calls;
    int64_t n_pairs;
    double by_id[5];
} judge;

static qs_err judge_score(void *context, const qs_rerank_pair *pairs, int64_t n_pairs, double *scores)
{
    judge *j = context;
    j->n_calls++;
    j->n_pairs += n_pairs;
    for (int64_t i = 0; i < n_pairs; i++) scores[i] = j->by_id[pairs[i].snippet->id[1] - '0'];
    return QS_OK;
}

static void the_model_reorders_its_pool(void **state)
{
    (void)state;
    index_pair index = open_index();
    const char *const questions[] = {"Is the gate red?", "Which gate?"};
    judge j = {.by_id = {0, 0, -3.0, -1.0, -3.0}};
    qs_ranking rankings[2];
    OK(qs_retrieve(index.retriever, questions, 2, &(qs_reranker){&j, judge_score}, rankings));
    assert_int_equal(j.n_calls, 1);
    assert_int_equal(j.n_pairs, 6);
    for (int i = 0; i < 2; i++) {
        assert_string_equal(id(&rankings[i], 0), "S3");
        assert_string_equal(id(&rankings[i], 1), "S2"); /* section A before B at equal scores */
        assert_string_equal(id(&rankings[i], 2), "S4");
    }
    assert_int_equal(rankings[0].hits[0].pool_rank, 3);
    assert_true(rankings[0].hits[0].score == -1.0);
    j.by_id[2] = NAN;
    FAILS(QS_E_NUMERIC, qs_retrieve(index.retriever, questions, 1, &(qs_reranker){&j, judge_score}, rankings));
    TEXT_HOLDS("S2", "Is the gate red?");
    close_index(&index);
}

/* Checklist E7: an index of another revision cannot pass for this one. */
static void the_index_hash_names_the_corpus(void **state)
{
    (void)state;
    index_pair index = open_index();
    qs_digest first = qs_retriever_index_hash(index.retriever);
    close_index(&index);
    index = open_index();
    qs_digest same = qs_retriever_index_hash(index.retriever);
    close_index(&index);
    assert_true(first.low == same.low && first.high == same.high);
    corpus[3].rev = "2";
    index = open_index();
    qs_digest other = qs_retriever_index_hash(index.retriever);
    close_index(&index);
    corpus[3].rev = "1";
    assert_true(first.low != other.low);
}

/* The world's own questions: how many easy ones have their anchor among the first k. */
static void anchors_of_the_world_are_found(void **state)
{
    (void)state;
    qs_goldset world;
    qs_encoder *encoder;
    qs_retriever *retriever;
    OK(qs_goldset_load(&world, "datasets/world/gold.jsonl", "datasets/world/corpus.jsonl", NULL));
    const char **texts = calloc((size_t)world.n_snippets, sizeof *texts);
    qs_ranking *rankings = calloc((size_t)world.n_items, sizeof *rankings);
    for (int64_t i = 0; i < world.n_snippets; i++) texts[i] = world.snippets[i].text;
    encoder = open_tfidf(texts, world.n_snippets);
    OK(qs_retriever_create(&retriever, &world, encoder));
    for (int64_t i = 0; i < world.n_items; i++) texts[i] = world.items[i].question;
    OK(qs_retrieve(retriever, texts, world.n_items, NULL, rankings));
    int n_easy = 0, n_found = 0;
    for (int64_t i = 0; i < world.n_items; i++) {
        if (world.items[i].band != QS_GOLD_EASY || world.items[i].anchor < 0) continue;
        n_easy++;
        for (int64_t k = 0; k < 5 && k < rankings[i].n; k++)
            n_found += rankings[i].hits[k].snippet == world.items[i].anchor;
    }
    print_message("%d of %d easy questions have their anchor among the first 5\n", n_found, n_easy);
    assert_true(n_easy > 20 && n_found >= n_easy * 9 / 10);
    qs_retriever_destroy(retriever);
    qs_encoder_destroy(encoder);
    qs_goldset_free(&world);
    free(texts);
    free(rankings);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(terms_are_folded_words),
        cmocka_unit_test(bm25_by_hand),
        cmocka_unit_test(tfidf_by_hand_and_cached),
        cmocka_unit_test(the_cache_grows),
        cmocka_unit_test(ranks_are_fused_and_ties_go_by_section),
        cmocka_unit_test(the_model_reorders_its_pool),
        cmocka_unit_test(the_index_hash_names_the_corpus),
        cmocka_unit_test(anchors_of_the_world_are_found),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
