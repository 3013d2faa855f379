/* Products that take each other's results (qs_op_linears_chain), for any backend: the same as the calls one by one.
 *
 * The chain is that of a decoding step, from one block's attention to the next one's, and a head behind it. Its first k
 * calls as a chain are held against the last of them alone, on what the k - 1 before left as a chain: a difference is
 * one call's and not what later ones make of it. */
#ifndef QS_TESTS_CHAIN_CASES_H
#define QS_TESTS_CHAIN_CASES_H

#include "tests/exl2_data.h"
#include "tests/op_cases.h"

enum { CHAIN_O, CHAIN_GATE, CHAIN_UP, CHAIN_DOWN, CHAIN_Q, CHAIN_K, CHAIN_V, CHAIN_HEAD, CHAIN_N_MATRICES };
enum { CHAIN_N_CALLS = 5, CHAIN_ATTENDED = 160, CHAIN_WIDTH = 288, CHAIN_FF = 224, CHAIN_HEAD_OUT = 130,
       CHAIN_KV = 50, CHAIN_N_FLOATS_MAX = 1400 };

/* n_out and n_in: multiples of 32, which all formats take, groups that end within rows, and rows that end within tiles. */
static const int64_t chain_shapes[CHAIN_N_MATRICES][2] = {
    {CHAIN_WIDTH, CHAIN_ATTENDED}, {CHAIN_FF, CHAIN_WIDTH}, {CHAIN_FF, CHAIN_WIDTH}, {CHAIN_WIDTH, CHAIN_FF},
    {CHAIN_ATTENDED, CHAIN_WIDTH}, {CHAIN_KV, CHAIN_WIDTH}, {CHAIN_KV, CHAIN_WIDTH}, {CHAIN_HEAD_OUT, CHAIN_WIDTH},
};

/* ---- matrices ---- */

typedef struct chain_kind {
    const char *name;
    qs_matrix_format format;
    qs_packed_format packed; /* of QS_MATRIX_INT */
    int bits;                /* of integers */
    int64_t group;
    int64_t flags;      /* of integers: WITH_ZEROS, WITH_PERM */
    qs_compute compute; /* of a matrix */
} chain_kind;

/* Contents differ by `which` matrix it is. */
static inline void fill_kind(qs_packed *p, const chain_kind *kind, int which)
{
    int64_t n_out = chain_shapes[which][0], n_in = chain_shapes[which][1];
    if (kind->packed == QS_PACKED_INT) {
        fill_packed(p, kind->bits, n_out, n_in, kind->group, kind->flags);
        for (int64_t i = 0; i < n_out * p->n_groups; i++)
            if (i % (which + 2) == 0) p->scales[i] ^= 0x8000;
    } else if (kind->packed == QS_PACKED_EXL2) {
        const part parts[N_PARTS] = {{32, 6, 32}, {(int)n_in - 32, 4, 128}};
        fill_exl2(p, parts, n_out, true);
        for (int64_t i = 0; i < n_out * p->n_groups; i++) p->scale_codes[i] = (uint8_t)((p->scale_codes[i] + which) % 16);
    } else {
        draw_packed(p, kind->packed, n_out, n_in, kind->group, false, QS_ROUND_F32);
        for (int64_t i = 0; i < p->n_absmax; i++)
            if (i % (which + 2) == 0) p->absmax[i] *= 0.3f;
    }
}

static inline qs_matrix *create_of_kind(qs_backend *backend, const chain_kind *kind, int which)
{
    op_memory m = {.backend = backend};
    qs_packed packed = {0};
    qs_matrix *matrix;
    qs_matrix_desc desc = {.format = kind->format, .n_out = chain_shapes[which][0], .n_in = chain_shapes[which][1]};
    int64_t n = desc.n_out * desc.n_in;
    if (kind->format == QS_MATRIX_INT) {
        fill_kind(&packed, kind, which);
        desc.packed = &packed;
    } else {
        float *w = draw(&m, 300 + (uint64_t)which, n, 0.1);
        uint16_t *half = on_host(&m, n, sizeof *half);
        qs_f16_from_f32_array(half, w, n);
        desc.dense = kind->format == QS_MATRIX_F32 ? (const void *)w : half;
    }
    OK(qs_matrix_create(&matrix, backend, &desc, QS_USE_GEMV, kind->compute));
    qs_packed_free(&packed);
    free_all(&m);
    return matrix;
}

/* ---- what a chain reads and writes ---- */

enum { X_ATTENDED, X_HIDDEN, X_GATE, X_UP, X_Q, X_K, X_V, X_LOGITS, CHAIN_N_VALUES };
static const int64_t chain_widths[CHAIN_N_VALUES] = {CHAIN_ATTENDED, CHAIN_WIDTH, CHAIN_FF, CHAIN_FF,
                                                     CHAIN_ATTENDED, CHAIN_KV, CHAIN_KV, CHAIN_HEAD_OUT};
static const unsigned chain_writes[CHAIN_N_CALLS] = {1 << X_HIDDEN, 1 << X_GATE, 1 << X_HIDDEN,
                                                     1 << X_Q | 1 << X_K | 1 << X_V, 1 << X_LOGITS};

typedef struct chain_case {
    qs_backend *backend;
    qs_matrix *const *matrices; /* [CHAIN_N_MATRICES] */
    const char *name;
    int64_t n;
    double tolerance;    /* over the largest value; 0 = the same bits */
    bool with_biases;    /* and v is added to what is there */
    bool rows_are_alike; /* a row alone gives the bits that it gives beside others */
    void (*reverse)(bool); /* takes the other order of threads; NULL = there is one */
} chain_case;

/* Values on the device, and a list of calls that point to each other. */
typedef struct chain_run {
    const chain_case *c;
    op_memory memory;
    int64_t n_floats; /* of a row */
    float *start;     /* host [n, n_floats], by values */
    float *values[CHAIN_N_VALUES], *normed; /* device */
    qs_linear_with withs[CHAIN_N_CALLS];
    qs_linear_job jobs[CHAIN_N_MATRICES];
    qs_linear_call calls[CHAIN_N_CALLS];
} chain_run;

static inline void chain_list(chain_run *r)
{
    static const struct {
        int x, first, n_jobs;
        bool is_normed;
    } rows[CHAIN_N_CALLS] = {{X_ATTENDED, CHAIN_O, 1, false}, {X_HIDDEN, CHAIN_GATE, 2, true}, {X_GATE, CHAIN_DOWN, 1, false},
                             {X_HIDDEN, CHAIN_Q, 3, true}, {X_HIDDEN, CHAIN_HEAD, 1, true}};
    static const int ys[CHAIN_N_MATRICES] = {X_HIDDEN, X_GATE, X_UP, X_HIDDEN, X_Q, X_K, X_V, X_LOGITS};
    const float *norm = drawn_on_device(&r->memory, 310, CHAIN_WIDTH, 1.0);
    const float *bias = drawn_on_device(&r->memory, 311, CHAIN_WIDTH, 1.0);
    for (int i = 0; i < CHAIN_N_MATRICES; i++)
        r->jobs[i] = (qs_linear_job){
            .matrix = r->c->matrices[i],
            .bias = r->c->with_biases && i != CHAIN_K ? bias : NULL,
            .y = r->values[ys[i]],
            .add = ys[i] == X_HIDDEN || (i == CHAIN_V && r->c->with_biases),
        };
    for (int i = 0; i < CHAIN_N_CALLS; i++) {
        r->withs[i] = (qs_linear_with){.norm = norm, .norm_eps = 1e-5, .normed = r->normed, .is_gated = i == 1};
        r->calls[i] = (qs_linear_call){.with = rows[i].is_normed ? &r->withs[i] : NULL, .jobs = &r->jobs[rows[i].first],
                                       .n_jobs = rows[i].n_jobs, .x = r->values[rows[i].x]};
    }
    r->withs[CHAIN_N_CALLS - 1].normed = r->values[X_HIDDEN]; /* of no use behind it */
}

/* What is read before it is written is drawn, the rest poisoned. */
static inline void chain_begin(chain_run *r, const chain_case *c)
{
    *r = (chain_run){.c = c, .memory = {.backend = c->backend}};
    for (int i = 0; i < CHAIN_N_VALUES; i++) r->n_floats += chain_widths[i];
    assert_true(r->n_floats <= CHAIN_N_FLOATS_MAX);
    r->start = draw(&r->memory, 312, c->n * r->n_floats, 1.0);
    float *device = floats_on_device(&r->memory, NULL, c->n * r->n_floats), *host = r->start;
    for (int i = 0; i < CHAIN_N_VALUES; i++) {
        int64_t n = c->n * chain_widths[i];
        if (i != X_ATTENDED && i != X_HIDDEN && i != X_V) memset(host, 0xFF, (size_t)n * sizeof *host);
        r->values[i] = device;
        device += n;
        host += n;
    }
    r->normed = floats_on_device(&r->memory, NULL, c->n * CHAIN_WIDTH);
    chain_list(r);
}

/* Rows first .. first + n - 1 of what values hold at the start. */
static inline void chain_reset(chain_run *r, int64_t first, int64_t n)
{
    const float *host = r->start;
    for (int i = 0; i < CHAIN_N_VALUES; i++) {
        OK(qs_backend_upload(r->c->backend, r->values[i], host + first * chain_widths[i],
                             (size_t)(n * chain_widths[i]) * sizeof *host));
        host += r->c->n * chain_widths[i];
    }
}

static inline void chain_take(chain_run *r, float *all)
{
    OK(qs_backend_download(r->c->backend, all, r->values[0], (size_t)(r->c->n * r->n_floats) * sizeof *all));
}

/* ---- comparing ---- */

static inline void chain_call_alone(chain_run *r, int i)
{
    const qs_linear_call *call = &r->calls[i];
    if (call->with != NULL) OK(qs_op_linears_with(r->c->backend, call->with, call->jobs, call->n_jobs, call->x, r->c->n));
    else OK(qs_op_linears(r->c->backend, call->jobs, call->n_jobs, call->x, r->c->n));
}

/* What call i writes near `expected`, and what it has no business with as it was `before`. */
static inline void chain_compare(const chain_run *r, int call, const float *got, const float *expected, const float *before)
{
    const chain_case *c = r->c;
    for (int i = 0; i < CHAIN_N_VALUES; i++) {
        int64_t n = c->n * chain_widths[i];
        bool is_scratch = i == X_UP || (i == X_HIDDEN && call == CHAIN_N_CALLS - 1);
        double largest = 0.0, worst = 0.0;
        for (int64_t k = 0; (chain_writes[call] >> i & 1) != 0 && k < n; k++) {
            if (!isfinite(got[k]))
                fail_msg("%s, %lld rows, call %d: value %d, element %lld is not finite", c->name, (long long)c->n, call, i,
                         (long long)k);
            largest = fmax(largest, fabs((double)expected[k]));
            worst = fmax(worst, fabs((double)got[k] - (double)expected[k]));
        }
        if (worst > c->tolerance * largest)
            fail_msg("%s, %lld rows, a chain of %d: value %d is %g from the call alone, largest %g", c->name, (long long)c->n,
                     call + 1, i, worst, largest);
        if ((chain_writes[call] >> i & 1) == 0 && !is_scratch && memcmp(got, before, (size_t)n * sizeof *got) != 0)
            fail_msg("%s, %lld rows, a chain of %d: value %d has changed", c->name, (long long)c->n, call + 1, i);
        got += n;
        expected += n;
        before += n;
    }
}

/* All results of the whole chain but scratch, bit for bit those that are in `all`: of n rows from `first` on. */
static inline void chain_is(chain_run *r, const float *all, int64_t first, int64_t n, const char *what)
{
    float row[CHAIN_N_FLOATS_MAX];
    for (int i = 0; i < CHAIN_N_VALUES; i++) {
        const int64_t width = chain_widths[i];
        for (int64_t k = 0; i != X_UP && i != X_HIDDEN && k < n; k++) {
            OK(qs_backend_download(r->c->backend, row, r->values[i] + k * width, (size_t)width * sizeof *row));
            if (memcmp(row, all + (first + k) * width, (size_t)width * sizeof *row) != 0)
                fail_msg("%s, row %lld of %lld: value %d is another %s", r->c->name, (long long)(first + k),
                         (long long)r->c->n, i, what);
        }
        all += r->c->n * width;
    }
}

/* The whole chain again, of one row in the other order of threads and as a recording, of several for each row alone: the
 * bits in `all`. */
static inline void chain_again(chain_run *r, const float *all)
{
    const chain_case *c = r->c;
    if (c->n == 1 && c->reverse != NULL) {
        c->reverse(true);
        chain_reset(r, 0, c->n);
        OK(qs_op_linears_chain(c->backend, r->calls, CHAIN_N_CALLS, c->n));
        c->reverse(false);
        chain_is(r, all, 0, c->n, "in the other order of threads");
    }
    if (c->n == 1 && qs_backend_can_record(c->backend)) {
        qs_recording *recording;
        OK(qs_backend_record_start(c->backend));
        OK(qs_op_linears_chain(c->backend, r->calls, CHAIN_N_CALLS, c->n));
        OK(qs_backend_record_stop(c->backend, &recording));
        for (int play = 0; play < 2; play++) {
            chain_reset(r, 0, c->n);
            OK(qs_recording_play(recording));
            chain_is(r, all, 0, c->n, "as a recording");
        }
        qs_recording_destroy(recording);
    }
    for (int64_t row = 0; c->rows_are_alike && row < c->n && c->n > 1; row++) {
        chain_reset(r, row, 1);
        OK(qs_op_linears_chain(c->backend, r->calls, CHAIN_N_CALLS, 1));
        chain_is(r, all, row, 1, "alone");
    }
}

static inline void check_chain(const chain_case *c)
{
    chain_run r;
    chain_begin(&r, c);
    int64_t n = c->n * r.n_floats;
    float *got = on_host(&r.memory, n, sizeof *got), *before = on_host(&r.memory, n, sizeof *before);
    float *expected = on_host(&r.memory, n, sizeof *expected);
    memcpy(before, r.start, (size_t)n * sizeof *before);
    for (int k = 1; k <= CHAIN_N_CALLS; k++) {
        OK(qs_backend_upload(c->backend, r.values[0], before, (size_t)n * sizeof *before));
        chain_call_alone(&r, k - 1);
        chain_take(&r, expected);
        chain_reset(&r, 0, c->n);
        OK(qs_op_linears_chain(c->backend, r.calls, k, c->n));
        chain_take(&r, got);
        chain_compare(&r, k - 1, got, expected, before);
        memcpy(before, got, (size_t)n * sizeof *before);
    }
    chain_again(&r, got);
    free_all(&r.memory);
}

/* A kind for each matrix; every other number of rows with biases, the first if `c` has them. */
static inline void check_chain_of(chain_case c, const chain_kind *const kinds[CHAIN_N_MATRICES], const int64_t *rows, int n_rows)
{
    qs_matrix *matrices[CHAIN_N_MATRICES];
    for (int i = 0; i < CHAIN_N_MATRICES; i++) matrices[i] = create_of_kind(c.backend, kinds[i], i);
    c.matrices = matrices;
    for (int i = 0; i < n_rows; i++) {
        c.n = rows[i];
        check_chain(&c);
        c.with_biases = !c.with_biases;
    }
    for (int i = 0; i < CHAIN_N_MATRICES; i++) qs_matrix_destroy(matrices[i]);
}

static inline void check_chain_alike(chain_case c, const chain_kind *kind, const int64_t *rows, int n_rows)
{
    const chain_kind *kinds[CHAIN_N_MATRICES];
    for (int i = 0; i < CHAIN_N_MATRICES; i++) kinds[i] = kind;
    c.name = kind->name;
    check_chain_of(c, kinds, rows, n_rows);
}

#endif
