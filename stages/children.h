/* Stages that run other stages: the executables stand in one folder. */
#ifndef QS_STAGES_CHILDREN_H
#define QS_STAGES_CHILDREN_H

#include "base/error.h"
#include "base/file.h"

/* The path of qsweep-<name>. QS_E_USAGE where there is none. */
QS_MUST_CHECK qs_err stage_find(char path[QS_PATH_BYTES], const char *name);

/* Runs a stage to its end. arguments: ends with NULL, without the program's name. QS_OK for exit status 0, else
 * what the exit status stands for; the stage itself has said what was wrong. */
QS_MUST_CHECK qs_err stage_run(const char *name, const char *const *arguments);

#endif
