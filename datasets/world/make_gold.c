/* world-gold: the world's gold set, from names that training never sees (docs/gold-sets.md).
 *
 * Sections come in pairs, each the other's decoy: three attributes in common, with different values, and one
 * that only one of them has, which makes the unanswerable questions. Pairs take turns in the three bands. */
#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "base/args.h"
#include "base/file.h"
#include "data/goldset.h"
#include "data/prompt.h"
#include "data/world.h"

enum {
    N_PAIRS = 30,
    N_FACTS = 4,
    N_SECTIONS = 2 * N_PAIRS,
    N_ITEMS = 80,
    UNKNOWN_EVERY = 10, /* the last of ten items is unanswerable, so that both quick probes hold some */
    N_LONGFORMS = 24,
    LONGFORM_SNIPPETS = 8,
};

typedef struct section {
    qs_world_name name;
    char id[16];
    qs_world_text header;
    int attributes[N_FACTS];
    qs_world_text values[N_FACTS], texts[N_FACTS];
    char snippet_ids[N_FACTS][8];
    int64_t start[N_FACTS], end[N_FACTS];
} section;

static section sections[N_SECTIONS];

static qs_gold_band band_of(int pair) { return (qs_gold_band)(pair % QS_GOLD_N_BANDS); }

static bool name_taken(qs_world_name name, int n)
{
    for (int i = 0; i < n; i++)
        if (qs_world_name_equal(sections[i].name, name)) return true;
    return false;
}

static void draw_names(qs_world_draw *draw, int pair)
{
    section *a = &sections[2 * pair], *b = a + 1;
    do a->name = qs_world_name_draw(draw, QS_WORLD_PLANT, QS_WORLD_HELD_OUT);
    while (name_taken(a->name, 2 * pair));
    qs_world_header_write(a->header, a->name);
    bool alike;
    do {
        bool hard = band_of(pair) == QS_GOLD_HARD;
        b->name = hard ? qs_world_name_near(draw, QS_WORLD_PLANT, QS_WORLD_HELD_OUT, a->name)
                       : qs_world_name_draw(draw, QS_WORLD_PLANT, QS_WORLD_HELD_OUT);
        qs_world_header_write(b->header, b->name);
        /* The same kind of plant, or a name that is nearly the same. */
        alike = hard || strncmp(a->header, b->header, strcspn(a->header, " ") + 1) == 0;
    } while (!alike || name_taken(b->name, 2 * pair + 1));
}

static void draw_facts(qs_world_draw *draw, int pair)
{
    int order[64], n = qs_world_n_attributes();
    for (int i = 0; i < n; i++) {
        int j = (int)qs_world_below(draw, i + 1);
        order[i] = order[j];
        order[j] = i;
    }
    for (int side = 0; side < 2; side++) {
        section *s = &sections[2 * pair + side], *other = &sections[2 * pair];
        for (int i = 0; i < N_FACTS; i++) {
            s->attributes[i] = order[i + (side == 1 && i == N_FACTS - 1)];
            bool fresh;
            do { /* no value twice in a pair */
                qs_world_value_draw(s->values[i], draw, s->attributes[i], QS_WORLD_HELD_OUT);
                fresh = true;
                for (int j = 0; j < i; j++) fresh &= strcmp(s->values[i], s->values[j]) != 0;
                for (int j = 0; side == 1 && j < N_FACTS; j++)
                    fresh &= strcmp(s->values[i], other->values[j]) != 0;
            } while (!fresh);
            bool named = band_of(pair) == QS_GOLD_EASY ||
                         (band_of(pair) == QS_GOLD_HARD && qs_world_chance(draw, 0.5));
            qs_world_sentence_write(s->texts[i], draw, s->name, s->attributes[i], s->values[i], named,
                                    QS_WORLD_WORDINGS);
        }
    }
}

static void draw_world(qs_world_draw *draw)
{
    int ids[QS_WORLD_IDS];
    for (int i = 0; i < QS_WORLD_IDS; i++) {
        int j = (int)qs_world_below(draw, i + 1);
        ids[i] = ids[j];
        ids[j] = i;
    }
    for (int pair = 0; pair < N_PAIRS; pair++) {
        draw_names(draw, pair);
        draw_facts(draw, pair);
    }
    for (int i = 0; i < N_SECTIONS; i++) {
        (void)snprintf(sections[i].id, sizeof sections[i].id, "WD-%02d", i + 1);
        for (int f = 0; f < N_FACTS; f++)
            (void)snprintf(sections[i].snippet_ids[f], sizeof sections[i].snippet_ids[f], "S%03d",
                           ids[N_FACTS * i + f]);
    }
}

/* The sections as text; notes where each sentence lies. */
static void write_sections(FILE *out)
{
    int64_t at = 0;
    for (int i = 0; i < N_SECTIONS; i++) {
        section *s = &sections[i];
        at += fprintf(out, "%s## %s %s\n\n", i == 0 ? "" : "\n", s->id, s->header);
        for (int f = 0; f < N_FACTS; f++) {
            s->start[f] = at;
            at += fprintf(out, "%s", s->texts[f]);
            s->end[f] = at;
            at += fprintf(out, "%s", f + 1 < N_FACTS ? " " : "\n");
        }
    }
}

static void write_line(FILE *out, json_t *line)
{
    (void)json_dumpf(line, out, JSON_COMPACT);
    (void)fputc('\n', out);
    json_decref(line);
}

static void write_corpus(FILE *out)
{
    for (int i = 0; i < N_SECTIONS; i++)
        for (int f = 0; f < N_FACTS; f++) {
            const section *s = &sections[i];
            char url[64];
            int words = 1;
            for (const char *at = s->texts[f]; *at != '\0'; at++) words += *at == ' ';
            (void)snprintf(url, sizeof url, "sections.md#%s", s->id);
            write_line(out,
                       json_pack("{s:s,s:s,s:s,s:s,s:I,s:I,s:i,s:s,s:s}", "snippet_id", s->snippet_ids[f],
                                 "section_id", s->id, "source_url", url, "header", s->header, "start",
                                 (json_int_t)s->start[f], "end", (json_int_t)s->end[f], "tokens", words,
                                 "rev", "1", "text", s->texts[f]));
        }
}

/* The question and its paraphrases: four wordings out of all, each with a synonym of its own. */
static json_t *draw_questions(qs_world_draw *draw, const section *s, int attribute, json_t **first)
{
    int order[QS_WORLD_WORDINGS];
    json_t *paraphrases = json_array();
    for (int i = 0; i < QS_WORLD_WORDINGS; i++) {
        int j = (int)qs_world_below(draw, i + 1);
        order[i] = order[j];
        order[j] = i;
    }
    for (int i = 0; i <= QS_GOLD_PARAPHRASES; i++) {
        qs_world_text text;
        qs_world_question_write(text, s->name, attribute, (int)qs_world_below(draw, 2), order[i]);
        if (i == 0)
            *first = json_string(text);
        else
            (void)json_array_append_new(paraphrases, json_string(text));
    }
    return paraphrases;
}

/* A question about fact `f` of section `of`; f == N_FACTS is the attribute that only its decoy has. */
static void write_item(FILE *out, qs_world_draw *draw, int number, int of, int f)
{
    const section *s = &sections[of], *decoy = &sections[of ^ 1];
    bool known = f < N_FACTS;
    char qid[16];
    json_t *question = NULL, *anchor = json_null();
    int attribute = known ? s->attributes[f] : decoy->attributes[N_FACTS - 1];
    json_t *paraphrases = draw_questions(draw, s, attribute, &question);
    (void)snprintf(qid, sizeof qid, "W-%03d", number + 1);
    if (known)
        anchor = json_pack("{s:s,s:I,s:I}", "snippet_id", s->snippet_ids[f], "start", (json_int_t)s->start[f],
                           "end", (json_int_t)s->end[f]);
    write_line(out, json_pack("{s:s,s:o,s:o,s:s,s:b,s:s,s:s,s:o,s:s}", "qid", qid, "question", question,
                              "paraphrases", paraphrases, "answer", known ? s->values[f] : QS_ANSWER_UNKNOWN,
                              "answerable", known, "target_section", s->id, "decoy_section", decoy->id,
                              "anchor", anchor, "band", qs_gold_band_name(band_of(of / 2))));
}

static void write_gold(FILE *out, qs_world_draw *draw)
{
    int n_known = 0, n_unknown = 0;
    for (int i = 0; i < N_ITEMS; i++) {
        if (i % UNKNOWN_EVERY == UNKNOWN_EVERY - 1) {
            /* A stride of 7 visits all bands. */
            write_item(out, draw, i, 2 * (7 * n_unknown % N_PAIRS), N_FACTS);
            n_unknown++;
        } else {
            int round = n_known / N_PAIRS;
            write_item(out, draw, i, 2 * (n_known % N_PAIRS) + round % 2, round);
            n_known++;
        }
    }
}

/* All facts of two pairs, in a drawn order. */
static void write_longforms(FILE *out, qs_world_draw *draw)
{
    for (int i = 0; i < N_LONGFORMS; i++) {
        char qid[16];
        json_t *ids = json_array();
        (void)snprintf(qid, sizeof qid, "W-L%02d", i + 1);
        for (int n = 0; n < LONGFORM_SNIPPETS; n++) {
            const section *s = &sections[2 * (i % N_PAIRS) + n / N_FACTS];
            (void)json_array_insert_new(ids, (size_t)qs_world_below(draw, n + 1),
                                        json_string(s->snippet_ids[n % N_FACTS]));
        }
        write_line(out, json_pack("{s:s,s:s,s:o}", "qid", qid, "question", qs_world_report_questions[i % 3],
                                  "snippets", ids));
    }
}

static qs_err write_files(const char *dir, uint64_t seed)
{
    static const char *const names[] = {"sections.md", "corpus.jsonl", "gold.jsonl", "longform.jsonl"};
    qs_world_draw draw = qs_world_draw_of(seed, 0);
    draw_world(&draw);
    for (int i = 0; i < 4; i++) {
        qs_file_writer writer;
        char path[QS_PATH_BYTES];
        qs_err err = qs_path_format(path, "%s/%s", dir, names[i]);
        if (err == QS_OK) err = qs_file_writer_open(&writer, path);
        if (err != QS_OK) return err;
        if (i == 0) write_sections(writer.stream);
        if (i == 1) write_corpus(writer.stream);
        if (i == 2) write_gold(writer.stream, &draw);
        if (i == 3) write_longforms(writer.stream, &draw);
        err = qs_file_writer_publish(&writer);
        if (err != QS_OK) return err;
    }
    return QS_OK;
}

int main(int argc, char **argv)
{
    const char *out = NULL;
    int64_t seed = 1;
    qs_arg rows[] = {
        {"out", QS_ARG_STRING, &out, "DIR",
         "where sections.md, corpus.jsonl, gold.jsonl and longform.jsonl go", 0, 0, false},
        {"seed", QS_ARG_INT, &seed, "N", "seed of everything that draws", 0, 9007199254740992.0, false},
        {NULL, QS_ARG_FLAG, NULL, NULL, NULL, 0, 0, false},
    };
    qs_args args = {.program = "world-gold", .summary = "write the world's gold set", .rows = rows};
    bool done;
    qs_err err = qs_args_parse(&args, argc, argv, stdout, &done);
    if (err != QS_OK || done) goto out;
    if (out == NULL)
        err = qs_fail(QS_E_USAGE, "give --out DIR");
    else
        err = write_files(out, (uint64_t)seed);
out:
    qs_args_free(&args);
    return qs_args_exit(err);
}
