#include "quant/spec.h"

#include <inttypes.h>
#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "quant/methods.h"

/* KEY_NOT: a flag whose member holds the opposite. */
typedef enum key_kind { KEY_INT, KEY_FLAG, KEY_NOT, KEY_REAL, KEY_NAME } key_kind;

enum { VALUE_BYTES = 32 };

/* A key of the methods of a list, or, when `methods` is NULL, of every method with codes of integers that has no row of
 * its own for that member. The order of the rows is the order of the keys in the canonical text and of the suffixes in
 * the id. */
typedef struct key_row {
    const char *methods;
    const char *name;
    key_kind kind;
    size_t offset;    /* in qs_spec */
    double fallback;  /* value when the key is not given */
    double low, high; /* REAL, and INT without `allowed` */
    const char *allowed;              /* INT: the accepted values, as a list for people and for the check; NAME: the
                                         names of 0, 1, ... , which stand in the id */
    const char *suffix_1, *suffix_0;  /* FLAG: in the id when the value is 1 / 0 and not the default */
    const char *prefix;               /* REAL: in the id before the value, when that is not the default; INT: always */
    const char *help;
} key_row;

#define AT(member) offsetof(qs_spec, member)

static const key_row keys[] = {
    {NULL, "bits", KEY_INT, AT(bits), 4, 0, 0, "2 3 4 8", NULL, NULL, NULL, "bits of a code"},
    {"gptq", "bpw", KEY_REAL, AT(bpw), 0, 1, 8.5, NULL, NULL, NULL, NULL,
     "instead of bits: bits per weight of all linears together; each matrix gets bits and, unless given, group"},
    {"exl2", "bpw", KEY_REAL, AT(bpw), 4, 1, 9, NULL, NULL, NULL, NULL,
     "bits per weight of all linears together, all that is stored counted"},
    {"exl2", "head", KEY_INT, AT(head), 16, 0, 0, "2 3 4 5 6 8 16", NULL, NULL, "h",
     "bits of the output head, beside the budget; 16 = as it is"},
    {NULL, "group", KEY_INT, AT(group_size), 64, 1, 65536, NULL, NULL, NULL, NULL,
     "weights that share a scale; -1 = the whole row"},
    {NULL, "sym", KEY_FLAG, AT(sym), 1, 0, 1, NULL, "sym", "asym", NULL,
     "1 = zero point in the middle of the codes, 0 = one per group"},
    {"rtn", "search", KEY_FLAG, AT(search), 0, 0, 1, NULL, "search", NULL, NULL,
     "1 = the scale with the least squared error instead of min-max"},
    {"gptq", "act", KEY_FLAG, AT(act_order), 0, 0, 1, NULL, "act", NULL, NULL,
     "1 = columns by falling diag(H), groups follow; needs a permutation at inference"},
    {"gptq", "static", KEY_FLAG, AT(static_groups), 0, 0, 1, NULL, "static", NULL, NULL,
     "1 = with act=1: groups stay in the original order, no permutation"},
    {"gptq", "gar", KEY_FLAG, AT(group_aware), 1, 0, 1, NULL, NULL, "nogar", NULL,
     "1 = falling diag(H) inside each group and of the groups; no permutation (default when act=0 and "
     "group>0)"},
    {"gptq", "search", KEY_FLAG, AT(search), 1, 0, 1, NULL, NULL, "minmax", NULL,
     "1 = the scale with the least squared error weighted by diag(H), 0 = min-max"},
    {"gptq exl2", "damp", KEY_REAL, AT(damping), 0.01, 0.0001, 1, NULL, NULL, NULL, "damp",
     "fraction of the mean of diag(H) added to the diagonal"},
    {"awq", "zero", KEY_NOT, AT(sym), 1, 0, 1, NULL, "asym", "sym", NULL,
     "1 = one zero point per group, 0 = in the middle of the codes"},
    {"awq", "gptq", KEY_FLAG, AT(then_gptq), 0, 0, 1, NULL, "gptq", NULL, NULL,
     "1 = the scaled weights are coded by GPTQ instead of rounded"},
    {"awq", "duo", KEY_FLAG, AT(weight_stats), 1, 0, 1, NULL, NULL, "noduo", NULL,
     "1 = scales are tried with the weights' mean size too, 0 = with the inputs' alone"},
    {"awq", "clip", KEY_FLAG, AT(clip), 1, 0, 1, NULL, "clip", "noclip", NULL,
     "1 = ranges of groups are cut where that lowers the loss (default when gptq=0)"},
    {"awq", "loss", KEY_NAME, AT(loss), QS_AWQ_LINEAR, 0, 0, "linear block", NULL, NULL, NULL,
     "what the best scalings are rated by: errors of the linears' outputs, or of the block's on some tokens"},
    {"nf4 fp4", "block", KEY_INT, AT(group_size), 64, 0, 0, "32 64 128 256 512 1024 2048 4096", NULL, NULL, NULL,
     "weights of the flattened matrix that share a largest magnitude"},
    {"nf4 fp4", "dq", KEY_FLAG, AT(double_quant), 1, 0, 1, NULL, "dq", "nodq", NULL,
     "1 = the largest magnitudes are quantised too, to 8 bits"},
    {"nf4 fp4", "compute", KEY_NAME, AT(compute), QS_ROUND_BF16, 0, 0, "fp32 bf16 fp16", NULL, NULL, NULL,
     "what inputs, weights and results of a product are rounded to"},
    {"int8", "threshold", KEY_REAL, AT(threshold), 6, 0, 65504, NULL, NULL, NULL, "thr",
     "inputs of this magnitude or more are multiplied in 16 bits; 0 = none are"},
    {"gptq exl2", "even", KEY_FLAG, AT(even), 0, 0, 1, NULL, "even", NULL, NULL,
     "with bpw: 1 = the same bits and groups for every matrix, to hold a shared budget against"},
    {"rtn gptq awq nf4 fp4 int8 exl2", "rotate", KEY_FLAG, AT(rotate), 0, 0, 1, NULL, "rot", NULL, NULL,
     "1 = the residual stream is rotated before, which spreads its outliers; unties the head"},
};
enum { N_KEYS = sizeof keys / sizeof *keys };

static bool is_listed(const char *list, const char *text)
{
    size_t length = strlen(text);
    for (const char *at = list; length > 0 && (at = strstr(at, text)) != NULL; at++)
        if ((at == list || at[-1] == ' ') && (at[length] == '\0' || at[length] == ' ')) return true;
    return false;
}

static bool key_applies(const key_row *row, const qs_method *method)
{
    if (row->methods != NULL) return is_listed(row->methods, method->name);
    if (method->format != QS_PACKED_INT) return false;
    for (int i = 0; i < N_KEYS; i++)
        if (keys[i].offset == row->offset && keys[i].methods != NULL && is_listed(keys[i].methods, method->name))
            return false;
    return true;
}

static bool is_flag(const key_row *row) { return row->kind == KEY_FLAG || row->kind == KEY_NOT; }

static void set_value(qs_spec *spec, const key_row *row, double value)
{
    char *at = (char *)spec + row->offset;
    if (row->kind == KEY_INT || row->kind == KEY_NAME)
        *(int64_t *)at = (int64_t)value;
    else if (is_flag(row))
        *(bool *)at = (value != 0) == (row->kind == KEY_FLAG);
    else
        *(double *)at = value;
}

static double get_value(const qs_spec *spec, const key_row *row)
{
    const char *at = (const char *)spec + row->offset;
    if (row->kind == KEY_INT || row->kind == KEY_NAME) return (double)*(const int64_t *)at;
    if (is_flag(row)) return *(const bool *)at == (row->kind == KEY_FLAG) ? 1 : 0;
    return *(const double *)at;
}

/* Group-aware order has no meaning without groups or beside act-order, and clipping none beside GPTQ's scale
 * search, so their defaults follow those. */
static double default_value(const qs_spec *spec, const key_row *row)
{
    if (row->offset == AT(group_aware)) return !spec->act_order && spec->group_size >= 0;
    if (row->offset == AT(clip)) return !spec->then_gptq;
    return row->fallback;
}

/* Index of a name in a list, or -1; and the name at an index. */
static int index_of(const char *list, const char *text)
{
    if (!is_listed(list, text)) return -1;
    int n = 0;
    for (const char *at = list; strncmp(at, text, strlen(text)) != 0; at++) n += *at == ' ';
    return n;
}

static void name_at(char text[VALUE_BYTES], const char *list, int index)
{
    for (; index > 0; index--) list = strchr(list, ' ') + 1;
    (void)snprintf(text, VALUE_BYTES, "%.*s", (int)strcspn(list, " "), list);
}

/* `text` is a whole decimal number (no blanks, no exponent for integers). */
static bool parse_number(const char *text, bool integer, double *value)
{
    const char *digits = integer ? "-0123456789" : "-.e+0123456789";
    char *end;
    if (text[0] == '\0' || text[0] == '+' || strspn(text, digits) != strlen(text)) return false;
    *value = strtod(text, &end);
    return *end == '\0' && isfinite(*value);
}

static qs_err parse_value(qs_spec *spec, const key_row *row, const char *text, const char *where)
{
    double value = 0;
    bool number = parse_number(text, row->kind != KEY_REAL, &value);
    if (row->allowed != NULL) {
        if (!is_listed(row->allowed, text))
            return qs_fail(QS_E_USAGE, "%s: %s=%s: one of %s is needed", where, row->name, text,
                           row->allowed);
        if (row->kind == KEY_NAME) value = index_of(row->allowed, text);
    } else if (is_flag(row)) {
        if (!is_listed("0 1", text))
            return qs_fail(QS_E_USAGE, "%s: %s=%s: 0 or 1 is needed", where, row->name, text);
    } else if (row->offset == AT(group_size)) {
        if (!number || (value != -1 && !(value >= row->low && value <= row->high)))
            return qs_fail(QS_E_USAGE, "%s: group=%s: %g to %g, or -1 for the whole row, is needed", where,
                           text, row->low, row->high);
    } else if (!number || !(value >= row->low && value <= row->high)) {
        return qs_fail(QS_E_USAGE, "%s: %s=%s: a number from %g to %g is needed", where, row->name, text,
                       row->low, row->high);
    }
    if (row->kind ==
        KEY_REAL) { /* the value is what the canonical text says, or two points would share an id */
        char rounded[VALUE_BYTES];
        (void)snprintf(rounded, sizeof rounded, row->offset == AT(bpw) ? "%.2f" : "%g", value);
        value = strtod(rounded, NULL);
    }
    set_value(spec, row, value);
    return QS_OK;
}

static void append(char *text, size_t text_bytes, const char *part)
{
    size_t used = strlen(text);
    (void)snprintf(text + used, text_bytes - used, "%s", part);
}

static void format_value(char text[VALUE_BYTES], const qs_spec *spec, const key_row *row)
{
    if (row->kind == KEY_NAME)
        name_at(text, row->allowed, (int)get_value(spec, row));
    else
        (void)snprintf(text, VALUE_BYTES, "%g", get_value(spec, row));
}

/* The variant's part for one key: "" when the key is at its default. */
static void format_suffix(char text[VALUE_BYTES], const qs_spec *spec, const key_row *row)
{
    text[0] = '\0';
    double value = get_value(spec, row);
    bool always = row->offset == AT(sym) || row->offset == AT(double_quant) || row->offset == AT(head) ||
                  row->offset == AT(compute);
    if ((row->kind == KEY_INT && row->prefix == NULL) || row->offset == AT(bpw) ||
        (!always && value == default_value(spec, row)))
        return;
    if (is_flag(row))
        (void)snprintf(text, VALUE_BYTES, "%s", value != 0 ? row->suffix_1 : row->suffix_0);
    else if (row->kind == KEY_NAME)
        format_value(text, spec, row);
    else
        (void)snprintf(text, VALUE_BYTES, "%s%g", row->prefix, value);
}

static void write_id(qs_spec *spec)
{
    const char *name = spec->method->name;
    if (spec->bpw > 0 && spec->group_size > 0)
        (void)snprintf(spec->id, sizeof spec->id, "%s-%.2fbpw-g%" PRId64, name, spec->bpw, spec->group_size);
    else if (spec->bpw > 0)
        (void)snprintf(spec->id, sizeof spec->id, "%s-%.2fbpw", name, spec->bpw);
    else if (spec->method->format == QS_PACKED_INT)
        (void)snprintf(spec->id, sizeof spec->id, "%s-b%" PRId64 "-g%" PRId64, name, spec->bits, spec->group_size);
    else if (spec->method->format == QS_PACKED_INT8)
        (void)snprintf(spec->id, sizeof spec->id, "%s", name);
    else
        (void)snprintf(spec->id, sizeof spec->id, "%s-blk%" PRId64, name, spec->group_size);
    if (spec->variant[0] == '\0') return;
    append(spec->id, sizeof spec->id, "-");
    append(spec->id, sizeof spec->id, spec->variant);
}

/* Keys that the budget stands for, or that stand for it, are not said. */
static bool is_silent(const qs_spec *spec, const key_row *row)
{
    if (spec->bpw > 0) return row->offset == AT(bits) || (row->offset == AT(group_size) && spec->group_size == 0);
    return row->offset == AT(bpw) || row->offset == AT(even);
}

static void write_names(qs_spec *spec)
{
    char part[VALUE_BYTES];
    spec->variant[0] = '\0';
    (void)snprintf(spec->text, sizeof spec->text, "%s", spec->method->name);
    for (int i = 0, n = 0; i < N_KEYS; i++) {
        if (!key_applies(&keys[i], spec->method) || is_silent(spec, &keys[i])) continue;
        append(spec->text, sizeof spec->text, n++ == 0 ? ":" : ",");
        append(spec->text, sizeof spec->text, keys[i].name);
        append(spec->text, sizeof spec->text, "=");
        format_value(part, spec, &keys[i]);
        append(spec->text, sizeof spec->text, part);
        format_suffix(part, spec, &keys[i]);
        if (part[0] == '\0') continue;
        if (spec->variant[0] != '\0') append(spec->variant, sizeof spec->variant, "-");
        append(spec->variant, sizeof spec->variant, part);
    }
    write_id(spec);
}

/* Of methods whose format leaves no choice. */
static int64_t fixed_value(const qs_method *method, size_t offset)
{
    if (method->format == QS_PACKED_EXL2) return 0;
    return offset == AT(bits) ? qs_formats[method->format].bits : -1;
}

/* The index of a key of the method, or -1. */
static int find_key(const qs_method *method, size_t offset)
{
    for (int i = 0; i < N_KEYS; i++)
        if (keys[i].offset == offset && key_applies(&keys[i], method)) return i;
    return -1;
}

/* A budget stands for bits and, where no group is given, for groups. */
static qs_err complete_budget(qs_spec *spec, const bool *given, const char *where)
{
    int bits = find_key(spec->method, AT(bits)), group = find_key(spec->method, AT(group_size));
    if (spec->bpw == 0 && spec->even)
        return qs_fail(QS_E_USAGE, "%s: even=1 is about budgets and needs bpw", where);
    if (spec->bpw == 0) return QS_OK;
    if (bits >= 0 && given[bits])
        return qs_fail(QS_E_USAGE, "%s: bits and bpw: a budget chooses the bits of each matrix; give one of them",
                       where);
    spec->bits = 0;
    if (group >= 0 && !given[group]) spec->group_size = 0;
    if (spec->act_order || spec->static_groups)
        return qs_fail(QS_E_USAGE, "%s: bpw with act=1: one order of columns at a time is measured; leave act out",
                       where);
    return QS_OK;
}

/* Fills what was not given, refuses what does not go together, names the point. */
static qs_err complete(qs_spec *spec, const bool *given, const char *where)
{
    if (spec->method->format != QS_PACKED_INT) {
        spec->bits = fixed_value(spec->method, AT(bits));
        if (find_key(spec->method, AT(group_size)) < 0)
            spec->group_size = fixed_value(spec->method, AT(group_size));
        spec->sym = true;
    }
    for (int i = 0; i < N_KEYS; i++)
        if (key_applies(&keys[i], spec->method) && !given[i])
            set_value(spec, &keys[i], default_value(spec, &keys[i]));
    qs_err err = complete_budget(spec, given, where);
    if (err != QS_OK) return err;
    if (spec->method->format == QS_PACKED_EXL2) spec->act_order = true; /* what the format is for */
    if (spec->static_groups && !spec->act_order)
        return qs_fail(QS_E_USAGE,
                       "%s: static=1 needs act=1; without act-order the groups are static already", where);
    if (spec->group_aware && spec->act_order)
        return qs_fail(QS_E_USAGE, "%s: gar=1 and act=1 are two orders; choose one", where);
    if (spec->group_aware && spec->group_size < 0)
        return qs_fail(QS_E_USAGE, "%s: gar=1 orders groups and needs group > 0; use act=1 with group=-1",
                       where);
    if (spec->static_groups && spec->group_size < 0)
        return qs_fail(QS_E_USAGE, "%s: static=1 needs group > 0; one group per row is static already",
                       where);
    if (spec->clip && spec->then_gptq)
        return qs_fail(QS_E_USAGE, "%s: clip=1 and gptq=1: GPTQ searches scales of its own; choose one", where);
    write_names(spec);
    return QS_OK;
}

static qs_err find_method(qs_spec *spec, const char *name, const char *where)
{
    spec->method = qs_method_find(name);
    if (spec->method != NULL) return QS_OK;
    if (strcmp(name, "fp") == 0 || strcmp(name, "reference") == 0)
        return qs_fail(QS_E_USAGE, "%s: the reference needs no point: qsweep-evaluate measures it anyway", where);
    char names[256] = "";
    for (int i = 0; qs_methods[i] != NULL; i++) {
        append(names, sizeof names, i == 0 ? "" : ", ");
        append(names, sizeof names, qs_methods[i]->name);
    }
    return qs_fail(QS_E_USAGE, "%s: unknown method \"%s\"; known are %s", where, name, names);
}

static qs_err unknown_key(const qs_spec *spec, const char *name, const char *where)
{
    char names[256] = "";
    for (int i = 0; i < N_KEYS; i++) {
        if (!key_applies(&keys[i], spec->method)) continue;
        append(names, sizeof names, names[0] == '\0' ? "" : ", ");
        append(names, sizeof names, keys[i].name);
    }
    return qs_fail(QS_E_USAGE, "%s: %s has no key \"%s\"; its keys are %s", where, spec->method->name, name,
                   names);
}

static qs_err parse_key(qs_spec *spec, char *item, bool *given, const char *where)
{
    char *equals = strchr(item, '=');
    if (equals == NULL) return qs_fail(QS_E_USAGE, "%s: \"%s\" is not key=value", where, item);
    *equals = '\0';
    for (int i = 0; i < N_KEYS; i++) {
        if (!key_applies(&keys[i], spec->method) || strcmp(keys[i].name, item) != 0) continue;
        if (given[i]) return qs_fail(QS_E_USAGE, "%s: %s stands twice", where, item);
        given[i] = true;
        return parse_value(spec, &keys[i], equals + 1, where);
    }
    return unknown_key(spec, item, where);
}

/* Copies at most QS_SPEC_TEXT_BYTES - 1 characters of printable ASCII. */
static qs_err copy_text(char *copy, const char *text, const char *what)
{
    size_t length = strlen(text);
    if (length >= QS_SPEC_TEXT_BYTES)
        return qs_fail(QS_E_USAGE, "%s: longer than %d characters", what, QS_SPEC_TEXT_BYTES - 1);
    for (size_t i = 0; i < length; i++)
        if (text[i] <= ' ' || text[i] > '~')
            return qs_fail(QS_E_USAGE, "%s \"%s\": a blank or an unprintable character", what, text);
    memcpy(copy, text, length + 1);
    return QS_OK;
}

qs_err qs_spec_parse(qs_spec *out, const char *text)
{
    char copy[QS_SPEC_TEXT_BYTES], where[QS_SPEC_TEXT_BYTES + 16];
    bool given[N_KEYS] = {false};
    *out = (qs_spec){0};
    qs_err err = copy_text(copy, text, "spec");
    if (err != QS_OK) return err;
    (void)snprintf(where, sizeof where, "spec \"%s\"", text);
    char *colon = strchr(copy, ':'), *rest = NULL;
    if (colon != NULL) {
        *colon = '\0';
        rest = colon + 1;
    }
    err = find_method(out, copy, where);
    while (err == QS_OK && rest != NULL) {
        char *comma = strchr(rest, ',');
        if (comma != NULL) *comma = '\0';
        err = parse_key(out, rest, given, where);
        rest = comma != NULL ? comma + 1 : NULL;
    }
    return err == QS_OK ? complete(out, given, where) : err;
}

qs_err qs_spec_set_awq_loss(qs_spec *spec, const char *name)
{
    int index = strchr(name, ' ') == NULL ? index_of("linear block", name) : -1;
    if (index < 0) return qs_fail(QS_E_USAGE, "--awq-loss %s: linear or block is needed", name);
    if (find_key(spec->method, AT(loss)) < 0) return QS_OK;
    spec->loss = index;
    write_names(spec);
    return QS_OK;
}

/* One part of a variant: "asym", "act", "damp0.05". */
static qs_err parse_suffix(qs_spec *spec, const char *part, bool *given, const char *where)
{
    for (int i = 0; i < N_KEYS; i++) {
        const key_row *row = &keys[i];
        if (!key_applies(row, spec->method)) continue;
        bool on = row->suffix_1 != NULL && strcmp(row->suffix_1, part) == 0;
        bool off = row->suffix_0 != NULL && strcmp(row->suffix_0, part) == 0;
        bool real = row->prefix != NULL && strncmp(row->prefix, part, strlen(row->prefix)) == 0;
        bool name = row->kind == KEY_NAME && is_listed(row->allowed, part);
        real = real && strpbrk(part, "0123456789") == part + strlen(row->prefix);
        if (!on && !off && !real && !name) continue;
        if (given[i]) return qs_fail(QS_E_USAGE, "%s: \"%s\" says %s a second time", where, part, row->name);
        given[i] = true;
        if (real || name) return parse_value(spec, row, part + (real ? strlen(row->prefix) : 0), where);
        set_value(spec, row, on ? 1 : 0);
        return QS_OK;
    }
    return qs_fail(QS_E_USAGE, "%s: %s has no variant \"%s\"", where, spec->method->name, part);
}

/* In the column of bits a method without bits, or a number with a point, means bpw. */
static qs_err parse_cell(qs_spec *spec, size_t offset, const char *text, bool *given, const char *where)
{
    int key = find_key(spec->method, offset), budget = find_key(spec->method, AT(bpw));
    if (offset == AT(bits) && budget >= 0 && (key < 0 || strchr(text, '.') != NULL)) key = budget;
    if (key >= 0) {
        if (text[0] == '\0') return QS_OK; /* the default */
        given[key] = true;
        return parse_value(spec, &keys[key], text, where);
    }
    char wanted[VALUE_BYTES];
    (void)snprintf(wanted, sizeof wanted, "%" PRId64, fixed_value(spec->method, offset));
    if (text[0] == '\0' || strcmp(text, wanted) == 0) return QS_OK;
    return qs_fail(QS_E_USAGE, "%s: %s %s: %s has %s, or leave the cell empty", where,
                   offset == AT(bits) ? "bits" : "group_size", text, spec->method->name, wanted);
}

qs_err qs_spec_from_cells(qs_spec *out, const char *method, const char *bits, const char *group_size,
                          const char *variant)
{
    char copy[QS_SPEC_TEXT_BYTES], where[QS_SPEC_TEXT_BYTES];
    bool given[N_KEYS] = {false};
    *out = (qs_spec){0};
    (void)snprintf(where, sizeof where, "cells \"%.60s\", \"%.20s\", \"%.20s\", \"%.100s\"", method, bits,
                   group_size, variant);
    qs_err err = copy_text(copy, variant, "variant");
    if (err == QS_OK) err = find_method(out, method, where);
    if (err == QS_OK) err = parse_cell(out, AT(bits), bits, given, where);
    if (err == QS_OK) err = parse_cell(out, AT(group_size), group_size, given, where);
    for (char *part = copy[0] != '\0' ? copy : NULL; err == QS_OK && part != NULL;) {
        char *dash = strchr(part, '-');
        if (dash != NULL) *dash = '\0';
        err = parse_suffix(out, part, given, where);
        part = dash != NULL ? dash + 1 : NULL;
    }
    return err == QS_OK ? complete(out, given, where) : err;
}

void qs_spec_list_keys(qs_spec_key_sink put, void *context)
{
    for (int m = 0; qs_methods[m] != NULL; m++) {
        for (int i = 0; i < N_KEYS; i++) {
            const key_row *row = &keys[i];
            if (!key_applies(row, qs_methods[m])) continue;
            char range[64], fallback[VALUE_BYTES];
            if (row->kind == KEY_NAME)
                name_at(fallback, row->allowed, (int)row->fallback);
            else
                (void)snprintf(fallback, sizeof fallback, "%g", row->fallback);
            if (row->allowed != NULL)
                (void)snprintf(range, sizeof range, "%s", row->allowed);
            else
                (void)snprintf(range, sizeof range, is_flag(row) ? "0 1" : "%g to %g", row->low,
                               row->high);
            put(context, qs_methods[m], &(qs_spec_key){row->name, fallback, range, row->help});
        }
    }
}
