/* A weight matrix of the CPU backend: what is kept of it. cpu_matrix.c serves dense matrices and codes of integers,
 * cpu_formats.c the other formats, cpu_exl2.c few rows of EXL2. */
#ifndef QS_BACKEND_CPU_CPU_MATRIX_H
#define QS_BACKEND_CPU_CPU_MATRIX_H

#include "backend/cpu/cpu.h"

/* Neighbouring groups of EXL2 with codes of one width and of one size (the last may be shorter): panels of their own.
 * There are no panels of 5 and 6 bits: such codes are split into the two low bits, with a zero point of 0, and what is
 * above them, four times as much. */
typedef enum qs_cpu_part { QS_PART_WHOLE, QS_PART_HIGH, QS_PART_LOW } qs_cpu_part;
typedef struct qs_cpu_segment {
    int64_t first; /* stored column */
    int64_t group; /* the first of them */
    qs_cpu_part part;
    int64_t sums;  /* of x over each group, where the low bits need them: the first in qs_cpu.x_sums */
    qs_panels panels;
} qs_cpu_segment;
enum { QS_CPU_SEGMENTS_MAX = 12 };

typedef struct qs_cpu_matrix {
    qs_matrix_format format;
    /* For few rows. `weights` holds dense elements, packed rows, panels, chunks or rows of int8; `scales` scales,
     * absmax or nested maxima; `zeros` zero points or codes of absmax. Kernels read them through the views. */
    qs_cpu_buffer weights, scales, zeros, perm;
    qs_packed packed;
    qs_panels panels;
    qs_cpu_segment segments[QS_CPU_SEGMENTS_MAX]; /* of EXL2; none = the plain kernel */
    int n_segments;
    qs_gemv_run run;
    bool wants_panels;
    /* For many rows. */
    qs_cpu_buffer pack_data;
    qs_gemm_pack pack;
} qs_cpu_matrix;

/* Bytes of each, from a description (backend.h, qs_matrix_need). */
typedef struct qs_cpu_sizes {
    size_t weights, scales, zeros, perm, pack;
} qs_cpu_sizes;

static inline bool qs_cpu_is_format(const qs_matrix_desc *desc)
{
    return desc->format == QS_MATRIX_INT && desc->packed->format != QS_PACKED_INT;
}

/* cpu_formats.c: contents of NF4, FP4 and int8. Sets packed, and what few rows or outliers need, in buffers that are
 * there. */
void qs_cpu_format_update(qs_matrix *matrix, const qs_packed *packed);
void qs_cpu_format_sizes(const qs_cpu *cpu, const qs_packed *packed, unsigned uses, qs_cpu_sizes *out);
/* Rows [first_row, + n_rows) as the pack for many rows wants them: weights, or codes of int8 as whole numbers. */
void qs_cpu_format_rows(const qs_cpu *cpu, const qs_packed *packed, int64_t first_row, int64_t n_rows, float *dst);
QS_MUST_CHECK qs_err qs_cpu_format_linear(qs_cpu *cpu, const qs_linear_job *job, const float *x, int64_t n);
/* Other inputs may stand at the same place from now on. */
void qs_cpu_format_forget(qs_cpu *cpu);

/* cpu_exl2.c: the same of EXL2, for few rows alone. */
QS_MUST_CHECK qs_err qs_cpu_exl2_update(qs_matrix *matrix, const qs_packed *packed);
void qs_cpu_exl2_sizes(const qs_cpu *cpu, const qs_packed *packed, unsigned uses, qs_cpu_sizes *out);
void qs_cpu_exl2_few(qs_cpu *cpu, const qs_linear_job *job, const float *x, int64_t n);

/* cpu_matrix.c: the kernel over all rows of the output, shared by the team. */
void qs_cpu_run_gemv(qs_cpu *cpu, const qs_cpu_matrix *self, const qs_gemv_job *job);
static inline bool qs_cpu_is_few(const qs_matrix *matrix, int64_t n)
{
    return n <= QS_GEMV_MAX_ROWS && (matrix->uses & QS_USE_GEMV) != 0;
}

#endif
