/* Choosing the next token of each row of logits where the logits are, so that one number per row goes to the host.
 * One block per row, the rule of backend/sampler.h: the largest logit first, which is the greedy choice and shows
 * whether all are finite; then, when logits are to be clamped, their standard deviation; then the noise of those
 * tokens alone that it can lift above the best score so far, in f64 as on the host. Sums and choices are joined in a
 * fixed order. */
#include "backend/cuda/device.h"
#include "backend/cuda/kernels.h"
#include "base/rng_mix.h"

namespace {

enum { THREADS = 512, WARPS = THREADS / 32, NO_INDEX = 0x7fffffff };

/* A token and its score. Among equal scores the lower `turn` counts: the token's own, and -1 of the largest logit,
 * which the host looks at before all others. */
struct choice {
    double score;
    int32_t token, turn;
};

__device__ __forceinline__ void take_better(choice *own, choice other)
{
    if (other.score > own->score || (other.score == own->score && other.turn < own->turn)) *own = other;
}

/* The best of the block, in every thread. */
__device__ __forceinline__ choice best_of_block(choice own)
{
    __shared__ choice of_warp[WARPS];
    int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
    for (int step = 16; step > 0; step /= 2) {
        choice other;
        other.score = __shfl_down_sync(0xffffffffu, own.score, step);
        other.token = __shfl_down_sync(0xffffffffu, own.token, step);
        other.turn = __shfl_down_sync(0xffffffffu, own.turn, step);
        if (lane < step) take_better(&own, other);
    }
    __syncthreads(); /* an earlier result has been read */
    if (lane == 0) of_warp[warp] = own;
    __syncthreads();
    choice best = of_warp[0];
    for (int w = 1; w < WARPS; w++) take_better(&best, of_warp[w]);
    return best;
}

/* The sum of the block, in every thread. */
__device__ __forceinline__ double sum_of_block(double sum)
{
    __shared__ double of_warp[WARPS];
    int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
    for (int step = 16; step > 0; step /= 2) sum += __shfl_down_sync(0xffffffffu, sum, step);
    __syncthreads();
    if (lane == 0) of_warp[warp] = sum;
    __syncthreads();
    double total = of_warp[0];
    for (int w = 1; w < WARPS; w++) total += of_warp[w];
    return total;
}

__device__ __forceinline__ double noisy(float logit, int32_t token, double temperature, uint64_t step_key)
{
    return (double)logit / temperature - log(-log(qs_rng_mix_unit(step_key, (uint64_t)token)));
}

/* The temperature that does what clamping the logits does. `sum`: of the row's logits. */
__device__ __forceinline__ double clamped(const float *row, int32_t n_vocab, double sum, double temperature,
                                          double clamp)
{
    double mean = sum / (double)n_vocab, squares = 0.0;
    for (int32_t i = (int32_t)threadIdx.x; i < n_vocab; i += THREADS) {
        double off = (double)row[i] - mean;
        squares += off * off;
    }
    return temperature / exp(-clamp * sqrt(sum_of_block(squares) / (double)n_vocab));
}

__global__ void __launch_bounds__(THREADS) sample_row(const float *logits, const qs_sample_rule *rules, int32_t n_vocab,
                                                      int32_t *tokens)
{
    const float *row = logits + (int64_t)blockIdx.x * n_vocab;
    qs_sample_rule rule = rules[blockIdx.x];
    choice best;
    best.score = -INFINITY;
    best.token = -1;
    best.turn = NO_INDEX;
    double sum = 0.0;
    float not_finite = 0.0f; /* x - x is 0 for a finite x and NaN for any other, and a sum keeps a NaN */
    for (int32_t i = (int32_t)threadIdx.x; i < n_vocab; i += THREADS) {
        float x = row[i];
        not_finite += x - x;
        sum += (double)x;
        if (i != rule.banned && (double)x > best.score) {
            best.score = (double)x;
            best.token = best.turn = i;
        }
    }
    bool all_finite = __syncthreads_or(not_finite != 0.0f) == 0;
    best = best_of_block(best);
    if (!all_finite) best.token = -1;
    if (all_finite && rule.temperature > 0.0 && best.token >= 0) {
        double temperature = rule.temperature;
        if (rule.clamp != 0.0) temperature = clamped(row, n_vocab, sum_of_block(sum), temperature, rule.clamp);
        uint64_t step_key = qs_rng_mix_u64(rule.key, (uint64_t)rule.step);
        best.score = noisy(row[best.token], best.token, temperature, step_key);
        best.turn = -1;
        for (int32_t i = (int32_t)threadIdx.x; i < n_vocab; i += THREADS) {
            if (i == rule.banned || (double)row[i] / temperature + QS_SAMPLE_NOISE_MAX < best.score) continue;
            choice other;
            other.score = noisy(row[i], i, temperature, step_key);
            other.token = other.turn = i;
            take_better(&best, other);
        }
        best = best_of_block(best);
    }
    if (threadIdx.x == 0) tokens[blockIdx.x] = best.token;
}

} // namespace

extern "C" int qs_cu_sample(void *stream, const float *logits, const qs_sample_rule *rules, int64_t n, int64_t n_vocab,
                            int32_t *tokens)
{
    QS_LAUNCH(sample_row, dim3((unsigned)n), dim3(THREADS), 0, stream, logits, rules, (int32_t)n_vocab, tokens);
    return qs_launch_status();
}
