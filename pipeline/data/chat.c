#include "data/chat.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

/* ---- which row ---- */

static const qs_chat_row *find_name(const char *name)
{
    for (const qs_chat_row *row = qs_chat_rows; row->name != NULL; row++)
        if (strcmp(row->name, name) == 0) return row;
    return NULL;
}

static const qs_chat_row *find_meant(const char *plain)
{
    for (const qs_chat_row *row = qs_chat_rows; row->name != NULL; row++) {
        bool meant = true;
        for (int i = 0; row->marks[i] != NULL; i++) meant = meant && strstr(plain, row->marks[i]) != NULL;
        for (int i = 0; row->without[i] != NULL; i++) meant = meant && strstr(plain, row->without[i]) == NULL;
        if (meant) return row;
    }
    return NULL;
}

/* Templates spell one text in several ways: escapes or characters. In place. */
static void take_escapes(char *text)
{
    char *to = text;
    for (const char *at = text; *at != '\0'; at++) {
        bool escaped = at[0] == '\\' && (at[1] == 'n' || at[1] == '\\');
        *to++ = escaped ? (at[1] == 'n' ? '\n' : '\\') : *at;
        at += escaped;
    }
    *to = '\0';
}

/* The text that a template writes by itself as a system message: what stands between the head of such a turn and its
 * end in one literal, where the head is not followed by what a message says. False for one that is not read. */
static bool find_system(qs_chat *out, const char *text)
{
    const qs_chat_turn *turn = &out->row->system;
    size_t end_bytes = strcspn(turn->after, "\n");
    for (const char *at = text; !out->has_system && (at = strstr(at, turn->before)) != NULL;) {
        /* The literal ends with the quote that it begins with; one that began further in front may have either. */
        const char own[] = {at > text ? at[-1] : '\0', '\0'}, *quotes = strpbrk(own, "'\"") != NULL ? own : "'\"";
        at += strlen(turn->before);
        bool said = *at == '{' && (at[1] == '{' || at[1] == '%'); /* by a message */
        if (*at == '\0' || strchr(quotes, *at) != NULL || said) continue;
        size_t bytes = 0;
        while (at[bytes] != '\0' && strchr(quotes, at[bytes]) == NULL &&
               strncmp(at + bytes, turn->after, end_bytes) != 0 && strncmp(at + bytes, "{{", 2) != 0)
            bytes++;
        if (bytes >= QS_CHAT_SYSTEM_BYTES || strncmp(at + bytes, turn->after, end_bytes) != 0) return false;
        memcpy(out->system, at, bytes);
        out->system[bytes] = '\0';
        out->has_system = true;
    }
    return true;
}

static void list_names(char *text, size_t room)
{
    size_t used = 0;
    for (const qs_chat_row *row = qs_chat_rows; row->name != NULL && used < room; row++)
        used += (size_t)snprintf(text + used, room - used, ", %s", row->name);
}

/* The first few words in brackets that a template writes, or else how it begins. */
static void describe(const char *plain, char *text, size_t room)
{
    size_t used = 0;
    int n = 0;
    text[0] = '\0';
    for (const char *at = plain; (at = strpbrk(at, "<[")) != NULL && n < 5; at++) {
        size_t bytes = strcspn(at + 1, " '\n<>[](){}=") + 2;
        bool closed = at[bytes - 1] == (*at == '<' ? '>' : ']');
        if (!closed || bytes < 4 || bytes > 40 || isdigit((unsigned char)at[1])) continue;
        char word[48];
        (void)snprintf(word, sizeof word, "%.*s", (int)bytes, at);
        if (strstr(text, word) != NULL) continue;
        used += (size_t)snprintf(text + used, room - used, "%s%s", n++ == 0 ? "it writes " : ", ", word);
    }
    if (n == 0) (void)snprintf(text, room, "it begins with %.60s", plain);
    for (char *c = text; *c != '\0'; c++)
        if ((unsigned char)*c < ' ') *c = ' ';
}

static void take_row(qs_chat *out, const qs_chat_row *row)
{
    *out = (qs_chat){.row = row, .bos = row->bos, .has_system = row->system_default != NULL};
    if (out->has_system) (void)snprintf(out->system, sizeof out->system, "%s", row->system_default);
}

/* text: with escapes taken; plain: with one kind of quotes, too. */
static qs_err take_meant(qs_chat *out, const char *text, const char *plain, const char *where)
{
    const qs_chat_row *row = find_meant(plain);
    char found[256];
    if (row == NULL) {
        describe(text, found, sizeof found);
        return qs_fail(QS_E_UNSUPPORTED,
                       "--chat auto: the chat template of %s is none that is known: %s; say which it is like with "
                       "--chat NAME (qsweep-evaluate --list), or --chat none for plain prompts",
                       where, found);
    }
    take_row(out, row);
    out->bos = strstr(plain, "bos_token") != NULL;
    if (out->has_system || row->folds_system || find_system(out, text)) return QS_OK;
    return qs_fail(QS_E_UNSUPPORTED,
                   "--chat auto: the chat template of %s is like %s, with a system message of its own that is not "
                   "read; give --chat %s to go without it, or --chat none for plain prompts",
                   where, row->name, row->name);
}

static qs_err read_template(qs_chat *out, const char *template_text, const char *where)
{
    size_t bytes = strlen(template_text) + 1;
    char *text = NULL, *plain = NULL;
    qs_err err;
    QS_TRY(qs_mem_alloc(&text, bytes, "chat template"));
    QS_TRY(qs_mem_alloc(&plain, bytes, "chat template"));
    memcpy(text, template_text, bytes);
    take_escapes(text);
    memcpy(plain, text, strlen(text) + 1);
    for (char *c = plain; *c != '\0'; c++)
        if (*c == '"') *c = '\'';
    err = take_meant(out, text, plain, where);
out:
    qs_mem_free(text);
    qs_mem_free(plain);
    return err;
}

qs_err qs_chat_choose(qs_chat *out, const char *name, const char *template_text, const char *where)
{
    *out = (qs_chat){0};
    if (name == NULL || strcmp(name, "none") == 0) return QS_OK;
    if (strcmp(name, "auto") == 0) return template_text == NULL ? QS_OK : read_template(out, template_text, where);
    const qs_chat_row *row = find_name(name);
    if (row == NULL) {
        char names[512];
        list_names(names, sizeof names);
        return qs_fail(QS_E_USAGE, "--chat %s: there are none, auto%s", name, names);
    }
    take_row(out, row);
    return QS_OK;
}

/* ---- writing ---- */

typedef struct writer {
    FILE *stream; /* into out->text and out->bytes */
    qs_chat_text *out;
    const qs_chat *chat;
    const char *bos, *eos;
} writer;

/* A row's text, with the tokenizer's EOS where it says so. */
static void put_frame(const writer *w, const char *text)
{
    for (; *text != '\0'; text++) {
        if (*text == *QS_CHAT_EOS) (void)fputs(w->eos, w->stream);
        else (void)fputc(*text, w->stream);
    }
}

static void put_content(const writer *w, const char *text)
{
    qs_span *span = &w->out->contents[w->out->n_contents++];
    size_t bytes = strlen(text);
    if (w->chat->row->trims) {
        for (; bytes > 0 && isspace((unsigned char)text[bytes - 1]); bytes--) {}
        for (; bytes > 0 && isspace((unsigned char)*text); bytes--) text++;
    }
    (void)fflush(w->stream); /* out->bytes is then what was written */
    *span = (qs_span){w->out->bytes, w->out->bytes + bytes};
    (void)fwrite(text, 1, bytes, w->stream);
}

static void put_turn(const writer *w, const qs_chat_turn *turn, const char *text)
{
    put_frame(w, turn->before);
    put_content(w, text);
    put_frame(w, turn->after);
}

static void put_all(const writer *w, const qs_chat_message *messages, int64_t n)
{
    const qs_chat_row *row = w->chat->row;
    bool given = messages[0].role == QS_CHAT_SYSTEM;
    const char *system = given ? messages[0].text : w->chat->has_system ? w->chat->system : NULL;
    if (w->chat->bos) (void)fputs(w->bos, w->stream);
    if (system != NULL && !row->folds_system) put_turn(w, &row->system, system);
    for (int64_t i = given; i < n; i++) {
        if (messages[i].role == QS_CHAT_ASSISTANT) {
            put_turn(w, &row->assistant, messages[i].text);
            continue;
        }
        if (w->chat->bos && i > given && row->bos_again) (void)fputs(w->bos, w->stream);
        put_frame(w, row->user.before);
        if (i == given && system != NULL && row->folds_system) put_turn(w, &row->system, system);
        put_content(w, messages[i].text);
        put_frame(w, row->user.after);
    }
    put_frame(w, row->answer);
}

static qs_err check_order(const qs_chat_message *messages, int64_t n)
{
    int64_t first = n > 0 && messages[0].role == QS_CHAT_SYSTEM;
    bool good = n > first && (n - first) % 2 == 1;
    for (int64_t i = first; i < n; i++)
        good = good && messages[i].role == ((i - first) % 2 == 0 ? QS_CHAT_USER : QS_CHAT_ASSISTANT);
    return good ? QS_OK
                : qs_fail(QS_E_USAGE, "write chat: turns are a system's, if any, then a user's and an assistant's "
                          "in turn, the last a user's");
}

qs_err qs_chat_render(qs_chat_text *out, const qs_chat *chat, const char *bos, const char *eos,
                      const qs_chat_message *messages, int64_t n)
{
    char *kept = NULL;
    qs_err err;
    *out = (qs_chat_text){0};
    writer w = {.out = out, .chat = chat, .bos = bos, .eos = eos};
    QS_TRY(check_order(messages, n));
    QS_TRY(QS_NEW(out->contents, n + 1, "turns of a chat"));
    w.stream = open_memstream(&out->text, &out->bytes);
    if (w.stream == NULL) err = qs_fail(QS_E_RESOURCE, "write chat: out of memory");
    QS_TRY(err);
    put_all(&w, messages, n);
    if (fclose(w.stream) != 0) err = qs_fail(QS_E_RESOURCE, "write chat: out of memory");
    if (err == QS_OK) err = qs_mem_alloc(&kept, out->bytes + 1, "chat");
    if (err == QS_OK) memcpy(kept, out->text, out->bytes + 1);
    free(out->text);
    out->text = kept;
out:
    if (err != QS_OK) qs_chat_text_free(out);
    return err;
}

void qs_chat_text_free(qs_chat_text *text)
{
    qs_mem_free(text->text);
    qs_mem_free(text->contents);
    *text = (qs_chat_text){0};
}
