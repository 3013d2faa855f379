/* Plain C of the formats that are not integers (packed.h): products with few rows, and what inputs become. */
#include <math.h>

#include "backend/cpu/kernels.h"

/* Weight by weight as packed.h defines it, f64 sums. */
void qs_ref_gemv_blocks(const qs_gemv_job *job, int64_t first_row, int64_t last_row)
{
    const qs_packed *packed = job->packed;
    const float *values = qs_formats[packed->format].values;
    for (int64_t o = first_row; o < last_row; o++) {
        const uint8_t *codes = packed->codes + o * packed->row_bytes;
        for (int64_t r = 0; r < job->n; r++) {
            const float *x = job->x + r * job->x_stride;
            double sum = job->bias == NULL ? 0.0 : (double)job->bias[o];
            for (int64_t j = 0; j < job->n_in; j++) {
                float value = values[(codes[j / 2] >> (j % 2 * 4)) & 15];
                float absmax = qs_packed_absmax(packed, (o * packed->n_in + j) / packed->group_size);
                sum += (double)qs_round_to(value * absmax, packed->compute) * (double)x[j];
            }
            job->y[r * job->n_out + o] = (float)sum;
        }
    }
}

/* Group by group, f64 sums; weights before they are rounded to f16 would be nearer to what a GPU's kernels do, but
 * packed.h rounds them. */
void qs_ref_gemv_exl2(const qs_gemv_job *job, int64_t first_row, int64_t last_row)
{
    const qs_packed *packed = job->packed;
    for (int64_t o = first_row; o < last_row; o++)
        for (int64_t r = 0; r < job->n; r++) {
            const float *x = job->x + r * job->x_stride;
            const uint8_t *src = packed->codes + o * packed->row_bytes;
            double sum = job->bias == NULL ? 0.0 : (double)job->bias[o];
            unsigned pending = 0;
            int n_pending = 0;
            for (int64_t g = 0; g < packed->n_groups; g++) {
                int bits = packed->groups[g].bits, middle = 1 << (bits - 1);
                float scale = qs_exl2_scale(packed->scale_max[g], packed->scale_codes[o * packed->n_groups + g]);
                for (int64_t j = packed->groups[g].first; j < qs_packed_group_end(packed, g); j++) {
                    if (n_pending < bits) {
                        pending |= (unsigned)*src++ << n_pending;
                        n_pending += 8;
                    }
                    int code = (int)(pending & ((1u << bits) - 1u)) - middle;
                    sum += (double)qs_round_to((float)code * scale, QS_ROUND_F16) * (double)x[j];
                    pending >>= bits;
                    n_pending -= bits;
                }
            }
            job->y[r * job->n_out + o] = (float)sum;
        }
}

void qs_ref_gemv_int8(const qs_gemv_job *job, int64_t first_row, int64_t last_row)
{
    for (int64_t o = first_row; o < last_row; o++) {
        const int8_t *row = job->rows8 + o * job->row8_bytes;
        for (int64_t r = 0; r < job->n; r++) {
            const int16_t *x = job->x8 + r * job->row8_bytes;
            int32_t sum = 0;
            for (int64_t j = 0; j < job->row8_bytes; j++) sum += row[j] * x[j];
            job->y[r * job->n_out + o] = qs_int8_product((float)sum, job->x_scales[r], job->packed->absmax[o]);
        }
    }
}

void qs_ref_round(const float *x, const float *bias, int64_t n, qs_rounding rounding, float *out)
{
    for (int64_t i = 0; i < n; i++)
        out[i] = qs_round_to(bias == NULL ? x[i] : x[i] + qs_round_to(bias[i], rounding), rounding);
}

void qs_ref_add_scaled(float a, const float *x, int64_t n, float *y)
{
    for (int64_t i = 0; i < n; i++) y[i] = (float)((double)y[i] + (double)a * (double)x[i]);
}

float qs_ref_code_row(const float *x, int64_t n_in, float threshold, float *codes, uint8_t *outlier)
{
    float scale = 0;
    bool finite = true;
    for (int64_t j = 0; j < n_in; j++) {
        float magnitude = fabsf(qs_round_to(x[j], QS_ROUND_F16));
        finite = finite && isfinite(x[j]);
        if (threshold > 0 && magnitude >= threshold)
            outlier[j] = 1;
        else
            scale = fmaxf(scale, magnitude);
    }
    float factor = qs_int8_factor(scale);
    for (int64_t j = 0; j < n_in; j++) {
        float value = qs_round_to(x[j], QS_ROUND_F16);
        bool skip = !finite || (threshold > 0 && fabsf(value) >= threshold);
        codes[j] = skip ? 0 : rintf(value * factor);
    }
    return finite ? scale : NAN;
}
