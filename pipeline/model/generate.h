/* Generating: many runs over a few prompts through one decoder. A decoder's sequences work side by side, and one that
 * has finished takes the next run; since a sequence's logits do not depend on what shares its step, neither the size of
 * the batch nor the order of the runs changes a token. Runs of one prompt compute it once. Tokens are chosen, and
 * statistics taken, where the logits are: what comes to the host is a few numbers per step. */
#ifndef QS_MODEL_GENERATE_H
#define QS_MODEL_GENERATE_H

#include "model/forward.h"
#include "model/tokenizer.h"

typedef enum qs_stop {
    QS_STOP_EOS,       /* the model ended the text */
    QS_STOP_LINE,      /* it ended the line */
    QS_STOP_LIMIT,     /* n_tokens_max, or the end of what is forced */
    QS_STOP_NONFINITE, /* a logit was not finite */
    QS_N_STOPS
} qs_stop;
const char *qs_stop_name(qs_stop stop); /* "eos" */

typedef enum qs_ending {
    QS_ENDS_LINE,  /* EOS, a stop, or the first token with a line end in it, which stays */
    QS_ENDS_NEVER, /* always n_tokens_max tokens: EOS is not chosen */
} qs_ending;

typedef struct qs_generate_run {
    int64_t prompt;     /* index; runs of one prompt should stand side by side */
    double temperature; /* 0 = greedy */
    double clamp;       /* logits are multiplied by exp(-clamp * their standard deviation) first; 0 = as they are */
    uint64_t key;       /* of its random numbers */
    const qs_token_list *forced; /* what it is made to take, at most n_tokens_max and at least one; NULL = it chooses */
} qs_generate_run;

/* What the logits say that a step chooses from. */
typedef struct qs_generate_look {
    double lse;    /* ln sum exp of the logits */
    float nll;     /* -ln p of the token taken; of token 0 where none could be */
    float entropy; /* nats; only with want_entropy */
} qs_generate_look;

/* Called at each step of a run, step 0 choosing from the prompt's last logits. */
typedef struct qs_generate_watch {
    qs_err (*see)(void *context, int64_t run, int64_t step, const qs_generate_look *look); /* NULL = nobody watches */
    void *context;
    bool want_entropy;
} qs_generate_watch;

/* Tokens that end a text beside the tokenizer's EOS. */
enum { QS_STOPS_MAX = 4 };
typedef struct qs_stops {
    int32_t n, ids[QS_STOPS_MAX];
} qs_stops;

typedef struct qs_generate_job {
    qs_decoder *decoder;
    const qs_tokenizer *tokenizer;
    const qs_token_list *prompts; /* [n_prompts], none empty */
    int64_t n_prompts;
    const qs_generate_run *runs; /* [n_runs] */
    int64_t n_runs, n_tokens_max;
    qs_ending ending;
    qs_stops stops; /* of QS_ENDS_LINE */
    qs_generate_watch watch;
} qs_generate_job;

typedef struct qs_generation {
    int32_t *tokens; /* [n_tokens], without EOS or the stop */
    int64_t n_tokens;
    qs_stop stop;
} qs_generation;

/* out [n_runs], zeroed by the caller and freed with qs_generations_free, also after failure. QS_E_USAGE when a prompt
 * with n_tokens_max tokens behind it does not fit the decoder. */
QS_MUST_CHECK qs_err qs_generate(const qs_generate_job *job, qs_generation *out);
void qs_generations_free(qs_generation *generations, int64_t n);

#endif
