/* Quantising a whole model: blocks are read once, every spec that shares a matrix and its factors is solved
 * together, and finished artifacts are published point by point. */
#ifndef QS_QUANT_QUANT_RUN_H
#define QS_QUANT_QUANT_RUN_H

#include "artifact/artifact.h"
#include "model/block.h"
#include "quant/methods.h"

/* All seven linears of a layer for one spec. */
typedef struct qs_quant_layer {
    qs_quant_result linears[QS_N_LINEARS];
} qs_quant_layer;
void qs_quant_layer_free(qs_quant_layer *layer);

/* Gives the second moments of a site as calib.h5 stores them; NULL context callbacks are for specs that need none. */
typedef struct qs_gram_source {
    qs_err (*get)(void *context, int64_t layer, qs_site site, const float **packed_gram, int64_t *n_tokens);
    void *context;
} qs_gram_source;

/* Quantises one layer for n_specs specs at once: out[n_specs]. Weights are read once, factors shared. */
QS_MUST_CHECK qs_err qs_quantize_layer(const qs_model *model, qs_backend *backend, int64_t layer,
                                       const qs_gram_source *grams, const qs_spec *specs, int64_t n_specs,
                                       qs_quant_layer *out);

/* What a quant artifact costs. Stored bits of the linears per weight; of the whole model with embeddings and
 * head in f16 and norms in f32; bytes of the whole. */
typedef struct qs_quant_size {
    double bpw, bpw_total;
    int64_t bytes;
} qs_quant_size;
qs_quant_size qs_quant_size_of(const qs_spec *spec, const qs_model *model); /* NULL spec = the f16 reference */

/* Writes "<dir>/<id>.quant.h5" layer by layer for many specs; seals each when its last layer is in. */
typedef struct qs_quant_writer qs_quant_writer;
QS_MUST_CHECK qs_err qs_quant_writer_create(qs_quant_writer **out, const char *dir, qs_model *model,
                                            const qs_spec *spec, const qs_digest *calib /* NULL = none */, int argc,
                                            char *const *argv);
QS_MUST_CHECK qs_err qs_quant_writer_add(qs_quant_writer *writer, int64_t layer, const qs_quant_layer *quant);
QS_MUST_CHECK qs_err qs_quant_writer_finish(qs_quant_writer *writer, double quantize_s); /* frees, also on failure */
void qs_quant_writer_abort(qs_quant_writer *writer);

/* Reads one: a linear source for blocks and decoders. Refuses an artifact of another model (QS_E_INPUT). */
typedef struct qs_quant_file qs_quant_file;
QS_MUST_CHECK qs_err qs_quant_file_open(qs_quant_file **out, const char *path, qs_model *model);
void qs_quant_file_close(qs_quant_file *file);
const qs_spec *qs_quant_file_spec(const qs_quant_file *file);
qs_quant_size qs_quant_file_size(const qs_quant_file *file);
const qs_artifact *qs_quant_file_artifact(const qs_quant_file *file);
/* The source holds one layer's packed matrices at a time. */
qs_linear_source qs_quant_file_source(qs_quant_file *file);

#endif
