/* What checkpoint.c and the readers of the layouts share. A layout is a row; adding one is a file and a row. */
#ifndef QS_MODEL_CHECKPOINT_IMPL_H
#define QS_MODEL_CHECKPOINT_IMPL_H

#include "model/checkpoint.h"
#include "model/weights_impl.h"

enum { QS_EXL2_GROUPS_MAX = 2048 }; /* of an EXL2 matrix */

/* What "quantization_config" says. */
typedef struct qs_checkpoint_config {
    int64_t bits, group_size; /* group_size -1 = the whole row */
    bool sym, act;
    bool v1; /* gptq: zero points are stored less one */
    qs_rounding compute; /* bitsandbytes, 4 bits */
    double threshold;    /* int8: columns of activations from here on in 16 bits */
    const char *variant; /* NULL = made of sym and act */
    struct qs_dynamic *dynamic; /* gptq: what single matrices have instead; NULL = nothing. Owned by the checkpoint */
} qs_checkpoint_config;

/* Rules of "dynamic" (checkpoint_dynamic.c); `object` is not kept. QS_E_INPUT names a rule that cannot be read. */
typedef struct qs_dynamic qs_dynamic;
QS_MUST_CHECK qs_err qs_dynamic_create(qs_dynamic **out, const json_t *object, const char *name);
void qs_dynamic_destroy(qs_dynamic *dynamic); /* NULL is fine */
/* Puts what a module ("model.layers.0.self_attn.q_proj") has of its own into *config; *skips: it is not quantised. */
QS_MUST_CHECK qs_err qs_dynamic_find(const qs_dynamic *dynamic, const char *module, qs_checkpoint_config *config,
                                     bool *skips);

typedef struct qs_checkpoint_layout {
    const char *method; /* "quant_method" */
    qs_foreign foreign;
    bool (*accepts)(const json_t *object); /* where two layouts have one method; NULL = it does */
    /* `name` is the file that the object stands in. */
    qs_err (*read_config)(qs_checkpoint_config *out, const json_t *object, const char *name);
    /* Fills a packed matrix [n_out, n_in] from the tensors below `prefix`, and checks all of them; on failure
     * *out holds nothing. */
    qs_err (*load)(qs_checkpoint *checkpoint, const char *prefix, int64_t n_out, int64_t n_in, qs_packed *out);
    /* The same without contents, as qs_matrix_need takes it; pointers to what there is go to qs_checkpoint.presence. */
    qs_err (*describe)(qs_checkpoint *checkpoint, const char *prefix, int64_t n_out, int64_t n_in, qs_packed *out);
    /* Once, after opening: what is known only from the tensors. NULL = nothing. */
    qs_err (*settle)(qs_checkpoint *checkpoint);
} qs_checkpoint_layout;

extern const qs_checkpoint_layout qs_checkpoint_gptq, qs_checkpoint_awq, qs_checkpoint_bnb_4, qs_checkpoint_bnb_8,
    qs_checkpoint_exl2;

struct qs_checkpoint {
    qs_model *model;
    const qs_model *parent;
    const qs_checkpoint_layout *layout; /* NULL: every linear is a matrix of the model */
    qs_checkpoint_config config;
    qs_checkpoint_facts facts;
    qs_packed packed[QS_N_LINEARS]; /* of `layer` */
    qs_packed head;                 /* in low bits, from its first use on */
    float *dense[QS_N_LINEARS];     /* the same, where a linear is not quantised */
    qs_packed described;            /* without contents */
    struct {
        uint8_t bytes;
        int32_t perm;
        qs_packed_group groups[QS_EXL2_GROUPS_MAX];
    } presence; /* what pointers of `described` point to; groups alone are looked at */
    bool loaded[QS_N_LINEARS];
    int64_t layer;
};

/* "<prefix><leaf>" with that type and shape (n_dims 1: shape[0] alone). QS_E_INPUT names the tensor, what it
 * has and what was expected; `hint` follows. NULL *out when it is absent and optional. */
typedef struct qs_leaf {
    const char *leaf;
    qs_safetensor_type type, also; /* either is fine */
    int n_dims;
    int64_t shape[2];
    bool optional;
} qs_leaf;
QS_MUST_CHECK qs_err qs_checkpoint_leaf(const qs_safetensor **out, const qs_checkpoint *checkpoint, const char *prefix,
                                        const qs_leaf *wanted, const char *hint);

/* scales[n_groups, n_out] of any floating type, transposed into out->scales. QS_E_NUMERIC names the first
 * that is NaN or Inf, QS_E_UNSUPPORTED one that f16 does not hold. */
QS_MUST_CHECK qs_err qs_checkpoint_scales(const qs_checkpoint *checkpoint, const char *prefix, qs_packed *out);

/* A linear of a GGUF file: codes where the type has integers around a fixed middle; false = read it as numbers. */
QS_MUST_CHECK qs_err qs_checkpoint_gguf_load(const qs_model *model, qs_role role, int64_t layer, qs_packed *out,
                                             bool *packed);
/* Its numbers alone. */
QS_MUST_CHECK qs_err qs_checkpoint_gguf_shape(const qs_model *model, qs_role role, int64_t layer, qs_packed *out,
                                              bool *packed);

#endif
