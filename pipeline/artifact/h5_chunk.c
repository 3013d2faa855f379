#include "artifact/h5_chunk.h"

#include <omp.h>
#include <string.h>
#include <zstd.h>

#include "base/team.h"
#include "base/mem.h"

enum { CHUNKS_MAX = 8, /* at once: what writes them down is one thread */
       CHECKSUM_BYTES = 4,
       CHUNKS_MIN = 2, /* one alone gains nothing */
       CHUNK_BYTES_MAX = 4 * QS_CHUNK_BYTES /* a file may claim more */ };

/* A sum of words as repeated folding of its upper half leaves it: 65535 stands for all its multiples but 0. */
static uint32_t folded(uint64_t sum) { return sum == 0 ? 0 : (uint32_t)((sum - 1) % 65535 + 1); }

uint32_t qs_fletcher32(const uint8_t *data, size_t bytes)
{
    enum { RUN = 1 << 16 }; /* words whose sum of sums 64 bits hold */
    uint64_t sum = 0, sums = 0;
    size_t n = bytes / 2;
    for (size_t at = 0; at < n;) {
        size_t end = n - at < RUN ? n : at + RUN;
        for (; at < end; at++) {
            sum += (uint64_t)(data[2 * at] << 8 | data[2 * at + 1]);
            sums += sum;
        }
        sum = folded(sum);
        sums = folded(sums);
    }
    if (bytes % 2 != 0) {
        sum += (uint64_t)data[bytes - 1] << 8;
        sums += sum;
    }
    return folded(sums) << 16 | folded(sum);
}

/* out[j n + i] = byte j of element i. */
static void shuffle(const uint8_t *data, size_t n, size_t elem_bytes, uint8_t *out)
{
    for (size_t j = 0; j < elem_bytes; j++)
        for (size_t i = 0; i < n; i++) out[j * n + i] = data[i * elem_bytes + j];
}

static void unshuffle(const uint8_t *data, size_t n, size_t elem_bytes, uint8_t *out)
{
    for (size_t j = 0; j < elem_bytes; j++)
        for (size_t i = 0; i < n; i++) out[i * elem_bytes + j] = data[j * n + i];
}

/* What the threads share: the chunks of some rows, as many at a time as there are threads. */
typedef struct chunk_job {
    const uint8_t *src; /* of a write: the rows */
    uint8_t *dst;       /* of a read */
    size_t elem_bytes, row_bytes, chunk_bytes, bound; /* bound: most bytes of a stored chunk */
    int64_t chunk_rows, first_row, end_row;
    int64_t n_chunks, at_once;
    int64_t first;            /* chunk of the first buffer, counted from that of first_row */
    uint8_t *plain, *stored;  /* [at_once][chunk_bytes], [at_once][bound] */
    size_t bytes[CHUNKS_MAX]; /* of each as stored; 0 = it is broken, or Zstandard failed */
} chunk_job;

/* Rows behind the dataset's end are zeros, as HDF5 leaves them. */
static void store_chunk(chunk_job *job, int64_t i)
{
    int64_t row = (job->first + i) * job->chunk_rows, n_rows = job->end_row - job->first_row;
    size_t n_there = (size_t)(n_rows - row < job->chunk_rows ? n_rows - row : job->chunk_rows) * job->row_bytes;
    const uint8_t *plain = job->src + (size_t)row * job->row_bytes;
    uint8_t *shuffled = job->plain + (size_t)i * job->chunk_bytes, *stored = job->stored + (size_t)i * job->bound;
    const uint8_t *ready = plain;
    if (n_there < job->chunk_bytes) {
        memcpy(stored, plain, n_there); /* the bound is at least a chunk's bytes */
        memset(stored + n_there, 0, job->chunk_bytes - n_there);
        plain = stored;
    }
    if (job->elem_bytes > 1 || plain == stored) { /* bytes keep their order */
        shuffle(plain, job->chunk_bytes / job->elem_bytes, job->elem_bytes, shuffled);
        ready = shuffled;
    }
    size_t done = ZSTD_compress(stored, job->bound - CHECKSUM_BYTES, ready, job->chunk_bytes, QS_ZSTD_LEVEL);
    job->bytes[i] = 0;
    if (ZSTD_isError(done)) return;
    uint32_t checksum = qs_fletcher32(stored, done);
    for (int k = 0; k < CHECKSUM_BYTES; k++) stored[done + (size_t)k] = (uint8_t)(checksum >> (8 * k));
    job->bytes[i] = done + CHECKSUM_BYTES;
}

/* Where anything is wrong, bytes[i] becomes 0. */
static void load_chunk(chunk_job *job, int64_t i)
{
    int64_t row = (job->first_row / job->chunk_rows + job->first + i) * job->chunk_rows;
    int64_t from = row > job->first_row ? row : job->first_row;
    int64_t to = row + job->chunk_rows < job->end_row ? row + job->chunk_rows : job->end_row;
    uint8_t *dst = job->dst + (size_t)(from - job->first_row) * job->row_bytes;
    uint8_t *plain = job->plain + (size_t)i * job->chunk_bytes, *stored = job->stored + (size_t)i * job->bound;
    bool is_whole = to - from == job->chunk_rows, is_shuffled = job->elem_bytes > 1;
    size_t all = job->bytes[i], bytes = all - CHECKSUM_BYTES;
    uint32_t checksum = 0;
    job->bytes[i] = 0;
    if (all <= CHECKSUM_BYTES) return;
    for (int k = 0; k < CHECKSUM_BYTES; k++) checksum |= (uint32_t)stored[bytes + (size_t)k] << (8 * k);
    if (checksum != qs_fletcher32(stored, bytes) || ZSTD_getFrameContentSize(stored, bytes) != job->chunk_bytes) return;
    uint8_t *whole = is_whole && !is_shuffled ? dst : plain;
    if (ZSTD_decompress(whole, job->chunk_bytes, stored, bytes) != job->chunk_bytes) return;
    if (is_shuffled) {
        uint8_t *out = is_whole ? dst : stored; /* the bound is at least a chunk's bytes */
        unshuffle(plain, job->chunk_bytes / job->elem_bytes, job->elem_bytes, out);
        whole = out;
    }
    if (!is_whole) memcpy(dst, whole + (size_t)(from - row) * job->row_bytes, (size_t)(to - from) * job->row_bytes);
    job->bytes[i] = bytes;
}

static void store_chunks(void *context, int64_t first, int64_t last, int thread)
{
    (void)thread;
    for (int64_t i = first; i < last; i++) store_chunk(context, i);
}

static void load_chunks(void *context, int64_t first, int64_t last, int thread)
{
    (void)thread;
    for (int64_t i = first; i < last; i++) load_chunk(context, i);
}

/* Rows of a chunk, or 0 where chunks are no whole rows or not all filters are there (their order has been checked). */
static int64_t rows_of_chunk(hid_t dataset, const qs_dataset_info *info)
{
    hsize_t chunk[QS_ARTIFACT_MAX_RANK];
    hid_t plist = H5Dget_create_plist(dataset);
    if (plist < 0) return 0;
    int n_filters = qs_dtype_bytes(info->dtype) > 1 ? 3 : 2; /* bytes are not shuffled */
    bool whole = H5Pget_layout(plist) == H5D_CHUNKED && H5Pget_chunk(plist, info->rank, chunk) == info->rank &&
                 H5Pget_nfilters(plist) == n_filters;
    for (int i = 1; whole && i < info->rank; i++) whole = (int64_t)chunk[i] == info->dims[i];
    (void)H5Pclose(plist);
    return whole ? (int64_t)chunk[0] : 0;
}

static int64_t chunks_at_once(int64_t n_chunks)
{
    int64_t n_threads = omp_get_max_threads(), most = n_threads < CHUNKS_MAX ? n_threads : CHUNKS_MAX;
    return n_chunks < most ? n_chunks : most;
}

size_t qs_artifact_scratch_bytes(int64_t dataset_bytes)
{
    int64_t n_chunks = dataset_bytes / QS_CHUNK_BYTES + 1;
    return n_chunks < CHUNKS_MIN ? 0 : (size_t)(chunks_at_once(n_chunks) * 2 * QS_CHUNK_BYTES);
}

/* Sets the job up for rows [first, first + n_rows); false where HDF5 has to do it. */
static bool begin(chunk_job *job, hid_t dataset, const qs_dataset_info *info, int64_t first, int64_t n_rows)
{
    int64_t chunk_rows = rows_of_chunk(dataset, info);
    if (chunk_rows == 0) return false;
    job->n_chunks = (first + n_rows - 1) / chunk_rows - first / chunk_rows + 1;
    if (job->n_chunks < CHUNKS_MIN) return false;
    job->at_once = chunks_at_once(job->n_chunks);
    job->elem_bytes = qs_dtype_bytes(info->dtype);
    job->row_bytes = (size_t)(info->n / info->dims[0]) * job->elem_bytes;
    job->chunk_bytes = (size_t)chunk_rows * job->row_bytes;
    if (job->chunk_bytes > CHUNK_BYTES_MAX) return false;
    job->bound = ZSTD_compressBound(job->chunk_bytes) + CHECKSUM_BYTES;
    job->chunk_rows = chunk_rows;
    job->first_row = first;
    job->end_row = first + n_rows;
    if (qs_mem_array(&job->plain, job->at_once, job->chunk_bytes, "chunks") == QS_OK &&
        qs_mem_array(&job->stored, job->at_once, job->bound, "chunks") == QS_OK)
        return true;
    qs_mem_free(job->plain);
    return false;
}

static int64_t n_of_turn(const chunk_job *job)
{
    return job->n_chunks - job->first < job->at_once ? job->n_chunks - job->first : job->at_once;
}

static void end(chunk_job *job)
{
    qs_mem_free(job->plain);
    qs_mem_free(job->stored);
}

bool qs_chunks_write(const qs_artifact *artifact, const char *path, hid_t dataset, const qs_dataset_info *info,
                     int64_t first, int64_t n_rows, const void *src, qs_err *err)
{
    chunk_job job = {.src = src};
    *err = QS_OK;
    if (!begin(&job, dataset, info, first, n_rows)) return false;
    bool is_whole = first % job.chunk_rows == 0 && (n_rows % job.chunk_rows == 0 || first + n_rows == info->dims[0]);
    for (; is_whole && job.first < job.n_chunks && *err == QS_OK; job.first += job.at_once) {
        int64_t n = n_of_turn(&job);
        qs_team_run_shared(n, 1, store_chunks, &job);
        for (int64_t i = 0; i < n && *err == QS_OK; i++) {
            hsize_t offset[QS_ARTIFACT_MAX_RANK] = {(hsize_t)(first + (job.first + i) * job.chunk_rows)};
            const void *stored = job.stored + (size_t)i * job.bound;
            if (job.bytes[i] == 0 || H5Dwrite_chunk(dataset, H5P_DEFAULT, 0, offset, job.bytes[i], stored) < 0)
                *err = qs_h5_fail(artifact, "write", path);
        }
    }
    end(&job);
    return is_whole;
}

/* A chunk as it is stored; 0 bytes where it is not as the writer stores chunks. */
static size_t read_stored(hid_t dataset, int64_t row, void *stored, size_t room)
{
    hsize_t offset[QS_ARTIFACT_MAX_RANK] = {(hsize_t)row}, bytes;
    uint32_t skipped = 0; /* filters */
    if (H5Dget_chunk_storage_size(dataset, offset, &bytes) < 0 || bytes > room) return 0;
    if (H5Dread_chunk(dataset, H5P_DEFAULT, offset, &skipped, stored) < 0 || skipped != 0) return 0;
    return (size_t)bytes;
}

bool qs_chunks_read(hid_t dataset, const qs_dataset_info *info, int64_t first, int64_t n_rows, void *dst)
{
    chunk_job job = {.dst = dst};
    bool good = begin(&job, dataset, info, first, n_rows);
    if (!good) return false;
    for (; good && job.first < job.n_chunks; job.first += job.at_once) {
        int64_t n = n_of_turn(&job);
        for (int64_t i = 0; i < n; i++)
            job.bytes[i] = read_stored(dataset, (first / job.chunk_rows + job.first + i) * job.chunk_rows,
                                       job.stored + (size_t)i * job.bound, job.bound);
        qs_team_run_shared(n, 1, load_chunks, &job);
        for (int64_t i = 0; i < n; i++) good = good && job.bytes[i] != 0;
    }
    end(&job);
    return good;
}
