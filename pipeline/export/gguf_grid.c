#include "export/gguf_grid.h"

#include <math.h>
#include <string.h>

#include "base/dtype.h"

enum { R = QS_TILE_ROWS, N_VALUES = 16 /* of grids of values */ };

static const float SCALE_MIN = 1e-30f; /* its inverse is finite */

/* Starts that are tried, by bits: ranges of first, first - step .. of the whole one, wider or cut at one end and then
 * at the other, each improved `rounds` times. The fewer codes there are, the more a cut may gain. Cutting both ends
 * alike finds less: of normal weights in 4 bits with 14 such cuts 11 % more squared error than the best of 144 pairs
 * of cuts, with these 8 starts 1.2 % more. Values lie farther apart at the ends, so that wider ranges are worth as much
 * as cuts: 14 starts from 1.30 on lose 0.07 % against 400 of 0.6 to 2.2 (from 1.10 on, as of integers, 0.5 %). */
typedef struct starts {
    int n, rounds;
    float first, step;
} starts;

static const starts symmetric_starts[] = {[3] = {16, 1, 1.08f, 0.045f}, [4] = {14, 1, 1.10f, 0.028f},
                                          [5] = {10, 1, 1.09f, 0.021f}, [6] = {7, 1, 1.06f, 0.02f},
                                          [8] = {5, 1, 1.03f, 0.01f}};
static const starts value_starts[] = {[4] = {14, 1, 1.30f, 0.035f}};
static const starts affine_starts[] = {[2] = {4, 2, 1.10f, 0.09f}, [4] = {4, 2, 1.05f, 0.03f},
                                       [5] = {5, 2, 1.06f, 0.02f}};

/* Sums over the columns of a sub for given codes q. */
typedef struct sums {
    float q[R], qq[R], qx[R];
} sums;

static inline float clamp(float value, float low, float high)
{
    value = value < low ? low : value;
    return value > high ? high : value;
}

static inline float nearest(float value) { return (value + QS_SCALE_MAGIC) - QS_SCALE_MAGIC; }

/* The numbers at the ends of the grid. */
static float lowest(const qs_gguf_grid *g)
{
    if (g->values != NULL) return g->values[0];
    return g->affine ? 0.0f : -(float)(1 << (g->bits - 1));
}

static float highest(const qs_gguf_grid *g)
{
    if (g->values != NULL) return g->values[N_VALUES - 1];
    return (float)((1 << g->bits) - 1) + lowest(g);
}

/* Levels of grids that have them, and with them lows, which only affine grids have. */
static float level_least(const qs_gguf_grid *g) { return g->affine ? 0.0f : -(float)(1 << (g->level_bits - 1)); }
static float level_most(const qs_gguf_grid *g) { return (float)((1 << g->level_bits) - 1) + level_least(g); }

static void invert(const float *restrict s, float *restrict inverse)
{
    for (int r = 0; r < R; r++) inverse[r] = fabsf(s[r]) > SCALE_MIN ? 1.0f / s[r] : 0.0f;
}

/* Of a grid of values: a step for each middle of two neighbours that x / s has passed; as wide as the two are apart,
 * which leads from the first value to the nearest one, or 1, which leads to its code. Five of the fifteen at a time,
 * written out so that their sum stays in registers, take 0.62 of the time of one after another. */
static inline void climb(const qs_gguf_grid *g, const float *restrict x, const float *restrict inverse, bool count,
                         float *restrict q)
{
    float v[R];
    for (int r = 0; r < R; r++) {
        v[r] = x[r] * inverse[r];
        q[r] = count ? 0.0f : g->values[0];
    }
    for (int k = 0; k < N_VALUES - 1; k += 5) {
        float middle[5], step[5];
        for (int j = 0; j < 5; j++) {
            float low = g->values[k + j], high = g->values[k + j + 1];
            middle[j] = 0.5f * (low + high);
            step[j] = count ? 1.0f : high - low;
        }
        for (int r = 0; r < R; r++)
            q[r] += (v[r] > middle[0] ? step[0] : 0.0f) + (v[r] > middle[1] ? step[1] : 0.0f) +
                    (v[r] > middle[2] ? step[2] : 0.0f) + (v[r] > middle[3] ? step[3] : 0.0f) +
                    (v[r] > middle[4] ? step[4] : 0.0f);
    }
}

/* The numbers of the grid that are nearest to (x + m) / s. */
static inline void find_nearest(const qs_gguf_grid *g, const float *restrict x, const float *restrict m,
                                const float *restrict inverse, float *restrict q)
{
    float low = lowest(g), high = highest(g);
    if (g->values != NULL) {
        climb(g, x, inverse, false, q);
        return;
    }
    for (int r = 0; r < R; r++) q[r] = nearest(clamp((x[r] + m[r]) * inverse[r], low, high));
}

/* f16 numbers, never an infinity. */
static void round_half(float *values)
{
    uint16_t half[R];
    for (int r = 0; r < R; r++) values[r] = clamp(values[r], -QS_SCALE_MAX, QS_SCALE_MAX);
    qs_f16_from_f32_array(half, values, R);
    qs_f32_from_f16_array(values, half, R);
}

/* ---- what (s, m) does to a sub; m of symmetric grids is 0 ---- */

static void add_sums(const qs_gguf_grid *g, const float *restrict x, int64_t n, const float *weight,
                     const float *restrict s, const float *restrict m, sums *restrict out)
{
    float inverse[R], q[R];
    invert(s, inverse);
    memset(out, 0, sizeof *out);
    for (int64_t i = 0; i < n; i++, x += R) {
        float w = weight != NULL ? weight[i] : 1.0f;
        find_nearest(g, x, m, inverse, q);
        for (int r = 0; r < R; r++) {
            out->q[r] += w * q[r];
            out->qq[r] += w * q[r] * q[r];
            out->qx[r] += w * q[r] * x[r];
        }
    }
}

static void add_errors(const qs_gguf_grid *g, const float *restrict x, int64_t n, const float *weight,
                       const float *restrict s, const float *restrict m, float *restrict error)
{
    float inverse[R], q[R];
    invert(s, inverse);
    for (int r = 0; r < R; r++) error[r] = 0;
    for (int64_t i = 0; i < n; i++, x += R) {
        float w = weight != NULL ? weight[i] : 1.0f;
        find_nearest(g, x, m, inverse, q);
        for (int r = 0; r < R; r++) {
            float e = x[r] - (s[r] * q[r] - m[r]);
            error[r] += w * e * e;
        }
    }
}

/* ---- the best (s, m) without levels ---- */

/* What does not depend on codes: sum of weights, of weighted values, and the range. */
typedef struct extent {
    float weights, x[R], low[R], high[R];
} extent;

static void measure(const float *restrict x, int64_t n, const float *weight, extent *restrict out)
{
    memset(out, 0, sizeof *out);
    for (int r = 0; r < R; r++) out->low[r] = out->high[r] = x[r];
    for (int64_t i = 0; i < n; i++, x += R) {
        float w = weight != NULL ? weight[i] : 1.0f;
        out->weights += w;
        for (int r = 0; r < R; r++) {
            out->x[r] += w * x[r];
            out->low[r] = x[r] < out->low[r] ? x[r] : out->low[r];
            out->high[r] = x[r] > out->high[r] ? x[r] : out->high[r];
        }
    }
    if (!(out->weights > 0)) out->weights = 1; /* columns that nothing reaches: any scale is as good */
}

/* Least squares for the codes that (s, m) gives; where they say nothing, (s, m) stays. */
static void improve(const qs_gguf_grid *g, const float *x, int64_t n, const float *weight, const extent *of, float *s,
                    float *m)
{
    sums t;
    add_sums(g, x, n, weight, s, m, &t);
    for (int r = 0; r < R; r++) {
        float free_s = t.qq[r] > 0 ? t.qx[r] / t.qq[r] : 0.0f; /* with m = 0 */
        if (!g->affine) {
            if (free_s != 0) s[r] = free_s;
            continue;
        }
        float det = of->weights * t.qq[r] - t.q[r] * t.q[r];
        if (!(det > 1e-6f * of->weights * t.qq[r])) continue; /* all codes are one */
        float new_s = (of->weights * t.qx[r] - t.q[r] * of->x[r]) / det;
        float new_m = (new_s * t.q[r] - of->x[r]) / of->weights;
        if (g->sub < g->unit && new_m < 0) {
            new_s = free_s;
            new_m = 0;
        }
        if (!(new_s > 0)) continue;
        s[r] = new_s;
        m[r] = new_m;
    }
}

/* The range times `factor`. Of symmetric grids `side` says which of its ends gets the lowest code, of affine ones which
 * of them moves. */
static void start(const qs_gguf_grid *g, const extent *of, float factor, int side, float *s, float *m)
{
    for (int r = 0; r < R; r++) {
        float low = of->low[r], high = of->high[r];
        m[r] = 0;
        if (!g->affine) {
            float most = -low > high ? low : high;
            s[r] = factor * (side == 0 ? most / lowest(g) : most / highest(g));
            continue;
        }
        if (g->sub < g->unit && low > 0) low = 0; /* minima of subs cannot be positive */
        float range = high - low, from = side == 0 ? low : low + (1 - factor) * range;
        s[r] = factor * range / highest(g);
        m[r] = g->sub < g->unit && from > 0 ? 0 : -from;
    }
}

static void fit(const qs_gguf_grid *g, const float *x, int64_t n, const float *weight, float *s, float *m)
{
    float best[R], error[R], tried_s[R], tried_m[R];
    bool own = g->sub == g->unit; /* s and m are stored as they are, so that they are rounded before they are rated */
    const starts *tries = g->values != NULL ? value_starts : g->affine ? affine_starts : symmetric_starts;
    extent of;
    tries += g->bits;
    measure(x, n, weight, &of);
    for (int r = 0; r < R; r++) {
        best[r] = INFINITY;
        s[r] = m[r] = 0;
    }
    for (int at = 0; at < 2 * tries->n; at++) {
        start(g, &of, tries->first - (float)(at / 2) * tries->step, at % 2, tried_s, tried_m);
        for (int i = 0; i < tries->rounds; i++) improve(g, x, n, weight, &of, tried_s, tried_m);
        if (own) {
            round_half(tried_s);
            round_half(tried_m);
        }
        add_errors(g, x, n, weight, tried_s, tried_m, error);
        for (int r = 0; r < R; r++) {
            if (!(error[r] < best[r])) continue;
            best[r] = error[r];
            s[r] = tried_s[r];
            m[r] = tried_m[r];
        }
    }
}

/* ---- blocks of blocks ---- */

void qs_gguf_grid_block(const qs_gguf_grid *g, const float *x, const float *weight, qs_gguf_scales *out)
{
    int n_subs = g->unit / g->sub;
    if (n_subs == 1) {
        fit(g, x, g->unit, weight, out->d, out->dmin);
        return;
    }
    for (int i = 0; i < n_subs; i++)
        fit(g, x + i * g->sub * R, g->sub, weight != NULL ? weight + i * g->sub : NULL, out->scale[i], out->minimum[i]);
    for (int r = 0; r < R; r++) {
        float most = 0, most_m = 0;
        for (int i = 0; i < n_subs; i++) {
            if (fabsf(out->scale[i][r]) > fabsf(most)) most = out->scale[i][r];
            most_m = fmaxf(most_m, out->minimum[i][r]);
        }
        out->d[r] = most / (g->affine ? level_most(g) : level_least(g));
        out->dmin[r] = most_m / level_most(g);
    }
    round_half(out->d);
    round_half(out->dmin);
}

/* The low that suits a scale: the mean of what its codes leave. */
static void choose_lows(const qs_gguf_grid *g, const float *x, const float *weight, const extent *of, const float *dmin,
                        const float *s, float *m, float *low)
{
    sums t;
    add_sums(g, x, g->sub, weight, s, m, &t);
    for (int r = 0; r < R; r++) {
        float wished = (s[r] * t.q[r] - of->x[r]) / of->weights;
        low[r] = dmin[r] > 0 ? nearest(clamp(wished / dmin[r], 0, level_most(g))) : 0;
        m[r] = dmin[r] * low[r];
    }
}

void qs_gguf_grid_sub(const qs_gguf_grid *g, const float *x, const float *weight, bool moved, int index,
                      qs_gguf_scales *scales, float *s, float *m)
{
    float best[R], error[R], tried_s[R], tried_m[R], level[R], low[R] = {0};
    float *wished_s = scales->scale[index], *wished_m = scales->minimum[index];
    extent of;
    if (g->sub == g->unit) {
        memcpy(s, scales->d, sizeof best);
        memcpy(m, scales->dmin, sizeof best);
        return;
    }
    float least = level_least(g), most = level_most(g);
    measure(x, g->sub, weight, &of);
    if (moved) improve(g, x, g->sub, weight, &of, wished_s, wished_m);
    for (int r = 0; r < R; r++) {
        best[r] = INFINITY;
        s[r] = m[r] = 0;
        scales->level[index][r] = scales->low[index][r] = 0;
    }
    for (int step = -1; step <= 1; step++) {
        for (int r = 0; r < R; r++) {
            float middle = scales->d[r] != 0 ? nearest(clamp(wished_s[r] / scales->d[r], least, most)) : 0;
            level[r] = clamp(middle + (float)step, least, most);
            tried_s[r] = scales->d[r] * level[r];
            tried_m[r] = wished_m[r];
        }
        if (g->affine) choose_lows(g, x, weight, &of, scales->dmin, tried_s, tried_m, low);
        add_errors(g, x, g->sub, weight, tried_s, tried_m, error);
        for (int r = 0; r < R; r++) {
            if (!(error[r] < best[r])) continue;
            best[r] = error[r];
            s[r] = tried_s[r];
            m[r] = tried_m[r];
            scales->level[index][r] = (int16_t)level[r];
            scales->low[index][r] = (int16_t)low[r];
        }
    }
}

/* ---- codes ---- */

void qs_gguf_grid_code(const qs_gguf_grid *g, float *restrict x, int64_t n, const float *restrict s,
                       const float *restrict m, const float *u, int64_t ldu, uint8_t *restrict codes)
{
    float low = lowest(g), inverse[R], q[R], code[R];
    invert(s, inverse);
    for (int64_t i = 0; i < n; i++) {
        float *at = x + i * R;
        find_nearest(g, at, m, inverse, q);
        if (g->values != NULL) climb(g, at, inverse, true, code);
        else
            for (int r = 0; r < R; r++) code[r] = q[r] - low;
        for (int r = 0; r < R; r++) {
            codes[i * R + r] = (uint8_t)(int)code[r];
            at[r] -= s[r] * q[r] - m[r];
        }
        if (u == NULL) continue;
        for (int r = 0; r < R; r++) at[r] /= u[i * ldu + i];
        for (int64_t j = i + 1; j < n; j++)
            for (int r = 0; r < R; r++) x[j * R + r] -= u[i * ldu + j] * at[r];
    }
}
