#include "quant/bit_budget.h"

#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "model/model_record.h"
#include "quant/allocate.h"
#include "quant/quant_size.h"

typedef struct option_set {
    int64_t n_options;
    qs_spec options[QS_OPTIONS_MAX];
    double *loss;  /* [n_matrices, n_options] */
    int64_t *bits; /* [n_matrices, n_options] */
} option_set;

struct qs_bit_budgets {
    const qs_model *model;
    const qs_spec *specs;
    int64_t n_specs, n_sets, n_matrices;
    option_set *sets; /* [n_specs], n_sets of them used */
    int64_t *set_of;  /* [n_specs]; -1 = no budget */
    int64_t *choices; /* [n_specs, n_matrices] */
    int64_t *bits;    /* [n_specs] */
    double *weights;  /* [n_matrices] */
};

static int64_t n_matrices(const qs_model *model) { return qs_model_get_config(model)->n_layers * QS_N_LINEARS; }

static int64_t matrix_bits(const qs_model *model, const qs_spec *option, int64_t matrix)
{
    qs_tensor_info info = qs_model_info(model, (qs_role)(matrix % QS_N_LINEARS), matrix / QS_N_LINEARS);
    return qs_quant_matrix_bits(option, info.n_out, info.n_in);
}

/* Every option fits every row; those that do not are no options. */
static int64_t options_of(const qs_model *model, const qs_spec *spec, qs_spec *out)
{
    int64_t n = spec->method->options(spec, out), kept = 0;
    for (int64_t i = 0; i < n; i++) {
        bool fits = true;
        for (int role = 0; role < QS_N_LINEARS; role++)
            fits = fits && out[i].group_size <= qs_model_info(model, (qs_role)role, 0).n_in;
        if (fits) out[kept++] = out[i];
    }
    return kept;
}

void qs_bit_budget_range(const qs_model *model, const qs_spec *spec, double *least, double *most)
{
    qs_spec options[QS_OPTIONS_MAX];
    int64_t n = options_of(model, spec, options), low = 0, high = 0;
    for (int64_t m = 0; m < n_matrices(model); m++) {
        int64_t smallest = INT64_MAX, largest = 0;
        for (int64_t i = 0; i < n; i++) {
            int64_t bits = matrix_bits(model, &options[i], m);
            smallest = bits < smallest ? bits : smallest;
            largest = bits > largest ? bits : largest;
        }
        low += n > 0 ? smallest : 0;
        high += largest;
    }
    *least = (double)low / (double)qs_model_n_linear_weights(model);
    *most = (double)high / (double)qs_model_n_linear_weights(model);
}

/* The same options would be measured, and with the same result. */
static bool same_options(const qs_spec *a, const qs_spec *b)
{
    return a->method == b->method && a->group_size == b->group_size && a->sym == b->sym && a->search == b->search &&
           a->group_aware == b->group_aware && a->damping == b->damping;
}

static qs_err add_set(qs_bit_budgets *budgets, const qs_spec *spec)
{
    option_set *set = &budgets->sets[budgets->n_sets];
    qs_err err;
    set->n_options = options_of(budgets->model, spec, set->options);
    QS_TRY(QS_NEW(set->loss, budgets->n_matrices * set->n_options, "losses of options"));
    QS_TRY(QS_NEW(set->bits, budgets->n_matrices * set->n_options, "sizes of options"));
    for (int64_t m = 0; m < budgets->n_matrices; m++)
        for (int64_t i = 0; i < set->n_options; i++)
            set->bits[m * set->n_options + i] = matrix_bits(budgets->model, &set->options[i], m);
    budgets->n_sets++;
out:
    return err;
}

qs_err qs_bit_budgets_create(qs_bit_budgets **out, const qs_model *model, const qs_spec *specs, int64_t n_specs)
{
    qs_bit_budgets *budgets = NULL;
    int64_t n = 0;
    qs_err err = QS_OK;
    *out = NULL;
    for (int64_t i = 0; i < n_specs; i++) n += specs[i].bpw > 0;
    if (n == 0) return QS_OK;
    QS_TRY(QS_NEW(budgets, 1, "budgets"));
    *budgets = (qs_bit_budgets){.model = model, .specs = specs, .n_specs = n_specs, .n_matrices = n_matrices(model)};
    QS_TRY(QS_NEW(budgets->sets, n, "options"));
    QS_TRY(QS_NEW(budgets->set_of, n_specs, "options"));
    QS_TRY(QS_NEW(budgets->choices, n_specs * budgets->n_matrices, "choices"));
    QS_TRY(QS_NEW(budgets->bits, n_specs, "choices"));
    QS_TRY(QS_NEW(budgets->weights, budgets->n_matrices, "weights of losses"));
    for (int64_t m = 0; m < budgets->n_matrices; m++) budgets->weights[m] = 1;
    for (int64_t i = 0; i < n_specs; i++) {
        budgets->set_of[i] = -1;
        if (specs[i].bpw <= 0) continue;
        for (int64_t j = 0; j < i && budgets->set_of[i] < 0; j++)
            if (specs[j].bpw > 0 && same_options(&specs[j], &specs[i])) budgets->set_of[i] = budgets->set_of[j];
        if (budgets->set_of[i] >= 0) continue;
        budgets->set_of[i] = budgets->n_sets;
        QS_TRY(add_set(budgets, &specs[i]));
    }
    *out = budgets;
out:
    if (err != QS_OK) qs_bit_budgets_destroy(budgets);
    return err;
}

void qs_bit_budgets_destroy(qs_bit_budgets *budgets)
{
    if (budgets == NULL) return;
    for (int64_t i = 0; i < budgets->n_sets; i++) {
        qs_mem_free(budgets->sets[i].loss);
        qs_mem_free(budgets->sets[i].bits);
    }
    qs_mem_free(budgets->sets);
    qs_mem_free(budgets->set_of);
    qs_mem_free(budgets->choices);
    qs_mem_free(budgets->bits);
    qs_mem_free(budgets->weights);
    qs_mem_free(budgets);
}

int64_t qs_bit_budgets_n_sets(const qs_bit_budgets *budgets) { return budgets->n_sets; }

const qs_spec *qs_bit_budgets_options(const qs_bit_budgets *budgets, int64_t set, int64_t *n)
{
    *n = budgets->sets[set].n_options;
    return budgets->sets[set].options;
}

void qs_bit_budgets_record(qs_bit_budgets *budgets, int64_t set, int64_t layer, qs_role role, int64_t option,
                           double loss)
{
    option_set *s = &budgets->sets[set];
    s->loss[(layer * QS_N_LINEARS + role) * s->n_options + option] = loss;
}

void qs_bit_budgets_weigh(qs_bit_budgets *budgets, const double *weights)
{
    memcpy(budgets->weights, weights, (size_t)budgets->n_matrices * sizeof *weights);
}

/* The same option for all: of those that fit into the budget the one with the least cost. */
static void take_even(const qs_allocate_job *job, int64_t *choice)
{
    double least = INFINITY;
    for (int64_t o = 0; o < job->n_options; o++) {
        int64_t bits = 0;
        double cost = 0;
        for (int64_t m = 0; m < job->n_matrices; m++) {
            bits += job->bits[m * job->n_options + o];
            cost += job->loss[m * job->n_options + o];
        }
        if (bits > job->budget || !(cost < least)) continue;
        least = cost;
        for (int64_t m = 0; m < job->n_matrices; m++) choice[m] = o;
    }
}

static qs_err share(qs_bit_budgets *budgets, int64_t spec)
{
    const option_set *set = &budgets->sets[budgets->set_of[spec]];
    int64_t n = budgets->n_matrices, *choice = budgets->choices + spec * n;
    double *cost = NULL, bound;
    qs_err err;
    QS_TRY(QS_NEW(cost, n * set->n_options, "weighted losses"));
    for (int64_t i = 0; i < n * set->n_options; i++) cost[i] = set->loss[i] * budgets->weights[i / set->n_options];
    qs_allocate_job job = {.n_matrices = n, .n_options = set->n_options, .bits = set->bits, .loss = cost,
                           .budget = (int64_t)(budgets->specs[spec].bpw *
                                               (double)qs_model_n_linear_weights(budgets->model))};
    QS_TRY(qs_allocate(&job, choice, &bound)); /* which refuses what cannot be met */
    if (budgets->specs[spec].even) take_even(&job, choice);
    budgets->bits[spec] = 0;
    for (int64_t m = 0; m < n; m++) budgets->bits[spec] += set->bits[m * set->n_options + choice[m]];
out:
    qs_mem_free(cost);
    return err;
}

qs_err qs_bit_budgets_share(qs_bit_budgets *budgets)
{
    qs_err err = QS_OK;
    for (int64_t i = 0; i < budgets->n_specs; i++)
        if (budgets->set_of[i] >= 0) QS_TRY(share(budgets, i));
out:
    return err;
}

const qs_spec *qs_bit_budgets_spec(const qs_bit_budgets *budgets, int64_t spec, int64_t layer, qs_role role,
                                   double *predicted)
{
    if (budgets->set_of[spec] < 0) return NULL;
    const option_set *set = &budgets->sets[budgets->set_of[spec]];
    int64_t m = layer * QS_N_LINEARS + role, choice = budgets->choices[spec * budgets->n_matrices + m];
    *predicted = set->loss[m * set->n_options + choice];
    return &set->options[choice];
}

int64_t qs_bit_budgets_bits(const qs_bit_budgets *budgets, int64_t spec) { return budgets->bits[spec]; }
