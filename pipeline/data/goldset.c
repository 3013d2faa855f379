#include "data/goldset.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "data/prompt.h"

static const size_t file_limit_bytes = (size_t)64 << 20;

static const char *const band_names[QS_GOLD_N_BANDS] = {"easy", "medium", "hard"};

const char *qs_gold_band_name(qs_gold_band band) { return band_names[band]; }

/* What is known while the files are read: names as sets and as maps to an index. */
typedef struct reader {
    qs_goldset *set;
    json_t *snippets, *sections;    /* snippet_id and section_id -> index of the (first) snippet */
    json_t *qids, *wordings;        /* seen */
    char where[QS_PATH_BYTES + 32]; /* "FILE line N" */
} reader;

static qs_err refuse(const reader *r, const char *cause, const char *object)
{
    return qs_fail(QS_E_INPUT, "read %s: %s \"%.200s\"", r->where, cause, object);
}

static int64_t find(const json_t *map, const char *name)
{
    const json_t *index = json_object_get(map, name);
    return index != NULL ? json_integer_value(index) : -1;
}

/* `what` names the kind of thing in the error when `name` was there before. */
static qs_err add_unique(const reader *r, json_t *map, const char *name, int64_t index, const char *what)
{
    if (json_object_get(map, name) != NULL) return refuse(r, what, name);
    if (json_object_set_new(map, name, json_integer(index)) != 0)
        return qs_fail(QS_E_RESOURCE, "read %s: out of memory", r->where);
    return QS_OK;
}

/* Exactly these members, and no others. */
static qs_err check_members(const reader *r, const json_t *object, const char *const *members, size_t n)
{
    const char *key;
    json_t *value;
    if (!json_is_object(object)) return qs_fail(QS_E_INPUT, "read %s: the line is no JSON object", r->where);
    json_object_foreach ((json_t *)object, key, value) {
        bool known = false;
        for (size_t i = 0; i < n; i++) known |= strcmp(key, members[i]) == 0;
        if (!known) return refuse(r, "there is no member", key);
    }
    return QS_OK;
}

/* A string of at least one visible character and one line. */
static qs_err get_text(const char **out, const reader *r, const json_t *object, const char *key)
{
    qs_err err = qs_json_get_string(out, object, key, r->where);
    if (err != QS_OK) return err;
    if (strspn(*out, " \t") == strlen(*out)) return refuse(r, "nothing in", key);
    if (strpbrk(*out, "\r\n") != NULL) return refuse(r, "a line end in", key);
    return QS_OK;
}

static int64_t count_words(const char *text)
{
    int64_t n = 0;
    for (const char *at = text; *at != '\0';) {
        at += strspn(at, " \t");
        n += *at != '\0';
        at += strcspn(at, " \t");
    }
    return n;
}

static bool in_word(char c) { return isalnum((unsigned char)c) || (unsigned char)c >= 0x80; }

/* Whether bytes [start, end) of the text hold the claim as words of their own: "14" is not in "2014". */
static bool holds(const char *text, int64_t start, int64_t end, const char *claim)
{
    int64_t length = (int64_t)strlen(claim);
    for (const char *at = text + start; (at = strstr(at, claim)) != NULL && at - text + length <= end; at++)
        if ((at == text || !in_word(at[-1]) || !in_word(claim[0])) &&
            (!in_word(at[length]) || !in_word(claim[length - 1])))
            return true;
    return false;
}

static qs_err read_snippet(reader *r, const json_t *line, int64_t index)
{
    static const char *const members[] = {"snippet_id", "section_id", "source_url", "header", "start",
                                          "end",        "tokens",     "rev",        "text"};
    qs_gold_snippet *s = &r->set->snippets[index];
    qs_err err;
    QS_TRY(check_members(r, line, members, sizeof members / sizeof *members));
    QS_TRY(get_text(&s->id, r, line, "snippet_id"));
    QS_TRY(get_text(&s->section, r, line, "section_id"));
    QS_TRY(get_text(&s->source_url, r, line, "source_url"));
    QS_TRY(get_text(&s->header, r, line, "header"));
    QS_TRY(get_text(&s->rev, r, line, "rev"));
    QS_TRY(get_text(&s->text, r, line, "text"));
    QS_TRY(qs_json_get_int(&s->start, line, "start", 0, INT64_C(1) << 40, r->where));
    QS_TRY(qs_json_get_int(&s->end, line, "end", 0, INT64_C(1) << 40, r->where));
    QS_TRY(qs_json_get_int(&s->n_tokens, line, "tokens", 1, INT64_C(1) << 40, r->where));
    if (s->end - s->start != (int64_t)strlen(s->text))
        return qs_fail(QS_E_INPUT, "read %s: snippet %s has %lld bytes from start to end, its text has %zu",
                       r->where, s->id, (long long)(s->end - s->start), strlen(s->text));
    if (s->n_tokens != count_words(s->text))
        return qs_fail(QS_E_INPUT, "read %s: snippet %s says %lld tokens, its text has %lld words", r->where,
                       s->id, (long long)s->n_tokens, (long long)count_words(s->text));
    QS_TRY(add_unique(r, r->snippets, s->id, index, "a second snippet"));
    int64_t first = find(r->sections, s->section);
    if (first < 0) QS_TRY(add_unique(r, r->sections, s->section, index, "a second section"));
    for (int64_t i = first < 0 ? index : first; i < index; i++) {
        const qs_gold_snippet *other = &r->set->snippets[i];
        if (strcmp(other->section, s->section) != 0) continue;
        if (strcmp(other->source_url, s->source_url) != 0)
            return refuse(r, "another source_url in section", s->section);
        if (other->start < s->end && s->start < other->end)
            return qs_fail(QS_E_INPUT, "read %s: snippets %s and %s overlap", r->where, other->id, s->id);
    }
out:
    return err;
}

/* A null anchor leaves -1. */
static qs_err read_anchor(const reader *r, qs_gold_item *item, const json_t *line)
{
    static const char *const members[] = {"snippet_id", "start", "end"};
    const json_t *anchor = json_object_get(line, "anchor");
    const char *id;
    item->anchor = -1;
    if (anchor == NULL) return refuse(r, "the key is missing:", "anchor");
    if (json_is_null(anchor)) {
        return item->answerable
                   ? qs_fail(QS_E_INPUT, "read %s: an answerable question has no anchor", r->where)
                   : QS_OK;
    }
    if (!item->answerable)
        return qs_fail(QS_E_INPUT, "read %s: an unanswerable question has an anchor", r->where);
    qs_err err;
    QS_TRY(check_members(r, anchor, members, 3));
    QS_TRY(get_text(&id, r, anchor, "snippet_id"));
    QS_TRY(qs_json_get_int(&item->anchor_start, anchor, "start", 0, INT64_C(1) << 40, r->where));
    QS_TRY(qs_json_get_int(&item->anchor_end, anchor, "end", 0, INT64_C(1) << 40, r->where));
    item->anchor = find(r->snippets, id);
    if (item->anchor < 0) return refuse(r, "the anchor's snippet is not in the corpus:", id);
    const qs_gold_snippet *s = &r->set->snippets[item->anchor];
    if (strcmp(s->section, item->target_section) != 0)
        return refuse(r, "the anchor lies outside the target section, in", s->section);
    if (item->anchor_start < s->start || item->anchor_end > s->end || item->anchor_start >= item->anchor_end)
        return qs_fail(QS_E_INPUT,
                       "read %s: the anchor %lld to %lld lies outside its snippet %s, %lld to %lld", r->where,
                       (long long)item->anchor_start, (long long)item->anchor_end, s->id, (long long)s->start,
                       (long long)s->end);
    if (!holds(s->text, item->anchor_start - s->start, item->anchor_end - s->start, item->answer))
        return refuse(r, "the anchor does not hold the answer", item->answer);
out:
    return err;
}

/* The decoy is like the target but must not answer the question. */
static qs_err check_decoy(const reader *r, const qs_gold_item *item)
{
    if (find(r->sections, item->target_section) < 0)
        return refuse(r, "target_section is not in the corpus:", item->target_section);
    int64_t first = find(r->sections, item->decoy_section);
    if (first < 0) return refuse(r, "decoy_section is not in the corpus:", item->decoy_section);
    if (strcmp(item->decoy_section, item->target_section) == 0)
        return refuse(r, "the decoy is the target section", item->decoy_section);
    for (int64_t i = first; item->answerable && i < r->set->n_snippets; i++) {
        const qs_gold_snippet *s = &r->set->snippets[i];
        if (strcmp(s->section, item->decoy_section) == 0 &&
            holds(s->text, 0, s->end - s->start, item->answer))
            return qs_fail(QS_E_INPUT, "read %s: the decoy section %s holds the answer \"%s\", in snippet %s",
                           r->where, item->decoy_section, item->answer, s->id);
    }
    return QS_OK;
}

static qs_err read_band(const reader *r, qs_gold_item *item, const json_t *line)
{
    const char *name;
    qs_err err = get_text(&name, r, line, "band");
    if (err != QS_OK) return err;
    for (int i = 0; i < QS_GOLD_N_BANDS; i++) {
        item->band = (qs_gold_band)i;
        if (strcmp(name, band_names[i]) == 0) return QS_OK;
    }
    return refuse(r, "band is none of easy, medium, hard:", name);
}

static qs_err read_item(reader *r, const json_t *line, int64_t index)
{
    static const char *const members[] = {"qid",           "question",   "paraphrases",
                                          "answer",        "answerable", "target_section",
                                          "decoy_section", "anchor",     "band"};
    qs_gold_item *item = &r->set->items[index];
    const json_t *answerable = json_object_get(line, "answerable"),
                 *paraphrases = json_object_get(line, "paraphrases");
    qs_err err;
    QS_TRY(check_members(r, line, members, sizeof members / sizeof *members));
    QS_TRY(get_text(&item->qid, r, line, "qid"));
    QS_TRY(add_unique(r, r->qids, item->qid, index, "a second item with qid"));
    QS_TRY(get_text(&item->question, r, line, "question"));
    QS_TRY(add_unique(r, r->wordings, item->question, index, "this wording was there before:"));
    if (!json_is_array(paraphrases) || json_array_size(paraphrases) != QS_GOLD_PARAPHRASES)
        return qs_fail(QS_E_INPUT, "read %s: \"paraphrases\" must be a list of %d texts", r->where,
                       QS_GOLD_PARAPHRASES);
    for (size_t i = 0; i < QS_GOLD_PARAPHRASES; i++) {
        item->paraphrases[i] = json_string_value(json_array_get(paraphrases, i));
        if (item->paraphrases[i] == NULL || item->paraphrases[i][0] == '\0')
            return qs_fail(QS_E_INPUT, "read %s: paraphrase %zu is no text", r->where, i);
        QS_TRY(add_unique(r, r->wordings, item->paraphrases[i], index, "this wording was there before:"));
    }
    if (!json_is_boolean(answerable))
        return qs_fail(QS_E_INPUT, "read %s: \"answerable\" must be true or false", r->where);
    item->answerable = json_is_true(answerable);
    QS_TRY(get_text(&item->answer, r, line, "answer"));
    if (!item->answerable && strcmp(item->answer, QS_ANSWER_UNKNOWN) != 0)
        return refuse(r, "the answer of an unanswerable question must be \"" QS_ANSWER_UNKNOWN "\", not",
                      item->answer);
    QS_TRY(get_text(&item->target_section, r, line, "target_section"));
    QS_TRY(get_text(&item->decoy_section, r, line, "decoy_section"));
    QS_TRY(check_decoy(r, item));
    QS_TRY(read_anchor(r, item, line));
    QS_TRY(read_band(r, item, line));
out:
    return err;
}

static qs_err read_longform(reader *r, const json_t *line, int64_t index)
{
    static const char *const members[] = {"qid", "question", "snippets"};
    qs_gold_longform *form = &r->set->longforms[index];
    const json_t *list = json_object_get(line, "snippets");
    qs_err err;
    QS_TRY(check_members(r, line, members, 3));
    QS_TRY(get_text(&form->qid, r, line, "qid"));
    QS_TRY(add_unique(r, r->qids, form->qid, index, "a second item with qid"));
    QS_TRY(get_text(&form->question, r, line, "question"));
    if (json_array_size(list) == 0)
        return qs_fail(QS_E_INPUT, "read %s: \"snippets\" must be a list of snippet ids", r->where);
    form->n_snippets = (int64_t)json_array_size(list);
    QS_TRY(QS_NEW(form->snippets, form->n_snippets, "snippets of a long form"));
    for (int64_t i = 0; i < form->n_snippets; i++) {
        const char *id = json_string_value(json_array_get(list, (size_t)i));
        form->snippets[i] = id != NULL ? find(r->snippets, id) : -1;
        if (form->snippets[i] < 0)
            return refuse(r, "the snippet is not in the corpus:", id != NULL ? id : "(no text)");
        for (int64_t j = 0; j < i; j++)
            if (form->snippets[j] == form->snippets[i]) return refuse(r, "the snippet is named twice:", id);
    }
out:
    return err;
}

/* Calls `read` for every line that is not blank; the parsed lines live as long as the set. With read == NULL
 * counts them only. */
static qs_err each_line(reader *r, const qs_gold_text *file, int64_t *n,
                        qs_err (*read)(reader *, const json_t *, int64_t))
{
    const char *at = file->text, *end = file->text + file->bytes;
    *n = 0;
    for (int64_t number = 1; at < end; number++) {
        const char *stop = memchr(at, '\n', (size_t)(end - at));
        if (stop == NULL) stop = end;
        size_t bytes = (size_t)(stop - at), blank = 0;
        while (blank < bytes && strchr(" \t\r", at[blank]) != NULL && at[blank] != '\0') blank++;
        if (blank < bytes && read != NULL) {
            json_t *line;
            (void)snprintf(r->where, sizeof r->where, "%.900s line %lld", file->name, (long long)number);
            qs_err err = qs_json_parse(&line, at, bytes, r->where);
            if (err != QS_OK) return err;
            if (json_array_append_new(r->set->lines, line) != 0)
                return qs_fail(QS_E_RESOURCE, "read %s: out of memory", r->where);
            err = read(r, line, *n);
            if (err != QS_OK) return err;
        }
        *n += blank < bytes;
        at = stop + 1;
    }
    return *n > 0 ? QS_OK : qs_fail(QS_E_INPUT, "read %s: there is no line in it", file->name);
}

qs_err qs_goldset_parse(qs_goldset *out, const qs_gold_text *gold, const qs_gold_text *corpus,
                        const qs_gold_text *longform)
{
    reader r = {.set = out,
                .snippets = json_object(),
                .sections = json_object(),
                .qids = json_object(),
                .wordings = json_object()};
    qs_err err;
    *out = (qs_goldset){.lines = json_array()};
    QS_TRY(each_line(&r, corpus, &out->n_snippets, NULL));
    QS_TRY(each_line(&r, gold, &out->n_items, NULL));
    if (longform != NULL) QS_TRY(each_line(&r, longform, &out->n_longforms, NULL));
    QS_TRY(QS_NEW(out->snippets, out->n_snippets, "snippets"));
    QS_TRY(QS_NEW(out->items, out->n_items, "gold items"));
    QS_TRY(QS_NEW(out->longforms, out->n_longforms, "long forms"));
    int64_t n_read; /* the counts stay what was allocated, for qs_goldset_free */
    QS_TRY(each_line(&r, corpus, &n_read, read_snippet));
    QS_TRY(each_line(&r, gold, &n_read, read_item));
    if (longform != NULL) QS_TRY(each_line(&r, longform, &n_read, read_longform));
out:
    json_decref(r.snippets);
    json_decref(r.sections);
    json_decref(r.qids);
    json_decref(r.wordings);
    if (err != QS_OK) qs_goldset_free(out);
    return err;
}

qs_err qs_goldset_load(qs_goldset *out, const char *gold_path, const char *corpus_path,
                       const char *longform_path)
{
    const char *paths[] = {gold_path, corpus_path, longform_path};
    qs_gold_text texts[3] = {{0}};
    char *owned[3] = {NULL};
    qs_err err = QS_OK;
    *out = (qs_goldset){0};
    for (int i = 0; i < 3 && err == QS_OK; i++) {
        if (paths[i] == NULL) continue;
        texts[i].name = paths[i];
        err = qs_file_read(&owned[i], &texts[i].bytes, paths[i], file_limit_bytes);
        texts[i].text = owned[i];
    }
    if (err == QS_OK)
        err = qs_goldset_parse(out, &texts[0], &texts[1], longform_path != NULL ? &texts[2] : NULL);
    for (int i = 0; i < 3; i++) qs_mem_free(owned[i]);
    return err;
}

void qs_goldset_free(qs_goldset *set)
{
    for (int64_t i = 0; set->longforms != NULL && i < set->n_longforms; i++)
        qs_mem_free(set->longforms[i].snippets);
    qs_mem_free(set->snippets);
    qs_mem_free(set->items);
    qs_mem_free(set->longforms);
    json_decref(set->lines);
    *set = (qs_goldset){0};
}
