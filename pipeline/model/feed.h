/* Blocks for a pass through a model that is larger than the memory it runs in: weights come block by block into the
 * memory of one block, or of two where a device can load one beside computing with the other. */
#ifndef QS_MODEL_FEED_H
#define QS_MODEL_FEED_H

#include "model/block.h"

typedef struct qs_feed {
    qs_backend *backend;
    const qs_model *model;
    qs_block_options options;
    qs_block *blocks[2]; /* made when first loaded */
    bool pair;           /* there is room for both */
    int current;
} qs_feed;

void qs_feed_init(qs_feed *feed, qs_backend *backend, const qs_model *model, const qs_block_options *options);
void qs_feed_fini(qs_feed *feed);

/* The order of calls: load; then, again and again, mark, compute with the current block, load_next. */
QS_MUST_CHECK qs_err qs_feed_load(qs_feed *feed, const qs_linear_source *linears, int64_t layer);
QS_MUST_CHECK qs_err qs_feed_mark(qs_feed *feed);
/* Loads beside what was called since the mark, and makes that block the current one. */
QS_MUST_CHECK qs_err qs_feed_load_next(qs_feed *feed, const qs_linear_source *linears, int64_t layer);
qs_block *qs_feed_block(const qs_feed *feed);

#endif
