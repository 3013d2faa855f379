/* The options of qsweep-evaluate, and what they ask of an evaluation. */
#ifndef QS_STAGES_EVALUATE_OPTIONS_H
#define QS_STAGES_EVALUATE_OPTIONS_H

#include "base/args.h"
#include "metric/evaluation.h"

/* As they were given; the rows of main in evaluate.c say what each means. NULL or 0 = not given, where there is no
 * default. */
typedef struct stage_evaluate_options {
    qs_common_args common;
    const char *model, *text, *protocol, *tasks, *dump, *baseline, *compute, *out, *device_map, *vram_budget, *embed;
    qs_question_options questions;
    qs_serving serving;
    const char *headers, *fix, *fix_text, *race;
    int64_t header_seed;
    bool no_rerank, quick, keep_going;
    qs_arg_list quants, checkpoints;
    int64_t n_ctx, n_windows;
    int n_threads;
    int argc;
    char **argv;
} stage_evaluate_options;

/* Fills what names and numbers of the options stand for: tasks, serving, fixes, dumps, compute, map; and the protocol
 * of the windows. QS_E_USAGE for a name that there is not, and for options that do not go together. */
QS_MUST_CHECK qs_err stage_evaluate_read(const stage_evaluate_options *opt, qs_eval_options *out,
                                         const qs_protocol **protocol);

#endif
