#include "model/detokenizer.h"

#include <string.h>

#include "base/mem.h"
#include "model/normalizer.h"
#include "model/unicode.h"

static const char replacement[] = "\xEF\xBF\xBD"; /* U+FFFD */

qs_err qs_detokenizer_add(qs_detokenizer *decoder, qs_detoken_step step, const char *name)
{
    qs_err err;
    char *with = NULL;
    if (decoder->n_steps == QS_DETOKEN_STEPS_MAX) {
        err = qs_fail(QS_E_UNSUPPORTED, "read %s: more than %d decoders", name, QS_DETOKEN_STEPS_MAX);
        goto out;
    }
    QS_TRY(qs_mem_alloc(&with, step.with_bytes + 1, "decoder"));
    if (step.with_bytes > 0) memcpy(with, step.with, step.with_bytes);
    step.with = with;
    decoder->steps[decoder->n_steps++] = step;
    return QS_OK;
out:
    qs_pattern_destroy(step.pattern);
    return err;
}

void qs_detokenizer_fini(qs_detokenizer *decoder)
{
    for (int s = 0; s < decoder->n_steps; s++) {
        qs_pattern_destroy(decoder->steps[s].pattern);
        qs_mem_free(decoder->steps[s].with);
    }
    *decoder = (qs_detokenizer){0};
}

/* Ends the string whose bytes have been appended to strings->text since the one before. */
static qs_err end_string(qs_strings *strings)
{
    if (strings->n == strings->capacity) {
        int64_t capacity = 2 * strings->n + 64;
        size_t *ends;
        qs_err err = QS_NEW(ends, capacity, "decoded tokens");
        if (err != QS_OK) return err;
        if (strings->n > 0) memcpy(ends, strings->ends, (size_t)strings->n * sizeof *ends);
        qs_mem_free(strings->ends);
        strings->ends = ends;
        strings->capacity = capacity;
    }
    strings->ends[strings->n++] = strings->text.bytes;
    return QS_OK;
}

qs_err qs_strings_add(qs_strings *strings, const char *text, size_t bytes)
{
    qs_err err = qs_textbuf_append(&strings->text, text, bytes);
    return err == QS_OK ? end_string(strings) : err;
}

void qs_strings_free(qs_strings *strings)
{
    qs_textbuf_free(&strings->text);
    qs_mem_free(strings->ends);
    *strings = (qs_strings){0};
}

static const char *string_at(const qs_strings *strings, int64_t s, size_t *bytes)
{
    size_t from = s == 0 ? 0 : strings->ends[s - 1];
    *bytes = strings->ends[s] - from;
    return strings->text.data + from;
}

/* Bytes of the longest start of a character at text[0..bytes), which is not a whole one: what one U+FFFD
 * stands for (Unicode 16, section 3.9, table 3-11). */
static size_t broken_bytes(const char *text, size_t bytes)
{
    const unsigned char *b = (const unsigned char *)text;
    size_t whole = b[0] >= 0xC2 && b[0] <= 0xDF ? 2 :
                   b[0] >= 0xE0 && b[0] <= 0xEF ? 3 :
                   b[0] >= 0xF0 && b[0] <= 0xF4 ? 4 :
                                                  1;
    unsigned char low = b[0] == 0xE0 ? 0xA0 : b[0] == 0xF0 ? 0x90 : 0x80;
    unsigned char high = b[0] == 0xED ? 0x9F : b[0] == 0xF4 ? 0x8F : 0xBF;
    size_t n = 1;
    while (n < whole && n < bytes && b[n] >= low && b[n] <= high) {
        n++;
        low = 0x80;
        high = 0xBF;
    }
    return n;
}

static qs_err append_repaired(qs_textbuf *out, const char *text, size_t bytes)
{
    qs_err err = QS_OK;
    for (size_t at = 0; at < bytes;) {
        size_t valid = qs_utf8_valid_prefix(text + at, bytes - at);
        QS_TRY(qs_textbuf_append(out, text + at, valid));
        at += valid;
        if (at == bytes) break;
        QS_TRY(qs_textbuf_append(out, replacement, 3));
        at += broken_bytes(text + at, bytes - at);
    }
out:
    return err;
}

/* A token that has a character outside the alphabet is an added one and is taken as it is. */
static qs_err append_alphabet(qs_textbuf *out, const char *text, size_t bytes)
{
    qs_err err = qs_textbuf_reserve(out, bytes);
    if (err != QS_OK) return err;
    size_t first = out->bytes;
    for (size_t at = 0, length; at < bytes; at += length) {
        uint32_t code;
        length = qs_utf8_decode(text + at, bytes - at, &code);
        int byte = length == 0 ? -1 : qs_alphabet_byte(code);
        if (byte < 0) {
            out->bytes = first;
            return qs_textbuf_append(out, text, bytes);
        }
        out->data[out->bytes++] = (char)byte;
    }
    return QS_OK;
}

static qs_err byte_level(const qs_strings *in, qs_strings *out)
{
    qs_textbuf bytes = {0};
    qs_err err = QS_OK;
    for (int64_t s = 0; s < in->n; s++) {
        size_t length;
        const char *text = string_at(in, s, &length);
        QS_TRY(append_alphabet(&bytes, text, length));
    }
    QS_TRY(append_repaired(&out->text, bytes.data, bytes.bytes));
    QS_TRY(end_string(out));
out:
    qs_textbuf_free(&bytes);
    return err;
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* The value of a <0xXX> token, or -1. */
static int fallback_byte(const char *text, size_t bytes)
{
    if (bytes != 6 || memcmp(text, "<0x", 3) != 0 || text[5] != '>') return -1;
    int high = hex_digit(text[3]), low = hex_digit(text[4]);
    return high < 0 || low < 0 ? -1 : high * 16 + low;
}

static qs_err end_run(qs_strings *out, qs_textbuf *run)
{
    qs_err err = QS_OK;
    if (run->bytes == 0) return err;
    if (qs_utf8_valid_prefix(run->data, run->bytes) == run->bytes) {
        QS_TRY(qs_strings_add(out, run->data, run->bytes));
    } else {
        for (size_t b = 0; b < run->bytes; b++) QS_TRY(qs_strings_add(out, replacement, 3));
    }
    run->bytes = 0;
out:
    return err;
}

static qs_err byte_fallback(const qs_strings *in, qs_strings *out)
{
    qs_textbuf run = {0};
    qs_err err = QS_OK;
    for (int64_t s = 0; s < in->n; s++) {
        size_t length;
        const char *text = string_at(in, s, &length);
        int value = fallback_byte(text, length);
        if (value >= 0) {
            char byte = (char)value;
            QS_TRY(qs_textbuf_append(&run, &byte, 1));
        } else {
            QS_TRY(end_run(out, &run));
            QS_TRY(qs_strings_add(out, text, length));
        }
    }
    QS_TRY(end_run(out, &run));
out:
    qs_textbuf_free(&run);
    return err;
}

static qs_err strip(const qs_detoken_step *step, const char *text, size_t bytes, qs_strings *out)
{
    size_t from = 0, to = bytes, mark_bytes = step->mark_bytes;
    for (int64_t i = 0; i < step->n_left && to - from >= mark_bytes; i++) {
        if (memcmp(text + from, step->mark, mark_bytes) != 0) break;
        from += mark_bytes;
    }
    for (int64_t i = 0; i < step->n_right && to - from >= mark_bytes; i++) {
        if (memcmp(text + to - mark_bytes, step->mark, mark_bytes) != 0) break;
        to -= mark_bytes;
    }
    return qs_strings_add(out, text + from, to - from);
}

static qs_err metaspace(const qs_detoken_step *step, bool first, const char *text, size_t bytes,
                        qs_strings *out)
{
    size_t at = 0;
    qs_err err;
    for (;;) {
        const char *hit =
            bytes - at == 0 ? NULL : memmem(text + at, bytes - at, step->mark, step->mark_bytes);
        size_t plain = hit == NULL ? bytes - at : (size_t)(hit - text) - at;
        QS_TRY(qs_textbuf_append(&out->text, text + at, plain));
        if (hit == NULL) break;
        if (!first || step->n_left == 0) QS_TRY(qs_textbuf_append(&out->text, " ", 1));
        at += plain + step->mark_bytes;
    }
    err = end_string(out);
out:
    return err;
}

static qs_err run_step(const qs_detoken_step *step, qs_pattern_space *space, const qs_strings *in,
                       qs_strings *out)
{
    out->text.bytes = 0;
    out->n = 0;
    if (step->kind == QS_DETOKEN_BYTE_LEVEL) return byte_level(in, out);
    if (step->kind == QS_DETOKEN_BYTE_FALLBACK) return byte_fallback(in, out);
    if (step->kind == QS_DETOKEN_FUSE) return qs_strings_add(out, in->text.data, in->text.bytes);
    qs_err err = QS_OK;
    for (int64_t s = 0; s < in->n; s++) {
        size_t bytes;
        const char *text = string_at(in, s, &bytes);
        if (step->kind == QS_DETOKEN_REPLACE) {
            QS_TRY(qs_text_replace(&out->text, step->pattern, space, step->with, step->with_bytes, text, bytes));
            QS_TRY(end_string(out));
        } else if (step->kind == QS_DETOKEN_STRIP) {
            QS_TRY(strip(step, text, bytes, out));
        } else {
            QS_TRY(metaspace(step, s == 0, text, bytes, out));
        }
    }
out:
    return err;
}

qs_err qs_detokenizer_run(const qs_detokenizer *decoder, qs_strings *strings, qs_textbuf *out)
{
    qs_strings other = {0};
    qs_pattern_space space = {0};
    qs_err err = QS_OK;
    for (int s = 0; s < decoder->n_steps; s++) {
        QS_TRY(run_step(&decoder->steps[s], &space, strings, &other));
        qs_strings swapped = *strings;
        *strings = other;
        other = swapped;
    }
    /* Characters that byte tokens of different strings make together are whole only after joining. */
    if (!decoder->spaced) {
        QS_TRY(append_repaired(out, strings->text.data, strings->text.bytes));
        goto out;
    }
    for (int64_t s = 0; s < strings->n; s++) {
        size_t bytes;
        const char *text = string_at(strings, s, &bytes);
        if (s > 0) QS_TRY(qs_textbuf_append(out, " ", 1));
        QS_TRY(append_repaired(out, text, bytes));
    }
out:
    qs_strings_free(&other);
    qs_pattern_space_fini(&space);
    return err;
}

void qs_detokenizer_hash(const qs_detokenizer *decoder, qs_hasher *hasher)
{
    int32_t head[2] = {decoder->n_steps, decoder->spaced};
    qs_hasher_add(hasher, head, sizeof head);
    for (int s = 0; s < decoder->n_steps; s++) {
        const qs_detoken_step *step = &decoder->steps[s];
        int64_t rules[5] = {(int64_t)step->kind, (int64_t)step->with_bytes, (int64_t)step->mark_bytes,
                            step->n_left, step->n_right};
        qs_hasher_add(hasher, rules, sizeof rules);
        qs_hasher_add(hasher, step->mark, sizeof step->mark);
        qs_hasher_add(hasher, step->with, step->with_bytes);
        if (step->pattern != NULL) qs_pattern_hash(step->pattern, hasher);
    }
}
