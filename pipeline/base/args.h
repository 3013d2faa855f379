/* Command line: one table of options per stage; parsing, --help and defaults come from the rows.
 *
 * Long options only, "--name value" or "--name=value"; "--" ends them; the rest are positional. Misuse is
 * QS_E_USAGE. */
#ifndef QS_BASE_ARGS_H
#define QS_BASE_ARGS_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "base/error.h"

#define QS_VERSION "0.1.0"

typedef enum qs_arg_kind {
    QS_ARG_FLAG,   /* bool: present or not */
    QS_ARG_STRING, /* const char *: borrowed from argv */
    QS_ARG_INT,    /* int64_t in [low, high] */
    QS_ARG_REAL,   /* double in [low, high] */
    QS_ARG_LIST,   /* qs_arg_list: repeatable */
} qs_arg_kind;

enum { QS_ARG_LIST_MAX = 4096 };
typedef struct qs_arg_list {
    int64_t n;
    const char **items; /* [n], borrowed strings; freed by qs_args_free */
} qs_arg_list;

typedef struct qs_arg {
    const char *name;  /* without the dashes */
    qs_arg_kind kind;
    void *value;       /* holds the default before parsing, the result afterwards */
    const char *meta;  /* what --help calls the value: FILE, N, LIST */
    const char *help;
    double low, high;  /* for INT and REAL; both 0 = any */
    bool given;        /* out: the user set it */
} qs_arg;

/* A stage's command line. Rows end with name == NULL. */
typedef struct qs_args {
    const char *program;    /* "qsweep-calibrate" */
    const char *summary;    /* one sentence */
    const char *positional; /* "EVAL..." or NULL when none are taken */
    qs_arg *rows;
    qs_arg_list rest;       /* out: positional arguments */
} qs_args;

/* Options that every stage shares; put QS_ARGS_COMMON(&common) at the end of the table. */
typedef struct qs_common_args {
    const char *backend; /* auto | cpu | cuda */
    int64_t n_threads;   /* 0 = SLURM_CPUS_PER_TASK, OMP_NUM_THREADS or all CPUs */
    int64_t device;
    int64_t seed;
    int64_t watchdog_s;  /* of stages that compute (QS_ARGS_WATCHDOG); 0 = off */
    bool dry_run, list, json, quiet;
} qs_common_args;

#define QS_COMMON_DEFAULTS {.backend = "auto"}
#define QS_ARGS_COMMON(c)                                                                                  \
    {"backend", QS_ARG_STRING, &(c)->backend, "NAME", "auto, cpu or cuda", 0, 0, false},                   \
    {"threads", QS_ARG_INT, &(c)->n_threads, "N", "CPU threads; 0 = what the machine or the job gives",    \
     0, 4096, false},                                                                                      \
    {"device", QS_ARG_INT, &(c)->device, "N", "GPU index", 0, 1024, false},                                \
    {"seed", QS_ARG_INT, &(c)->seed, "N", "seed of everything that draws", 0, 9007199254740992.0, false},  \
    {"dry-run", QS_ARG_FLAG, &(c)->dry_run, NULL, "print the plan with bytes and time, and stop", 0, 0, false}, \
    {"list", QS_ARG_FLAG, &(c)->list, NULL, "list what this stage offers, and stop", 0, 0, false},         \
    {"json", QS_ARG_FLAG, &(c)->json, NULL, "machine-readable output on stdout", 0, 0, false},             \
    {"quiet", QS_ARG_FLAG, &(c)->quiet, NULL, "warnings and errors only", 0, 0, false},                    \
    {NULL, QS_ARG_FLAG, NULL, NULL, NULL, 0, 0, false}

#define QS_ARGS_WATCHDOG(c)                                                                                \
    {"watchdog", QS_ARG_INT, &(c)->watchdog_s, "S",                                                        \
     "end with exit status 7 when nothing has moved for S seconds; 0 = never", 0, 1e6, false}

/* Also, for the whole program: reading behind the end of a mapped file is an error text and QS_E_INPUT, and writing
 * beyond `ulimit -f` a write that fails (EFBIG), not the signal that ends the program.
 * --help and --version go to `out` (stdout, of a program) and set *done: main should return 0. */
QS_MUST_CHECK qs_err qs_args_parse(qs_args *args, int argc, char **argv, FILE *out, bool *done);
void qs_args_free(qs_args *args);

/* Applies --quiet, --watchdog (a warning where no thread can be had for it) and --threads (to OpenMP); *n_threads
 * gets the number in force. */
void qs_args_apply_common(const qs_common_args *common, int *n_threads);

/* For main(): prints a pending error, checks that stdout could be written, and gives the exit status. */
int qs_args_exit(qs_err err);

#endif
