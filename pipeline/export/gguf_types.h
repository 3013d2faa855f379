/* Which type every tensor of a GGUF file gets: a single type for all matrices, one by one those of a mixture
 * (gguf_mixture.h), or where nothing is asked for the one that keeps the codes; tables by their own options. What
 * cannot be written is refused here. */
#ifndef QS_EXPORT_GGUF_TYPES_H
#define QS_EXPORT_GGUF_TYPES_H

#include "export/export.h"
#include "export/gguf_mixture.h"

typedef struct qs_gguf_types {
    const qs_export_job *job;
    const char *name;               /* as --type has it */
    uint32_t file_type;             /* "general.file_type" */
    const qs_gguf_kind *kind;       /* of all matrices whose rows are whole blocks of it; of a mixture, of most */
    const qs_gguf_mixture *mixture; /* NULL = a single type */
    bool aimed;                     /* codes are found anew (gguf_aim.h) */
    const qs_gguf_kind *embedding, *head; /* as asked for; NULL = as the parent's file stores them, or F16 */
} qs_gguf_types;

/* By the options of a job; everything is borrowed from it. QS_E_USAGE names an option and lists what it may be;
 * QS_E_UNSUPPORTED names the matrix, the cause, and the type or spec that works. */
QS_MUST_CHECK qs_err qs_gguf_types_choose(qs_gguf_types *out, const qs_export_job *job);

/* Of the matrix of a linear. */
const qs_gguf_kind *qs_gguf_types_linear(const qs_gguf_types *types, qs_role role, int64_t layer);
/* Of a table; NULL = nothing is asked for, or the role is no table. */
const qs_gguf_kind *qs_gguf_types_table(const qs_gguf_types *types, qs_role role);

#endif
