/* GGUF for llama.cpp: the quantised matrices in a type that keeps their codes, with codes found anew on the grid of a
 * type that does not (gguf_aim.h), or de-quantised; norms and biases in F32; embedding and head as the parent's GGUF
 * stores them, from a directory in F16, or in a type of their own. */
#include <stdio.h>
#include <string.h>

#include "base/dtype.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/out_dir.h"
#include "base/progress.h"
#include "export/export.h"
#include "export/gguf_aim.h"
#include "export/gguf_metadata.h"
#include "export/gguf_types.h"
#include "model/dequant.h"
#include "model/turned.h"

enum { CHUNK_FLOATS = 1 << 18, KINDS_BYTES = 128 };
static const double damping_default = 0.01; /* of points whose method has none */

typedef struct writer {
    const qs_export_job *job;
    qs_gguf_types types;
    qs_gguf_aim *aim;
    float *weights; /* a matrix to be aimed, in the order of the file */
    qs_model_config config; /* the parent's, with GGUF's name of the architecture */
    qs_gguf_writer *file;
    float *f32; /* [n_floats] */
    uint16_t *half;
    int64_t n_floats;
    uint8_t *blocks, *codes; /* a matrix as it will be stored; codes of a row */
    int64_t n_bytes;         /* of the tensors, for the plan */
    qs_progress progress;
} writer;

static qs_err check(const qs_export_job *job)
{
    qs_gguf_types types;
    return qs_gguf_types_choose(&types, job);
}

/* ---- tables and vectors ---- */

static bool is_written(const writer *w, qs_role role, int64_t layer)
{
    if (role == QS_ROLE_HEAD && w->config.tied_head) return false;
    return qs_model_has(w->job->model, role, layer);
}

/* The parent's tensor, where it is to be taken over byte by byte: tables beside quantised matrices, or that have the
 * type already. */
static const qs_gguf_tensor *kept_tensor(const writer *w, qs_role role, const char *name)
{
    const qs_gguf *gguf = qs_model_get_gguf(w->job->model);
    const qs_gguf_kind *kind = qs_gguf_types_table(&w->types, role);
    if (gguf == NULL || qs_model_rotation(w->job->model) != NULL) return NULL;
    if (role < QS_N_BLOCK_ROLES || role == QS_ROLE_FINAL_NORM || (kind == NULL && w->types.kind->dense)) return NULL;
    const qs_gguf_tensor *tensor = qs_gguf_find_tensor(gguf, name);
    return tensor != NULL && (kind == NULL || kind->storage == tensor->storage) ? tensor : NULL;
}

static qs_storage storage_of(const writer *w, int64_t layer, qs_role role, const char *name)
{
    if (role < QS_N_LINEARS) return qs_gguf_types_linear(&w->types, role, layer)->storage;
    if (role != QS_ROLE_EMBED && role != QS_ROLE_HEAD) return QS_STORE_F32;
    const qs_gguf_tensor *kept = kept_tensor(w, role, name);
    if (kept != NULL) return kept->storage;
    if (qs_gguf_types_table(&w->types, role) != NULL) return qs_gguf_types_table(&w->types, role)->storage;
    return w->types.kind->dense ? w->types.kind->storage : QS_STORE_F16;
}

static int64_t source_row(const writer *w, qs_role role, int64_t n_rows, int64_t row)
{
    int64_t heads = qs_role_rotated_heads(&w->config, QS_NAMING_GGUF, role);
    if (heads == 0) return row;
    int64_t size = n_rows / heads, in_head = row % size;
    return row - in_head + in_head % 2 * (size / 2) + in_head / 2;
}

static qs_err put_floats(writer *w, const char *name, qs_storage storage, const float *values, int64_t n)
{
    if (storage == QS_STORE_F32) return qs_gguf_writer_put(w->file, name, values, (size_t)n * sizeof *values);
    qs_f16_from_f32_array(w->half, values, n);
    for (int64_t i = 0; i < n; i++)
        if ((w->half[i] & 0x7C00) == 0x7C00)
            return qs_fail(QS_E_NUMERIC, "export %s: %g is beyond the range of f16; use --type f32", name,
                           (double)values[i]);
    return qs_gguf_writer_put(w->file, name, w->half, (size_t)n * sizeof *w->half);
}

static qs_err put_rounded(writer *w, const qs_gguf_kind *kind, const char *name, int64_t n_rows, int64_t n_in)
{
    qs_err err = qs_gguf_aim_rows(w->aim, kind, name, n_rows, n_in, w->f32, w->blocks);
    if (err != QS_OK) return err;
    return qs_gguf_writer_put(w->file, name, w->blocks, (size_t)n_rows * qs_storage_bytes(kind->storage, n_in));
}

static qs_err put_table(writer *w, qs_role role, const char *name)
{
    const qs_gguf_tensor *kept = kept_tensor(w, role, name);
    const qs_gguf_kind *kind = qs_gguf_types_table(&w->types, role);
    bool rounded = kind != NULL && !kind->dense;
    qs_tensor_info info = qs_model_info(w->job->model, role, 0);
    int64_t step = w->n_floats / info.n_in;
    if (step > QS_GGUF_AIM_ROWS_MAX) step = QS_GGUF_AIM_ROWS_MAX;
    qs_err err = QS_OK;
    if (kept != NULL) return qs_gguf_writer_put(w->file, name, kept->data, kept->bytes);
    for (int64_t row = 0; row < info.n_out && err == QS_OK; row += step) {
        int64_t n_rows = info.n_out - row < step ? info.n_out - row : step;
        err = qs_model_read_rows_f32(w->job->model, role, 0, row, n_rows, w->f32);
        if (err == QS_OK && rounded) err = put_rounded(w, kind, name, n_rows, info.n_in);
        if (err == QS_OK && !rounded)
            err = put_floats(w, name, storage_of(w, 0, role, name), w->f32, n_rows * info.n_in);
    }
    return err;
}

/* Biases of q and k are ordered like the rows of their matrices. */
static qs_err put_vector(writer *w, int64_t layer, qs_role role, const char *name)
{
    int64_t n = qs_model_info(w->job->model, role, layer).n_in;
    float *ordered = w->f32 + n;
    qs_err err;
    QS_TRY(qs_export_vector(w->job, layer, role, n, w->f32));
    for (int64_t i = 0; i < n; i++) ordered[i] = w->f32[source_row(w, role, n, i)];
    err = put_floats(w, name, QS_STORE_F32, ordered, n);
out:
    return err;
}

/* ---- matrices ---- */

static qs_err put_dense(writer *w, const qs_packed *p, qs_role role, const char *name)
{
    qs_err err = QS_OK;
    for (int64_t row = 0; row < p->n_out && err == QS_OK; row++) {
        qs_packed_dequant_rows(p, source_row(w, role, p->n_out, row), 1, w->f32);
        err = put_floats(w, name, w->types.kind->storage, w->f32, p->n_in);
    }
    return err;
}

static qs_err put_aimed(writer *w, int64_t layer, qs_role role, const char *name)
{
    qs_tensor_info info = qs_model_info(w->job->model, role, layer);
    const qs_gguf_kind *kind = qs_gguf_types_linear(&w->types, role, layer);
    bool in_order = qs_role_rotated_heads(&w->config, QS_NAMING_GGUF, role) == 0;
    qs_err err = QS_OK;
    if (in_order) QS_TRY(qs_model_read_f32(w->job->model, role, layer, w->weights));
    for (int64_t row = 0; row < info.n_out && !in_order; row++)
        QS_TRY(qs_model_read_rows_f32(w->job->model, role, layer, source_row(w, role, info.n_out, row), 1,
                                      w->weights + row * info.n_in));
    QS_TRY(qs_gguf_aim_matrix(w->aim, kind, layer, role, w->weights, w->blocks));
    size_t row_bytes = qs_storage_bytes(kind->storage, info.n_in);
    err = qs_gguf_writer_put(w->file, name, w->blocks, (size_t)info.n_out * row_bytes);
out:
    return qs_context(err, "export %s", name);
}

static qs_err put_linear(writer *w, int64_t layer, qs_role role, const char *name)
{
    const qs_packed *p;
    qs_err err;
    if (w->types.aimed) return put_aimed(w, layer, role, name);
    QS_TRY(qs_export_matrix(w->job, layer, role, &p)); /* what is not integers was refused, or is de-quantised */
    if (w->types.kind->dense) return put_dense(w, p, role, name);
    size_t row_bytes = qs_storage_bytes(w->types.kind->storage, p->n_in);
    for (int64_t row = 0; row < p->n_out; row++)
        QS_TRY(qs_gguf_put_row(w->types.kind, p, source_row(w, role, p->n_out, row), w->codes,
                               w->blocks + (size_t)row * row_bytes));
    err = qs_gguf_writer_put(w->file, name, w->blocks, (size_t)p->n_out * row_bytes);
out:
    return qs_context(err, "export %s", name);
}

/* ---- the whole ---- */

/* Calls for every tensor in the order of the file. */
typedef qs_err (*visit)(writer *w, int64_t layer, qs_role role, const char *name);

static qs_err for_each(writer *w, visit call)
{
    char name[QS_TENSOR_NAME_BYTES];
    static const qs_role outer[] = {QS_ROLE_EMBED, QS_ROLE_FINAL_NORM, QS_ROLE_HEAD};
    qs_err err = QS_OK;
    for (size_t i = 0; i < sizeof outer / sizeof *outer; i++)
        if (is_written(w, outer[i], 0))
            QS_TRY(call(w, 0, outer[i], qs_role_tensor_name(name, QS_NAMING_GGUF, outer[i], 0)));
    for (int64_t layer = 0; layer < w->config.n_layers; layer++) {
        for (qs_role role = 0; role < QS_N_BLOCK_ROLES; role++)
            if (is_written(w, role, layer))
                QS_TRY(call(w, layer, role, qs_role_tensor_name(name, QS_NAMING_GGUF, role, layer)));
        qs_progress_update(&w->progress, layer + 1);
    }
out:
    return err;
}

static qs_err declare(writer *w, int64_t layer, qs_role role, const char *name)
{
    qs_tensor_info info = qs_model_info(w->job->model, role, layer);
    bool vector = info.n_out == 1;
    return qs_gguf_writer_declare(w->file, name, storage_of(w, layer, role, name), vector ? 1 : 2,
                                  (int64_t[]){info.n_in, info.n_out});
}

static qs_err put(writer *w, int64_t layer, qs_role role, const char *name)
{
    if (role < QS_N_LINEARS) return put_linear(w, layer, role, name);
    if (role == QS_ROLE_EMBED || role == QS_ROLE_HEAD) return put_table(w, role, name);
    return put_vector(w, layer, role, name);
}

static qs_err add_bytes(writer *w, int64_t layer, qs_role role, const char *name)
{
    qs_tensor_info info = qs_model_info(w->job->model, role, layer);
    w->n_bytes += info.n_out * (int64_t)qs_storage_bytes(storage_of(w, layer, role, name), info.n_in);
    return QS_OK;
}

static qs_err writer_init(writer *w, const qs_export_job *job)
{
    *w = (writer){.job = job, .config = *qs_model_get_config(job->model)};
    (void)snprintf(w->config.architecture, sizeof w->config.architecture, "%s", qs_gguf_architecture(&w->config));
    return qs_gguf_types_choose(&w->types, job);
}

static qs_err plan_file(const qs_export_job *job, int64_t *bytes)
{
    writer w;
    qs_err err = writer_init(&w, job);
    if (err == QS_OK) err = for_each(&w, add_bytes);
    *bytes = w.n_bytes;
    return err;
}

static qs_err alloc(writer *w)
{
    const qs_spec *spec = qs_quant_file_spec(w->job->quant);
    size_t blocks = 0;
    bool tables = w->types.embedding != NULL || w->types.head != NULL;
    int64_t widest = 0, largest = 0;
    qs_err err;
    for (qs_role role = 0; role < QS_N_ROLES; role++) {
        qs_tensor_info info = qs_model_info(w->job->model, role, 0);
        if (info.n_in > widest) widest = info.n_in;
        if (role >= QS_N_LINEARS || w->types.kind->dense) continue;
        if (info.n_out * info.n_in > largest) largest = info.n_out * info.n_in;
        for (int64_t layer = 0; layer < w->config.n_layers; layer++) {
            const qs_gguf_kind *kind = qs_gguf_types_linear(&w->types, role, layer);
            size_t bytes = (size_t)info.n_out * qs_storage_bytes(kind->storage, info.n_in);
            if (bytes > blocks) blocks = bytes;
        }
    }
    w->n_floats = 2 * widest > CHUNK_FLOATS ? 2 * widest : CHUNK_FLOATS;
    QS_TRY(QS_NEW(w->f32, w->n_floats, "rows to export"));
    QS_TRY(QS_NEW(w->half, w->n_floats, "rows to export"));
    QS_TRY(QS_NEW(w->codes, widest, "codes of a row"));
    if (tables && blocks < (size_t)w->n_floats * sizeof *w->f32) blocks = (size_t)w->n_floats * sizeof *w->f32;
    QS_TRY(QS_NEW(w->blocks, blocks, "blocks of a matrix"));
    if (w->types.aimed) QS_TRY(QS_NEW(w->weights, largest, "weights of a matrix"));
    if (!w->types.aimed && !tables) goto out;
    double damping = spec->damping > 0 ? spec->damping : damping_default;
    int n_threads = w->job->n_threads > 0 ? w->job->n_threads : 1;
    err = qs_gguf_aim_create(&w->aim, w->job->model, w->job->grams, damping, n_threads);
out:
    return err;
}

static void say_table(const writer *w, qs_role role, const qs_gguf_kind *asked, const char *what)
{
    char name[QS_TENSOR_NAME_BYTES];
    const qs_gguf_kind *kind = qs_gguf_types_table(&w->types, role);
    if (kind == NULL) return;
    bool kept = kept_tensor(w, role, qs_role_tensor_name(name, QS_NAMING_GGUF, role, 0)) != NULL;
    qs_log_info("%s in %s%s%s", what, kind->name,
                kept ? ", as the model's file has it" : kind->dense ? "" : ", by rounding",
                kind != asked ? ": its rows are no whole blocks" : "");
}

/* "q4_k 120, q6_k 60": how many matrices of the layers have which type. */
static const char *count_kinds(char text[KINDS_BYTES], const writer *w)
{
    size_t used = 0;
    text[0] = '\0';
    for (const qs_gguf_kind *kind = qs_gguf_kinds; kind->name != NULL; kind++) {
        int64_t n = 0;
        for (int64_t layer = 0; layer < w->config.n_layers; layer++)
            for (qs_role role = 0; role < QS_N_LINEARS; role++)
                n += qs_gguf_types_linear(&w->types, role, layer) == kind;
        if (n == 0) continue;
        (void)snprintf(text + used, KINDS_BYTES - used, "%s%s %lld", used == 0 ? "" : ", ", kind->name, (long long)n);
        used = strlen(text);
    }
    return text;
}

/* What has become of a point whose codes did not fit. */
static void say_aimed(const writer *w)
{
    qs_gguf_aimed facts = qs_gguf_aim_facts(w->aim);
    char text[KINDS_BYTES];
    int64_t n_narrow = 0;
    int unit = w->types.kind->grid.unit;
    for (qs_role role = 0; role < QS_N_LINEARS; role++)
        n_narrow += qs_model_info(w->job->model, role, 0).n_in % unit != 0 ? w->config.n_layers : 0;
    qs_log_info("%s keeps no codes of %s: those of its %lld matrices (%s) are found anew %s, mean loss %.4g",
                w->types.name, qs_quant_file_spec(w->job->quant)->id, (long long)facts.n_matrices, count_kinds(text, w),
                w->job->grams != NULL ? "by GPTQ" : "by rounding (--calib FILE: by GPTQ)", facts.loss);
    if (n_narrow > 0)
        qs_log_info("%lld of them are in a type of 32: their rows are no whole blocks of %d", (long long)n_narrow,
                    unit);
    if (facts.n_fallbacks > 0)
        qs_log_warn("%lld matrices rounded to nearest: no damping made their second moments positive definite",
                    (long long)facts.n_fallbacks);
}

static qs_err write_file(const qs_export_job *job)
{
    float *divisors = NULL;
    writer w;
    qs_err err;
    QS_TRY(writer_init(&w, job));
    QS_TRY(qs_out_dir_check(job->out));
    QS_TRY(alloc(&w));
    int64_t n_divisors = w.config.head_dim / 2;
    QS_TRY(QS_NEW(divisors, n_divisors, "rope divisors"));
    if (job->grams != NULL && !w.types.aimed)
        qs_log_warn("%s keeps the codes as they are: --calib changes nothing", w.types.name);
    QS_TRY(qs_gguf_writer_create(&w.file, job->out));
    QS_TRY(qs_gguf_put_metadata(w.file, job->model, w.types.file_type));
    QS_TRY(for_each(&w, declare));
    bool divided = qs_gguf_rope_divisors(job->model, divisors);
    if (divided) QS_TRY(qs_gguf_writer_declare(w.file, "rope_freqs.weight", QS_STORE_F32, 1, &n_divisors));
    qs_progress_start(&w.progress, "export layers", w.config.n_layers);
    QS_TRY(for_each(&w, put));
    if (divided)
        QS_TRY(qs_gguf_writer_put(w.file, "rope_freqs.weight", divisors, (size_t)n_divisors * sizeof *divisors));
    qs_gguf_writer *file = w.file;
    w.file = NULL;
    err = qs_gguf_writer_publish(file);
out:
    qs_progress_finish(&w.progress);
    if (err == QS_OK && w.types.aimed) say_aimed(&w);
    if (err == QS_OK) {
        say_table(&w, QS_ROLE_EMBED, w.types.embedding, "embedding");
        say_table(&w, QS_ROLE_HEAD, w.types.head, "head");
    }
    qs_gguf_aim_destroy(w.aim);
    qs_mem_free(w.weights);
    qs_gguf_writer_discard(w.file);
    qs_mem_free(divisors);
    qs_mem_free(w.f32);
    qs_mem_free(w.half);
    qs_mem_free(w.codes);
    qs_mem_free(w.blocks);
    return err;
}

const qs_export_format qs_export_gguf = {
    .name = "gguf",
    .loaders = "llama.cpp",
    .holds = "integer codes in groups of whole blocks of 32, without a permutation, as they are (q4_0: sym "
             "up to 4 bits,\n"
             "           asym up to 3; q4_1: asym 4, its minima rounded to f16; q5_0: asym 4, exact; q8_0: "
             "sym 8); any point\n"
             "           with --type f16 or f32; with another --type, or a mixture of types, the parent's weights on "
             "its grids,\n"
             "           by GPTQ with --calib, else by rounding (not of points whose weights are scaled); embedding "
             "and head as the\n"
             "           parent's file has them, or f16, or as the mixture has them, or of any --type by rounding\n"
             "           (--embedding-type, --head-type)",
    .check = check,
    .plan = plan_file,
    .write = write_file,
};
