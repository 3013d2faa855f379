/* The state of AdamW over all tensors of a model, and its step (adam.h). */
#ifndef QS_TRAIN_OPTIMIZER_H
#define QS_TRAIN_OPTIMIZER_H

#include "base/team.h"
#include "train/layout.h"
#include "train/row_kernels.h"

typedef struct qs_optimizer qs_optimizer;

typedef struct qs_optimizer_options {
    int bits;           /* 32 or 8 */
    int embedding_bits; /* of the table of embeddings where bits is 8; 0 = bits */
    qs_adam_options adam;
} qs_optimizer_options;

/* Layout and kernels are borrowed. */
QS_MUST_CHECK qs_err qs_optimizer_create(qs_optimizer **out, const qs_train_layout *layout,
                                         const qs_train_kernels *kernels,
                                         const qs_optimizer_options *options);
void qs_optimizer_destroy(qs_optimizer *optimizer);

/* One step: t counts from 1. gradient [n] is multiplied by clip; parameters [n] are updated; `narrow` [n], if
 * not NULL, gets them in bf16. */
void qs_optimizer_step(qs_optimizer *optimizer, qs_team *team, double lr, double clip, int64_t t,
                       const float *gradient, float *parameters, uint16_t *narrow);

/* The moments of elements [first, first + n) of the layout, decoded; first lies a multiple of QS_ADAM_BLOCK
 * behind the start of its tensor. */
void qs_optimizer_moments(const qs_optimizer *optimizer, int64_t first, int64_t n, float *m, float *v);

/* Takes over moments [n] of the whole layout, rounded to this optimizer's format, and another's averages of
 * the clamp. */
void qs_optimizer_set_moments(qs_optimizer *optimizer, const qs_optimizer *other, const float *m,
                              const float *v);

/* Elements whose v is 0 while m is not: with 8 bits their next step is as large as m / eps. */
int64_t qs_optimizer_n_starved(const qs_optimizer *optimizer);

/* What the state consists of, for checkpoints. `elements` may be 0. */
enum { QS_OPTIMIZER_ARRAYS = 7 };
typedef struct qs_optimizer_array {
    const char *name; /* "m", "v", "m_codes", "v_codes", "m_scales", "v_scales", "v_average" */
    bool is_codes;    /* u8, else f32 */
    int64_t n;
    void *data;
} qs_optimizer_array;
void qs_optimizer_arrays(qs_optimizer *optimizer, qs_optimizer_array arrays[QS_OPTIMIZER_ARRAYS]);
size_t qs_optimizer_bytes(const qs_optimizer *optimizer);
/* The same without creating one. */
size_t qs_optimizer_plan_bytes(const qs_train_layout *layout, const qs_optimizer_options *options);

#endif
