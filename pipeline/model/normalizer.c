#include "model/normalizer.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "base/mem.h"
#include "model/unicode.h"

static const utf8proc_option_t form_options[] = {
    [QS_NORMAL_NFC] = UTF8PROC_STABLE | UTF8PROC_COMPOSE,
    [QS_NORMAL_NFD] = UTF8PROC_STABLE | UTF8PROC_DECOMPOSE,
    [QS_NORMAL_NFKC] = UTF8PROC_STABLE | UTF8PROC_COMPOSE | UTF8PROC_COMPAT,
    [QS_NORMAL_NFKD] = UTF8PROC_STABLE | UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT,
};

qs_err qs_normalizer_add(qs_normalizer *normalizer, qs_normal_kind kind, const char *text, size_t text_bytes,
                         qs_pattern *pattern, const char *name)
{
    char *copy = NULL;
    qs_err err;
    if (normalizer->n_steps == QS_NORMAL_STEPS_MAX) {
        err = qs_fail(QS_E_UNSUPPORTED, "read %s: more than %d normalisers", name, QS_NORMAL_STEPS_MAX);
        goto out;
    }
    QS_TRY(qs_mem_alloc(&copy, text_bytes + 1, "normaliser"));
    if (text_bytes > 0) memcpy(copy, text, text_bytes);
    normalizer->steps[normalizer->n_steps++] =
        (qs_normal_step){.kind = kind, .text = copy, .text_bytes = text_bytes, .pattern = pattern};
    return QS_OK;
out:
    qs_pattern_destroy(pattern);
    return err;
}

void qs_normalizer_fini(qs_normalizer *normalizer)
{
    for (int s = 0; s < normalizer->n_steps; s++) {
        qs_mem_free(normalizer->steps[s].text);
        qs_pattern_destroy(normalizer->steps[s].pattern);
    }
    *normalizer = (qs_normalizer){0};
}

void qs_normal_space_fini(qs_normal_space *space)
{
    qs_textbuf_free(&space->buffers[0]);
    qs_textbuf_free(&space->buffers[1]);
    qs_pattern_space_fini(&space->matching);
}

/* Text of code points below U+0300 is in NFC already (no such character is excluded from composition and
 * none combines); ASCII is in every form. In UTF-8 U+0300 begins with byte 0xCC. */
static bool is_normal_already(qs_normal_kind kind, const char *text, size_t bytes)
{
    unsigned char limit = kind == QS_NORMAL_NFC ? 0xCC : 0x80;
    for (size_t at = 0; at < bytes; at++) {
        if ((unsigned char)text[at] >= limit) return false;
    }
    return true;
}

static qs_err map_run(qs_textbuf *out, qs_normal_kind kind, const char *text, size_t bytes)
{
    if (bytes == 0) return QS_OK;
    utf8proc_uint8_t *form = NULL;
    utf8proc_ssize_t form_bytes =
        utf8proc_map((const utf8proc_uint8_t *)text, (utf8proc_ssize_t)bytes, &form, form_options[kind]);
    if (form_bytes < 0)
        return qs_fail(form_bytes == UTF8PROC_ERROR_NOMEM ? QS_E_RESOURCE : QS_E_INPUT,
                       "normalise text of %zu bytes: %s", bytes, utf8proc_errmsg(form_bytes));
    qs_err err = qs_textbuf_append(out, form, (size_t)form_bytes);
    free(form);
    return err;
}

/* Inert characters stay as they are, and nothing composes with them or moves past them. */
static qs_err unicode_form(qs_textbuf *out, qs_normal_kind kind, const char *text, size_t bytes)
{
    size_t done = 0;
    qs_err err = QS_OK;
    for (size_t at = 0, length; at < bytes; at += length) {
        uint32_t code = 0;
        length = qs_utf8_decode(text + at, bytes - at, &code);
        if (length == 0) return qs_fail(QS_E_INPUT, "normalise text: byte %zu is not valid UTF-8", at);
        if (length == 1 || !qs_unicode_is_inert(code)) continue;
        QS_TRY(map_run(out, kind, text + done, at - done));
        QS_TRY(qs_textbuf_append(out, text + at, length));
        done = at + length;
    }
    QS_TRY(map_run(out, kind, text + done, bytes - done));
out:
    return err;
}

qs_err qs_text_replace(qs_textbuf *out, const qs_pattern *pattern, qs_pattern_space *space, const char *with,
                       size_t with_bytes, const char *text, size_t bytes)
{
    qs_err err;
    size_t at = 0, start, end;
    bool found;
    for (;;) {
        QS_TRY(qs_pattern_find(pattern, space, text, bytes, at, &found, &start, &end));
        if (!found) break;
        QS_TRY(qs_textbuf_append(out, text + at, start - at));
        QS_TRY(qs_textbuf_append(out, with, with_bytes));
        at = end;
    }
    err = qs_textbuf_append(out, text + at, bytes - at);
out:
    return err;
}

/* Whether replacing moves the start: the peer ties the first new character to the last one replaced. */
static qs_err moves_start(const qs_normal_step *step, qs_normal_space *space, const char *text, size_t bytes,
                          bool *moves)
{
    size_t start = 0, end = 0;
    bool found;
    qs_err err = qs_pattern_find(step->pattern, &space->matching, text, bytes, 0, &found, &start, &end);
    if (err == QS_OK && found && start == 0 && (step->text_bytes == 0 || end > qs_utf8_length(text)))
        *moves = true;
    return err;
}

static qs_err run_step(const qs_normal_step *step, qs_normal_space *space, qs_textbuf *out, const char *text,
                       size_t bytes)
{
    out->bytes = 0;
    qs_err err;
    switch (step->kind) {
    case QS_NORMAL_PREPEND:
        QS_TRY(qs_textbuf_append(out, step->text, bytes == 0 ? 0 : step->text_bytes));
        QS_TRY(qs_textbuf_append(out, text, bytes));
        break;
    case QS_NORMAL_REPLACE:
        QS_TRY(qs_text_replace(out, step->pattern, &space->matching, step->text, step->text_bytes, text, bytes));
        break;
    default: QS_TRY(unicode_form(out, step->kind, text, bytes));
    }
out:
    return err;
}

qs_err qs_normalizer_run(const qs_normalizer *normalizer, qs_normal_space *space, const char *text,
                         size_t bytes, const char **out, size_t *out_bytes, bool *starts)
{
    *out = text;
    *out_bytes = bytes;
    *starts = true;
    for (int s = 0; s < normalizer->n_steps; s++) {
        const qs_normal_step *step = &normalizer->steps[s];
        if (step->kind <= QS_NORMAL_NFKD && is_normal_already(step->kind, *out, *out_bytes)) continue;
        qs_textbuf *buffer = &space->buffers[*out == space->buffers[0].data ? 1 : 0];
        bool moves = false;
        qs_err err =
            step->kind == QS_NORMAL_REPLACE ? moves_start(step, space, *out, *out_bytes, &moves) : QS_OK;
        if (err == QS_OK) err = run_step(step, space, buffer, *out, *out_bytes);
        if (err != QS_OK) return err;
        if (moves) *starts = false;
        *out = buffer->data;
        *out_bytes = buffer->bytes;
    }
    return QS_OK;
}

void qs_normalizer_hash(const qs_normalizer *normalizer, qs_hasher *hasher)
{
    qs_hasher_add(hasher, &normalizer->n_steps, sizeof normalizer->n_steps);
    for (int s = 0; s < normalizer->n_steps; s++) {
        const qs_normal_step *step = &normalizer->steps[s];
        int kind = (int)step->kind;
        qs_hasher_add(hasher, &kind, sizeof kind);
        qs_hasher_add(hasher, &step->text_bytes, sizeof step->text_bytes);
        qs_hasher_add(hasher, step->text, step->text_bytes);
        if (step->pattern != NULL) qs_pattern_hash(step->pattern, hasher);
    }
}
