/* Gold sets: questions with known answers, and the snippets they are answered from (docs/gold-sets.md).
 * Three files of JSON Lines:
 *
 * corpus   {"snippet_id","section_id","source_url","header","start","end","tokens","rev","text"}
 *          source_url is FILE#SECTION with FILE relative to the corpus; start and end are byte offsets in FILE,
 *          half open; tokens are words between blanks, so that they belong to no model.
 * gold     {"qid","question","paraphrases":[3],"answer","answerable","target_section","decoy_section",
 *          "anchor":{"snippet_id","start","end"},"band"}
 *          The anchor is what the answer rests on, inside a snippet of the target section; null when the
 *          corpus does not answer, and the answer is QS_ANSWER_UNKNOWN then.
 * longform {"qid","question","snippets":[...]}: an open question over these snippets, for long generations.
 *
 * Unknown members are refused: a typing error must not pass silently. */
#ifndef QS_DATA_GOLDSET_H
#define QS_DATA_GOLDSET_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

enum { QS_GOLD_PARAPHRASES = 3 };

typedef struct qs_gold_snippet {
    const char *id, *section, *source_url, *header, *rev, *text;
    int64_t start, end; /* bytes in the source file */
    int64_t n_tokens;   /* words */
} qs_gold_snippet;

typedef enum qs_gold_band { QS_GOLD_EASY, QS_GOLD_MEDIUM, QS_GOLD_HARD, QS_GOLD_N_BANDS } qs_gold_band;

typedef struct qs_gold_item {
    const char *qid, *question, *paraphrases[QS_GOLD_PARAPHRASES], *answer, *target_section, *decoy_section;
    bool answerable;
    int64_t anchor;                   /* index of its snippet, -1 without one */
    int64_t anchor_start, anchor_end; /* bytes in the source file */
    qs_gold_band band;
} qs_gold_item;

typedef struct qs_gold_longform {
    const char *qid, *question;
    int64_t n_snippets;
    int64_t *snippets; /* [n_snippets] indices */
} qs_gold_longform;

/* All strings are borrowed from `lines`. Every array is in the order of its file. */
typedef struct qs_goldset {
    int64_t n_snippets, n_items, n_longforms;
    qs_gold_snippet *snippets;
    qs_gold_item *items;
    qs_gold_longform *longforms;
    json_t *lines;
} qs_goldset;

/* longform_path may be NULL. Errors: QS_E_INPUT with file, line and cause, for everything that can be told from
 * the files alone: JSON, members, types; ids, questions and wordings that are not unique; a text whose length is
 * not that of its offsets; overlapping snippets; unknown sections and snippets; a decoy that is the target or
 * holds the answer; an anchor outside its snippet or the target section, or without the answer in it. */
QS_MUST_CHECK qs_err qs_goldset_load(qs_goldset *out, const char *gold_path, const char *corpus_path,
                                     const char *longform_path);

/* The same from memory, for tests. */
typedef struct qs_gold_text {
    const char *name, *text;
    size_t bytes;
} qs_gold_text;
QS_MUST_CHECK qs_err qs_goldset_parse(qs_goldset *out, const qs_gold_text *gold, const qs_gold_text *corpus,
                                      const qs_gold_text *longform);
void qs_goldset_free(qs_goldset *set);

/* Holds every snippet against its source file, found relative to `dir`: the bytes at its offsets must be its
 * text, and its section must be the last "## SECTION" line before it. QS_E_INPUT names snippet, offsets, what is
 * there and, where the text occurs in the file, the right offsets. */
QS_MUST_CHECK qs_err qs_goldset_check_sources(const qs_goldset *set, const char *dir);

const char *qs_gold_band_name(qs_gold_band band);

#endif
