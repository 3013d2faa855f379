/* Artifacts of calibrate, quantize and evaluate, sealed as a malicious writer would seal them. libhdf5 itself is not
 * instrumented, so the input is not a file but what is to stand in it: a first line with the kind (calib, quant, eval),
 * then a line for each object, the first of a path winning:
 *
 *   /config/@bits 4          /config/@id a text          /spec/@bpw 4.25
 *   /tokens/nll 8,4 0000803f the dimensions, and bytes that are repeated until it is full
 *   /layers/0/..../@loss 0.5 "...." stands for every matrix, norm and site
 *
 * A second evaluation may follow behind a line "%%", for a report of both.
 * What the readers accept must be whole and readable to the last element. */
#include <inttypes.h>
#include <math.h>

#include "artifact/artifact.h"
#include "base/log.h"
#include "base/mem.h"
#include "quant/quant_file.h"
#include "report/controls.h"
#include "report/json_report.h"
#include "report/tables.h"
#include "report/terminal.h"
#include "scratch_model.h"
#include "stat/calib_file.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

enum { DATA_BYTES = 1 << 16, LINE_BYTES = 1024, EVERY_BYTES = 4 };
static const char every[] = "....";

static char dir[QS_PATH_BYTES], file_path[QS_PATH_BYTES + 16], second_path[QS_PATH_BYTES + 16];
static qs_model *model;
static qs_digest model_digest;
static qs_budgets budgets;
static FILE *nowhere;

static void clean(void)
{
    (void)remove(file_path);
    (void)remove(second_path);
    scratch_model_remove(model, dir);
    qs_budgets_free(&budgets);
    (void)fclose(nowhere);
}

static void prepare(void)
{
    static const char rules[] = "profile,metric,op,limit,level,source\n*,ppl_ratio,<=,1.05,fail,project\n"
                                "*,kld_mean,<=,0.1,warn,project\nbnb,latency_gain_pct,ci>=,10,fail,project\n"
                                "*,qa_acc&cite_ok,>=&>=,0.5&0.5,fail,project\n";
    if (model != NULL) return;
    qs_log_set_level(QS_LOG_ERROR);
    model = scratch_model(dir);
    (void)snprintf(file_path, sizeof file_path, "%s/a.h5", dir);
    (void)snprintf(second_path, sizeof second_path, "%s/b.h5", dir);
    nowhere = fopen("/dev/null", "w");
    if (nowhere == NULL || qs_model_digest(model, &model_digest) != QS_OK ||
        qs_budgets_parse(&budgets, rules, sizeof rules - 1, "budgets") != QS_OK)
        abort();
    (void)atexit(clean);
}

/* ---- the file ---- */

static unsigned hex_digit(char c)
{
    return c >= '0' && c <= '9' ? (unsigned)(c - '0') : c >= 'a' && c <= 'f' ? (unsigned)(c - 'a') + 10 : 16;
}

/* "8,4 0000803f" */
static void put_dataset(qs_artifact *artifact, const char *path, const qs_schema_row *row, const char *value)
{
    int64_t dims[QS_ARTIFACT_MAX_RANK] = {0}, n = 1;
    int rank = 0;
    char *data = NULL;
    for (char *end; rank < QS_ARTIFACT_MAX_RANK; value = end + 1) {
        dims[rank] = strtoll(value, &end, 10);
        if (end == value || dims[rank] < 0 || dims[rank] > DATA_BYTES) return;
        n *= dims[rank++];
        if (n > DATA_BYTES) return;
        if (*end != ',') {
            value = *end == ' ' ? end + 1 : end;
            break;
        }
    }
    size_t size = (size_t)n * qs_dtype_bytes(row->dtype), period = strlen(value) / 2;
    if (qs_mem_alloc(&data, size + 1, "data") != QS_OK) return;
    for (size_t i = 0; i < size && period > 0; i++)
        data[i] = (char)(hex_digit(value[i % period * 2]) << 4 | (hex_digit(value[i % period * 2 + 1]) & 15));
    qs_err err = qs_artifact_put(artifact, path, row->dtype, rank, dims, data);
    (void)err;
    qs_mem_free(data);
}

/* What the writer refuses is left out. */
static void put_object(qs_artifact *artifact, qs_artifact_kind kind, const char *path, const char *value)
{
    const qs_schema_row *row = qs_schema_find(kind, path);
    qs_err err = QS_OK;
    if (row == NULL) return;
    switch (row->cell) {
    case QS_CELL_DATASET: put_dataset(artifact, path, row, value); break;
    case QS_CELL_INT: err = qs_artifact_put_int(artifact, path, strtoll(value, NULL, 10)); break;
    case QS_CELL_REAL: err = qs_artifact_put_real(artifact, path, strtod(value, NULL)); break;
    case QS_CELL_TEXT: err = qs_artifact_put_text(artifact, path, value); break;
    }
    (void)err;
}

static void put_line(qs_artifact *artifact, qs_artifact_kind kind, char *line)
{
    char path[LINE_BYTES], *value = strchr(line, ' '), *wild = strstr(line, every);
    if (value == NULL) return;
    *value++ = '\0';
    if (wild == NULL || wild > value) {
        put_object(artifact, kind, line, value);
        return;
    }
    int n = kind == QS_KIND_CALIB ? (int)QS_N_SITES : (int)QS_N_BLOCK_ROLES;
    for (int i = 0; i < n; i++) {
        const char *name = kind == QS_KIND_CALIB ? qs_site_name((qs_site)i) : qs_role_name((qs_role)i);
        (void)snprintf(path, sizeof path, "%.*s%s%s", (int)(wild - line), line, name, wild + EVERY_BYTES);
        put_object(artifact, kind, path, value);
    }
}

/* False when there is none to be read. */
static bool write_file(const char *path, const char *text, size_t bytes, qs_artifact_kind *kind)
{
    const char *at = text, *end = text + bytes;
    qs_artifact *artifact;
    qs_digest digest;
    char line[LINE_BYTES];
    bool begun = false;
    for (const char *stop; at < end; at = stop + 1) {
        stop = memchr(at, '\n', (size_t)(end - at));
        if (stop == NULL) stop = end;
        size_t length = (size_t)(stop - at);
        if (length >= sizeof line) continue;
        memcpy(line, at, length);
        line[length] = '\0';
        if (begun) {
            put_line(artifact, *kind, line);
            continue;
        }
        for (*kind = QS_KIND_CALIB; *kind <= QS_KIND_EVAL; (*kind)++)
            if (strcmp(line, qs_artifact_kind_name(*kind)) == 0) break;
        if (*kind > QS_KIND_EVAL || qs_artifact_create(&artifact, path, *kind) != QS_OK) return false;
        begun = true;
    }
    if (!begun) return false;
    qs_err err = qs_artifact_add_parent(artifact, "model", "m", model_digest);
    (void)err;
    return qs_artifact_seal(artifact, &digest) == QS_OK;
}

/* ---- its readers ---- */

static void read_calib(int n_files)
{
    (void)n_files;
    qs_calib_file *file;
    const float *values;
    int64_t n_tokens, n_windows = 3, n_ctx = 5;
    int32_t tokens[15];
    double sum = 0;
    if (qs_calib_file_open(&file, file_path, model) != QS_OK) return;
    for (qs_site site = 0; site < QS_N_SITES; site++) {
        int64_t width = qs_site_width(qs_model_get_config(model), site);
        if (qs_calib_file_gram(file, 0, site, &values, &n_tokens) == QS_OK) {
            if (n_tokens < 1) __builtin_trap();
            for (int64_t i = 0; i < width * (width + 1) / 2; i++) sum += (double)values[i];
        }
        if (qs_calib_file_abs_mean(file, 0, site, &values) == QS_OK)
            for (int64_t i = 0; i < width; i++) sum += (double)values[i];
    }
    if (qs_calib_file_tokens(file, &n_windows, &n_ctx, tokens) == QS_OK)
        for (int64_t i = 0; i < n_windows * n_ctx; i++)
            if (tokens[i] < 0 || tokens[i] >= SCRATCH_VOCAB) __builtin_trap();
    if (isnan(sum)) (void)fputc(' ', nowhere);
    qs_calib_file_close(file);
}

static void read_quant(int n_files)
{
    (void)n_files;
    qs_quant_file *file;
    qs_matrix_desc desc;
    float row[SCRATCH_WIDTH];
    double losses[QS_N_LINEARS];
    if (qs_quant_file_open(&file, file_path, model) != QS_OK) return;
    qs_linear_source source = qs_quant_file_source(file);
    for (qs_role role = 0; role < QS_N_BLOCK_ROLES; role++) {
        bool found = false;
        if (role >= QS_N_LINEARS) {
            qs_err err = source.get_vector(source.context, 0, role, SCRATCH_WIDTH, row, &found);
            (void)err;
            continue;
        }
        if (source.get(source.context, 0, role, &desc) != QS_OK) continue;
        if (desc.n_out != SCRATCH_WIDTH || desc.n_in != SCRATCH_WIDTH) __builtin_trap();
        for (int64_t o = 0; o < SCRATCH_WIDTH; o++) qs_packed_dequant_rows(desc.packed, o, 1, row);
    }
    if (qs_quant_file_size(file).bytes < 0) __builtin_trap();
    if (qs_quant_file_losses(file, losses) == QS_OK) (void)fprintf(nowhere, "%g", losses[0]);
    qs_quant_file_close(file);
}

static qs_err report(const qs_sweep *sweep)
{
    qs_selection selection = {0};
    qs_control controls[QS_N_CONTROLS];
    qs_terminal_options look = {.markdown = true};
    qs_err err;
    QS_TRY(qs_selection_make(&selection, sweep, &budgets, 0));
    (void)qs_controls_run(sweep, controls);
    /* One that fails must not keep the others from being tried. */
    for (const qs_table *table = qs_tables; table->file != NULL; table++) {
        qs_err ignored = table->write(nowhere, sweep, &selection);
        (void)ignored;
    }
    QS_TRY(qs_terminal_print(nowhere, sweep, &selection, controls, &look));
    QS_TRY(qs_json_report_print(nowhere, sweep, &selection, controls));
out:
    qs_selection_free(&selection);
    return err;
}

static void read_eval(int n_files)
{
    const char *paths[] = {file_path, second_path};
    qs_sweep sweep;
    if (qs_sweep_load(&sweep, paths, n_files, &budgets, false) == QS_OK) {
        qs_err err = report(&sweep);
        (void)err;
    }
    qs_sweep_free(&sweep);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    static void (*const readers[])(int) = {
        [QS_KIND_CALIB] = read_calib, [QS_KIND_QUANT] = read_quant, [QS_KIND_EVAL] = read_eval};
    const char *text = (const char *)data, *mark = memmem(text, bytes, "\n%%\n", 4);
    size_t first_bytes = mark != NULL ? (size_t)(mark - text) : bytes;
    qs_artifact_kind kind, second;
    prepare();
    if (!write_file(file_path, text, first_bytes, &kind)) return 0;
    bool two = mark != NULL && kind == QS_KIND_EVAL &&
               write_file(second_path, mark + 4, bytes - first_bytes - 4, &second) && second == kind;
    readers[kind](two ? 2 : 1);
    return 0;
}
