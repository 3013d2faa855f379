/* What quantising costs, for the plan that is printed before the work. */
#include <string.h>

#include "artifact/artifact.h"
#include "base/clock.h"
#include "base/mem.h"
#include "quant/awq_block.h"
#include "quant/bit_budget.h"
#include "quant/block_loss.h"
#include "quant/loss.h"
#include "quant/quant_size.h"
#include "quant/sensitivity.h"
#include "quant/solver.h"
#include "quant/tile.h"

static const int64_t exl2_batch_bytes = 512 * 1000 * 1000; /* as quant/exl2.c takes them */

/* Multiply-adds that take as long, per weight, on the machine this was measured on: the scale search, and
 * gathering, coding, packing and writing. */
static const double search_per_weight = 320, other_per_weight = 400, awq_per_weight = 1000,
                    exl2_search_per_weight = 400,
                    awq_screened_rows = 40 * 240; /* candidates, and rows of which they are rated first */
static const int64_t awq_candidates = 40;

/* Factors that a site needs, one per order and damping: at once, or with those that AWQ's scaled inputs need one after
 * the other. */
static int64_t n_factors(const qs_spec *specs, int64_t n_specs, bool at_once)
{
    int64_t n = 0;
    for (int64_t i = 0; i < n_specs; i++) {
        bool known = specs[i].damping == 0 && (at_once || !specs[i].then_gptq);
        for (int64_t j = 0; j < i && !known; j++) {
            const qs_spec *a = &specs[i], *b = &specs[j];
            known = !a->then_gptq && b->damping > 0 && a->damping == b->damping &&
                    a->act_order == b->act_order && a->group_aware == b->group_aware &&
                    (!a->group_aware || a->group_size == b->group_size);
        }
        n += !known;
    }
    return n;
}

/* Of a budget each group length has an order of its own; as many factors more are held while options are measured. */
static int64_t n_more_orders(const qs_spec *specs, int64_t n_specs)
{
    qs_spec options[QS_OPTIONS_MAX];
    int64_t most = 0;
    for (int64_t i = 0; i < n_specs; i++) {
        if (specs[i].bpw <= 0 || specs[i].method->format != QS_PACKED_INT || !specs[i].group_aware) continue;
        int64_t n = specs[i].method->options(&specs[i], options), n_orders = 0;
        for (int64_t a = 0; a < n; a++) {
            bool again = false;
            for (int64_t b = 0; b < a; b++) again = again || options[a].group_size == options[b].group_size;
            n_orders += !again;
        }
        most = n_orders - 1 > most ? n_orders - 1 : most;
    }
    return most;
}

/* Where scalings are folded: the weights of a site again, and candidates of scales. What GPTQ codes after that has
 * second moments of its own: as they are stored, and five squares as every factor has. */
static int64_t fold_bytes(const qs_spec *specs, int64_t n_specs, int64_t site_weights, int64_t widest)
{
    bool folds = false, factors = false;
    for (int64_t i = 0; i < n_specs; i++) {
        folds |= specs[i].method->folds;
        factors |= specs[i].then_gptq;
    }
    int64_t own = factors ? widest * (widest + 1) / 2 + 5 * widest * widest : awq_candidates * widest;
    return folds ? (site_weights + own) * (int64_t)sizeof(float) : 0;
}

/* Scratch of each thread: a tile's columns, and as many rows again as are gathered together; AWQ and EXL2 hold
 * three. */
static int64_t lane_bytes(const qs_spec *specs, int64_t n_specs, int n_threads, int64_t widest)
{
    bool three = false;
    for (int64_t i = 0; i < n_specs; i++)
        three |= specs[i].method->folds || specs[i].method->format == QS_PACKED_EXL2;
    int64_t rows = three ? 3 * QS_TILE_ROWS : QS_TILE_ROWS + QS_TILE_ROWS / 4;
    return n_threads * (widest * rows + QS_LOSS_STRIP * QS_TILE_ROWS) * (int64_t)sizeof(float);
}

/* What GPTQ keeps of the matrices of a site while it goes from panel to panel. */
static int64_t panel_bytes(const qs_model *model, const qs_spec *specs, int64_t n_specs)
{
    int64_t kept[QS_N_SITES] = {0}, one = 0, most = 0;
    for (int role = 0; role < QS_N_LINEARS; role++) {
        qs_tensor_info info = qs_model_info(model, (qs_role)role, 0);
        for (int64_t i = 0; i < n_specs; i++) {
            if ((specs[i].damping == 0 && !specs[i].then_gptq) || specs[i].method->format != QS_PACKED_INT) continue;
            int64_t bytes = qs_solver_kept_bytes(info.n_out, info.n_in, specs[i].group_size,
                                                 qs_spec_static_scales(&specs[i], info.n_in));
            if (specs[i].bpw > 0) { /* all options of a sample of its rows */
                qs_spec options[QS_OPTIONS_MAX];
                int64_t rows = info.n_out < QS_SAMPLE_ROWS ? info.n_out : QS_SAMPLE_ROWS;
                bytes += specs[i].method->options(&specs[i], options) *
                         qs_solver_kept_bytes(rows, info.n_in, specs[i].group_size, true);
            }
            kept[qs_role_site((qs_role)role)] += bytes;
            one = bytes > one ? bytes : one;
        }
    }
    for (int site = 0; site < QS_N_SITES; site++) most = kept[site] > most ? kept[site] : most;
    if (most > QS_SOLVER_BATCH_BYTES) most = one > QS_SOLVER_BATCH_BYTES ? one : QS_SOLVER_BATCH_BYTES;
    return most;
}

static double matrix_cost(const qs_spec *spec, double n_out, double n_in, bool has_grams)
{
    double weights = n_out * n_in, cost = weights * other_per_weight;
    if (spec->search || spec->then_gptq) cost += weights * search_per_weight;
    if (spec->method->format == QS_PACKED_EXL2) cost += weights * exl2_search_per_weight;
    if (spec->damping > 0 || spec->then_gptq) cost += weights * n_in / 2; /* errors into later columns */
    if (spec->method->folds) /* four candidates on all rows, and the cuts of each group */
        cost += weights * (awq_per_weight + n_in * (spec->clip ? 6 : 4) / 2);
    if (has_grams) cost += weights * n_in / 2;                                 /* loss */
    return cost;
}

/* Of one matrix with every option of a budget, on a sample of its rows. */
static double measuring_cost(const qs_spec *spec, double n_out, double n_in)
{
    qs_spec options[QS_OPTIONS_MAX];
    double rows = n_out < QS_SAMPLE_ROWS ? n_out : QS_SAMPLE_ROWS, cost = 0;
    if (spec->bpw <= 0) return 0;
    int64_t n = spec->method->options(spec, options);
    for (int64_t i = 0; i < n; i++) cost += matrix_cost(&options[i], rows, n_in, true);
    return cost;
}

/* EXL2's matrices on their way, five bytes a weight in whole tiles, and samples of a site for budgets. */
static int64_t exl2_bytes(const qs_spec *specs, int64_t n_specs, int64_t site_weights, int64_t widest)
{
    int64_t bytes = 0, sample = 0;
    for (int64_t i = 0; i < n_specs; i++) {
        if (specs[i].method->format == QS_PACKED_EXL2) bytes += 5 * (site_weights + 3 * QS_TILE_ROWS * widest);
        if (specs[i].bpw > 0) sample = 3 * QS_SAMPLE_ROWS * widest * (int64_t)sizeof(float);
    }
    int64_t one = 5 * (site_weights + 3 * QS_TILE_ROWS * widest);
    return sample + (bytes < exl2_batch_bytes ? bytes : one > exl2_batch_bytes ? one : exl2_batch_bytes);
}

/* Where the backend has a solver: weights of a site and, for the largest matrix, twice as much again while it
 * is laid out or measured; H, the work on it and one factor of each width; and what is carried to and fro. */
static void add_solver_bytes(qs_quant_cost *cost, const qs_model *model, int64_t site_weights, bool has_grams,
                             int64_t n_specs)
{
    const qs_model_config *config = qs_model_get_config(model);
    const int64_t size = (int64_t)sizeof(float);
    int64_t carried = 0, largest = 0;
    cost->solver_host_bytes = cost->bytes;
    for (int role = 0; role < QS_N_LINEARS; role++) {
        qs_tensor_info info = qs_model_info(model, (qs_role)role, 0);
        int64_t n = info.n_out * info.n_in;
        largest = n > largest ? n : largest;
        carried += n * (size + 2 * n_specs); /* codes there for their loss, and back */
    }
    cost->solver_device_bytes = (site_weights + 2 * largest) * size;
    for (int site = 0; has_grams && site < QS_N_SITES; site++) {
        int64_t width = qs_site_width(config, (qs_site)site);
        bool counted = false;
        for (int other = 0; other < site && !counted; other++)
            counted = qs_site_width(config, (qs_site)other) == width;
        if (!counted) cost->solver_device_bytes += 3 * width * width * size;
        carried += width * width / 2 * size;
    }
    cost->solver_moved_bytes = carried * config->n_layers;
}

/* What budgets measure on the calibration's tokens. */
static void add_sensitivity(qs_quant_cost *cost, const qs_model *model, const qs_spec *specs, int64_t n_specs)
{
    const qs_model_config *config = qs_model_get_config(model);
    int64_t bytes = (int64_t)qs_sensitivity_bytes(config, QS_SENSITIVITY_TOKENS), layer_weights = 0;
    bool budget = false;
    for (int64_t i = 0; i < n_specs; i++) budget = budget || specs[i].bpw > 0;
    if (!budget) return;
    for (int role = 0; role < QS_N_LINEARS; role++) {
        qs_tensor_info info = qs_model_info(model, (qs_role)role, 0);
        layer_weights += info.n_out * info.n_in;
    }
    cost->multiply_adds += qs_sensitivity_cost(config, QS_SENSITIVITY_TOKENS, (double)layer_weights);
    /* A block and the head as the backend keeps them, the head once more on its way there, and a matrix in full. */
    bytes += (2 * layer_weights + 2 * config->n_vocab * config->d_model) * (int64_t)sizeof(float);
    cost->bytes += bytes;
    cost->solver_device_bytes += bytes;
}

/* The head, after the layers: its weights, EXL2's matrix on its way, and what is packed of it. */
static void add_heads(qs_quant_cost *cost, const qs_model *model, bool has_grams, const qs_spec *specs, int64_t n_specs)
{
    const qs_model_config *config = qs_model_get_config(model);
    const int64_t weights = config->n_vocab * config->d_model;
    const int64_t tiles = (config->n_vocab + QS_TILE_ROWS - 1) / QS_TILE_ROWS;
    int64_t bytes = weights * (int64_t)sizeof(float), batch = 0;
    qs_spec head;
    for (int64_t i = 0; i < n_specs; i++) {
        if (!qs_spec_head(&specs[i], &head)) continue;
        batch += 5 * tiles * QS_TILE_ROWS * config->d_model;
        bytes += qs_quant_head_bits(&specs[i], model) / 8;
        cost->multiply_adds += matrix_cost(&head, (double)config->n_vocab, (double)config->d_model, has_grams);
    }
    if (batch == 0) return;
    int64_t one = 5 * tiles * QS_TILE_ROWS * config->d_model, most = one > exl2_batch_bytes ? one : exl2_batch_bytes;
    bytes += batch < most ? batch : most;
    /* Beside all that the layers take: results of theirs are gone by then, factors and scratch are not. */
    cost->bytes += bytes;
    cost->solver_host_bytes += bytes;
}

/* Blocks that rate AWQ's scalings on the calibration's tokens; points that look for the same do so once. */
static void add_block_losses(qs_quant_cost *cost, const qs_model *model, const qs_spec *specs, int64_t n_specs)
{
    int64_t n = 0, bytes = (int64_t)qs_awq_block_bytes(model, QS_BLOCK_LOSS_TOKENS);
    for (int64_t i = 0; i < n_specs; i++) {
        int64_t known = 0;
        while (known < i && !qs_awq_block_alike(&specs[known], &specs[i])) known++;
        n += known == i && qs_awq_block_is_for(&specs[i]);
    }
    if (n == 0) return;
    cost->multiply_adds += (double)n * qs_awq_block_cost(model, QS_BLOCK_LOSS_TOKENS);
    cost->bytes += bytes;
    cost->solver_host_bytes += bytes;
    cost->solver_device_bytes += bytes;
}

qs_quant_cost qs_quant_cost_of(const qs_model *model, int n_threads, bool has_grams, const qs_spec *specs,
                               int64_t n_specs)
{
    const qs_model_config *config = qs_model_get_config(model);
    int64_t factors = n_factors(specs, n_specs, false),
            at_once = n_factors(specs, n_specs, true) + n_more_orders(specs, n_specs);
    int64_t site_weights[QS_N_SITES] = {0}, most = 0, widest = 0, largest = 0;
    bool unpacked = false; /* some spec holds the codes of a matrix one to a byte, beside its block maxima */
    qs_quant_cost cost = {0};
    double n_folding = 0;
    for (int64_t i = 0; i < n_specs; i++) n_folding += specs[i].method->folds;
    for (int role = 0; role < QS_N_LINEARS; role++) {
        qs_tensor_info info = qs_model_info(model, (qs_role)role, 0);
        int64_t *weights = &site_weights[qs_role_site((qs_role)role)];
        *weights += info.n_out * info.n_in;
        most = *weights > most ? *weights : most;
        widest = info.n_in > widest ? info.n_in : widest;
        largest = info.n_out * info.n_in > largest ? info.n_out * info.n_in : largest;
        for (int64_t i = 0; i < n_specs; i++) {
            unpacked = unpacked || specs[i].method->format != QS_PACKED_INT;
            cost.multiply_adds += matrix_cost(&specs[i], (double)info.n_out, (double)info.n_in, has_grams) +
                                  measuring_cost(&specs[i], (double)info.n_out, (double)info.n_in);
            cost.bytes += qs_quant_matrix_bits(&specs[i], info.n_out, info.n_in) / 8;
        }
        if (has_grams) cost.multiply_adds += (double)info.n_out * (double)info.n_in * (double)info.n_in / 2;
    }
    cost.bytes += most * (int64_t)sizeof(float) + (unpacked ? largest * 9 / 8 : 0);
    int64_t gram_bytes = has_grams ? widest * (widest + 1) / 2 * (int64_t)sizeof(float) : 0;
    cost.bytes += gram_bytes + (int64_t)qs_artifact_scratch_bytes(gram_bytes > largest ? gram_bytes : largest);
    cost.bytes += exl2_bytes(specs, n_specs, most, widest);
    cost.bytes += fold_bytes(specs, n_specs, most, widest) + lane_bytes(specs, n_specs, n_threads, widest);
    if (has_grams) cost.bytes += panel_bytes(model, specs, n_specs);
    add_solver_bytes(&cost, model, most, has_grams, n_specs);
    for (int site = 0; site < QS_N_SITES; site++) {
        int64_t width = qs_site_width(config, (qs_site)site);
        bool counted = !has_grams;
        for (int other = 0; other < site && !counted; other++)
            counted = qs_site_width(config, (qs_site)other) == width;
        if (has_grams) cost.multiply_adds += 0.5 * (double)(factors * width * width * width);
        cost.multiply_adds += n_folding * awq_screened_rows * 0.5 * (double)(width * width);
        if (!counted) /* H, and three to work with */
            cost.bytes += width * width * (int64_t)sizeof(float) * (at_once > 0 ? 4 + at_once : 1);
    }
    cost.multiply_adds *= (double)config->n_layers;
    if (has_grams) add_sensitivity(&cost, model, specs, n_specs);
    add_heads(&cost, model, has_grams, specs, n_specs);
    if (has_grams) add_block_losses(&cost, model, specs, n_specs);
    return cost;
}

qs_err qs_quant_measure_rate(double *multiply_adds_per_s)
{
    enum { N = 64, K = 512, REPEATS = 40 };
    float *x = NULL;
    qs_err err = QS_NEW(x, (N + K) * QS_TILE_ROWS + N * K, "rate measurement");
    if (err != QS_OK) return err;
    const qs_tile_ops *ops = qs_tile_best();
    float *e = x + N * QS_TILE_ROWS, *u = e + K * QS_TILE_ROWS;
    double best = 0;
    for (int i = 0; i < REPEATS; i++) {
        double start = qs_clock_seconds();
        ops->update(x, N, e, K, u, N);
        double rate = (double)N * K * QS_TILE_ROWS / (qs_clock_seconds() - start);
        best = rate > best ? rate : best;
    }
    qs_mem_free(x);
    *multiply_adds_per_s = best;
    return QS_OK;
}
