/* Writes the sweep of eval_content.h into a directory, for tests/cli: one file for each configuration, and
 * further ones that must not be mixed with them. */
#include <stdlib.h>

#include "base/file.h"
#include "base/log.h"
#include "tests/question_content.h"

static qs_err write_one(const char *dir, const char *name, const eval_spec *spec)
{
    char path[QS_PATH_BYTES];
    qs_err err = qs_path_format(path, "%s/%s.eval.h5", dir, name);
    return err == QS_OK ? eval_write(path, spec) : err;
}

/* DIR/asked: the same configurations with questions, for the golden page (make golden). */
static qs_err write_asked(const char *parent, int64_t n_items)
{
    char dir[QS_PATH_BYTES];
    qs_err err;
    QS_TRY(qs_path_format(dir, "%s/asked", parent));
    QS_TRY(qs_dir_create(dir));
    for (int i = 0; i < EVAL_N_SPECS; i++) {
        eval_spec asked = eval_specs[i];
        asked.more = q_put_all;
        asked.n_items = n_items;
        asked.n_probed = 2;
        QS_TRY(write_one(dir, asked.id, &asked));
    }
out:
    return err;
}

static qs_err write_all(const char *dir, int64_t n_items)
{
    eval_spec odd = eval_specs[EVAL_GPTQ4];
    qs_err err;
    QS_TRY(qs_dir_create(dir));
    for (int i = 0; i < EVAL_N_SPECS; i++) QS_TRY(write_one(dir, eval_specs[i].id, &eval_specs[i]));
    odd.model = 7;
    QS_TRY(write_one(dir, "other-model", &odd));
    odd = eval_specs[EVAL_GPTQ4];
    odd.protocol = "llamacpp";
    QS_TRY(write_one(dir, "other-protocol", &odd));
    odd = eval_specs[EVAL_GPTQ4];
    odd.tokens = 7;
    QS_TRY(write_one(dir, "other-tokens", &odd));
    odd = eval_specs[EVAL_RTN];
    odd.id = "gptq-b4-g64-sym";
    odd.method = "gptq";
    QS_TRY(write_one(dir, "gptq-is-rtn", &odd));
    odd = eval_specs[EVAL_GPTQ4];
    odd.id = "nf4-blk64";
    odd.method = "nf4";
    QS_TRY(write_one(dir, odd.id, &odd));
    odd = eval_specs[EVAL_FP];
    odd.lattice = true;
    QS_TRY(write_one(dir, "lattice", &odd));
    QS_TRY(write_asked(dir, n_items));
out:
    return err;
}

int main(int argc, char **argv)
{
    int64_t n_items = argc == 3 ? atoll(argv[2]) : 6;
    if (argc < 2 || argc > 3 || n_items < 2) {
        qs_log_error("usage: tool_eval_fixture DIR [QUESTIONS]");
        return QS_E_USAGE;
    }
    qs_err err = write_all(argv[1], n_items);
    if (err != QS_OK) qs_log_error("%s", qs_error_text());
    return (int)err;
}
