/* datasets-check: a shipped gold set is complete and right: every offset, id and decoy (data/goldset.h), and what
 * docs/gold-sets.md promises of its size and mixture. */
#include <stdio.h>
#include <string.h>

#include "base/args.h"
#include "base/file.h"
#include "data/goldset.h"

enum { ITEMS_MIN = 60, LONGFORMS_MIN = 20, QUICK = 10 };

static qs_err check_mixture(const qs_goldset *set, const char *dir)
{
    int64_t bands[QS_GOLD_N_BANDS] = {0}, quick[QS_GOLD_N_BANDS] = {0}, unknown = 0;
    if (set->n_items < ITEMS_MIN)
        return qs_fail(QS_E_INPUT, "check %s: %lld gold items, at least %d are wanted", dir,
                       (long long)set->n_items, ITEMS_MIN);
    if (set->n_longforms < LONGFORMS_MIN)
        return qs_fail(QS_E_INPUT, "check %s: %lld long forms, at least %d are wanted", dir,
                       (long long)set->n_longforms, LONGFORMS_MIN);
    for (int64_t i = 0; i < set->n_items; i++) {
        bands[set->items[i].band]++;
        quick[set->items[i].band] += i < QUICK;
        unknown += !set->items[i].answerable;
    }
    for (int b = 0; b < QS_GOLD_N_BANDS; b++)
        if (quick[b] == 0)
            return qs_fail(QS_E_INPUT, "check %s: the first %d items hold none of band %s", dir, QUICK,
                           qs_gold_band_name((qs_gold_band)b));
    if (unknown == 0) return qs_fail(QS_E_INPUT, "check %s: no item is unanswerable", dir);
    (void)printf(
        "%s: %lld items (%lld easy, %lld medium, %lld hard; %lld unanswerable), %lld long forms, %lld snippets\n",
        dir, (long long)set->n_items, (long long)bands[0], (long long)bands[1], (long long)bands[2],
        (long long)unknown, (long long)set->n_longforms, (long long)set->n_snippets);
    return QS_OK;
}

static qs_err check_directory(const char *dir)
{
    static const char *const names[] = {"gold.jsonl", "corpus.jsonl", "longform.jsonl"};
    char paths[3][QS_PATH_BYTES];
    qs_goldset set = {0};
    qs_err err;
    for (int i = 0; i < 3; i++) QS_TRY(qs_path_format(paths[i], "%s/%s", dir, names[i]));
    QS_TRY(qs_goldset_load(&set, paths[0], paths[1], paths[2]));
    QS_TRY(qs_goldset_check_sources(&set, dir));
    QS_TRY(check_mixture(&set, dir));
out:
    qs_goldset_free(&set);
    return err;
}

int main(int argc, char **argv)
{
    qs_arg rows[] = {{NULL, QS_ARG_FLAG, NULL, NULL, NULL, 0, 0, false}};
    qs_args args = {
        .program = "datasets-check", .summary = "validate gold sets", .positional = "DIR...", .rows = rows};
    bool done;
    qs_err err = qs_args_parse(&args, argc, argv, stdout, &done);
    if (err != QS_OK || done) goto out;
    if (args.rest.n == 0) err = qs_fail(QS_E_USAGE, "name the directories of the gold sets");
    for (int64_t i = 0; err == QS_OK && i < args.rest.n; i++) err = check_directory(args.rest.items[i]);
out:
    qs_args_free(&args);
    return qs_args_exit(err);
}
