/* The pre-tokenisers of byte-level model families, by the names that GGUF gives them. The expressions are
 * those of the families' published tokenizer.json files; "default" is what llama.cpp falls back to. */
#include <stdio.h>
#include <string.h>

#include "model/pretokenizer.h"

#define GPT2 "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"

/* Llama-3 takes digits in groups of up to three, Qwen2 one by one; the rest is common. */
#define LLAMA3(digits)                                                                                     \
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|" digits                                   \
    "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

#define UPPER "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]"
#define LOWER "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"
#define TEKKEN                                                                                             \
    "[^\\r\\n\\p{L}\\p{N}]?" UPPER "*" LOWER "+|[^\\r\\n\\p{L}\\p{N}]?" UPPER "+" LOWER "*|\\p{N}"         \
    "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

/* The first rows name a family, the rows after them are other names for the same thing. Qwen2's NFC is in its
 * tokenizer.json; llama.cpp leaves it out. */
static const qs_pre_family families[] = {
    {.name = "gpt-2", .patterns = {GPT2}},
    {.name = "smollm", .patterns = {GPT2}, .digits = true},
    {.name = "llama-bpe", .patterns = {LLAMA3("\\p{N}{1,3}")}, .ignore_merges = true, .add_bos = true},
    {.name = "qwen2", .patterns = {LLAMA3("\\p{N}")}, .nfc = true},
    {.name = "tekken", .patterns = {TEKKEN}, .ignore_merges = true, .add_bos = true},
    {.name = "default",
     .patterns = {"[\\p{P}\\$\\+<=>\\^~\\|]+",
                  "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)", "\\p{N}+",
                  "[0-9][0-9][0-9]"}},
    {.name = "llama3", .patterns = {LLAMA3("\\p{N}{1,3}")}, .ignore_merges = true, .add_bos = true},
    {.name = "llama-v3", .patterns = {LLAMA3("\\p{N}{1,3}")}, .ignore_merges = true, .add_bos = true},
    {.name = "deepseek-r1-qwen", .patterns = {LLAMA3("\\p{N}")}, .nfc = true},
};
enum { N_FAMILIES = sizeof families / sizeof *families };

const qs_pre_family *qs_pre_family_at(int index) { return index < N_FAMILIES ? &families[index] : NULL; }

qs_err qs_pre_family_find(const qs_pre_family **out, const char *family, const char *name)
{
    char known[256] = "";
    for (int f = 0; f < N_FAMILIES; f++) {
        if (strcmp(families[f].name, family) == 0) {
            *out = &families[f];
            return QS_OK;
        }
        size_t used = strlen(known);
        (void)snprintf(known + used, sizeof known - used, "%s%s", f == 0 ? "" : ", ", families[f].name);
    }
    return qs_fail(QS_E_UNSUPPORTED, "read %s: pre-tokeniser \"%.64s\" is not supported; those that are: %s",
                   name, family, known);
}

qs_err qs_pretokenizer_add_family(qs_pretokenizer *pre, const qs_pre_family *family, const char *name)
{
    qs_err err = QS_OK;
    if (family->digits) QS_TRY(qs_pretokenizer_add(pre, (qs_pre_step){.kind = QS_PRE_DIGITS}, name));
    for (size_t p = 0; p < sizeof family->patterns / sizeof *family->patterns; p++) {
        if (family->patterns[p] == NULL) break;
        QS_TRY(qs_pretokenizer_add_regex(pre, family->patterns[p], name));
    }
    pre->byte_level = true;
out:
    return err;
}
