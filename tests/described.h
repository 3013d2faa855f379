/* What a source describes is what it then hands over, as far as plans look at it. */
#ifndef QS_TESTS_DESCRIBED_H
#define QS_TESTS_DESCRIBED_H

#include "tests/scratch.h"

#include "model/block.h"

static inline void assert_same_description(const qs_matrix_desc *described, const qs_matrix_desc *given)
{
    assert_true(described->format == given->format && described->n_out == given->n_out);
    assert_true(described->n_in == given->n_in);
    if (given->format != QS_MATRIX_INT) return;
    const qs_packed *a = described->packed, *b = given->packed;
    assert_true(a->format == b->format && a->compute == b->compute && a->bits == b->bits && a->n_out == b->n_out);
    assert_true(a->n_in == b->n_in && a->group_size == b->group_size && a->n_groups == b->n_groups);
    assert_true(a->row_bytes == b->row_bytes && a->n_absmax == b->n_absmax && a->threshold == b->threshold);
    assert_int_equal(a->zeros != NULL, b->zeros != NULL);
    assert_int_equal(a->perm != NULL, b->perm != NULL);
    assert_int_equal(a->absmax_codes != NULL, b->absmax_codes != NULL);
    if (b->groups != NULL) assert_memory_equal(a->groups, b->groups, (size_t)b->n_groups * sizeof *b->groups);
}

static inline void assert_described(const qs_linear_source *source, int64_t layer, qs_role role)
{
    qs_matrix_desc described, given;
    assert_non_null(source->describe);
    OK(source->describe(source->context, layer, role, &described));
    OK(role == QS_ROLE_HEAD ? source->get_head(source->context, &given)
                            : source->get(source->context, layer, role, &given));
    assert_same_description(&described, &given);
}

#endif
