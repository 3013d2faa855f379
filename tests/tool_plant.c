/* Plants a fault into a quant artifact and seals it with right digests, so that only the meaning is wrong:
 *
 *   tool_plant FAULT MODEL IN.quant.h5 OUT.quant.h5
 *
 *   group      codes of groups of 64 under a header that says 128 and finds the scales where groups of 128 have them
 *   shuffle    rows of codes of the second layer's matrices in reverse order
 *   attention  the matrices of attention in 2 bits with one scale a row, as a solver would have written them
 *   fp4        codes of NF4 under a header that says FP4
 *
 * What the solver wrote down about errors stays as it is, but for `attention`, whose matrices are what was meant. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/args.h"
#include "base/dtype.h"
#include "base/file.h"
#include "base/mem.h"
#include "quant/quant_file.h"
#include "quant/quant_run.h"

typedef struct planter {
    qs_model *model;
    qs_quant_file *in;
    int64_t layer;
    qs_role role;
    qs_quant_result *result; /* of the matrix, packed and errors as they were */
} planter;

typedef struct fault {
    const char *name, *from, *to; /* part of the spec's text that changes */
    qs_err (*plant)(const planter *p);
} fault;

/* Group g of the header is group g of the codes, although it is twice as long. */
static qs_err plant_group(const planter *p)
{
    qs_packed *packed = &p->result->packed, wrong;
    qs_err err;
    QS_TRY(qs_packed_shape(&wrong, packed->bits, packed->n_out, packed->n_in, 128));
    QS_TRY(qs_packed_alloc(&wrong, packed->zeros != NULL, packed->perm != NULL));
    memcpy(wrong.codes, packed->codes, (size_t)(packed->n_out * packed->row_bytes));
    for (int64_t i = 0; i < wrong.n_out * wrong.n_groups; i++) wrong.scales[i] = packed->scales[i];
    if (packed->perm != NULL) memcpy(wrong.perm, packed->perm, (size_t)packed->n_in * sizeof *packed->perm);
    qs_packed_free(packed);
    *packed = wrong;
out:
    return err;
}

static qs_err plant_shuffle(const planter *p)
{
    qs_packed *packed = &p->result->packed;
    if (p->layer != 1) return QS_OK;
    for (int64_t row = 0; row < packed->n_out / 2; row++) {
        uint8_t *a = packed->codes + row * packed->row_bytes,
                *b = packed->codes + (packed->n_out - 1 - row) * packed->row_bytes;
        for (int64_t i = 0; i < packed->row_bytes; i++) {
            uint8_t held = a[i];
            a[i] = b[i];
            b[i] = held;
        }
    }
    return QS_OK;
}

/* 2 bits with one scale a row, said in the codes and scales that the file has: every group gets the row's scale,
 * and codes are -2, -1, 0 and 1 beside the middle. */
static void round_row(const float *w, qs_packed *packed, int64_t row, uint8_t *codes)
{
    float largest = 0;
    int64_t n = packed->n_in;
    int middle = 1 << (packed->bits - 1);
    for (int64_t i = 0; i < n; i++) largest = fmaxf(largest, fabsf(w[i]));
    for (int64_t i = 0; i < packed->n_groups; i++)
        packed->scales[row * packed->n_groups + i] = qs_f16_from_f32(largest / 2);
    for (int64_t i = 0; i < n; i++) {
        int64_t j = packed->perm != NULL ? packed->perm[i] : i;
        codes[i] = (uint8_t)(middle + (int)fminf(1, fmaxf(-2, rintf(w[j] / (largest / 2)))));
    }
    qs_packed_set_row(packed, row, codes);
}

static qs_err plant_attention(const planter *p)
{
    qs_packed *packed = &p->result->packed;
    float *w = NULL, *q = NULL;
    uint8_t *codes = NULL;
    double error = 0, whole = 0;
    int64_t n = packed->n_in;
    qs_err err = QS_OK;
    if (p->role != QS_ROLE_Q && p->role != QS_ROLE_K && p->role != QS_ROLE_V && p->role != QS_ROLE_O) return QS_OK;
    QS_TRY(QS_NEW(w, n, "row"));
    QS_TRY(QS_NEW(q, n, "row"));
    QS_TRY(QS_NEW(codes, n, "codes"));
    for (int64_t row = 0; row < packed->n_out; row++) {
        QS_TRY(qs_model_read_rows_f32(p->model, p->role, p->layer, row, 1, w));
        round_row(w, packed, row, codes);
        qs_packed_dequant_rows(packed, row, 1, q);
        for (int64_t i = 0; i < n; i++) {
            error += (double)(w[i] - q[i]) * (double)(w[i] - q[i]);
            whole += (double)w[i] * (double)w[i];
        }
    }
    p->result->weight_error = sqrt(error / whole);
    p->result->loss = error / whole;
out:
    qs_mem_free(w);
    qs_mem_free(q);
    qs_mem_free(codes);
    return err;
}

static qs_err plant_fp4(const planter *p)
{
    p->result->packed.format = QS_PACKED_FP4;
    return QS_OK;
}

static const fault faults[] = {
    {"group", "group=64", "group=128", plant_group},
    {"shuffle", "", "", plant_shuffle},
    {"attention", "", "", plant_attention},
    {"fp4", "nf4:", "fp4:", plant_fp4},
};

/* ---- copying ---- */

static qs_err copy_packed(qs_packed *out, const qs_packed *in, bool nested)
{
    qs_err err;
    *out = *in;
    out->codes = out->zeros = out->absmax_codes = out->scale_codes = NULL;
    out->scales = out->scale_max = NULL;
    out->perm = NULL;
    out->absmax = out->nested_absmax = NULL;
    out->groups = NULL;
    if (in->format == QS_PACKED_INT) {
        QS_TRY(qs_packed_alloc(out, in->zeros != NULL, in->perm != NULL));
        memcpy(out->scales, in->scales, (size_t)(in->n_out * in->n_groups) * sizeof *in->scales);
        if (in->zeros != NULL) memcpy(out->zeros, in->zeros, (size_t)(in->n_out * in->n_groups));
        if (in->perm != NULL) memcpy(out->perm, in->perm, (size_t)in->n_in * sizeof *in->perm);
    } else {
        QS_TRY(qs_packed_alloc_absmax(out, nested));
        if (nested) {
            memcpy(out->absmax_codes, in->absmax_codes, (size_t)in->n_absmax);
            memcpy(out->nested_absmax, in->nested_absmax, (size_t)qs_packed_n_nested(in) * sizeof *in->nested_absmax);
        } else {
            memcpy(out->absmax, in->absmax, (size_t)in->n_absmax * sizeof *in->absmax);
        }
    }
    memcpy(out->codes, in->codes, (size_t)(in->n_out * in->row_bytes));
out:
    return err;
}

static qs_err get_real(const qs_quant_file *in, int64_t layer, qs_role role, const char *leaf, double *value)
{
    char path[QS_PATH_BYTES];
    qs_err err = qs_path_format(path, "/layers/%" PRId64 "/%s/@%s", layer, qs_role_name(role), leaf);
    return err == QS_OK ? qs_artifact_get_real(qs_quant_file_artifact(in), path, value) : err;
}

static qs_err make_layer(const planter *base, const fault *f, int64_t layer, qs_quant_layer *out)
{
    qs_linear_source source = qs_quant_file_source(base->in);
    const qs_spec *spec = qs_quant_file_spec(base->in);
    qs_err err = QS_OK;
    for (int role = 0; role < QS_N_LINEARS; role++) {
        qs_matrix_desc desc;
        qs_quant_result *result = &out->linears[role];
        planter p = *base;
        p.layer = layer;
        p.role = (qs_role)role;
        p.result = result;
        QS_TRY(source.get(source.context, layer, p.role, &desc));
        QS_TRY(copy_packed(&result->packed, desc.packed, spec->double_quant));
        QS_TRY(get_real(base->in, layer, p.role, "loss", &result->loss));
        QS_TRY(get_real(base->in, layer, p.role, "weight_error", &result->weight_error));
        QS_TRY(f->plant(&p));
    }
out:
    return err;
}

/* The spec's text with a part replaced. */
static qs_err spec_of(const fault *f, const qs_spec *in, qs_spec *out)
{
    char text[2 * QS_SPEC_TEXT_BYTES];
    const char *at = strstr(in->text, f->from);
    if (at == NULL) return qs_fail(QS_E_USAGE, "plant %s: %s has no \"%s\"", f->name, in->text, f->from);
    (void)snprintf(text, sizeof text, "%.*s%s%s", (int)(at - in->text), in->text, f->to, at + strlen(f->from));
    return qs_spec_parse(out, text);
}

static qs_err plant(const fault *f, const char *model, const char *in, const char *out)
{
    planter p = {0};
    qs_quant_writer *writer = NULL;
    qs_spec spec;
    qs_err err;
    QS_TRY(qs_model_open(&p.model, model));
    QS_TRY(qs_quant_file_open(&p.in, in, p.model));
    QS_TRY(spec_of(f, qs_quant_file_spec(p.in), &spec));
    qs_quant_inputs inputs = {.model = p.model};
    QS_TRY(qs_quant_writer_create(&writer, out, &inputs, &spec, 0));
    for (int64_t layer = 0; layer < qs_model_get_config(p.model)->n_layers; layer++) {
        qs_quant_layer made = {0};
        err = make_layer(&p, f, layer, &made);
        if (err == QS_OK) err = qs_quant_writer_add(writer, layer, &made);
        qs_quant_layer_free(&made);
        QS_TRY(err);
    }
    qs_quant_writer *whole = writer;
    writer = NULL;
    err = qs_quant_writer_finish(whole, 0, NULL);
out:
    qs_quant_writer_abort(writer);
    qs_quant_file_close(p.in);
    qs_model_close(p.model);
    return err;
}

int main(int argc, char **argv)
{
    qs_err err = qs_fail(QS_E_USAGE, "usage: tool_plant group|shuffle|attention|fp4 MODEL IN OUT");
    for (size_t i = 0; argc == 5 && i < sizeof faults / sizeof *faults; i++)
        if (strcmp(argv[1], faults[i].name) == 0) err = plant(&faults[i], argv[2], argv[3], argv[4]);
    return qs_args_exit(err);
}
