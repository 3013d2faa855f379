/* Inside of a model, shared by weights.c and the readers of the two file families. */
#ifndef QS_MODEL_WEIGHTS_IMPL_H
#define QS_MODEL_WEIGHTS_IMPL_H

#include "model/gguf.h"
#include "model/mapped.h"
#include "model/rotation.h"
#include "model/shards.h"
#include "model/weights.h"

typedef struct qs_slot {
    qs_tensor_info info; /* name == NULL: the model does not have this role */
    const uint8_t *data; /* NULL: a linear (or head) in the layout of a quantised checkpoint, which only its
                            reader understands */
    const qs_mapped *file;
    int64_t n_rotated_heads; /* rows are in GGUF's pair order within each of these heads; 0 = as they are */
} qs_slot;

/* Linears that a quantised checkpoint stores in tensors of their own instead of "<prefix>.weight". */
typedef struct qs_foreign {
    const char *mark;          /* the leaf whose presence says so: ".qweight" */
    const char *const *leaves; /* all that belong to such a linear, NULL-terminated */
    bool head;                 /* the output head may be stored so too */
} qs_foreign;

struct qs_model {
    char path[QS_PATH_BYTES];
    qs_model_config config;
    qs_tokenizer *tokenizer; /* NULL when the model carries none */
    qs_slot *slots;          /* [n_layers * QS_N_BLOCK_ROLES], then the roles from QS_ROLE_EMBED on */
    qs_shards shards;        /* of a directory */
    qs_mapped file;          /* of a GGUF file */
    qs_gguf gguf;
    float *rope_divisors; /* [head_dim / 2], or NULL */
    const qs_foreign *foreign; /* while a checkpoint is opened; NULL for a model of its own */
    qs_digest digest;
    bool has_digest;
    qs_model *turned;      /* owned, NULL until qs_model_turn */
    qs_model *origin; /* of a turned model: what its weights are made from, and what it borrows all but slots
                         from */
    qs_rotation *rotation; /* of a turned model */
};

/* What a reader knows about a tensor. Shape in Hugging Face order. */
typedef struct qs_found {
    const char *name; /* NULL: there is none */
    qs_storage storage;
    int n_dims;
    int64_t shape[2]; /* of the first two; n_dims tells whether there are more */
    const uint8_t *data; /* NULL: foreign, and neither storage nor shape say anything */
    size_t bytes;
    const qs_mapped *file;
} qs_found;

/* Fills the slots from config: looks up every tensor that the architecture has, and checks its shape.
 * find() sets found->name = NULL for an unknown name; it may fail on a dtype it cannot read. */
typedef qs_err (*qs_find_tensor)(void *context, const char *name, qs_found *found);
QS_MUST_CHECK qs_err qs_model_bind(qs_model *model, qs_naming naming, qs_find_tensor find, void *context);

/* The two readers: config, tokenizer and slots of a model whose path is set. The caller closes on failure. */
QS_MUST_CHECK qs_err qs_model_open_hf(qs_model *model);
QS_MUST_CHECK qs_err qs_model_open_gguf(qs_model *model);

/* Of a turned model (model/turned.c): a role that exists, rows within it; and its end. NULL is fine. */
QS_MUST_CHECK qs_err qs_turned_read_rows(const qs_model *model, qs_role role, int64_t layer, int64_t first,
                                         int64_t n_rows, float *dst);
void qs_turned_close(qs_model *turned);

/* A directory whose linears may be stored as `foreign` says (NULL = none are), for checkpoint.c. */
QS_MUST_CHECK qs_err qs_model_open_foreign(qs_model **out, const char *path, const qs_foreign *foreign);

/* Fills model->tokenizer, or leaves NULL when the model carries none; after one of the readers. */
QS_MUST_CHECK qs_err qs_model_open_tokenizer(qs_model *model);

#endif
