/* AWQ's scalings and cuts of a whole layer, chosen by what they do to the output of the block (spec key loss=block).
 *
 * The layer starts as rounding to nearest leaves it. Input by input (quant/fold.h), the finalists of the search in
 * the space of second moments (quant/awq_search.h), with the cuts that these give their weights, take their turns, all
 * other matrices as they are by then, and the one with the least loss of the block (quant/block_loss.h) stays. What was
 * chosen never loses more than rounding to nearest does. */
#ifndef QS_QUANT_AWQ_BLOCK_H
#define QS_QUANT_AWQ_BLOCK_H

#include "quant/fold.h"
#include "quant/site.h"

typedef struct qs_awq_block qs_awq_block;

/* Whether a spec needs one. */
bool qs_awq_block_is_for(const qs_spec *spec);

/* Everything is borrowed. QS_E_USAGE when grams hold no tokens. */
QS_MUST_CHECK qs_err qs_awq_block_create(qs_awq_block **out, const qs_model *model, qs_workspace *workspace,
                                         const qs_gram_source *grams);
void qs_awq_block_destroy(qs_awq_block *block); /* NULL is fine */

/* Bytes that all specs share, and multiply-adds of one spec in all layers. */
size_t qs_awq_block_bytes(const qs_model *model, int64_t n_tokens);
double qs_awq_block_cost(const qs_model *model, int64_t n_tokens);

/* Layers in their order, each before its specs. */
QS_MUST_CHECK qs_err qs_awq_block_layer(qs_awq_block *block, int64_t layer);

/* What is chosen for a layer: into fold, and clip[QS_N_LINEARS] of each matrix. */
typedef struct qs_awq_choice {
    double loss, rounded_loss; /* of the block, with what was chosen and rounded to nearest */
    bool clip[QS_N_LINEARS];
} qs_awq_choice;
QS_MUST_CHECK qs_err qs_awq_block_choose(qs_awq_block *block, qs_site_loader *loader, const qs_spec *spec,
                                         qs_fold *fold, qs_awq_choice *out);

/* Specs for which the same is chosen. */
bool qs_awq_block_alike(const qs_spec *a, const qs_spec *b);

#endif
