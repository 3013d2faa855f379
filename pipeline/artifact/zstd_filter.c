#include "artifact/zstd_filter.h"

#include <zstd.h>

static _Thread_local const char *refusal;

const char *qs_zstd_refusal(void)
{
    const char *cause = refusal;
    refusal = NULL;
    return cause;
}

/* HDF5 takes 0 for failure. The reason goes on its error stack for programs that load the plugin; from 1.14.5
 * on HDF5 ignores what a filter puts there, hence qs_zstd_refusal() for the library. */
static size_t refuse(const char *cause)
{
    refusal = cause;
    (void)H5Epush2(H5E_DEFAULT, __FILE__, __func__, __LINE__, H5E_ERR_CLS, H5E_PLINE, H5E_CANTFILTER,
                   "zstd: %s", cause);
    return 0;
}

/* HDF5 owns both buffers and frees them with its own allocator. */
static void replace(void **buffer, size_t *buffer_bytes, void *fresh, size_t fresh_bytes)
{
    (void)H5free_memory(*buffer);
    *buffer = fresh;
    *buffer_bytes = fresh_bytes;
}

static size_t decompress(size_t n_values, const unsigned values[], size_t bytes, size_t *buffer_bytes,
                         void **buffer)
{
    unsigned long long plain = ZSTD_getFrameContentSize(*buffer, bytes);
    if (plain == ZSTD_CONTENTSIZE_ERROR) return refuse("no zstd frame");
    if (plain == ZSTD_CONTENTSIZE_UNKNOWN || plain == 0) return refuse("the frame does not state its size");
    if (n_values >= 2 ? plain != values[1] : plain > UINT32_MAX) /* 4 GiB: HDF5's own limit of a chunk */
        return refuse("the frame has not the chunk's size");
    void *fresh = H5allocate_memory((size_t)plain, false);
    if (fresh == NULL) return refuse("out of memory");
    size_t done = ZSTD_decompress(fresh, (size_t)plain, *buffer, bytes);
    if (ZSTD_isError(done) || done != plain) {
        (void)H5free_memory(fresh);
        return refuse(ZSTD_isError(done) ? ZSTD_getErrorName(done) : "the frame is short");
    }
    replace(buffer, buffer_bytes, fresh, done);
    return done;
}

static size_t compress(size_t n_values, const unsigned values[], size_t bytes, size_t *buffer_bytes,
                       void **buffer)
{
    size_t bound = ZSTD_compressBound(bytes);
    int level = n_values >= 1 ? (int)values[0] : QS_ZSTD_LEVEL;
    if (level < 1 || level > ZSTD_maxCLevel()) level = QS_ZSTD_LEVEL;
    void *fresh = H5allocate_memory(bound, false);
    if (fresh == NULL) return refuse("out of memory");
    size_t done = ZSTD_compress(fresh, bound, *buffer, bytes, level);
    if (ZSTD_isError(done)) {
        (void)H5free_memory(fresh);
        return refuse(ZSTD_getErrorName(done));
    }
    replace(buffer, buffer_bytes, fresh, bound);
    return done;
}

static size_t filter(unsigned flags, size_t n_values, const unsigned values[], size_t bytes,
                     size_t *buffer_bytes, void **buffer)
{
    return (flags & H5Z_FLAG_REVERSE ? decompress : compress)(n_values, values, bytes, buffer_bytes, buffer);
}

const H5Z_class2_t qs_zstd_filter = {
    .version = H5Z_CLASS_T_VERS,
    .id = QS_ZSTD_FILTER_ID,
    .encoder_present = 1,
    .decoder_present = 1,
    .name = "zstd",
    .can_apply = NULL,
    .set_local = NULL,
    .filter = filter,
};
