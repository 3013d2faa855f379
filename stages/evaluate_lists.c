#include "stages/evaluate_lists.h"

#include <stdio.h>
#include <string.h>

#include "metric/evaluation.h"
#include "metric/fixes.h"
#include "stages/common.h"

const stage_name stage_task_names[] = {
    {"ppl", QS_TASK_PPL, "perplexity and accuracy of the next token, and their change"},
    {"kld", QS_TASK_KLD, "KL divergence and agreement with the reference, position by position"},
    {"latency", QS_TASK_LATENCY,
     "time of prompts and tokens on packed kernels, interleaved with the reference"},
    {"memory", QS_TASK_MEMORY,
     "bytes before and after loading, at the peak, and against the format's arithmetic"},
    {"semantic", QS_TASK_SEMANTIC, "answers to a gold set (--qa): right, cited, refused, and as the reference's"},
    {"json", QS_TASK_JSON, "the same answers: JSON and citations as a strict reader takes them"},
    {"entropy", QS_TASK_ENTROPY, "entropy along held-out text and along long texts (--qa DIR with longform.jsonl)"},
    {0},
};

const stage_name stage_dump_names[] = {
    {"tokens", QS_DUMP_TOKENS, "[n_windows, n_ctx]"},
    {"logits", QS_DUMP_LOGITS, "[n_windows, n_ctx, n_vocab]"},
    {"hidden", QS_DUMP_HIDDEN, "[n_windows, n_ctx, d_model], after the final norm"},
    {"embeddings", QS_DUMP_EMBEDDINGS, "[n_lines, dim] of the lines of --embed, by --encoder"},
    {0},
};

static qs_err parse_name(unsigned *bits, const stage_name *names, const char *option, const char *item,
                         size_t bytes)
{
    for (const stage_name *n = names; n->name != NULL; n++) {
        if (strlen(n->name) != bytes || strncmp(n->name, item, bytes) != 0) continue;
        *bits |= n->bit;
        if (n->bit != 0) return QS_OK;
        return qs_fail(QS_E_UNSUPPORTED, "--%s %s: this version does not measure it", option, n->name);
    }
    return qs_fail(QS_E_USAGE, "--%s: \"%.*s\" is not one; see qsweep-evaluate --list", option, (int)bytes,
                   item);
}

qs_err stage_names_parse(unsigned *bits, const stage_name *names, const char *option, const char *text)
{
    qs_err err = QS_OK;
    for (*bits = 0; text != NULL && err == QS_OK;) {
        size_t bytes = strcspn(text, ",");
        err = parse_name(bits, names, option, text, bytes);
        text = text[bytes] == ',' ? text + bytes + 1 : NULL;
    }
    return err;
}

void stage_names_format(char text[STAGE_NAMES_BYTES], const stage_name *names, unsigned bits)
{
    size_t used = 0;
    text[0] = '\0';
    for (const stage_name *n = names; n->name != NULL && used < STAGE_NAMES_BYTES; n++)
        if ((bits & n->bit) != 0)
            used += (size_t)snprintf(text + used, STAGE_NAMES_BYTES - used, "%s%s", used > 0 ? "," : "", n->name);
}

qs_err stage_list_evaluate(const qs_common_args *common)
{
    stage_list list = stage_list_begin(common);
    for (const stage_name *n = stage_task_names; n->name != NULL; n++)
        if (n->bit != 0) stage_list_add(&list, "tasks (--tasks)", n->name, NULL, n->text);
    for (const qs_metric *metric = qs_metrics; metric->name != NULL; metric++) {
        char unit[16];
        (void)snprintf(unit, sizeof unit, list.root == NULL ? "%-6s" : "%s", metric->unit);
        stage_list_add(&list, "metrics", metric->name, unit, metric->text);
    }
    for (const qs_encoder_kind *kind = qs_encoder_kinds; kind->name != NULL; kind++)
        stage_list_add(&list, "encoders (--encoder)", kind->name, NULL, kind->text);
    for (const qs_chat_row *row = qs_chat_rows; row->name != NULL; row++)
        stage_list_add(&list, "chat templates (--chat)", row->name, NULL, row->text);
    for (const qs_fix *fix = qs_fixes; fix->name != NULL; fix++)
        stage_list_add(&list, "fixes (--fix)", fix->name, NULL, fix->text);
    for (const qs_protocol *protocol = qs_protocols; protocol->name != NULL; protocol++)
        stage_list_add(&list, "protocols (--protocol)", protocol->name, NULL, protocol->text);
    for (const stage_name *n = stage_dump_names; n->name != NULL; n++)
        if (n->bit != 0) stage_list_add(&list, "dumps (--dump)", n->name, NULL, n->text);
    return stage_list_end(&list);
}
