/* Cases of attention, for any backend (op_cases.h). */
#ifndef QS_TESTS_ATTENTION_CASES_H
#define QS_TESTS_ATTENTION_CASES_H

#include "tests/op_cases.h"

/* shape: windows, context, heads, kv heads, head_dim, sliding window (+ CASE_BF16: 16 bits) */
static inline void run_attention(qs_backend *backend, const int64_t s[N_SHAPE], output *out)
{
    op_memory m = {.backend = backend};
    qs_attention_shape shape = {s[2], s[3], s[4], s[5] % CASE_BF16,
                                s[5] & CASE_BF16 ? QS_COMPUTE_BF16 : QS_COMPUTE_F32};
    int64_t n = s[0] * s[1], q_width = s[2] * s[4], kv_width = s[3] * s[4];
    float *q = drawn_on_device(&m, 5, n * q_width, 2.0), *k = drawn_on_device(&m, 6, n * kv_width, 2.0);
    float *v = drawn_on_device(&m, 7, n * kv_width, 1.0), *y = floats_on_device(&m, NULL, n * q_width);
    OK(qs_op_attention(backend, &shape, q, k, v, s[0], s[1], y));
    keep_f32(&m, y, n * q_width, out);
}

/* shape: batch, cache length, heads, kv heads, head_dim, sliding window; sequences at different positions. What lies
 * behind a position in the caches must not matter: it is NaN. The output is y, then what the caches got. */
static inline void attend_decoding(qs_backend *backend, const int64_t s[N_SHAPE], bool rotate, output *out)
{
    op_memory m = {.backend = backend};
    qs_attention_shape shape = {s[2], s[3], s[4], s[5], QS_COMPUTE_F32};
    int64_t n = s[0], n_cap = s[1], q_width = s[2] * s[4], width = s[3] * s[4];
    float *q = drawn_on_device(&m, 8, n * q_width, 2.0), *y = floats_on_device(&m, NULL, n * q_width);
    float *k = drawn_on_device(&m, 9, n * width, 2.0), *v = drawn_on_device(&m, 10, n * width, 1.0), *cache[2];
    float *inv_freq = rotate ? rope_frequencies(&m, s[4] / 2) : NULL;
    int32_t *positions = on_host(&m, n, sizeof *positions);
    for (int64_t b = 0; b < n; b++) positions[b] = (int32_t)((n_cap - 1) * (b + 1) / n);
    for (int c = 0; c < 2; c++) {
        float *rows = draw(&m, 11 + (uint64_t)c, n * n_cap * width, c == 0 ? 2.0 : 1.0);
        for (int64_t i = 0; i < n * n_cap * width; i++)
            if (i / width % n_cap >= positions[i / width / n_cap]) rows[i] = NAN;
        cache[c] = floats_on_device(&m, rows, n * n_cap * width);
    }
    OK(qs_op_attention_decode(backend, &shape, q, k, v, inv_freq, cache[0], cache[1],
                              on_device(&m, positions, (size_t)n * sizeof *positions), n, n_cap, y));
    output_new(out, n * (q_width + 2 * width));
    const float *values = to_host(&m, y, n * q_width);
    for (int64_t i = 0; i < n * q_width; i++) out->values[i] = (double)values[i];
    for (int c = 0; c < 2; c++) {
        values = to_host(&m, cache[c], n * n_cap * width);
        for (int64_t i = 0; i < n * width; i++) {
            int64_t row = i / width * n_cap + positions[i / width];
            out->values[n * (q_width + c * width) + i] = (double)values[row * width + i % width];
        }
    }
    free_all(&m);
}

static inline void run_attention_decode(qs_backend *backend, const int64_t s[N_SHAPE], output *out)
{
    attend_decoding(backend, s, false, out);
}

static inline void run_rope_attention_decode(qs_backend *backend, const int64_t s[N_SHAPE], output *out)
{
    attend_decoding(backend, s, true, out);
}

#endif
