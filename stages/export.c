/* qsweep-export: a quantised point in the format of the runtime that will serve it.
 *
 *   say   options   take   model, quant artifacts, format   plan   what it cannot hold is refused; bytes
 *   run   tensors, configuration, tokenizer                 seal   renamed into place
 *
 * Of several points every one is planned before the first is written. */
#include <stdio.h>
#include <string.h>

#include "base/args.h"
#include "base/clock.h"
#include "base/json.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/out_dir.h"
#include "export/export.h"
#include "export/gguf_mixture.h"
#include "model/turned.h"
#include "quant/turned_grams.h"
#include "stages/common.h"
#include "stat/calib_file.h"

typedef struct options {
    qs_arg_list quants;
    const char *model, *format, *type, *embedding_type, *head_type, *calib, *out;
    qs_common_args common;
} options;

typedef struct inputs {
    qs_export_job job;
    qs_model *parent;
    qs_calib_file *calib;
    qs_gram_source grams, turned_source;
    qs_turned_grams *turned_grams; /* of a point with rotate=1 */
    int64_t at;                    /* the point that is open; -1 = none */
    char (*outs)[QS_PATH_BYTES];   /* [quants] where each goes */
} inputs;

/* What --type of gguf may be. */
static void list_gguf(json_t *root, bool print)
{
    json_t *types = json_array(), *mixtures = json_array();
    char text[QS_GGUF_MIXTURE_TEXT_BYTES];
    if (print) (void)printf("types of gguf (--type), of all matrices\n ");
    for (const qs_gguf_kind *kind = qs_gguf_kinds; kind->name != NULL; kind++) {
        (void)json_array_append_new(types, json_string(kind->name));
        if (print) (void)printf(" %s", kind->name);
    }
    if (print) (void)printf("\nmixtures of gguf (--type), types as llama.cpp takes them for the name given\n");
    for (const qs_gguf_mixture *m = qs_gguf_mixtures; m->name != NULL; m++) {
        (void)json_array_append_new(mixtures, json_pack("{s:s, s:s}", "name", m->name, "holds",
                                                        qs_gguf_mixture_text(text, m)));
        if (print) (void)printf("  %-8s %s\n", m->name, text);
    }
    (void)json_object_set_new(root, "gguf_types", types);
    (void)json_object_set_new(root, "gguf_mixtures", mixtures);
}

static qs_err print_list(const options *o)
{
    json_t *formats = json_array();
    if (!o->common.json) (void)printf("formats (--format)\n");
    for (int i = 0; qs_export_formats[i] != NULL; i++) {
        const qs_export_format *format = qs_export_formats[i];
        (void)json_array_append_new(formats, json_pack("{s:s, s:b, s:s, s:s}", "name", format->name, "directory",
                                                       (int)format->directory, "loaders", format->loaders, "holds",
                                                       format->holds));
        if (o->common.json) continue;
        (void)printf("  %-8s a %s for %s\n           holds %s\n", format->name,
                     format->directory ? "directory" : "file", format->loaders, format->holds);
    }
    json_t *root = json_pack("{s:o}", "formats", formats);
    list_gguf(root, !o->common.json);
    if (o->common.json) return stage_print_json(root);
    json_decref(root);
    return QS_OK;
}

static qs_err get_gram(void *context, int64_t layer, qs_site site, const float **packed_gram, int64_t *n_tokens)
{
    return qs_calib_file_gram(context, layer, site, packed_gram, n_tokens);
}

static qs_err take(inputs *in, const options *o)
{
    qs_export_job *job = &in->job;
    qs_err err;
    if (o->model == NULL || o->quants.n == 0 || o->format == NULL || o->out == NULL)
        return qs_fail(QS_E_USAGE, "--model, --quant, --format and --out are needed; see qsweep-export --help");
    QS_TRY(qs_export_format_find(&job->format, o->format));
    bool choices = o->type != NULL || o->embedding_type != NULL || o->head_type != NULL || o->calib != NULL;
    if (choices && job->format != &qs_export_gguf)
        return qs_fail(QS_E_USAGE, "--format %s: --type, --embedding-type, --head-type and --calib are for gguf alone",
                       o->format);
    if (o->quants.n == 1) QS_TRY(qs_out_dir_check(o->out));
    QS_TRY(QS_NEW(in->outs, o->quants.n, "paths of points"));
    QS_TRY(qs_model_open(&in->parent, o->model));
    if (o->calib != NULL) QS_TRY(qs_calib_file_open(&in->calib, o->calib, in->parent));
    in->grams = (qs_gram_source){.get = get_gram, .context = in->calib};
    job->type = o->type;
    job->embedding_type = o->embedding_type;
    job->head_type = o->head_type;
out:
    return err;
}

static void leave_point(inputs *in)
{
    qs_turned_grams_destroy(in->turned_grams);
    qs_quant_file_close(in->job.quant);
    in->turned_grams = NULL;
    in->job.quant = NULL;
    in->at = -1;
}

/* --out is the path of the only point; of several the directory of all. */
static qs_err name_out(inputs *in, const options *o, int64_t i)
{
    const qs_export_format *format = in->job.format;
    const char *id = qs_quant_file_spec(in->job.quant)->id;
    const char *kind = format->directory ? format->name : o->type != NULL ? o->type : "";
    qs_err err;
    if (o->quants.n == 1) return qs_path_format(in->outs[i], "%s", o->out);
    QS_TRY(qs_path_format(in->outs[i], "%s/%s%s%s%s", o->out, id, kind[0] != '\0' ? "-" : "", kind,
                          format->directory ? "" : ".gguf"));
    for (int64_t j = 0; j < i; j++)
        if (strcmp(in->outs[i], in->outs[j]) == 0)
            return qs_fail(QS_E_USAGE, "export %s: %s is the same point; name one of them", o->quants.items[i],
                           o->quants.items[j]);
    err = qs_out_dir_check(in->outs[i]);
out:
    return err;
}

/* Opens point i, unless it is; second moments are those of the inputs of its own model. */
static qs_err take_point(inputs *in, const options *o, int64_t i)
{
    qs_export_job *job = &in->job;
    qs_err err;
    if (in->at == i) return QS_OK;
    leave_point(in);
    QS_TRY(qs_quant_file_open(&job->quant, o->quants.items[i], in->parent));
    job->model = qs_quant_file_model(job->quant);
    job->grams = in->calib != NULL ? &in->grams : NULL;
    if (in->calib != NULL && qs_model_rotation(job->model) != NULL) {
        QS_TRY(qs_turned_grams_create(&in->turned_grams, job->model, &in->grams));
        in->turned_source = qs_turned_grams_source(in->turned_grams);
        job->grams = &in->turned_source;
    }
    job->out = in->outs[i];
    in->at = i;
out:
    return err;
}

static qs_err plan_point(inputs *in, const options *o, int64_t i, json_t *results)
{
    const qs_export_job *job = &in->job;
    char text[QS_MEM_TEXT_BYTES];
    int64_t bytes;
    qs_err err;
    QS_TRY(take_point(in, o, i));
    QS_TRY(name_out(in, o, i));
    QS_TRY(job->format->check(job));
    QS_TRY(job->format->plan(job, &bytes));
    const char *id = qs_quant_file_spec(job->quant)->id;
    qs_log_info("export %s as %s: %s (%lld bytes) of tensors to %s", id, job->format->name,
                qs_mem_format(text, (size_t)bytes), (long long)bytes, job->out);
    (void)json_array_append_new(results, json_pack("{s:s, s:s, s:o, s:s, s:I}", "config", id, "format",
                                                   job->format->name, "out", qs_json_text(job->out), "status",
                                                   o->common.dry_run ? "planned" : "written", "bytes",
                                                   (json_int_t)bytes));
out:
    return err;
}

static qs_err write_point(inputs *in, const options *o, int64_t i)
{
    const qs_export_job *job = &in->job;
    double started = qs_clock_seconds();
    qs_err err;
    QS_TRY(take_point(in, o, i));
    if (!job->format->directory) QS_TRY(qs_dir_create_for(job->out)); /* as directories are made with their parents */
    QS_TRY(job->format->write(job));
    qs_log_info("%s: written in %.1f s, for %s", job->out, qs_clock_seconds() - started, job->format->loaders);
out:
    return err;
}

/* Of one point an object, of several an array of them. */
static qs_err print_json(json_t *results)
{
    return stage_print_json(json_incref(json_array_size(results) == 1 ? json_array_get(results, 0) : results));
}

static qs_err run(const options *o, int n_threads)
{
    inputs in = {.job = {.n_threads = n_threads}, .at = -1};
    json_t *results = json_array();
    qs_err err;
    QS_TRY(take(&in, o));
    for (int64_t i = 0; i < o->quants.n; i++) QS_TRY(plan_point(&in, o, i, results));
    if (o->quants.n > 1 && !o->common.dry_run) QS_TRY(qs_dir_create(o->out));
    for (int64_t i = 0; i < o->quants.n && !o->common.dry_run; i++) QS_TRY(write_point(&in, o, i));
    if (o->common.json) QS_TRY(print_json(results));
out:
    leave_point(&in);
    json_decref(results);
    qs_calib_file_close(in.calib);
    qs_model_close(in.parent);
    qs_mem_free(in.outs);
    return err;
}

int main(int argc, char **argv)
{
    options o = {.common = QS_COMMON_DEFAULTS};
    int n_threads;
    qs_arg rows[] = {
        {"model", QS_ARG_STRING, &o.model, "DIR|FILE.gguf", "the full-precision model", 0, 0, false},
        {"quant", QS_ARG_LIST, &o.quants, "FILE", "the quant artifact to export", 0, 0, false},
        {"format", QS_ARG_STRING, &o.format, "NAME",
         "gptq, gptq_v2, awq, bnb, exl2 or gguf; --list says what each holds", 0, 0, false},
        {"type", QS_ARG_STRING, &o.type, "NAME",
         "gguf: of the matrices, or a mixture such as q4_k_m (--list); default: the one that keeps the codes", 0, 0,
         false},
        {"embedding-type", QS_ARG_STRING, &o.embedding_type, "NAME",
         "gguf: of the embedding, a tied head with it; default: the mixture's, or as the model's file has it, or f16",
         0, 0, false},
        {"head-type", QS_ARG_STRING, &o.head_type, "NAME", "gguf: of a head of its own; default: likewise", 0, 0,
         false},
        {"calib", QS_ARG_STRING, &o.calib, "FILE",
         "gguf: statistics from qsweep-calibrate, for a --type that keeps no codes", 0, 0, false},
        {"out", QS_ARG_STRING, &o.out, "PATH",
         "directory (gguf: file) that will appear; of several points the directory of all", 0, 0, false},
        QS_ARGS_COMMON(&o.common),
    };
    qs_args args = {.program = "qsweep-export",
                    .summary = "write a quantised point in the format of the runtime that will serve it",
                    .rows = rows};
    bool done;
    qs_err err = qs_args_parse(&args, argc, argv, stdout, &done);
    if (err == QS_OK && !done && o.common.list) {
        err = print_list(&o);
    } else if (err == QS_OK && !done) {
        qs_args_apply_common(&o.common, &n_threads);
        err = run(&o, n_threads);
    }
    qs_args_free(&args);
    return qs_args_exit(err);
}
