/* The steps of a tokenizer.json: normalizer, pre_tokenizer, decoder. Each kind is a row of a table; a
 * Sequence is walked in order. */
#include <string.h>

#include "base/json.h"
#include "model/tokenizer_impl.h"
#include "model/unicode.h"

/* Deeper nesting than any real file has; the bound keeps the recursion finite. */
enum { DEPTH_MAX = 8 };

typedef struct reader {
    const char *part; /* "normalizer" */
    const char *name; /* the document */
    void *out;
} reader;

typedef struct step_row {
    const char *type;
    qs_err (*read)(const reader *r, const json_t *node);
} step_row;

static qs_err read_steps(const reader *r, const step_row *rows, const char *list_key, const json_t *node,
                         int depth)
{
    if (node == NULL || json_is_null(node)) return QS_OK;
    const char *type;
    if (!json_is_object(node))
        return qs_fail(QS_E_INPUT, "read %s: \"%s\" must be an object", r->name, r->part);
    qs_err err = qs_json_get_string(&type, node, "type", r->name);
    if (err != QS_OK) return qs_context(err, "%s", r->part);
    for (const step_row *row = rows; row->type != NULL; row++) {
        if (strcmp(row->type, type) == 0) return qs_context(row->read(r, node), "%s %s", r->part, type);
    }
    if (strcmp(type, "Sequence") != 0)
        return qs_fail(QS_E_UNSUPPORTED, "read %s: the %s \"%.64s\" is not supported", r->name, r->part,
                       type);
    const json_t *list = json_object_get(node, list_key);
    if (!json_is_array(list))
        return qs_fail(QS_E_INPUT, "read %s: a %s Sequence needs the list \"%s\"", r->name, r->part,
                       list_key);
    if (depth == DEPTH_MAX)
        return qs_fail(QS_E_UNSUPPORTED, "read %s: %s Sequences are nested more than %d deep", r->name,
                       r->part, DEPTH_MAX);
    for (size_t i = 0; i < json_array_size(list); i++) {
        err = read_steps(r, rows, list_key, json_array_get(list, i), depth + 1);
        if (err != QS_OK) return err;
    }
    return QS_OK;
}

/* A string with its length, which may be 0 and may hold NULs. */
static qs_err get_text(const char **text, size_t *bytes, const json_t *node, const char *key,
                       const char *name)
{
    qs_err err = qs_json_get_string(text, node, key, name);
    if (err == QS_OK) *bytes = json_string_length(json_object_get(node, key));
    return err;
}

/* A string of exactly one character. */
static qs_err get_mark(char mark[4], size_t *mark_bytes, const json_t *node, const char *key,
                       const char *name)
{
    const char *text;
    size_t bytes;
    uint32_t code;
    qs_err err = get_text(&text, &bytes, node, key, name);
    if (err != QS_OK) return err;
    if (bytes == 0 || qs_utf8_decode(text, bytes, &code) != bytes)
        return qs_fail(QS_E_INPUT, "read %s: \"%s\" must be one character", name, key);
    memcpy(mark, text, bytes);
    *mark_bytes = bytes;
    return QS_OK;
}

/* {"String": "..."} or {"Regex": "..."} */
static qs_err get_pattern(qs_pattern **out, const json_t *node, const char *name)
{
    const json_t *pattern = json_object_get(node, "pattern");
    const char *text = NULL;
    bool literal = json_object_get(pattern, "String") != NULL;
    size_t bytes = 0;
    *out = NULL;
    if (!json_is_object(pattern))
        return qs_fail(QS_E_INPUT, "read %s: \"pattern\" must be {\"String\": ...} or {\"Regex\": ...}",
                       name);
    qs_err err = get_text(&text, &bytes, pattern, literal ? "String" : "Regex", name);
    if (err != QS_OK) return err;
    return qs_pattern_create(out, text, bytes, literal, name);
}

static qs_err get_bool(bool *out, const json_t *node, const char *key, const char *name)
{
    if (json_object_get(node, key) == NULL)
        return qs_fail(QS_E_INPUT, "read %s: the key \"%s\" is missing", name, key);
    return qs_json_opt_bool(out, node, key, name);
}

/* ---- normalizer ---- */

static qs_err read_form(const reader *r, const json_t *node)
{
    static const char *const forms[] = {[QS_NORMAL_NFC] = "NFC",
                                        [QS_NORMAL_NFD] = "NFD",
                                        [QS_NORMAL_NFKC] = "NFKC",
                                        [QS_NORMAL_NFKD] = "NFKD"};
    const char *type = json_string_value(json_object_get(node, "type"));
    int kind = QS_NORMAL_NFC;
    while (kind < QS_NORMAL_NFKD && strcmp(forms[kind], type) != 0) kind++;
    return qs_normalizer_add(r->out, (qs_normal_kind)kind, NULL, 0, NULL, r->name);
}

static qs_err read_prepend(const reader *r, const json_t *node)
{
    const char *text;
    size_t bytes;
    qs_err err = get_text(&text, &bytes, node, "prepend", r->name);
    if (err != QS_OK) return err;
    return qs_normalizer_add(r->out, QS_NORMAL_PREPEND, text, bytes, NULL, r->name);
}

static qs_err read_replace(const reader *r, const json_t *node)
{
    const char *text;
    size_t bytes;
    qs_pattern *pattern;
    qs_err err = get_text(&text, &bytes, node, "content", r->name);
    if (err != QS_OK) return err;
    err = get_pattern(&pattern, node, r->name);
    if (err != QS_OK) return err;
    return qs_normalizer_add(r->out, QS_NORMAL_REPLACE, text, bytes, pattern, r->name);
}

static const step_row normalizer_rows[] = {
    {"NFC", read_form},        {"NFD", read_form},        {"NFKC", read_form}, {"NFKD", read_form},
    {"Prepend", read_prepend}, {"Replace", read_replace}, {NULL, NULL},
};

qs_err qs_normalizer_read(qs_normalizer *out, const json_t *node, const char *name)
{
    reader r = {.part = "normalizer", .name = name, .out = out};
    return read_steps(&r, normalizer_rows, "normalizers", node, 0);
}

/* ---- pre_tokenizer ---- */

/* The alphabet is applied last, so nothing may follow it. */
static qs_err add_pre_step(const reader *r, qs_pre_step step)
{
    const qs_pretokenizer *pre = r->out;
    if (pre->byte_level) {
        qs_pattern_destroy(step.pattern);
        return qs_fail(QS_E_UNSUPPORTED, "read %s: a pre-tokeniser after ByteLevel is not supported",
                       r->name);
    }
    return qs_pretokenizer_add(r->out, step, r->name);
}

static qs_err read_split(const reader *r, const json_t *node)
{
    static const char *const behaviors[] = {
        [QS_SPLIT_ISOLATED] = "Isolated",
        [QS_SPLIT_REMOVED] = "Removed",
        [QS_SPLIT_MERGED_WITH_PREVIOUS] = "MergedWithPrevious",
        [QS_SPLIT_MERGED_WITH_NEXT] = "MergedWithNext",
        [QS_SPLIT_CONTIGUOUS] = "Contiguous",
    };
    const size_t n_behaviors = sizeof behaviors / sizeof *behaviors;
    const char *behavior;
    qs_pre_step step = {.kind = QS_PRE_SPLIT};
    qs_err err;
    QS_TRY(qs_json_get_string(&behavior, node, "behavior", r->name));
    size_t b = 0;
    while (b < n_behaviors && strcmp(behaviors[b], behavior) != 0) b++;
    if (b == n_behaviors)
        return qs_fail(QS_E_UNSUPPORTED, "read %s: the behavior \"%.64s\" is not supported", r->name,
                       behavior);
    step.behavior = (qs_split_behavior)b;
    QS_TRY(qs_json_opt_bool(&step.invert, node, "invert", r->name));
    QS_TRY(get_pattern(&step.pattern, node, r->name));
    err = add_pre_step(r, step);
out:
    return err;
}

static qs_err read_digits(const reader *r, const json_t *node)
{
    bool individual = false;
    qs_err err = get_bool(&individual, node, "individual_digits", r->name);
    if (err != QS_OK) return err;
    qs_split_behavior behavior = individual ? QS_SPLIT_ISOLATED : QS_SPLIT_CONTIGUOUS;
    return add_pre_step(r, (qs_pre_step){.kind = QS_PRE_DIGITS, .behavior = behavior});
}

static qs_err read_byte_level(const reader *r, const json_t *node)
{
    bool add_prefix_space = false, use_regex = true;
    qs_pretokenizer *pre = r->out;
    qs_err err;
    QS_TRY(get_bool(&add_prefix_space, node, "add_prefix_space", r->name));
    QS_TRY(qs_json_opt_bool(&use_regex, node, "use_regex", r->name));
    if (add_prefix_space) QS_TRY(add_pre_step(r, (qs_pre_step){.kind = QS_PRE_PREFIX_SPACE}));
    if (pre->byte_level)
        return qs_fail(QS_E_UNSUPPORTED, "read %s: a pre-tokeniser after ByteLevel is not supported",
                       r->name);
    if (use_regex) {
        const qs_pre_family *gpt2;
        QS_TRY(qs_pre_family_find(&gpt2, "gpt-2", r->name));
        QS_TRY(qs_pretokenizer_add_family(pre, gpt2, r->name));
    }
    pre->byte_level = true;
out:
    return err;
}

/* Older files say add_prefix_space, newer ones prepend_scheme. */
static qs_err read_prefix(qs_pre_prefix *prefix, const json_t *node, const char *name)
{
    const char *scheme = "always";
    bool add_prefix_space = true;
    qs_err err;
    QS_TRY(qs_json_opt_string(&scheme, node, "prepend_scheme", name));
    QS_TRY(qs_json_opt_bool(&add_prefix_space, node, "add_prefix_space", name));
    if (strcmp(scheme, "always") == 0) {
        *prefix = QS_PREFIX_ALWAYS;
    } else if (strcmp(scheme, "first") == 0) {
        *prefix = QS_PREFIX_FIRST;
    } else if (strcmp(scheme, "never") == 0) {
        *prefix = QS_PREFIX_NEVER;
    } else {
        return qs_fail(QS_E_UNSUPPORTED, "read %s: the prepend_scheme \"%.64s\" is not supported", name,
                       scheme);
    }
    if (!add_prefix_space && *prefix != QS_PREFIX_NEVER)
        return qs_fail(QS_E_INPUT, "read %s: add_prefix_space and prepend_scheme contradict each other",
                       name);
out:
    return err;
}

static qs_err read_metaspace(const reader *r, const json_t *node)
{
    qs_pre_step step = {.kind = QS_PRE_METASPACE};
    bool splits = true;
    qs_err err;
    QS_TRY(get_mark(step.mark, &step.mark_bytes, node, "replacement", r->name));
    QS_TRY(read_prefix(&step.prefix, node, r->name));
    QS_TRY(qs_json_opt_bool(&splits, node, "split", r->name));
    QS_TRY(add_pre_step(r, step));
    if (!splits) goto out;
    qs_pre_step split = {.kind = QS_PRE_SPLIT, .behavior = QS_SPLIT_MERGED_WITH_NEXT};
    QS_TRY(qs_pattern_create(&split.pattern, step.mark, step.mark_bytes, true, r->name));
    err = add_pre_step(r, split);
out:
    return err;
}

static const step_row pretokenizer_rows[] = {
    {"Split", read_split},
    {"Digits", read_digits},
    {"ByteLevel", read_byte_level},
    {"Metaspace", read_metaspace},
    {NULL, NULL},
};

qs_err qs_pretokenizer_read(qs_pretokenizer *out, const json_t *node, const char *name)
{
    reader r = {.part = "pre_tokenizer", .name = name, .out = out};
    return read_steps(&r, pretokenizer_rows, "pretokenizers", node, 0);
}

/* ---- decoder ---- */

static qs_err read_byte_level_decoder(const reader *r, const json_t *node)
{
    (void)node;
    return qs_detokenizer_add(r->out, (qs_detoken_step){.kind = QS_DETOKEN_BYTE_LEVEL}, r->name);
}

static qs_err read_byte_fallback(const reader *r, const json_t *node)
{
    (void)node;
    return qs_detokenizer_add(r->out, (qs_detoken_step){.kind = QS_DETOKEN_BYTE_FALLBACK}, r->name);
}

static qs_err read_fuse(const reader *r, const json_t *node)
{
    (void)node;
    return qs_detokenizer_add(r->out, (qs_detoken_step){.kind = QS_DETOKEN_FUSE}, r->name);
}

static qs_err read_replace_decoder(const reader *r, const json_t *node)
{
    const char *text;
    qs_detoken_step step = {.kind = QS_DETOKEN_REPLACE};
    qs_err err;
    QS_TRY(get_text(&text, &step.with_bytes, node, "content", r->name));
    QS_TRY(get_pattern(&step.pattern, node, r->name));
    step.with = (char *)text; /* qs_detokenizer_add copies it */
    err = qs_detokenizer_add(r->out, step, r->name);
out:
    return err;
}

static qs_err read_strip(const reader *r, const json_t *node)
{
    qs_detoken_step step = {.kind = QS_DETOKEN_STRIP};
    qs_err err;
    QS_TRY(get_mark(step.mark, &step.mark_bytes, node, "content", r->name));
    QS_TRY(qs_json_get_int(&step.n_left, node, "start", 0, INT32_MAX, r->name));
    QS_TRY(qs_json_get_int(&step.n_right, node, "stop", 0, INT32_MAX, r->name));
    err = qs_detokenizer_add(r->out, step, r->name);
out:
    return err;
}

static qs_err read_metaspace_decoder(const reader *r, const json_t *node)
{
    qs_detoken_step step = {.kind = QS_DETOKEN_METASPACE};
    qs_pre_prefix prefix = QS_PREFIX_ALWAYS;
    qs_err err;
    QS_TRY(get_mark(step.mark, &step.mark_bytes, node, "replacement", r->name));
    QS_TRY(read_prefix(&prefix, node, r->name));
    step.n_left = prefix == QS_PREFIX_NEVER ? 0 : 1;
    err = qs_detokenizer_add(r->out, step, r->name);
out:
    return err;
}

static const step_row detokenizer_rows[] = {
    {"ByteLevel", read_byte_level_decoder},
    {"ByteFallback", read_byte_fallback},
    {"Fuse", read_fuse},
    {"Replace", read_replace_decoder},
    {"Strip", read_strip},
    {"Metaspace", read_metaspace_decoder},
    {NULL, NULL},
};

qs_err qs_detokenizer_read(qs_detokenizer *out, const json_t *node, const char *name)
{
    reader r = {.part = "decoder", .name = name, .out = out};
    out->spaced = node == NULL || json_is_null(node);
    return read_steps(&r, detokenizer_rows, "decoders", node, 0);
}
