#include "quant/quant_size.h"

#include "backend/packed.h"
#include "model/model_record.h"
#include "quant/methods.h"
#include "quant/mix.h"

/* Of a spec without a budget. Nothing looks at more of zeros, perm and codes of maxima than whether they are there. */
static qs_err describe(const qs_spec *spec, int64_t n_out, int64_t n_in, qs_packed_group *groups, qs_packed *out)
{
    static uint8_t some_zeros, some_codes;
    static int32_t some_perm;
    qs_err err;
    if (spec->method->format == QS_PACKED_EXL2) {
        err = qs_packed_shape_exl2(out, n_out, n_in, groups, qs_mix_groups(spec->mix, n_in, groups));
        out->groups = groups;
        out->perm = &some_perm;
        return err;
    }
    err = qs_spec_shape(spec, n_out, n_in, out);
    out->absmax_codes = spec->double_quant ? &some_codes : NULL;
    out->zeros = spec->sym ? NULL : &some_zeros;
    out->perm = qs_spec_has_perm(spec, n_in) ? &some_perm : NULL;
    return err;
}

qs_err qs_quant_describe(const qs_spec *spec, int64_t n_out, int64_t n_in, qs_packed_group *groups, qs_packed *out)
{
    qs_spec options[QS_OPTIONS_MAX];
    const qs_spec *best = NULL;
    int64_t best_bits = 0, share = qs_quant_matrix_bits(spec, n_out, n_in);
    if (spec->bpw <= 0) return describe(spec, n_out, n_in, groups, out);
    int64_t n = spec->method->options(spec, options);
    for (int64_t i = 0; i < n; i++) {
        int64_t bits = qs_quant_matrix_bits(&options[i], n_out, n_in);
        bool is_better = best_bits < share ? bits > best_bits : bits >= share && bits < best_bits;
        if (best != NULL && !is_better) continue;
        best = &options[i];
        best_bits = bits;
    }
    return describe(best, n_out, n_in, groups, out);
}

int64_t qs_quant_matrix_bits(const qs_spec *spec, int64_t n_out, int64_t n_in)
{
    qs_packed_group groups[QS_MIX_GROUPS_MAX];
    qs_packed packed;
    if (spec == NULL) return n_out * n_in * 16;
    if (spec->bpw > 0) return (int64_t)(spec->bpw * (double)(n_out * n_in)); /* its share of the budget, on average */
    return describe(spec, n_out, n_in, groups, &packed) == QS_OK ? qs_packed_stored_bits(&packed) : 0;
}

int64_t qs_quant_linear_bits(const qs_spec *spec, const qs_model *model)
{
    int64_t linear_bits = 0;
    for (int64_t layer = 0; layer < qs_model_get_config(model)->n_layers; layer++)
        for (int role = 0; role < QS_N_LINEARS; role++) {
            qs_tensor_info info = qs_model_info(model, (qs_role)role, layer);
            linear_bits += qs_quant_matrix_bits(spec, info.n_out, info.n_in);
        }
    return linear_bits;
}

qs_quant_size qs_quant_size_of(const qs_spec *spec, const qs_model *model)
{
    return qs_quant_size_of_bits(qs_quant_linear_bits(spec, model), qs_quant_head_bits(spec, model), model);
}

int64_t qs_quant_head_bits(const qs_spec *spec, const qs_model *model)
{
    const qs_model_config *config = qs_model_get_config(model);
    qs_spec head;
    if (spec != NULL && qs_spec_head(spec, &head)) return qs_quant_matrix_bits(&head, config->n_vocab, config->d_model);
    bool tied = config->tied_head && (spec == NULL || !spec->rotate);
    return tied ? 0 : qs_quant_matrix_bits(NULL, config->n_vocab, config->d_model);
}

qs_quant_size qs_quant_size_of_bits(int64_t linear_bits, int64_t head_bits, const qs_model *model)
{
    const qs_model_config *config = qs_model_get_config(model);
    int64_t vectors = config->d_model; /* the final norm */
    for (int64_t layer = 0; layer < config->n_layers; layer++)
        for (int role = QS_N_LINEARS; role < QS_N_BLOCK_ROLES; role++)
            if (qs_model_has(model, (qs_role)role, layer)) vectors += qs_model_info(model, (qs_role)role, layer).n_in;
    int64_t bits = linear_bits + head_bits + config->n_vocab * config->d_model * 16 + vectors * 32;
    return (qs_quant_size){.bpw = (double)linear_bits / (double)qs_model_n_linear_weights(model),
                           .bpw_total = (double)bits / (double)qs_model_n_weights(model),
                           .bytes = (bits + 7) / 8};
}
