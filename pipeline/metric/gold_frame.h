/* The frame of an evaluation: what one encoder makes of a gold set, and what is retrieved in it. */
#ifndef QS_METRIC_GOLD_FRAME_H
#define QS_METRIC_GOLD_FRAME_H

#include "metric/questions.h"
#include "rag/retrieve.h"

typedef struct qs_gold_frame {
    qs_encoder *encoder; /* borrowed */
    qs_retriever *retriever;
    int64_t dim, n_sections;
    qs_ranking *rankings; /* [n_prompts] */
    int64_t *section_of;  /* [n_snippets] numbers in the order of first appearance */
    /* Unit vectors, zero where there is nothing: of wordings, of anchor spans under their headers, of gold answers,
     * and of sections, which are unit means of their snippets' vectors. */
    float *asked, *anchors, *claims, *sections; /* [n_prompts | n_items | n_items | n_sections, dim] */
} qs_gold_frame;

/* Encodes and retrieves. questions and encoder must outlive the frame. */
QS_MUST_CHECK qs_err qs_gold_frame_create(qs_gold_frame *out, const qs_questions *questions, qs_encoder *encoder);
void qs_gold_frame_destroy(qs_gold_frame *frame);

/* Snippets for every prompt: ranked [n_prompts, k], best first. Where retrieval found fewer, others follow in the
 * order of ties, so that every prompt has k. rankings are the frame's or a configuration's own, `questions` may be
 * limited to fewer items. */
void qs_gold_frame_snippets(const qs_ranking *rankings, const qs_questions *questions, int64_t *ranked);

/* ΔS of a vector [dim] to the nearest section beside an item's target that does not hold its answer: the decoy, and the
 * sections before and behind the target in the corpus. */
double qs_gold_frame_distractor(const qs_gold_frame *frame, const qs_questions *questions, int64_t item,
                                const float *vector);

#endif
