/* Gold sets: corpus, gold items and long forms, separated by a line "%%"; what passes must hold together. */
#include <string.h>

#include "data/goldset.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static void check(const qs_goldset *set)
{
    for (int64_t i = 0; i < set->n_snippets; i++)
        if ((int64_t)strlen(set->snippets[i].text) != set->snippets[i].end - set->snippets[i].start) __builtin_trap();
    for (int64_t i = 0; i < set->n_items; i++)
        if (set->items[i].anchor >= set->n_snippets || (set->items[i].anchor < 0) == set->items[i].answerable)
            __builtin_trap();
    for (int64_t i = 0; i < set->n_longforms; i++)
        for (int64_t s = 0; s < set->longforms[i].n_snippets; s++)
            if (set->longforms[i].snippets[s] < 0 || set->longforms[i].snippets[s] >= set->n_snippets) __builtin_trap();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    qs_gold_text parts[3];
    const char *at = (const char *)data, *end = at + bytes;
    for (int i = 0; i < 3; i++) {
        const char *stop = i < 2 && at < end ? memmem(at, (size_t)(end - at), "%%\n", 3) : NULL;
        parts[i] = (qs_gold_text){"fuzz", at, (size_t)((stop != NULL ? stop : end) - at)};
        at = stop != NULL ? stop + 3 : end;
    }
    qs_goldset set;
    if (qs_goldset_parse(&set, &parts[1], &parts[0], parts[2].bytes > 0 ? &parts[2] : NULL) == QS_OK) {
        check(&set);
        qs_goldset_free(&set);
    }
    return 0;
}
