/* JSON: jansson with errors that name the file and the key. All getters report QS_E_INPUT. */
#ifndef QS_BASE_JSON_H
#define QS_BASE_JSON_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

/* Strict parsing: duplicate keys and trailing text are refused; nesting is bounded by jansson.
 * `name` is what error texts call the document. The caller owns the value (json_decref). */
QS_MUST_CHECK qs_err qs_json_parse(json_t **out, const char *text, size_t bytes, const char *name);
QS_MUST_CHECK qs_err qs_json_load(json_t **out, const char *path);
/* Integers as reals, of any size: for documents whose numbers are not read here (transformers writes "no limit" as the
 * integer 1000000000000000019884624838656 into tokenizer_config.json). */
QS_MUST_CHECK qs_err qs_json_parse_wide(json_t **out, const char *text, size_t bytes, const char *name);

/* Required members. Integers must lie in [low, high]; reals accept integers. Borrowed results. */
QS_MUST_CHECK qs_err qs_json_get_int(int64_t *out, const json_t *object, const char *key, int64_t low,
                                     int64_t high, const char *name);
QS_MUST_CHECK qs_err qs_json_get_real(double *out, const json_t *object, const char *key, const char *name);
QS_MUST_CHECK qs_err qs_json_get_string(const char **out, const json_t *object, const char *key,
                                        const char *name);

/* Optional members: a missing or null member leaves *out as it is; a wrong type is still an error. */
QS_MUST_CHECK qs_err qs_json_opt_int(int64_t *out, const json_t *object, const char *key, int64_t low,
                                     int64_t high, const char *name);
QS_MUST_CHECK qs_err qs_json_opt_real(double *out, const json_t *object, const char *key, const char *name);
QS_MUST_CHECK qs_err qs_json_opt_bool(bool *out, const json_t *object, const char *key, const char *name);
QS_MUST_CHECK qs_err qs_json_opt_string(const char **out, const json_t *object, const char *key,
                                        const char *name);

/* A string of any bytes, such as a path: "(not UTF-8)" stands for what JSON cannot hold. */
json_t *qs_json_text(const char *text);

#endif
