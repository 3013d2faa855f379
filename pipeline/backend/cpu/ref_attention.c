/* Plain C of attention: softmax(q k^T / sqrt(head_dim)) v over the keys that a query sees, in three passes
 * that keep nothing but the maximum, so no scratch is needed. */
#include <math.h>

#include "backend/cpu/kernels.h"

static double score(const float *q, const float *k, int64_t head_dim)
{
    double sum = 0.0;
    for (int64_t i = 0; i < head_dim; i++) sum += (double)q[i] * (double)k[i];
    return sum / sqrt((double)head_dim);
}

/* One query over keys [first, last]; k and v point at key 0 of the right head, rows kv_stride apart. */
static void attend(const float *q, const float *k, const float *v, int64_t kv_stride, int64_t head_dim,
                   int64_t first, int64_t last, float *out)
{
    enum { SLICE = 64 };
    double max = -INFINITY, total = 0.0;
    for (int64_t j = first; j <= last; j++) max = fmax(max, score(q, k + j * kv_stride, head_dim));
    for (int64_t j = first; j <= last; j++) total += exp(score(q, k + j * kv_stride, head_dim) - max);
    for (int64_t i0 = 0; i0 < head_dim; i0 += SLICE) {
        int64_t width = head_dim - i0 < SLICE ? head_dim - i0 : SLICE;
        double sums[SLICE] = {0.0};
        for (int64_t j = first; j <= last; j++) {
            double p = exp(score(q, k + j * kv_stride, head_dim) - max);
            for (int64_t i = 0; i < width; i++) sums[i] += p * (double)v[j * kv_stride + i0 + i];
        }
        for (int64_t i = 0; i < width; i++) out[i0 + i] = (float)(sums[i] / total);
    }
}

void qs_ref_attention(const qs_attention_job *job, int64_t sequence, int64_t head, int64_t first, int64_t last)
{
    const qs_attention_shape *shape = &job->shape;
    int64_t q_stride = shape->n_heads * shape->head_dim, kv_stride = shape->n_kv_heads * shape->head_dim;
    int64_t kv_head = head / (shape->n_heads / shape->n_kv_heads);
    const float *k = job->k + sequence * job->n_ctx * kv_stride + kv_head * shape->head_dim;
    const float *v = job->v + sequence * job->n_ctx * kv_stride + kv_head * shape->head_dim;
    for (int64_t row = first; row < last; row++) {
        int64_t offset = (sequence * job->n_ctx + row) * q_stride + head * shape->head_dim;
        attend(job->q + offset, k, v, kv_stride, shape->head_dim, qs_attention_first_key(shape, row), row,
               job->out + offset);
    }
}

void qs_ref_attention_decode(const qs_attention_job *job, int64_t sequence, int64_t head)
{
    const qs_attention_shape *shape = &job->shape;
    int64_t kv_stride = shape->n_kv_heads * shape->head_dim;
    int64_t kv_head = head / (shape->n_heads / shape->n_kv_heads);
    int64_t kv_offset = sequence * job->n_ctx * kv_stride + kv_head * shape->head_dim;
    int64_t offset = (sequence * shape->n_heads + head) * shape->head_dim;
    int64_t position = job->positions[sequence];
    attend(job->q + offset, job->k + kv_offset, job->v + kv_offset, kv_stride, shape->head_dim,
           qs_attention_first_key(shape, position), position, job->out + offset);
}
