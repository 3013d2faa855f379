/* GGUF's block types, written in two ways.
 *
 * With the codes of a packed row as they are, every block of 32 weights repeating the scale of its group:
 *
 *   Q4_0, Q5_0, Q8_0   d (q - middle), d = scale, q = code - zero + middle
 *   Q4_1, Q5_1         d q + m, d = scale, q = code, m = -scale * zero rounded to f16 (relative error up to 2^-11)
 *
 * With codes that were aimed at the type's own grid (gguf_grid.h, gguf_aim.h): all of these, Q2_K to Q6_K, IQ4_NL and
 * IQ4_XS. */
#ifndef QS_EXPORT_GGUF_BLOCKS_H
#define QS_EXPORT_GGUF_BLOCKS_H

#include "backend/packed.h"
#include "export/gguf_grid.h"
#include "model/weights.h"

enum { QS_GGUF_BLOCK = 32 };

typedef struct qs_gguf_kind {
    const char *name; /* "q4_0", as --type has it */
    qs_storage storage;
    uint32_t file_type; /* of a file whose matrices are mostly this: "general.file_type" */
    bool dense;         /* de-quantised numbers instead of codes */
    int low, high;      /* what code - zero, or the code of an affine type, may be; equal = it keeps no codes */
    qs_gguf_grid grid;
    const char *narrow; /* the type of rows that are no whole blocks of this one; NULL = they have none */
} qs_gguf_kind;

extern const qs_gguf_kind qs_gguf_kinds[]; /* name == NULL ends it */
const qs_gguf_kind *qs_gguf_kind_named(const char *name); /* NULL when there is none */
/* QS_E_USAGE names the option and lists the names, then `more` of what the option may be. */
QS_MUST_CHECK qs_err qs_gguf_kind_find(const qs_gguf_kind **out, const char *option, const char *name,
                                       const char *more);
/* The kind itself for rows of n_in weights, or its narrow one; NULL when neither has whole blocks. */
const qs_gguf_kind *qs_gguf_kind_for_row(const qs_gguf_kind *kind, int64_t n_in);
/* Whether a kind holds every code of that width. */
bool qs_gguf_kind_holds(const qs_gguf_kind *kind, int bits, bool sym);
/* The smallest kind that keeps the codes; NULL when there is none. */
const qs_gguf_kind *qs_gguf_kind_choose(int bits, bool sym);

/* One row as blocks; codes[n_in] is scratch, dst [qs_storage_bytes(kind->storage, n_in)]. Groups are whole
 * blocks, there is no permutation, and the kind holds the codes. QS_E_NUMERIC when a minimum is beyond f16.
 */
QS_MUST_CHECK qs_err qs_gguf_put_row(const qs_gguf_kind *kind, const qs_packed *packed, int64_t row, uint8_t *codes,
                                     uint8_t *dst);

/* Row `row` of 64 of a block: its numbers from scales, subs in natural order; codes[kind->grid.unit] from 0. */
void qs_gguf_put_block(const qs_gguf_kind *kind, const qs_gguf_scales *scales, int row, const uint8_t *codes,
                       uint8_t *dst);

#endif
