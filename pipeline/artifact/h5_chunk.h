/* Chunks of a dataset in stored form: what HDF5's pipeline makes of them (shuffle, Zstandard, Fletcher-32, in that
 * order), byte for byte, but by several threads at a time. HDF5 itself runs filters one chunk after the other. Only
 * files of this folder include it. */
#ifndef QS_ARTIFACT_H5_CHUNK_H
#define QS_ARTIFACT_H5_CHUNK_H

#include "artifact/artifact_impl.h"

enum { QS_CHUNK_BYTES = 1 << 20 }; /* of the writer's chunks, about */

/* Rows [first, first + n_rows) written as whole chunks. False where that cannot be, and nothing was done: datasets that
 * are not in chunks of whole rows, rows that begin or end within a chunk, no memory for buffers; H5Dwrite serves those.
 * *err gets QS_OK, or HDF5's failure. */
bool qs_chunks_write(const qs_artifact *artifact, const char *path, hid_t dataset, const qs_dataset_info *info,
                     int64_t first, int64_t n_rows, const void *src, qs_err *err);

/* The same for reading any rows. False also where a stored chunk is broken or not the writer's, so that H5Dread says
 * what is wrong with it; dst may hold anything then. The dataset's filters have been checked (qs_dataset_open). */
bool qs_chunks_read(hid_t dataset, const qs_dataset_info *info, int64_t first, int64_t n_rows, void *dst);

/* HDF5's form of Fletcher's checksum over big-endian words of 16 bits; an odd last byte is a word's upper half. */
uint32_t qs_fletcher32(const uint8_t *data, size_t bytes);

#endif
