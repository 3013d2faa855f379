/* Chat templates as checkpoints may carry them: any text; what is recognised is rendered, with the text as a
 * content. */
#include <string.h>

#include "base/mem.h"
#include "data/chat.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    char *text = NULL;
    qs_chat chat;
    qs_chat_text out;
    if (qs_mem_alloc(&text, bytes + 1, "text") != QS_OK) return 0;
    memcpy(text, data, bytes);
    const qs_chat_message messages[] = {{QS_CHAT_SYSTEM, text}, {QS_CHAT_USER, text}};
    for (int first = 0; first < 2; first++) {
        if (qs_chat_choose(&chat, "auto", text, "fuzz") != QS_OK) break;
        if (qs_chat_render(&out, &chat, "<s>", "</s>", messages + first, 2 - first) != QS_OK) continue;
        if (strlen(out.text) != out.bytes) __builtin_trap();
        for (int64_t i = 0; i < out.n_contents; i++)
            if (out.contents[i].start > out.contents[i].end || out.contents[i].end > out.bytes ||
                (i > 0 && out.contents[i].start < out.contents[i - 1].end))
                __builtin_trap();
        qs_chat_text_free(&out);
    }
    qs_mem_free(text);
    return 0;
}
