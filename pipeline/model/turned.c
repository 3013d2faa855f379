#include "model/turned.h"

#include <string.h>

#include "base/mem.h"
#include "model/weights_impl.h"

/* How a role stands to the residual stream. */
typedef enum side {
    SIDE_NONE,   /* it does not meet it */
    SIDE_READS,  /* its rows are multiplied with the stream, as the norm in front hands it out */
    SIDE_WRITES, /* its outputs are added to the stream */
    SIDE_NORM    /* folded into those that read: ones are left */
} side;

enum { NO_NORM = -1 };

static const struct {
    side side;
    int norm; /* of those that read */
} sides[QS_N_ROLES] = {
    [QS_ROLE_Q] = {SIDE_READS, QS_ROLE_ATTN_NORM},    [QS_ROLE_K] = {SIDE_READS, QS_ROLE_ATTN_NORM},
    [QS_ROLE_V] = {SIDE_READS, QS_ROLE_ATTN_NORM},    [QS_ROLE_GATE] = {SIDE_READS, QS_ROLE_MLP_NORM},
    [QS_ROLE_UP] = {SIDE_READS, QS_ROLE_MLP_NORM},    [QS_ROLE_HEAD] = {SIDE_READS, QS_ROLE_FINAL_NORM},
    [QS_ROLE_EMBED] = {SIDE_READS, NO_NORM}, /* each row is a state of the stream */
    [QS_ROLE_O_BIAS] = {SIDE_READS, NO_NORM},
    [QS_ROLE_O] = {SIDE_WRITES, NO_NORM},             [QS_ROLE_DOWN] = {SIDE_WRITES, NO_NORM},
    [QS_ROLE_ATTN_NORM] = {SIDE_NORM, NO_NORM},       [QS_ROLE_MLP_NORM] = {SIDE_NORM, NO_NORM},
    [QS_ROLE_FINAL_NORM] = {SIDE_NORM, NO_NORM},
};

const qs_rotation *qs_model_rotation(const qs_model *model) { return model->rotation; }

const qs_model *qs_model_origin(const qs_model *model) { return model->origin != NULL ? model->origin : model; }

/* ---- reading ---- */

static qs_err read_norm(const qs_model *model, int role, int64_t layer, float **weights)
{
    qs_err err;
    *weights = NULL;
    if (role == NO_NORM) return QS_OK;
    QS_TRY(QS_NEW(*weights, model->config.d_model, "norm to be folded"));
    QS_TRY(qs_model_read_f32(model->origin, (qs_role)role, layer, *weights));
out:
    return err;
}

static qs_err read_reading(const qs_model *model, qs_role role, int64_t layer, int64_t first, int64_t n_rows,
                           float *dst)
{
    float *weights;
    qs_err err;
    QS_TRY(read_norm(model, sides[role].norm, layer, &weights));
    QS_TRY(qs_model_read_rows_f32(model->origin, role, layer, first, n_rows, dst));
    QS_TRY(qs_rotation_turn_rows(model->rotation, weights, dst, n_rows));
out:
    qs_mem_free(weights);
    return err;
}

/* Every row is made from all of the origin's. */
static qs_err read_writing(const qs_model *model, qs_role role, int64_t layer, int64_t first, int64_t n_rows,
                           float *dst)
{
    qs_tensor_info info = qs_model_info(model, role, layer);
    float *matrix = dst;
    qs_err err = QS_OK;
    if (n_rows < info.n_out) QS_TRY(QS_NEW(matrix, info.n_out * info.n_in, "matrix to be rotated"));
    QS_TRY(qs_model_read_f32(model->origin, role, layer, matrix));
    QS_TRY(qs_rotation_turn_columns(model->rotation, matrix, info.n_in));
    if (matrix != dst) memcpy(dst, matrix + first * info.n_in, (size_t)(n_rows * info.n_in) * sizeof *dst);
out:
    if (matrix != dst) qs_mem_free(matrix);
    return err;
}

qs_err qs_turned_read_rows(const qs_model *model, qs_role role, int64_t layer, int64_t first, int64_t n_rows,
                           float *dst)
{
    switch (sides[role].side) {
    case SIDE_READS: return read_reading(model, role, layer, first, n_rows, dst);
    case SIDE_WRITES: return read_writing(model, role, layer, first, n_rows, dst);
    case SIDE_NORM:
        for (int64_t i = 0; i < model->config.d_model; i++) dst[i] = 1;
        return QS_OK;
    default: return qs_model_read_rows_f32(model->origin, role, layer, first, n_rows, dst);
    }
}

qs_err qs_model_turn_back(const qs_model *model, float *hidden, int64_t n)
{
    float *weights = NULL;
    qs_err err;
    if (model->origin == NULL) return QS_OK;
    QS_TRY(read_norm(model, QS_ROLE_FINAL_NORM, 0, &weights));
    QS_TRY(qs_rotation_turn_rows_back(model->rotation, weights, hidden, n));
out:
    qs_mem_free(weights);
    return err;
}

/* ---- making one ---- */

/* What is there stays there, in a storage of its own; the head is there in any case. */
static qs_err turn_slots(qs_model *turned)
{
    const qs_model *origin = turned->origin;
    const int64_t n_layers = origin->config.n_layers;
    const int64_t n_slots = n_layers * QS_N_BLOCK_ROLES + QS_N_ROLES - QS_N_BLOCK_ROLES;
    qs_err err;
    QS_TRY(QS_NEW(turned->slots, n_slots, "tensor slots"));
    for (int64_t i = 0; i < n_slots; i++) {
        const qs_slot *slot = &origin->slots[i];
        if (slot->info.name == NULL) continue;
        if (slot->data == NULL) {
            err = qs_fail(QS_E_UNSUPPORTED, "rotate %s: it is quantised already", slot->info.name);
            goto out;
        }
        turned->slots[i].info = slot->info;
    }
    qs_slot *outer = turned->slots + (n_layers - 1) * QS_N_BLOCK_ROLES;
    if (origin->config.tied_head) {
        outer[QS_ROLE_HEAD].info = outer[QS_ROLE_EMBED].info;
        outer[QS_ROLE_HEAD].info.name = "lm_head.weight";
    }
    for (int64_t i = 0; i < n_slots; i++) {
        qs_tensor_info *info = &turned->slots[i].info;
        info->storage = QS_STORE_F32;
        info->bytes = (size_t)(info->n_out * info->n_in) * sizeof(uint16_t); /* as it is deployed */
    }
out:
    return err;
}

qs_err qs_model_turn(qs_model *model, qs_model **out)
{
    qs_model *turned = NULL;
    qs_err err = QS_OK;
    *out = model->turned;
    if (model->turned != NULL) return QS_OK;
    if (model->origin != NULL) return qs_fail(QS_E_USAGE, "rotate %s: it is a rotated model", model->path);
    QS_TRY(QS_NEW(turned, 1, "rotated model"));
    memcpy(turned->path, model->path, sizeof turned->path);
    turned->config = model->config;
    turned->config.tied_head = false;
    turned->tokenizer = model->tokenizer;
    turned->rope_divisors = model->rope_divisors;
    turned->origin = model;
    QS_TRY(qs_rotation_create(&turned->rotation, model->config.d_model, QS_ROTATION_SEED));
    QS_TRY(turn_slots(turned));
    *out = model->turned = turned;
    turned = NULL;
out:
    qs_turned_close(turned);
    return qs_context(err, "%s", model->path);
}

void qs_turned_close(qs_model *turned)
{
    if (turned == NULL) return;
    qs_rotation_destroy(turned->rotation);
    qs_mem_free(turned->slots);
    qs_mem_free(turned);
}
