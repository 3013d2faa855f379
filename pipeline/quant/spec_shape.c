/* What a spec means for a matrix: whether it fits, and what is stored. */
#include <inttypes.h>

#include "quant/methods.h"

qs_err qs_spec_check_row(const qs_spec *spec, int64_t n_in, const char *matrix)
{
    if (spec->method->format == QS_PACKED_EXL2 && (n_in % QS_EXL2_UNIT != 0 || n_in > QS_MIX_COLUMNS_MAX))
        return qs_fail(QS_E_UNSUPPORTED,
                       "%s: a row of %s has %" PRId64 " weights; EXL2 holds multiples of %d up to %d; use gptq:bpw=",
                       spec->id, matrix, n_in, QS_EXL2_UNIT, QS_MIX_COLUMNS_MAX);
    if (spec->method->format != QS_PACKED_INT || spec->group_size <= n_in) return QS_OK;
    return qs_fail(QS_E_USAGE,
                   "%s: group %" PRId64 " is larger than the %" PRId64 " weights of a row of %s; use -1 for "
                   "the whole row",
                   spec->id, spec->group_size, n_in, matrix);
}

bool qs_spec_static_scales(const qs_spec *spec, int64_t n_in)
{
    return spec->static_groups || spec->group_size < 0 || spec->group_size >= n_in;
}

bool qs_spec_has_perm(const qs_spec *spec, int64_t n_in)
{
    return spec->act_order && !qs_spec_static_scales(spec, n_in);
}

bool qs_spec_head(const qs_spec *spec, qs_spec *out)
{
    *out = *spec;
    out->bpw = 0;
    if (spec->head < 2 || spec->head > QS_EXL2_BITS_MAX) return false;
    out->mix = &qs_head_mixes[spec->head];
    return true;
}

qs_err qs_spec_shape(const qs_spec *spec, int64_t n_out, int64_t n_in, qs_packed *out)
{
    qs_packed_format format = spec->method->format;
    if (format == QS_PACKED_EXL2) {
        qs_packed_group groups[QS_MIX_GROUPS_MAX];
        return qs_packed_shape_exl2(out, n_out, n_in, groups, qs_mix_groups(spec->mix, n_in, groups));
    }
    if (format == QS_PACKED_INT) return qs_packed_shape(out, (int)spec->bits, n_out, n_in, spec->group_size);
    if (format == QS_PACKED_INT8) return qs_packed_shape_int8(out, n_out, n_in, (float)spec->threshold);
    return qs_packed_shape_blocks(out, format, n_out, n_in, spec->group_size, (qs_rounding)spec->compute);
}
