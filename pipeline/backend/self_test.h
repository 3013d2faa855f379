/* Each op of a backend on small shapes against the plain C reference, for `qsweep-doctor --self-test`: a quick answer
 * to the question whether this machine, driver and build compute what they should. */
#ifndef QS_BACKEND_SELF_TEST_H
#define QS_BACKEND_SELF_TEST_H

#include "backend/backend.h"

typedef struct qs_self_test_row {
    const char *op;
    double difference; /* the largest, over the largest value; NaN where an op gave one */
    double limit;
    bool ok;
} qs_self_test_row;
typedef void (*qs_self_test_visit)(void *context, const qs_self_test_row *row);

/* Calls `visit` for each op. QS_E_DEVICE when any is wrong; an op that fails outright ends the test with its own
 * error. */
QS_MUST_CHECK qs_err qs_backend_self_test(qs_backend *backend, qs_self_test_visit visit, void *context);

#endif
