/* What the tests of import share: a checkpoint of a made-up point, edits of it, and the comparison with its
 * artifact. */
#ifndef TESTS_IMPORT_FIXTURES_H
#define TESTS_IMPORT_FIXTURES_H

#include "tests/described.h"
#include "tests/export_fixtures.h"

#include "base/json.h"
#include "model/checkpoint.h"
#include "model/safetensors_writer.h"
#include "model/shards.h"

static qs_model *model;
static const char tiny[] = "tests/fixtures/tiny";
static const char q_proj[] = "model.layers.0.self_attn.q_proj", down[] = "model.layers.1.mlp.down_proj";

static inline int start(void **state)
{
    if (scratch_create(state) != 0) return -1;
    model = model_open(tiny);
    return 0;
}

static inline int stop(void **state)
{
    qs_model_close(model);
    return scratch_remove(state);
}

static inline void remove_tree(const char *path)
{
    char command[2 * QS_PATH_BYTES];
    (void)snprintf(command, sizeof command, "rm -r '%s'", path);
    assert_int_equal(system(command), 0);
}

/* A checkpoint of a made-up point, in <scratch>/checkpoint. */
static const char *make(scratch_path out, qs_model *parent, const char *text, const char *format, int zero_low)
{
    scratch_path artifact;
    (void)made_up_artifact(artifact, parent, text, zero_low);
    OK(export_to(parent, artifact, format, NULL, scratch(out, "checkpoint")));
    return out;
}

static inline void assert_same_matrix(const qs_packed *p, const qs_packed *q)
{
    assert_true(p->bits == q->bits && p->n_out == q->n_out && p->n_in == q->n_in && p->group_size == q->group_size);
    assert_true(p->format == q->format && p->compute == q->compute && p->threshold == q->threshold);
    if (p->scales != NULL) assert_memory_equal(p->scales, q->scales, (size_t)(p->n_out * p->n_groups) * 2);
    assert_true((p->zeros != NULL) == (q->zeros != NULL));
    if (p->zeros != NULL) assert_memory_equal(p->zeros, q->zeros, (size_t)(p->n_out * p->n_groups));
    /* Columns of a group have no order among themselves, so codes are compared as weights. */
    if (p->perm == NULL) assert_memory_equal(p->codes, q->codes, (size_t)(p->n_out * p->row_bytes));
    float a[1024], b[1024];
    for (int64_t o = 0; o < p->n_out; o++) {
        qs_packed_dequant_rows(p, o, 1, a);
        qs_packed_dequant_rows(q, o, 1, b);
        assert_memory_equal(a, b, (size_t)p->n_in * sizeof *a);
    }
}

/* Norms that a scaling was folded into (multiples of 1/64, which f16 holds). */
static inline void compare_vectors(const qs_linear_source *a, const qs_linear_source *b)
{
    float made[1024], wanted[1024];
    for (qs_role role = QS_N_LINEARS; role < QS_N_BLOCK_ROLES; role++) {
        bool found = false, own = false;
        if (!qs_model_has(model, role, 1)) continue;
        int64_t n = qs_model_info(model, role, 1).n_in;
        OK(a->get_vector(a->context, 1, role, n, made, &found));
        OK(b->get_vector(b->context, 1, role, n, wanted, &own));
        assert_true(found);
        if (!own) OK(qs_model_read_f32(model, role, 1, wanted));
        assert_memory_equal(made, wanted, (size_t)n * sizeof *made);
    }
}

static inline void check_round_trip(const char *text, const char *format, int zero_low)
{
    scratch_path artifact, out;
    qs_checkpoint *checkpoint;
    qs_quant_file *file;
    qs_matrix_desc made, wanted;
    (void)make(out, model, text, format, zero_low);
    (void)made_up_artifact(artifact, model, text, zero_low);
    OK(qs_quant_file_open(&file, artifact, model));
    OK(qs_checkpoint_open(&checkpoint, out, model));
    const qs_checkpoint_facts *facts = qs_checkpoint_get_facts(checkpoint);
    const qs_spec *spec = qs_quant_file_spec(file);
    assert_string_equal(facts->id, "checkpoint");
    const char *method = strcmp(format, "bnb") == 0 ? "bitsandbytes" : format;
    assert_string_equal(facts->method, strcmp(format, "gptq_v2") == 0 ? "gptq" : method);
    assert_true(facts->bits == spec->bits && facts->group_size == spec->group_size);
    assert_true(facts->n_linears == 14 && facts->n_quantised == 14);
    qs_linear_source a = qs_checkpoint_source(checkpoint), b = qs_quant_file_source(file);
    for (int i = 0; i < 2 * QS_N_LINEARS; i++) {
        OK(a.get(a.context, i / QS_N_LINEARS, (qs_role)(i % QS_N_LINEARS), &made));
        OK(b.get(b.context, i / QS_N_LINEARS, (qs_role)(i % QS_N_LINEARS), &wanted));
        assert_int_equal(made.format, QS_MATRIX_INT);
        assert_same_matrix(made.packed, wanted.packed);
        assert_described(&a, i / QS_N_LINEARS, (qs_role)(i % QS_N_LINEARS));
    }
    compare_vectors(&a, &b);
    qs_quant_file_close(file);
    qs_checkpoint_close(checkpoint);
    remove_tree(out);
}

/* Where the data of a tensor begin in <dir>/model.safetensors. */
static inline long place_of(const char *dir, const char *prefix, const char *leaf)
{
    scratch_path path;
    char name[192];
    qs_shards shards;
    (void)snprintf(name, sizeof name, "%s%s", prefix, leaf);
    OK(qs_path_format(path, "%s/model.safetensors", dir));
    OK(qs_shards_open(&shards, dir));
    const qs_shard_entry *entry = qs_shards_find(&shards, name);
    assert_non_null(entry);
    long place = (long)(entry->tensor->data - entry->shard->file.map.data);
    qs_shards_close(&shards);
    return place;
}

static inline void patch(const char *dir, const char *prefix, const char *leaf, long offset, const void *data,
                         size_t bytes)
{
    scratch_path path;
    long place = place_of(dir, prefix, leaf) + offset;
    OK(qs_path_format(path, "%s/model.safetensors", dir));
    FILE *file = fopen(path, "r+b");
    assert_true(file != NULL && fseek(file, place, SEEK_SET) == 0 && fwrite(data, 1, bytes, file) == bytes);
    assert_int_equal(fclose(file), 0);
}

/* Sets a key of "quantization_config" (NULL takes it out). */
static inline void set_config(const char *dir, const char *key, json_t *value)
{
    scratch_path path;
    json_t *root;
    OK(qs_path_format(path, "%s/config.json", dir));
    OK(qs_json_load(&root, path));
    json_t *object = json_object_get(root, "quantization_config");
    if (value == NULL) (void)json_object_del(object, key);
    else assert_int_equal(json_object_set_new(object, key, value), 0);
    assert_int_equal(json_dump_file(root, path, 0), 0);
    json_decref(root);
}

/* Rewrites the tensors without one of them, or with one that is not quantised. */
static inline void rewrite(const char *dir, const char *without, const char *dense_prefix)
{
    scratch_path path, fresh;
    qs_shards shards;
    qs_safetensors_writer *writer;
    char weight[192];
    static const uint16_t zeros[160 * 160];
    OK(qs_path_format(path, "%s/model.safetensors", dir));
    OK(qs_path_format(fresh, "%s/fresh", dir));
    OK(qs_shards_open(&shards, dir));
    OK(qs_safetensors_writer_create(&writer, fresh));
    OK(qs_safetensors_writer_metadata(writer, "format", "pt"));
    for (int pass = 0; pass < 2; pass++) {
        for (int64_t i = 0; i < shards.n_entries; i++) {
            const qs_safetensor *t = shards.entries[i].tensor;
            if (strstr(t->name, without) != NULL) continue;
            if (pass == 0) OK(qs_safetensors_writer_declare(writer, t->name, t->type, t->n_dims, t->shape));
            else OK(qs_safetensors_writer_put(writer, t->name, t->data, t->bytes));
        }
        if (dense_prefix == NULL) continue;
        (void)snprintf(weight, sizeof weight, "%s.weight", dense_prefix);
        if (pass == 0) OK(qs_safetensors_writer_declare(writer, weight, QS_ST_F16, 2, (int64_t[]){64, 64}));
        else OK(qs_safetensors_writer_put(writer, weight, zeros, 64 * 64 * 2));
    }
    OK(qs_safetensors_writer_publish(writer));
    qs_shards_close(&shards);
    assert_int_equal(rename(fresh, path), 0);
}

/* Gives one tensor another shape, and zeros. */
static inline void reshape(const char *dir, const char *prefix, const char *leaf, int64_t rows, int64_t columns)
{
    scratch_path path, fresh;
    char name[192];
    qs_shards shards;
    qs_safetensors_writer *writer;
    static const uint8_t zeros[160 * 160 * 4];
    (void)snprintf(name, sizeof name, "%s%s", prefix, leaf);
    OK(qs_path_format(path, "%s/model.safetensors", dir));
    OK(qs_path_format(fresh, "%s/fresh", dir));
    OK(qs_shards_open(&shards, dir));
    OK(qs_safetensors_writer_create(&writer, fresh));
    OK(qs_safetensors_writer_metadata(writer, "format", "pt"));
    for (int pass = 0; pass < 2; pass++)
        for (int64_t i = 0; i < shards.n_entries; i++) {
            const qs_safetensor *t = shards.entries[i].tensor;
            bool other = strcmp(t->name, name) == 0;
            int64_t n = 1, shape[2] = {rows, columns};
            for (int d = 0; d < t->n_dims; d++) n *= t->shape[d];
            size_t bytes = other ? t->bytes / (size_t)n * (size_t)(rows * columns) : t->bytes;
            assert_true(!other || bytes <= sizeof zeros);
            if (pass == 0)
                OK(qs_safetensors_writer_declare(writer, t->name, t->type, other ? 2 : t->n_dims,
                                                 other ? shape : t->shape));
            else
                OK(qs_safetensors_writer_put(writer, t->name, other ? zeros : t->data, bytes));
        }
    OK(qs_safetensors_writer_publish(writer));
    qs_shards_close(&shards);
    assert_int_equal(rename(fresh, path), 0);
}

/* Puts the tensors below `prefix` of another directory in the place of this one's. */
static inline void graft(const char *dir, const char *from, const char *prefix)
{
    scratch_path path, fresh;
    qs_shards shards[2];
    qs_safetensors_writer *writer;
    OK(qs_path_format(path, "%s/model.safetensors", dir));
    OK(qs_path_format(fresh, "%s/fresh", dir));
    OK(qs_shards_open(&shards[0], dir));
    OK(qs_shards_open(&shards[1], from));
    OK(qs_safetensors_writer_create(&writer, fresh));
    for (int pass = 0; pass < 2; pass++)
        for (int other = 0; other < 2; other++)
            for (int64_t i = 0; i < shards[other].n_entries; i++) {
                const qs_safetensor *t = shards[other].entries[i].tensor;
                if ((strstr(t->name, prefix) != NULL) != (other == 1)) continue;
                if (pass == 0) OK(qs_safetensors_writer_declare(writer, t->name, t->type, t->n_dims, t->shape));
                else OK(qs_safetensors_writer_put(writer, t->name, t->data, t->bytes));
            }
    OK(qs_safetensors_writer_publish(writer));
    qs_shards_close(&shards[0]);
    qs_shards_close(&shards[1]);
    assert_int_equal(rename(fresh, path), 0);
}

/* Opens, and reads all matrices if that succeeds. */
static inline qs_err import(const char *dir, int64_t *n_quantised)
{
    qs_checkpoint *checkpoint = NULL;
    qs_matrix_desc desc;
    qs_err err;
    QS_TRY(qs_checkpoint_open(&checkpoint, dir, model));
    qs_linear_source source = qs_checkpoint_source(checkpoint);
    if (n_quantised != NULL) *n_quantised = qs_checkpoint_get_facts(checkpoint)->n_quantised;
    for (int i = 0; i < 2 * QS_N_LINEARS; i++)
        QS_TRY(source.get(source.context, i / QS_N_LINEARS, (qs_role)(i % QS_N_LINEARS), &desc));
    if (source.get_head != NULL) QS_TRY(source.get_head(source.context, &desc));
out:
    qs_checkpoint_close(checkpoint);
    return err;
}

#endif
