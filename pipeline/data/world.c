/* Training examples of the world. */
#include "data/world.h"

#include <string.h>

#include "base/mem.h"
#include "data/prompt.h"

enum { N_REPORT_QUESTIONS = 3 };

typedef struct fact {
    qs_world_name name;
    int attribute;
    qs_world_text header, text, value;
    char id[8];
} fact;

/* The snippets of one prompt: facts[0] is the one that is asked for, order[] shuffles them. */
typedef struct scene {
    qs_world_part part;
    int n, n_wordings;
    bool no_headers;
    fact facts[QS_WORLD_SNIPPETS_MAX + 1];
    int order[QS_WORLD_SNIPPETS_MAX + 1];
} scene;

static bool is_there(const scene *s, qs_world_name name, int attribute)
{
    for (int i = 0; i < s->n; i++)
        if (s->facts[i].attribute == attribute && qs_world_name_equal(s->facts[i].name, name)) return true;
    return false;
}

/* The same attribute has another value in every snippet, as long as there are values left, so that an answer
 * tells which snippet was read. */
static void draw_value(qs_world_text out, qs_world_draw *draw, const scene *s, int attribute)
{
    for (int attempt = 0; attempt < 8; attempt++) {
        bool fresh = true;
        qs_world_value_draw(out, draw, attribute, s->part);
        for (int i = 0; i < s->n; i++) fresh &= strcmp(s->facts[i].value, out) != 0;
        if (fresh) return;
    }
}

static void add_fact(scene *s, qs_world_draw *draw, qs_world_name name, int attribute, bool named)
{
    fact *f = &s->facts[s->n];
    if (s->n_wordings == 1) named = s->no_headers;
    f->name = name;
    f->attribute = attribute;
    qs_world_header_write(f->header, name);
    draw_value(f->value, draw, s, attribute);
    qs_world_sentence_write(f->text, draw, name, attribute, f->value, named, s->n_wordings);
    s->n++;
}

/* The same attribute of other plant, of which some has nearly the same name. */
static void draw_one_attribute(scene *s, qs_world_draw *draw, int n, bool named)
{
    double near = 0.25 * (double)qs_world_below(draw, 3);
    qs_world_name first = s->facts[0].name;
    while (s->n < n) {
        qs_world_name name = qs_world_chance(draw, near)
                                 ? qs_world_name_near(draw, QS_WORLD_PLANT, s->part, first)
                                 : qs_world_name_draw(draw, QS_WORLD_PLANT, s->part);
        if (!is_there(s, name, s->facts[0].attribute))
            add_fact(s, draw, name, s->facts[0].attribute, named || qs_world_chance(draw, 0.4));
    }
}

/* Distractors: other facts of the same plant, the same fact of plant with a name that is nearly the same, and
 * anything else, in proportions that change from example to example. */
static void draw_scene(scene *s, qs_world_draw *draw, int n, bool named, bool one_attribute)
{
    qs_world_name plant[QS_WORLD_SNIPPETS_MAX + 4];
    /* At least a plant for four snippets beside the one asked for: it has facts enough. */
    int n_plant = 2 + n / 4 + (int)qs_world_below(draw, n - n / 4 + 1),
        attribute = (int)qs_world_below(draw, qs_world_n_attributes());
    double own = 0.4 * (double)qs_world_below(draw, 3), near = 0.25 * (double)qs_world_below(draw, 3);
    double same_attribute = 0.2 + 0.3 * (double)qs_world_below(draw, 3);
    plant[0] = qs_world_name_draw(draw, QS_WORLD_PLANT, s->part);
    for (int i = 1; i < n_plant; i++)
        plant[i] = qs_world_chance(draw, near) ? qs_world_name_near(draw, QS_WORLD_PLANT, s->part, plant[0])
                                               : qs_world_name_draw(draw, QS_WORLD_PLANT, s->part);
    s->n = 0;
    add_fact(s, draw, plant[0], attribute, named || qs_world_chance(draw, 0.4));
    if (one_attribute) draw_one_attribute(s, draw, n, named);
    while (s->n < n) {
        bool of_own = qs_world_chance(draw, own);
        qs_world_name name = plant[of_own ? 0 : 1 + qs_world_below(draw, n_plant - 1)];
        int other = !of_own && qs_world_chance(draw, same_attribute)
                        ? attribute
                        : (int)qs_world_below(draw, qs_world_n_attributes());
        if (!is_there(s, name, other)) add_fact(s, draw, name, other, named || qs_world_chance(draw, 0.4));
    }
}

static void draw_ids(scene *s, qs_world_draw *draw, int n_ids)
{
    for (int i = 0; i < s->n; i++) {
        bool fresh;
        do {
            fresh = true;
            (void)snprintf(s->facts[i].id, sizeof s->facts[i].id, "S%03d", (int)qs_world_below(draw, n_ids));
            for (int j = 0; j < i; j++) fresh &= strcmp(s->facts[i].id, s->facts[j].id) != 0;
        } while (!fresh);
    }
}

/* order[] = the facts from `first` on, shuffled. */
static int shuffle(scene *s, qs_world_draw *draw, int first)
{
    int n = 0;
    for (int i = first; i < s->n; i++) {
        int j = (int)qs_world_below(draw, n + 1);
        s->order[n] = s->order[j];
        s->order[j] = i;
        n++;
    }
    return n;
}

/* Everything in the snippets, in their order: "Pump Dravemoor: Its flow is 47 litres. ...". */
static qs_err report_answer(char **answer, const scene *s, int n)
{
    const char *ids[QS_WORLD_SNIPPETS_MAX + 1];
    char text[(QS_WORLD_SNIPPETS_MAX + 1) * QS_WORLD_TEXT_BYTES];
    size_t used = 0;
    text[0] = '\0';
    for (int i = 0; i < n; i++) {
        const fact *f = &s->facts[s->order[i]];
        ids[i] = f->id;
        used += (size_t)snprintf(text + used, sizeof text - used, "%s%s: %s", i == 0 ? "" : " ", f->header,
                                 f->text);
    }
    return qs_prompt_answer(answer, ids, n, text);
}

/* Adds a question about facts[index] and its answer; the snippets stand before the first one. */
static qs_err add_turn(qs_world_turns *out, qs_world_draw *draw, const scene *s, int index, bool unknown,
                       qs_prompt parts)
{
    const fact *f = &s->facts[index];
    qs_world_text question;
    const char *id = f->id;
    int wording = (int)qs_world_below(draw, s->n_wordings);
    int synonym = (int)qs_world_below(draw, s->n_wordings > 1 ? 2 : 1);
    qs_world_question_write(question, f->name, f->attribute, synonym, wording);
    parts.question = question;
    if (out->n > 0) parts.n_snippets = 0;
    qs_err err = qs_prompt_build(&out->prompts[out->n], &parts);
    if (err != QS_OK) return err;
    err =
        qs_prompt_answer(&out->answers[out->n], &id, unknown ? 0 : 1, unknown ? QS_ANSWER_UNKNOWN : f->value);
    if (err != QS_OK) qs_mem_free(out->prompts[out->n]);
    out->n += err == QS_OK;
    return err;
}

static qs_err add_report(qs_world_turns *out, qs_world_draw *draw, const scene *s, int n, qs_prompt parts)
{
    parts.question = qs_world_report_questions[qs_world_below(draw, N_REPORT_QUESTIONS)];
    qs_err err = qs_prompt_build(&out->prompts[0], &parts);
    if (err != QS_OK) return err;
    err = report_answer(&out->answers[0], s, n);
    if (err != QS_OK) qs_mem_free(out->prompts[0]);
    out->n += err == QS_OK;
    return err;
}

qs_err qs_world_example(qs_world_turns *out, const qs_world_mix *mix, uint64_t seed, uint64_t number)
{
    scene s = {.part = mix->part, .n_wordings = mix->n_wordings};
    qs_prompt_snippet snippets[QS_WORLD_SNIPPETS_MAX + 1];
    qs_world_draw draw = qs_world_draw_of(seed, number);
    int n = mix->k_min + (int)qs_world_below(&draw, mix->k_max - mix->k_min + 1);
    bool unknown = qs_world_chance(&draw, mix->unknown);
    bool report = !unknown && qs_world_chance(&draw, mix->report);
    bool no_headers = qs_world_chance(&draw, mix->no_headers);
    s.no_headers = no_headers;
    /* Drawn only where it is asked for, so that other mixes stay what they were. */
    bool one_attribute = mix->one_attribute > 0 && qs_world_chance(&draw, mix->one_attribute);
    *out = (qs_world_turns){0};

    draw_scene(&s, &draw, n + (unknown ? 1 : 0), no_headers, one_attribute);
    draw_ids(&s, &draw, mix->n_ids);
    n = shuffle(&s, &draw, unknown ? 1 : 0);
    for (int i = 0; i < n; i++) {
        const fact *f = &s.facts[s.order[i]];
        snippets[i] = (qs_prompt_snippet){.id = f->id, .header = f->header, .text = f->text};
    }
    qs_prompt parts = {.snippets = snippets,
                       .n_snippets = n,
                       .headers = no_headers ? QS_HEADERS_REMOVED : QS_HEADERS_CANONICAL};
    qs_err err = report ? add_report(out, &draw, &s, n, parts) : add_turn(out, &draw, &s, 0, unknown, parts);
    int n_turns = report ? 1 : mix->n_questions < n ? mix->n_questions : n;
    /* facts[0] has been asked for; the others come in the order in which they were drawn. */
    for (int i = 1; err == QS_OK && i < n_turns; i++) err = add_turn(out, &draw, &s, i, false, parts);
    if (err != QS_OK) qs_world_turns_free(out);
    return err;
}

void qs_world_turns_free(qs_world_turns *turns)
{
    for (int i = 0; i < turns->n; i++) {
        qs_mem_free(turns->prompts[i]);
        qs_mem_free(turns->answers[i]);
    }
    turns->n = 0;
}
