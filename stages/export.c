/* qsweep-export: a quantised point in the format of the runtime that will serve it.
 *
 *   say   options   take   model, quant artifact, format   plan   what it cannot hold is refused; bytes
 *   run   tensors, configuration, tokenizer                seal   renamed into place */
#include <stdio.h>
#include <string.h>

#include "base/args.h"
#include "base/clock.h"
#include "base/json.h"
#include "base/log.h"
#include "base/mem.h"
#include "export/export.h"
#include "export/out_dir.h"
#include "model/turned.h"
#include "quant/turned_grams.h"
#include "stat/calib_file.h"

typedef struct options {
    const char *model, *quant, *format, *type, *embedding_type, *head_type, *calib, *out;
    qs_common_args common;
} options;

typedef struct inputs {
    qs_export_job job;
    qs_model *parent;
    qs_calib_file *calib;
    qs_gram_source grams, turned_source;
    qs_turned_grams *turned_grams; /* of a point with rotate=1 */
} inputs;

static void print_list(void)
{
    (void)printf("formats (--format)\n");
    for (int i = 0; qs_export_formats[i] != NULL; i++) {
        const qs_export_format *format = qs_export_formats[i];
        (void)printf("  %-8s a %s for %s\n           holds %s\n", format->name,
                     format->directory ? "directory" : "file", format->loaders, format->holds);
    }
}

static qs_err get_gram(void *context, int64_t layer, qs_site site, const float **packed_gram, int64_t *n_tokens)
{
    return qs_calib_file_gram(context, layer, site, packed_gram, n_tokens);
}

/* Second moments of the inputs of the point's own model. */
static qs_err take_calib(inputs *in, const char *path)
{
    qs_err err;
    QS_TRY(qs_calib_file_open(&in->calib, path, in->parent));
    in->grams = (qs_gram_source){.get = get_gram, .context = in->calib};
    in->job.grams = &in->grams;
    if (qs_model_rotation(in->job.model) == NULL) goto out;
    QS_TRY(qs_turned_grams_create(&in->turned_grams, in->job.model, &in->grams));
    in->turned_source = qs_turned_grams_source(in->turned_grams);
    in->job.grams = &in->turned_source;
out:
    return err;
}

static qs_err take(inputs *in, const options *o)
{
    qs_export_job *job = &in->job;
    qs_err err;
    if (o->model == NULL || o->quant == NULL || o->format == NULL || o->out == NULL)
        return qs_fail(QS_E_USAGE, "--model, --quant, --format and --out are needed; see qsweep-export --help");
    QS_TRY(qs_export_format_find(&job->format, o->format));
    bool choices = o->type != NULL || o->embedding_type != NULL || o->head_type != NULL || o->calib != NULL;
    if (choices && job->format != &qs_export_gguf)
        return qs_fail(QS_E_USAGE, "--format %s: --type, --embedding-type, --head-type and --calib are for gguf alone",
                       o->format);
    QS_TRY(qs_out_dir_check(o->out));
    QS_TRY(qs_model_open(&in->parent, o->model));
    QS_TRY(qs_quant_file_open(&job->quant, o->quant, in->parent));
    job->model = qs_quant_file_model(job->quant);
    if (o->calib != NULL) QS_TRY(take_calib(in, o->calib));
    job->out = o->out;
    job->type = o->type;
    job->embedding_type = o->embedding_type;
    job->head_type = o->head_type;
out:
    return err;
}

static void print_json(const qs_export_job *job, int64_t bytes, bool written)
{
    json_t *root = json_pack("{s:s, s:s, s:s, s:s, s:I}", "config", qs_quant_file_spec(job->quant)->id, "format",
                             job->format->name, "out", job->out, "status", written ? "written" : "planned", "bytes",
                             (json_int_t)bytes);
    (void)json_dumpf(root, stdout, JSON_INDENT(1));
    (void)putchar('\n');
    json_decref(root);
}

static qs_err run(const options *o, int n_threads)
{
    inputs in = {.job = {.n_threads = n_threads}};
    const qs_export_job *job = &in.job;
    char text[QS_MEM_TEXT_BYTES];
    int64_t bytes;
    double started = qs_clock_seconds();
    qs_err err;
    QS_TRY(take(&in, o));
    QS_TRY(job->format->check(job));
    QS_TRY(job->format->plan(job, &bytes));
    qs_log_info("export %s as %s: %s (%lld bytes) of tensors to %s", qs_quant_file_spec(job->quant)->id,
                job->format->name, qs_mem_format(text, (size_t)bytes), (long long)bytes, o->out);
    if (!o->common.dry_run) {
        QS_TRY(job->format->write(job));
        qs_log_info("%s: written in %.1f s, for %s", o->out, qs_clock_seconds() - started, job->format->loaders);
    }
    if (o->common.json) print_json(job, bytes, !o->common.dry_run);
out:
    qs_turned_grams_destroy(in.turned_grams);
    qs_calib_file_close(in.calib);
    qs_quant_file_close(in.job.quant);
    qs_model_close(in.parent);
    return err;
}

int main(int argc, char **argv)
{
    options o = {.common = QS_COMMON_DEFAULTS};
    int n_threads;
    qs_arg rows[] = {
        {"model", QS_ARG_STRING, &o.model, "DIR|FILE.gguf", "the full-precision model", 0, 0, false},
        {"quant", QS_ARG_STRING, &o.quant, "FILE", "the quant artifact to export", 0, 0, false},
        {"format", QS_ARG_STRING, &o.format, "NAME",
         "gptq, gptq_v2, awq, bnb, exl2 or gguf; --list says what each holds", 0, 0, false},
        {"type", QS_ARG_STRING, &o.type, "NAME",
         "gguf: of the quantised matrices; default: the one that keeps the codes", 0, 0, false},
        {"embedding-type", QS_ARG_STRING, &o.embedding_type, "NAME",
         "gguf: of the embedding, a tied head with it; default: as the model's file has it, or f16", 0, 0, false},
        {"head-type", QS_ARG_STRING, &o.head_type, "NAME", "gguf: of a head of its own; default: likewise", 0, 0,
         false},
        {"calib", QS_ARG_STRING, &o.calib, "FILE",
         "gguf: statistics from qsweep-calibrate, for a --type that keeps no codes", 0, 0, false},
        {"out", QS_ARG_STRING, &o.out, "PATH", "directory (gguf: file) that will appear", 0, 0, false},
        QS_ARGS_COMMON(&o.common),
    };
    qs_args args = {.program = "qsweep-export",
                    .summary = "write a quantised point in the format of the runtime that will serve it",
                    .rows = rows};
    bool done;
    qs_err err = qs_args_parse(&args, argc, argv, stdout, &done);
    if (err == QS_OK && !done && o.common.list) {
        print_list();
    } else if (err == QS_OK && !done) {
        qs_args_apply_common(&o.common, &n_threads);
        err = run(&o, n_threads);
    }
    qs_args_free(&args);
    return qs_args_exit(err);
}
