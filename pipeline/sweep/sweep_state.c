#include "sweep/sweep_state.h"

#include <string.h>
#include <sys/stat.h>

#include "artifact/part.h"
#include "base/mem.h"

const char *qs_point_state_name(qs_point_state state)
{
    static const char *const names[] = {"missing", "running", "failed", "quantized", "done"};
    return names[state];
}

/* 0 = there is no such file. */
static double published_at(const char *dir, const char *name)
{
    char path[QS_PATH_BYTES];
    struct stat info;
    if (qs_path_format(path, "%s/%s", dir, name) != QS_OK || stat(path, &info) != 0) return 0.0;
    return (double)info.st_mtim.tv_sec + 1e-9 * (double)info.st_mtim.tv_nsec;
}

/* Whether one of `parts`, sorted names of parts that are being written, belongs to the artifact `name`. */
static bool is_written(char *const *parts, int64_t n_parts, const char *name)
{
    size_t bytes = strlen(name);
    int64_t low = 0, high = n_parts;
    while (low < high) {
        int64_t middle = (low + high) / 2;
        if (strncmp(parts[middle], name, bytes) < 0) low = middle + 1;
        else high = middle;
    }
    size_t of;
    return low < n_parts && qs_part_is_name(parts[low], &of) && of == bytes &&
           strncmp(parts[low], name, bytes) == 0;
}

static void read_point(qs_sweep_point *point, const char *dir, char *const *parts, int64_t n_parts)
{
    char quant[QS_SPEC_ID_BYTES + 16], eval[QS_SPEC_ID_BYTES + 16], path[QS_PATH_BYTES];
    (void)snprintf(quant, sizeof quant, "%s.quant.h5", point->spec->id);
    (void)snprintf(eval, sizeof eval, "%s.eval.h5", point->spec->id);
    point->quantized_at = published_at(dir, quant);
    point->evaluated_at = published_at(dir, eval);
    bool failed =
        (qs_path_format(path, "%s/%s", dir, eval) == QS_OK && qs_failure_read(&point->failure, path)) ||
        (qs_path_format(path, "%s/%s", dir, quant) == QS_OK && qs_failure_read(&point->failure, path));
    point->state = is_written(parts, n_parts, quant) || is_written(parts, n_parts, eval) ? QS_POINT_RUNNING
                   : failed                                                              ? QS_POINT_FAILED
                   : point->evaluated_at > 0                                             ? QS_POINT_DONE
                   : point->quantized_at > 0                                             ? QS_POINT_QUANTIZED
                                                                                         : QS_POINT_MISSING;
}

/* Keeps the names of parts that somebody writes. */
static void drop_others(char **names, int64_t *n, const char *dir)
{
    char path[QS_PATH_BYTES];
    size_t bytes;
    int64_t kept = 0;
    for (int64_t i = 0; i < *n; i++) {
        bool live = qs_part_is_name(names[i], &bytes) &&
                    qs_path_format(path, "%s/%s", dir, names[i]) == QS_OK && qs_file_exists(path) &&
                    !qs_part_is_stale(path);
        char *name = names[i];
        if (!live) continue;
        names[i] = names[kept]; /* swapped, so that all of them are still freed */
        names[kept++] = name;
    }
    *n = kept;
}

double qs_sweep_eta(const double *at, int64_t n_done, double start, int64_t n_left)
{
    double last = start;
    int64_t n = 0;
    for (int64_t i = 0; i < n_done; i++) {
        if (at[i] <= start) continue;
        n++;
        if (at[i] > last) last = at[i];
    }
    if (n_left == 0) return 0.0;
    return n > 0 ? (last - start) / (double)n * (double)n_left : -1.0;
}

/* Quantising begins when the run does, or calibration is done; evaluating when the reference is, or when the
 * points of this run were quantised before any was evaluated. */
static qs_err estimate(qs_sweep_state *state, const char *dir)
{
    double run = published_at(dir, ".sweep"), calib = published_at(dir, "calib.h5"),
           reference = published_at(dir, "fp.eval.h5"), first = 0.0, *at = NULL;
    double quantize_start = calib > run ? calib : run, evaluate_start = reference > run ? reference : run;
    int64_t n_quantized = 0, n_evaluated = 0, n_failed = state->count[QS_POINT_FAILED];
    qs_err err = QS_NEW(at, state->n, "times of points");
    if (err != QS_OK) return err;
    for (int64_t i = 0; i < state->n; i++)
        if (state->points[i].quantized_at > 0) at[n_quantized++] = state->points[i].quantized_at;
    double quantize = qs_sweep_eta(at, n_quantized, quantize_start, state->n - n_failed - n_quantized);
    for (int64_t i = 0; i < state->n; i++) {
        double time = state->points[i].evaluated_at;
        if (time > run && (first == 0.0 || time < first)) first = time;
    }
    for (int64_t i = 0; i < state->n; i++) {
        double time = state->points[i].quantized_at;
        if (time > evaluate_start && time < first) evaluate_start = time;
    }
    for (int64_t i = 0; i < state->n; i++)
        if (state->points[i].evaluated_at > 0) at[n_evaluated++] = state->points[i].evaluated_at;
    double evaluate = qs_sweep_eta(at, n_evaluated, evaluate_start, state->n - n_failed - n_evaluated);
    if (quantize < 0) quantize = state->n == n_quantized + n_failed ? 0.0 : -1.0;
    state->eta = quantize < 0 || evaluate < 0 ? -1.0 : quantize + evaluate;
    qs_mem_free(at);
    return QS_OK;
}

/* Lists every entry: qs_dir_list takes a suffix, and parts end in numbers. */
qs_err qs_sweep_state_read(qs_sweep_state *out, const char *dir, const qs_grid *grid)
{
    char **parts = NULL;
    int64_t n_listed = 0, n_parts;
    qs_err err;
    *out = (qs_sweep_state){.n = grid->n};
    QS_TRY(qs_dir_list(&parts, &n_listed, dir, ""));
    n_parts = n_listed;
    drop_others(parts, &n_parts, dir);
    QS_TRY(QS_NEW(out->points, grid->n, "points of the sweep"));
    out->calibrated = published_at(dir, "calib.h5") > 0;
    out->reference = published_at(dir, "fp.eval.h5") > 0;
    for (int64_t i = 0; i < grid->n; i++) {
        out->points[i].spec = &grid->specs[i];
        read_point(&out->points[i], dir, parts, n_parts);
        out->count[out->points[i].state]++;
    }
    QS_TRY(estimate(out, dir));
out:
    qs_dir_list_free(parts, n_listed);
    if (err != QS_OK) qs_sweep_state_free(out);
    return err;
}

void qs_sweep_state_free(qs_sweep_state *state)
{
    qs_mem_free(state->points);
    *state = (qs_sweep_state){0};
}
