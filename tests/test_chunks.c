/* Chunks that several threads store and load: byte for byte what HDF5's own pipeline makes of the same data. */
#include "artifact_content.h"

#include <zstd.h>

#include "artifact/h5_chunk.h"
#include "base/mem.h"
#include "base/rng.h"

enum { CODE_ROWS = 3001, CODE_BYTES = 1024 /* of a row: three chunks, the last one short */, N_SUMS = 700001 };

/* A dataset put whole, and appended in pieces that end within chunks, which HDF5 stores. */
typedef struct both_ways {
    qs_artifact_kind kind;
    const char *node;
    qs_dtype dtype;
    int rank;
    int64_t dims[2], piece;
} both_ways;

static const both_ways cases[] = {
    {QS_KIND_QUANT, "/layers/0/q/codes", QS_U8, 2, {CODE_ROWS, CODE_BYTES}, 1000},
    {QS_KIND_QUANT, "/layers/0/q/scales", QS_F16, 2, {CODE_ROWS, CODE_BYTES}, 701},
    {QS_KIND_CALIB, "/layers/0/qkv/gram", QS_F32, 1, {N_SUMS, 0}, 99999},
};
enum { N_CASES = sizeof cases / sizeof *cases };

static size_t row_bytes(const both_ways *c)
{
    return (size_t)(c->rank > 1 ? c->dims[1] : 1) * qs_dtype_bytes(c->dtype);
}

/* Numbers whose bytes compress, and are finite in any type. */
static uint8_t *make_data(const both_ways *c)
{
    uint8_t *data;
    size_t bytes = (size_t)c->dims[0] * row_bytes(c), width = qs_dtype_bytes(c->dtype);
    OK(qs_mem_alloc(&data, bytes, "data"));
    for (size_t i = 0; i < bytes; i++) data[i] = (uint8_t)(qs_rng_u64(1, i) & (i % width + 1 == width ? 0x3b : 0x7f));
    return data;
}

static void put(const both_ways *c, const uint8_t *data, const char *path, int64_t piece)
{
    qs_artifact *a;
    OK(qs_artifact_create(&a, path, c->kind));
    OK(qs_artifact_begin(a, c->node, c->dtype, c->rank, c->dims));
    for (int64_t row = 0; row < c->dims[0]; row += piece) {
        int64_t n = c->dims[0] - row < piece ? c->dims[0] - row : piece;
        OK(qs_artifact_append(a, c->node, n, data + (size_t)row * row_bytes(c)));
    }
    OK(qs_artifact_seal(a, NULL));
}

static hid_t open_dataset(const char *path, const char *node, hid_t *file)
{
    *file = H5Fopen(path, H5F_ACC_RDONLY, H5P_DEFAULT);
    assert_true(*file >= 0);
    hid_t dataset = H5Dopen2(*file, node, H5P_DEFAULT);
    assert_true(dataset >= 0);
    return dataset;
}

/* G1: what is stored does not depend on who stores it. */
static void test_bytes_are_hdf5s(void **state)
{
    (void)state;
    for (int i = 0; i < N_CASES; i++) {
        const both_ways *c = &cases[i];
        scratch_path whole, pieces;
        uint8_t *data = make_data(c), *stored[2];
        OK(qs_mem_alloc(&stored[0], 2 << 20, "chunk"));
        OK(qs_mem_alloc(&stored[1], 2 << 20, "chunk"));
        put(c, data, scratch(whole, "whole.h5"), c->dims[0]);
        put(c, data, scratch(pieces, "pieces.h5"), c->piece);
        hid_t files[2], datasets[2];
        datasets[0] = open_dataset(whole, c->node, &files[0]);
        datasets[1] = open_dataset(pieces, c->node, &files[1]);
        hid_t plist = H5Dget_create_plist(datasets[0]);
        hsize_t chunk[2] = {0}, bytes[2];
        assert_int_equal(H5Pget_chunk(plist, 2, chunk), c->rank);
        int n_chunks = 0;
        for (hsize_t row = 0; row < (hsize_t)c->dims[0]; row += chunk[0], n_chunks++) {
            hsize_t offset[2] = {row, 0};
            uint32_t skipped;
            for (int k = 0; k < 2; k++) {
                assert_true(H5Dget_chunk_storage_size(datasets[k], offset, &bytes[k]) >= 0 && bytes[k] <= 2 << 20);
                assert_true(H5Dread_chunk(datasets[k], H5P_DEFAULT, offset, &skipped, stored[k]) >= 0);
                assert_int_equal(skipped, 0);
            }
            assert_int_equal(bytes[0], bytes[1]);
            assert_memory_equal(stored[0], stored[1], bytes[0]);
        }
        assert_true(n_chunks >= 3 && c->dims[0] % (int64_t)chunk[0] != 0);
        (void)H5Pclose(plist);
        for (int k = 0; k < 2; k++) {
            (void)H5Dclose(datasets[k]);
            (void)H5Fclose(files[k]);
            qs_mem_free(stored[k]);
        }
        qs_mem_free(data);
    }
}

static void test_rows_anywhere(void **state)
{
    (void)state;
    for (int i = 0; i < N_CASES; i++) {
        const both_ways *c = &cases[i];
        scratch_path path;
        qs_artifact *a;
        uint8_t *data = make_data(c), *back;
        size_t row = row_bytes(c);
        OK(qs_mem_alloc(&back, (size_t)c->dims[0] * row, "rows"));
        put(c, data, scratch(path, "rows.h5"), c->piece);
        OK(qs_artifact_verify(path));
        OK(qs_artifact_open(&a, path, c->kind));
        const int64_t half = c->dims[0] / 2;
        const int64_t ranges[][2] = {{0, c->dims[0]}, {1, c->dims[0] - 2}, {half, half}, {7, c->piece}};
        for (size_t r = 0; r < sizeof ranges / sizeof *ranges; r++) {
            memset(back, 0xee, (size_t)c->dims[0] * row);
            OK(qs_artifact_read_rows(a, c->node, c->dtype, ranges[r][0], ranges[r][1], back));
            assert_memory_equal(back, data + (size_t)ranges[r][0] * row, (size_t)ranges[r][1] * row);
        }
        qs_artifact_close(a);
        qs_mem_free(back);
        qs_mem_free(data);
    }
}

/* Stored by another writer, without shuffling: HDF5 reads that, not we. */
static void test_other_filters_are_left_to_hdf5(void **state)
{
    (void)state;
    enum { N = 4096, CHUNK = 1024 };
    scratch_path path;
    static uint16_t data[N], back[N];
    const hsize_t dims[1] = {N}, chunk[1] = {CHUNK};
    const unsigned values[2] = {QS_ZSTD_LEVEL, CHUNK * sizeof *data};
    for (int i = 0; i < N; i++) data[i] = (uint16_t)(i * 3);
    for (int shuffled = 0; shuffled < 2; shuffled++) {
        hid_t file = H5Fcreate(scratch(path, "other.h5"), H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
        hid_t plist = H5Pcreate(H5P_DATASET_CREATE), space = H5Screate_simple(1, dims, NULL);
        assert_true(H5Pset_chunk(plist, 1, chunk) >= 0);
        if (shuffled) assert_true(H5Pset_shuffle(plist) >= 0);
        assert_true(H5Pset_filter(plist, QS_ZSTD_FILTER_ID, H5Z_FLAG_MANDATORY, 2, values) >= 0);
        assert_true(H5Pset_fletcher32(plist) >= 0);
        hid_t dataset = H5Dcreate2(file, "d", H5T_STD_U16LE, space, H5P_DEFAULT, plist, H5P_DEFAULT);
        assert_true(H5Dwrite(dataset, H5T_STD_U16LE, H5S_ALL, H5S_ALL, H5P_DEFAULT, data) >= 0);
        assert_true(H5Fflush(file, H5F_SCOPE_LOCAL) >= 0);
        const qs_dataset_info info = {.dtype = QS_F16, .rank = 1, .dims = {N}, .n = N};
        assert_int_equal(qs_chunks_read(dataset, &info, 0, N, back), shuffled);
        if (shuffled) assert_memory_equal(back, data, sizeof data);
        (void)H5Dclose(dataset);
        (void)H5Sclose(space);
        (void)H5Pclose(plist);
        (void)H5Fclose(file);
    }
}

/* A chunk that a hostile writer stored, whose checksum is right: refused, and nothing is written beyond a chunk. */
static void test_hostile_chunks_are_refused(void **state)
{
    (void)state;
    enum { CHUNK_BYTES = 1024 * 1024 };
    const both_ways *c = &cases[0];
    static uint8_t stored[2 * CHUNK_BYTES], plain[CHUNK_BYTES + 4096];
    scratch_path path;
    uint8_t *data = make_data(c), *back;
    OK(qs_mem_alloc(&back, (size_t)c->dims[0] * row_bytes(c), "rows"));
    put(c, data, scratch(path, "hostile.h5"), c->dims[0]);
    hid_t file = H5Fopen(path, H5F_ACC_RDWR, H5P_DEFAULT), dataset = H5Dopen2(file, c->node, H5P_DEFAULT);
    hid_t plist = H5Dget_create_plist(dataset);
    hsize_t chunk[2], offset[2] = {0, 0};
    assert_int_equal(H5Pget_chunk(plist, 2, chunk), 2);
    offset[0] = chunk[0]; /* the second */
    size_t chunk_bytes = (size_t)(chunk[0] * chunk[1]);
    const qs_dataset_info info = {
        .dtype = c->dtype, .rank = 2, .dims = {c->dims[0], c->dims[1]}, .n = c->dims[0] * c->dims[1]};
    assert_true(qs_chunks_read(dataset, &info, 0, c->dims[0], back));
    memset(plain, 7, sizeof plain);
    /* A larger chunk, a smaller one, half a frame, three bytes. */
    const size_t sizes[] = {chunk_bytes + 4096, chunk_bytes / 2, chunk_bytes, chunk_bytes};
    for (int kind = 0; kind < 4; kind++) {
        size_t n = ZSTD_compress(stored, sizeof stored, plain, sizes[kind], 1);
        assert_false(ZSTD_isError(n));
        if (kind == 2) n /= 2;
        uint32_t checksum = qs_fletcher32(stored, n);
        for (int k = 0; k < 4; k++) stored[n + (size_t)k] = (uint8_t)(checksum >> (8 * k));
        assert_true(H5Dwrite_chunk(dataset, H5P_DEFAULT, 0, offset, kind == 3 ? 3 : n + 4, stored) >= 0);
        assert_false(qs_chunks_read(dataset, &info, 0, c->dims[0], back));
    }
    (void)H5Pclose(plist);
    (void)H5Dclose(dataset);
    (void)H5Fclose(file);
    qs_mem_free(back);
    qs_mem_free(data);
}

/* By hand: words 0x0102, 0x0300 make sums 0x0402 and 0x0102 + 0x0402; a sum of 65535 stays what it is. */
static void test_checksum(void **state)
{
    (void)state;
    assert_int_equal(qs_fletcher32((const uint8_t[]){1, 2, 3}, 3), 0x05040402u);
    assert_int_equal(qs_fletcher32((const uint8_t[]){0xff, 0xff}, 2), 0xffffffffu);
    assert_int_equal(qs_fletcher32((const uint8_t[]){0, 0, 0, 0}, 4), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bytes_are_hdf5s),
        cmocka_unit_test(test_rows_anywhere),
        cmocka_unit_test(test_other_filters_are_left_to_hdf5),
        cmocka_unit_test(test_hostile_chunks_are_refused),
        cmocka_unit_test(test_checksum),
    };
    return cmocka_run_group_tests(tests, scratch_create, scratch_remove);
}
