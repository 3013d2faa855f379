#include "model/pattern.h"

#include <stdint.h>
#include <string.h>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "base/mem.h"
#include "model/pattern_translate.h"

struct qs_pattern {
    char *source;
    size_t source_bytes;
    pcre2_code *code; /* NULL for a literal */
};

static qs_err compile(qs_pattern *pattern, const char *name)
{
    qs_textbuf translated = {0};
    pcre2_compile_context *context = NULL;
    qs_err err;
    QS_TRY(qs_pattern_translate(&translated, pattern->source, pattern->source_bytes, name));
    context = pcre2_compile_context_create(NULL);
    if (context == NULL) {
        err = qs_fail(QS_E_RESOURCE, "compile pattern of %s: out of memory", name);
        goto out;
    }
    (void)pcre2_set_newline(context, PCRE2_NEWLINE_LF);
    int code;
    PCRE2_SIZE offset;
    pattern->code = pcre2_compile((PCRE2_SPTR)translated.data, translated.bytes,
                                  PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C | PCRE2_NO_AUTO_CAPTURE,
                                  &code, &offset, context);
    if (pattern->code == NULL) {
        PCRE2_UCHAR text[128] = {0};
        (void)pcre2_get_error_message(code, text, sizeof text);
        err = qs_fail(QS_E_UNSUPPORTED, "compile pattern of %s: %s: %.200s", name, (const char *)text,
                      pattern->source);
        goto out;
    }
    uint32_t can_match_nothing = 0;
    (void)pcre2_pattern_info(pattern->code, PCRE2_INFO_MATCHEMPTY, &can_match_nothing);
    if (can_match_nothing != 0) {
        err = qs_fail(QS_E_UNSUPPORTED, "compile pattern of %s: it can match the empty string: %.200s", name,
                      pattern->source);
        goto out;
    }
    /* Without the JIT the interpreter gives the same matches, slower. */
    (void)pcre2_jit_compile(pattern->code, PCRE2_JIT_COMPLETE);
out:
    pcre2_compile_context_free(context);
    qs_textbuf_free(&translated);
    return err;
}

qs_err qs_pattern_create(qs_pattern **out, const char *source, size_t bytes, bool literal, const char *name)
{
    *out = NULL;
    if (bytes == 0) return qs_fail(QS_E_UNSUPPORTED, "compile pattern of %s: it is empty", name);
    qs_pattern *pattern = NULL;
    qs_err err;
    QS_TRY(QS_NEW(pattern, 1, "pattern"));
    QS_TRY(qs_mem_alloc(&pattern->source, bytes + 1, "pattern"));
    memcpy(pattern->source, source, bytes);
    pattern->source_bytes = bytes;
    if (!literal) QS_TRY(compile(pattern, name));
    *out = pattern;
    pattern = NULL;
out:
    qs_pattern_destroy(pattern);
    return err;
}

void qs_pattern_destroy(qs_pattern *pattern)
{
    if (pattern == NULL) return;
    pcre2_code_free(pattern->code);
    qs_mem_free(pattern->source);
    qs_mem_free(pattern);
}

void qs_pattern_hash(const qs_pattern *pattern, qs_hasher *hasher)
{
    uint64_t head[2] = {pattern->source_bytes, pattern->code == NULL};
    qs_hasher_add(hasher, head, sizeof head);
    qs_hasher_add(hasher, pattern->source, pattern->source_bytes);
}

void qs_pattern_space_fini(qs_pattern_space *space)
{
    pcre2_match_data_free(space->match_data);
    pcre2_match_context_free(space->match_context);
    pcre2_jit_stack_free(space->jit_stack);
    *space = (qs_pattern_space){0};
}

static qs_err prepare(qs_pattern_space *space)
{
    if (space->match_data != NULL) return QS_OK;
    space->match_context = pcre2_match_context_create(NULL);
    space->match_data = pcre2_match_data_create(1, NULL); /* one pair of offsets: the whole match */
    if (space->match_context == NULL || space->match_data == NULL)
        return qs_fail(QS_E_RESOURCE, "prepare pattern matching: out of memory");
    return QS_OK;
}

/* Compiled code begins with 32 KiB of the machine stack, which only deep backtracking exhausts: then with a
 * stack of its own, and after that the interpreter does it. */
static int match(const qs_pattern *pattern, qs_pattern_space *space, const char *text, size_t bytes,
                 size_t from)
{
    /* NOTEMPTY: PCRE2_INFO_MATCHEMPTY does not see every way to match nothing. */
    uint32_t options = PCRE2_NO_UTF_CHECK | PCRE2_NOTEMPTY;
    int result = pcre2_match(pattern->code, (PCRE2_SPTR)text, bytes, from, options, space->match_data,
                             space->match_context);
    if (result != PCRE2_ERROR_JIT_STACKLIMIT) return result;
    if (space->jit_stack == NULL) {
        space->jit_stack = pcre2_jit_stack_create(64 << 10, 8 << 20, NULL);
        if (space->jit_stack != NULL) pcre2_jit_stack_assign(space->match_context, NULL, space->jit_stack);
        result = pcre2_match(pattern->code, (PCRE2_SPTR)text, bytes, from, options, space->match_data,
                             space->match_context);
    }
    if (result != PCRE2_ERROR_JIT_STACKLIMIT) return result;
    return pcre2_match(pattern->code, (PCRE2_SPTR)text, bytes, from, options | PCRE2_NO_JIT,
                       space->match_data, space->match_context);
}

static void find_literal(const qs_pattern *pattern, const char *text, size_t bytes, size_t from, bool *found,
                         size_t *start, size_t *end)
{
    const char *hit = memmem(text + from, bytes - from, pattern->source, pattern->source_bytes);
    *found = hit != NULL;
    if (hit == NULL) return;
    *start = (size_t)(hit - text);
    *end = *start + pattern->source_bytes;
}

qs_err qs_pattern_find(const qs_pattern *pattern, qs_pattern_space *space, const char *text, size_t bytes,
                       size_t from, bool *found, size_t *start, size_t *end)
{
    *found = false;
    if (from >= bytes) return QS_OK;
    if (pattern->code == NULL) {
        find_literal(pattern, text, bytes, from, found, start, end);
        return QS_OK;
    }
    qs_err err = prepare(space);
    if (err != QS_OK) return err;
    int result = match(pattern, space, text, bytes, from);
    if (result == PCRE2_ERROR_NOMATCH) return QS_OK;
    const PCRE2_SIZE *range = pcre2_get_ovector_pointer(space->match_data);
    if (result < 0 || range[1] <= range[0] || range[0] < from)
        return qs_fail(QS_E_INPUT, "match pattern %.200s: error %d after byte %zu", pattern->source, result,
                       from);
    *found = true;
    *start = range[0];
    *end = range[1];
    return QS_OK;
}
