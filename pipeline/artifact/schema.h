/* The schema of every artifact as rows: path pattern, dtype, rank, unit, description. The files' layout, the
 * writer's checks and docs/artifacts.md all come from these rows. */
#ifndef QS_ARTIFACT_SCHEMA_H
#define QS_ARTIFACT_SCHEMA_H

#include <stdbool.h>
#include <stdio.h>

#include "base/dtype.h"
#include "base/error.h"

typedef enum qs_artifact_kind {
    QS_KIND_CALIB, /* calib.h5 */
    QS_KIND_QUANT, /* <spec-id>.quant.h5 */
    QS_KIND_EVAL,  /* <id>.eval.h5 */
    QS_KIND_TRAIN, /* <model>.train.h5, a checkpoint */
    QS_KIND_OPTIM, /* <name>.optim.h5 */
    QS_KIND_EMBED, /* <encoder>.embed.h5 */
    QS_N_KINDS
} qs_artifact_kind;

enum {
    QS_SCHEMA_VERSION = 1,
    QS_SCHEMA_PATH_BYTES = 256, /* of a path with its NUL */
};

typedef enum qs_cell { QS_CELL_DATASET, QS_CELL_INT, QS_CELL_REAL, QS_CELL_TEXT } qs_cell;

typedef struct qs_schema_row {
    unsigned kinds;   /* bit set of 1u << qs_artifact_kind */
    const char *path; /* segments; attributes end in "/@name"; "*" stands for the rest of a segment, of
                         printable ASCII without "@" in front */
    qs_cell cell;
    qs_dtype dtype;   /* of datasets */
    int rank;
    const char *dims; /* "[n_out, n_groups]" */
    const char *unit; /* "" when it has none */
    const char *text; /* one sentence */
    bool nan_ok;
} qs_schema_row;

extern const qs_schema_row qs_schema_rows[]; /* ends with path == NULL */

const char *qs_artifact_kind_name(qs_artifact_kind kind);  /* "calib" */
const char *qs_artifact_kind_stage(qs_artifact_kind kind); /* the stage that makes it: "qsweep-calibrate" */

/* The row for a path, or NULL. Paths with empty, "." or ".." segments match no row. */
const qs_schema_row *qs_schema_find(qs_artifact_kind kind, const char *path);

/* "dataset", "int", "real" or "text". */
const char *qs_cell_name(qs_cell cell);

/* docs/artifacts.md, generated (make docs). */
void qs_schema_print_markdown(FILE *stream);

#endif
