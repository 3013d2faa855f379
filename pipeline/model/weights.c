#include "model/weights.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/team.h"
#include "base/dtype.h"
#include "base/mem.h"
#include "model/dequant.h"
#include "model/weights_impl.h"

enum { RELEASE_BYTES = 1 << 20 }; /* of one read: less is not worth a call of the kernel */

qs_err qs_model_open(qs_model **out, const char *path)
{
    *out = NULL;
    qs_model *model = NULL;
    qs_err err;
    QS_TRY(QS_NEW(model, 1, "model"));
    QS_TRY(qs_path_format(model->path, "%s", path));
    if (qs_path_is_dir(path))
        QS_TRY(qs_model_open_hf(model));
    else
        QS_TRY(qs_model_open_gguf(model));
    QS_TRY(qs_model_open_tokenizer(model));
    *out = model;
    model = NULL;
out:
    qs_model_close(model);
    return err;
}

qs_err qs_model_open_foreign(qs_model **out, const char *path, const qs_foreign *foreign)
{
    qs_model *model = NULL;
    qs_err err;
    *out = NULL;
    QS_TRY(QS_NEW(model, 1, "checkpoint"));
    QS_TRY(qs_path_format(model->path, "%s", path));
    model->foreign = foreign;
    QS_TRY(qs_model_open_hf(model));
    QS_TRY(qs_model_open_tokenizer(model));
    *out = model;
    model = NULL;
out:
    qs_model_close(model);
    return err;
}

void qs_model_close(qs_model *model)
{
    if (model == NULL) return;
    qs_turned_close(model->turned);
    qs_tokenizer_destroy(model->tokenizer);
    qs_mem_free(model->slots);
    qs_mem_free(model->rope_divisors);
    qs_gguf_free(&model->gguf);
    qs_mapped_close(&model->file);
    qs_shards_close(&model->shards);
    qs_mem_free(model);
}

const qs_model_config *qs_model_get_config(const qs_model *model) { return &model->config; }

const qs_tokenizer *qs_model_get_tokenizer(const qs_model *model) { return model->tokenizer; }

const char *qs_model_path(const qs_model *model) { return model->path; }

const qs_gguf *qs_model_get_gguf(const qs_model *model)
{
    if (model->origin != NULL) return qs_model_get_gguf(model->origin);
    return model->file.map.data != NULL ? &model->gguf : NULL;
}

/* NULL for a role that the model does not have. */
static const qs_slot *find_slot(const qs_model *model, qs_role role, int64_t layer)
{
    const qs_model_config *c = &model->config;
    if ((int)role < 0 || role >= QS_N_ROLES) return NULL;
    if (role == QS_ROLE_HEAD && c->tied_head) role = QS_ROLE_EMBED;
    if (role >= QS_N_BLOCK_ROLES) layer = c->n_layers - 1;
    if (layer < 0 || layer >= c->n_layers) return NULL;
    const qs_slot *slot = &model->slots[layer * QS_N_BLOCK_ROLES + (int64_t)role];
    return slot->info.name == NULL ? NULL : slot;
}

bool qs_model_has(const qs_model *model, qs_role role, int64_t layer)
{
    return find_slot(model, role, layer) != NULL;
}

qs_tensor_info qs_model_info(const qs_model *model, qs_role role, int64_t layer)
{
    const qs_slot *slot = find_slot(model, role, layer);
    return slot == NULL ? (qs_tensor_info){0} : slot->info;
}

/* How a slot is read: rows that can be converted on their own. A vector is one row, or, when its elements
 * have to be reordered, as many rows as elements. */
typedef struct geometry {
    int64_t n_rows, n_cols;
    int64_t head_rows; /* rows per rotated head, 0 = as they are */
    size_t row_bytes;
} geometry;

static geometry geometry_of(const qs_slot *slot)
{
    const qs_tensor_info *info = &slot->info;
    geometry g = {.n_rows = info->n_out, .n_cols = info->n_in};
    if (slot->n_rotated_heads > 0) {
        if (info->n_out == 1) g = (geometry){.n_rows = info->n_in, .n_cols = 1};
        g.head_rows = g.n_rows / slot->n_rotated_heads;
    }
    g.row_bytes = qs_storage_bytes(info->storage, g.n_cols);
    return g;
}

/* GGUF's row h * D + 2i + t holds Hugging Face's row h * D + t * D / 2 + i, for heads of D rows. */
static int64_t stored_row(const geometry *g, int64_t row)
{
    if (g->head_rows == 0) return row;
    int64_t half = g->head_rows / 2, in_head = row % g->head_rows;
    return row - in_head + 2 * (in_head % half) + in_head / half;
}

const uint8_t *qs_model_stored_row(const qs_model *model, qs_role role, int64_t layer, int64_t row)
{
    const qs_slot *slot = find_slot(model, role, layer);
    if (slot == NULL || slot->data == NULL || row < 0 || row >= slot->info.n_out) return NULL;
    geometry g = geometry_of(slot);
    return slot->data + (size_t)stored_row(&g, row) * g.row_bytes;
}

/* NaN and Inf are the values whose exponent bits are all set. The maximum of those bits, unlike a loop that
 * stops at the first find, can be taken side by side. */
static bool is_finite(const float *x, int64_t n)
{
    uint32_t most = 0;
#pragma omp simd reduction(max : most)
    for (int64_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, &x[i], sizeof bits);
        bits &= 0x7f800000u;
        most = bits > most ? bits : most;
    }
    return most != 0x7f800000u;
}

/* A model is read block by block: what was read of a large tensor need not stay in memory beside what was made
 * of it. */
static void release_rows(const qs_slot *slot, const geometry *g, int64_t first, int64_t n_rows)
{
    size_t bytes = (size_t)n_rows * g->row_bytes;
    if (bytes >= RELEASE_BYTES)
        qs_file_map_release(&slot->file->map, slot->data + (size_t)first * g->row_bytes, bytes);
}

static qs_err fail_nonfinite(const qs_slot *slot, const geometry *g, int64_t row, const float *x)
{
    int64_t col = qs_find_nonfinite(x, g->n_cols);
    if (slot->info.n_out == 1)
        return qs_fail(QS_E_NUMERIC, "read %s: tensor %s holds %g at index %lld", slot->file->path,
                       slot->info.name, (double)x[col], (long long)(row + col));
    return qs_fail(QS_E_NUMERIC, "read %s: tensor %s holds %g at row %lld, column %lld", slot->file->path,
                   slot->info.name, (double)x[col], (long long)row, (long long)col);
}

/* Rows of a tensor on their way to dst, in f32 or in 16 bits as they are. */
typedef struct reading {
    const qs_slot *slot;
    const geometry *g;
    int64_t first;
    float *f32;
    uint16_t *as_stored;
    uint16_t exponent; /* whose bits all set mean NaN or Inf in 16 bits */
    _Atomic int64_t bad_row; /* the first one that is not finite; INT64_MAX = none */
} reading;

static void note_bad(reading *work, int64_t row)
{
    int64_t known = atomic_load(&work->bad_row);
    while (row < known && !atomic_compare_exchange_weak(&work->bad_row, &known, row)) {}
}

static void read_f32(void *context, int64_t first, int64_t last, int thread)
{
    (void)thread;
    reading *work = context;
    const geometry *g = work->g;
    for (int64_t i = first; i < last; i++) {
        const uint8_t *src = work->slot->data + (size_t)stored_row(g, work->first + i) * g->row_bytes;
        float *row = work->f32 + i * g->n_cols;
        qs_storage_to_f32(work->slot->info.storage, row, src, g->n_cols);
        if (!is_finite(row, g->n_cols)) note_bad(work, i);
    }
}

/* All rows of dst by as many threads as the process has; a share of them is worth a thread from 65536 weights on. */
static int64_t read_by_all(reading *work, int64_t n_rows, qs_team_work read)
{
    int64_t share = 65536 / work->g->n_cols;
    atomic_init(&work->bad_row, INT64_MAX);
    qs_team_run_shared(n_rows, share > 1 ? share : 1, read, work);
    release_rows(work->slot, work->g, work->first, n_rows);
    return atomic_load(&work->bad_row);
}

static qs_err read_rows(const qs_slot *slot, const geometry *g, int64_t first, int64_t n_rows, float *dst)
{
    qs_err err = qs_mapped_check(slot->file);
    if (err != QS_OK) return err;
    int64_t bad_row = read_by_all(&(reading){.slot = slot, .g = g, .first = first, .f32 = dst}, n_rows, read_f32);
    return bad_row == INT64_MAX ? QS_OK : fail_nonfinite(slot, g, first + bad_row, dst + bad_row * g->n_cols);
}

static qs_err fail_absent(const qs_model *model, qs_role role, int64_t layer)
{
    const qs_slot *slot = find_slot(model, role, layer);
    if (slot != NULL)
        return qs_fail(QS_E_USAGE, "read %s: %s is quantised, and the checkpoint's reader alone knows how", model->path,
                       slot->info.name);
    if ((int)role < 0 || role >= QS_N_ROLES)
        return qs_fail(QS_E_USAGE, "read %s: role %d", model->path, (int)role);
    return qs_fail(QS_E_USAGE, "read %s: the model has no %s in layer %lld", model->path, qs_role_name(role),
                   (long long)layer);
}

qs_err qs_model_read_f32(const qs_model *model, qs_role role, int64_t layer, float *dst)
{
    const qs_slot *slot = find_slot(model, role, layer);
    if (slot != NULL && model->origin != NULL) return qs_turned_read_rows(model, role, layer, 0, slot->info.n_out, dst);
    if (slot == NULL || slot->data == NULL) return fail_absent(model, role, layer);
    geometry g = geometry_of(slot);
    return read_rows(slot, &g, 0, g.n_rows, dst);
}

/* As is_finite: the exponents of f16 or bf16 that mean NaN or Inf. */
static bool is_finite_16(const uint16_t *x, int64_t n, uint16_t exponent)
{
    uint16_t most = 0;
#pragma omp simd reduction(max : most)
    for (int64_t i = 0; i < n; i++) {
        uint16_t bits = x[i] & exponent;
        most = bits > most ? bits : most;
    }
    return most != exponent;
}

static void read_16(void *context, int64_t first, int64_t last, int thread)
{
    (void)thread;
    reading *work = context;
    const geometry *g = work->g;
    for (int64_t i = first; i < last; i++) {
        uint16_t *row = work->as_stored + i * g->n_cols;
        memcpy(row, work->slot->data + (size_t)stored_row(g, i) * g->row_bytes, g->row_bytes);
        if (!is_finite_16(row, g->n_cols, work->exponent)) note_bad(work, i);
    }
}

qs_err qs_model_read_16(const qs_model *model, qs_role role, int64_t layer, uint16_t *dst)
{
    const qs_slot *slot = find_slot(model, role, layer);
    if (slot == NULL || slot->data == NULL) return fail_absent(model, role, layer);
    const qs_storage storage = slot->info.storage;
    if (storage != QS_STORE_F16 && storage != QS_STORE_BF16)
        return qs_fail(QS_E_USAGE, "read %s: tensor %s is stored as %s, not in 16 bits", model->path, slot->info.name,
                       qs_storage_name(storage));
    qs_err err = qs_mapped_check(slot->file);
    if (err != QS_OK) return err;
    geometry g = geometry_of(slot);
    reading work = {
        .slot = slot, .g = &g, .as_stored = dst, .exponent = storage == QS_STORE_F16 ? 0x7c00 : 0x7f80};
    int64_t bad_row = read_by_all(&work, g.n_rows, read_16);
    if (bad_row == INT64_MAX) return QS_OK;
    float *bad;
    err = QS_NEW(bad, g.n_cols, "a row of weights");
    if (err != QS_OK) return err;
    err = read_rows(slot, &g, bad_row, 1, bad); /* which names the element */
    qs_mem_free(bad);
    return err;
}

qs_err qs_model_read_rows_f32(const qs_model *model, qs_role role, int64_t layer, int64_t first,
                              int64_t n_rows, float *dst)
{
    const qs_slot *slot = find_slot(model, role, layer);
    if (slot == NULL || (slot->data == NULL && model->origin == NULL)) return fail_absent(model, role, layer);
    if (first < 0 || n_rows < 0 || first > slot->info.n_out - n_rows)
        return qs_fail(QS_E_USAGE, "read %s: rows %lld to %lld of tensor %s, which has %lld", model->path,
                       (long long)first, (long long)(first + n_rows), slot->info.name,
                       (long long)slot->info.n_out);
    if (model->origin != NULL) return qs_turned_read_rows(model, role, layer, first, n_rows, dst);
    geometry g = geometry_of(slot);
    if (slot->info.n_out == 1) n_rows *= g.n_rows; /* the one row of a reordered vector */
    return read_rows(slot, &g, first, n_rows, dst);
}

void qs_model_rope_frequencies(const qs_model *model, float *inv_freq)
{
    qs_rope_frequencies(&model->config, model->rope_divisors, inv_freq);
}

/* The numbers that decide what the model computes, in a fixed order and without padding. n_ctx_max is left
 * in: it is part of what the maker says about the model. */
static void add_config(qs_hasher *hasher, const qs_model_config *c)
{
    const int64_t counts[] = {
        c->n_layers,
        c->n_vocab,
        c->d_model,
        c->d_ff,
        c->n_heads,
        c->n_kv_heads,
        c->head_dim,
        c->n_ctx_max,
        c->sliding_window,
        c->qkv_bias,
        c->o_bias,
        c->qk_norm,
        c->tied_head,
        (int64_t)c->rope_kind,
        c->rope_original_ctx,
    };
    const double reals[] = {
        c->norm_eps, c->rope_theta, c->rope_factor, c->rope_low_freq_factor, c->rope_high_freq_factor,
    };
    qs_hasher_add(hasher, c->architecture, sizeof c->architecture);
    qs_hasher_add(hasher, counts, sizeof counts);
    qs_hasher_add(hasher, reals, sizeof reals);
}

static qs_err add_slot(qs_hasher *hasher, const qs_slot *slot)
{
    qs_err err = qs_mapped_check(slot->file);
    if (err != QS_OK) return err;
    const int64_t numbers[] = {(int64_t)slot->info.storage, slot->info.n_out, slot->info.n_in,
                               slot->n_rotated_heads};
    qs_hasher_add(hasher, numbers, sizeof numbers);
    qs_hasher_add(hasher, slot->data, slot->info.bytes);
    if (slot->info.bytes >= RELEASE_BYTES) qs_file_map_release(&slot->file->map, slot->data, slot->info.bytes);
    return QS_OK;
}

static qs_err digest_turned(qs_model *model, qs_digest *out)
{
    qs_digest rotation = qs_rotation_digest(model->rotation);
    qs_err err = qs_model_digest(model->origin, out);
    const uint64_t parts[] = {out->low, out->high, rotation.low, rotation.high};
    if (err == QS_OK) *out = qs_hash(parts, sizeof parts);
    return err;
}

/* Names, files and their order stay outside, so that sharding does not matter. */
qs_err qs_model_digest(qs_model *model, qs_digest *out)
{
    if (model->origin != NULL) return digest_turned(model, out);
    if (model->has_digest) {
        *out = model->digest;
        return QS_OK;
    }
    const qs_model_config *c = &model->config;
    const int64_t n_slots = c->n_layers * QS_N_BLOCK_ROLES + QS_N_ROLES - QS_N_BLOCK_ROLES;
    qs_hasher *hasher = NULL;
    qs_err err;
    QS_TRY(qs_hasher_create(&hasher));
    add_config(hasher, c);
    if (model->rope_divisors != NULL)
        qs_hasher_add(hasher, model->rope_divisors, (size_t)(c->head_dim / 2) * sizeof(float));
    for (int64_t i = 0; i < n_slots; i++)
        if (model->slots[i].info.name != NULL) QS_TRY(add_slot(hasher, &model->slots[i]));
out:
    if (hasher == NULL) return err;
    qs_digest digest = qs_hasher_finish(hasher);
    if (err != QS_OK) return err;
    model->digest = *out = digest;
    model->has_digest = true;
    return QS_OK;
}

bool qs_model_is_lattice(const qs_model *model, qs_storage *storage)
{
    if (model->origin != NULL) return qs_model_is_lattice(model->origin, storage);
    int64_t n_weights[QS_N_STORAGES] = {0};
    for (int64_t layer = 0; layer < model->config.n_layers; layer++)
        for (int role = 0; role < QS_N_LINEARS; role++) {
            qs_tensor_info info = qs_model_info(model, (qs_role)role, layer);
            n_weights[info.storage] += info.n_out * info.n_in;
        }
    int most = 0;
    for (int i = 1; i < QS_N_STORAGES; i++)
        if (n_weights[i] > n_weights[most]) most = i;
    *storage = (qs_storage)most;
    return qs_storage_get(*storage)->lattice;
}
