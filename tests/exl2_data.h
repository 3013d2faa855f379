/* EXL2 matrices with contents at random. */
#ifndef QS_TESTS_EXL2_DATA_H
#define QS_TESTS_EXL2_DATA_H

#include "tests/scratch.h"

#include "backend/packed.h"
#include "base/dtype.h"
#include "base/rng.h"

enum { N_PARTS = 7, N_GROUPS_MAX = 64 };

/* Columns, width of their codes, columns of a group; the last group of a part may be shorter. */
typedef struct part {
    int columns, bits, group;
} part;

static inline void fill_exl2(qs_packed *packed, const part *parts, int64_t n_out, bool with_perm)
{
    qs_packed_group groups[N_GROUPS_MAX];
    int64_t n_groups = 0, n_in = 0;
    for (int i = 0; i < N_PARTS && parts[i].columns > 0; i++)
        for (int64_t end = n_in + parts[i].columns, at = n_in; at < end; at += parts[i].group, n_in = end)
            groups[n_groups++] = (qs_packed_group){.first = (int32_t)at, .bits = parts[i].bits};
    OK(qs_packed_shape_exl2(packed, n_out, n_in, groups, n_groups));
    OK(qs_packed_alloc_exl2(packed, groups));
    for (int64_t i = 0; i < n_out * packed->row_bytes; i++) packed->codes[i] = (uint8_t)qs_rng_u64(70, (uint64_t)i);
    for (int64_t i = 0; i < n_out * n_groups; i++) packed->scale_codes[i] = (uint8_t)qs_rng_below(71, (uint64_t)i, 16);
    for (int64_t g = 0; g < n_groups; g++) /* alike in size of weights; the first one's steps are subnormal in f16 */
        packed->scale_max[g] = qs_f16_from_f32((g == 0 ? 0.01f : 0.5f) / (float)(1 << groups[g].bits));
    for (int64_t j = 0; with_perm && j < n_in; j++) packed->perm[j] = (int32_t)((j * 37 + 5) % n_in);
    OK(qs_packed_check(packed, "drawn"));
}

#endif
