/* Export: a quantised point in the format of the runtime that will serve it. A format is a row; adding one is
 * a file and a row (docs/add-a-row.md). What a format cannot hold is refused before anything is written. */
#ifndef QS_EXPORT_EXPORT_H
#define QS_EXPORT_EXPORT_H

#include "quant/quant_file.h"

struct qs_export_format;

typedef struct qs_export_job {
    const struct qs_export_format *format;
    const qs_model *model; /* whose tables, norms and biases go with the point: qs_quant_file_model of it */
    qs_quant_file *quant; /* the point */
    const char *out;      /* directory or file that will appear */
    const char *type;     /* of the matrices, where the format leaves a choice (gguf); NULL = the format's own */
    const char *embedding_type, *head_type; /* of these tables, likewise; a tied model has no head of its own */
    const qs_gram_source *grams; /* second moments of the parent, where codes are found anew (gguf); NULL = none */
    int n_threads;               /* for that; 0 = one */
    size_t shard_bytes;   /* largest file of tensors in a directory; 0 = 5 GB, as transformers cuts them */
} qs_export_job;

typedef struct qs_export_format {
    const char *name;
    const char *loaders; /* who reads it */
    const char *holds;   /* which points, and what of them is changed */
    bool directory;      /* out is a directory, else a file */
    /* QS_E_UNSUPPORTED names the matrix, the cause, and the nearest format or spec that works. Reads the
     * artifact where the answer depends on it; writes nothing. */
    qs_err (*check)(const qs_export_job *job);
    /* Bytes of tensors that write() will write. */
    qs_err (*plan)(const qs_export_job *job, int64_t *bytes);
    qs_err (*write)(const qs_export_job *job);
} qs_export_format;

extern const qs_export_format *const qs_export_formats[]; /* NULL-terminated */
/* QS_E_USAGE lists the names. */
QS_MUST_CHECK qs_err qs_export_format_find(const qs_export_format **out, const char *name);

extern const qs_export_format qs_export_gptq, qs_export_gptq_v2, qs_export_awq, qs_export_bnb, qs_export_exl2,
    qs_export_gguf;

/* Whether the point has quantised the output head too: then role QS_ROLE_HEAD is one of its matrices. */
bool qs_export_has_head(const qs_export_job *job);
/* The packed matrix of a linear, on loan until the next call; QS_E_UNSUPPORTED when the artifact holds it otherwise
 * than as integers. */
QS_MUST_CHECK qs_err qs_export_integers(const qs_export_job *job, int64_t layer, qs_role role, const qs_packed **out);
/* The same, and all matrices have the same bits and groups. */
QS_MUST_CHECK qs_err qs_export_packed(const qs_export_job *job, int64_t layer, qs_role role, const qs_packed **out);
/* The same of any format, and of the head. */
QS_MUST_CHECK qs_err qs_export_matrix(const qs_export_job *job, int64_t layer, qs_role role, const qs_packed **out);
/* A norm or bias of a layer as the point has it, dst [n]. */
QS_MUST_CHECK qs_err qs_export_vector(const qs_export_job *job, int64_t layer, qs_role role, int64_t n, float *dst);
/* "layers.3.q_proj", for messages. */
enum { QS_EXPORT_NAME_BYTES = 64 };
const char *qs_export_matrix_name(char name[QS_EXPORT_NAME_BYTES], int64_t layer, qs_role role);

#endif
