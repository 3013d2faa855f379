/* gold-prompts: a gold set as prompts with their answers, {"prompt","answer"} lines, for qsweep-train --validation. The
 * snippets are the k that share most words with the question, rare words counting more (inverse document frequency):
 * a plain stand-in for the retrieval of evaluate. */
#include <jansson.h>
#include <stdio.h>

#include "base/args.h"
#include "base/file.h"
#include "base/mem.h"
#include "data/goldset.h"
#include "data/overlap.h"
#include "data/prompt.h"
#include "data/world.h"

typedef struct options {
    const char *dir;
    int64_t k, n_items;
    bool paraphrases, instruct;
} options;

static qs_err write_prompt(const qs_goldset *set, const qs_gold_item *item, const char *question,
                           const options *opt, double *scores, int64_t *n_missing)
{
    qs_prompt_snippet snippets[QS_WORLD_SNIPPETS_MAX];
    int64_t best[QS_WORLD_SNIPPETS_MAX];
    const char *cited = item->answerable ? set->snippets[item->anchor].id : NULL;
    char *prompt = NULL, *answer = NULL;
    bool found = !item->answerable;
    qs_err err;
    qs_overlap_rank(set, question, opt->k, best, scores);
    for (int64_t n = 0; n < opt->k; n++) {
        found |= best[n] == item->anchor;
        const qs_gold_snippet *s = &set->snippets[best[n]];
        snippets[n] = (qs_prompt_snippet){.id = s->id, .header = s->header, .text = s->text};
    }
    *n_missing += !found;
    qs_prompt parts = {.snippets = snippets,
                       .n_snippets = opt->k,
                       .question = question,
                       .instruction = opt->instruct ? qs_prompt_instruction : NULL};
    QS_TRY(qs_prompt_build(&prompt, &parts));
    QS_TRY(qs_prompt_answer(&answer, &cited, item->answerable ? 1 : 0, item->answer));
    json_t *line = json_pack("{s:s, s:s}", "prompt", prompt, "answer", answer);
    if (line == NULL || json_dumpf(line, stdout, JSON_COMPACT) != 0 || putchar('\n') == EOF)
        err = qs_fail(QS_E_RESOURCE, "write prompt of %s: out of memory or disk", item->qid);
    json_decref(line);
out:
    qs_mem_free(prompt);
    qs_mem_free(answer);
    return err;
}

static qs_err run(const options *opt)
{
    char gold[QS_PATH_BYTES], corpus[QS_PATH_BYTES];
    qs_goldset set = {0};
    double *scores = NULL;
    int64_t n_missing = 0, n = 0;
    qs_err err;
    QS_TRY(qs_path_format(gold, "%s/gold.jsonl", opt->dir));
    QS_TRY(qs_path_format(corpus, "%s/corpus.jsonl", opt->dir));
    QS_TRY(qs_goldset_load(&set, gold, corpus, NULL));
    if (set.n_snippets < opt->k) {
        err = qs_fail(QS_E_USAGE, "--k %lld: the corpus has %lld snippets", (long long)opt->k,
                      (long long)set.n_snippets);
        goto out;
    }
    QS_TRY(QS_NEW(scores, set.n_snippets, "scores of snippets"));
    for (int64_t i = 0; i < set.n_items && i < opt->n_items; i++) {
        const qs_gold_item *item = &set.items[i];
        for (int p = -1; p < (opt->paraphrases ? QS_GOLD_PARAPHRASES : 0); p++, n++)
            QS_TRY(write_prompt(&set, item, p < 0 ? item->question : item->paraphrases[p], opt, scores,
                                &n_missing));
    }
    (void)fprintf(stderr, "%lld prompts with %lld snippets; %lld lack the snippet that answers\n",
                  (long long)n, (long long)opt->k, (long long)n_missing);
out:
    qs_mem_free(scores);
    qs_goldset_free(&set);
    return err;
}

int main(int argc, char **argv)
{
    options opt = {.k = 5, .n_items = INT64_MAX};
    qs_arg rows[] = {
        {"k", QS_ARG_INT, &opt.k, "N", "snippets in a prompt", 1, QS_WORLD_SNIPPETS_MAX, false},
        {"items", QS_ARG_INT, &opt.n_items, "N", "the first ones only", 1, 1e9, false},
        {"paraphrases", QS_ARG_FLAG, &opt.paraphrases, NULL, "the paraphrases too", 0, 0, false},
        {"instruct", QS_ARG_FLAG, &opt.instruct, NULL, "begin with the instruction for models of others", 0,
         0, false},
        {NULL, QS_ARG_FLAG, NULL, NULL, NULL, 0, 0, false},
    };
    qs_args args = {.program = "gold-prompts",
                    .summary = "write a gold set as prompts with answers",
                    .positional = "DIR",
                    .rows = rows};
    bool done;
    qs_err err = qs_args_parse(&args, argc, argv, stdout, &done);
    if (err != QS_OK || done) goto out;
    if (args.rest.n == 1) {
        opt.dir = args.rest.items[0];
        err = run(&opt);
    } else {
        err = qs_fail(QS_E_USAGE, "name the directory of one gold set");
    }
out:
    qs_args_free(&args);
    return qs_args_exit(err);
}
