/* The command that a rule names, with what a configuration and its evaluation say in place of the words in braces. */
#include <math.h>
#include <string.h>

#include "artifact/provenance.h"
#include "quant/spec.h"
#include "report/diagnose.h"

/* ---- the evaluation's own command ---- */

/* Between the blanks of a command line that qs_provenance_quote wrote: blanks within '' belong to the word. */
typedef struct word {
    const char *at;
    int bytes;
} word;

static word next_word(const char *at)
{
    int bytes = 0;
    bool quoted = false;
    at += strspn(at, " ");
    for (; at[bytes] != '\0' && (quoted || at[bytes] != ' '); bytes++) {
        if (at[bytes] == '\'') quoted = !quoted;
        else if (at[bytes] == '\\' && !quoted && at[bytes + 1] != '\0') bytes++;
    }
    return (word){at, bytes};
}

static bool is_option(word w) { return w.bytes > 2 && strncmp(w.at, "--", 2) == 0; }

static bool is_word(word w, const char *text)
{
    return (int)strlen(text) == w.bytes && strncmp(w.at, text, (size_t)w.bytes) == 0;
}

static bool ends_in(word w, const char *suffix)
{
    int bytes = (int)strlen(suffix);
    if (w.bytes > 0 && w.at[w.bytes - 1] == '\'') w.bytes--;
    return w.bytes >= bytes && strncmp(w.at + w.bytes - bytes, suffix, (size_t)bytes) == 0;
}

/* Whether a rule's text names the option. */
static bool is_named(const char *text, word option)
{
    size_t bytes = strcspn(option.at, " =");
    for (const char *at = strstr(text, "--"); at != NULL; at = strstr(at + 2, "--"))
        if (strncmp(at, option.at, bytes) == 0 && (at[bytes] == ' ' || at[bytes] == '\0')) return true;
    return false;
}

/* What is not repeated: other points, how the evaluation speaks, and what the rule says itself. */
static bool is_left_out(const qs_config_row *row, const char *rule, word option, word value)
{
    char quant[QS_CONFIG_TEXT_BYTES + 16];
    (void)snprintf(quant, sizeof quant, "%s.quant.h5", row->id);
    if (is_word(option, "--quant") || is_word(option, "--checkpoint"))
        return !ends_in(value, quant) && !ends_in(value, row->id);
    return is_word(option, "--quiet") || is_word(option, "--json") || is_named(rule, option);
}

/* "qsweep evaluate" with the options of the evaluation that this row is of. */
static void add_evaluate(qs_sentence *text, const qs_config_row *row, const char *rule)
{
    qs_sentence_add(text, "qsweep evaluate");
    if (row->command == NULL) {
        qs_sentence_add(text, " --model MODEL --text TEXT --qa GOLD_SET --quant %s.quant.h5", row->id);
        return;
    }
    word w = next_word(row->command); /* the program */
    for (w = next_word(w.at + w.bytes); w.bytes > 0;) {
        word value = next_word(w.at + w.bytes);
        bool has_value = is_option(w) && value.bytes > 0 && !is_option(value);
        const char *end = has_value ? value.at + value.bytes : w.at + w.bytes;
        if (is_option(w) && !is_left_out(row, rule, w, value)) qs_sentence_add(text, " %.*s", (int)(end - w.at), w.at);
        w = next_word(end);
    }
}

/* ---- words in braces ---- */

/* The configuration as cells of a grid with other bits and groups; 0 = as they are. */
static bool spec_of(const qs_config_row *row, int64_t bits, int64_t group, char *text, size_t bytes)
{
    char bits_cell[32], group_cell[32] = "";
    qs_spec spec;
    (void)snprintf(bits_cell, sizeof bits_cell, "%lld", (long long)(bits > 0 ? bits : row->bits));
    if (row->bits == 0) (void)snprintf(bits_cell, sizeof bits_cell, "%.2f", row->bpw);
    else if (strcmp(row->method, "int8") != 0)
        (void)snprintf(group_cell, sizeof group_cell, "%lld", (long long)(group != 0 ? group : row->group_size));
    if (qs_spec_from_cells(&spec, row->method, bits_cell, group_cell, row->variant) != QS_OK) return false;
    (void)snprintf(text, bytes, "%s", spec.text);
    return true;
}

/* The row's directory and a name behind it, as a word of a command line. */
static bool put_path(const qs_config_row *row, const char *name, char *text, size_t bytes)
{
    char path[QS_PATH_BYTES], *words[] = {path};
    const char *slash = strrchr(row->path, '/');
    (void)snprintf(path, sizeof path, "%.*s%s", slash != NULL ? (int)(slash - row->path) : 1,
                   slash != NULL ? row->path : ".", name);
    qs_provenance_quote(text, bytes, 1, words);
    return true;
}

static bool put_out(const qs_config_row *row, char *text, size_t bytes) { return put_path(row, "", text, bytes); }

static bool put_calib(const qs_config_row *row, char *text, size_t bytes)
{
    return put_path(row, "/calib.h5", text, bytes);
}

static bool put_spec(const qs_config_row *row, char *text, size_t bytes) { return spec_of(row, 0, 0, text, bytes); }

/* 8 bits of bitsandbytes where the method has no more to give. */
static bool put_more_bits(const qs_config_row *row, char *text, size_t bytes)
{
    static const int64_t steps[] = {3, 4, 8};
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++)
        if (steps[i] > row->bits && row->bits > 0 && spec_of(row, steps[i], 0, text, bytes)) return true;
    (void)snprintf(text, bytes, "int8");
    return true;
}

static bool put_finer(const qs_config_row *row, char *text, size_t bytes)
{
    int64_t group = row->group_size > 32 ? row->group_size / 2 : row->group_size > 0 ? row->group_size : 128;
    return spec_of(row, 0, group, text, bytes);
}

static bool put_group(const qs_config_row *row, char *text, size_t bytes)
{
    (void)snprintf(text, bytes, "%lld", row->group_size > 0 ? (long long)row->group_size : 64LL);
    return true;
}

static bool put_bits(const qs_config_row *row, char *text, size_t bytes)
{
    (void)snprintf(text, bytes, "%lld", row->bits > 0 ? (long long)row->bits : 4LL);
    return true;
}

static bool put_model(const qs_config_row *row, char *text, size_t bytes)
{
    word w = {row->command, 0};
    for (; w.at != NULL && *w.at != '\0'; w = next_word(w.at + w.bytes)) {
        word value = next_word(w.at + w.bytes);
        if (!is_word(w, "--model")) continue;
        (void)snprintf(text, bytes, "%.*s", value.bytes, value.at);
        return true;
    }
    return false;
}

static const struct {
    const char *word, *unknown; /* what stands there where nothing is known */
    bool (*put)(const qs_config_row *row, char *text, size_t bytes);
} words_of_commands[] = {
    {"model", "MODEL", put_model}, {"out", "", put_out},           {"calib", "", put_calib},
    {"spec", "SPEC", put_spec},    {"more-bits", "", put_more_bits}, {"finer", "SPEC", put_finer},
    {"group", "", put_group},      {"bits", "", put_bits},
};

static void value_of(const qs_config_row *row, const char *name, size_t name_bytes, char *text, size_t bytes)
{
    for (size_t i = 0; i < sizeof words_of_commands / sizeof *words_of_commands; i++) {
        const char *known = words_of_commands[i].word;
        if (strlen(known) != name_bytes || strncmp(known, name, name_bytes) != 0) continue;
        if (!words_of_commands[i].put(row, text, bytes))
            (void)snprintf(text, bytes, "%s", words_of_commands[i].unknown);
        return;
    }
    (void)snprintf(text, bytes, "{%.*s}", (int)name_bytes, name);
}

void qs_diagnosis_next(qs_sentence *text, const qs_sweep_config *config, const qs_rule *rule)
{
    for (const char *at = rule->next; *at != '\0';) {
        const char *open = strchr(at, '{'), *close = open != NULL ? strchr(open, '}') : NULL;
        char value[QS_PATH_BYTES];
        if (close == NULL) {
            qs_sentence_add(text, "%s", at);
            return;
        }
        qs_sentence_add(text, "%.*s", (int)(open - at), at);
        if (strncmp(open, "{evaluate}", 10) == 0) {
            add_evaluate(text, &config->row, rule->next);
        } else {
            value_of(&config->row, open + 1, (size_t)(close - open - 1), value, sizeof value);
            qs_sentence_add(text, "%s", value);
        }
        at = close + 1;
    }
}

