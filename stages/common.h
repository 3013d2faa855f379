/* What several stages share: which backend computes, and what is said when that is not what was hoped for. */
#ifndef QS_STAGES_COMMON_H
#define QS_STAGES_COMMON_H

#include "base/progress.h"
#include "backend/backend.h"
#include "base/args.h"
#include "base/json.h"
#include "model/placement.h"
#include "model/weights.h"

/* What a stage holds on a device while it streams a model through it, block by block. */
typedef struct stage_need {
    const char *what;      /* "calibrate" */
    size_t weights_bytes;  /* a block, the head, what they are expanded into */
    size_t rest_bytes;     /* activations, statistics, logits */
    size_t states_bytes;   /* residual states of the windows: the least that works */
} stage_need;

/* The backend of --backend and --device, within --vram-budget. --device-map cpu is the CPU. Where a device is too small
 * for the need, "auto" goes on with the CPU and says so with the figures; a device that was asked for by name is
 * QS_E_RESOURCE. */
QS_MUST_CHECK qs_err stage_backend_create(qs_backend **out, const qs_common_args *common, int n_threads,
                                          const qs_device_map *map, const stage_need *need);

/* --json: the document and a line end on stdout. Takes the reference; NULL = it could not be made. QS_E_RESOURCE. */
QS_MUST_CHECK qs_err stage_print_json(json_t *root);

/* --list, one row after another: as text with a heading for each section, or under --json as a document
 * {SECTION: [{"name", "unit", "text"}]} whose keys are the first words of the headings. */
typedef struct stage_list {
    json_t *root; /* NULL: as text */
    const char *section;
} stage_list;
stage_list stage_list_begin(const qs_common_args *common);
/* unit NULL = rows of this section have none. */
void stage_list_add(stage_list *list, const char *section, const char *name, const char *unit, const char *text);
QS_MUST_CHECK qs_err stage_list_end(stage_list *list);

/* The same of the methods and keys of specs. */
QS_MUST_CHECK qs_err stage_list_specs(const qs_common_args *common);

/* Bytes of a block's matrices in f32, and of the largest of them. */
size_t stage_block_bytes(const qs_model *model, size_t *widest);

/* Before the work: from here on peaks are those of the work. */
size_t stage_begin_work(void);

/* At the end: what was planned beside what happened. Nothing is said of work below a tenth of a second. The
 * planned bytes are those that the library allocates (base/mem.h), without HDF5, oneDNN and files, and
 * beyond held_bytes, which stage_begin_work returned. foretold NULL = nothing was. */
void stage_tell_estimate(const char *what, double seconds, double planned_seconds, size_t held_bytes,
                         size_t planned_bytes, const qs_foretold *foretold);

#endif
