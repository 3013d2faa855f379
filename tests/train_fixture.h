/* Shared by tests of training: a small model with gradients by torch autograd
 * (scripts/peers/make_train_fixtures.py). */
#ifndef QS_TESTS_TRAIN_FIXTURE_H
#define QS_TESTS_TRAIN_FIXTURE_H

#include "scratch.h"

#include "base/json.h"
#include "model/safetensors.h"
#include "train/trainer.h"

#define TRAIN_FIXTURE "tests/fixtures/train/"

typedef struct train_fixture {
    qs_train_layout layout;
    qs_file_map map;
    qs_safetensors file;
    qs_batch batch;
    double loss;
} train_fixture;

static inline const qs_safetensor *fixture_tensor(const train_fixture *f, const char *name)
{
    const qs_safetensor *t = qs_safetensors_find(&f->file, name);
    if (t == NULL) fail_msg("the fixture has no %s", name);
    return t;
}

/* The examples in rows of n_ctx. */
static inline void fixture_fill(train_fixture *f, int64_t n_rows, int64_t n_ctx)
{
    const int32_t *lengths = (const int32_t *)fixture_tensor(f, "lengths")->data;
    const int32_t *tokens = (const int32_t *)fixture_tensor(f, "tokens")->data;
    const float *weights = (const float *)fixture_tensor(f, "weights")->data;
    uint8_t is_answer[512];
    OK(qs_batch_init(&f->batch, n_rows, n_ctx));
    qs_batch_clear(&f->batch);
    for (int64_t i = 0, at = 0; i < fixture_tensor(f, "lengths")->shape[0]; at += lengths[i++]) {
        for (int64_t k = 0; k < lengths[i]; k++) is_answer[k] = weights[at + k] > 1;
        assert_true(qs_batch_add(&f->batch, lengths[i], tokens + at, weights + at, is_answer));
    }
}

static inline void fixture_open(train_fixture *f)
{
    json_t *root;
    qs_model_config config;
    *f = (train_fixture){0};
    OK(qs_json_load(&root, TRAIN_FIXTURE "config.json"));
    OK(qs_model_config_from_json(&config, root, "config.json"));
    json_decref(root);
    OK(qs_train_layout_init(&f->layout, &config));
    OK(qs_file_map_open(&f->map, TRAIN_FIXTURE "gradients.safetensors"));
    OK(qs_safetensors_parse(&f->file, f->map.data, f->map.bytes, "gradients.safetensors"));
    memcpy(&f->loss, fixture_tensor(f, "loss")->data, sizeof f->loss);
}

static inline void fixture_close(train_fixture *f)
{
    qs_batch_fini(&f->batch);
    qs_safetensors_free(&f->file);
    qs_file_map_close(&f->map);
    qs_train_layout_fini(&f->layout);
}

/* "" gives the weights, "grad:" their gradients. */
static inline void fixture_read(const train_fixture *f, const char *prefix, float *dst)
{
    for (int64_t i = 0; i < f->layout.n_tensors; i++) {
        const qs_train_tensor *t = &f->layout.tensors[i];
        char name[QS_TRAIN_NAME_BYTES + 8];
        (void)snprintf(name, sizeof name, "%s%s", prefix, t->name);
        const qs_safetensor *stored = fixture_tensor(f, name);
        assert_int_equal(stored->bytes, (size_t)(t->n_out * t->n_in) * sizeof(float));
        memcpy(dst + t->first, stored->data, stored->bytes);
    }
}

static inline qs_trainer *fixture_trainer(const train_fixture *f, const qs_trainer_options *options)
{
    qs_trainer *trainer;
    OK(qs_trainer_create(&trainer, &f->layout, options));
    fixture_read(f, "", qs_trainer_parameters(trainer));
    qs_trainer_refresh(trainer);
    return trainer;
}

static inline qs_trainer_options fixture_options(void)
{
    return (qs_trainer_options){
        .n_ctx = 128,
        .n_lanes = 3,
        .n_threads = 1,
        .optimizer = {.bits = 32, .adam = {.beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8}}};
}

#endif
