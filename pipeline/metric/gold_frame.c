#include "metric/gold_frame.h"

#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "metric/delta_s.h"

/* ---- sections ---- */

static int64_t find_section(const qs_goldset *set, const int64_t *section_of, int64_t n, const char *id)
{
    for (int64_t i = 0; i < n; i++)
        if (strcmp(set->snippets[i].section, id) == 0) return section_of[i];
    return -1;
}

static qs_err number_sections(qs_gold_frame *f, const qs_goldset *set)
{
    qs_err err = QS_NEW(f->section_of, set->n_snippets, "sections");
    for (int64_t i = 0; i < set->n_snippets && err == QS_OK; i++) {
        int64_t seen = find_section(set, f->section_of, i, set->snippets[i].section);
        f->section_of[i] = seen >= 0 ? seen : f->n_sections++;
    }
    return err;
}

static qs_err encode_sections(qs_gold_frame *f, const qs_goldset *set)
{
    int64_t *members = NULL;
    qs_err err;
    QS_TRY(QS_NEW(members, set->n_snippets, "sections"));
    QS_TRY(QS_NEW(f->sections, f->n_sections * f->dim, "vectors of sections"));
    for (int64_t section = 0; section < f->n_sections; section++) {
        int64_t n = 0;
        for (int64_t i = 0; i < set->n_snippets; i++)
            if (f->section_of[i] == section) members[n++] = i;
        qs_unit_mean(qs_retriever_vectors(f->retriever), members, n, f->dim, f->sections + section * f->dim);
    }
out:
    qs_mem_free(members);
    return err;
}

double qs_gold_frame_distractor(const qs_gold_frame *f, const qs_questions *q, int64_t item, const float *vector)
{
    const qs_gold_item *gold = &q->set.items[item];
    int64_t n = q->set.n_snippets, target = find_section(&q->set, f->section_of, n, gold->target_section);
    const int64_t others[] = {find_section(&q->set, f->section_of, n, gold->decoy_section), target - 1, target + 1};
    double nearest = 1.0;
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        if (others[i] < 0 || others[i] >= f->n_sections || others[i] == target) continue;
        nearest = fmin(nearest, qs_delta_s(vector, f->sections + others[i] * f->dim, f->dim));
    }
    return nearest;
}

/* ---- texts ---- */

/* The anchor span under its snippet's header, to be freed with qs_mem_free; empty for an item without an anchor. */
static qs_err anchor_text(const qs_questions *q, int64_t item, char **text)
{
    const qs_gold_item *gold = &q->set.items[item];
    if (gold->anchor < 0) return qs_mem_alloc(text, 1, "anchor");
    const qs_gold_snippet *s = &q->set.snippets[gold->anchor];
    size_t header = strlen(s->header), span = (size_t)(gold->anchor_end - gold->anchor_start);
    qs_err err = qs_mem_alloc(text, header + span + 2, "anchor");
    if (err != QS_OK) return err;
    memcpy(*text, s->header, header);
    (*text)[header] = '\n';
    memcpy(*text + header + 1, s->text + (gold->anchor_start - s->start), span);
    return QS_OK;
}

/* All texts in one call: for some encoders a call is a pass of a whole model. What has no anchor stays zero. */
static qs_err encode_items(qs_gold_frame *f, const qs_questions *q)
{
    char **anchors = NULL;
    const char **claims = NULL;
    qs_err err;
    QS_TRY(QS_NEW(anchors, q->n_items, "anchors"));
    QS_TRY(QS_NEW(claims, q->n_items, "gold answers"));
    for (int64_t i = 0; i < q->n_items; i++) {
        QS_TRY(anchor_text(q, i, &anchors[i]));
        claims[i] = q->set.items[i].answer;
    }
    QS_TRY(qs_encoder_encode(f->encoder, (const char *const *)anchors, q->n_items, f->anchors));
    QS_TRY(qs_encoder_encode(f->encoder, claims, q->n_items, f->claims));
    for (int64_t i = 0; i < q->n_items; i++)
        if (q->set.items[i].anchor < 0) memset(f->anchors + i * f->dim, 0, (size_t)f->dim * sizeof *f->anchors);
out:
    qs_documents_free(anchors, q->n_items);
    qs_mem_free((void *)claims);
    return err;
}

qs_err qs_gold_frame_create(qs_gold_frame *out, const qs_questions *q, qs_encoder *encoder)
{
    const char **asked = NULL;
    qs_err err;
    *out = (qs_gold_frame){.encoder = encoder, .dim = qs_encoder_dim(encoder)};
    QS_TRY(qs_retriever_create(&out->retriever, &q->set, encoder));
    QS_TRY(QS_NEW(out->rankings, q->n_prompts, "rankings"));
    QS_TRY(QS_NEW(out->asked, q->n_prompts * out->dim, "vectors of questions"));
    QS_TRY(QS_NEW(out->anchors, q->n_items * out->dim, "vectors of anchors"));
    QS_TRY(QS_NEW(out->claims, q->n_items * out->dim, "vectors of answers"));
    QS_TRY(QS_NEW(asked, q->n_prompts, "questions"));
    for (int64_t i = 0; i < q->n_prompts; i++) asked[i] = qs_questions_text(q, i);
    QS_TRY(qs_encoder_encode(encoder, asked, q->n_prompts, out->asked));
    QS_TRY(qs_retrieve(out->retriever, asked, q->n_prompts, NULL, out->rankings));
    QS_TRY(encode_items(out, q));
    QS_TRY(number_sections(out, &q->set));
    QS_TRY(encode_sections(out, &q->set));
    if (q->options.keep_dir != NULL) QS_TRY(qs_encoder_keep(encoder, q->options.keep_dir));
out:
    qs_mem_free((void *)asked);
    if (err != QS_OK) qs_gold_frame_destroy(out);
    return err;
}

void qs_gold_frame_destroy(qs_gold_frame *f)
{
    qs_retriever_destroy(f->retriever);
    qs_mem_free(f->rankings);
    qs_mem_free(f->section_of);
    qs_mem_free(f->asked);
    qs_mem_free(f->anchors);
    qs_mem_free(f->claims);
    qs_mem_free(f->sections);
    *f = (qs_gold_frame){0};
}

/* ---- prompts ---- */

static bool holds(const int64_t *list, int64_t n, int64_t value)
{
    for (int64_t i = 0; i < n; i++)
        if (list[i] == value) return true;
    return false;
}

/* The first snippet in the order of ties that the list lacks. */
static int64_t next_snippet(const qs_goldset *set, const int64_t *list, int64_t n)
{
    int64_t best = -1;
    for (int64_t i = 0; i < set->n_snippets; i++)
        if (!holds(list, n, i) &&
            (best < 0 || qs_snippet_compare(&set->snippets[i], &set->snippets[best]) < 0))
            best = i;
    return best;
}

void qs_gold_frame_snippets(const qs_ranking *rankings, const qs_questions *q, int64_t *ranked)
{
    int64_t k = q->options.k;
    for (int64_t i = 0; i < q->n_prompts; i++) {
        int64_t *list = ranked + i * k;
        for (int64_t j = 0; j < k; j++)
            list[j] = j < rankings[i].n ? rankings[i].hits[j].snippet : next_snippet(&q->set, list, j);
    }
}
