/* Mixes of widths that EXL2 gives the columns of a matrix: the loudest inputs first and with the widest codes. Rows
 * of a table (docs/add-a-row.md); what may be mixed at all is said in backend/packed.h. */
#ifndef QS_QUANT_MIX_H
#define QS_QUANT_MIX_H

#include <stdint.h>

#include "backend/packed.h"

enum { QS_MIX_SHARES_MAX = 3 };

typedef struct qs_mix {
    const char *name; /* "0.05:8b32 0.95:4b128" */
    struct {
        int percent; /* of the columns, rounded up to whole groups; the last one takes the rest */
        int bits, group;
    } shares[QS_MIX_SHARES_MAX]; /* ends where percent is 0 */
} qs_mix;

/* By rising width. */
extern const qs_mix qs_mixes[];
extern const int64_t qs_n_mixes;
extern const qs_mix qs_head_mixes[]; /* [QS_EXL2_BITS_MAX + 1] by the head's bits; without a name where there is none */

/* Rows of at most this many columns: the format counts them in 16 bits. */
enum { QS_MIX_COLUMNS_MAX = 65504, QS_MIX_GROUPS_MAX = QS_MIX_COLUMNS_MAX / QS_EXL2_UNIT };

/* groups[QS_MIX_GROUPS_MAX] of rows of n_in columns, a multiple of QS_EXL2_UNIT; returns how many. */
int64_t qs_mix_groups(const qs_mix *mix, int64_t n_in, qs_packed_group *groups);

#endif
