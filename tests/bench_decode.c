/* Prefill and decode speed of a model in several forms. Warm, batch 1, monotonic clock.
 *
 * usage: bench_decode MODEL [N_PROMPT [N_DECODE [N_SAMPLES]]]    a table of medians
 *        bench_decode MODEL N_PROMPT N_DECODE serve FORM         one sample per line read from stdin, for
 *                                                                runs interleaved with a peer: prints
 *                                                                "prefill_seconds decode_seconds" */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/mem.h"
#include "base/rng.h"
#include "model/forward.h"
#include "quant/methods.h"

typedef struct form {
    const char *name, *what;
    bool windowed; /* the windowed forward on GEMM copies, which has no decoding */
    const char *spec; /* NULL = not quantised */
    qs_compute compute;
    qs_dtype dense;
} form;

static const form forms[] = {
    {"window-f32", "windowed forward, f32", true, NULL, QS_COMPUTE_F32, QS_F32},
    {"window-bf16", "windowed forward, bf16 products", true, NULL, QS_COMPUTE_BF16, QS_F32},
    {"f32", "decoder, f32 weights", false, NULL, QS_COMPUTE_F32, QS_F32},
    {"f16", "decoder, f16 weights", false, NULL, QS_COMPUTE_F32, QS_F16},
    {"bf16", "decoder, bf16 weights", false, NULL, QS_COMPUTE_F32, QS_BF16},
    {"int4", "decoder, 4-bit codes in groups of 32", false, "rtn:group=32", QS_COMPUTE_F32, QS_F16},
    {"int4-64", "decoder, 4-bit codes in groups of 64", false, "rtn:group=64", QS_COMPUTE_F32, QS_F16},
    {"nf4", "decoder, NF4, block 64, dq, bf16", false, "nf4", QS_COMPUTE_F32, QS_F16},
    {"nf4-fp32", "decoder, NF4, block 64, dq, fp32", false, "nf4:compute=fp32", QS_COMPUTE_F32, QS_F16},
    {"int8", "decoder, 8-bit codes in groups of 64", false, "rtn:bits=8", QS_COMPUTE_F32, QS_F16},
    {"llmint8", "decoder, LLM.int8, threshold 6", false, "int8", QS_COMPUTE_F32, QS_F16},
};
enum { N_FORMS = sizeof forms / sizeof *forms, WARM_UPS = 3 };

/* ---- linears quantised as they are asked for, by a method that needs no calibration ---- */
typedef struct quantised {
    const qs_model *model;
    qs_workspace *workspace;
    qs_spec spec;
    float *dense; /* the largest linear */
    qs_quant_result result;
} quantised;

static qs_err get_quantised(void *context, int64_t layer, qs_role role, qs_matrix_desc *desc)
{
    qs_err err = QS_OK;
    quantised *q = context;
    qs_tensor_info info = qs_model_info(q->model, role, layer);
    qs_quant_job job = {.name = qs_role_name(role), .weights = q->dense, .n_out = info.n_out, .n_in = info.n_in,
                        .backend = qs_workspace_backend(q->workspace)};
    qs_quant_task task = {.spec = &q->spec, .job = &job, .out = &q->result};
    qs_packed_free(&q->result.packed);
    QS_TRY(qs_model_read_f32(q->model, role, layer, q->dense));
    QS_TRY(qs_quant_solve(q->workspace, &task, 1));
    *desc = (qs_matrix_desc){.format = QS_MATRIX_INT, .n_out = info.n_out, .n_in = info.n_in,
                             .packed = &q->result.packed};
out:
    return err;
}

/* ---- a model in one form, ready to run ---- */
typedef struct subject {
    const form *form;
    qs_backend *backend;
    const qs_model *model;
    int64_t n_prompt, n_decode;
    int32_t *tokens; /* [n_prompt + n_decode] */
    float *logits;
    qs_decoder *decoder;
    qs_block **blocks; /* windowed */
    qs_matrix *head;
    qs_scratch *scratch;
    float *hidden, *y;
    size_t bytes; /* of weights */
} subject;

static qs_err open_windowed(subject *s)
{
    qs_err err = QS_OK;
    const qs_model_config *c = qs_model_get_config(s->model);
    qs_block_options options = {.uses = QS_USE_GEMM, .compute = s->form->compute, .dense_dtype = QS_F32};
    QS_TRY(QS_NEW(s->blocks, c->n_layers, "blocks"));
    for (int64_t i = 0; i < c->n_layers; i++) {
        QS_TRY(qs_block_create(&s->blocks[i], s->backend, s->model, NULL, i, &options));
        s->bytes += qs_block_bytes(s->blocks[i]);
    }
    QS_TRY(qs_forward_head(&s->head, s->backend, s->model, NULL, &options));
    QS_TRY(qs_scratch_create(&s->scratch, s->backend, s->model, s->n_prompt));
    QS_TRY(qs_backend_alloc(s->backend, &s->hidden, (size_t)(s->n_prompt * c->d_model) * sizeof(float), "hidden"));
    QS_TRY(qs_backend_alloc(s->backend, &s->y, (size_t)c->n_vocab * sizeof(float), "logits"));
out:
    return err;
}

static qs_err open_decoder(subject *s)
{
    qs_err err = QS_OK;
    quantised q = {.model = s->model};
    qs_linear_source source = {.get = get_quantised, .context = &q};
    const qs_model_config *c = qs_model_get_config(s->model);
    qs_decoder_options options = {.batch = 1, .n_ctx_cap = s->n_prompt + s->n_decode,
                                  .block = {.compute = s->form->compute, .dense_dtype = s->form->dense}};
    int64_t widest = c->d_ff > c->n_heads * c->head_dim ? c->d_ff : c->n_heads * c->head_dim;
    size_t kv_bytes;
    QS_TRY(QS_NEW(q.dense, c->d_model * widest, "weights"));
    if (s->form->spec != NULL) {
        QS_TRY(qs_spec_parse(&q.spec, s->form->spec));
        QS_TRY(qs_workspace_create(&q.workspace, s->backend));
    }
    QS_TRY(qs_decoder_create(&s->decoder, s->backend, s->model, s->form->spec != NULL ? &source : NULL, &options));
    qs_decoder_bytes(s->decoder, &s->bytes, &kv_bytes);
out:
    qs_packed_free(&q.result.packed);
    qs_workspace_destroy(q.workspace);
    qs_mem_free(q.dense);
    return err;
}

static qs_err subject_open(subject *s)
{
    qs_err err = QS_OK;
    int64_t n_vocab = qs_model_get_config(s->model)->n_vocab;
    QS_TRY(QS_NEW(s->tokens, s->n_prompt + s->n_decode, "tokens"));
    for (int64_t i = 0; i < s->n_prompt + s->n_decode; i++)
        s->tokens[i] = (int32_t)qs_rng_below(1, (uint64_t)i, n_vocab);
    QS_TRY(QS_NEW(s->logits, n_vocab, "logits"));
    err = s->form->windowed ? open_windowed(s) : open_decoder(s);
out:
    return err;
}

static void subject_close(subject *s)
{
    qs_decoder_destroy(s->decoder);
    for (int64_t i = 0; s->blocks != NULL && i < qs_model_get_config(s->model)->n_layers; i++)
        qs_block_destroy(s->blocks[i]);
    qs_mem_free(s->blocks);
    qs_matrix_destroy(s->head);
    qs_scratch_destroy(s->scratch);
    qs_backend_free(s->backend, s->hidden);
    qs_backend_free(s->backend, s->y);
    qs_mem_free(s->tokens);
    qs_mem_free(s->logits);
}

/* The prompt as one window, logits of its last token. */
static qs_err run_window(subject *s)
{
    qs_err err = QS_OK;
    const qs_model_config *c = qs_model_get_config(s->model);
    float *last = s->hidden + (s->n_prompt - 1) * c->d_model;
    QS_TRY(qs_forward_embed(s->backend, s->model, s->tokens, s->n_prompt, s->hidden));
    for (int64_t i = 0; i < c->n_layers; i++)
        QS_TRY(qs_block_forward(s->blocks[i], s->scratch, s->hidden, 1, s->n_prompt, NULL));
    QS_TRY(qs_forward_final_norm(s->backend, s->model, last, 1));
    QS_TRY(qs_op_linear(s->backend, s->head, last, 1, NULL, s->y));
    QS_TRY(qs_backend_download(s->backend, s->logits, s->y, (size_t)c->n_vocab * sizeof(float)));
out:
    return err;
}

static qs_err sample(subject *s, double *prefill_seconds, double *decode_seconds)
{
    qs_err err = QS_OK;
    double start = qs_clock_seconds();
    if (s->form->windowed) QS_TRY(run_window(s));
    else QS_TRY(qs_decoder_prefill(s->decoder, 0, s->tokens, s->n_prompt, s->logits));
    *prefill_seconds = qs_clock_seconds() - start;
    start = qs_clock_seconds();
    for (int64_t i = 0; i < s->n_decode && !s->form->windowed; i++)
        QS_TRY(qs_decoder_step(s->decoder, s->tokens + s->n_prompt + i, s->logits));
    *decode_seconds = qs_clock_seconds() - start;
out:
    return err;
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static qs_err print_form(subject *s, int64_t n_samples)
{
    qs_err err = QS_OK;
    enum { MOST = 256 };
    double prefill[MOST], decode[MOST];
    QS_TRY(subject_open(s));
    for (int64_t i = -WARM_UPS; i < n_samples; i++)
        QS_TRY(sample(s, &prefill[i < 0 ? 0 : i % MOST], &decode[i < 0 ? 0 : i % MOST]));
    size_t n = (size_t)(n_samples < MOST ? n_samples : MOST);
    qsort(prefill, n, sizeof *prefill, ascending);
    qsort(decode, n, sizeof *decode, ascending);
    char bytes[QS_MEM_TEXT_BYTES];
    double step = decode[n / 2] / (double)s->n_decode;
    printf("%-38s %10s  prefill %7.1f tok/s", s->form->what, qs_mem_format(bytes, s->bytes),
           (double)s->n_prompt / prefill[n / 2]);
    if (!s->form->windowed)
        printf("  decode %6.2f ms/tok  %6.1f tok/s  %5.1f GB/s", step * 1e3, 1.0 / step,
               (double)s->bytes / step * 1e-9);
    printf("\n");
    (void)fflush(stdout);
out:
    subject_close(s);
    return err;
}

static qs_err serve(subject *s)
{
    qs_err err = QS_OK;
    char line[64];
    double prefill, decode;
    QS_TRY(subject_open(s));
    for (int i = 0; i < WARM_UPS; i++) QS_TRY(sample(s, &prefill, &decode));
    printf("ready\n");
    (void)fflush(stdout);
    while (fgets(line, sizeof line, stdin) != NULL) {
        QS_TRY(sample(s, &prefill, &decode));
        printf("%.9f %.9f\n", prefill, decode);
        (void)fflush(stdout);
    }
out:
    subject_close(s);
    return err;
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        printf("bench_decode: skip: no MODEL was given\n");
        return 0;
    }
    qs_err err = QS_OK;
    qs_model *model = NULL;
    qs_backend *backend = NULL;
    bool serving = argc > 5 && strcmp(argv[4], "serve") == 0, found = false;
    int64_t n_samples = argc > 4 && !serving ? strtoll(argv[4], NULL, 10) : 9;
    QS_TRY(qs_model_open(&model, argv[1]));
    QS_TRY(qs_backend_create(&backend, "cpu", 0, 0));
    for (size_t i = 0; i < N_FORMS; i++) {
        subject s = {.form = &forms[i], .backend = backend, .model = model,
                     .n_prompt = argc > 2 ? strtoll(argv[2], NULL, 10) : 512,
                     .n_decode = argc > 3 ? strtoll(argv[3], NULL, 10) : 64};
        if (s.n_prompt < 1 || s.n_decode < 1 || n_samples < 1) {
            err = qs_fail(QS_E_USAGE, "N_PROMPT, N_DECODE and N_SAMPLES are positive numbers");
            goto out;
        }
        if (serving && strcmp(argv[5], forms[i].name) != 0) continue;
        found = true;
        if (serving) QS_TRY(serve(&s));
        else QS_TRY(print_form(&s, n_samples));
    }
    if (!found) err = qs_fail(QS_E_USAGE, "form %s is not known", argv[5]);
out:
    qs_backend_destroy(backend);
    qs_model_close(model);
    if (err != QS_OK) fprintf(stderr, "bench_decode: %s\n", qs_error_text());
    return (int)err;
}
