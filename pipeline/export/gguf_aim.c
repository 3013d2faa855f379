#include "export/gguf_aim.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "model/dequant.h"
#include "quant/loss.h"
#include "quant/order.h"

enum { R = QS_TILE_ROWS, BLOCK = 16 /* columns whose errors meet directly */, NAME_BYTES = 48 };

/* Scratch of one thread. */
typedef struct lane {
    float *x;       /* [n_in, 64] */
    float *row;     /* [n_in] */
    float *product; /* [QS_LOSS_STRIP, 64] */
    uint8_t *codes; /* [64, unit] of a block, natural order */
    qs_gguf_scales *visited, *scales; /* of subs as they are visited; in natural order */
} lane;

/* Of one tile: squared errors and weights in the norm of H, or without. */
typedef struct loss {
    double error, weight;
} loss;

struct qs_gguf_aim {
    const qs_model *model;
    const qs_gram_source *grams;
    double damping;
    qs_backend *backend;
    qs_workspace *workspace;
    const qs_tile_ops *ops;
    lane *lanes; /* [n_threads] */
    int n_threads;
    qs_factor_cache *factors[QS_N_SITES]; /* of the first site with that width */
    int32_t *order;                       /* [n_in] of the site that is loaded */
    float *column_weight;                 /* [n_in] in that order */
    const float *u, *h;                   /* [n_in, n_in] of it; u NULL = rounding, h NULL = no second moments */
    int64_t layer;                        /* the site's; -1 = none */
    qs_site site;
    int sub, unit; /* neighbours that the order keeps together */
    loss *losses; /* [tiles of the tallest matrix, or of as many rows of a table as there may be] */
    qs_gguf_aimed facts;
};

/* A matrix on its way. */
typedef struct job {
    const qs_gguf_aim *aim;
    const qs_gguf_kind *kind;
    const float *weights;
    int64_t n_out, n_in;
    uint8_t *blocks;
} job;

/* ---- what a site's matrices share ---- */

/* Blocks by their largest diag(H), in each its subs likewise, in a sub its columns. */
static qs_err make_order(const qs_gguf_grid *grid, const float *diag, int64_t n_in, int32_t *out)
{
    int32_t *by_sub = NULL;
    bool *placed = NULL;
    int64_t at = 0;
    qs_err err;
    QS_TRY(QS_NEW(by_sub, n_in, "order of columns"));
    QS_TRY(QS_NEW(placed, n_in / grid->unit, "order of blocks"));
    QS_TRY(qs_order_group_aware(diag, n_in, grid->sub, by_sub));
    for (int64_t i = 0; i < n_in; i++) {
        int64_t block = by_sub[i] / grid->unit;
        if (placed[block]) continue;
        placed[block] = true;
        for (int64_t j = i; j < n_in; j++)
            if (by_sub[j] / grid->unit == block) out[at++] = by_sub[j];
    }
out:
    qs_mem_free(by_sub);
    qs_mem_free(placed);
    return err;
}

/* Rows of n_in weights in their order, without second moments. */
static void leave_site(qs_gguf_aim *aim, int64_t n_in)
{
    aim->layer = -1;
    aim->u = aim->h = NULL;
    for (int64_t i = 0; i < n_in; i++) aim->order[i] = (int32_t)i;
}

/* Matrices of one site may have types of other blocks, which want another order. */
static qs_err load_site(qs_gguf_aim *aim, const qs_gguf_grid *grid, int64_t layer, qs_site site, int64_t n_in)
{
    const qs_model_config *config = qs_model_get_config(aim->model);
    const float *gram;
    char name[NAME_BYTES];
    int64_t n_tokens;
    double damping;
    int slot = 0;
    qs_err err = QS_OK;
    bool loaded = aim->layer == layer && aim->site == site;
    if (loaded && aim->sub == grid->sub && aim->unit == grid->unit) return QS_OK;
    leave_site(aim, n_in);
    if (aim->grams == NULL) goto done;
    while (qs_site_width(config, (qs_site)slot) != n_in) slot++;
    (void)snprintf(name, sizeof name, "layers.%" PRId64 ".%s", layer, qs_site_name(site));
    if (!loaded) QS_TRY(aim->grams->get(aim->grams->context, layer, site, &gram, &n_tokens));
    if (loaded)
        qs_factor_cache_forget(aim->factors[slot]); /* the same inputs in another order */
    else if (aim->factors[slot] == NULL)
        QS_TRY(qs_factor_cache_create(&aim->factors[slot], aim->workspace, gram, n_in, n_tokens, name));
    else
        QS_TRY(qs_factor_cache_load(aim->factors[slot], gram, n_tokens, name));
    qs_factor_cache *factors = aim->factors[slot];
    const float *diag = qs_factor_diag(factors);
    QS_TRY(make_order(grid, diag, n_in, aim->order));
    QS_TRY(qs_factor_get(factors, aim->order, aim->damping, &aim->u, &damping));
    aim->h = qs_factor_h(factors);
    float shift = (float)(damping * qs_factor_diag_mean(factors));
    for (int64_t i = 0; i < n_in; i++) aim->column_weight[i] = diag[aim->order[i]] + shift;
done:
    aim->layer = layer;
    aim->site = site;
    aim->sub = grid->sub;
    aim->unit = grid->unit;
out:
    return err;
}

/* ---- one tile ---- */

/* Columns a .. a + unit of the order, live in l->x: scales and codes of a block; errors replace columns. */
static void solve_block(const job *j, const lane *l, int64_t a)
{
    const qs_gguf_aim *aim = j->aim;
    const qs_gguf_grid *grid = &j->kind->grid;
    const float *u = aim->u, *weight = u != NULL ? aim->column_weight : NULL;
    int64_t n_in = j->n_in, first = aim->order[a] / grid->unit * grid->unit;
    float *x = l->x, s[R], m[R];
    uint8_t codes[BLOCK * R];
    if (u != NULL && a > 0) aim->ops->update(x + a * R, grid->unit, x, a, u + a, n_in);
    qs_gguf_grid_block(grid, x + a * R, weight != NULL ? weight + a : NULL, l->visited);
    memcpy(l->scales->d, l->visited->d, sizeof l->scales->d);
    memcpy(l->scales->dmin, l->visited->dmin, sizeof l->scales->dmin);
    for (int64_t b = a; b < a + grid->unit; b += grid->sub) {
        int visit = (int)((b - a) / grid->sub), sub = (int)((aim->order[b] - first) / grid->sub);
        if (u != NULL && b > a) aim->ops->update(x + b * R, grid->sub, x + a * R, b - a, u + a * n_in + b, n_in);
        qs_gguf_grid_sub(grid, x + b * R, weight != NULL ? weight + b : NULL, u != NULL, visit, l->visited, s, m);
        memcpy(l->scales->level[sub], l->visited->level[visit], sizeof l->scales->level[sub]);
        memcpy(l->scales->low[sub], l->visited->low[visit], sizeof l->scales->low[sub]);
        for (int64_t c = b; c < b + grid->sub; c += BLOCK) {
            if (u != NULL && c > b) aim->ops->update(x + c * R, BLOCK, x + b * R, c - b, u + b * n_in + c, n_in);
            qs_gguf_grid_code(grid, x + c * R, BLOCK, s, m, u != NULL ? u + c * n_in + c : NULL, n_in, codes);
            for (int64_t i = 0; i < BLOCK; i++) {
                uint8_t *column = l->codes + aim->order[c + i] - first;
                for (int64_t r = 0; r < R; r++) column[r * grid->unit] = codes[i * R + r];
            }
        }
    }
}

/* The sum of squares of l->x, natural order, in the norm of H; in f64, rows and columns in order. */
static double measure(const qs_gguf_aim *aim, const lane *l, int64_t n_in)
{
    double sum = 0;
    if (aim->h == NULL) {
        for (int64_t i = 0; i < n_in * R; i++) sum += (double)l->x[i] * (double)l->x[i];
        return sum;
    }
    for (int64_t first = 0; first < n_in; first += QS_LOSS_STRIP) {
        int64_t width = n_in - first < QS_LOSS_STRIP ? n_in - first : QS_LOSS_STRIP;
        qs_loss_strip(aim->ops, aim->h, n_in, l->x, first, width, l->product);
        for (int64_t i = 0; i < width * R; i++) sum -= (double)l->product[i] * (double)l->x[first * R + i];
    }
    return sum;
}

static void solve_tiles(void *context, int64_t first, int64_t last, int thread)
{
    const job *j = context;
    const lane *l = &j->aim->lanes[thread];
    int64_t unit = j->kind->grid.unit, n_in = j->n_in;
    size_t row_bytes = qs_storage_bytes(j->kind->storage, n_in);
    size_t block_bytes = qs_storage_bytes(j->kind->storage, unit);
    for (int64_t tile = first; tile < last; tile++) {
        int64_t n_rows = j->n_out - tile * R < R ? j->n_out - tile * R : R;
        uint8_t *rows = j->blocks + (size_t)(tile * R) * row_bytes;
        qs_tile_gather(j->weights, j->n_out, n_in, tile, j->aim->order, 0, n_in, l->x, R);
        for (int64_t a = 0; a < n_in; a += unit) {
            solve_block(j, l, a);
            size_t at = (size_t)(j->aim->order[a] / unit) * block_bytes;
            for (int64_t r = 0; r < n_rows; r++)
                qs_gguf_put_block(j->kind, l->scales, (int)r, l->codes + r * unit, rows + (size_t)r * row_bytes + at);
        }
        /* What the file says, against the weights. */
        qs_tile_gather(j->weights, j->n_out, n_in, tile, NULL, 0, n_in, l->x, R);
        j->aim->losses[tile].weight = measure(j->aim, l, n_in);
        for (int64_t r = 0; r < n_rows; r++) {
            qs_storage_to_f32(j->kind->storage, l->row, rows + (size_t)r * row_bytes, n_in);
            for (int64_t i = 0; i < n_in; i++) l->x[i * R + r] -= l->row[i];
        }
        j->aim->losses[tile].error = measure(j->aim, l, n_in);
    }
}

qs_err qs_gguf_aim_matrix(qs_gguf_aim *aim, const qs_gguf_kind *kind, int64_t layer, qs_role role,
                          const float *weights, uint8_t *blocks)
{
    qs_tensor_info info = qs_model_info(aim->model, role, layer);
    job j = {.aim = aim, .kind = kind, .weights = weights, .blocks = blocks};
    j.n_out = info.n_out;
    j.n_in = info.n_in;
    qs_team *team = qs_workspace_team(aim->workspace);
    int64_t n_tiles = (info.n_out + R - 1) / R;
    int64_t bad = qs_workspace_find_nonfinite(team, weights, info.n_out * info.n_in);
    loss sum = {0, 0};
    if (bad >= 0)
        return qs_fail(QS_E_NUMERIC, "aim layers.%" PRId64 ".%s: weight %" PRId64 " is not finite", layer,
                       qs_role_name(role), bad);
    qs_err err = load_site(aim, &kind->grid, layer, qs_role_site(role), info.n_in);
    if (err != QS_OK) return err;
    qs_team_run(team, n_tiles, 1, solve_tiles, &j);
    for (int64_t tile = 0; tile < n_tiles; tile++) {
        sum.error += aim->losses[tile].error;
        sum.weight += aim->losses[tile].weight;
    }
    qs_gguf_aimed *f = &aim->facts;
    f->loss += (sum.weight > 0 ? sum.error / sum.weight : 0);
    f->n_matrices++;
    f->n_fallbacks += aim->grams != NULL && aim->u == NULL;
    return QS_OK;
}

qs_err qs_gguf_aim_rows(qs_gguf_aim *aim, const qs_gguf_kind *kind, const char *name, int64_t n_rows, int64_t n_in,
                        const float *weights, uint8_t *blocks)
{
    job j = {.aim = aim, .kind = kind, .weights = weights, .blocks = blocks, .n_out = n_rows, .n_in = n_in};
    qs_team *team = qs_workspace_team(aim->workspace);
    int64_t bad = qs_workspace_find_nonfinite(team, weights, n_rows * n_in);
    if (bad >= 0) return qs_fail(QS_E_NUMERIC, "aim %s: weight %" PRId64 " is not finite", name, bad);
    leave_site(aim, n_in);
    qs_team_run(team, (n_rows + R - 1) / R, 1, solve_tiles, &j);
    return QS_OK;
}

qs_gguf_aimed qs_gguf_aim_facts(const qs_gguf_aim *aim)
{
    qs_gguf_aimed facts = aim->facts;
    if (facts.n_matrices > 0) facts.loss /= (double)facts.n_matrices;
    return facts;
}

/* ---- memory ---- */

static qs_err make_lanes(qs_gguf_aim *aim, int64_t widest)
{
    qs_err err;
    QS_TRY(QS_NEW(aim->lanes, aim->n_threads, "lanes"));
    for (int t = 0; t < aim->n_threads; t++) {
        lane *l = &aim->lanes[t];
        QS_TRY(QS_NEW(l->x, widest * R, "columns of a tile"));
        QS_TRY(QS_NEW(l->row, widest, "a row"));
        QS_TRY(QS_NEW(l->product, QS_LOSS_STRIP * R, "a product"));
        QS_TRY(QS_NEW(l->codes, QS_GGUF_UNIT_MAX * R, "codes of a block"));
        QS_TRY(QS_NEW(l->visited, 1, "scales of a block"));
        QS_TRY(QS_NEW(l->scales, 1, "scales of a block"));
    }
out:
    return err;
}

qs_err qs_gguf_aim_create(qs_gguf_aim **out, const qs_model *model, const qs_gram_source *grams, double damping,
                          int n_threads)
{
    int64_t widest = 0, tallest = QS_GGUF_AIM_ROWS_MAX;
    qs_gguf_aim *aim = NULL;
    qs_err err;
    QS_TRY(QS_NEW(aim, 1, "solver"));
    aim->model = model;
    aim->grams = grams;
    aim->damping = damping;
    aim->ops = qs_tile_best();
    aim->layer = -1;
    QS_TRY(qs_backend_create(&aim->backend, "cpu", 0, n_threads));
    QS_TRY(qs_workspace_create(&aim->workspace, aim->backend));
    aim->n_threads = qs_team_n_threads(qs_workspace_team(aim->workspace));
    for (qs_role role = 0; role < QS_N_LINEARS; role++) {
        qs_tensor_info info = qs_model_info(model, role, 0);
        widest = info.n_in > widest ? info.n_in : widest;
        tallest = info.n_out > tallest ? info.n_out : tallest;
    }
    QS_TRY(make_lanes(aim, widest));
    QS_TRY(QS_NEW(aim->order, widest, "order of columns"));
    QS_TRY(QS_NEW(aim->column_weight, widest, "weights of columns"));
    QS_TRY(QS_NEW(aim->losses, (tallest + R - 1) / R, "losses"));
    *out = aim;
    aim = NULL;
out:
    qs_gguf_aim_destroy(aim);
    return err;
}

void qs_gguf_aim_destroy(qs_gguf_aim *aim)
{
    if (aim == NULL) return;
    for (int t = 0; aim->lanes != NULL && t < aim->n_threads; t++) {
        lane *l = &aim->lanes[t];
        qs_mem_free(l->x);
        qs_mem_free(l->row);
        qs_mem_free(l->product);
        qs_mem_free(l->codes);
        qs_mem_free(l->visited);
        qs_mem_free(l->scales);
    }
    qs_mem_free(aim->lanes);
    for (int site = 0; site < QS_N_SITES; site++) qs_factor_cache_destroy(aim->factors[site]);
    qs_mem_free(aim->order);
    qs_mem_free(aim->column_weight);
    qs_mem_free(aim->losses);
    qs_workspace_destroy(aim->workspace);
    qs_backend_destroy(aim->backend);
    qs_mem_free(aim);
}
