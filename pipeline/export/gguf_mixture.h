/* Mixtures: files for llama.cpp whose matrices have types of their own, chosen as its own quantiser chooses them, so
 * that a name means the same here and there. A mixture is a row.
 *
 * Source: what llama.cpp's quantiser writes without an importance matrix, tensor by tensor (compare_gguf.py --types in
 * scripts/peers holds every row against it). */
#ifndef QS_EXPORT_GGUF_MIXTURE_H
#define QS_EXPORT_GGUF_MIXTURE_H

#include "export/gguf_blocks.h"
#include "model/config.h"

/* Layers that get the better type. */
typedef struct qs_gguf_place {
    const char *name; /* "the first two" layers */
    bool (*holds)(int64_t layer, int64_t n_layers);
} qs_gguf_place;

/* Types of a role's matrices: in places, and everywhere else; NULL = as the rest of the file. */
typedef struct qs_gguf_choice {
    const char *rest;
    const qs_gguf_place *place; /* NULL = nowhere */
    const char *better;
} qs_gguf_choice;

typedef struct qs_gguf_mixture {
    const char *name;   /* "q4_k_m", as --type has it */
    const char *peer;   /* as llama.cpp calls it */
    uint32_t file_type; /* "general.file_type" */
    const char *rest;   /* q, k, gate and up; what a choice leaves open; the embedding beside a head of its own */
    const char *head;   /* a head of its own, or the embedding that is the head too */
    const char *v_shared; /* v where four or more heads share one; NULL = as v */
    qs_gguf_choice v, o, down;
} qs_gguf_mixture;

extern const qs_gguf_mixture qs_gguf_mixtures[]; /* name == NULL ends it */
/* NULL when there is none of that name. */
const qs_gguf_mixture *qs_gguf_mixture_find(const char *name);
/* The row in words, for --list; returns text. */
enum { QS_GGUF_MIXTURE_TEXT_BYTES = 320 };
const char *qs_gguf_mixture_text(char text[QS_GGUF_MIXTURE_TEXT_BYTES], const qs_gguf_mixture *mixture);

/* The type of a matrix or table of that model, of which layers, heads, architecture and whether the head is tied count.
 * Rows of n_in weights that are no whole blocks of 256 take the narrow type; NULL when they are no whole blocks of 32
 * either. */
const qs_gguf_kind *qs_gguf_mixture_kind(const qs_gguf_mixture *mixture, const qs_model_config *config, qs_role role,
                                         int64_t layer, int64_t n_in);

#endif
