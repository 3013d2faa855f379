/* "dynamic" of GPTQModel: rules that give single matrices bits and groups of their own. A key is a regular expression,
 * tried at the beginning of the module's name, and the first one that matches counts; "-:" in front means that the
 * module is not quantised, "+:" or nothing that the object's values take the place of the general ones. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <string.h>

#include "base/mem.h"
#include "model/checkpoint_impl.h"

typedef struct rule {
    pcre2_code *code;
    bool skips;
    bool has_sym, has_act;
    bool sym, act;
    int64_t bits, group_size; /* 0 = the general one */
} rule;

struct qs_dynamic {
    rule *rules;
    int64_t n_rules;
    pcre2_match_data *match;
};

void qs_dynamic_destroy(qs_dynamic *dynamic)
{
    if (dynamic == NULL) return;
    for (int64_t i = 0; i < dynamic->n_rules; i++) pcre2_code_free(dynamic->rules[i].code);
    pcre2_match_data_free(dynamic->match);
    qs_mem_free(dynamic->rules);
    qs_mem_free(dynamic);
}

static qs_err compile(rule *out, const char *key, const char *name)
{
    const char *pattern = key;
    char text[128] = "";
    PCRE2_SIZE place;
    int number;
    out->skips = strncmp(key, "-:", 2) == 0;
    if (out->skips || strncmp(key, "+:", 2) == 0) pattern += 2;
    out->code = pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED, PCRE2_ANCHORED, &number, &place, NULL);
    if (out->code != NULL) return QS_OK;
    (void)pcre2_get_error_message(number, (PCRE2_UCHAR *)text, sizeof text);
    return qs_fail(QS_E_INPUT, "read %s: \"dynamic\": the expression \"%.64s\" is none: %s", name, key, text);
}

static qs_err read_rule(rule *out, const char *key, const json_t *value, const char *name)
{
    qs_err err;
    QS_TRY(compile(out, key, name));
    if (out->skips) goto out;
    if (!json_is_object(value))
        return qs_fail(QS_E_INPUT, "read %s: \"dynamic\": \"%.64s\" is no object", name, key);
    QS_TRY(qs_json_opt_int(&out->bits, value, "bits", 1, 32, name));
    QS_TRY(qs_json_opt_int(&out->group_size, value, "group_size", -1, 65536, name));
    out->has_sym = json_object_get(value, "sym") != NULL;
    out->has_act = json_object_get(value, "desc_act") != NULL;
    QS_TRY(qs_json_opt_bool(&out->sym, value, "sym", name));
    QS_TRY(qs_json_opt_bool(&out->act, value, "desc_act", name));
    if (out->bits != 0 && out->bits != 2 && out->bits != 3 && out->bits != 4 && out->bits != 8)
        err = qs_fail(QS_E_UNSUPPORTED,
                      "read %s: \"dynamic\": %lld bits of \"%.64s\" are not read, only 2, 3, 4 and 8", name,
                      (long long)out->bits, key);
out:
    return err;
}

qs_err qs_dynamic_create(qs_dynamic **out, const json_t *object, const char *name)
{
    qs_dynamic *dynamic = NULL;
    const char *key;
    json_t *value;
    qs_err err;
    *out = NULL;
    QS_TRY(QS_NEW(dynamic, 1, "rules of \"dynamic\""));
    QS_TRY(QS_NEW(dynamic->rules, json_object_size(object), "rules of \"dynamic\""));
    dynamic->match = pcre2_match_data_create(1, NULL);
    if (dynamic->match == NULL) {
        err = qs_fail(QS_E_RESOURCE, "read %s: out of memory", name);
        goto out;
    }
    json_object_foreach((json_t *)(uintptr_t)object, key, value) /* in the order of the file */
        QS_TRY(read_rule(&dynamic->rules[dynamic->n_rules++], key, value, name));
    *out = dynamic;
    dynamic = NULL;
out:
    qs_dynamic_destroy(dynamic);
    return err;
}

qs_err qs_dynamic_find(const qs_dynamic *dynamic, const char *module, qs_checkpoint_config *config, bool *skips)
{
    *skips = false;
    for (int64_t i = 0; dynamic != NULL && i < dynamic->n_rules; i++) {
        const rule *r = &dynamic->rules[i];
        int found = pcre2_match(r->code, (PCRE2_SPTR)module, strlen(module), 0, 0, dynamic->match, NULL);
        if (found == PCRE2_ERROR_NOMATCH) continue;
        if (found < 0)
            return qs_fail(QS_E_INPUT, "open checkpoint: rule %lld of \"dynamic\" takes too many steps on %s",
                           (long long)i, module);
        *skips = r->skips;
        if (r->bits != 0) config->bits = r->bits;
        if (r->group_size != 0) config->group_size = r->group_size;
        if (r->has_sym) config->sym = r->sym;
        if (r->has_act) config->act = r->act;
        return QS_OK;
    }
    return QS_OK;
}
