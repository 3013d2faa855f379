/* Matrices of every format, and what holds of the plans of each: bytes as they will be, from a description alone. */
#ifndef QS_TESTS_NEED_CASES_H
#define QS_TESTS_NEED_CASES_H

#include "tests/format_data.h"

#include "backend/backend.h"
#include "base/mem.h"

typedef struct need_case {
    qs_matrix_desc desc;
    qs_packed packed;
    float *dense; /* of the widest format */
    char name[96];
} need_case;

typedef void (*need_visit)(void *context, const need_case *c);

static inline void need_visit_dense(need_visit visit, void *context, qs_matrix_format format, int64_t n_out,
                                    int64_t n_in)
{
    need_case c = {.desc = {.format = format, .n_out = n_out, .n_in = n_in}};
    c.dense = calloc((size_t)(n_out * n_in), sizeof *c.dense);
    c.desc.dense = c.dense;
    (void)snprintf(c.name, sizeof c.name, "dense %d, %d x %d", (int)format, (int)n_out, (int)n_in);
    visit(context, &c);
    free(c.dense);
}

static inline void need_visit_packed(need_visit visit, void *context, need_case *c)
{
    c->desc = (qs_matrix_desc){.format = QS_MATRIX_INT, .n_out = c->packed.n_out, .n_in = c->packed.n_in,
                               .packed = &c->packed};
    visit(context, c);
    qs_packed_free(&c->packed);
}

static inline void need_visit_int(need_visit visit, void *context, int bits, int64_t n_out, int64_t n_in, int64_t group,
                                  int kind)
{
    need_case c = {0};
    bool zeros = (kind & 1) != 0, perm = (kind & 2) != 0;
    OK(qs_packed_shape(&c.packed, bits, n_out, n_in, group));
    OK(qs_packed_alloc(&c.packed, zeros, perm));
    for (int64_t i = 0; i < n_out * c.packed.n_groups; i++) c.packed.scales[i] = 0x2000;
    for (int64_t j = 0; perm && j < n_in; j++) c.packed.perm[j] = (int32_t)(n_in - 1 - j);
    (void)snprintf(c.name, sizeof c.name, "%d bits, groups of %d, zeros %d, perm %d, %d x %d", bits, (int)group, zeros,
                   perm, (int)n_out, (int)n_in);
    need_visit_packed(visit, context, &c);
}

static inline void need_visit_exl2(need_visit visit, void *context, int64_t n_out, const qs_packed_group *groups,
                                   int64_t n_groups, int64_t n_in)
{
    need_case c = {0};
    OK(qs_packed_shape_exl2(&c.packed, n_out, n_in, groups, n_groups));
    OK(qs_packed_alloc_exl2(&c.packed, groups));
    for (int64_t g = 0; g < n_groups; g++) c.packed.scale_max[g] = 0x2000;
    (void)snprintf(c.name, sizeof c.name, "exl2, %d groups, %d x %d", (int)n_groups, (int)n_out, (int)n_in);
    need_visit_packed(visit, context, &c);
}

/* Rows and columns ragged and whole. */
static inline void for_each_need(need_visit visit, void *context)
{
    static const int64_t shapes[][2] = {{1, 1}, {17, 96}, {33, 577}, {40, 1216}};
    static const int bits[] = {2, 3, 4, 8};
    static const int64_t ints[][3] = {{1, 64, -1},   {33, 577, -1}, {17, 200, 16},
                                      {50, 240, 48}, {40, 576, 64}, {64, 300, 128}};
    static const qs_packed_group one[] = {{0, 4}}, mixed[] = {{0, 8}, {32, 6}, {96, 5}, {128, 4}, {224, 3}, {320, 2}},
                                 wide[] = {{0, 6}, {32, 6}, {64, 6}, {96, 3}, {256, 3}},
                                 split[] = {{0, 5}, {96, 5}, {192, 4}};
    static const int64_t blocks[][3] = {{1, 32, 32}, {17, 96, 64}, {50, 160, 64}, {33, 1088, 128}, {40, 576, 4096}};
    for (int format = QS_MATRIX_F32; format <= QS_MATRIX_BF16; format++)
        for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
            need_visit_dense(visit, context, (qs_matrix_format)format, shapes[i][0], shapes[i][1]);
    for (size_t b = 0; b < sizeof bits / sizeof *bits; b++)
        for (size_t i = 0; i < sizeof ints / sizeof *ints; i++)
            for (int kind = 0; kind < 4; kind++)
                need_visit_int(visit, context, bits[b], ints[i][0], ints[i][1], ints[i][2], kind);
    for (int k = 0; k < 2 * QS_N_ROUNDINGS * 2; k++)
        for (size_t i = 0; i < sizeof blocks / sizeof *blocks; i++) {
            need_case c = {0};
            draw_packed(&c.packed, k % 2 == 0 ? QS_PACKED_NF4 : QS_PACKED_FP4, blocks[i][0], blocks[i][1], blocks[i][2],
                        k / 2 % 2 != 0, (qs_rounding)(k / 4));
            (void)snprintf(c.name, sizeof c.name, "blocks, kind %d, %d x %d", k, (int)blocks[i][0], (int)blocks[i][1]);
            need_visit_packed(visit, context, &c);
        }
    for (size_t i = 0; i < 2 * sizeof shapes / sizeof *shapes; i++) {
        need_case c = {0};
        draw_packed(&c.packed, QS_PACKED_INT8, shapes[i / 2][0], shapes[i / 2][1], i % 2, false, QS_ROUND_F16);
        (void)snprintf(c.name, sizeof c.name, "int8, %d x %d", (int)shapes[i / 2][0], (int)shapes[i / 2][1]);
        need_visit_packed(visit, context, &c);
    }
    need_visit_exl2(visit, context, 33, one, 1, 32);
    need_visit_exl2(visit, context, 50, mixed, 6, 416);
    need_visit_exl2(visit, context, 17, wide, 5, 448);
    need_visit_exl2(visit, context, 64, split, 3, 288);
}

/* The same without contents. */
static inline qs_matrix_desc need_description(const need_case *c, qs_packed *packed)
{
    static uint8_t some_bytes;
    static int32_t some_perm;
    qs_matrix_desc bare = {.format = c->desc.format, .n_out = c->desc.n_out, .n_in = c->desc.n_in};
    if (c->desc.packed == NULL) return bare;
    *packed = *c->desc.packed;
    packed->codes = packed->scale_codes = NULL;
    packed->scales = packed->scale_max = NULL;
    packed->absmax = packed->nested_absmax = NULL;
    packed->zeros = packed->zeros != NULL ? &some_bytes : NULL;
    packed->absmax_codes = packed->absmax_codes != NULL ? &some_bytes : NULL;
    packed->perm = packed->perm != NULL ? &some_perm : NULL;
    bare.packed = packed;
    return bare;
}

/* Runs `then` (NULL = nothing) on each matrix while it is there, for all uses and both precisions; what is asked for is
 * added up in *scratch. */
typedef struct need_check {
    qs_backend *backend;
    int64_t n_rows;
    void (*then)(struct need_check *check, const need_case *c, const qs_matrix *matrix);
    qs_need scratch;
    int64_t n_cases;
} need_check;

static inline void check_need(void *context, const need_case *c)
{
    need_check *check = context;
    for (unsigned i = 0; i < 6; i++) {
        unsigned uses = 1 + i / 2;
        qs_compute compute = i % 2 == 0 ? QS_COMPUTE_F32 : QS_COMPUTE_BF16;
        qs_matrix *matrix;
        qs_packed packed;
        qs_need need, from_contents;
        qs_backend_memory before, during, after;
        const qs_matrix_desc bare = need_description(c, &packed);
        qs_backend_get_memory(check->backend, &before);
        OK(qs_matrix_need(&need, check->backend, &bare, uses, compute, check->n_rows));
        OK(qs_matrix_need(&from_contents, check->backend, &c->desc, uses, compute, check->n_rows));
        qs_backend_get_memory(check->backend, &during);
        if (before.used_bytes != during.used_bytes) fail_msg("%s: a plan took memory", c->name);
        OK(qs_matrix_create(&matrix, check->backend, &c->desc, uses, compute));
        qs_backend_get_memory(check->backend, &after);
        if (need.own_bytes != qs_matrix_bytes(matrix) || from_contents.own_bytes != need.own_bytes)
            fail_msg("%s, uses %u: %zu bytes planned, %zu with contents, %zu kept", c->name, uses, need.own_bytes,
                     from_contents.own_bytes, qs_matrix_bytes(matrix));
        if (qs_backend_has_device(check->backend) && after.weight_bytes - before.weight_bytes != need.own_bytes)
            fail_msg("%s, uses %u: %zu bytes planned, %zu counted", c->name, uses, need.own_bytes,
                     after.weight_bytes - before.weight_bytes);
        qs_need_add(&check->scratch, &need);
        check->n_cases++;
        if (check->then != NULL) check->then(check, c, matrix);
        qs_matrix_destroy(matrix);
    }
}

#endif
