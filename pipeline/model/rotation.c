#include "model/rotation.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "base/team.h"
#include "base/mem.h"
#include "base/rng.h"

enum { ODD_MAX = 2048, LANES = QS_ROTATION_LANES };

struct qs_rotation {
    int64_t width, n_odd, n_two; /* width = n_two * n_odd; element a * n_odd + b is (a, b) */
    double *odd;                 /* [n_odd, n_odd] orthogonal */
    double *sign;                /* [width] */
    double unit;                 /* of the Hadamard matrix: 1 / sqrt(n_two) */
};

/* Rows of random numbers made orthonormal one after the other; the second sweep takes out what rounding left.
 * Uniform numbers do: normal ones would need logarithms, which no standard rounds alike everywhere. */
static void make_orthogonal(double *o, int64_t n, uint64_t seed)
{
    for (int64_t i = 0; i < n * n; i++) o[i] = 2 * qs_rng_unit(seed, (uint64_t)i) - 1;
    for (int64_t i = 0; i < n; i++) {
        double *row = o + i * n, square = 0;
        for (int64_t k = 0; k < 2 * i; k++) {
            const double *other = o + k % i * n;
            double dot = 0;
            for (int64_t j = 0; j < n; j++) dot += row[j] * other[j];
            for (int64_t j = 0; j < n; j++) row[j] -= dot * other[j];
        }
        for (int64_t j = 0; j < n; j++) square += row[j] * row[j];
        for (int64_t j = 0; j < n; j++) row[j] /= sqrt(square);
    }
}

qs_err qs_rotation_create(qs_rotation **out, int64_t width, uint64_t seed)
{
    qs_rotation *r = NULL;
    qs_err err;
    *out = NULL;
    QS_TRY(QS_NEW(r, 1, "rotation"));
    r->width = r->n_odd = width;
    for (r->n_two = 1; r->n_odd % 2 == 0; r->n_odd /= 2) r->n_two *= 2;
    if (r->n_odd > ODD_MAX) {
        err = qs_fail(QS_E_UNSUPPORTED,
                      "rotate a residual stream %lld wide: its odd part %lld is over %d; use rotate=0",
                      (long long)width, (long long)r->n_odd, ODD_MAX);
        goto out;
    }
    r->unit = 1 / sqrt((double)r->n_two);
    QS_TRY(QS_NEW(r->odd, r->n_odd * r->n_odd, "rotation"));
    QS_TRY(QS_NEW(r->sign, width, "rotation"));
    make_orthogonal(r->odd, r->n_odd, seed);
    for (int64_t i = 0; i < width; i++) r->sign[i] = qs_rng_below(seed + 1, (uint64_t)i, 2) == 0 ? -1 : 1;
    *out = r;
    r = NULL;
out:
    qs_rotation_destroy(r);
    return err;
}

void qs_rotation_destroy(qs_rotation *rotation)
{
    if (rotation == NULL) return;
    qs_mem_free(rotation->odd);
    qs_mem_free(rotation->sign);
    qs_mem_free(rotation);
}

int64_t qs_rotation_width(const qs_rotation *rotation) { return rotation->width; }

qs_digest qs_rotation_digest(const qs_rotation *rotation)
{
    qs_digest odd = qs_hash(rotation->odd, (size_t)(rotation->n_odd * rotation->n_odd) * sizeof *rotation->odd);
    qs_digest sign = qs_hash(rotation->sign, (size_t)rotation->width * sizeof *rotation->sign);
    const uint64_t parts[] = {(uint64_t)rotation->width, odd.low, odd.high, sign.low, sign.high};
    return qs_hash(parts, sizeof parts);
}

/* ---- lanes ---- */

static void change_signs(const qs_rotation *r, double *x, int64_t n_lanes)
{
    for (int64_t i = 0; i < r->width; i++)
        for (int64_t l = 0; l < n_lanes; l++) x[i * n_lanes + l] *= r->sign[i];
}

/* Butterflies over the first index; the halves of each are contiguous. */
static void hadamard(const qs_rotation *r, double *x, int64_t n_lanes)
{
    for (int64_t step = 1; step < r->n_two; step *= 2) {
        int64_t run = step * r->n_odd * n_lanes;
        for (int64_t first = 0; first < r->width * n_lanes; first += 2 * run) {
            double *low = x + first, *high = low + run;
#pragma omp simd
            for (int64_t i = 0; i < run; i++) {
                double l = low[i], h = high[i];
                low[i] = l + h;
                high[i] = l - h;
            }
        }
    }
}

/* (a, b) becomes the sum over b of (a, b) O[b, c], or of (a, b) O[c, b]. */
static void mix_odd(const qs_rotation *r, double *x, int64_t n_lanes, bool transposed, double *scratch)
{
    const int64_t n = r->n_odd, along = transposed ? n : 1, across = transposed ? 1 : n;
    memset(scratch, 0, (size_t)(r->width * n_lanes) * sizeof *scratch);
    for (int64_t a = 0; a < r->n_two; a++)
        for (int64_t c = 0; c < n; c++) {
            double *to = scratch + (a * n + c) * n_lanes;
            for (int64_t b = 0; b < n; b++) {
                const double *from = x + (a * n + b) * n_lanes, factor = r->odd[b * across + c * along];
#pragma omp simd
                for (int64_t l = 0; l < n_lanes; l++) to[l] += from[l] * factor;
            }
        }
    for (int64_t i = 0; i < r->width * n_lanes; i++) x[i] = scratch[i] * r->unit;
}

void qs_rotation_apply(const qs_rotation *rotation, double *x, int64_t n_lanes, double *scratch)
{
    change_signs(rotation, x, n_lanes);
    hadamard(rotation, x, n_lanes);
    mix_odd(rotation, x, n_lanes, false, scratch);
}

void qs_rotation_undo(const qs_rotation *rotation, double *x, int64_t n_lanes, double *scratch)
{
    mix_odd(rotation, x, n_lanes, true, scratch);
    hadamard(rotation, x, n_lanes);
    change_signs(rotation, x, n_lanes);
}

/* ---- matrices ---- */

/* Vectors of a matrix in f32 on their way through the lanes: element i of vector v lies at v * vector + i *
 * element. */
typedef struct turning {
    const qs_rotation *rotation;
    float *data;
    int64_t n, vector, element;
    const float *before, *after; /* factors of the elements; NULL = ones */
    bool back;
} turning;

static void turn_tile(const turning *t, int64_t first, int64_t n_lanes, double *x)
{
    const int64_t width = t->rotation->width;
    float *data = t->data + first * t->vector;
    for (int64_t i = 0; i < width; i++)
        for (int64_t l = 0; l < n_lanes; l++)
            x[i * n_lanes + l] =
                (double)data[l * t->vector + i * t->element] * (t->before != NULL ? (double)t->before[i] : 1);
    (t->back ? qs_rotation_undo : qs_rotation_apply)(t->rotation, x, n_lanes, x + width * n_lanes);
    for (int64_t i = 0; i < width; i++)
        for (int64_t l = 0; l < n_lanes; l++)
            data[l * t->vector + i * t->element] =
                (float)(x[i * n_lanes + l] * (t->after != NULL ? (double)t->after[i] : 1));
}

/* A strip of tiles with scratch of its own, whoever works on it. */
typedef struct strips {
    const turning *turning;
    double *scratch;
    int64_t n_parts, n_tiles, tile_floats;
} strips;

static void turn_strips(void *context, int64_t first, int64_t last, int thread)
{
    (void)thread;
    const strips *work = context;
    const turning *t = work->turning;
    for (int64_t part = first; part < last; part++)
        for (int64_t tile = part; tile < work->n_tiles; tile += work->n_parts) {
            int64_t row = tile * LANES, n = t->n - row < LANES ? t->n - row : LANES;
            turn_tile(t, row, n, work->scratch + part * work->tile_floats);
        }
}

static qs_err turn(const turning *t)
{
    const int64_t n_lanes = t->n < LANES ? t->n : LANES, n_tiles = (t->n + LANES - 1) / LANES;
    const int64_t tile_floats = 2 * t->rotation->width * n_lanes;
    const int64_t n_parts = n_tiles < 16 ? n_tiles : 16;
    double *scratch = NULL;
    qs_err err = QS_NEW(scratch, n_parts * tile_floats, "rows to be rotated");
    if (err != QS_OK) return err;
    qs_team_run_shared(n_parts, 1, turn_strips, &(strips){t, scratch, n_parts, n_tiles, tile_floats});
    qs_mem_free(scratch);
    return QS_OK;
}

qs_err qs_rotation_turn_rows(const qs_rotation *rotation, const float *weights, float *rows, int64_t n_rows)
{
    return turn(&(turning){.rotation = rotation, .data = rows, .n = n_rows, .vector = rotation->width, .element = 1,
                           .before = weights});
}

qs_err qs_rotation_turn_columns(const qs_rotation *rotation, float *matrix, int64_t n_columns)
{
    return turn(&(turning){.rotation = rotation, .data = matrix, .n = n_columns, .vector = 1, .element = n_columns});
}

qs_err qs_rotation_turn_rows_back(const qs_rotation *rotation, const float *weights, float *rows, int64_t n_rows)
{
    return turn(&(turning){.rotation = rotation, .data = rows, .n = n_rows, .vector = rotation->width, .element = 1,
                           .after = weights, .back = true});
}
