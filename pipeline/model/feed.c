#include "model/feed.h"

void qs_feed_init(qs_feed *feed, qs_backend *backend, const qs_model *model, const qs_block_options *options)
{
    *feed = (qs_feed){.backend = backend, .model = model, .options = *options};
}

void qs_feed_fini(qs_feed *feed)
{
    qs_block_destroy(feed->blocks[0]);
    qs_block_destroy(feed->blocks[1]);
    feed->blocks[0] = feed->blocks[1] = NULL;
}

qs_block *qs_feed_block(const qs_feed *feed) { return feed->blocks[feed->current]; }

static qs_err load(qs_feed *feed, const qs_linear_source *linears, int64_t layer)
{
    qs_block **block = &feed->blocks[feed->current];
    if (*block != NULL) return qs_block_load(*block, linears, layer);
    return qs_block_create(block, feed->backend, feed->model, linears, layer, &feed->options);
}

/* A second block is worth its memory only where loading can run beside computing, and never the last of it. */
static bool has_room(const qs_feed *feed)
{
    qs_backend_memory memory;
    if (!qs_backend_has_device(feed->backend)) return false;
    qs_backend_get_memory(feed->backend, &memory);
    return memory.free_bytes / 2 >= qs_block_bytes(qs_feed_block(feed));
}

qs_err qs_feed_load(qs_feed *feed, const qs_linear_source *linears, int64_t layer)
{
    qs_err err = load(feed, linears, layer);
    if (err == QS_OK && !feed->pair) feed->pair = has_room(feed);
    return err;
}

qs_err qs_feed_mark(qs_feed *feed)
{
    return feed->pair ? qs_backend_load_beside(feed->backend, QS_LOAD_MARK) : QS_OK;
}

qs_err qs_feed_load_next(qs_feed *feed, const qs_linear_source *linears, int64_t layer)
{
    qs_err err;
    if (!feed->pair) return load(feed, linears, layer);
    QS_TRY(qs_backend_load_beside(feed->backend, QS_LOAD_BEGIN));
    feed->current = 1 - feed->current;
    err = load(feed, linears, layer);
    QS_CLEANUP(qs_backend_load_beside(feed->backend, QS_LOAD_END));
out:
    return err;
}
