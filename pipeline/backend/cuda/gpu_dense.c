/* Many rows by dense weights. Stored ones are made dense a piece at a time, and multiplied while the piece lies in the L2
 * cache: memory sees what is stored and neither what is written nor what the product reads. */
#include <stdlib.h>

#include "backend/cuda/blas.h"
#include "backend/cuda/gpu_matrix.h"

static size_t elem_bytes(const qs_matrix *matrix)
{
    return matrix->compute == QS_COMPUTE_BF16 ? sizeof(uint16_t) : sizeof(float);
}

size_t qs_gpu_dense_bytes(const qs_matrix *matrix)
{
    return (size_t)matrix->n_out * (size_t)matrix->n_in * elem_bytes(matrix);
}

static qs_err dequantise(const qs_matrix *matrix, const qs_gpu_stored *s, const qs_cu_part *part, void *stream, bool soon,
                         void *out)
{
    const qs_gpu_matrix *self = matrix->state;
    qs_gpu *gpu = qs_gpu_of(matrix->backend);
    qs_cu_linear linear = qs_gpu_linear_from(matrix, s);
    const int32_t *perm = self->has_perm ? s->perm.data : NULL;
    return qs_gpu_check(gpu, qs_cu_dequant(stream, &self->shape, &linear, perm, part,
                                           matrix->compute == QS_COMPUTE_BF16, soon, out), "de-quantise weights");
}

qs_err qs_gpu_dequantise(const qs_matrix *matrix, const qs_gpu_stored *s, void *out)
{
    qs_cu_part whole = {.n_rows = matrix->n_out, .n_columns = matrix->n_in};
    return dequantise(matrix, s, &whole, qs_gpu_of(matrix->backend)->stream, false, out);
}

/* ---- pieces ---- */

static int64_t trial(const char *name, int64_t value)
{
    const char *text = getenv(name);
    return text != NULL ? strtoll(text, NULL, 10) : value;
}

/* What of dense weights stays in the L2 cache beside inputs, results and the stored words on their way. */
static size_t piece_bytes(const qs_gpu *gpu)
{
    enum { MOST = 32 << 20 };
    size_t bytes = gpu->device.l2_bytes / 3 * 2;
    int64_t mb = trial("QS_DENSE_PIECE_MB", -1);
    if (mb >= 0) return mb > 0 ? (size_t)mb << 20 : SIZE_MAX;
    return bytes < MOST ? bytes : MOST;
}

static int64_t ceil_div(int64_t n, int64_t by) { return (n + by - 1) / by; }

/* The largest piece of a matrix for n rows of x: rows of it, unless they are too few for a product that fills the device.
 * Then it is columns, which add up in y; y is passed over once more for each, so not where it is wider than x. */
static qs_cu_part piece_of(const qs_gpu *gpu, const qs_matrix *m, int64_t n)
{
    enum { STEP = QS_CU_CHUNK, TILE = 128 /* of cuBLAS's kernels, or so */ };
    const qs_gpu_matrix *self = m->state;
    qs_cu_part piece = {.n_rows = m->n_out, .n_columns = m->n_in};
    int64_t n_pieces = ceil_div((int64_t)qs_gpu_dense_bytes(m), (int64_t)piece_bytes(gpu));
    if (n_pieces <= 1) return piece;
    int64_t rows = ceil_div(ceil_div(m->n_out, n_pieces), STEP) * STEP;
    int64_t columns = ceil_div(ceil_div(m->n_in, n_pieces), STEP) * STEP;
    bool is_large = 3 * ceil_div(n, TILE) * ceil_div(rows, TILE) >= 2 * gpu->device.n_sms;
    bool by_rows = is_large || m->n_out > m->n_in || self->has_perm || self->is_f32;
    if (by_rows) piece.n_rows = rows < m->n_out ? rows : m->n_out;
    else piece.n_columns = columns < m->n_in ? columns : m->n_in;
    return piece;
}

/* f32 weights lie as they are, so their pieces are rows. */
static qs_err make_dense(qs_gpu *gpu, const qs_matrix *matrix, const qs_cu_part *part, void *stream, bool soon, void *out)
{
    const qs_gpu_matrix *self = matrix->state;
    if (!self->is_f32) return dequantise(matrix, &self->stored, part, stream, soon, out);
    const float *from = (const float *)self->stored.words.data + part->row * matrix->n_in;
    return qs_gpu_check(gpu, qs_cu_f32_to_bf16(stream, from, part->n_rows * matrix->n_in, out), "round weights");
}

/* On trial: pieces take turns in two halves of the scratch and are made dense on a stream of their own, while the product
 * of the piece before still runs. */
static qs_err start_beside(qs_gpu *gpu)
{
    qs_err err = QS_OK;
    if (gpu->dense_stream != NULL) return QS_OK;
    QS_TRY(qs_gpu_check(gpu, qs_rt_stream_create(&gpu->dense_stream), "create a stream"));
    for (int i = 0; i < QS_GPU_DENSE_EVENTS; i++)
        QS_TRY(qs_gpu_check(gpu, qs_rt_event_create(&gpu->dense_events[i]), "create an event"));
out:
    return err;
}

static qs_err make_dense_beside(qs_gpu *gpu, const qs_matrix *matrix, const qs_cu_part *part, int half, void *out)
{
    void *free_again = gpu->dense_events[half], *ready = gpu->dense_events[2 + half], *stored = gpu->dense_events[4];
    qs_err err;
    if (gpu->weights_are_fresh) {
        QS_TRY(qs_gpu_check(gpu, qs_rt_event_record(stored, gpu->stream), "de-quantise weights"));
        QS_TRY(qs_gpu_check(gpu, qs_rt_stream_wait(gpu->dense_stream, stored), "de-quantise weights"));
    }
    QS_TRY(qs_gpu_check(gpu, qs_rt_stream_wait(gpu->dense_stream, free_again), "de-quantise weights"));
    QS_TRY(make_dense(gpu, matrix, part, gpu->dense_stream, false, out));
    QS_TRY(qs_gpu_check(gpu, qs_rt_event_record(ready, gpu->dense_stream), "de-quantise weights"));
    QS_TRY(qs_gpu_check(gpu, qs_rt_stream_wait(gpu->stream, ready), "de-quantise weights"));
out:
    return err;
}

/* ---- products ---- */

/* x by a part of the weights, which is dense at w. */
static qs_err multiply(qs_gpu *gpu, const qs_linear_job *job, const qs_cu_part *part, const void *w, const float *x,
                       int64_t n)
{
    const qs_matrix *m = job->matrix;
    float *y = job->y + part->row, beta = job->add || part->column > 0 ? 1.0f : 0.0f;
    if (m->compute == QS_COMPUTE_BF16)
        return qs_blas_gemm_bf16(gpu->blas, gpu, n, part->n_rows, part->n_columns,
                                 (const uint16_t *)gpu->x_bf16.data + part->column, m->n_in, w, part->n_columns, beta, y,
                                 m->n_out);
    return qs_blas_gemm(gpu->blas, gpu, false, true, n, part->n_rows, part->n_columns, 1.0f, x + part->column, m->n_in, w,
                        part->n_columns, beta, y, m->n_out);
}

static qs_err run_piece(qs_gpu *gpu, const qs_linear_job *job, const qs_cu_part *part, const float *x, int64_t n, bool beside)
{
    int half = beside ? gpu->dense_half ^= 1 : 0;
    void *w = (char *)gpu->dense.data + (half != 0 ? gpu->dense.bytes / 512 * 256 : 0);
    bool soon = !gpu->weights_are_fresh;
    qs_err err;
    QS_TRY(beside ? make_dense_beside(gpu, job->matrix, part, half, w)
                  : make_dense(gpu, job->matrix, part, gpu->stream, soon, w));
    gpu->weights_are_fresh = false;
    QS_TRY(multiply(gpu, job, part, w, x, n));
    if (beside) QS_TRY(qs_gpu_check(gpu, qs_rt_event_record(gpu->dense_events[half], gpu->stream), "run linear"));
out:
    return err;
}

static qs_err run_pieces(qs_gpu *gpu, const qs_linear_job *job, const float *x, int64_t n)
{
    const qs_matrix *m = job->matrix;
    qs_cu_part piece = piece_of(gpu, m, n);
    bool beside = trial("QS_DENSE_STREAMS", 1) == 2 && !gpu->recording;
    size_t bytes = (size_t)(piece.n_rows * piece.n_columns) * elem_bytes(m);
    qs_err err;
    if (beside) QS_TRY(start_beside(gpu));
    QS_TRY(qs_gpu_reserve(gpu, &gpu->dense, beside ? 2 * bytes + 512 : bytes, QS_GPU_WORKSPACE, "de-quantised weights"));
    for (int64_t row = 0; row < m->n_out; row += piece.n_rows)
        for (int64_t column = 0; column < m->n_in; column += piece.n_columns) {
            qs_cu_part part = {row, m->n_out - row, column, m->n_in - column};
            part.n_rows = part.n_rows < piece.n_rows ? part.n_rows : piece.n_rows;
            part.n_columns = part.n_columns < piece.n_columns ? part.n_columns : piece.n_columns;
            QS_TRY(run_piece(gpu, job, &part, x, n, beside));
        }
out:
    return err;
}

/* Dense weights that are there already, or NULL. */
static const void *kept(const qs_matrix *matrix)
{
    const qs_gpu_matrix *self = matrix->state;
    if ((matrix->uses & QS_USE_GEMM) != 0) return self->dense.data;
    return self->is_f32 && matrix->compute == QS_COMPUTE_F32 ? self->stored.words.data : NULL;
}

static qs_err reserve_rounded(qs_gpu *gpu, int64_t n_values)
{
    return qs_gpu_reserve(gpu, &gpu->x_bf16, (size_t)n_values * sizeof(uint16_t), QS_GPU_WORKSPACE, "activations");
}

qs_err qs_gpu_norm_rounded(qs_gpu *gpu, const qs_linear_with *with, const float *x, int64_t n, int64_t d)
{
    qs_err err;
    QS_TRY(reserve_rounded(gpu, n * d));
    QS_TRY(qs_gpu_check(gpu, qs_cu_rmsnorm_bf16(gpu->stream, x, with->norm, n, d, (float)with->norm_eps, gpu->x_bf16.data),
                        "run rmsnorm"));
out:
    return err;
}

qs_err qs_gpu_run_many(qs_gpu *gpu, const qs_linear_job *job, const float *x, int64_t n, bool *x_is_rounded)
{
    const qs_matrix *m = job->matrix;
    qs_cu_part whole = {.n_rows = m->n_out, .n_columns = m->n_in};
    qs_err err = QS_OK;
    if (m->compute == QS_COMPUTE_BF16 && !*x_is_rounded) {
        QS_TRY(reserve_rounded(gpu, n * m->n_in));
        QS_TRY(qs_gpu_check(gpu, qs_cu_f32_to_bf16(gpu->stream, x, n * m->n_in, gpu->x_bf16.data), "round activations"));
        *x_is_rounded = true;
    }
    QS_TRY(kept(m) != NULL ? multiply(gpu, job, &whole, kept(m), x, n) : run_pieces(gpu, job, x, n));
    if (job->bias != NULL)
        QS_TRY(qs_gpu_check(gpu, qs_cu_add_bias(gpu->stream, job->y, job->bias, n, m->n_out), "add bias"));
out:
    return err;
}
