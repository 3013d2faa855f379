/* NF4, FP4 and int8 matrices with contents at random. */
#ifndef QS_TESTS_FORMAT_DATA_H
#define QS_TESTS_FORMAT_DATA_H

#include "tests/scratch.h"

#include "backend/packed.h"
#include "base/rng.h"

/* block: of int8 0 = no outliers, else those from 2 on. */
static inline void draw_packed(qs_packed *p, qs_packed_format format, int64_t n_out, int64_t n_in, int64_t block,
                               bool nested, qs_rounding compute)
{
    if (format == QS_PACKED_INT8)
        OK(qs_packed_shape_int8(p, n_out, n_in, block == 0 ? 0.0f : 2.0f));
    else
        OK(qs_packed_shape_blocks(p, format, n_out, n_in, block, compute));
    OK(qs_packed_alloc_absmax(p, nested));
    uint8_t *codes = malloc((size_t)n_in);
    for (int64_t o = 0; o < n_out; o++) {
        for (int64_t j = 0; j < n_in; j++)
            codes[j] = (uint8_t)(format == QS_PACKED_INT8 ? 1 + qs_rng_below(2, (uint64_t)(o * n_in + j), 255)
                                                          : qs_rng_below(2, (uint64_t)(o * n_in + j), 16));
        qs_packed_set_row(p, o, codes);
    }
    free(codes);
    for (int64_t i = 0; i < p->n_absmax; i++) {
        if (nested)
            p->absmax_codes[i] = (uint8_t)qs_rng_below(3, (uint64_t)i, 256);
        else
            p->absmax[i] = (float)(0.02 + 0.1 * qs_rng_unit(3, (uint64_t)i));
    }
    for (int64_t i = 0; nested && i < qs_packed_n_nested(p); i++) p->nested_absmax[i] = 0.03f + 0.01f * (float)i;
    p->nested_offset = nested ? 0.07f : 0.0f;
    OK(qs_packed_check(p, "drawn"));
}

/* Spacing of numbers of a format over their size. */
static inline double format_spacing(qs_rounding compute)
{
    static const double spacing[QS_N_ROUNDINGS] = {0, 0x1p-7, 0x1p-10};
    return spacing[compute];
}

#endif
