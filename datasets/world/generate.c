/* world-generate: training examples of the world, as many as are asked for. */
#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "base/args.h"
#include "base/mem.h"
#include "data/corpus.h"
#include "data/world.h"

typedef struct options {
    const char *format, *text;
    double text_share;
    bool held_out;
    int64_t n_examples, first, seed, k_min, k_max, n_ids, n_wordings, n_questions;
    double unknown, report, no_headers, one_attribute;
} options;

/* A line each: the syllables that begin and end the names of plant, then those of people. */
static void print_syllables(void)
{
    for (int which = QS_WORLD_PLANT; which <= QS_WORLD_PEOPLE; which++)
        for (int second = 0; second < 2; second++) {
            int n =
                second ? qs_world_n_second((qs_world_names)which) : qs_world_n_first((qs_world_names)which);
            for (int i = 0; i < n; i++)
                (void)printf("%s%c", qs_world_syllable((qs_world_names)which, second, i),
                             i + 1 < n ? ' ' : '\n');
        }
}

/* {"prompt", "answer"}, and "more": [[prompt, answer], ...] where further questions follow. */
static json_t *line_of(const qs_world_turns *turns)
{
    json_t *line = json_pack("{s:s, s:s}", "prompt", turns->prompts[0], "answer", turns->answers[0]);
    if (turns->n == 1) return line;
    json_t *more = json_array();
    for (int i = 1; i < turns->n; i++)
        (void)json_array_append_new(more, json_pack("[s, s]", turns->prompts[i], turns->answers[i]));
    (void)json_object_set_new(line, "more", more);
    return line;
}

/* A paragraph of the corpus, with its heading where it follows one: {"text"}. Where the paragraphs are is found anew
 * each time, from a drawn byte on; texts are small. */
static void write_paragraph(const qs_corpus *corpus, qs_world_draw *draw)
{
    const char *at = corpus->text + qs_world_below(draw, (int64_t)corpus->bytes), *end;
    while (at > corpus->text && strncmp(at - 1, "\n\n", 2) != 0) at--;
    at += strspn(at, "\n");
    end = strstr(at, "\n\n");
    if (*at == '#' && end != NULL) end = strstr(end + 2, "\n\n");
    int bytes = end != NULL ? (int)(end - at) : (int)strlen(at);
    json_t *line = json_pack("{s:s%}", "text", at, (size_t)bytes);
    (void)json_dumpf(line, stdout, JSON_COMPACT);
    (void)putchar('\n');
    json_decref(line);
}

static qs_err write_example(const options *opt, const qs_world_mix *mix, int64_t number)
{
    qs_world_turns turns;
    qs_err err = qs_world_example(&turns, mix, (uint64_t)opt->seed, (uint64_t)number);
    if (err != QS_OK) return err;
    if (strcmp(opt->format, "text") == 0) {
        for (int i = 0; i < turns.n; i++) (void)printf("%s%s\n", turns.prompts[i], turns.answers[i]);
        (void)putchar('\n');
    } else {
        json_t *line = line_of(&turns);
        if (line == NULL || json_dumpf(line, stdout, JSON_COMPACT) != 0 || putchar('\n') == EOF)
            err = qs_fail(QS_E_RESOURCE, "write example %lld: out of memory or disk", (long long)number);
        json_decref(line);
    }
    qs_world_turns_free(&turns);
    return err;
}

static qs_err check_options(const options *opt)
{
    if (strcmp(opt->format, "jsonl") != 0 && strcmp(opt->format, "text") != 0)
        return qs_fail(QS_E_USAGE, "--format: \"%s\" is none of jsonl, text, syllables", opt->format);
    if (opt->k_min > opt->k_max)
        return qs_fail(QS_E_USAGE, "--k-min %lld is above --k-max %lld", (long long)opt->k_min,
                       (long long)opt->k_max);
    return QS_OK;
}

static qs_err run(const options *opt)
{
    qs_world_mix mix = {.k_min = (int)opt->k_min,
                        .k_max = (int)opt->k_max,
                        .n_ids = (int)opt->n_ids,
                        .n_wordings = (int)opt->n_wordings,
                        .n_questions = (int)opt->n_questions,
                        .unknown = opt->unknown,
                        .report = opt->report,
                        .no_headers = opt->no_headers,
                        .one_attribute = opt->one_attribute,
                        .part = opt->held_out ? QS_WORLD_HELD_OUT : QS_WORLD_TRAINING};
    qs_corpus corpus = {0};
    if (strcmp(opt->format, "syllables") == 0) {
        print_syllables();
        return QS_OK;
    }
    qs_err err = check_options(opt);
    if (err == QS_OK && opt->text != NULL) err = qs_corpus_load(&corpus, opt->text);
    for (int64_t i = opt->first; err == QS_OK && i < opt->first + opt->n_examples; i++) {
        /* A key of its own, so that the examples stay what they are without text. */
        qs_world_draw draw = qs_world_draw_of((uint64_t)opt->seed ^ 0x7e87U, (uint64_t)i);
        if (opt->text != NULL && qs_world_chance(&draw, opt->text_share)) write_paragraph(&corpus, &draw);
        err = write_example(opt, &mix, i);
    }
    qs_corpus_free(&corpus);
    return err;
}

int main(int argc, char **argv)
{
    qs_world_mix mix = QS_WORLD_MIX_DEFAULTS;
    options opt = {.format = "jsonl",
                   .text_share = 0.05,
                   .n_examples = 1000,
                   .k_min = mix.k_min,
                   .k_max = mix.k_max,
                   .n_ids = mix.n_ids,
                   .n_wordings = mix.n_wordings,
                   .n_questions = mix.n_questions,
                   .unknown = mix.unknown,
                   .report = mix.report,
                   .no_headers = mix.no_headers};
    qs_arg rows[] = {
        {"format", QS_ARG_STRING, &opt.format, "NAME",
         "jsonl ({prompt, answer} lines), text (both as text) or syllables (of all names)", 0, 0, false},
        {"examples", QS_ARG_INT, &opt.n_examples, "N", "how many", 0, 1e12, false},
        {"first", QS_ARG_INT, &opt.first, "N", "number of the first one", 0, 1e12, false},
        {"seed", QS_ARG_INT, &opt.seed, "N", "seed of everything that draws", 0, 9007199254740992.0, false},
        {"k-min", QS_ARG_INT, &opt.k_min, "N", "fewest snippets in a prompt", 1, QS_WORLD_SNIPPETS_MAX,
         false},
        {"k-max", QS_ARG_INT, &opt.k_max, "N", "most snippets in a prompt", 1, QS_WORLD_SNIPPETS_MAX, false},
        {"ids", QS_ARG_INT, &opt.n_ids, "N", "snippet ids in use, from the first", QS_WORLD_SNIPPETS_MAX + 1,
         QS_WORLD_IDS, false},
        {"wordings", QS_ARG_INT, &opt.n_wordings, "N",
         "of questions and sentences in use, from the first; 1: nouns have no synonyms, headers alone have names", 1,
         QS_WORLD_WORDINGS, false},
        {"questions", QS_ARG_INT, &opt.n_questions, "N", "about the same snippets, at most", 1,
         QS_WORLD_SNIPPETS_MAX, false},
        {"unknown", QS_ARG_REAL, &opt.unknown, "SHARE", "questions that the snippets do not answer", 0, 1,
         false},
        {"report", QS_ARG_REAL, &opt.report, "SHARE", "questions for everything in the snippets", 0, 1,
         false},
        {"no-headers", QS_ARG_REAL, &opt.no_headers, "SHARE", "prompts without headers", 0, 1, false},
        {"one-attribute", QS_ARG_REAL, &opt.one_attribute, "SHARE",
         "prompts whose snippets all state the same attribute", 0, 1, false},
        {"text", QS_ARG_STRING, &opt.text, "FILE|DIR", "lay paragraphs of this among the examples", 0, 0,
         false},
        {"text-share", QS_ARG_REAL, &opt.text_share, "SHARE", "paragraphs for an example", 0, 1, false},
        {"held-out", QS_ARG_FLAG, &opt.held_out, NULL, "names that training never sees, for validation", 0, 0,
         false},
        {NULL, QS_ARG_FLAG, NULL, NULL, NULL, 0, 0, false},
    };
    qs_args args = {
        .program = "world-generate", .summary = "write training examples of the world", .rows = rows};
    bool done;
    qs_err err = qs_args_parse(&args, argc, argv, stdout, &done);
    if (err != QS_OK || done) goto out;
    err = run(&opt);
out:
    qs_args_free(&args);
    return qs_args_exit(err);
}
