/* Methods: which codes to choose. A row is a name, what it needs and one function; adding a method is one
 * file and one row (docs/add-a-row.md). */
#ifndef QS_QUANT_METHODS_H
#define QS_QUANT_METHODS_H

#include "backend/backend.h"
#include "quant/factor.h"
#include "quant/solver.h"
#include "quant/spec.h"
#include "quant/workspace.h"

/* Statistics that a method needs from calibrate. */
enum { QS_NEED_GRAM = 1u, QS_NEED_ABS = 2u };
enum { QS_OPTIONS_MAX = 24 };

/* One matrix to quantise. All pointers are host memory. */
typedef struct qs_quant_job {
    const char *name;      /* "layers.3.q_proj", for messages */
    const float *weights;  /* [n_out, n_in] */
    int64_t n_out, n_in;
    qs_factor_cache
        *factors; /* second moments of the input and their factors; NULL when the method needs none */
    qs_backend *backend;      /* for qs_op_gemm */
    const float *abs_mean;    /* [n_in] mean |x| of the input; NULL when the method needs none */
    const int32_t *tied;      /* [n_in] columns with the same number must share a scaling; NULL = none must */
} qs_quant_job;

typedef struct qs_quant_result {
    qs_packed packed;    /* owned: qs_packed_free */
    double loss;         /* tr(E H E^T) / tr(W H W^T), E = W - Q; plain Frobenius when there is no H */
    double weight_error; /* |E|_F / |W|_F */
    double predicted;    /* of a matrix with a budget's share: the loss that its share was chosen by */
    double damping;      /* fraction actually used after retries; 0 without H */
    bool fallback;       /* the solver gave up and RTN was used */
    qs_error_sums known; /* what the method found on its way, H' = H and what damping added; zeros where it did not */
} qs_quant_result;

/* A matrix for a spec. Tasks that are solved together share factors and parallel regions, never numbers: each
 * result is the same as if it were alone.
 *
 * A method that folds scalings codes W[r][j] * columns[j] / rows[r]: whatever makes the input divides channel j by
 * columns[j], whatever takes the output multiplies r by rows[r] (quant/fold.h). Losses are those of the whole:
 * Q[r][j] * rows[r] / columns[j] is held against W. */
typedef struct qs_quant_task {
    const qs_spec *spec; /* of the method that is asked to solve it */
    const qs_quant_job *job;
    qs_quant_result *out;
    float *columns;    /* [n_in] chosen by the method, the same memory for all matrices of a spec that share an input;
                          NULL = nothing is folded */
    const float *rows; /* [n_out] given to the method; NULL = ones */
    bool given;        /* columns are there already, and `clip` says whether ranges are cut (quant/awq_block.h) */
    bool clip;
} qs_quant_task;

typedef struct qs_method {
    const char *name;
    const char *summary;
    unsigned needs;
    bool folds; /* it chooses columns of its tasks, which must hold all matrices of an input */
    qs_packed_format format; /* of its codes */
    /* Of a spec with a budget (bpw > 0): what each matrix may get, as specs without one, out[QS_OPTIONS_MAX]; returns
     * how many. NULL = the method takes no budget. solve gets these alone. */
    int64_t (*options)(const qs_spec *spec, qs_spec *out);
    /* Chooses the codes: fills packed, damping and fallback of every task's result. On failure the caller
     * frees what results hold. */
    qs_err (*solve)(qs_workspace *workspace, const qs_quant_task *tasks, int64_t n_tasks);
} qs_method;

extern const qs_method *const qs_methods[]; /* NULL-terminated */
const qs_method *qs_method_find(const char *name);

extern const qs_method qs_method_rtn, qs_method_gptq, qs_method_awq, qs_method_nf4, qs_method_fp4, qs_method_int8,
    qs_method_exl2;

/* Solves tasks of any methods and measures loss and weight error of each. On failure no result holds memory.
 * Errors: QS_E_USAGE (group larger than the row), QS_E_NUMERIC (NaN or Inf, names the matrix), QS_E_INPUT (a
 * method that needs second moments got none), QS_E_RESOURCE. */
QS_MUST_CHECK qs_err qs_quant_solve(qs_workspace *workspace, const qs_quant_task *tasks, int64_t n_tasks);

#endif
