/* What the tests of export and import share: quant artifacts of a tiny model, made without calibration or with made-up
 * codes, exported and opened again. */
#ifndef TESTS_EXPORT_FIXTURES_H
#define TESTS_EXPORT_FIXTURES_H

#include "tests/scratch.h"

#include <unistd.h>

#include "base/dtype.h"
#include "base/rng.h"
#include "export/export.h"
#include "quant/quant_run.h"

static inline qs_model *model_open(const char *path)
{
    qs_model *model;
    OK(qs_model_open(&model, path));
    return model;
}

/* The weights of datasets/reader alone (GGUF has no name for its tokenizer), as links in the scratch directory: rows of
 * 256, 512 and 704 weights. */
static inline qs_model *bare_reader(void)
{
    static const char *const files[] = {"config.json", "model.safetensors"};
    scratch_path dir, from, to, here;
    assert_non_null(getcwd(here, sizeof here));
    OK(qs_dir_create(scratch(dir, "reader")));
    for (int i = 0; i < 2; i++) {
        OK(qs_path_format(from, "%s/datasets/reader/%s", here, files[i]));
        OK(qs_path_format(to, "%s/%s", dir, files[i]));
        assert_int_equal(symlink(from, to), 0);
    }
    return model_open(dir);
}

/* Random codes, scales, zero points from `zero_low` on, and a permutation where the spec has one: every field of the
 * format is exercised, which a solver's result would not do. */
static inline void fill_matrix(qs_packed *p, uint64_t key, int zero_low)
{
    uint8_t codes[1024];
    int levels = 1 << p->bits;
    assert_true(p->n_in <= (int64_t)sizeof codes);
    for (int64_t o = 0; o < p->n_out; o++) {
        for (int64_t j = 0; j < p->n_in; j++)
            codes[j] = (uint8_t)qs_rng_below(key, (uint64_t)(o * p->n_in + j), levels);
        qs_packed_set_row(p, o, codes);
    }
    for (int64_t i = 0; p->absmax != NULL && i < p->n_absmax; i++)
        p->absmax[i] = 0.25f + (float)qs_rng_unit(key + 1, (uint64_t)i);
    for (int64_t i = 0; p->absmax_codes != NULL && i < p->n_absmax; i++)
        p->absmax_codes[i] = (uint8_t)qs_rng_below(key + 1, (uint64_t)i, 256);
    for (int64_t i = 0; p->absmax_codes != NULL && i < qs_packed_n_nested(p); i++) p->nested_absmax[i] = 0.125f;
    if (p->absmax_codes != NULL) p->nested_offset = 0.3f;
    for (int64_t i = 0; p->scales != NULL && i < p->n_out * p->n_groups; i++) {
        p->scales[i] = qs_f16_from_f32(0.01f + 0.05f * (float)qs_rng_unit(key + 1, (uint64_t)i));
        if (p->zeros != NULL)
            p->zeros[i] = (uint8_t)(zero_low + (int)qs_rng_below(key + 2, (uint64_t)i, levels - zero_low));
    }
    for (int64_t j = 0; p->perm != NULL && j < p->n_in; j++) p->perm[j] = (int32_t)((7 * j + 3) % p->n_in);
}

/* The quant artifact of a spec with such matrices, in the scratch directory; returns path. */
static inline const char *made_up_artifact(scratch_path path, qs_model *model, const char *text, int zero_low)
{
    bool folded = strncmp(text, "awq", 3) == 0;
    qs_quant_inputs inputs = {.model = model};
    qs_quant_writer *writer;
    qs_spec spec;
    OK(qs_spec_parse(&spec, text));
    OK(qs_quant_path(path, scratch_dir, &spec));
    OK(qs_quant_writer_create(&writer, path, &inputs, &spec, qs_quant_linear_bits(&spec, model)));
    for (int64_t layer = 0; layer < qs_model_get_config(model)->n_layers; layer++) {
        qs_quant_layer quant = {0};
        for (qs_role role = 0; role < QS_N_LINEARS; role++) {
            qs_tensor_info info = qs_model_info(model, role, layer);
            qs_packed *p = &quant.linears[role].packed;
            OK(qs_spec_shape(&spec, info.n_out, info.n_in, p));
            if (p->format != QS_PACKED_INT) OK(qs_packed_alloc_absmax(p, spec.double_quant));
            else OK(qs_packed_alloc(p, !spec.sym, qs_spec_has_perm(&spec, info.n_in)));
            fill_matrix(p, 1000 * (uint64_t)(layer + 1) + 10 * (uint64_t)role, zero_low);
        }
        /* Norms and biases that a method has changed go with the codes. */
        for (qs_role role = QS_N_LINEARS; folded && role < QS_N_BLOCK_ROLES; role++) {
            float **vector = &quant.vectors[role - QS_N_LINEARS];
            if (!qs_model_has(model, role, layer)) continue;
            int64_t n = qs_model_info(model, role, layer).n_in;
            OK(QS_NEW(*vector, n, "test"));
            for (int64_t i = 0; i < n; i++) (*vector)[i] = (float)(i % 37 + 5 * role + (int)layer) / 64;
        }
        OK(qs_quant_writer_add(writer, layer, &quant));
        qs_quant_layer_free(&quant);
    }
    OK(qs_quant_writer_finish(writer, 1, NULL));
    return path;
}

/* Checks, plans and writes what `job` says to its `out`, which the caller's scratch directory removes. */
static inline qs_err export_job(qs_export_job job, qs_model *model, const char *artifact, const char *format)
{
    int64_t bytes;
    qs_err err;
    QS_TRY(qs_export_format_find(&job.format, format));
    QS_TRY(qs_quant_file_open(&job.quant, artifact, model));
    job.model = qs_quant_file_model(job.quant);
    QS_TRY(job.format->check(&job));
    QS_TRY(job.format->plan(&job, &bytes));
    assert_true(bytes > 0);
    QS_TRY(job.format->write(&job));
out:
    qs_quant_file_close(job.quant);
    return err;
}

static inline qs_err export_to(qs_model *model, const char *artifact, const char *format, const char *type,
                               const char *out)
{
    return export_job((qs_export_job){.out = out, .type = type}, model, artifact, format);
}

/* Nothing of a failed export is left behind, not even under another name. */
static inline void assert_no_parts(void)
{
    char **names;
    int64_t n;
    OK(qs_dir_list(&names, &n, scratch_dir, ""));
    for (int64_t i = 0; i < n; i++) assert_null(strstr(names[i], ".part."));
    qs_dir_list_free(names, n);
}

#endif
