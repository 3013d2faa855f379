/* The world: invented plant of a water utility, from which training examples and the world's gold set are
 * drawn. Plant has a kind and a name of two syllables ("Pump Dravemoor") and facts, an attribute with a value
 * each ("flow", "47 litres"). What an answer needs stands in the snippets and nowhere else, so that a model can
 * only learn to read them.
 *
 * One name in eight, of plant and of people, is held out by a hash of its syllables: training draws from the
 * others alone, the gold set from the held-out ones alone, and both see every syllable. Everything is a pure
 * function of (seed, number), so any range of examples can be made again. */
#ifndef QS_DATA_WORLD_H
#define QS_DATA_WORLD_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "base/error.h"

enum {
    QS_WORLD_IDS = 256,         /* snippet ids, S000 to S255: one token each */
    QS_WORLD_SNIPPETS_MAX = 20, /* in one prompt */
    QS_WORLD_TEXT_BYTES = 160,  /* of a name, a value, a text or a question */
};

typedef enum qs_world_part { QS_WORLD_TRAINING, QS_WORLD_HELD_OUT } qs_world_part;

typedef char qs_world_text[QS_WORLD_TEXT_BYTES];

/* Draws in order from a counter-based generator. */
typedef struct qs_world_draw {
    uint64_t key, counter;
} qs_world_draw;
qs_world_draw qs_world_draw_of(uint64_t seed, uint64_t number);
int64_t qs_world_below(qs_world_draw *draw, int64_t n); /* [0, n) */
bool qs_world_chance(qs_world_draw *draw, double probability);

/* A name is a pair of syllables by index. */
typedef struct qs_world_name {
    int first, second;
} qs_world_name;
typedef enum qs_world_names { QS_WORLD_PLANT, QS_WORLD_PEOPLE } qs_world_names;

int qs_world_n_first(qs_world_names which);
int qs_world_n_second(qs_world_names which);
const char *qs_world_syllable(qs_world_names which, bool second, int index);
void qs_world_name_write(qs_world_text out, qs_world_names which, qs_world_name name);
qs_world_part qs_world_name_part(qs_world_names which, qs_world_name name);
qs_world_name qs_world_name_draw(qs_world_draw *draw, qs_world_names which, qs_world_part part);
/* Another name of the same part with one syllable of `name`: what is easily taken for it. */
qs_world_name qs_world_name_near(qs_world_draw *draw, qs_world_names which, qs_world_part part,
                                 qs_world_name name);
bool qs_world_name_equal(qs_world_name a, qs_world_name b);

int qs_world_n_attributes(void);
const char *qs_world_noun(int attribute, int synonym); /* synonym 0 or 1 */
/* A value of the attribute as texts and answers write it: "47 litres", "Amber", "Jasara". */
void qs_world_value_draw(qs_world_text out, qs_world_draw *draw, int attribute, qs_world_part part);

/* "Pump Dravemoor": the kind follows from the name. */
void qs_world_header_write(qs_world_text out, qs_world_name name);

enum { QS_WORLD_WORDINGS = 10 }; /* of questions; sentences have fewer */
/* A sentence that states the fact; `named`: with the plant's name, else the header alone tells whose it is. One of the
 * first n_wordings sentences is drawn, and one of both nouns, or the first with a single wording. A question for it. */
void qs_world_sentence_write(qs_world_text out, qs_world_draw *draw, qs_world_name name, int attribute,
                             const char *value, bool named, int n_wordings);
void qs_world_question_write(qs_world_text out, qs_world_name name, int attribute, int synonym, int wording);
extern const char *const qs_world_report_questions[]; /* ask for everything in the snippets; ends with NULL */

/* What training examples are drawn from. */
typedef struct qs_world_mix {
    int k_min, k_max; /* snippets in a prompt */
    int n_ids;              /* ids come from the first so many: few are learned sooner */
    int n_wordings;         /* in use, from the first; with one, nouns have no synonym, and headers alone have names */
    int n_questions;        /* about the same snippets, each with its answer; at most k, and one for a report */
    double unknown, report; /* shares: not in the snippets, everything in the snippets */
    double no_headers;      /* share without headers */
    double one_attribute;   /* share whose snippets all state the same attribute: only the name tells them apart */
    qs_world_part part;     /* whose names are drawn */
} qs_world_mix;
#define QS_WORLD_MIX_DEFAULTS                                                                                \
    {                                                                                                        \
        .k_min = 1, .k_max = 5, .n_ids = QS_WORLD_IDS, .n_wordings = QS_WORLD_WORDINGS, .n_questions = 1,      \
        .unknown = 0.08, .report = 0.03,    \
        .no_headers = 0.05                                                                                   \
    }

/* Prompts and answers in turn: the first prompt holds the snippets, the others are questions alone. */
typedef struct qs_world_turns {
    int n;
    char *prompts[QS_WORLD_SNIPPETS_MAX], *answers[QS_WORLD_SNIPPETS_MAX];
} qs_world_turns;

/* Example `number` of the seed. */
QS_MUST_CHECK qs_err qs_world_example(qs_world_turns *out, const qs_world_mix *mix, uint64_t seed,
                                      uint64_t number);
void qs_world_turns_free(qs_world_turns *turns);

#endif
