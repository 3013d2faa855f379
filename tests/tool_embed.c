/* Embeddings and token ids of texts, for scripts/peers/compare_minilm.py.
 *   tool_embed ids|vectors DIR FILE    FILE: a JSON string a line
 * ids: a line of ids for each text; vectors: f32 rows on stdout, as bytes. */
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "rag/encoder.h"
#include "rag/wordpiece.h"

typedef struct texts {
    json_t *array; /* keeps the strings */
    const char **text;
    int64_t n;
} texts;

/* Allocates for as many texts as there are line ends. */
static qs_err read_texts(texts *out, const char *path)
{
    char *data;
    size_t bytes;
    qs_err err = qs_file_read(&data, &bytes, path, (size_t)1 << 30);
    if (err != QS_OK) return err;
    int64_t n_lines = 1;
    for (size_t i = 0; i < bytes; i++) n_lines += data[i] == '\n';
    out->array = json_array();
    QS_TRY(QS_NEW(out->text, n_lines, "texts"));
    for (char *line = data, *end; *line != '\0'; line = end + (*end == '\n')) {
        end = line + strcspn(line, "\n");
        json_t *value = json_loadb(line, (size_t)(end - line), JSON_DECODE_ANY, NULL);
        if (!json_is_string(value)) return qs_fail(QS_E_INPUT, "read %s: a line is no JSON string", path);
        (void)json_array_append_new(out->array, value);
        out->text[out->n++] = json_string_value(value);
    }
out:
    qs_mem_free(data);
    return err;
}

static qs_err print_ids(const texts *t, const char *dir)
{
    char path[QS_PATH_BYTES], *json = NULL;
    size_t bytes;
    qs_wordpiece *wordpiece = NULL;
    qs_token_list list = {0};
    qs_err err;
    QS_TRY(qs_path_format(path, "%s/tokenizer.json", dir));
    QS_TRY(qs_file_read(&json, &bytes, path, (size_t)64 << 20));
    QS_TRY(qs_wordpiece_from_json(&wordpiece, json, bytes, path));
    for (int64_t i = 0; i < t->n; i++) {
        QS_TRY(qs_wordpiece_encode(wordpiece, t->text[i], strlen(t->text[i]), 256, &list));
        for (int64_t j = 0; j < list.n; j++) printf(j > 0 ? " %d" : "%d", list.ids[j]);
        putchar('\n');
    }
out:
    qs_token_list_free(&list);
    qs_wordpiece_destroy(wordpiece);
    qs_mem_free(json);
    return err;
}

static qs_err print_vectors(const texts *t, const char *dir)
{
    qs_encoder *encoder = NULL;
    float *vectors = NULL;
    qs_err err;
    QS_TRY(qs_encoder_open(&encoder, "minilm", &(qs_encoder_options){.directory = dir}));
    QS_TRY(QS_NEW(vectors, t->n * qs_encoder_dim(encoder), "vectors"));
    QS_TRY(qs_encoder_encode(encoder, t->text, t->n, vectors));
    size_t n = (size_t)(t->n * qs_encoder_dim(encoder));
    if (fwrite(vectors, sizeof *vectors, n, stdout) != n) err = qs_fail(QS_E_RESOURCE, "write stdout: failed");
out:
    qs_mem_free(vectors);
    qs_encoder_destroy(encoder);
    return err;
}

int main(int argc, char **argv)
{
    texts t = {0};
    if (argc != 4) {
        (void)fprintf(stderr, "usage: tool_embed ids|vectors DIR FILE\n");
        return QS_E_USAGE;
    }
    qs_err err = read_texts(&t, argv[3]);
    if (err == QS_OK) err = strcmp(argv[1], "ids") == 0 ? print_ids(&t, argv[2]) : print_vectors(&t, argv[2]);
    if (err != QS_OK) (void)fprintf(stderr, "tool_embed: %s\n", qs_error_text());
    qs_mem_free(t.text);
    json_decref(t.array);
    return (int)err;
}
