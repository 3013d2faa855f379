#include "stages/evaluate_options.h"

#include "metric/fixes.h"
#include "stages/evaluate_lists.h"

/* Which options go together; the first rule that is broken is told. */
static qs_err check_combination(const stage_evaluate_options *opt, const qs_eval_options *eval)
{
    const bool has_gold = opt->questions.gold != NULL, scores = (eval->tasks & QS_TASKS_QUALITY) != 0;
    const struct {
        bool is_broken;
        const char *text;
    } rules[] = {
        {(eval->tasks & QS_TASKS_ANSWERS) != 0 && !has_gold, "--tasks semantic and json need --qa DIR or FILE"},
        {opt->questions.n_probe > 0 && !has_gold, "--probe needs --qa DIR or FILE"},
        {eval->fixes != 0 && opt->quants.n + opt->checkpoints.n == 0,
         "--fix needs a configuration: give --quant or --checkpoint"},
        {eval->fixes != 0 && (eval->tasks & QS_TASKS_ANSWERS) != QS_TASKS_ANSWERS,
         "--fix needs --tasks semantic and json, and --qa DIR or FILE"},
        {qs_fixes_requantise(eval->fixes) != (opt->fix_text != NULL),
         "--fix recalibrate and --fix-text FILE, the other calibration text, need each other"},
        {opt->race != NULL && (!scores || opt->dump != NULL || opt->fix != NULL),
         "--race needs --tasks ppl or kld, and goes without --dump and --fix: they want all windows"},
        {(eval->dumps & ~(unsigned)QS_DUMP_EMBEDDINGS) != 0 && !scores,
         "--dump needs the pass that --tasks ppl or kld makes"},
        {((eval->dumps & QS_DUMP_EMBEDDINGS) != 0) != (opt->embed != NULL),
         "--embed FILE and --dump embeddings need each other"},
        {opt->quick && (opt->questions.n_items > 0 || !has_gold),
         "--quick needs --qa DIR or FILE, and --items says otherwise"},
    };
    for (size_t i = 0; i < sizeof rules / sizeof *rules; i++)
        if (rules[i].is_broken) return qs_fail(QS_E_USAGE, "%s", rules[i].text);
    return QS_OK;
}

qs_err stage_evaluate_read(const stage_evaluate_options *opt, qs_eval_options *out, const qs_protocol **protocol)
{
    qs_err err;
    if (opt->model == NULL || opt->text == NULL)
        return qs_fail(QS_E_USAGE, "--model and --text are needed; see qsweep-evaluate --help");
    QS_TRY(qs_protocol_find(protocol, opt->protocol));
    const char *tasks = opt->questions.gold != NULL ? "ppl,kld,latency,memory,semantic,json,entropy"
                                                    : "ppl,kld,latency,memory,entropy";
    QS_TRY(stage_names_parse(&out->tasks, stage_task_names, "tasks", opt->tasks != NULL ? opt->tasks : tasks));
    if (opt->questions.n_probe > 0) out->tasks |= QS_TASK_PROBE;
    out->serving = opt->serving;
    out->serving.header_seed = (uint64_t)opt->header_seed;
    QS_TRY(qs_headers_parse(&out->serving.headers, opt->headers));
    QS_TRY(qs_fixes_parse(&out->fixes, opt->fix));
    QS_TRY(stage_names_parse(&out->dumps, stage_dump_names, "dump", opt->dump));
    QS_TRY(qs_compute_parse(&out->compute, opt->compute));
    QS_TRY(qs_device_map_parse(&out->map, opt->device_map, opt->vram_budget));
    err = check_combination(opt, out);
out:
    return err;
}
