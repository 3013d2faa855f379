/* Entropy wording by wording (checklist B15: stable on 3 paraphrases): how sure a configuration is along the
 * reference's own greedy answer to every wording of a question, over the reference's prompt. Reference and
 * candidate take the same tokens behind the same prompt, so that their curves are paired step by step
 * (docs/entropy.md). */
#ifndef QS_METRIC_WORDING_ENTROPY_H
#define QS_METRIC_WORDING_ENTROPY_H

#include "metric/quality.h"
#include "metric/questions.h"

typedef struct qs_wordings {
    int64_t n_prompts; /* items times QS_WORDINGS, as prompts of questions are */
    int64_t n_steps;   /* tokens of the longest answer, at least 1 */
    int32_t *tokens;   /* [n_prompts, n_steps] the reference's answer; -1 behind its end */
    float *entropy;    /* [n_prompts, n_steps] nats along it; NaN behind its end */
} qs_wordings;

/* Watches the reference answer, so that nothing is computed again: the greedy runs of qs_answers_generate. */
typedef struct qs_wordings_watch {
    float *entropy; /* [n_prompts, n_steps] nats, as far as the answers go */
    int64_t n_prompts, n_steps;
} qs_wordings_watch;
/* n_steps: tokens that an answer may have. */
QS_MUST_CHECK qs_err qs_wordings_watch_init(qs_wordings_watch *out, int64_t n_prompts, int64_t n_steps);
/* For a job whose runs are those of qs_questions_run; it fails with QS_E_NUMERIC, naming prompt and step. */
qs_generate_watch qs_wordings_watch_of(qs_wordings_watch *watch);
/* generations [n_runs]: what that job made. */
QS_MUST_CHECK qs_err qs_wordings_take(qs_wordings *out, const qs_wordings_watch *watch,
                                      const qs_generation *generations);
void qs_wordings_watch_fini(qs_wordings_watch *watch);

/* prompts: each with room for n_steps more in the decoder, of any batch. A configuration is forced along the
 * reference's answers to its first n_prompts prompts. QS_E_INPUT when there are fewer, or tokens that are none
 * of the vocabulary. */
QS_MUST_CHECK qs_err qs_wordings_follow(qs_wordings *out, qs_decoder *decoder, const qs_tokenizer *tokenizer,
                                        const qs_token_list *prompts, int64_t n_prompts,
                                        const qs_wordings *reference);
void qs_wordings_free(qs_wordings *wordings);

/* Tokens of a prompt's answer. */
int64_t qs_wordings_length(const qs_wordings *wordings, int64_t prompt);

/* Mean entropy along a prompt's answer; NaN when it is empty. */
double qs_wordings_mean(const qs_wordings *wordings, int64_t prompt);

/* Steps that at least half of the answers to a wording reach: the length of its mean curve. */
int64_t qs_wordings_reach(const qs_wordings *wordings, int64_t wording);
/* mean [n_steps]: the mean over those of the first n_items whose answer to the wording reaches a step, each
 * counted counts[item] times (NULL = once); where none does, the value before it. */
void qs_wordings_curve(const qs_wordings *wordings, int64_t n_items, int64_t wording, const int32_t *counts,
                       int64_t n_steps, double *mean);

/* stable [n_prompts]: whether a single answer's curve is stable; -1 for an empty answer. */
QS_MUST_CHECK qs_err qs_wordings_stable(const qs_wordings *own, const qs_wordings *reference,
                                        int32_t *stable);

/* entropy_paraphrase_1 to _3, the mean curves of the paraphrases held against the reference's;
 * entropy_paraphrases and entropy_paraphrases_rms, the worst of them. QS_E_INPUT when the reference has fewer
 * prompts or other lengths. */
QS_MUST_CHECK qs_err qs_wordings_metrics(const qs_wordings *own, const qs_wordings *reference, uint64_t seed,
                                         qs_metric_sink put, void *context);

/* /wordings of an eval artifact; stable [n_prompts] or NULL. Reading checks shapes: QS_E_INPUT. */
QS_MUST_CHECK qs_err qs_wordings_put(qs_artifact *artifact, const qs_wordings *wordings,
                                     const int32_t *stable);
QS_MUST_CHECK qs_err qs_wordings_read(qs_wordings *out, const qs_artifact *artifact);

#endif
