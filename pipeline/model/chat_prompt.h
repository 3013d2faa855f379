/* Chats of one model: what its checkpoint says about them, and their tokens. */
#ifndef QS_MODEL_CHAT_PROMPT_H
#define QS_MODEL_CHAT_PROMPT_H

#include "data/chat.h"
#include "model/generate.h"

/* The checkpoint's chat template, to be freed with qs_mem_free: chat_template.jinja or tokenizer_config.json of a
 * directory (of several the one named "default"), tokenizer.chat_template of a GGUF file. NULL when it has none.
 * QS_E_INPUT for one that cannot be read. */
QS_MUST_CHECK qs_err qs_model_chat_template(const qs_model *model, char **text);

/* qs_chat_choose of a model's own template. QS_E_UNSUPPORTED names a token of the row that the tokenizer lacks. */
QS_MUST_CHECK qs_err qs_model_choose_chat(qs_chat *out, const char *name, const qs_model *model);

/* What doctor and notes say: the row that the checkpoint's template means, "unknown", or "none". */
enum { QS_CHAT_TEXT_BYTES = 96 };
QS_MUST_CHECK qs_err qs_model_describe_chat(char text[QS_CHAT_TEXT_BYTES], const qs_model *model);

/* Tokens of the chat that end an answer beside the tokenizer's EOS; none for plain prompts. */
qs_stops qs_chat_stops(const qs_chat *chat, const qs_tokenizer *tokenizer);
/* The token that ends texts, which long ones do not choose: the first of those, or the tokenizer's EOS. */
int32_t qs_chat_end(const qs_chat *chat, const qs_tokenizer *tokenizer);

/* Appends the tokens of a chat. Errors: those of qs_chat_render and of encoding. */
QS_MUST_CHECK qs_err qs_chat_encode(const qs_chat *chat, const qs_tokenizer *tokenizer,
                                    const qs_chat_message *messages, int64_t n, qs_token_list *list);

#endif
