#include "data/answer.h"

#include <string.h>

static bool is_citation(const json_t *value)
{
    return json_object_size(value) == 1 && json_is_string(json_object_get(value, "snippet_id"));
}

bool qs_answer_parse(qs_answer *out, const char *text)
{
    size_t i;
    json_t *citation;
    *out = (qs_answer){.root = json_loadb(text, strlen(text), JSON_REJECT_DUPLICATES, NULL)};
    const json_t *answer = json_object_get(out->root, "answer"), *citations = json_object_get(out->root, "citations");
    if (json_object_size(out->root) != 2 || !json_is_string(answer) || !json_is_array(citations)) return false;
    json_array_foreach(citations, i, citation) if (!is_citation(citation)) return false;
    out->text = json_string_value(answer);
    out->n_citations = (int64_t)json_array_size(citations);
    return true;
}

const char *qs_answer_citation(const qs_answer *answer, int64_t i)
{
    const json_t *citations = json_object_get(answer->root, "citations");
    return json_string_value(json_object_get(json_array_get(citations, (size_t)i), "snippet_id"));
}

void qs_answer_free(qs_answer *answer)
{
    json_decref(answer->root);
    *answer = (qs_answer){0};
}
