/* GGUF for llama.cpp: the quantised matrices in a type that keeps their codes, with codes found anew on the grid of a
 * type that does not (gguf_aim.h), or de-quantised; norms and biases in F32; embedding and head as the parent's GGUF
 * stores them, from a directory in F16, or in a type of their own. */
#include <stdio.h>
#include <string.h>

#include "base/dtype.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/progress.h"
#include "export/export.h"
#include "export/gguf_aim.h"
#include "export/gguf_metadata.h"
#include "export/out_dir.h"
#include "model/dequant.h"
#include "model/turned.h"

enum { CHUNK_FLOATS = 1 << 18, WHY_BYTES = 192 };
static const double damping_default = 0.01; /* of points whose method has none */

typedef struct writer {
    const qs_export_job *job;
    const qs_gguf_kind *kind; /* as asked for; see kind_of */
    bool aimed;               /* codes are found anew */
    const qs_gguf_kind *embedding, *head; /* as asked for; NULL = as the parent's file stores them, or F16 */
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

/* ---- what it holds ---- */

/* The type of a linear's matrix: rows that are no whole blocks of 256 take a type of 32. */
static const qs_gguf_kind *kind_of(const writer *w, qs_role role)
{
    return qs_gguf_kind_for_row(w->kind, qs_model_info(w->job->model, role, 0).n_in);
}

/* Whether a matrix's codes are those of the type; else why not, and what to quantise instead. */
static bool keeps_matrix(const qs_export_job *job, qs_role role, char why[WHY_BYTES])
{
    const qs_spec *spec = qs_quant_file_spec(job->quant);
    char name[QS_EXPORT_NAME_BYTES];
    int64_t n_in = qs_model_info(job->model, role, 0).n_in;
    int64_t group = spec->group_size < 0 ? n_in : spec->group_size;
    (void)qs_export_matrix_name(name, 0, role);
    if (group % QS_GGUF_BLOCK != 0 && group < n_in)
        (void)snprintf(why, WHY_BYTES, "%s: groups of %lld weights are no whole blocks of 32; quantise with group=32 "
                       "or a multiple of it", name, (long long)group);
    else if (qs_spec_has_perm(spec, n_in))
        (void)snprintf(why, WHY_BYTES, "%s: with act=1 groups are no neighbours in a row, which blocks are; quantise "
                       "with gar=1 or static=1", name);
    else
        return true;
    return false;
}

/* The same of the whole point; a kind of NULL = no type of blocks has room for its codes. */
static bool keeps(const qs_export_job *job, const qs_gguf_kind *kind, char why[WHY_BYTES])
{
    const qs_spec *spec = qs_quant_file_spec(job->quant);
    if (kind == NULL || !qs_gguf_kind_holds(kind, (int)spec->bits, spec->sym)) {
        (void)snprintf(why, WHY_BYTES, "%s: %s does not hold %lld bits with%s zero points; quantise with sym=1",
                       spec->id, kind != NULL ? kind->name : "no block type of GGUF", (long long)spec->bits,
                       spec->sym ? " fixed" : "");
        return false;
    }
    for (qs_role role = 0; role < QS_N_LINEARS; role++)
        if (!keeps_matrix(job, role, why)) return false;
    return true;
}

static qs_err check_rows(const qs_export_job *job, const qs_gguf_kind *kind)
{
    char name[QS_EXPORT_NAME_BYTES];
    for (qs_role role = 0; role < QS_N_LINEARS; role++) {
        int64_t n_in = qs_model_info(job->model, role, 0).n_in;
        if (qs_gguf_kind_for_row(kind, n_in) == NULL)
            return qs_fail(QS_E_UNSUPPORTED,
                           "export %s: rows of %lld weights are no whole blocks of 32; use --type f16",
                           qs_export_matrix_name(name, 0, role), (long long)n_in);
    }
    return QS_OK;
}

/* Codes can be found anew for the parent's weights alone. */
static qs_err check_aim(const qs_export_job *job, const qs_gguf_kind *kind)
{
    const qs_spec *spec = qs_quant_file_spec(job->quant);
    const qs_gguf_kind *nearest = spec->bits > 0 ? qs_gguf_kind_choose((int)spec->bits, spec->sym) : NULL;
    if (!spec->method->folds) return QS_OK;
    return qs_fail(QS_E_UNSUPPORTED,
                   "export %s: codes on the grid of %s would be those of the parent's weights, and this point's are "
                   "scaled; use --type %s, which keeps its codes, or a gptq point", spec->id, kind->name,
                   nearest != NULL ? nearest->name : "f16");
}

/* *aimed: the codes are found anew. What was asked for by name is done, what was not is refused. */
static qs_err choose_kind(const qs_export_job *job, const qs_gguf_kind **kind, bool *aimed)
{
    const qs_spec *spec = qs_quant_file_spec(job->quant);
    const qs_packed *packed;
    char why[WHY_BYTES] = "";
    qs_err err = QS_OK;
    *aimed = false;
    if (job->type != NULL) QS_TRY(qs_gguf_kind_find(kind, "type", job->type));
    if (job->type != NULL && (*kind)->dense) goto out;
    bool integers = spec->method->format == QS_PACKED_INT && spec->bpw == 0;
    if (job->type == NULL) {
        QS_TRY(qs_export_packed(job, 0, QS_ROLE_Q, &packed));
        *kind = qs_gguf_kind_choose((int)spec->bits, spec->sym);
    }
    if (*kind != NULL) QS_TRY(check_rows(job, *kind));
    *aimed = !integers || !keeps(job, *kind, why);
    if (*aimed && job->type == NULL)
        return qs_fail(QS_E_UNSUPPORTED,
                       "export %s; or use --type f16, or --type q4_0, q5_1, q4_k and others, which find codes anew",
                       why);
    if (*aimed) QS_TRY(check_aim(job, *kind));
out:
    return err;
}

/* What the options say of a table: NULL = nothing. */
static qs_err find_table(const qs_export_job *job, qs_role role, const char *option, const char *name,
                         const qs_gguf_kind **out)
{
    qs_err err;
    *out = NULL;
    if (name == NULL) return QS_OK;
    QS_TRY(qs_gguf_kind_find(out, option, name));
    if (role == QS_ROLE_HEAD && qs_model_get_config(job->model)->tied_head)
        return qs_fail(QS_E_USAGE, "--%s %s: the model's head is its embedding; use --embedding-type", option, name);
    if (qs_gguf_kind_for_row(*out, qs_model_info(job->model, role, 0).n_in) == NULL)
        return qs_fail(QS_E_UNSUPPORTED, "--%s %s: rows of %lld weights are no whole blocks of 32; use f16", option,
                       name, (long long)qs_model_info(job->model, role, 0).n_in);
out:
    return err;
}

static qs_err find_tables(const qs_export_job *job, const qs_gguf_kind **embedding, const qs_gguf_kind **head)
{
    qs_err err = find_table(job, QS_ROLE_EMBED, "embedding-type", job->embedding_type, embedding);
    return err == QS_OK ? find_table(job, QS_ROLE_HEAD, "head-type", job->head_type, head) : err;
}

static qs_err check(const qs_export_job *job)
{
    const qs_gguf_kind *kind, *embedding, *head;
    qs_err err;
    bool aimed;
    QS_TRY(find_tables(job, &embedding, &head));
    if (qs_export_has_head(job))
        return qs_fail(QS_E_UNSUPPORTED,
                       "export %s: its output head is quantised too, for which no type of GGUF is written; "
                       "use --format exl2, or quantise with head=16",
                       qs_quant_file_spec(job->quant)->id);
    err = choose_kind(job, &kind, &aimed);
out:
    return err;
}

/* ---- tables and vectors ---- */

static bool is_written(const writer *w, qs_role role, int64_t layer)
{
    if (role == QS_ROLE_HEAD && w->config.tied_head) return false;
    return qs_model_has(w->job->model, role, layer);
}

/* The type that a table was given; NULL = none, or it is no table. */
static const qs_gguf_kind *table_kind(const writer *w, qs_role role)
{
    const qs_gguf_kind *kind = role == QS_ROLE_EMBED ? w->embedding : role == QS_ROLE_HEAD ? w->head : NULL;
    return kind != NULL ? qs_gguf_kind_for_row(kind, w->config.d_model) : NULL;
}

/* The parent's tensor, where it is to be taken over byte by byte: tables beside quantised matrices, or that have the
 * type already. */
static const qs_gguf_tensor *kept_tensor(const writer *w, qs_role role, const char *name)
{
    const qs_gguf *gguf = qs_model_get_gguf(w->job->model);
    const qs_gguf_kind *kind = table_kind(w, role);
    if (gguf == NULL || qs_model_rotation(w->job->model) != NULL) return NULL;
    if (role < QS_N_BLOCK_ROLES || role == QS_ROLE_FINAL_NORM || (kind == NULL && w->kind->dense)) return NULL;
    const qs_gguf_tensor *tensor = qs_gguf_find_tensor(gguf, name);
    return tensor != NULL && (kind == NULL || kind->storage == tensor->storage) ? tensor : NULL;
}

static qs_storage storage_of(const writer *w, qs_role role, const char *name)
{
    if (role < QS_N_LINEARS) return kind_of(w, role)->storage;
    if (role != QS_ROLE_EMBED && role != QS_ROLE_HEAD) return QS_STORE_F32;
    const qs_gguf_tensor *kept = kept_tensor(w, role, name);
    if (kept != NULL) return kept->storage;
    if (table_kind(w, role) != NULL) return table_kind(w, role)->storage;
    return w->kind->dense ? w->kind->storage : QS_STORE_F16;
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
    const qs_gguf_kind *kind = table_kind(w, role);
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
            err = put_floats(w, name, storage_of(w, role, name), w->f32, n_rows * info.n_in);
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
        err = put_floats(w, name, w->kind->storage, w->f32, p->n_in);
    }
    return err;
}

static qs_err put_aimed(writer *w, int64_t layer, qs_role role, const char *name)
{
    qs_tensor_info info = qs_model_info(w->job->model, role, layer);
    const qs_gguf_kind *kind = kind_of(w, role);
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
    if (w->aimed) return put_aimed(w, layer, role, name);
    QS_TRY(qs_export_matrix(w->job, layer, role, &p)); /* what is not integers was refused, or is de-quantised */
    if (w->kind->dense) return put_dense(w, p, role, name);
    size_t row_bytes = qs_storage_bytes(w->kind->storage, p->n_in);
    for (int64_t row = 0; row < p->n_out; row++)
        QS_TRY(qs_gguf_put_row(w->kind, p, source_row(w, role, p->n_out, row), w->codes,
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
    return qs_gguf_writer_declare(w->file, name, storage_of(w, role, name), vector ? 1 : 2,
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
    w->n_bytes += info.n_out * (int64_t)qs_storage_bytes(storage_of(w, role, name), info.n_in);
    return QS_OK;
}

static qs_err writer_init(writer *w, const qs_export_job *job)
{
    *w = (writer){.job = job, .config = *qs_model_get_config(job->model)};
    (void)snprintf(w->config.architecture, sizeof w->config.architecture, "%s", qs_gguf_architecture(&w->config));
    qs_err err = find_tables(job, &w->embedding, &w->head);
    return err == QS_OK ? choose_kind(job, &w->kind, &w->aimed) : err;
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
    bool tables = w->embedding != NULL || w->head != NULL;
    int64_t widest = 0, largest = 0;
    qs_err err;
    for (qs_role role = 0; role < QS_N_ROLES; role++) {
        qs_tensor_info info = qs_model_info(w->job->model, role, 0);
        if (info.n_in > widest) widest = info.n_in;
        if (role >= QS_N_LINEARS || w->kind->dense) continue;
        size_t bytes = (size_t)info.n_out * qs_storage_bytes(kind_of(w, role)->storage, info.n_in);
        if (bytes > blocks) blocks = bytes;
        if (info.n_out * info.n_in > largest) largest = info.n_out * info.n_in;
    }
    w->n_floats = 2 * widest > CHUNK_FLOATS ? 2 * widest : CHUNK_FLOATS;
    QS_TRY(QS_NEW(w->f32, w->n_floats, "rows to export"));
    QS_TRY(QS_NEW(w->half, w->n_floats, "rows to export"));
    QS_TRY(QS_NEW(w->codes, widest, "codes of a row"));
    if (tables && blocks < (size_t)w->n_floats * sizeof *w->f32) blocks = (size_t)w->n_floats * sizeof *w->f32;
    QS_TRY(QS_NEW(w->blocks, blocks, "blocks of a matrix"));
    if (w->aimed) QS_TRY(QS_NEW(w->weights, largest, "weights of a matrix"));
    if (!w->aimed && !tables) goto out;
    double damping = spec->damping > 0 ? spec->damping : damping_default;
    int n_threads = w->job->n_threads > 0 ? w->job->n_threads : 1;
    err = qs_gguf_aim_create(&w->aim, w->job->model, w->job->grams, damping, n_threads);
out:
    return err;
}

static void say_table(const writer *w, qs_role role, const qs_gguf_kind *asked, const char *what)
{
    char name[QS_TENSOR_NAME_BYTES];
    const qs_gguf_kind *kind = table_kind(w, role);
    if (kind == NULL) return;
    bool kept = kept_tensor(w, role, qs_role_tensor_name(name, QS_NAMING_GGUF, role, 0)) != NULL;
    qs_log_info("%s in %s%s%s", what, kind->name,
                kept ? ", as the model's file has it" : kind->dense ? "" : ", by rounding",
                kind != asked ? ": its rows are no whole blocks" : "");
}

/* What has become of a point whose codes did not fit. */
static void say_aimed(const writer *w)
{
    qs_gguf_aimed facts = qs_gguf_aim_facts(w->aim);
    int64_t n_narrow = 0, n_layers = w->config.n_layers;
    for (qs_role role = 0; role < QS_N_LINEARS; role++) n_narrow += kind_of(w, role) != w->kind ? n_layers : 0;
    qs_log_info("%s keeps no codes of %s: those of its %lld matrices are found anew %s, mean loss %.4g", w->kind->name,
                qs_quant_file_spec(w->job->quant)->id, (long long)facts.n_matrices,
                w->job->grams != NULL ? "by GPTQ" : "by rounding (--calib FILE: by GPTQ)", facts.loss);
    if (n_narrow > 0)
        qs_log_info("%lld of them are in %s: their rows are no whole blocks of %d", (long long)n_narrow,
                    w->kind->narrow, w->kind->grid.unit);
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
    if (job->grams != NULL && !w.aimed)
        qs_log_warn("%s keeps the codes as they are: --calib changes nothing", w.kind->name);
    QS_TRY(qs_gguf_writer_create(&w.file, job->out));
    QS_TRY(qs_gguf_put_metadata(w.file, job->model, w.kind->file_type));
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
    if (err == QS_OK && w.aimed) say_aimed(&w);
    if (err == QS_OK) {
        say_table(&w, QS_ROLE_EMBED, w.embedding, "embedding");
        say_table(&w, QS_ROLE_HEAD, w.head, "head");
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
             "           with --type f16 or f32; with another --type of q4_0, q4_1, q5_0, q5_1, q8_0, q2_k, q3_k, "
             "q4_k, q5_k, q6_k\n"
             "           the parent's weights on that type's grid, by GPTQ with --calib, else by rounding (not of "
             "points whose\n"
             "           weights are scaled); embedding and head as the parent's file has them, f16, or of any --type by "
             "rounding\n"
             "           (--embedding-type, --head-type)",
    .check = check,
    .plan = plan_file,
    .write = write_file,
};
