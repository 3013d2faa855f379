/* The kernels of the CPU backend: what one thread does with one row or tile.
 *
 * The reference (ref_*.c, plain C, sums in f64) fills every row of the table and is the definition of
 * correct; *_avx2.c and *_avx512.c override rows when the CPU has them. Kernels neither allocate nor fail,
 * and the result of a row does not depend on which other rows are worked on. */
#ifndef QS_BACKEND_CPU_KERNELS_H
#define QS_BACKEND_CPU_KERNELS_H

#include <stdbool.h>
#include <stdint.h>

#include "backend/backend.h"

/* ---- attention ---- */
typedef struct qs_attention_job {
    qs_attention_shape shape;
    const float *q;     /* [n_seqs, n_ctx, n_heads * head_dim]; decoding: [n_seqs, n_heads * head_dim] */
    const float *k, *v; /* [n_seqs, n_ctx, n_kv_heads * head_dim] */
    float *out;         /* like q */
    int64_t n_ctx;      /* rows of k and v per sequence */
    const int32_t *positions; /* decoding: position of the query of each sequence */
} qs_attention_job;

/* Query rows that one kernel call of full attention handles: enough to re-use each key many times; three
 * vectors of 16 lanes or six of 8. */
enum { QS_ATTENTION_ROWS = 48 };

/* First key that a query at `position` sees. */
static inline int64_t qs_attention_first_key(const qs_attention_shape *shape, int64_t position)
{
    return shape->window > 0 && position >= shape->window ? position - shape->window + 1 : 0;
}

/* ---- matrices of few rows (GEMV) ---- */

/* Packed codes re-ordered for vector lanes: panels of 16 output rows. Within a panel, the codes of a chunk of
 * columns are held as 32-bit words [n_words][16 rows], so one 512-bit load gives every row its own lane. A
 * code is stored less its middle, as a signed field of `bits` bits (2^(bits-1) becomes 0):
 *   2 bits: chunk 16 columns, 1 word      3 bits: chunk 32 columns, 3 words (10 codes each, the two last codes
 *   4 bits: chunk  8 columns, 1 word              in the top two bits of the three words)
 *   8 bits: chunk  4 columns, 1 word
 * Scales and zero points are [panel][group][16]. Rows behind n_out have scale 0; columns behind n_in
 * meet x = 0. */
enum { QS_PANEL_ROWS = 16 };
typedef struct qs_panels {
    int bits;
    int64_t n_out, n_in, group_size, n_groups, n_chunks;
    uint32_t *codes;  /* [n_panels, n_chunks, n_words, 16] */
    uint16_t *scales; /* [n_panels, n_groups, 16] f16 */
    uint8_t *zeros;   /* [n_panels, n_groups, 16] or NULL: 2^(bits-1) */
} qs_panels;

/* Codes of NF4 and FP4 re-ordered for vector lanes: rows of chunks of 64 columns, each eight 32-bit words; word w holds
 * in bits 4k .. 4k + 3 the code of column 8k + w, so that one shift brings neighbours to the low bits of their lanes.
 * Rows are multiples of 32 long, so that half a chunk lies in one block. Columns behind n_in meet x = 0. */
enum { QS_CHUNK_COLUMNS = 64, QS_CHUNK_WORDS = 8, QS_CHUNK_HALF = 32 };

/* Columns that rows of int8 are padded to with zeros. */
enum { QS_INT8_PAD = 32 };

typedef struct qs_gemv_job {
    int64_t n;               /* rows of x, 1 .. QS_GEMV_MAX_ROWS */
    int64_t n_out, n_in;
    const float *x;          /* dense: [n, x_stride]; panels: [columns of whole chunks, n], stored order, zeros
                              * behind n_in; packed rows: [n, x_stride] in stored column order; chunks: [n, x_stride],
                              * zeros up to whole chunks; int8: [n, x_stride] whole numbers */
    int64_t x_stride;
    const float *x_sums;     /* [n, n_groups] sums of x over each group; only for panels */
    const float *bias;       /* [n_out] or NULL */
    float *y;                /* [n, n_out] */
    const void *dense;       /* [n_out, n_in] f32, f16 or bf16 */
    const qs_packed *packed; /* the reference's view */
    const qs_panels *panels; /* the fast kernels' view */
    const uint32_t *chunks;  /* the fast kernels' view of NF4 and FP4 [n_out, n_chunks, 8] */
    int64_t n_chunks;
    const int8_t *rows8;     /* of int8: codes less 128 [n_out, row8_bytes] */
    int64_t row8_bytes;      /* n_in in whole QS_INT8_PAD */
    const int16_t *x8;       /* [n, row8_bytes]: x as the codes that rows8 meets */
    const float *x_scales;   /* [n] */
} qs_gemv_job;

/* Rows of the output a GEMV item covers, whatever the layout. */
typedef void (*qs_gemv_run)(const qs_gemv_job *job, int64_t first_row, int64_t last_row);

typedef struct qs_gemv_kernel {
    const char *from;
    const char *name; /* coordinates: "gemv_int4_avx512" */
    qs_gemv_run run;
    bool wants_panels; /* codes in panels or chunks instead of the packed rows themselves */
} qs_gemv_kernel;

/* Small integers as table indices. */
enum { QS_CODES_2, QS_CODES_3, QS_CODES_4, QS_CODES_8, QS_N_CODE_WIDTHS };
static inline int qs_code_width(int bits) { return bits == 8 ? QS_CODES_8 : bits - 2; }

/* ---- statistics, layouts ---- */
enum {
    QS_GRAM_BLOCK = 192, /* rows and columns of second moments per item */
    QS_TURN_ROWS = 64,   /* rows of a panel for many rows (gemm.h) */
};

/* ---- logits ---- */
typedef struct qs_logit_row {
    double lse, entropy;
    int32_t argmax;
} qs_logit_row;

/* ---- the table ---- */
typedef struct qs_cpu_kernels {
    /* One row; out may equal x. */
    struct {
        const char *from;
        void (*run)(const float *x, const float *weight, int64_t d, double eps, float *out);
    } rmsnorm;
    /* One row of heads; cosines, sines [head_dim / 2]. */
    struct {
        const char *from;
        void (*run)(float *x, const float *cosines, const float *sines, int64_t n_heads, int64_t head_dim);
    } rope;
    /* Query rows [first, last) of one head, at most QS_ATTENTION_ROWS. */
    struct {
        const char *from;
        void (*run)(const qs_attention_job *job, int64_t sequence, int64_t head, int64_t first, int64_t last);
    } attention;
    struct {
        const char *from;
        void (*run)(const qs_attention_job *job, int64_t sequence, int64_t head);
    } attention_decode;
    struct {
        const char *from;
        void (*run)(const float *gate, const float *up, int64_t n, float *out);
    } silu_mul;
    struct {
        const char *from;
        void (*run)(float *x, const float *y, int64_t n);
    } add;
    /* Columns [first, last) of x [n, d]. */
    struct {
        const char *from;
        void (*run)(const float *x, int64_t n, int64_t d, int64_t first, int64_t last, double *abs_sum,
                    float *abs_max);
    } abs_stats;
    /* Rows [first_row, + QS_GRAM_BLOCK) and columns [first_column, + QS_GRAM_BLOCK) of gram += x^T x for x [n, d];
     * below the diagonal anything may be written. */
    struct {
        const char *from;
        void (*run)(const float *x, int64_t n, int64_t d, int64_t first_row, int64_t first_column, double *gram);
    } gram;
    struct {
        const char *from;
        void (*run)(const float *logits, int64_t n_vocab, bool want_entropy, qs_logit_row *out);
    } logit_stats;
    struct {
        const char *from;
        double (*run)(const float *logits_f, double lse_f, const float *logits_q, double lse_q, int64_t n_vocab);
    } kld;
    /* By qs_matrix_format (F32, F16, BF16), by code width, and by qs_packed_format (all but INT). */
    qs_gemv_kernel gemv_dense[3], gemv_int[QS_N_CODE_WIDTHS], gemv_format[QS_N_PACKED_FORMATS];
    /* out = c(x + c(bias)), c = rounding (formats.h); bias NULL = none. out may equal x. */
    struct {
        const char *from;
        void (*run)(const float *x, const float *bias, int64_t n, qs_rounding rounding, float *out);
    } round;
    /* y += a x */
    struct {
        const char *from;
        void (*run)(float a, const float *x, int64_t n, float *y);
    } add_scaled;
    /* A row of x for int8 (packed.h): codes [n_in] as whole numbers, those of outliers 0, whose outlier[j] becomes 1;
     * returns the scale, NaN when an input is not finite. */
    struct {
        const char *from;
        float (*run)(const float *x, int64_t n_in, float threshold, float *codes, uint8_t *outlier);
    } code_row;
    /* Rows of a packed matrix to f32 [n_rows, n_in], input-channel order. */
    struct {
        const char *from;
        void (*run)(const qs_packed *packed, int64_t first_row, int64_t n_rows, float *dst);
    } dequant;
    /* Round to nearest, ties to even. */
    struct {
        const char *from;
        void (*run)(const float *x, int64_t n, uint16_t *out);
    } to_bf16;
    /* rows [n_rows <= QS_TURN_ROWS][stride], n words of 32 bits each, to dst [n][QS_TURN_ROWS]; zeros for the
     * missing rows. */
    struct {
        const char *from;
        void (*run)(const float *rows, int64_t stride, int64_t n_rows, int64_t n, float *dst);
    } turn;
    /* sums[g] = sum of x [n_in] over group g, the last group shorter. */
    struct {
        const char *from;
        void (*run)(const float *x, int64_t n_in, int64_t group_size, float *sums);
    } sum_groups;
} qs_cpu_kernels;

void qs_kernels_fill_ref(qs_cpu_kernels *kernels);
void qs_kernels_fill_avx2(qs_cpu_kernels *kernels);
void qs_kernels_fill_avx512(qs_cpu_kernels *kernels);

/* ---- plain C (ref_*.c) ---- */
void qs_ref_rmsnorm(const float *x, const float *weight, int64_t d, double eps, float *out);
void qs_ref_rope(float *x, const float *cosines, const float *sines, int64_t n_heads, int64_t head_dim);
void qs_ref_silu_mul(const float *gate, const float *up, int64_t n, float *out);
void qs_ref_add(float *x, const float *y, int64_t n);
void qs_ref_abs_stats(const float *x, int64_t n, int64_t d, int64_t first, int64_t last, double *abs_sum,
                      float *abs_max);
void qs_ref_attention(const qs_attention_job *job, int64_t sequence, int64_t head, int64_t first, int64_t last);
void qs_ref_attention_decode(const qs_attention_job *job, int64_t sequence, int64_t head);
void qs_ref_logit_stats(const float *logits, int64_t n_vocab, bool want_entropy, qs_logit_row *out);
double qs_ref_kld(const float *logits_f, double lse_f, const float *logits_q, double lse_q, int64_t n_vocab);
void qs_ref_gram(const float *x, int64_t n, int64_t d, int64_t first_row, int64_t first_column, double *gram);
void qs_ref_to_bf16(const float *x, int64_t n, uint16_t *out);
void qs_ref_turn(const float *rows, int64_t stride, int64_t n_rows, int64_t n, float *dst);
void qs_ref_sum_groups(const float *x, int64_t n_in, int64_t group_size, float *sums);
void qs_ref_gemv_f32(const qs_gemv_job *job, int64_t first_row, int64_t last_row);
void qs_ref_gemv_f16(const qs_gemv_job *job, int64_t first_row, int64_t last_row);
void qs_ref_gemv_bf16(const qs_gemv_job *job, int64_t first_row, int64_t last_row);
void qs_ref_gemv_int(const qs_gemv_job *job, int64_t first_row, int64_t last_row);
void qs_ref_gemv_blocks(const qs_gemv_job *job, int64_t first_row, int64_t last_row);
void qs_ref_gemv_exl2(const qs_gemv_job *job, int64_t first_row, int64_t last_row);
void qs_ref_gemv_int8(const qs_gemv_job *job, int64_t first_row, int64_t last_row);
void qs_ref_round(const float *x, const float *bias, int64_t n, qs_rounding rounding, float *out);
void qs_ref_add_scaled(float a, const float *x, int64_t n, float *y);
float qs_ref_code_row(const float *x, int64_t n_in, float threshold, float *codes, uint8_t *outlier);

#endif
