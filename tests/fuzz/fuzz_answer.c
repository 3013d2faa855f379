/* Answers as models may write them, and texts compared as claims. */
#include <string.h>

#include "base/mem.h"
#include "data/answer.h"
#include "data/claim.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    char *text = NULL, *once = NULL, *twice = NULL;
    qs_answer answer;
    bool holds = false;
    if (qs_mem_alloc(&text, bytes + 1, "text") != QS_OK) return 0;
    memcpy(text, data, bytes);
    if (qs_answer_parse(&answer, text)) {
        if (answer.text == NULL) __builtin_trap();
        for (int64_t i = 0; i < answer.n_citations; i++)
            if (qs_answer_citation(&answer, i) == NULL) __builtin_trap();
    }
    qs_answer_free(&answer);
    /* A canonical text is its own canonical text, and a text holds itself. */
    if (qs_claim_canonical(&once, text) == QS_OK) {
        if (qs_claim_canonical(&twice, once) != QS_OK || strcmp(once, twice) != 0) __builtin_trap();
        if (qs_claim_holds(text, text, &holds) != QS_OK || holds != (strlen(once) > 1)) __builtin_trap();
    }
    qs_mem_free(text);
    qs_mem_free(once);
    qs_mem_free(twice);
    return 0;
}
