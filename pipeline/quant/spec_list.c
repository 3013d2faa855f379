/* What can stand in a spec, for --list. */
#include "quant/methods.h"
#include "quant/spec.h"

typedef struct printer {
    FILE *stream;
    const qs_method *last;
} printer;

static void print_key(void *context, const qs_method *method, const qs_spec_key *key)
{
    printer *p = context;
    if (method != p->last) (void)fprintf(p->stream, "%s: %s\n", method->name, method->summary);
    p->last = method;
    (void)fprintf(p->stream, "  %-9s default %-5s %-18s %s\n", key->name, key->fallback, key->allowed, key->text);
}

void qs_spec_print_keys(FILE *stream) { qs_spec_list_keys(print_key, &(printer){stream, NULL}); }

static void add_key(void *context, const qs_method *method, const qs_spec_key *key)
{
    json_t *root = context;
    if (json_object_get(root, method->name) == NULL)
        (void)json_object_set_new(root, method->name, json_pack("{s:s, s:[]}", "text", method->summary, "keys"));
    (void)json_array_append_new(json_object_get(json_object_get(root, method->name), "keys"),
                                json_pack("{s:s, s:s, s:s, s:s}", "name", key->name, "default", key->fallback,
                                          "allowed", key->allowed, "text", key->text));
}

json_t *qs_spec_keys_json(void)
{
    json_t *root = json_object();
    qs_spec_list_keys(add_key, root);
    return root;
}
