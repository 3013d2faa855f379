/* Vectors by the digest of their text, in memory and from run to run. */
#include "scratch.h"

#include "rag/encoder.h"
#include "rag/vectors.h"

#define FIXTURE "tests/fixtures/minilm"
enum { DIM = 16, N_TEXTS = 3 };
static const char *const texts[N_TEXTS + 1] = {"the cat sat", "", "a dog, a bone", "something else"};

static void test_memory(void **state)
{
    (void)state;
    enum { N = 1000 };
    qs_vectors v = {.dim = 2};
    qs_digest absent = {.low = 7, .high = N};
    assert_null(qs_vectors_find(&v, absent));
    for (int64_t i = 0; i < N; i++) {
        float row[2] = {(float)i, -(float)i};
        OK(qs_vectors_reserve(&v, 1));
        /* Many share a slot at first. */
        OK(qs_vectors_add(&v, (qs_digest){.low = (uint64_t)(i % 10), .high = (uint64_t)i}, row));
    }
    for (int64_t i = 0; i < N; i++) {
        const float *row = qs_vectors_find(&v, (qs_digest){.low = (uint64_t)(i % 10), .high = (uint64_t)i});
        assert_true(row != NULL && row[0] == (float)i && row[1] == -(float)i);
    }
    assert_null(qs_vectors_find(&v, absent));
    qs_vectors_free(&v);
}

static qs_encoder *open_encoder(void)
{
    qs_encoder *encoder;
    OK(qs_encoder_open(&encoder, "minilm", &(qs_encoder_options){.directory = FIXTURE}));
    return encoder;
}

/* Encodes n texts in an encoder that recalls first and keeps at the end; returns how many it encoded. */
static int64_t encode(int64_t n, float vectors[][DIM])
{
    qs_encoder *encoder = open_encoder();
    OK(qs_encoder_recall(encoder, scratch_dir));
    OK(qs_encoder_encode(encoder, texts, n, vectors[0]));
    OK(qs_encoder_keep(encoder, scratch_dir));
    int64_t n_encoded = qs_encoder_n_encoded(encoder);
    qs_encoder_destroy(encoder);
    return n_encoded;
}

static void test_runs(void **state)
{
    (void)state;
    float first[N_TEXTS + 1][DIM], again[N_TEXTS + 1][DIM];
    assert_int_equal(encode(N_TEXTS, first), N_TEXTS);
    assert_int_equal(encode(N_TEXTS, again), 0);
    assert_memory_equal(first, again, N_TEXTS * sizeof first[0]);
    assert_int_equal(encode(N_TEXTS + 1, again), 1);
    assert_memory_equal(first, again, N_TEXTS * sizeof first[0]);
    assert_int_equal(encode(N_TEXTS + 1, again), 0);
}

/* Of another encoder, of other kernels, cut off: made again, and then right. */
static void test_others(void **state)
{
    (void)state;
    float vectors[N_TEXTS][DIM];
    scratch_path path;
    const float wrong[DIM] = {1};
    qs_vectors v = {.dim = DIM};
    scratch(path, "minilm.embed.h5");
    qs_encoder *encoder = open_encoder();
    qs_digest own = qs_encoder_digest(encoder), other = {.low = own.low + 1, .high = own.high};
    qs_encoder_destroy(encoder);
    assert_int_equal(encode(N_TEXTS, vectors), N_TEXTS);
    OK(qs_vectors_reserve(&v, 1));
    OK(qs_vectors_add(&v, qs_hash(texts[0], strlen(texts[0])), wrong));
    const qs_vectors_source sources[] = {{"minilm", "avx512 kernels", other}, {"minilm", "an abacus", own}};
    for (size_t i = 0; i < 2; i++) {
        OK(qs_vectors_keep(&v, path, &sources[i]));
        assert_int_equal(encode(N_TEXTS, vectors), N_TEXTS);
        assert_true(vectors[0][0] != 1);
    }
    char *data;
    size_t bytes;
    OK(qs_file_read(&data, &bytes, path, 1 << 20));
    OK(qs_file_write(path, data, bytes / 2));
    qs_mem_free(data);
    assert_int_equal(encode(N_TEXTS, vectors), N_TEXTS);
    assert_int_equal(encode(N_TEXTS, vectors), 0);
    qs_vectors_free(&v);
}

/* What costs no more than reading a file is not kept. */
static void test_cheap(void **state)
{
    (void)state;
    qs_encoder *encoder;
    scratch_path path;
    float vector[64];
    OK(qs_encoder_open(&encoder, "tfidf", &(qs_encoder_options){.documents = texts, .n_documents = N_TEXTS}));
    assert_true(qs_encoder_dim(encoder) <= 64);
    OK(qs_encoder_encode(encoder, texts, 1, vector));
    OK(qs_encoder_keep(encoder, scratch_dir));
    scratch(path, "tfidf.embed.h5");
    assert_false(qs_file_exists(path));
    qs_encoder_destroy(encoder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_memory),
        cmocka_unit_test_setup_teardown(test_runs, scratch_create, scratch_remove),
        cmocka_unit_test_setup_teardown(test_others, scratch_create, scratch_remove),
        cmocka_unit_test_setup_teardown(test_cheap, scratch_create, scratch_remove),
    };
    return cmocka_run_group_tests_name("vectors", tests, NULL, NULL);
}
