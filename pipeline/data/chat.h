/* Chat templates: how the turns of a conversation are written for a model that was trained on them. A checkpoint says
 * how in a program (chat_template of tokenizer_config.json, chat_template.jinja, tokenizer.chat_template of GGUF);
 * here a template is a row, and a checkpoint's program is only searched for what is characteristic of a row. */
#ifndef QS_DATA_CHAT_H
#define QS_DATA_CHAT_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "base/span.h"

/* In texts of a row: the tokenizer's own end of a text. */
#define QS_CHAT_EOS "\x01"

typedef struct qs_chat_turn {
    const char *before, *after;
} qs_chat_turn;

enum { QS_CHAT_WORDS = 4, QS_CHAT_SYSTEM_BYTES = 1024 };

typedef struct qs_chat_row {
    const char *name, *text;
    qs_chat_turn system, user, assistant;
    const char *answer;         /* the head of an assistant's turn, which an answer stands behind */
    bool folds_system;          /* the system's text stands inside the first user turn, in front of its own */
    bool trims;                 /* contents lose the white space at both ends */
    bool bos;                   /* the tokenizer's BOS is written in front */
    bool bos_again;             /* ... and in front of each further user turn */
    const char *system_default; /* of conversations without a system message; NULL = none is written */
    /* Tokens that end an answer beside the tokenizer's EOS, and others that are written as tokens: both must be there.
     * No row has QS_CHAT_WORDS of either, so that a NULL ends each. */
    const char *stops[QS_CHAT_WORDS], *tokens[QS_CHAT_WORDS];
    /* A checkpoint's template means the first row all of whose marks, and nothing of whose `without`, stand in it, once
     * its quotes are single ones and its line ends are characters. */
    const char *marks[QS_CHAT_WORDS], *without[QS_CHAT_WORDS];
} qs_chat_row;
extern const qs_chat_row qs_chat_rows[]; /* ends with a row without a name */

/* A row as one checkpoint writes it. */
typedef struct qs_chat {
    const qs_chat_row *row; /* NULL = plain prompts (data/prompt.h) */
    bool bos;
    bool has_system; /* `system` is written where a conversation has no system message */
    char system[QS_CHAT_SYSTEM_BYTES];
} qs_chat;

/* name: none, auto or a row's. template_text: the checkpoint's, NULL when it has none; `where` names it in errors. auto
 * takes the row that it means, its BOS and its default system message, and without one plain prompts; a row that is
 * named is taken as it stands. QS_E_USAGE names the rows there are; QS_E_UNSUPPORTED says what an unknown template
 * holds. */
QS_MUST_CHECK qs_err qs_chat_choose(qs_chat *out, const char *name, const char *template_text, const char *where);

typedef enum qs_chat_role { QS_CHAT_SYSTEM, QS_CHAT_USER, QS_CHAT_ASSISTANT } qs_chat_role;

typedef struct qs_chat_message {
    qs_chat_role role;
    const char *text;
} qs_chat_message;

/* What an answer is generated behind. Contents are what messages say: their text is never a special token. */
typedef struct qs_chat_text {
    char *text; /* NUL-terminated */
    size_t bytes;
    qs_span *contents; /* [n_contents] in order */
    int64_t n_contents;
} qs_chat_text;

/* messages [n]: a system message at most, and first; then user and assistant in turn, the last a user's. bos and eos
 * are the tokenizer's texts ("" = none). QS_E_USAGE for another order, QS_E_RESOURCE. */
QS_MUST_CHECK qs_err qs_chat_render(qs_chat_text *out, const qs_chat *chat, const char *bos, const char *eos,
                                    const qs_chat_message *messages, int64_t n);
void qs_chat_text_free(qs_chat_text *text);

#endif
