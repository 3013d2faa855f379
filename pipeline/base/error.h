/* Errors: one code per person who must act, and a text stored where the cause is known.
 *
 * A fallible function returns qs_err and, on failure, has stored a text of the form
 * "verb object: cause; what to do" with qs_fail(). Callers add context with qs_context() or pass the
 * code on with QS_TRY. Only main() prints the text and turns the code into the exit status, which is
 * the numeric value of the code. The text is per thread; fallible calls stay outside parallel regions. */
#ifndef QS_BASE_ERROR_H
#define QS_BASE_ERROR_H

#include <stddef.h>

typedef enum qs_err {
    QS_OK = 0,
    QS_E_USAGE = 2,       /* the command line: the user of the tool */
    QS_E_GATE = 3,        /* measured, and no configuration passes: whoever selects the model */
    QS_E_INPUT = 4,       /* a file, model or artifact is bad: whoever made it */
    QS_E_UNSUPPORTED = 5, /* valid, but not supported here: choose another spec or machine */
    QS_E_RESOURCE = 6,    /* out of memory or disk: whoever runs the machine */
    QS_E_DEVICE = 7,      /* GPU or driver failed: whoever runs the machine */
    QS_E_NUMERIC = 8,     /* NaN or Inf where a number must be: whoever chose data and spec */
} qs_err;

#define QS_MUST_CHECK __attribute__((warn_unused_result))
#define QS_PRINTF(fmt_index, first_arg) __attribute__((format(printf, fmt_index, first_arg)))

enum { QS_ERROR_TEXT_BYTES = 1024 };

/* Stores the text and returns `code`, so that a function can `return qs_fail(...)`. */
qs_err qs_fail(qs_err code, const char *fmt, ...) QS_PRINTF(2, 3);

/* Puts "text: " in front of the stored text and returns `code`. A no-op for QS_OK. */
qs_err qs_context(qs_err code, const char *fmt, ...) QS_PRINTF(2, 3);

/* The text of this thread's last failure; never NULL. */
const char *qs_error_text(void);

/* A short name for the code: "usage", "gate", "input", "unsupported", "resource", ... */
const char *qs_err_name(qs_err code);

/* Copies used by QS_CLEANUP to keep the first failure's text. */
typedef struct qs_error_saved {
    char text[QS_ERROR_TEXT_BYTES];
} qs_error_saved;
void qs_error_save(qs_error_saved *saved);
void qs_error_restore(const qs_error_saved *saved);

/* Jump to the function's single `out:` label on failure. Needs a local `qs_err err`. */
#define QS_TRY(call)              \
    do {                          \
        err = (call);             \
        if (err != QS_OK) goto out; \
    } while (0)

/* After `out:`: run a fallible clean-up, keeping the first error and its text. */
#define QS_CLEANUP(call)                         \
    do {                                         \
        if (err == QS_OK) {                      \
            err = (call);                        \
        } else {                                 \
            qs_error_saved qs_saved_;            \
            qs_error_save(&qs_saved_);           \
            qs_err qs_ignored_ = (call);         \
            (void)qs_ignored_;                   \
            qs_error_restore(&qs_saved_);        \
        }                                        \
    } while (0)

#endif
