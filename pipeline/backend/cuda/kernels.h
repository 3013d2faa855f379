/* Launchers of the CUDA kernels: plain C functions, one per operation, implemented in the .cu files.
 *
 * Pointers are device pointers unless a comment says host; shapes are row-major. A launcher puts its kernels on
 * the stream and returns 0 or the runtime's code for a failed launch (runtime.h); it neither allocates nor
 * waits. Sizes are checked by callers. */
#ifndef QS_BACKEND_CUDA_KERNELS_H
#define QS_BACKEND_CUDA_KERNELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "backend/formats.h"
#include "backend/sampler.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- rows.cu ---- */
/* out[n, d] = rows tokens[n] of table[n_vocab, d]. */
int qs_cu_gather_rows(void *stream, const float *table, const int32_t *tokens, int64_t n, int64_t d, float *out);
/* out[i] = x[i] / sqrt(mean(x[i]^2) + eps) * weight; out may equal x. */
int qs_cu_rmsnorm(void *stream, const float *x, const float *weight, int64_t n, int64_t d, float eps, float *out);
/* The same, each result rounded to bf16 then. */
int qs_cu_rmsnorm_bf16(void *stream, const float *x, const float *weight, int64_t n, int64_t d, float eps,
                       uint16_t *out);
/* x [n, n_heads, head_dim], halves rotated by (float)position * inv_freq[i]. */
int qs_cu_rope(void *stream, float *x, const int32_t *positions, const float *inv_freq, int64_t n,
               int64_t n_heads, int64_t head_dim);
int qs_cu_silu_mul(void *stream, const float *gate, const float *up, int64_t n, float *out);
int qs_cu_silu_mul_bf16(void *stream, const float *gate, const float *up, int64_t n, uint16_t *out); /* rounded then */
int qs_cu_add(void *stream, float *x, const float *y, int64_t n); /* x += y */
int qs_cu_f32_to_bf16(void *stream, const float *x, int64_t n, uint16_t *out); /* nearest, ties to even */
/* The same of rows x [n, d], column j of each from its column perm[j]. */
int qs_cu_permuted_bf16(void *stream, const float *x, int64_t n, int64_t d, const int32_t *perm, uint16_t *out);

/* ---- attention.cu, attention_decode.cu ---- */
typedef struct qs_cu_attention_shape {
    int64_t n_heads, n_kv_heads, head_dim, window; /* as qs_attention_shape */
    bool in_16_bits; /* of whole windows: q, k, v and weights are rounded to f16, where its range holds them */
} qs_cu_attention_shape;
/* Causal within each window; q, out [n_windows, n_ctx, n_heads * head_dim], k, v [.., n_kv_heads * head_dim]. */
int qs_cu_attention(void *stream, const qs_cu_attention_shape *shape, const float *q, const float *k,
                    const float *v, int64_t n_windows, int64_t n_ctx, float *out);
/* One step of attention: k, v are rotated and written into the caches at positions[batch] before they are attended; a
 * position outside 0 .. n_ctx_cap - 1 is skipped. The split of the keys depends on the shape, on n_ctx_cap and on the
 * sequence's own position, never on batch. */
typedef struct qs_cu_decode {
    const float *q, *k, *v;  /* q, out [batch, n_heads * head_dim]; k, v [batch, n_kv_heads * head_dim] */
    const float *inv_freq;   /* [head_dim / 2]; NULL = q and k are rotated already */
    float *k_cache, *v_cache; /* [batch, n_ctx_cap, n_kv_heads * head_dim] */
    const int32_t *positions; /* [batch]; like inv_freq not written by a kernel: read before earlier ones have ended */
    int64_t batch, n_ctx_cap;
    float *out;
    void *workspace; /* at least qs_cu_attention_decode_bytes */
    unsigned *turns; /* [batch * n_heads], 0 before the first call and after each */
} qs_cu_decode;
size_t qs_cu_attention_decode_bytes(const qs_cu_attention_shape *shape, int64_t batch, int64_t n_ctx_cap);
int qs_cu_attention_decode(void *stream, const qs_cu_attention_shape *shape, const qs_cu_decode *decode);

/* ---- logits.cu; every output may be NULL ---- */
int qs_cu_logit_stats(void *stream, const float *logits, const int32_t *targets, int64_t n, int64_t n_vocab,
                      double *lse, float *nll, int32_t *argmax, float *entropy);
int qs_cu_kld(void *stream, const float *logits_f, const double *lse_f, const float *logits_q,
              const double *lse_q, int64_t n, int64_t n_vocab, float *kld);

/* ---- sample.cu ---- */
/* tokens[n] from logits [n, n_vocab] by rules[n]: backend/sampler.h says how. n_vocab < 2^31. */
int qs_cu_sample(void *stream, const float *logits, const qs_sample_rule *rules, int64_t n, int64_t n_vocab,
                 int32_t *tokens);

/* ---- stats.cu ---- */
/* gram[d, d] f64, upper triangle += x^T x on the tensor cores: the error of an entry against f64 is below 1.3e-6
 * sqrt(G_ii G_jj) at the very worst (stats.cu works it out) and below 5e-7 in every test. `workspace` holds at least
 * qs_cu_gram_bytes and is aligned to 16 bytes. */
size_t qs_cu_gram_bytes(int64_t n, int64_t d);
int qs_cu_gram(void *stream, const float *x, int64_t n, int64_t d, double *gram, void *workspace);
int qs_cu_abs_stats(void *stream, const float *x, int64_t n, int64_t d, double *abs_sum, float *abs_max);

/* ---- gram_wgmma.cu ---- */
/* The same where qs_rt_device.has_wgmma; n_sms: of the device. The error is below 9e-7 at the very worst. */
size_t qs_cu_gram_wgmma_bytes(int64_t n, int64_t d);
int qs_cu_gram_wgmma(void *stream, int n_sms, const float *x, int64_t n, int64_t d, double *gram,
                     void *workspace);

/* ---- linear.cu, linear_few.cu: how weights lie for the tensor cores ----
 * Rows are cut into tiles of 16, columns into chunks of 64; missing rows have scale 0, missing columns meet x = 0. Lane
 * l = 4 g + t of a warp holds, of each tile and chunk, the 32 elements that make up four A fragments of mma.m16n8k16 as
 * 16 pairs: pair p = 4 s + r is of k-step s and register r, row g + 8 (r & 1), columns 16 s + 4 t + 2 (r >> 1) and the
 * next. (Within a k-step the columns are permuted, on both sides of the product alike.)
 *   4 bits  pair p in word p / 4 at bits 4 (p % 4) and 16 above
 *   8 bits  word p / 2, bits 8 (p % 2) and 16 above
 *   2 bits  word p / 8, bits 2 (p % 8) and 16 above
 *   3 bits  p < 15: word p / 5, bits 3 (p % 5) and 16 above; p = 15: bit i of the codes is bits 15 and 31 of word i
 *   5 bits  p < 15: word p / 3, bits 5 (p % 3) and 16 above; p = 15 as with 3 bits
 *   6 bits  p < 12: word p / 2, bits 6 (p % 2) and 16 above; p = 12 + 2 i + e: its low four bits are bits 12 and 28 of
 *           word 3 i + 2 e, its high two bits 12 + 2 e and 28 + 2 e of word 3 i + 1
 *   f16, bf16  pair p is word p
 * Words lie as [tile][chunk][words / v][lane][v], v = 4, for 2 and 6 bits 2, for 3 and 5 bits 1, and memory goes on for
 * QS_CU_PIECE_CHUNKS - 1 chunks behind the last, whatever is there. Scales are pairs (row g low, row g
 * + 8 high) [tile][group][8], zero points pairs of u8 in the same order.
 *
 * Codes of tables (NF4, FP4) lie as other 4 bits do, and their largest magnitudes as scales in f32. How a weight is
 * rounded is part of the format: QS_CU_TABLE + qs_rounding. */
enum { QS_CU_ROWS_MAX = 32, /* rows of x that the small-batch kernels take at once */
       QS_CU_TILE_ROWS = 16, QS_CU_CHUNK = 64, QS_CU_LINEARS_MAX = 3 };

/* 5 and 6 bits: in mixed matrices alone. */
typedef enum qs_cu_format {
    QS_CU_INT2, QS_CU_INT3, QS_CU_INT4, QS_CU_INT5, QS_CU_INT6, QS_CU_INT8, QS_CU_F16, QS_CU_BF16, QS_CU_MIXED,
    QS_CU_TABLE,
    QS_CU_TABLE_F32 = QS_CU_TABLE + QS_ROUND_F32,
    QS_CU_TABLE_BF16 = QS_CU_TABLE + QS_ROUND_BF16,
    QS_CU_TABLE_F16 = QS_CU_TABLE + QS_ROUND_F16,
} qs_cu_format;
static inline bool qs_cu_is_table(qs_cu_format format) { return format >= QS_CU_TABLE; }
static inline bool qs_cu_is_coded(qs_cu_format format) { return format != QS_CU_F16 && format != QS_CU_BF16; }

/* Tiles of a matrix, always an even number: kernels may take two at a time. Chunks of a row. */
static inline int64_t qs_cu_n_tiles(int64_t n_out) { return (n_out + 31) / 32 * 2; }
static inline int64_t qs_cu_n_chunks(int64_t n_in) { return (n_in + QS_CU_CHUNK - 1) / QS_CU_CHUNK; }

/* 32-bit words that a lane holds of a chunk; not of mixed ones. */
static inline int qs_cu_words(qs_cu_format format)
{
    static const int words[] = {2, 3, 4, 5, 6, 8, 16, 16, 0, 4, 4, 4};
    return words[format];
}

/* A mixed matrix (EXL2) has codes of 2, 3, 4, 5, 6 and 8 bits, wider ones first. Its columns are cut into blocks of
 * QS_CU_PIECE_CHUNKS chunks, and all codes of a block are as wide as its first one: narrower ones have been moved to
 * the middle of the wider. A piece is such a block, or a chunk of it above 4 bits; words of a tile are its pieces one
 * behind the other. A plan says where: this head, then the pieces, then how rows were packed. Scales lie as those of
 * other matrices, [tile][group][8]; groups begin and end at multiples of 32 columns. */
enum { QS_CU_MIXED_SLICES = 8, QS_CU_UNIT = 32 };
typedef struct qs_cu_mixed_plan {
    int32_t first[QS_CU_MIXED_SLICES + 1]; /* piece of each slice, of about equal bytes; one slice a warp */
    int32_t tile_vectors;                  /* of 16 bytes */
    int32_t n_groups, n_pieces;
} qs_cu_mixed_plan;
typedef struct qs_cu_mixed_piece {
    int32_t at, bits, chunk; /* vectors of the tile before it; first chunk of x */
    int32_t then;            /* the chunk that its slice comes to next: that of its first piece after the last */
    int32_t group[4];        /* of each 32 columns; two for a single chunk */
} qs_cu_mixed_piece;
typedef struct qs_cu_mixed_unit {
    int32_t at, bits; /* of QS_CU_UNIT columns in a packed row: first bit, width of a code */
} qs_cu_mixed_unit;

/* A stored matrix, and where its part of a fused product goes. */
typedef struct qs_cu_linear {
    const uint32_t *words;
    const uint32_t *scales; /* pairs of f16, for tables of f32; NULL for f16 and bf16 */
    const uint16_t *zeros;  /* pairs of u8; NULL = 2^(bits-1) */
    const qs_cu_mixed_plan *plan; /* of mixed matrices */
    const float *absmax;    /* [n_out] of int8 (packed.h), whose scales are 1; else NULL */
    const float *bias;      /* [n_out] or NULL */
    float *y;               /* [n, n_out] */
    int64_t n_out;
    bool add;               /* y += instead of y = */
    bool gates;             /* of the first of two of one n_out: its y = silu(y) * the second's, whose y is scratch */
} qs_cu_linear;

/* What the products of one input share. */
typedef struct qs_cu_linear_shape {
    qs_cu_format format;
    int64_t n_in, group_size; /* a multiple of 16, of tables of 32, or at least n_in; n_in for f16 and bf16 */
    const float *values;      /* host [16]: the table, else NULL */
} qs_cu_linear_shape;

/* Into that layout from row bit streams (packed.h) or dense 16-bit rows [n_out, n_in]. */
int qs_cu_lay_out(void *stream, const qs_cu_linear_shape *shape, int64_t n_out, const void *rows, int64_t row_bytes,
                  uint32_t *words);
/* The same of mixed rows; plan is a device pointer, with n_pieces pieces. */
int qs_cu_lay_out_mixed(void *stream, const qs_cu_mixed_plan *plan, int64_t n_out, int64_t n_in, const void *rows,
                        int64_t row_bytes, uint32_t *words);
/* scales, zeros [n_out, n_groups] into pairs; zeros NULL = all of them `middle`; zero_pairs NULL = none wanted. */
int qs_cu_lay_out_scales(void *stream, int64_t n_out, int64_t n_groups, const uint16_t *scales, const uint8_t *zeros,
                         int middle, uint32_t *scale_pairs, uint16_t *zero_pairs);
/* The weights as f32 or bf16 [n_out, n_in] in input-channel order: column perm[j] from stored column j. soon: nothing
 * that is still on the stream writes what is stored. */
int qs_cu_dequant(void *stream, const qs_cu_linear_shape *shape, const qs_cu_linear *linear, const int32_t *perm,
                  bool to_bf16, bool soon, void *out);

/* Whether the kernels want zero points stored for such a matrix even when it has none of its own. */
static inline bool qs_cu_needs_zeros(const qs_cu_linear_shape *shape)
{
    return shape->format <= QS_CU_INT8 && shape->group_size < shape->n_in && shape->group_size % QS_CU_CHUNK != 0;
}

/* Rows of x as the small-batch kernels take them: n_terms = 1: rounded to 16 bits; 2: with the rounding error
 * as a second term, so that products are as good as in f32. Term k of row r is column r * n_terms + k of B.
 * Terms lie as B fragments, [chunk][group of 8 columns][half][lane 4 g + t][8]: of column g, elements 8 half
 * .. + 7 of the lane's sixteen, where element 4 s + i is stored column 16 s + 4 t + i of the chunk. Rows are
 * filled up with zeros to whole pieces. A row is scaled by a power of two that brings its largest value to
 * [2^13, 2^14), away from the ends of f16, which keeps what is 2^27 times smaller; scale [n] undoes that. */
enum { QS_CU_PIECE_CHUNKS = 2, QS_CU_OWN_COLUMNS_MAX = 20480 /* of a row that blocks split for themselves */ };
static inline int64_t qs_cu_x_width(int64_t n_in)
{
    enum { PIECE = QS_CU_PIECE_CHUNKS * QS_CU_CHUNK };
    return (n_in + PIECE - 1) / PIECE * PIECE;
}
/* Groups of columns that terms of n_columns columns have: what the kernels for them take. */
static inline int qs_cu_x_groups(int64_t n_columns) { return n_columns <= 8 ? 1 : n_columns <= 16 ? 2 : 4; }
typedef struct qs_cu_x {
    uint16_t *terms;
    float *scale;
    int64_t n;
    int n_terms;
    const float *norm; /* [n_in]: weights of an rmsnorm that rows go through first, as qs_cu_rmsnorm has it; or NULL */
    float norm_eps;
    bool is_coded;     /* for int8 (coding.h), behind a norm: scale is that of codes, too; n_terms = 1 */
    float threshold;   /* of outliers then */
    bool rounds_factors; /* a single row meets tables of bf16 as bitsandbytes' product of one row has it: values and
                          * largest magnitudes are rounded to bf16 before they are multiplied */
} qs_cu_x;
enum { QS_CU_NORM_COLUMNS_MAX = 16384 }; /* of rows that are normalised */
/* n * n_terms <= 32 */
int qs_cu_prepare_x(void *stream, const float *x, int64_t n_in, const int32_t *perm, bool bf16, const qs_cu_x *out);

/* Weights of one row of x come by copies of the warps that multiply (linear_few.cu), by bulk copies (linear_row.h), or
 * those of 4 bits by fewer and longer ones (linear_turns.h), which add up in another order. */
typedef enum qs_cu_one_row { QS_CU_ROW_ASYNC, QS_CU_ROW_BULK, QS_CU_ROW_TURNS } qs_cu_one_row;

/* y = x W^T + bias of up to QS_CU_LINEARS_MAX matrices of one shape (n_out may differ); x [n, n_in], n <=
 * QS_CU_ROWS_MAX. A row's result does not depend on n (but for qs_cu_x.rounds_factors and QS_CU_ROW_TURNS). `terms` is
 * scratch with n and n_terms set. n_sms: multiprocessors of the device; shared_bytes: of a block at most. soon: the
 * weights were in place before the kernel before this one began, so the first of them may be read while that still
 * runs. one_row: all ways but the first want a device that has_wgmma. Tables round bias and y as they round weights,
 * int8 to f16; of x tables take what 16 bits hold of it: rounded here to bf16, before to f16. */
int qs_cu_linear_few(void *stream, const qs_cu_linear_shape *shape, const qs_cu_linear *linears, int n_linears,
                     const float *x, const int32_t *perm, const qs_cu_x *terms, int n_sms, size_t shared_bytes,
                     bool soon, qs_cu_one_row one_row);
/* The same of mixed matrices, whose plans may differ. */
int qs_cu_linear_mixed(void *stream, int64_t n_in, const qs_cu_linear *linears, int n_linears, const float *x,
                       const int32_t *perm, const qs_cu_x *terms, int n_sms, size_t shared_bytes, bool soon);
/* ---- prepare_many.cu, linear_many.cu: many rows, on devices with products of a warpgroup (wgmma.h) ---- */
/* Rows of x rounded to 16 bits, each scaled as terms are; x [n_chunks, qs_cu_many_rows(n), 64] as the kernels want it,
 * scale [n]. */
typedef struct qs_cu_many_x {
    uint16_t *x;
    float *scale;
    bool is_coded;   /* as in qs_cu_x */
    float threshold;
} qs_cu_many_x;
static inline int64_t qs_cu_many_rows(int64_t n) { return (n + 127) / 128 * 128; }
int qs_cu_prepare_many(void *stream, const float *x, int64_t n, int64_t n_in, const int32_t *perm, bool bf16,
                       const qs_cu_many_x *out);
/* qs_cu_rmsnorm by norm [n_in] and then that without perm, bit for bit, in one launch. n_in is a multiple of 4 up to
 * QS_CU_NORMED_MAX; x and norm are aligned to 16 bytes. */
enum { QS_CU_NORMED_MAX = 16384 };
int qs_cu_prepare_normed(void *stream, const float *x, const float *norm, float eps, int64_t n, int64_t n_in, bool bf16,
                         const qs_cu_many_x *out);
/* Sums of tiles that blocks share: 2 * n_sms parts of QS_CU_MANY_PART floats; n_arrived [n_sms] holds zeros between
 * launches. */
enum { QS_CU_MANY_PART = 256 * 128 };
typedef struct qs_cu_many_scratch {
    float *parts;
    unsigned *n_arrived;
} qs_cu_many_scratch;
/* y = x W^T + bias for any n, from x as prepared (bf16 for weights of that, else f16), of up to QS_CU_LINEARS_MAX
 * matrices of one shape (n_out may differ, unless the first gates the second). Weights are f16 numbers: code less
 * zero point, times the scale, rounded once. The same bits from run to run; a row's may differ with n. Of widths
 * other than 4 bits, groups of whole chunks. Tables and int8 round bias and y as with few rows. */
static inline bool qs_cu_many_takes(const qs_cu_linear_shape *shape)
{
    bool has_whole_chunks = shape->group_size >= shape->n_in || shape->group_size % QS_CU_CHUNK == 0;
    switch (shape->format) {
    case QS_CU_INT4: case QS_CU_F16: case QS_CU_BF16: return true;
    case QS_CU_INT2: case QS_CU_INT3: case QS_CU_INT8: case QS_CU_TABLE_BF16: return has_whole_chunks;
    default: return false;
    }
}
int qs_cu_linear_many(void *stream, const qs_cu_linear_shape *shape, const qs_cu_linear *linears, int n_linears,
                      int64_t n, const qs_cu_many_x *x, const qs_cu_many_scratch *scratch, int n_sms);

/* The same for dense f32 weights [n_out, n_in] and any n. */
int qs_cu_linear_f32(void *stream, const float *w, int64_t n_out, int64_t n_in, const float *x, int64_t n,
                     const float *bias, bool add, float *y);
/* y[n, n_out] += bias */
int qs_cu_add_bias(void *stream, float *y, const float *bias, int64_t n, int64_t n_out);

/* ---- coded.cu: what inputs of NF4, FP4 and int8 become, and results (packed.h, cpu/cpu_formats.c) ---- */
int qs_cu_round(void *stream, const float *x, int64_t n, qs_rounding rounding, float *out);
/* Rows of x for int8 (coding.h): codes [n, n_in], of outliers in the codes' unit but no whole numbers; scale [n] that
 * of the row, NaN of one with NaN or infinity. */
int qs_cu_code_rows(void *stream, const float *x, int64_t n, int64_t n_in, float threshold, float *codes, float *scale);
/* x ~ first + second. */
int qs_cu_split_bf16(void *stream, const float *x, int64_t n, uint16_t *first, uint16_t *second);
/* y = c(product + c(bias)), or y += that, of products that share their input; product [n, n_out] may be y itself. With
 * scale not NULL, product holds sums of products of int8's codes, which are scaled first. */
typedef struct qs_cu_finish_part {
    int64_t n_out;
    const float *product, *bias, *absmax; /* bias [n_out] or NULL; absmax [n_out] */
    float *y;
    bool add;
} qs_cu_finish_part;
typedef struct qs_cu_finish {
    qs_rounding compute;
    int64_t n;
    int n_parts;
    qs_cu_finish_part parts[QS_CU_LINEARS_MAX];
    const float *scale; /* [n] */
} qs_cu_finish;
int qs_cu_finish_rows(void *stream, const qs_cu_finish *finish);

/* ---- gemm.cu: for a machine without cuBLAS, and for the shim ---- */
int qs_cu_gemm(void *stream, bool trans_a, bool trans_b, int64_t m, int64_t n, int64_t k, float alpha,
               const float *a, int64_t lda, const float *b, int64_t ldb, float beta, float *c, int64_t ldc);
/* c[m, n] f32 = a[m, k] b[n, k]^T + beta c, of bf16 elements, f32 sums. */
int qs_cu_gemm_bf16(void *stream, int64_t m, int64_t n, int64_t k, const uint16_t *a, const uint16_t *b, float beta,
                    float *c);

/* ---- peaks.cu ---- */
/* Reads `bytes` (a multiple of 16) once; out [1] keeps the compiler honest. */
int qs_cu_read(void *stream, const void *src, size_t bytes, uint32_t *out);

/* ---- solver.cu: GPTQ and round to nearest on columns laid out for it ----
 * live [n_in, width]: column i of the visits, rows of the matrix contiguous; width is n_out rounded up to
 * QS_CU_SOLVE_ROWS, zeros behind n_out. scale, zero [n_groups, width] f32. */
enum { QS_CU_SOLVE_ROWS = 32, QS_CU_PANEL = 128 /* columns, groups padded to a multiple of QS_CU_BLOCK */,
       QS_CU_BLOCK = 16 };
typedef struct qs_cu_scale_rule {
    int bits;
    bool sym, search;
} qs_cu_scale_rule;
/* order [n_in] or NULL */
int qs_cu_solve_gather(void *stream, const float *weights, int64_t n_out, int64_t n_in, const int32_t *order,
                       int64_t width, float *live);
/* Scales of the groups of `group_size` neighbours among n columns; column j lies in live's row position[j] (NULL = j).
 * column_weight [n] or NULL. */
int qs_cu_solve_scales(void *stream, const qs_cu_scale_rule *rule, const float *live, const int32_t *position,
                       int64_t width, int64_t n, int64_t group_size, const float *column_weight, float *scale,
                       float *zero);
/* Panels of n_panel of the n columns, each on its own; with u there is one panel, n == n_panel. */
typedef struct qs_cu_panel {
    qs_cu_scale_rule rule;
    int n_panel;
    int group_size;  /* columns of a group whose scale is found when its turn comes; 0 = the tables hold all scales */
    int64_t n, width;
    float *live;     /* [n, width]; with u errors over u's diagonal replace the columns */
    const float *u;  /* the panel's block on the diagonal of the factor, leading dimension ldu; or NULL */
    int64_t ldu;
    const float *column_weight; /* [n] or NULL */
    const int32_t *group;       /* [n] row of the tables */
    float *scale, *zero;
    uint8_t *codes;  /* [n, width] */
} qs_cu_panel;
int qs_cu_solve_panels(void *stream, const qs_cu_panel *panel);
/* The row streams of packed.h: stored column j has the codes [n_in, width] of visit position[j] (NULL = j). */
int qs_cu_solve_pack(void *stream, const uint8_t *codes, const int32_t *position, int64_t n_out, int64_t n_in,
                     int64_t width, int bits, int64_t row_bytes, uint8_t *packed);
/* scales [n_out, n_groups] f16, zeros u8 or NULL from the tables. */
int qs_cu_solve_store_scales(void *stream, const float *scale, const float *zero, int64_t n_out, int64_t n_groups,
                             int64_t width, uint16_t *scales, uint8_t *zeros);

/* ---- moments.cu; the contracts are those of backend/solver_ops.h ---- */
int qs_cu_unpack_moments(void *stream, const float *packed, int64_t n, float factor, float *h);
int qs_cu_order_moments(void *stream, const float *h, const int32_t *order, int64_t n, double shift, double dead,
                        float *a, float *u);
int qs_cu_factor_leaf(void *stream, const float *a, float *u, int64_t ld, int64_t n, int32_t *status);
int qs_cu_check_factor(void *stream, const float *u, int64_t n, int32_t *status);
/* errors[n_out, n_in] = weights - the packed matrix, whose arrays are device pointers; perm, zeros or NULL. With
 * columns [n_in] weights are codes' times rows [n_out] (or NULL) over columns. */
typedef struct qs_cu_packed {
    int bits;
    int64_t n_out, n_in, group_size, n_groups, row_bytes;
    const uint8_t *codes;
    const uint16_t *scales;
    const uint8_t *zeros;
    const int32_t *perm;
    const float *columns, *rows;
} qs_cu_packed;
int qs_cu_quant_errors(void *stream, const float *weights, const qs_cu_packed *packed, float *errors);
/* sum[n_rows] (f64) = (add ? sum : 0) + row dots of a and b [n_rows, n], leading dimensions lda, ldb. */
int qs_cu_row_dots(void *stream, const float *a, int64_t lda, const float *b, int64_t ldb, int64_t n_rows, int64_t n,
                   bool add, double *sum);

/* ---- awq.cu: rows of weights with scaled columns (quant/awq_search.h); x, errors [n, n_in] ---- */
typedef struct qs_cu_scaled {
    int bits;
    bool sym;
    int64_t n, n_in, group_size; /* n = every stride-th row of the matrix, from the first on */
    int64_t stride;
    const float *columns; /* [n_in] */
    const float *rows;    /* of the matrix, or NULL = ones */
} qs_cu_scaled;
/* The steps of cutting a group's range: step s leaves 1 - s / QS_CU_CUT_STEPS of its largest weight. */
enum { QS_CU_CUT_STEPS = 20 };
/* x = weights * column / row */
int qs_cu_awq_scale(void *stream, const qs_cu_scaled *scaled, const float *weights, float *x);
/* errors = x less what rounding the cut x means, for inputs that are not scaled. cuts [n_groups, n]: the step of each
 * group of each row; NULL = `step` everywhere. */
int qs_cu_awq_errors(void *stream, const qs_cu_scaled *scaled, const float *x, int step, const uint8_t *cuts,
                     float *errors);
/* best, cuts [n] take form [n] and `step` where that is less, or always at step 0. */
int qs_cu_awq_take_less(void *stream, const double *form, int64_t n, int step, double *best, uint8_t *cuts);
/* Rows of x whose `cut` form is less than `whole` are cut. */
int qs_cu_awq_cut(void *stream, const qs_cu_scaled *scaled, const uint8_t *cuts, const double *cut, const double *whole,
                  float *x);

#ifdef __cplusplus
}
#endif

#endif
