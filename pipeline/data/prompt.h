/* Prompts and answers, in the one format that training, evaluation and serving share. A prompt is
 *
 *   [INSTRUCTION\n]
 *   HEADER\n                 for each snippet, in the order given; left out when headers are removed
 *   TEXT [ID]\n
 *   Question: QUESTION\n
 *   Answer:\n
 *
 * and its answer one line of JSON, without blanks:
 *
 *   {"answer":"TEXT","citations":[{"snippet_id":"ID"}]}
 *
 * An id follows its text, so that a reader from left to right knows what the id stands for when it meets it; and the
 * citation follows the answer, whose words then tell where they came from. A prompt ends with a line end and an answer
 * starts with "{": tokens never reach across. With one snippet, log p(QUESTION | what stands before it) is the
 * re-ranking score of that snippet.
 *
 * In a chat (data/chat.h) the instruction is the system's turn and snippets and question are the user's; "Answer:" is
 * left out, since the answer stands behind the assistant's head. */
#ifndef QS_DATA_PROMPT_H
#define QS_DATA_PROMPT_H

#include <stdint.h>

#include "base/error.h"

/* The answer to what the snippets do not say; it cites nothing. */
#define QS_ANSWER_UNKNOWN "not stated"

typedef struct qs_prompt_snippet {
    const char *id, *header, *text;
} qs_prompt_snippet;

typedef enum qs_prompt_headers {
    QS_HEADERS_CANONICAL, /* every snippet under its own header */
    QS_HEADERS_SHUFFLED,  /* the headers dealt out anew among the snippets; texts, ids and their order stay */
    QS_HEADERS_REMOVED,   /* no headers */
} qs_prompt_headers;

typedef struct qs_prompt {
    const char *instruction;           /* NULL for models trained on this format */
    const qs_prompt_snippet *snippets; /* [n_snippets] */
    int64_t n_snippets;
    qs_prompt_headers headers;
    uint64_t shuffle_seed; /* of QS_HEADERS_SHUFFLED */
    const char *question;
} qs_prompt;

/* What tells a model that was not trained on this format what is wanted, example included. */
extern const char qs_prompt_instruction[];

/* The prompt, NUL-terminated, to be freed with qs_mem_free. QS_E_RESOURCE without memory. */
QS_MUST_CHECK qs_err qs_prompt_build(char **text, const qs_prompt *prompt);
/* The user's turn of a chat: snippets and question, without a line end behind them. */
QS_MUST_CHECK qs_err qs_prompt_content(char **text, const qs_prompt *prompt);

/* The answer that cites ids[n_ids], to be freed with qs_mem_free. QS_E_INPUT when a text is not UTF-8. */
QS_MUST_CHECK qs_err qs_prompt_answer(char **json, const char *const *ids, int64_t n_ids, const char *answer);

#endif
