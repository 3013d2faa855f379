/* The world's words. Syllables are chosen so that no two pairs read alike and that a byte-level BPE keeps
 * each as one token; tests/test_world.c holds both. */
#include "data/world.h"

#include <string.h>

#include "base/rng.h"

static const char *const plant_first[] = {
    "Alv",   "Arn", "Ash",  "Bar", "Bel",  "Bran", "Brock", "Cal",  "Car",   "Clay", "Cold", "Cor",
    "Crag",  "Dal", "Dray", "Dun", "Bram", "Eld",  "Fair",  "Fal",  "Firth", "Gar",  "Glen", "Grim",
    "Hal",   "Hav", "Haz",  "Hol", "Ing",  "Kel",  "Kirk",  "Lang", "Lin",   "Long", "Mar",  "Mel",
    "Mill",  "Nor", "Oak",  "Pen", "Pol",  "Rav",  "Rud",   "Row",  "Sed",   "Sel",  "Stan", "Stock",
    "Thorn", "Tor", "Ulv",  "Wal", "Wyn",  "Wul",  "Win",   "Yar"};
static const char *const plant_second[] = {
    "moor",  "holm", "wick",  "ford",  "ham",  "stead", "ton",  "by",    "cote",   "lake",   "combe",
    "hurst", "ley",  "mere",  "worth", "bury", "field", "beck", "wood",  "bridge", "cliffe", "wyke",
    "garth", "low",  "marsh", "ness",  "pool", "shaw",  "toft", "brook", "croft",  "gill"};
static const char *const people_first[] = {"Ade", "Bex", "Cam", "Dor", "Edd", "Fio", "Gis", "Hob",  "Ivo",
                                           "Jas", "Kip", "Lev", "Mab", "Ned", "Oli", "Pru", "Quin", "Rab",
                                           "Jun", "Tam", "Una", "Ves", "Xan", "Yos", "Zeb"};
static const char *const people_second[] = {"ara", "ert", "ick", "ina", "iot", "oda",
                                            "olf", "ona", "ord", "ova", "uel", "une"};

#define N(list) ((int)(sizeof(list) / sizeof *(list)))

static const struct name_list {
    const char *const *first, *const *second;
    int n_first, n_second;
} names[] = {
    [QS_WORLD_PLANT] = {plant_first, plant_second, N(plant_first), N(plant_second)},
    [QS_WORLD_PEOPLE] = {people_first, people_second, N(people_first), N(people_second)},
};

static const char *const kinds[] = {"Pump", "Valve", "Filter", "Tank", "Meter", "Gate", "Weir", "Well"};
static const char *const colours[] = {"Amber",  "Black",  "Blue", "Brown", "Green", "Grey",
                                      "Orange", "Purple", "Red",  "White", "Yellow"};
static const char *const weekdays[] = {"Monday", "Tuesday",  "Wednesday", "Thursday",
                                       "Friday", "Saturday", "Sunday"};

/* What a value is made of: a number and a unit, a word of a list, or a person. */
static const struct attribute {
    const char *noun[2];
    const char *unit;
    const char *const *words;
    int n_words;
} attributes[] = {
    {.noun = {"flow", "throughput"}, .unit = "litres"},
    {.noun = {"pressure", "head"}, .unit = "bar"},
    {.noun = {"depth", "level"}, .unit = "cm"},
    {.noun = {"interval", "cycle"}, .unit = "days"},
    {.noun = {"delay", "lag"}, .unit = "minutes"},
    {.noun = {"stock", "reserve"}, .unit = "units"},
    {.noun = {"dose", "dosage"}, .unit = "mg"},
    {.noun = {"span", "length"}, .unit = "metres"},
    {.noun = {"load", "weight"}, .unit = "kg"},
    {.noun = {"colour", "paint"}, .words = colours, .n_words = N(colours)},
    {.noun = {"rota", "visit"}, .words = weekdays, .n_words = N(weekdays)},
    {.noun = {"keeper", "warden"}},
    {.noun = {"maker", "supplier"}},
};

/* %N is the name, %n the noun, %v the value. */
static const char *const named_sentences[] = {"The %n of %N is %v.", "%N has the %n %v.",
                                              "At %N the %n is %v.", "For %N the %n is given as %v."};
static const char *const bare_sentences[] = {"The %n is %v.", "It has the %n %v.", "Here the %n is %v.",
                                             "Its %n is given as %v."};
/* %K is kind and name. */
static const char *const questions[QS_WORLD_WORDINGS] = {
    "What is the %n of %N?",
    "Which %n does %N have?",
    "State the %n of %K.",
    "What %n is given for %N?",
    "%K: which %n?",
    "Find the %n for %N.",
    "What does the text say about the %n of %N?",
    "Name the %n that %K has.",
    "At %N, what is the %n?",
    "I need to know the %n of %K.",
};
const char *const qs_world_report_questions[] = {
    "Report everything in the snippets.", "List each fact in order.", "What do all the snippets say?", NULL};

qs_world_draw qs_world_draw_of(uint64_t seed, uint64_t number)
{
    return (qs_world_draw){.key = qs_rng_u64(seed, number)};
}

int64_t qs_world_below(qs_world_draw *draw, int64_t n) { return qs_rng_below(draw->key, draw->counter++, n); }

bool qs_world_chance(qs_world_draw *draw, double probability)
{
    return qs_rng_unit(draw->key, draw->counter++) < probability;
}

int qs_world_n_first(qs_world_names which) { return names[which].n_first; }
int qs_world_n_second(qs_world_names which) { return names[which].n_second; }

const char *qs_world_syllable(qs_world_names which, bool second, int index)
{
    return second ? names[which].second[index] : names[which].first[index];
}

void qs_world_name_write(qs_world_text out, qs_world_names which, qs_world_name name)
{
    (void)snprintf(out, QS_WORLD_TEXT_BYTES, "%s%s", names[which].first[name.first],
                   names[which].second[name.second]);
}

qs_world_part qs_world_name_part(qs_world_names which, qs_world_name name)
{
    uint64_t pair = (uint64_t)name.first * 1000 + (uint64_t)name.second;
    return qs_rng_u64(0x3017da7aULL + (uint64_t)which, pair) % 8 == 0 ? QS_WORLD_HELD_OUT : QS_WORLD_TRAINING;
}

bool qs_world_name_equal(qs_world_name a, qs_world_name b)
{
    return a.first == b.first && a.second == b.second;
}

qs_world_name qs_world_name_draw(qs_world_draw *draw, qs_world_names which, qs_world_part part)
{
    qs_world_name name;
    do {
        name.first = (int)qs_world_below(draw, names[which].n_first);
        name.second = (int)qs_world_below(draw, names[which].n_second);
    } while (qs_world_name_part(which, name) != part);
    return name;
}

qs_world_name qs_world_name_near(qs_world_draw *draw, qs_world_names which, qs_world_part part,
                                 qs_world_name name)
{
    qs_world_name near;
    do {
        near = name;
        if (qs_world_chance(draw, 0.5))
            near.first = (int)qs_world_below(draw, names[which].n_first);
        else
            near.second = (int)qs_world_below(draw, names[which].n_second);
    } while (qs_world_name_equal(near, name) || qs_world_name_part(which, near) != part);
    return near;
}

int qs_world_n_attributes(void) { return N(attributes); }
const char *qs_world_noun(int attribute, int synonym) { return attributes[attribute].noun[synonym]; }

void qs_world_value_draw(qs_world_text out, qs_world_draw *draw, int attribute, qs_world_part part)
{
    const struct attribute *a = &attributes[attribute];
    if (a->unit != NULL)
        (void)snprintf(out, QS_WORLD_TEXT_BYTES, "%d %s", 10 + (int)qs_world_below(draw, 90), a->unit);
    else if (a->words != NULL)
        (void)snprintf(out, QS_WORLD_TEXT_BYTES, "%s", a->words[qs_world_below(draw, a->n_words)]);
    else
        qs_world_name_write(out, QS_WORLD_PEOPLE, qs_world_name_draw(draw, QS_WORLD_PEOPLE, part));
}

void qs_world_header_write(qs_world_text out, qs_world_name name)
{
    qs_world_text text;
    qs_world_name_write(text, QS_WORLD_PLANT, name);
    int kind = (int)(qs_rng_u64(0x41d5ULL, (uint64_t)name.first * 1000 + (uint64_t)name.second) %
                     (uint64_t)N(kinds));
    (void)snprintf(out, QS_WORLD_TEXT_BYTES, "%s %.100s", kinds[kind], text);
}

/* Writes the template with what its marks stand for. */
static void fill(qs_world_text out, const char *template, qs_world_name name, const char *noun,
                 const char *value)
{
    qs_world_text plant, header;
    qs_world_name_write(plant, QS_WORLD_PLANT, name);
    qs_world_header_write(header, name);
    size_t n = 0;
    for (const char *at = template; *at != '\0' && n + 1 < QS_WORLD_TEXT_BYTES; at++) {
        if (*at != '%') {
            out[n++] = *at;
            continue;
        }
        at++;
        const char *text = *at == 'N' ? plant : *at == 'K' ? header : *at == 'n' ? noun : value;
        size_t bytes = strlen(text), room = QS_WORLD_TEXT_BYTES - 1 - n;
        if (bytes > room) bytes = room;
        memcpy(out + n, text, bytes);
        n += bytes;
    }
    out[n] = '\0';
}

void qs_world_sentence_write(qs_world_text out, qs_world_draw *draw, qs_world_name name, int attribute,
                             const char *value, bool named, int n_wordings)
{
    int n = n_wordings < N(named_sentences) ? n_wordings : N(named_sentences);
    int64_t which = qs_world_below(draw, n), synonym = qs_world_below(draw, n_wordings > 1 ? 2 : 1);
    fill(out, named ? named_sentences[which] : bare_sentences[which], name,
         attributes[attribute].noun[synonym], value);
}

void qs_world_question_write(qs_world_text out, qs_world_name name, int attribute, int synonym, int wording)
{
    fill(out, questions[wording], name, attributes[attribute].noun[synonym], "");
}
