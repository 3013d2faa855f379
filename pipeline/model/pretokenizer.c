#include "model/pretokenizer.h"

#include <string.h>

#include "model/unicode.h"

qs_err qs_pretokenizer_add(qs_pretokenizer *pre, qs_pre_step step, const char *name)
{
    if (pre->n_steps == QS_PRE_STEPS_MAX) {
        qs_pattern_destroy(step.pattern);
        return qs_fail(QS_E_UNSUPPORTED, "read %s: more than %d pre-tokenisers", name, QS_PRE_STEPS_MAX);
    }
    pre->steps[pre->n_steps++] = step;
    return QS_OK;
}

qs_err qs_pretokenizer_add_regex(qs_pretokenizer *pre, const char *regex, const char *name)
{
    qs_pattern *pattern;
    qs_err err = qs_pattern_create(&pattern, regex, strlen(regex), false, name);
    if (err != QS_OK) return err;
    return qs_pretokenizer_add(pre, (qs_pre_step){.kind = QS_PRE_SPLIT, .pattern = pattern}, name);
}

void qs_pretokenizer_fini(qs_pretokenizer *pre)
{
    for (int s = 0; s < pre->n_steps; s++) qs_pattern_destroy(pre->steps[s].pattern);
    *pre = (qs_pretokenizer){0};
}

void qs_pre_space_fini(qs_pre_space *space)
{
    for (int s = 0; s < QS_PRE_STEPS_MAX; s++) qs_textbuf_free(&space->texts[s]);
    qs_pattern_space_fini(&space->matching);
}

/* ---- running: depth first, so that a piece goes through all steps before the next is cut ---- */

typedef struct run {
    const qs_pretokenizer *pre;
    qs_pre_space *space;
    qs_piece_sink sink;
    void *context;
} run;

static qs_err run_from(const run *r, int s, const char *text, size_t bytes, bool at_start);

/* The pieces of one splitting step, joined as its behaviour says: a piece is held back while the next one
 * may still join it. */
typedef struct joiner {
    const run *run;
    int step;
    const char *text;
    bool at_start;
    bool holds, last_matched;
    size_t start, end; /* of what is held */
} joiner;

static qs_err release(joiner *j)
{
    if (!j->holds) return QS_OK;
    j->holds = false;
    return run_from(j->run, j->step + 1, j->text + j->start, j->end - j->start, j->at_start && j->start == 0);
}

static qs_err join(joiner *j, size_t start, size_t end, bool matched)
{
    if (start == end) return QS_OK;
    const qs_pre_step *step = &j->run->pre->steps[j->step];
    if (step->invert) matched = !matched;
    bool joins = false;
    switch (step->behavior) {
    case QS_SPLIT_ISOLATED:
    case QS_SPLIT_REMOVED: break;
    case QS_SPLIT_MERGED_WITH_PREVIOUS: joins = j->holds && matched && !j->last_matched; break;
    case QS_SPLIT_MERGED_WITH_NEXT: joins = j->holds && !matched && j->last_matched; break;
    case QS_SPLIT_CONTIGUOUS: joins = j->holds && matched == j->last_matched; break;
    }
    j->last_matched = matched;
    if (joins) {
        j->end = end;
        return QS_OK;
    }
    qs_err err = release(j);
    if (step->behavior == QS_SPLIT_REMOVED && matched) return err;
    j->holds = true;
    j->start = start;
    j->end = end;
    return err;
}

static qs_err split(joiner *j, size_t bytes)
{
    const qs_pattern *pattern = j->run->pre->steps[j->step].pattern;
    size_t at = 0, start, end;
    qs_err err;
    for (;;) {
        bool found;
        QS_TRY(qs_pattern_find(pattern, &j->run->space->matching, j->text, bytes, at, &found, &start, &end));
        if (!found) break;
        QS_TRY(join(j, at, start, false));
        QS_TRY(join(j, start, end, true));
        at = end;
    }
    QS_TRY(join(j, at, bytes, false));
    QS_TRY(release(j));
out:
    return err;
}

static qs_err split_digits(joiner *j, size_t bytes)
{
    size_t at = 0;
    qs_err err;
    for (size_t next = 0, length; next < bytes; next += length) {
        uint32_t code = 0;
        length = qs_utf8_decode(j->text + next, bytes - next, &code);
        if (length == 0) length = 1;
        if (!qs_unicode_is_numeric(code)) continue;
        QS_TRY(join(j, at, next, false));
        QS_TRY(join(j, next, next + length, true));
        at = next + length;
    }
    QS_TRY(join(j, at, bytes, false));
    QS_TRY(release(j));
out:
    return err;
}

static qs_err prefix_space(const run *r, int s, const char *text, size_t bytes, bool at_start)
{
    if (text[0] == ' ') return run_from(r, s + 1, text, bytes, at_start);
    qs_textbuf *out = &r->space->texts[s];
    out->bytes = 0;
    qs_err err;
    QS_TRY(qs_textbuf_append(out, " ", 1));
    QS_TRY(qs_textbuf_append(out, text, bytes));
    err = run_from(r, s + 1, out->data, out->bytes, at_start);
out:
    return err;
}

static qs_err metaspace(const run *r, int s, const char *text, size_t bytes, bool at_start)
{
    const qs_pre_step *step = &r->pre->steps[s];
    qs_textbuf *out = &r->space->texts[s];
    out->bytes = 0;
    bool marked =
        text[0] == ' ' || (bytes >= step->mark_bytes && memcmp(text, step->mark, step->mark_bytes) == 0);
    bool prefix = step->prefix == QS_PREFIX_ALWAYS || (step->prefix == QS_PREFIX_FIRST && at_start);
    qs_err err;
    if (prefix && !marked) QS_TRY(qs_textbuf_append(out, step->mark, step->mark_bytes));
    for (size_t at = 0; at < bytes;) {
        const char *space = memchr(text + at, ' ', bytes - at);
        size_t plain = space == NULL ? bytes - at : (size_t)(space - text) - at;
        QS_TRY(qs_textbuf_append(out, text + at, plain));
        if (space != NULL) QS_TRY(qs_textbuf_append(out, step->mark, step->mark_bytes));
        at += plain + 1;
    }
    err = run_from(r, s + 1, out->data, out->bytes, at_start);
out:
    return err;
}

static qs_err run_from(const run *r, int s, const char *text, size_t bytes, bool at_start)
{
    if (bytes == 0) return QS_OK;
    if (s == r->pre->n_steps) return r->sink(r->context, text, bytes);
    joiner j = {.run = r, .step = s, .text = text, .at_start = at_start};
    switch (r->pre->steps[s].kind) {
    case QS_PRE_SPLIT: return split(&j, bytes);
    case QS_PRE_DIGITS: return split_digits(&j, bytes);
    case QS_PRE_PREFIX_SPACE: return prefix_space(r, s, text, bytes, at_start);
    case QS_PRE_METASPACE: return metaspace(r, s, text, bytes, at_start);
    }
    return QS_OK;
}

qs_err qs_pretokenizer_run(const qs_pretokenizer *pre, qs_pre_space *space, const char *text, size_t bytes,
                           bool at_start, qs_piece_sink sink, void *context)
{
    run r = {.pre = pre, .space = space, .sink = sink, .context = context};
    return run_from(&r, 0, text, bytes, at_start);
}

void qs_pretokenizer_hash(const qs_pretokenizer *pre, qs_hasher *hasher)
{
    int32_t head[2] = {pre->n_steps, pre->byte_level};
    qs_hasher_add(hasher, head, sizeof head);
    for (int s = 0; s < pre->n_steps; s++) {
        const qs_pre_step *step = &pre->steps[s];
        int32_t rules[5] = {(int32_t)step->kind, (int32_t)step->behavior, step->invert,
                            (int32_t)step->mark_bytes, (int32_t)step->prefix};
        qs_hasher_add(hasher, rules, sizeof rules);
        qs_hasher_add(hasher, step->mark, sizeof step->mark);
        if (step->pattern != NULL) qs_pattern_hash(step->pattern, hasher);
    }
}
