/* qsweep: the front end. `qsweep <stage> ...` runs qsweep-<stage> from the folder it stands in. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/args.h"
#include "stages/children.h"

static const struct {
    const char *name, *text;
} stages[] = {
    {"doctor", "what runs here: CPU, GPU, memory, the placement plan of a model"},
    {"plan", "the points of a grid, their cost, and the work list for make"},
    {"calibrate", "run the model once and bank the statistics that all methods share"},
    {"quantize", "choose codes for one or many specs"},
    {"evaluate", "measure the reference and quantised points against it"},
    {"export", "write a quantised point in the format of the runtime that will serve it"},
    {"report", "tables, verdicts, and the configuration to ship"},
    {"train", "a small language model from text or from prompts with answers"},
};

static void print_help(void)
{
    (void)printf("qsweep: find the quantised configuration of a language model that you can ship\n\n"
                 "usage: qsweep STAGE [options]; qsweep STAGE --help lists them\n\nstages:\n");
    for (size_t i = 0; i < sizeof stages / sizeof *stages; i++)
        (void)printf("  %-10s %s\n", stages[i].name, stages[i].text);
}

static bool is_stage(const char *name)
{
    for (size_t i = 0; i < sizeof stages / sizeof *stages; i++)
        if (strcmp(stages[i].name, name) == 0) return true;
    return false;
}

static qs_err run_stage(const char *name, char **argv)
{
    char path[QS_PATH_BYTES];
    qs_err err = stage_find(path, name);
    if (err == QS_E_USAGE && is_stage(name))
        return qs_fail(QS_E_UNSUPPORTED, "run qsweep-%s: it is not beside this program; install the stages together",
                       name);
    if (err != QS_OK) return err;
    argv[0] = path;
    (void)execv(path, argv);
    return qs_fail(QS_E_UNSUPPORTED, "run %s: %s", path, strerror(errno));
}

int main(int argc, char **argv)
{
    if (argc < 2) return qs_args_exit(qs_fail(QS_E_USAGE, "which stage? see qsweep --help"));
    if (strcmp(argv[1], "--help") == 0) {
        print_help();
        return qs_args_exit(QS_OK);
    }
    if (strcmp(argv[1], "--version") == 0) {
        (void)printf("qsweep %s\n", QS_VERSION);
        return qs_args_exit(QS_OK);
    }
    return qs_args_exit(run_stage(argv[1], argv + 1));
}
