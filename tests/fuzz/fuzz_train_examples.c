/* Lines of training examples: what passes fills rows with tokens of the vocabulary, and never more than fit. */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"
#include "train/examples.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

enum { N_CTX = 64, N_ROWS = 2, N_BATCHES = 3, TOKENIZER_BYTES_MAX = 1 << 20 };

static const qs_tokenizer *load_tokenizer(void)
{
    static qs_tokenizer *tokenizer;
    char *text;
    size_t bytes;
    if (tokenizer != NULL) return tokenizer;
    if (qs_file_read(&text, &bytes, "tests/fixtures/tiny/tokenizer.json", TOKENIZER_BYTES_MAX) != QS_OK ||
        qs_tokenizer_from_json(&tokenizer, text, bytes, "tokenizer.json") != QS_OK)
        abort(); /* run it from the top of the repository */
    qs_mem_free(text);
    return tokenizer;
}

static void check(const qs_batch *batch, int64_t n_vocab)
{
    double weight = 0;
    for (int64_t row = 0; row < N_ROWS; row++) {
        int64_t end = 0;
        for (int64_t i = 0; i < batch->n_segments[row]; i++) {
            const qs_segment *s = &batch->segments[row * batch->n_segments_max + i];
            if (s->first != end || s->n < 2) __builtin_trap();
            end += s->n;
        }
        if (end > N_CTX) __builtin_trap();
    }
    for (int64_t i = 0; i < N_ROWS * N_CTX; i++) {
        if (batch->tokens[i] < 0 || batch->tokens[i] >= n_vocab || batch->targets[i] < 0 ||
            batch->targets[i] >= n_vocab)
            __builtin_trap();
        weight += batch->weights[i];
    }
    if (weight != batch->weight) __builtin_trap();
}

/* The name decides how a file is read; the first bit decides the name. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    const qs_examples_options options = {.n_ctx = N_CTX, .answer_weight = 10, .shuffle = true, .seed = 1};
    const qs_tokenizer *tokenizer = load_tokenizer();
    char path[QS_PATH_BYTES];
    qs_examples *examples;
    qs_batch batch;
    int64_t cursor = 0;
    if (bytes == 0) return 0;
    (void)snprintf(path, sizeof path, "/dev/shm/qsweep-fuzz-%d%s", (int)getpid(),
                   (data[0] & 1) != 0 ? ".jsonl" : ".txt");
    FILE *file = fopen(path, "wb");
    if (file == NULL || fwrite(data + 1, 1, bytes - 1, file) != bytes - 1 || fclose(file) != 0) abort();
    if (qs_examples_open(&examples, path, tokenizer, &options) == QS_OK) {
        if (qs_batch_init(&batch, N_ROWS, N_CTX) != QS_OK) abort();
        for (int i = 0; i < N_BATCHES && qs_examples_fill(examples, &cursor, -1, &batch) == QS_OK; i++)
            check(&batch, qs_tokenizer_n_vocab(tokenizer));
        qs_batch_fini(&batch);
        qs_examples_close(examples);
    }
    (void)unlink(path);
    return 0;
}
