/* Weights: a model opened for reading. Hugging Face directories (safetensors, sharded or not) and GGUF files
 * are memory-mapped; tensors are addressed by role and layer and come out as f32 in Hugging Face order,
 * whatever the file holds (GGUF's Q/K row permutation for "llama" is undone here). */
#ifndef QS_MODEL_WEIGHTS_H
#define QS_MODEL_WEIGHTS_H

#include "base/hash.h"
#include "model/config.h"
#include "model/tokenizer.h"

/* The quantisable linears come first, in the order of the decoder block. */
typedef enum qs_role {
    QS_ROLE_Q, QS_ROLE_K, QS_ROLE_V, QS_ROLE_O, QS_ROLE_GATE, QS_ROLE_UP, QS_ROLE_DOWN,
    QS_N_LINEARS, /* = 7 */
    QS_ROLE_Q_BIAS = QS_N_LINEARS, QS_ROLE_K_BIAS, QS_ROLE_V_BIAS, QS_ROLE_O_BIAS,
    QS_ROLE_Q_NORM, QS_ROLE_K_NORM, QS_ROLE_ATTN_NORM, QS_ROLE_MLP_NORM,
    QS_N_BLOCK_ROLES,
    /* Once per model; the layer argument is ignored. */
    QS_ROLE_EMBED = QS_N_BLOCK_ROLES, /* [n_vocab, d_model] */
    QS_ROLE_HEAD,                     /* [n_vocab, d_model]; resolves to EMBED when tied */
    QS_ROLE_FINAL_NORM,               /* [d_model] */
    QS_N_ROLES
} qs_role;

/* "q_proj", "gate_proj", "input_layernorm", ...: the Hugging Face leaf name. */
const char *qs_role_name(qs_role role);

/* The two spellings of tensor names, and of the order of Q and K rows that goes with them. */
typedef enum qs_naming { QS_NAMING_HF, QS_NAMING_GGUF } qs_naming;
enum { QS_TENSOR_NAME_BYTES = 96 };
/* "model.layers.3.self_attn.q_proj.weight", "blk.3.attn_q.weight"; returns name. */
const char *qs_role_tensor_name(char name[QS_TENSOR_NAME_BYTES], qs_naming naming, qs_role role, int64_t layer);
/* Heads within which GGUF interleaves the halves of the rows of Q and K (and of their biases): its row h * D
 * + 2i + t is Hugging Face's h * D + t * D / 2 + i, for heads of D rows. 0 = rows are as they are. */
int64_t qs_role_rotated_heads(const qs_model_config *config, qs_naming naming, qs_role role);

/* How a tensor is stored in the file. */
typedef enum qs_storage {
    QS_STORE_F32, QS_STORE_F16, QS_STORE_BF16,
    QS_STORE_Q8_0, QS_STORE_Q4_0, QS_STORE_Q4_1, QS_STORE_Q5_0, QS_STORE_Q5_1,
    QS_STORE_Q2_K, QS_STORE_Q3_K, QS_STORE_Q4_K, QS_STORE_Q5_K, QS_STORE_Q6_K,
    QS_STORE_IQ4_NL, QS_STORE_IQ4_XS,
    QS_N_STORAGES
} qs_storage;
const char *qs_storage_name(qs_storage storage); /* "f16", "q4_1", ... */
double qs_storage_bits_per_weight(qs_storage storage);

typedef struct qs_tensor_info {
    const char *name; /* as in the file */
    qs_storage storage;
    int64_t n_out, n_in; /* rows and columns; vectors have n_out = 1 */
    size_t bytes;        /* in the file */
} qs_tensor_info;

typedef struct qs_model qs_model;

/* `path` is a directory or a .gguf file. Checks that every tensor the architecture needs is there with the
 * right shape before returning. Errors: QS_E_INPUT names file, tensor and cause; QS_E_UNSUPPORTED. */
QS_MUST_CHECK qs_err qs_model_open(qs_model **out, const char *path);
void qs_model_close(qs_model *model);

const qs_model_config *qs_model_get_config(const qs_model *model);
const qs_tokenizer *qs_model_get_tokenizer(const qs_model *model); /* NULL when the model carries none */
const char *qs_model_path(const qs_model *model);
/* The parsed GGUF file behind the model (model/gguf.h); NULL for a directory. */
const struct qs_gguf *qs_model_get_gguf(const qs_model *model);

/* Whether the role exists (biases, q/k norms); QS_ROLE_HEAD always does. */
bool qs_model_has(const qs_model *model, qs_role role, int64_t layer);
/* For a role that exists. */
qs_tensor_info qs_model_info(const qs_model *model, qs_role role, int64_t layer);

/* dst: [n_out, n_in] f32. Errors: QS_E_NUMERIC names the tensor and index of a NaN or Inf. */
QS_MUST_CHECK qs_err qs_model_read_f32(const qs_model *model, qs_role role, int64_t layer, float *dst);

/* The same of a tensor that is stored as f16 or bf16, unchanged: dst [n_out, n_in]. QS_E_USAGE for other types. */
QS_MUST_CHECK qs_err qs_model_read_16(const qs_model *model, qs_role role, int64_t layer, uint16_t *dst);

/* A row of a matrix (in Hugging Face order) as it lies in the file; NULL for a row that is not there. */
const uint8_t *qs_model_stored_row(const qs_model *model, qs_role role, int64_t layer, int64_t row);

/* Rows [first, first + n_rows) of a matrix, for embedding look-ups without reading the whole table. */
QS_MUST_CHECK qs_err qs_model_read_rows_f32(const qs_model *model, qs_role role, int64_t layer, int64_t first,
                                            int64_t n_rows, float *dst);

/* inv_freq[head_dim / 2]. */
void qs_model_rope_frequencies(const qs_model *model, float *inv_freq);

/* Digest of configuration and of all tensor bytes in a fixed order: the identity of the model. Computed once
 * and cached in the handle. */
QS_MUST_CHECK qs_err qs_model_digest(qs_model *model, qs_digest *out);

/* True when the linears sit on a low-bit lattice (GGUF Q2-Q5 and IQ4 types): degradation measured against such a
 * reference is understated. `storage` gets the commonest type of the linears. */
bool qs_model_is_lattice(const qs_model *model, qs_storage *storage);

#endif
