#include "data/prompt.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/rng.h"

const char qs_prompt_instruction[] =
    "Answer the question from the snippets below. Each snippet is a header and a text that ends with the "
    "snippet's id. "
    "Reply with one line of JSON that cites the id of the snippet used, like "
    "{\"answer\":\"12 days\",\"citations\":[{\"snippet_id\":\"S001\"}]}, and with \"" QS_ANSWER_UNKNOWN
    "\" and no citation when the snippets do not say.";

/* Fisher-Yates on counters of the seed: order[i] = whose header stands over snippet i. */
static void deal_headers(int64_t *order, int64_t n, const qs_prompt *prompt)
{
    for (int64_t i = 0; i < n; i++) order[i] = i;
    if (prompt->headers != QS_HEADERS_SHUFFLED) return;
    for (int64_t i = n - 1; i > 0; i--) {
        int64_t j = qs_rng_below(prompt->shuffle_seed, (uint64_t)i, i + 1), held = order[i];
        order[i] = order[j];
        order[j] = held;
    }
}

/* A copy in memory of ours of what a stream or jansson allocated, which is freed. */
static qs_err take_copy(char **out, char *text, const char *what)
{
    if (text == NULL) return qs_fail(QS_E_RESOURCE, "build %s: out of memory", what);
    size_t bytes = strlen(text);
    qs_err err = qs_mem_alloc(out, bytes + 1, what);
    if (err == QS_OK) memcpy(*out, text, bytes + 1);
    free(text);
    return err;
}

static void write_prompt(FILE *stream, const qs_prompt *prompt, const int64_t *order, bool in_chat)
{
    if (prompt->instruction != NULL && !in_chat) (void)fprintf(stream, "%s\n", prompt->instruction);
    for (int64_t i = 0; i < prompt->n_snippets; i++) {
        const qs_prompt_snippet *snippet = &prompt->snippets[i];
        if (prompt->headers != QS_HEADERS_REMOVED)
            (void)fprintf(stream, "%s\n", prompt->snippets[order[i]].header);
        (void)fprintf(stream, "%s [%s]\n", snippet->text, snippet->id);
    }
    (void)fprintf(stream, "Question: %s%s", prompt->question, in_chat ? "" : "\nAnswer:\n");
}

static qs_err build(char **text, const qs_prompt *prompt, bool in_chat)
{
    char *built = NULL;
    size_t bytes = 0;
    int64_t *order = NULL;
    qs_err err = QS_NEW(order, prompt->n_snippets, "order of headers");
    if (err != QS_OK) return err;
    deal_headers(order, prompt->n_snippets, prompt);
    FILE *stream = open_memstream(&built, &bytes);
    if (stream == NULL) {
        qs_mem_free(order);
        return qs_fail(QS_E_RESOURCE, "build prompt: out of memory");
    }
    write_prompt(stream, prompt, order, in_chat);
    qs_mem_free(order);
    if (fclose(stream) != 0) {
        free(built);
        return qs_fail(QS_E_RESOURCE, "build prompt: out of memory");
    }
    return take_copy(text, built, "prompt");
}

qs_err qs_prompt_build(char **text, const qs_prompt *prompt) { return build(text, prompt, false); }

qs_err qs_prompt_content(char **text, const qs_prompt *prompt) { return build(text, prompt, true); }

qs_err qs_prompt_answer(char **json, const char *const *ids, int64_t n_ids, const char *answer)
{
    json_t *root = json_object(), *list = json_array(), *text = json_string(answer);
    int failed = text == NULL;
    for (int64_t i = 0; i < n_ids; i++)
        failed |= json_array_append_new(list, json_pack("{s:s}", "snippet_id", ids[i]));
    /* The object takes the references, NULL included. */
    failed |= json_object_set_new(root, "answer", text);
    failed |= json_object_set_new(root, "citations", list);
    char *dumped = failed ? NULL : json_dumps(root, JSON_COMPACT);
    json_decref(root);
    if (failed) return qs_fail(QS_E_INPUT, "write answer: a text is not UTF-8");
    return take_copy(json, dumped, "answer");
}
