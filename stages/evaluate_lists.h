/* What qsweep-evaluate can be asked for by name, and what --list says of it. */
#ifndef QS_STAGES_EVALUATE_LISTS_H
#define QS_STAGES_EVALUATE_LISTS_H

#include "base/args.h"

typedef struct stage_name {
    const char *name;
    unsigned bit; /* 0: known, and not in this version */
    const char *text;
} stage_name;

extern const stage_name stage_task_names[], stage_dump_names[]; /* end with name == NULL */

/* "a,b,c" to bits; NULL gives none. QS_E_USAGE for a name that is not in the table, QS_E_UNSUPPORTED for one
 * without a bit. */
QS_MUST_CHECK qs_err stage_names_parse(unsigned *bits, const stage_name *names, const char *option, const char *text);

/* The other way round: names of the table whose bits are set. */
enum { STAGE_NAMES_BYTES = 128 };
void stage_names_format(char text[STAGE_NAMES_BYTES], const stage_name *names, unsigned bits);

/* --list: tasks, metrics, encoders, fixes, protocols, dumps. */
QS_MUST_CHECK qs_err stage_list_evaluate(const qs_common_args *common);

#endif
