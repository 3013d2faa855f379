/* tokenizer.json: any text; what passes must encode and decode, with ids of its own vocabulary. */
#include "base/mem.h"
#include "model/tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static const char text[] =
    "ab <s> caf\xC3\xA9 12 \xE2\x96\x81the \xF0\x9F\x98\x80\xE2\x80\x8D e\xCC\x81\n\tNORM <mask>  x's";

static void decode(const qs_tokenizer *tokenizer, const qs_token_list *list, bool skip)
{
    char *back;
    if (qs_tokenizer_decode(tokenizer, list->ids, list->n, skip, &back) == QS_OK) qs_mem_free(back);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    qs_tokenizer *tokenizer;
    qs_token_list list = {0};
    if (qs_tokenizer_from_json(&tokenizer, (const char *)data, bytes, "fuzz") != QS_OK) return 0;
    for (int specials = 0; specials < 2; specials++)
        if (qs_tokenizer_encode(tokenizer, text, sizeof text - 1, specials == 1, &list) == QS_OK)
            decode(tokenizer, &list, specials == 1);
    /* The document itself is a text, too. */
    if (bytes <= 4096 && qs_tokenizer_encode(tokenizer, (const char *)data, bytes, false, &list) == QS_OK)
        decode(tokenizer, &list, false);
    /* Half of it guarded, in the middle of a token or not. */
    const qs_span guarded = {sizeof text / 2, sizeof text - 1};
    if (qs_tokenizer_encode_guarded(tokenizer, text, sizeof text - 1, &guarded, 1, &list) == QS_OK)
        decode(tokenizer, &list, false);
    for (int64_t i = 0; i < list.n; i++)
        if (list.ids[i] < 0 || list.ids[i] >= qs_tokenizer_n_vocab(tokenizer)) __builtin_trap();
    qs_token_list_free(&list);
    qs_tokenizer_destroy(tokenizer);
    return 0;
}
