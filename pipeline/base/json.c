#include "base/json.h"

#include "base/file.h"
#include "base/mem.h"

/* tokenizer.json of a 150k vocabulary is about 11 MB; anything far beyond that is not a configuration. */
static const size_t json_limit_bytes = (size_t)256 << 20;

static qs_err parse(json_t **out, const char *text, size_t bytes, size_t flags, const char *name)
{
    json_error_t cause;
    *out = json_loadb(text, bytes, JSON_REJECT_DUPLICATES | flags, &cause);
    if (*out == NULL)
        return qs_fail(QS_E_INPUT, "parse %s: line %d, column %d: %s", name, cause.line, cause.column, cause.text);
    return QS_OK;
}

qs_err qs_json_parse(json_t **out, const char *text, size_t bytes, const char *name)
{
    return parse(out, text, bytes, 0, name);
}

qs_err qs_json_parse_wide(json_t **out, const char *text, size_t bytes, const char *name)
{
    return parse(out, text, bytes, JSON_DECODE_INT_AS_REAL, name);
}

qs_err qs_json_load(json_t **out, const char *path)
{
    *out = NULL;
    char *text;
    size_t bytes;
    qs_err err = qs_file_read(&text, &bytes, path, json_limit_bytes);
    if (err != QS_OK) return err;
    err = qs_json_parse(out, text, bytes, path);
    qs_mem_free(text);
    return err;
}

static bool absent(const json_t *value) { return value == NULL || json_is_null(value); }

static qs_err missing(const char *key, const char *name)
{
    return qs_fail(QS_E_INPUT, "read %s: the key \"%s\" is missing", name, key);
}

qs_err qs_json_opt_int(int64_t *out, const json_t *object, const char *key, int64_t low, int64_t high,
                       const char *name)
{
    const json_t *value = json_object_get(object, key);
    if (absent(value)) return QS_OK;
    if (!json_is_integer(value) || json_integer_value(value) < low || json_integer_value(value) > high)
        return qs_fail(QS_E_INPUT, "read %s: \"%s\" must be an integer from %lld to %lld", name, key,
                       (long long)low, (long long)high);
    *out = json_integer_value(value);
    return QS_OK;
}

qs_err qs_json_opt_real(double *out, const json_t *object, const char *key, const char *name)
{
    const json_t *value = json_object_get(object, key);
    if (absent(value)) return QS_OK;
    if (!json_is_number(value)) return qs_fail(QS_E_INPUT, "read %s: \"%s\" must be a number", name, key);
    *out = json_number_value(value);
    return QS_OK;
}

qs_err qs_json_opt_bool(bool *out, const json_t *object, const char *key, const char *name)
{
    const json_t *value = json_object_get(object, key);
    if (absent(value)) return QS_OK;
    if (!json_is_boolean(value)) return qs_fail(QS_E_INPUT, "read %s: \"%s\" must be true or false", name, key);
    *out = json_is_true(value);
    return QS_OK;
}

qs_err qs_json_opt_string(const char **out, const json_t *object, const char *key, const char *name)
{
    const json_t *value = json_object_get(object, key);
    if (absent(value)) return QS_OK;
    if (!json_is_string(value)) return qs_fail(QS_E_INPUT, "read %s: \"%s\" must be a string", name, key);
    *out = json_string_value(value);
    return QS_OK;
}

qs_err qs_json_get_int(int64_t *out, const json_t *object, const char *key, int64_t low, int64_t high,
                       const char *name)
{
    if (absent(json_object_get(object, key))) return missing(key, name);
    return qs_json_opt_int(out, object, key, low, high, name);
}

qs_err qs_json_get_real(double *out, const json_t *object, const char *key, const char *name)
{
    if (absent(json_object_get(object, key))) return missing(key, name);
    return qs_json_opt_real(out, object, key, name);
}

qs_err qs_json_get_string(const char **out, const json_t *object, const char *key, const char *name)
{
    if (absent(json_object_get(object, key))) return missing(key, name);
    return qs_json_opt_string(out, object, key, name);
}

json_t *qs_json_text(const char *text)
{
    json_t *value = json_string(text);
    return value != NULL ? value : json_string("(not UTF-8)");
}
