/* "<spec-id>.quant.h5": packed matrices of one point, written layer by layer, read one layer at a time. */
#ifndef QS_QUANT_QUANT_FILE_H
#define QS_QUANT_QUANT_FILE_H

#include "artifact/artifact.h"
#include "model/block.h"
#include "quant/quant_run.h"
#include "quant/quant_size.h"

/* Version of the packed layout (backend/packed.h) that the files hold; kernels refuse another. */
#define QS_QUANT_KERNEL "rowstream-1"

/* Where the head is, of points that quantise it, beside "/layers/<l>/<matrix>" of the linears. */
#define QS_QUANT_HEAD "/layers/outer/lm_head"
#define QS_QUANT_HEAD_CODES QS_QUANT_HEAD "/codes"

/* What a point is made from, besides its spec. */
typedef struct qs_quant_inputs {
    qs_model *model;
    const qs_artifact *calib; /* NULL = none */
    const char *calib_name;
    const qs_backend *backend; /* where it is computed, for the provenance; NULL = not said */
    int64_t device;            /* its number, of a GPU */
    bool keep_going;           /* a point that fails is recorded (artifact/failure.h), and the rest goes on */
    int argc; /* command line, for the provenance */
    char *const *argv;
} qs_quant_inputs;

/* True when `path` holds a sealed artifact of this spec, made by this version from these inputs: nothing to
 * do. A missing, foreign or broken file is not an error here. */
bool qs_quant_is_current(const char *path, const qs_quant_inputs *inputs, const qs_spec *spec);

/* "<dir>/<id>.quant.h5" into path[QS_PATH_BYTES]. */
QS_MUST_CHECK qs_err qs_quant_path(char *path, const char *dir, const qs_spec *spec);

typedef struct qs_quant_writer qs_quant_writer;
QS_MUST_CHECK qs_err qs_quant_writer_create(qs_quant_writer **out, const char *path,
                                            const qs_quant_inputs *inputs, const qs_spec *spec,
                                            int64_t linear_bits); /* as qs_quantizer_linear_bits says */
/* Each layer once. */
QS_MUST_CHECK qs_err qs_quant_writer_add(qs_quant_writer *writer, int64_t layer, const qs_quant_layer *quant);
/* Once, of a spec that quantises it. */
QS_MUST_CHECK qs_err qs_quant_writer_add_head(qs_quant_writer *writer, const qs_quant_result *head);
/* Seals and frees, also on failure. QS_E_INPUT when a layer or the head is missing. digest may be NULL. */
QS_MUST_CHECK qs_err qs_quant_writer_finish(qs_quant_writer *writer, double quantize_s, qs_digest *digest);
void qs_quant_writer_abort(qs_quant_writer *writer); /* NULL is fine */
/* Mean over the blocks' matrices of the loss so far, and how many of all fell back to RTN. */
double qs_quant_writer_loss(const qs_quant_writer *writer);
double qs_quant_writer_predicted(const qs_quant_writer *writer); /* the same of predicted losses */
int64_t qs_quant_writer_n_fallbacks(const qs_quant_writer *writer);

typedef struct qs_quant_file qs_quant_file;
/* Refuses an artifact of another model or packed layout (QS_E_INPUT). */
QS_MUST_CHECK qs_err qs_quant_file_open(qs_quant_file **out, const char *path, qs_model *model);
void qs_quant_file_close(qs_quant_file *file);
const qs_spec *qs_quant_file_spec(const qs_quant_file *file);
qs_quant_size qs_quant_file_size(const qs_quant_file *file);
/* Whose embedding, final norm and head go with its linears: the model's own, or the rotated one's. */
const qs_model *qs_quant_file_model(const qs_quant_file *file);
const qs_artifact *qs_quant_file_artifact(const qs_quant_file *file);

/* Linears, a head in low bits, and norms with what was folded into them, for blocks and decoders; the source holds one
 * layer's packed matrices at a time, and the head from its first use on. */
qs_linear_source qs_quant_file_source(qs_quant_file *file);

/* loss[n_layers * QS_N_LINEARS] of each matrix. */
QS_MUST_CHECK qs_err qs_quant_file_losses(const qs_quant_file *file, double *loss);

#endif
