/* The row kernels in plain C (row_kernels.h): the definition of correct. */
#include <math.h>

#include "base/dtype.h"
#include "train/row_kernels.h"

/* Sums in f64: what the vector kernels are held against. */
static float rmsnorm(const float *x, const float *gain, int64_t d, double eps, float *out)
{
    double sum = 0;
    for (int64_t i = 0; i < d; i++) sum += (double)x[i] * x[i];
    float f = (float)(1 / sqrt(sum / (double)d + eps));
    for (int64_t i = 0; i < d; i++) out[i] = x[i] * f * gain[i];
    return f;
}

static void rmsnorm_back(const float *dy, const float *x, const float *gain, float f, int64_t d, float *dx,
                         float *dgain)
{
    double dot = 0;
    for (int64_t i = 0; i < d; i++) dot += (double)dy[i] * gain[i] * x[i];
    double along = dot / (double)d * f * f;
    for (int64_t i = 0; i < d; i++) {
        dx[i] += (float)(f * ((double)dy[i] * gain[i] - x[i] * along));
        dgain[i] += dy[i] * x[i] * f;
    }
}

static void rope(float *x, const float *cosines, const float *sines, float sign, float scale, int64_t n_heads,
                 int64_t head_dim)
{
    int64_t half = head_dim / 2;
    for (int64_t h = 0; h < n_heads; h++) {
        float *low = x + h * head_dim, *high = low + half;
        for (int64_t i = 0; i < half; i++) {
            float c = cosines[i] * scale, s = sign * sines[i] * scale, a = low[i], b = high[i];
            low[i] = a * c - b * s;
            high[i] = b * c + a * s;
        }
    }
}

static void swiglu(const float *gate, const float *up, int64_t n, float *out)
{
    for (int64_t i = 0; i < n; i++) out[i] = (float)(gate[i] / (1 + exp(-(double)gate[i]))) * up[i];
}

static void swiglu_back(const float *gate, const float *up, const float *dout, int64_t n, float *dgate,
                        float *dup)
{
    for (int64_t i = 0; i < n; i++) {
        double g = gate[i], s = 1 / (1 + exp(-g)), d = dout[i];
        dup[i] = (float)(d * g * s);
        dgate[i] = (float)(d * up[i] * s * (1 + g * (1 - s)));
    }
}

static void softmax(float *x, int64_t n_seen, int64_t n)
{
    float largest = x[0];
    double sum = 0;
    for (int64_t i = 1; i < n_seen; i++) largest = x[i] > largest ? x[i] : largest;
    for (int64_t i = 0; i < n_seen; i++) sum += x[i] = (float)exp((double)x[i] - largest);
    for (int64_t i = 0; i < n_seen; i++) x[i] = (float)(x[i] / sum);
    for (int64_t i = n_seen; i < n; i++) x[i] = 0;
}

static void softmax_back(const float *p, float *dp, int64_t n)
{
    double dot = 0;
    for (int64_t i = 0; i < n; i++) dot += (double)p[i] * dp[i];
    for (int64_t i = 0; i < n; i++) dp[i] = (float)(p[i] * (dp[i] - dot));
}

static qs_token_loss cross_entropy(float *logits, int64_t n, int32_t target, float scale)
{
    float largest = logits[0], at_target = logits[target];
    double sum = 0;
    for (int64_t i = 1; i < n; i++) largest = logits[i] > largest ? logits[i] : largest;
    for (int64_t i = 0; i < n; i++) sum += exp((double)logits[i] - largest);
    for (int64_t i = 0; i < n; i++) logits[i] = (float)(exp((double)logits[i] - largest) / sum * scale);
    logits[target] -= scale;
    return (qs_token_loss){.nll = log(sum) + largest - at_target, .is_largest = at_target == largest};
}

static void add(float *x, const float *y, int64_t n)
{
    for (int64_t i = 0; i < n; i++) x[i] += y[i];
}

static void to_bf16(const float *x, int64_t n, uint16_t *out) { qs_bf16_from_f32_array(out, x, n); }

static double sum_squares(const float *x, int64_t n)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += (double)x[i] * x[i];
    return sum;
}

static void adam_moments(const qs_adam_step *step, int64_t n, const float *gradient, float *m, float *v)
{
    for (int64_t i = 0; i < n; i++) {
        float g = step->clip * gradient[i];
        m[i] = step->beta1 * m[i] + step->rest1 * g;
        v[i] = step->beta2 * v[i] + step->rest2 * (g * g);
    }
}

static void adam_apply(const qs_adam_step *step, bool decays, int64_t n, const float *m, const float *v,
                       float *p)
{
    float keep = decays ? step->keep : 1.0f;
    for (int64_t i = 0; i < n; i++) p[i] = keep * p[i] - step->step_size * (m[i] / (sqrtf(v[i]) + step->eps));
}

void qs_train_kernels_fill_ref(qs_train_kernels *kernels)
{
    *kernels = (qs_train_kernels){.from = "reference",
                                  .rmsnorm = rmsnorm,
                                  .rmsnorm_back = rmsnorm_back,
                                  .rope = rope,
                                  .swiglu = swiglu,
                                  .swiglu_back = swiglu_back,
                                  .softmax = softmax,
                                  .softmax_back = softmax_back,
                                  .cross_entropy = cross_entropy,
                                  .add = add,
                                  .to_bf16 = to_bf16,
                                  .sum_squares = sum_squares,
                                  .adam_moments = adam_moments,
                                  .adam_apply = adam_apply};
}
