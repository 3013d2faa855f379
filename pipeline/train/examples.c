#include "train/examples.h"

#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "base/rng.h"
#include "data/corpus.h"
#include "model/bpe.h"

enum {
    N_FILES_MAX = 256,
    LINE_BYTES_MAX = 1 << 24,
    /* Text is tokenised in pieces that end with a line, so that memory for the pieces stays small. */
    PIECE_BYTES = 1 << 20,
};

typedef struct line {
    const char *text;
    size_t bytes;
    int32_t file;
    int32_t number; /* counted from 1 */
} line;

typedef struct source_file {
    qs_file_map map;
    char path[QS_PATH_BYTES];
} source_file;

struct qs_examples {
    const qs_tokenizer *tokenizer;
    qs_examples_options options;
    bool have_answers;
    int64_t n_files;
    source_file *files; /* [n_files] of JSON Lines */
    int64_t n_lines;
    line *lines;
    qs_token_list text; /* of plain text */
    int64_t n;          /* examples in a round */
    qs_digest digest;
    int64_t n_too_long;
    /* The example at hand. */
    int64_t held; /* its number, or -1 */
    qs_token_list tokens;
    float *weights;     /* [n_ctx] */
    uint8_t *is_answer; /* [n_ctx] */
};

/* ---- opening ---- */

static bool ends_in(const char *text, const char *suffix)
{
    size_t n = strlen(text), m = strlen(suffix);
    return n >= m && strcmp(text + n - m, suffix) == 0;
}

static qs_err add_file(qs_examples *e, const char *path)
{
    source_file *file = &e->files[e->n_files];
    qs_err err = qs_path_format(file->path, "%s", path);
    if (err == QS_OK) err = qs_file_map_open(&file->map, path);
    if (err == QS_OK) e->n_files++;
    return err;
}

/* Lines of all files; called without an array it only counts. */
static qs_err find_lines(qs_examples *e)
{
    int64_t n = 0;
    for (int64_t f = 0; f < e->n_files; f++) {
        if (e->files[f].map.bytes == 0) continue; /* mapped as NULL */
        const char *at = (const char *)e->files[f].map.data, *end = at + e->files[f].map.bytes;
        for (int32_t number = 1; at < end; number++) {
            const char *newline = memchr(at, '\n', (size_t)(end - at));
            size_t bytes = (size_t)((newline != NULL ? newline : end) - at);
            if (bytes > LINE_BYTES_MAX)
                return qs_fail(QS_E_INPUT, "read %s line %d: longer than %d bytes", e->files[f].path, number,
                               LINE_BYTES_MAX);
            size_t blank = 0;
            while (blank < bytes && strchr(" \t\r", at[blank]) != NULL) blank++;
            if (blank < bytes) {
                if (e->lines != NULL)
                    e->lines[n] = (line){.text = at, .bytes = bytes, .file = (int32_t)f, .number = number};
                n++;
            }
            at += bytes + 1;
        }
    }
    e->n_lines = n;
    return QS_OK;
}

static qs_err hash_files(qs_examples *e)
{
    qs_hasher *hasher;
    qs_err err = qs_hasher_create(&hasher);
    if (err != QS_OK) return err;
    for (int64_t f = 0; f < e->n_files; f++)
        qs_hasher_add(hasher, e->files[f].map.data, e->files[f].map.bytes);
    e->digest = qs_hasher_finish(hasher);
    return QS_OK;
}

static qs_err open_lines(qs_examples *e, const char *path)
{
    qs_err err;
    QS_TRY(find_lines(e));
    if (e->n_lines == 0) {
        err = qs_fail(QS_E_INPUT, "read %s: no example in it", path);
        goto out;
    }
    QS_TRY(QS_NEW(e->lines, e->n_lines, "lines of the corpus"));
    QS_TRY(find_lines(e));
    QS_TRY(hash_files(e));
    e->n = e->n_lines;
    e->have_answers = true;
    if (qs_tokenizer_eos(e->tokenizer) < 0)
        err = qs_fail(QS_E_INPUT,
                      "read %s: the tokenizer has no EOS, which ends an answer; name one as eos_token in "
                      "tokenizer_config.json",
                      path);
out:
    return err;
}

/* A file that is not .md or .txt may be named by itself; qs_corpus_load reads any file. */
static qs_err open_text(qs_examples *e, const char *path)
{
    qs_corpus corpus = {0};
    qs_err err;
    QS_TRY(qs_corpus_load(&corpus, path));
    e->digest = qs_corpus_digest(&corpus);
    for (size_t at = 0; at < corpus.bytes;) {
        size_t end = corpus.bytes - at > PIECE_BYTES ? at + PIECE_BYTES : corpus.bytes;
        const char *newline = end < corpus.bytes ? memrchr(corpus.text + at, '\n', end - at) : NULL;
        if (newline != NULL) end = (size_t)(newline - corpus.text) + 1;
        while (end < corpus.bytes && ((unsigned char)corpus.text[end] & 0xC0) == 0x80)
            end++; /* inside a character */
        QS_TRY(qs_tokenizer_encode(e->tokenizer, corpus.text + at, end - at, false, &e->text));
        at = end;
    }
    e->n = e->text.n / e->options.n_ctx;
    if (e->n == 0)
        err = qs_fail(QS_E_INPUT, "read %s: %lld tokens do not fill a row of %lld; use a smaller --seqlen",
                      path, (long long)e->text.n, (long long)e->options.n_ctx);
out:
    qs_corpus_free(&corpus);
    return err;
}

static qs_err list_directory(qs_examples *e, const char *path)
{
    char **names = NULL, file[QS_PATH_BYTES];
    int64_t n = 0;
    qs_err err;
    QS_TRY(qs_dir_list(&names, &n, path, ".jsonl"));
    if (n > N_FILES_MAX) {
        err = qs_fail(QS_E_INPUT, "read %s: more than %d files", path, N_FILES_MAX);
        goto out;
    }
    for (int64_t i = 0; i < n; i++) {
        QS_TRY(qs_path_format(file, "%s/%s", path, names[i]));
        QS_TRY(add_file(e, file));
    }
out:
    qs_dir_list_free(names, n);
    return err;
}

qs_err qs_examples_open(qs_examples **out, const char *path, const qs_tokenizer *tokenizer,
                        const qs_examples_options *options)
{
    qs_err err;
    qs_examples *e = NULL;
    *out = NULL;
    QS_TRY(QS_NEW(e, 1, "examples"));
    e->tokenizer = tokenizer;
    e->options = *options;
    e->held = -1;
    QS_TRY(QS_NEW(e->files, N_FILES_MAX, "files of the corpus"));
    QS_TRY(QS_NEW(e->weights, options->n_ctx, "weights of an example"));
    QS_TRY(QS_NEW(e->is_answer, options->n_ctx, "answers of an example"));
    if (qs_path_is_dir(path))
        QS_TRY(list_directory(e, path));
    else if (ends_in(path, ".jsonl"))
        QS_TRY(add_file(e, path));
    QS_TRY(e->n_files > 0 ? open_lines(e, path) : open_text(e, path));
    *out = e;
    e = NULL;
out:
    qs_examples_close(e);
    return err;
}

void qs_examples_close(qs_examples *e)
{
    if (e == NULL) return;
    for (int64_t f = 0; f < e->n_files; f++) qs_file_map_close(&e->files[f].map);
    qs_token_list_free(&e->text);
    qs_token_list_free(&e->tokens);
    qs_mem_free(e->files);
    qs_mem_free(e->lines);
    qs_mem_free(e->weights);
    qs_mem_free(e->is_answer);
    qs_mem_free(e);
}

int64_t qs_examples_n(const qs_examples *e) { return e->n; }
bool qs_examples_have_answers(const qs_examples *e) { return e->have_answers; }
qs_digest qs_examples_digest(const qs_examples *e) { return e->digest; }

void qs_examples_reorder(qs_examples *e, uint64_t seed)
{
    e->options.shuffle = true;
    e->options.seed = seed;
    e->held = -1;
}

int64_t qs_examples_n_too_long(const qs_examples *e) { return e->n_too_long; }

/* ---- one example ---- */

/* A permutation of [0, n) that needs no memory: a Feistel network of four rounds over the next power of four,
 * walked until it falls into the range again. */
static int64_t permute(int64_t i, int64_t n, uint64_t key)
{
    int half = 1;
    while ((int64_t)1 << 2 * half < n) half++;
    uint64_t mask = ((uint64_t)1 << half) - 1, x = (uint64_t)i;
    do {
        uint64_t left = x >> half, right = x & mask;
        for (uint64_t round = 0; round < 4; round++) {
            uint64_t next = left ^ (qs_rng_u64(key, right << 2 | round) & mask);
            left = right;
            right = next;
        }
        x = left << half | right;
    } while (x >= (uint64_t)n);
    return (int64_t)x;
}

static qs_err append_token(qs_token_list *list, int32_t id)
{
    qs_err err = qs_token_list_reserve(list, 1);
    if (err == QS_OK) list->ids[list->n++] = id;
    return err;
}

/* Tokens from `first` on belong to an answer or do not. Behind n_ctx nothing is kept: the example is too
 * long. */
static void mark(qs_examples *e, int64_t first, bool is_answer)
{
    int64_t end = e->tokens.n < e->options.n_ctx ? e->tokens.n : e->options.n_ctx;
    for (int64_t i = first; i < end; i++) {
        e->is_answer[i] = is_answer;
        e->weights[i] = is_answer ? (float)e->options.answer_weight : 1.0f;
    }
}

/* A prompt and its answer, which EOS ends; without an answer a text, which EOS ends as well. */
static qs_err encode_turn(qs_examples *e, const char *prompt, const char *answer)
{
    int64_t first = e->tokens.n;
    qs_err err;
    QS_TRY(qs_tokenizer_encode(e->tokenizer, prompt, strlen(prompt), false, &e->tokens));
    if (answer != NULL) {
        mark(e, first, false);
        first = e->tokens.n;
        QS_TRY(qs_tokenizer_encode(e->tokenizer, answer, strlen(answer), false, &e->tokens));
    }
    QS_TRY(append_token(&e->tokens, qs_tokenizer_eos(e->tokenizer)));
    mark(e, first, answer != NULL);
out:
    return err;
}

/* "more": [[prompt, answer], ...] go on from what stands before them. */
static qs_err encode_more(qs_examples *e, const json_t *more, const char *name)
{
    if (more == NULL) return QS_OK;
    for (size_t i = 0; i < json_array_size(more); i++) {
        const json_t *turn = json_array_get(more, i);
        const char *prompt = json_string_value(json_array_get(turn, 0)),
                   *answer = json_string_value(json_array_get(turn, 1));
        if (prompt == NULL || answer == NULL || json_array_size(turn) != 2)
            return qs_fail(QS_E_INPUT, "read %s: \"more\"[%zu] is no pair of texts", name, i);
        qs_err err = encode_turn(e, prompt, answer);
        if (err != QS_OK) return err;
    }
    return json_is_array(more) ? QS_OK : qs_fail(QS_E_INPUT, "read %s: \"more\" is no array", name);
}

static qs_err encode_line(qs_examples *e, const line *l)
{
    char name[QS_PATH_BYTES + 32];
    (void)snprintf(name, sizeof name, "%s line %d", e->files[l->file].path, l->number);
    const char *text = NULL, *answer = NULL;
    json_t *root = NULL;
    qs_err err;
    QS_TRY(qs_json_parse(&root, l->text, l->bytes, name));
    if (!json_is_object(root)) {
        err = qs_fail(QS_E_INPUT, "read %s: not an object", name);
        goto out;
    }
    QS_TRY(qs_json_opt_string(&text, root, "text", name));
    if (text == NULL) {
        QS_TRY(qs_json_get_string(&text, root, "prompt", name));
        QS_TRY(qs_json_get_string(&answer, root, "answer", name));
    }
    QS_TRY(qs_tokenizer_begin(e->tokenizer, &e->tokens));
    mark(e, 0, false);
    QS_TRY(encode_turn(e, text, answer));
    QS_TRY(encode_more(e, json_object_get(root, "more"), name));
out:
    json_decref(root);
    return err;
}

static qs_err hold_window(qs_examples *e, int64_t round, int64_t index)
{
    int64_t n_ctx = e->options.n_ctx, rest = e->text.n - e->n * n_ctx;
    int64_t phase = round > 0 ? qs_rng_below(e->options.seed, (uint64_t)round, rest + 1) : 0;
    for (int64_t i = 0; i < n_ctx; i++) {
        qs_err err = append_token(&e->tokens, e->text.ids[phase + index * n_ctx + i]);
        if (err != QS_OK) return err;
        e->weights[i] = 1;
        e->is_answer[i] = 0;
    }
    return QS_OK;
}

/* e->tokens becomes example `number`; empty when it is too long or has nothing to predict. */
static qs_err hold(qs_examples *e, int64_t number)
{
    if (e->held == number) return QS_OK;
    int64_t round = number / e->n, index = number % e->n;
    /* A key of its own, so that no order resembles other things that are drawn. */
    if (e->options.shuffle)
        index = permute(index, e->n, qs_rng_u64(e->options.seed ^ 0x6f72646572u, (uint64_t)round));
    e->held = -1;
    e->tokens.n = 0;
    qs_err err = QS_OK;
    if (e->lines == NULL) {
        err = hold_window(e, round, index);
    } else {
        err = encode_line(e, &e->lines[index]);
        bool too_long = e->tokens.n > e->options.n_ctx;
        if (err == QS_OK && (too_long || e->tokens.n < 2)) {
            e->n_too_long += too_long;
            e->tokens.n = 0;
        }
    }
    if (err == QS_OK) e->held = number;
    return err;
}

qs_err qs_examples_fill(qs_examples *e, int64_t *cursor, int64_t end, qs_batch *batch)
{
    qs_batch_clear(batch);
    for (int64_t n_skipped = 0; end < 0 || *cursor < end; ++*cursor) {
        qs_err err = hold(e, *cursor);
        if (err != QS_OK) return err;
        if (e->tokens.n == 0) {
            if (end < 0 && ++n_skipped >= e->n)
                return qs_fail(QS_E_INPUT,
                               "fill a batch: every example is longer than %lld tokens; use a larger --seqlen",
                               (long long)e->options.n_ctx);
            continue;
        }
        if (!qs_batch_add(batch, e->tokens.n, e->tokens.ids, e->weights, e->is_answer)) break;
    }
    return QS_OK;
}
