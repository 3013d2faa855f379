#include "metric/questions.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/rng.h"
#include "data/prompt.h"
#include "rag/retrieve.h"

/* ---- loading ---- */

typedef struct gold_files {
    char gold[QS_PATH_BYTES], corpus[QS_PATH_BYTES], longform[QS_PATH_BYTES];
    bool has_longform;
} gold_files;

/* What the chat makes of a conversation: rows and checkpoints' own system messages show in it. */
static qs_err add_chat(qs_questions *q)
{
    static const qs_chat_message asked[] = {{QS_CHAT_USER, "u"}},
                                 instructed[] = {{QS_CHAT_SYSTEM, "s"}, {QS_CHAT_USER, "u"}};
    qs_chat_text texts[2] = {0};
    qs_err err;
    QS_TRY(qs_chat_render(&texts[0], &q->chat, "bos", "eos", asked, 1));
    QS_TRY(qs_chat_render(&texts[1], &q->chat, "bos", "eos", instructed, 2));
    const qs_digest parts[] = {q->digest, qs_hash(texts[0].text, texts[0].bytes),
                               qs_hash(texts[1].text, texts[1].bytes)};
    q->digest = qs_hash(parts, sizeof parts);
out:
    qs_chat_text_free(&texts[0]);
    qs_chat_text_free(&texts[1]);
    return err;
}

/* Files' bytes and settings, one after another. */
static qs_err digest_of(qs_questions *q, const gold_files *files)
{
    const qs_question_options *o = &q->options;
    const char *const paths[] = {files->gold, files->corpus, files->longform};
    struct {
        qs_digest files[3], encoder;
        int64_t k, n_items, n_tokens_max, n_long_tokens, instruct, rerank;
    } parts = {.encoder = qs_encoder_digest(q->encoder),
               .k = o->k,
               .n_items = q->n_items,
               .n_tokens_max = o->n_tokens_max,
               .n_long_tokens = o->n_long_tokens,
               .instruct = o->instruct,
               .rerank = o->rerank};
    qs_err err = QS_OK;
    for (int i = 0; i < (files->has_longform ? 3 : 2); i++) {
        qs_file_map map;
        QS_TRY(qs_file_map_open(&map, paths[i]));
        parts.files[i] = qs_hash(map.data, map.bytes);
        qs_file_map_close(&map);
    }
    q->digest = qs_hash(&parts, sizeof parts);
    if (o->n_probe > 0) { /* digests without a probe stay what they were */
        const uint64_t both[] = {q->digest.low, q->digest.high, (uint64_t)o->n_probe};
        q->digest = qs_hash(both, sizeof both);
    }
    if (q->chat.row != NULL) QS_TRY(add_chat(q)); /* nor do those of plain prompts change */
out:
    return err;
}

static qs_err find_files(const qs_question_options *o, gold_files *files)
{
    qs_err err;
    bool dir = qs_path_is_dir(o->gold);
    if (!dir && !qs_file_exists(o->gold))
        return qs_fail(QS_E_INPUT, "open %s: No such file or directory; --qa takes a gold set", o->gold);
    if (!dir && o->corpus == NULL)
        return qs_fail(QS_E_USAGE, "--qa %s: a file needs --corpus FILE; or give a directory with gold.jsonl and "
                       "corpus.jsonl", o->gold);
    QS_TRY(qs_path_format(files->gold, dir ? "%s/gold.jsonl" : "%s", o->gold));
    QS_TRY(qs_path_format(files->longform, "%s/longform.jsonl", o->gold));
    files->has_longform = dir && qs_file_exists(files->longform);
    if (o->corpus != NULL) QS_TRY(qs_path_format(files->corpus, "%s", o->corpus));
    else QS_TRY(qs_path_format(files->corpus, "%s/corpus.jsonl", o->gold));
out:
    return err;
}

static qs_err open_encoder(qs_questions *q)
{
    const qs_question_options *o = &q->options;
    char **documents;
    qs_err err = qs_documents_make(&documents, &q->set);
    if (err != QS_OK) return err;
    qs_encoder_options options = {.documents = (const char *const *)documents, .n_documents = q->set.n_snippets,
                                  .directory = o->encoder_dir, .n_threads = o->n_threads,
                                  .model = o->model, .backend = o->backend};
    err = qs_encoder_open(&q->encoder, o->encoder != NULL ? o->encoder : "tfidf", &options);
    qs_documents_free(documents, q->set.n_snippets);
    return err != QS_OK || o->keep_dir == NULL ? err : qs_encoder_recall(q->encoder, o->keep_dir);
}

void qs_questions_limit(qs_questions *q, int64_t n)
{
    q->n_items = n < q->n_items ? n : q->n_items;
    q->n_prompts = q->n_items * QS_WORDINGS;
    q->n_runs = q->n_items * QS_RUNS_PER_ITEM;
    q->n_longforms = n < q->n_longforms ? n : q->n_longforms;
}

qs_err qs_questions_load(qs_questions *out, const qs_question_options *options)
{
    gold_files files;
    qs_err err;
    *out = (qs_questions){.options = *options, .serving = qs_serving_plain};
    QS_TRY(find_files(options, &files));
    QS_TRY(qs_goldset_load(&out->set, files.gold, files.corpus, files.has_longform ? files.longform : NULL));
    out->n_items = out->set.n_items;
    out->n_longforms = out->set.n_longforms;
    qs_questions_limit(out, options->n_items > 0 ? options->n_items : out->set.n_items);
    if (options->k < 1 || options->k > QS_QUESTION_SNIPPETS_MAX || options->k > out->set.n_snippets)
        err = qs_fail(QS_E_USAGE, "--k %lld: it is 1 to %d, and the corpus has %lld snippets", (long long)options->k,
                      QS_QUESTION_SNIPPETS_MAX, (long long)out->set.n_snippets);
    QS_TRY(err);
    if (options->model != NULL) QS_TRY(qs_model_choose_chat(&out->chat, options->chat, options->model));
    QS_TRY(open_encoder(out));
    err = digest_of(out, &files);
out:
    if (err != QS_OK) qs_questions_free(out);
    return err;
}

void qs_questions_free(qs_questions *questions)
{
    qs_encoder_destroy(questions->encoder);
    qs_goldset_free(&questions->set);
    *questions = (qs_questions){0};
}

/* ---- runs ---- */

qs_question_run qs_questions_run(int64_t run)
{
    int64_t item = run / QS_RUNS_PER_ITEM, at = run % QS_RUNS_PER_ITEM;
    qs_question_run r = {.item = item, .seed = QS_GREEDY};
    if (at > 0) { /* behind the question: each paraphrase greedily, then with its seeds */
        r.wording = 1 + (at - 1) / (1 + QS_SEEDS);
        r.seed = (int)((at - 1) % (1 + QS_SEEDS)) - 1;
    }
    r.prompt = item * QS_WORDINGS + r.wording;
    return r;
}

const char *qs_questions_text(const qs_questions *q, int64_t prompt)
{
    const qs_gold_item *item = &q->set.items[prompt / QS_WORDINGS];
    int64_t wording = prompt % QS_WORDINGS;
    return wording == 0 ? item->question : item->paraphrases[wording - 1];
}

const char *qs_questions_chat(const qs_questions *q) { return q->chat.row != NULL ? q->chat.row->name : "none"; }

int64_t qs_questions_tokens_max(const qs_questions *q)
{
    return q->serving.n_tokens_max > 0 ? q->serving.n_tokens_max : q->options.n_tokens_max;
}

uint64_t qs_questions_key(const qs_questions *q, const qs_question_run *run, uint64_t seed)
{
    const char *qid = q->set.items[run->item].qid;
    qs_digest digest = qs_hash(qid, strlen(qid));
    uint64_t key = qs_rng_u64(seed, digest.low);
    return qs_rng_u64(key, (uint64_t)(run->wording * QS_SEEDS + run->seed));
}

/* ---- prompts ---- */

qs_err qs_prompts_init(qs_prompts *out, int64_t n)
{
    *out = (qs_prompts){.n = n};
    return QS_NEW(out->lists, n, "prompts");
}

void qs_prompts_fit(qs_prompts *prompts, int64_t n_tokens_max)
{
    int64_t longest = 0;
    for (int64_t i = 0; i < prompts->n; i++)
        if (prompts->lists[i].n > longest) longest = prompts->lists[i].n;
    prompts->n_ctx = longest + n_tokens_max;
}

void qs_prompts_free(qs_prompts *prompts)
{
    for (int64_t i = 0; prompts->lists != NULL && i < prompts->n; i++) qs_token_list_free(&prompts->lists[i]);
    qs_mem_free(prompts->lists);
    *prompts = (qs_prompts){0};
}

static qs_err plain_prompt(const qs_tokenizer *tokenizer, const qs_prompt *prompt, qs_token_list *list)
{
    char *text = NULL;
    qs_err err;
    QS_TRY(qs_prompt_build(&text, prompt));
    QS_TRY(qs_tokenizer_begin(tokenizer, list));
    QS_TRY(qs_tokenizer_encode(tokenizer, text, strlen(text), false, list));
out:
    qs_mem_free(text);
    return err;
}

/* The instruction is the system's turn, the rest the user's; the answer stands behind the assistant's head. */
static qs_err chat_prompt(const qs_chat *chat, const qs_tokenizer *tokenizer, const qs_prompt *prompt,
                          qs_token_list *list)
{
    char *text = NULL;
    qs_err err;
    QS_TRY(qs_prompt_content(&text, prompt));
    const qs_chat_message messages[] = {{QS_CHAT_SYSTEM, prompt->instruction}, {QS_CHAT_USER, text}};
    int64_t first = prompt->instruction == NULL;
    QS_TRY(qs_chat_encode(chat, tokenizer, messages + first, 2 - first, list));
out:
    qs_mem_free(text);
    return err;
}

/* The tokens of a prompt over snippets[n]. */
static qs_err one_prompt(const qs_questions *q, const qs_tokenizer *tokenizer, const int64_t *snippets, int64_t n,
                         qs_prompt prompt, qs_token_list *list)
{
    qs_prompt_snippet *parts = NULL;
    qs_err err;
    QS_TRY(QS_NEW(parts, n, "snippets of a prompt"));
    for (int64_t i = 0; i < n; i++) {
        const qs_gold_snippet *s = &q->set.snippets[snippets[i]];
        parts[i] = (qs_prompt_snippet){.id = s->id, .header = s->header, .text = s->text};
    }
    prompt.snippets = parts;
    prompt.n_snippets = n;
    err = q->chat.row != NULL ? chat_prompt(&q->chat, tokenizer, &prompt, list)
                              : plain_prompt(tokenizer, &prompt, list);
out:
    qs_mem_free(parts);
    return err;
}

qs_err qs_questions_prompt(const qs_questions *q, const qs_tokenizer *tokenizer, int64_t i, const int64_t *snippets,
                           int64_t n_snippets, qs_token_list *list)
{
    qs_prompt prompt = {.instruction = q->options.instruct ? qs_prompt_instruction : NULL,
                        .headers = q->serving.headers,
                        .shuffle_seed = qs_rng_u64(q->serving.header_seed, (uint64_t)i),
                        .question = qs_questions_text(q, i)};
    return one_prompt(q, tokenizer, snippets, n_snippets, prompt, list);
}

qs_err qs_questions_prompts(qs_prompts *out, const qs_questions *q, const qs_tokenizer *tokenizer,
                            const int64_t *ranked)
{
    int64_t k = q->options.k;
    qs_err err;
    QS_TRY(qs_prompts_init(out, q->n_prompts));
    for (int64_t i = 0; i < out->n; i++)
        QS_TRY(qs_questions_prompt(q, tokenizer, i, ranked + i * k, k, &out->lists[i]));
    qs_prompts_fit(out, qs_questions_tokens_max(q));
out:
    if (err != QS_OK) qs_prompts_free(out);
    return qs_context(err, "build prompts");
}

static int compare_places(const void *a, const void *b, void *set)
{
    const qs_gold_snippet *snippets = ((const qs_goldset *)set)->snippets;
    return qs_snippet_compare(&snippets[*(const int64_t *)a], &snippets[*(const int64_t *)b]);
}

void qs_questions_order(const qs_questions *q, qs_snippet_order order, int64_t *snippets, int64_t n)
{
    if (order == QS_ORDER_PLACE) qsort_r(snippets, (size_t)n, sizeof *snippets, compare_places, (void *)&q->set);
    for (int64_t i = 0; order == QS_ORDER_REVERSED && i < n / 2; i++) {
        int64_t held = snippets[i];
        snippets[i] = snippets[n - 1 - i];
        snippets[n - 1 - i] = held;
    }
}

qs_err qs_questions_long_prompts(qs_prompts *out, const qs_questions *q, const qs_tokenizer *tokenizer,
                                 qs_snippet_order order, int64_t n_tokens)
{
    int64_t *snippets = NULL;
    qs_err err;
    QS_TRY(qs_prompts_init(out, q->n_longforms));
    for (int64_t i = 0; i < out->n; i++) {
        const qs_gold_longform *longform = &q->set.longforms[i];
        qs_prompt prompt = {.question = longform->question}; /* no JSON is asked for */
        qs_mem_free(snippets);
        QS_TRY(QS_NEW(snippets, longform->n_snippets, "snippets of a prompt"));
        memcpy(snippets, longform->snippets, (size_t)longform->n_snippets * sizeof *snippets);
        qs_questions_order(q, order, snippets, longform->n_snippets);
        QS_TRY(one_prompt(q, tokenizer, snippets, longform->n_snippets, prompt, &out->lists[i]));
    }
    qs_prompts_fit(out, n_tokens);
out:
    qs_mem_free(snippets);
    if (err != QS_OK) qs_prompts_free(out);
    return qs_context(err, "build prompts");
}
