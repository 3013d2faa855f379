/* Plain C of products with few rows: y[n, n_out] = x[n, n_in] W^T + bias, f64 sums. */
#include "backend/cpu/kernels.h"
#include "base/dtype.h"

static void store(const qs_gemv_job *job, int64_t row, int64_t o, double sum)
{
    if (job->bias != NULL) sum += (double)job->bias[o];
    job->y[row * job->n_out + o] = (float)sum;
}

void qs_ref_gemv_f32(const qs_gemv_job *job, int64_t first_row, int64_t last_row)
{
    for (int64_t o = first_row; o < last_row; o++) {
        const float *w = (const float *)job->dense + o * job->n_in;
        for (int64_t r = 0; r < job->n; r++) {
            double sum = 0.0;
            for (int64_t j = 0; j < job->n_in; j++) sum += (double)w[j] * (double)job->x[r * job->x_stride + j];
            store(job, r, o, sum);
        }
    }
}

void qs_ref_gemv_f16(const qs_gemv_job *job, int64_t first_row, int64_t last_row)
{
    for (int64_t o = first_row; o < last_row; o++) {
        const uint16_t *w = (const uint16_t *)job->dense + o * job->n_in;
        for (int64_t r = 0; r < job->n; r++) {
            double sum = 0.0;
            for (int64_t j = 0; j < job->n_in; j++)
                sum += (double)qs_f32_from_f16(w[j]) * (double)job->x[r * job->x_stride + j];
            store(job, r, o, sum);
        }
    }
}

void qs_ref_gemv_bf16(const qs_gemv_job *job, int64_t first_row, int64_t last_row)
{
    for (int64_t o = first_row; o < last_row; o++) {
        const uint16_t *w = (const uint16_t *)job->dense + o * job->n_in;
        for (int64_t r = 0; r < job->n; r++) {
            double sum = 0.0;
            for (int64_t j = 0; j < job->n_in; j++)
                sum += (double)qs_f32_from_bf16(w[j]) * (double)job->x[r * job->x_stride + j];
            store(job, r, o, sum);
        }
    }
}

/* One code of a row: up to 8 bits that may straddle a byte. */
static unsigned code_at(const uint8_t *codes, int64_t row_bytes, int bits, int64_t j)
{
    int64_t bit = j * bits, byte = bit / 8;
    unsigned window = codes[byte];
    if (byte + 1 < row_bytes) window |= (unsigned)codes[byte + 1] << 8;
    return (window >> (bit % 8)) & ((1u << bits) - 1u);
}

/* x is in stored column order already, so the permutation does not appear here. */
void qs_ref_gemv_int(const qs_gemv_job *job, int64_t first_row, int64_t last_row)
{
    const qs_packed *packed = job->packed;
    int middle = 1 << (packed->bits - 1);
    for (int64_t o = first_row; o < last_row; o++) {
        const uint8_t *codes = packed->codes + o * packed->row_bytes;
        for (int64_t r = 0; r < job->n; r++) {
            double sum = 0.0;
            for (int64_t j = 0; j < job->n_in; j++) {
                int64_t g = o * packed->n_groups + j / packed->group_size;
                int zero = packed->zeros == NULL ? middle : packed->zeros[g];
                int code = (int)code_at(codes, packed->row_bytes, packed->bits, j) - zero;
                sum += (double)qs_f32_from_f16(packed->scales[g]) * code * (double)job->x[r * job->x_stride + j];
            }
            store(job, r, o, sum);
        }
    }
}
