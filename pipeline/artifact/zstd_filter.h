/* The HDF5 filter 32015 (Zstandard): the registered id, so that h5py with hdf5plugin reads our files.
 *
 * cd_values[0] is the level. We add cd_values[1], the bytes of an uncompressed chunk: other implementations
 * ignore it, ours refuses a frame of another size before it allocates. */
#ifndef QS_ARTIFACT_ZSTD_FILTER_H
#define QS_ARTIFACT_ZSTD_FILTER_H

#define H5_USE_110_API
#include <hdf5.h>

enum { QS_ZSTD_FILTER_ID = 32015, QS_ZSTD_LEVEL = 1 };

extern const H5Z_class2_t qs_zstd_filter;

/* Why the filter last refused a chunk in this thread, once; NULL when there is nothing new. */
const char *qs_zstd_refusal(void);

#endif
