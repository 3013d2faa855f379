/* tokenizer.json of a sentence encoder: any text; what passes must tokenise, with ids of its own vocabulary. */
#include "base/mem.h"
#include "rag/wordpiece.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static const char text[] = "ab [CLS] caf\xC3\xA9 12, un-done \xE9\x87\x8F\xE5\x8C\x96 e\xCC\x81\n"
                           "\tNORM \xC4\xB0 [SEP]x's \xEF\xBF\xBD";

static void encode(const qs_wordpiece *wordpiece, const char *what, size_t bytes, int64_t n_max, qs_token_list *list)
{
    if (qs_wordpiece_encode(wordpiece, what, bytes, n_max, list) != QS_OK) return;
    if (list->n < 2 || list->n > n_max) __builtin_trap();
    for (int64_t i = 0; i < list->n; i++)
        if (list->ids[i] < 0 || list->ids[i] >= qs_wordpiece_n_vocab(wordpiece)) __builtin_trap();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    qs_wordpiece *wordpiece;
    qs_token_list list = {0};
    if (qs_wordpiece_from_json(&wordpiece, (const char *)data, bytes, "fuzz") != QS_OK) return 0;
    encode(wordpiece, text, sizeof text - 1, 64, &list);
    encode(wordpiece, text, sizeof text - 1, 5, &list);
    encode(wordpiece, (const char *)data, bytes, 512, &list); /* the document itself is a text, too */
    qs_token_list_free(&list);
    qs_wordpiece_destroy(wordpiece);
    return 0;
}
