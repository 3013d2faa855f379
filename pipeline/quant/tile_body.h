/* The tile kernels written once over a vector type. The including file defines VEC, LANES, COLUMNS (of x held
 * in registers by update), VECTORS (per column there) and the operations load, store, set1, add, sub, mul,
 * divide, vmin, vmax, fnmadd(a, b, c) = c - a * b, fmadd, nearest, select_less(a, b, x, y) = a < b ? x : y,
 * round_f16 and store_u8. */

enum { STEPS_AT_ONCE = 5 };
_Static_assert(QS_SCALE_STEPS % STEPS_AT_ONCE == 0, "the search takes whole batches of steps");

/* A part of -U that stays in the first cache, beside errors of NEAR_ROWS columns, while strips take them up: in U
 * itself rows lie KiB apart, where they push each other out. Its sign is turned, since compilers make calls of
 * memcpy from plain copies, which take longer for so few. */
enum { NEAR_ROWS = 64, NEAR_COLUMNS = 64 };

static inline void bring_near(float *near, int64_t n_columns, int64_t n_rows, const float *u, int64_t ldu)
{
    for (int64_t i = 0; i < n_rows; i++, near += NEAR_COLUMNS, u += ldu) {
        int64_t j = 0;
        for (; j + LANES <= n_columns; j += LANES) store(near + j, sub(set1(0), load(u + j)));
        for (; j < n_columns; j++) near[j] = -u[j];
    }
}

/* x += near^T e on a part of the tile, VECTORS * LANES rows wide; n_columns is a constant after inlining, so that
 * acc lives in registers. */
static inline __attribute__((always_inline)) void
update_strip(float *x, const float *e, int64_t k, const float *near, const int n_columns)
{
    VEC acc[COLUMNS][VECTORS];
#pragma GCC unroll 8
    for (int j = 0; j < n_columns; j++)
#pragma GCC unroll 8
        for (int v = 0; v < VECTORS; v++) acc[j][v] = load(x + j * QS_TILE_ROWS + v * LANES);
    for (int64_t i = 0; i < k; i++, e += QS_TILE_ROWS, near += NEAR_COLUMNS) {
        VEC row[VECTORS];
#pragma GCC unroll 8
        for (int v = 0; v < VECTORS; v++) row[v] = load(e + v * LANES);
#pragma GCC unroll 8
        for (int j = 0; j < n_columns; j++) {
            VEC factor = set1(near[j]);
#pragma GCC unroll 8
            for (int v = 0; v < VECTORS; v++) acc[j][v] = fmadd(factor, row[v], acc[j][v]);
        }
    }
#pragma GCC unroll 8
    for (int j = 0; j < n_columns; j++)
#pragma GCC unroll 8
        for (int v = 0; v < VECTORS; v++) store(x + j * QS_TILE_ROWS + v * LANES, acc[j][v]);
}

static void update_near(float *x, int64_t n, const float *e, int64_t k, const float *near)
{
    for (int64_t part = 0; part < QS_TILE_ROWS; part += VECTORS * LANES) {
        float *to = x + part;
        int64_t j = 0;
        for (; j + COLUMNS <= n; j += COLUMNS)
            update_strip(to + j * QS_TILE_ROWS, e + part, k, near + j, COLUMNS);
        for (; j + 4 <= n; j += 4) update_strip(to + j * QS_TILE_ROWS, e + part, k, near + j, 4);
        for (; j + 2 <= n; j += 2) update_strip(to + j * QS_TILE_ROWS, e + part, k, near + j, 2);
        for (; j < n; j++) update_strip(to + j * QS_TILE_ROWS, e + part, k, near + j, 1);
    }
}

static void update(float *x, int64_t n, const float *e, int64_t k, const float *u, int64_t ldu)
{
    float near[NEAR_ROWS * NEAR_COLUMNS];
    for (int64_t column = 0; column < n; column += NEAR_COLUMNS)
        for (int64_t row = 0; row < k; row += NEAR_ROWS) {
            int64_t n_columns = n - column < NEAR_COLUMNS ? n - column : NEAR_COLUMNS,
                    n_rows = k - row < NEAR_ROWS ? k - row : NEAR_ROWS;
            bring_near(near, n_columns, n_rows, u + row * ldu + column, ldu);
            update_near(x + column * QS_TILE_ROWS, n_columns, e + row * QS_TILE_ROWS, n_rows, near);
        }
}

static inline VEC round_scale(VEC scale)
{
    scale = round_f16(vmin(scale, set1(QS_SCALE_MAX)));
    return vmax(scale, set1(QS_SCALE_MIN));
}

/* The candidates of one row vector: scale, reciprocal and moved bounds of STEPS_AT_ONCE steps. */
typedef struct candidates {
    VEC scale[STEPS_AT_ONCE], inverse[STEPS_AT_ONCE], low[STEPS_AT_ONCE], high[STEPS_AT_ONCE],
        zero[STEPS_AT_ONCE];
} candidates;

static inline VEC zero_point(VEC low, VEC scale, VEC maxq)
{
    return nearest(vmin(vmax(divide(sub(set1(0), low), scale), set1(0)), maxq));
}

static inline void fill_candidates(candidates *c, int first_step, VEC base, VEC low,
                                   const qs_scale_rule *rule)
{
    VEC maxq = set1((float)((1 << rule->bits) - 1));
    for (int s = 0; s < STEPS_AT_ONCE; s++) {
        VEC factor = set1(qs_scale_factor(first_step + s));
        c->scale[s] = round_scale(mul(factor, base));
        c->inverse[s] = divide(set1(1), c->scale[s]);
        c->zero[s] = rule->sym ? set1((float)(1 << (rule->bits - 1)))
                               : zero_point(mul(factor, low), c->scale[s], maxq);
        c->low[s] = sub(set1(QS_SCALE_MAGIC), c->zero[s]);
        c->high[s] = add(c->low[s], maxq);
    }
}

static inline __attribute__((always_inline)) void search_lanes(const qs_scale_rule *rule, const float *x,
                                                               int64_t n, const float *column_weight,
                                                               VEC base, VEC low, float *scale, float *zero)
{
    VEC best = set1(__builtin_inff()), best_scale = set1(1), best_zero = set1(0);
    for (int step = 0; step < QS_SCALE_STEPS; step += STEPS_AT_ONCE) {
        candidates c;
        fill_candidates(&c, step, base, low, rule);
        VEC error[STEPS_AT_ONCE];
#pragma GCC unroll 8
        for (int s = 0; s < STEPS_AT_ONCE; s++) error[s] = set1(0);
        for (int64_t i = 0; i < n; i++) {
            VEC w = load(x + i * QS_TILE_ROWS),
                weight = set1(column_weight != NULL ? column_weight[i] : 1.0f);
#pragma GCC unroll 8
            for (int s = 0; s < STEPS_AT_ONCE; s++) {
                VEC q = sub(vmin(vmax(fmadd(w, c.inverse[s], set1(QS_SCALE_MAGIC)), c.low[s]), c.high[s]),
                            set1(QS_SCALE_MAGIC));
                VEC e = fnmadd(c.scale[s], q, w);
                error[s] = fmadd(mul(e, weight), e, error[s]);
            }
        }
        for (int s = 0; s < STEPS_AT_ONCE; s++) {
            best_scale = select_less(error[s], best, c.scale[s], best_scale);
            best_zero = select_less(error[s], best, c.zero[s], best_zero);
            best = select_less(error[s], best, error[s], best);
        }
    }
    store(scale, best_scale);
    store(zero, best_zero);
}

static void scales(const qs_scale_rule *rule, const float *x, int64_t n, const float *column_weight,
                   float *scale, float *zero)
{
    float maxq = (float)((1 << rule->bits) - 1);
    for (int64_t part = 0; part < QS_TILE_ROWS; part += LANES) {
        VEC least = set1(0), most = set1(0);
        for (int64_t i = 0; i < n; i++) {
            VEC w = load(x + i * QS_TILE_ROWS + part);
            least = vmin(least, w);
            most = vmax(most, w);
        }
        if (rule->sym) {
            most = vmax(most, sub(set1(0), least));
            least = sub(set1(0), most);
        }
        VEC low = select_less(least, most, least, set1(-1)); /* they are equal only when both are 0 */
        VEC high = select_less(least, most, most, set1(1));
        VEC base = divide(sub(high, low), set1(maxq));
        if (rule->search) {
            search_lanes(rule, x + part, n, column_weight, base, low, scale + part, zero + part);
            continue;
        }
        VEC rounded = round_scale(base);
        store(scale + part, rounded);
        store(zero + part, rule->sym ? set1((maxq + 1) / 2) : zero_point(low, rounded, set1(maxq)));
    }
}

static void errors(const float *x, int64_t n, const float *column_weight, int bits, const float *scale, float *error)
{
    float middle = (float)(1 << (bits - 1));
    VEC magic = set1(QS_SCALE_MAGIC), low = set1(QS_SCALE_MAGIC - middle), high = set1(QS_SCALE_MAGIC + middle - 1);
    for (int64_t part = 0; part < QS_TILE_ROWS; part += LANES) {
        VEC s = load(scale + part), inverse = divide(set1(1), s), sum = set1(0);
        for (int64_t i = 0; i < n; i++) {
            VEC w = load(x + i * QS_TILE_ROWS + part), weight = set1(column_weight != NULL ? column_weight[i] : 1.0f);
            VEC q = sub(vmin(vmax(fmadd(w, inverse, magic), low), high), magic);
            VEC e = fnmadd(s, q, w);
            sum = fmadd(mul(e, weight), e, sum);
        }
        store(error + part, sum);
    }
}

static void code(float *x, int64_t n, int bits, const float *scale, const float *zero, const int32_t *group,
                 const float *u, int64_t ldu, uint8_t *codes)
{
    VEC maxq = set1((float)((1 << bits) - 1));
    for (int64_t part = 0; part < QS_TILE_ROWS; part += LANES) {
        for (int64_t i = 0; i < n; i++) {
            int64_t at = (group != NULL ? group[i] : 0) * QS_TILE_ROWS + part;
            VEC s = load(scale + at), z = load(zero + at), w = load(x + i * QS_TILE_ROWS + part);
            VEC q = nearest(vmin(vmax(divide(w, s), sub(set1(0), z)), sub(maxq, z)));
            store_u8(codes + i * QS_TILE_ROWS + part, add(q, z));
            if (u == NULL) continue;
            VEC e = divide(fnmadd(s, q, w), set1(u[i * ldu + i]));
            store(x + i * QS_TILE_ROWS + part, e);
            for (int64_t j = i + 1; j < n; j++) {
                float *later = x + j * QS_TILE_ROWS + part;
                store(later, fnmadd(set1(u[i * ldu + j]), e, load(later)));
            }
        }
    }
}
