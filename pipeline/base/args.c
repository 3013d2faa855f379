#include "base/args.h"

#include <errno.h>
#include <math.h>
#include <omp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/watchdog.h"

static void print_default(const qs_arg *row, FILE *out)
{
    switch (row->kind) {
    case QS_ARG_STRING:
        if (*(const char **)row->value != NULL) (void)fprintf(out, " [%s]", *(const char **)row->value);
        break;
    case QS_ARG_INT: (void)fprintf(out, " [%lld]", (long long)*(int64_t *)row->value); break;
    case QS_ARG_REAL: (void)fprintf(out, " [%g]", *(double *)row->value); break;
    case QS_ARG_LIST: (void)fprintf(out, " (repeatable)"); break;
    case QS_ARG_FLAG: break;
    }
}

static void print_help(const qs_args *args, FILE *out)
{
    (void)fprintf(out, "%s: %s\n\nusage: %s [options]%s%s\n\noptions:\n", args->program, args->summary,
                  args->program, args->positional != NULL ? " " : "",
                  args->positional != NULL ? args->positional : "");
    for (const qs_arg *row = args->rows; row->name != NULL; row++) {
        char left[64];
        (void)snprintf(left, sizeof left, "--%s%s%s", row->name, row->meta != NULL ? " " : "",
                       row->meta != NULL ? row->meta : "");
        (void)fprintf(out, "  %-26s %s", left, row->help);
        print_default(row, out);
        (void)fprintf(out, "\n");
    }
    (void)fprintf(out, "  %-26s %s\n  %-26s %s\n", "--help", "this text", "--version", "the version");
    (void)fprintf(out, "\nexit status: 0 done, 2 usage, 3 gate failed, 4 bad input, 5 unsupported here, "
                  "6 out of memory or disk, 7 device, 8 numeric\n");
}

static qs_err list_push(qs_arg_list *list, const char *item)
{
    if (list->n >= QS_ARG_LIST_MAX) return qs_fail(QS_E_USAGE, "more than %d arguments of one kind", QS_ARG_LIST_MAX);
    const char **grown = realloc(list->items, (size_t)(list->n + 1) * sizeof *grown);
    if (grown == NULL) return qs_fail(QS_E_RESOURCE, "parse command line: out of memory");
    list->items = grown;
    list->items[list->n++] = item;
    return QS_OK;
}

/* Whole limits as they are: 1000000, not 1e+06. */
static const int range_digits = 16;

static qs_err set_number(qs_arg *row, const char *text)
{
    char *end;
    errno = 0;
    double value;
    if (row->kind == QS_ARG_INT) {
        long long integer = strtoll(text, &end, 10);
        value = (double)integer;
        *(int64_t *)row->value = integer;
    } else {
        value = strtod(text, &end);
        *(double *)row->value = value;
    }
    if (errno != 0 || end == text || *end != '\0' || !isfinite(value))
        return qs_fail(QS_E_USAGE, "--%s: \"%s\" is not a number", row->name, text);
    if (!(row->low == 0 && row->high == 0) && !(value >= row->low && value <= row->high))
        return qs_fail(QS_E_USAGE, "--%s: %s is not in %.*g to %.*g", row->name, text, range_digits, row->low,
                       range_digits, row->high);
    return QS_OK;
}

static qs_err set_value(qs_arg *row, const char *text)
{
    row->given = true;
    switch (row->kind) {
    case QS_ARG_FLAG: *(bool *)row->value = true; return QS_OK;
    case QS_ARG_STRING: *(const char **)row->value = text; return QS_OK;
    case QS_ARG_INT:
    case QS_ARG_REAL: return set_number(row, text);
    case QS_ARG_LIST: return list_push(row->value, text);
    }
    return QS_OK;
}

static qs_arg *find_row(qs_args *args, const char *name, size_t name_bytes)
{
    for (qs_arg *row = args->rows; row->name != NULL; row++)
        if (strlen(row->name) == name_bytes && strncmp(row->name, name, name_bytes) == 0) return row;
    return NULL;
}

/* Handles argv[*index], an argument that begins with "--", and steps over its value if that is separate. */
static qs_err parse_option(qs_args *args, int argc, char **argv, int *index)
{
    const char *name = argv[*index] + 2, *equals = strchr(name, '=');
    qs_arg *row = find_row(args, name, equals != NULL ? (size_t)(equals - name) : strlen(name));
    if (row == NULL)
        return qs_fail(QS_E_USAGE, "unknown option %s; see %s --help", argv[*index], args->program);
    if (row->kind == QS_ARG_FLAG) {
        if (equals != NULL) return qs_fail(QS_E_USAGE, "--%s takes no value", row->name);
        return set_value(row, NULL);
    }
    if (equals != NULL) return set_value(row, equals + 1);
    if (*index + 1 >= argc) return qs_fail(QS_E_USAGE, "--%s needs a value (%s)", row->name, row->meta);
    return set_value(row, argv[++*index]);
}

/* Models are mapped. A file that is cut off between the check of its size and the read of a page ends in SIGBUS,
 * which the library leaves to the program. Parts of artifacts stay for the next writer to remove. */
static void on_bus_error(int signal)
{
    static const char text[] =
        "error: read a mapped file: it became shorter while it was read; run again with it whole\n";
    (void)signal;
    if (write(STDERR_FILENO, text, sizeof text - 1) < 0) _exit(QS_E_INPUT);
    _exit(QS_E_INPUT);
}

qs_err qs_args_parse(qs_args *args, int argc, char **argv, FILE *out, bool *done)
{
    struct sigaction action = {.sa_handler = on_bus_error};
    (void)sigaction(SIGBUS, &action, NULL);
    /* A file beyond `ulimit -f` is then a write that fails, as on a full disk, and no death with parts left behind. */
    (void)signal(SIGXFSZ, SIG_IGN);
    *done = false;
    args->rest = (qs_arg_list){0};
    bool options = true;
    for (int i = 1; i < argc; i++) {
        qs_err err = QS_OK;
        if (options && strcmp(argv[i], "--help") == 0) {
            print_help(args, out);
            *done = true;
            return QS_OK;
        }
        if (options && strcmp(argv[i], "--version") == 0) {
            (void)fprintf(out, "%s %s\n", args->program, QS_VERSION);
            *done = true;
            return QS_OK;
        }
        if (options && strcmp(argv[i], "--") == 0)
            options = false;
        else if (options && argv[i][0] == '-' && argv[i][1] != '\0')
            err = argv[i][1] == '-' ? parse_option(args, argc, argv, &i)
                                    : qs_fail(QS_E_USAGE, "unknown option %s; options are long (--name)", argv[i]);
        else if (args->positional == NULL)
            err = qs_fail(QS_E_USAGE, "unexpected argument \"%s\"; see %s --help", argv[i], args->program);
        else
            err = list_push(&args->rest, argv[i]);
        if (err != QS_OK) return err;
    }
    return QS_OK;
}

void qs_args_free(qs_args *args)
{
    for (qs_arg *row = args->rows; row->name != NULL; row++) {
        if (row->kind != QS_ARG_LIST) continue;
        qs_arg_list *list = row->value;
        free(list->items);
        *list = (qs_arg_list){0};
    }
    free(args->rest.items);
    args->rest = (qs_arg_list){0};
}

static int threads_from(const char *variable)
{
    const char *text = getenv(variable);
    return text != NULL ? atoi(text) : 0; /* a malformed value counts as unset */
}

void qs_args_apply_common(const qs_common_args *common, int *n_threads)
{
    if (common->quiet) qs_log_set_level(QS_LOG_WARN);
    /* Slurm sets no OMP_NUM_THREADS, and under task/none every CPU of the node is visible. */
    int n = (int)common->n_threads;
    if (n <= 0) n = threads_from("SLURM_CPUS_PER_TASK");
    if (n <= 0) n = threads_from("SLURM_CPUS_ON_NODE");
    if (n > 0) omp_set_num_threads(n);
    *n_threads = omp_get_max_threads();
    if (qs_watchdog_start(common->watchdog_s) != QS_OK) qs_log_warn("%s", qs_error_text());
}

int qs_args_exit(qs_err err)
{
    if (err != QS_OK) qs_log_error("%s", qs_error_text());
    if (fclose(stdout) != 0 && err == QS_OK) {
        qs_log_error("write stdout: %s", strerror(errno));
        err = QS_E_RESOURCE;
    }
    return (int)err;
}
