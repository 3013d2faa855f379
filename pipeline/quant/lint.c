#include "quant/lint.h"

#include "base/log.h"
#include "quant/methods.h"

static bool has_integers(const qs_spec *spec) { return spec->method->format == QS_PACKED_INT; }

/* ---- the rules ---- */

static bool two_bits_symmetric(const qs_spec *spec, const qs_model_config *model)
{
    (void)model;
    return has_integers(spec) && spec->bits == 2 && spec->sym;
}

static bool wide_groups(const qs_spec *spec, const qs_model_config *model)
{
    (void)model;
    return has_integers(spec) && spec->bits > 0 && spec->bits <= 3 &&
           (spec->group_size < 0 || spec->group_size > 128);
}

static bool rotated_rounding(const qs_spec *spec, const qs_model_config *model)
{
    (void)model;
    return spec->method == &qs_method_rtn && spec->rotate;
}

static bool permuted_inputs(const qs_spec *spec, const qs_model_config *model)
{
    (void)model;
    return spec->method == &qs_method_gptq && spec->act_order && !spec->static_groups && spec->group_size > 0;
}

static bool fp4(const qs_spec *spec, const qs_model_config *model)
{
    (void)model;
    return spec->method == &qs_method_fp4;
}

/* Rows of the linears have as many weights as the stream, the heads or the MLP are wide. */
static bool short_groups(const qs_spec *spec, const qs_model_config *model)
{
    if (model == NULL || !has_integers(spec) || spec->group_size <= 0) return false;
    const int64_t rows[] = {model->d_model, model->n_heads * model->head_dim, model->d_ff};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (rows[i] % spec->group_size != 0) return true;
    return false;
}

const qs_lint_rule qs_lint_rules[] = {
    {"two-bits-symmetric",
     "its four levels are -2, -1, 0 and 1 times the scale; SmolLM2-135M is unusable with them (docs/limits.md)",
     "sym=0, or 3 bits", two_bits_symmetric},
    {"wide-groups",
     "few levels and one scale for more than 128 weights: the reader loses right answers by it (docs/demo-model.md)",
     "group=64 or group=128", wide_groups},
    {"rotated-rounding",
     "a rotation widens the range of most groups, and rounding to nearest has nothing to make up for it "
     "(docs/benchmarks.md)",
     "rotate=0, or gptq", rotated_rounding},
    {"permuted-inputs", "groups follow an order of their own, so every product permutes its input",
     "gar=1, which keeps the order and needs no permutation, or static=1", permuted_inputs},
    {"fp4", "NF4 takes the same bytes and errs less (docs/benchmarks.md)", "nf4 with the same keys", fp4},
    {"short-groups",
     "the group does not divide the model's rows, so last groups are shorter: right here, refused by AutoAWQ's "
     "format and by loaders that count groups",
     "a group that divides the rows", short_groups},
    {0},
};

/* ---- telling ---- */

int64_t qs_lint_count(const qs_lint_rule *rule, const qs_spec *specs, int64_t n, const qs_model_config *model,
                      const qs_spec **first)
{
    int64_t found = 0;
    *first = NULL;
    for (int64_t i = 0; i < n; i++) {
        if (!rule->holds(&specs[i], model)) continue;
        if (found++ == 0) *first = &specs[i];
    }
    return found;
}

void qs_lint_tell(const qs_spec *specs, int64_t n, const qs_model_config *model)
{
    for (const qs_lint_rule *rule = qs_lint_rules; rule->name != NULL; rule++) {
        const qs_spec *first;
        int64_t found = qs_lint_count(rule, specs, n, model, &first);
        if (found == 0) continue;
        qs_log_info("lint %s: %s%s: %s; instead: %s", rule->name, first->id, found > 1 ? " and others" : "", rule->why,
                    rule->instead);
    }
}
