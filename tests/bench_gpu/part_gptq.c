/* Quantising one block at 4 bits in groups of 128, per input of the block: reading second moments in, and GPTQ
 * with scale search (the factor by itself, then the solver with the loss it reports) or AWQ (its search, cuts,
 * codes and loss). Weights and activations are random: the time does not depend on the values. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/mem.h"
#include "quant/methods.h"
#include "quant/order.h"
#include "tests/bench_gpu/bench_cuda.h"

enum { N_SITES = 4, SITE_LINEARS_MAX = 3 };
#define REPEAT_BELOW_SECONDS 8.0

static const struct {
    const char *name;
    int first, n; /* linears */
} sites[N_SITES] = {{"qkv", BENCH_Q, 3}, {"o", BENCH_O, 1}, {"gate_up", BENCH_GATE, 2}, {"down", BENCH_DOWN, 1}};

typedef struct quantizer {
    bench *b;
    qs_spec spec;
    qs_workspace *workspace;
    qs_factor_cache *factors[N_SITES]; /* by site; sites of one width share the first one's */
    float *grams[N_SITES];             /* packed; likewise */
    float *weights;                    /* of a site's linears */
    int32_t *order;
    float *abs_mean, *columns;         /* AWQ: mean sizes of inputs; the scaling that it finds */
} quantizer;

static int64_t site_width(const bench *b, int site)
{
    int64_t n_out, n_in;
    bench_linear_shape(&b->shape, sites[site].first, &n_out, &n_in);
    return n_in;
}

static int width_slot(const bench *b, int site)
{
    int slot = 0;
    while (site_width(b, slot) != site_width(b, site)) slot++;
    return slot;
}

/* The upper triangle by rows, as calib.h5 holds it. */
static qs_err make_gram(bench *b, int64_t d, float **packed)
{
    qs_err err = QS_OK;
    float *x = NULL;
    double *gram = NULL, *row = NULL;
    float *at;
    QS_TRY(QS_NEW(*packed, d * (d + 1) / 2, "second moments"));
    QS_TRY(QS_NEW(row, d, "a row of second moments"));
    QS_TRY(bench_normal(b, &x, b->shape.gptq_rows * d, 1.0f, "activations"));
    QS_TRY(qs_backend_alloc(b->backend, &gram, (size_t)(d * d) * sizeof *gram, "second moments"));
    QS_TRY(bench_zero(b, gram, d * d));
    QS_TRY(qs_op_gram(b->backend, x, b->shape.gptq_rows, d, gram));
    at = *packed;
    for (int64_t i = 0; i < d; i++) {
        QS_TRY(qs_backend_download(b->backend, row + i, gram + i * d + i, (size_t)(d - i) * sizeof *row));
        for (int64_t j = i; j < d; j++) *at++ = (float)row[j];
    }
out:
    qs_backend_free(b->backend, x);
    qs_backend_free(b->backend, gram);
    qs_mem_free(row);
    return err;
}

static qs_err open_quantizer(quantizer *q, bench *b, const char *spec)
{
    qs_err err = QS_OK;
    int64_t most = 0, widest = 0;
    *q = (quantizer){.b = b};
    for (int site = 0; site < N_SITES; site++) {
        int64_t n = 0, n_out, n_in, width = site_width(b, site);
        for (int i = 0; i < sites[site].n; i++) {
            bench_linear_shape(&b->shape, sites[site].first + i, &n_out, &n_in);
            n += n_out * n_in;
        }
        most = n > most ? n : most;
        widest = width > widest ? width : widest;
        if (width_slot(b, site) == site) QS_TRY(make_gram(b, width, &q->grams[site]));
    }
    QS_TRY(qs_spec_parse(&q->spec, spec));
    QS_TRY(qs_workspace_create(&q->workspace, b->backend));
    QS_TRY(QS_NEW(q->order, widest, "order"));
    QS_TRY(QS_NEW(q->abs_mean, widest, "sizes of inputs"));
    QS_TRY(QS_NEW(q->columns, widest, "scaling"));
    for (int64_t i = 0; i < widest; i++) q->abs_mean[i] = 0.1f + fabsf(b->normal[i % BENCH_PATTERN]);
    QS_TRY(QS_NEW(q->weights, most, "weights"));
    for (int64_t i = 0; i < most; i++) q->weights[i] = 0.02f * b->normal[i % BENCH_PATTERN];
out:
    return err;
}

static void close_quantizer(quantizer *q)
{
    for (int site = 0; site < N_SITES; site++) {
        qs_factor_cache_destroy(q->factors[site]);
        qs_mem_free(q->grams[site]);
    }
    qs_workspace_destroy(q->workspace);
    qs_mem_free(q->weights);
    qs_mem_free(q->order);
    qs_mem_free(q->abs_mean);
    qs_mem_free(q->columns);
}

/* The factor that the solver will ask for, so that it is timed by itself. */
static qs_err make_factor(quantizer *q, qs_factor_cache *factors, int64_t width)
{
    qs_err err = QS_OK;
    const float *u;
    double damping_used;
    if (q->spec.damping == 0) return QS_OK;
    if (q->spec.group_aware) QS_TRY(qs_order_group_aware(qs_factor_diag(factors), width, q->spec.group_size, q->order));
    QS_TRY(qs_factor_get(factors, q->spec.group_aware ? q->order : NULL, q->spec.damping, &u, &damping_used));
out:
    return err;
}

typedef enum step { LOAD, FACTOR, SOLVE, N_STEPS } step;

static qs_err solve(quantizer *q, int site, qs_factor_cache *factors)
{
    qs_err err = QS_OK;
    qs_quant_job jobs[SITE_LINEARS_MAX];
    qs_quant_task tasks[SITE_LINEARS_MAX];
    qs_quant_result results[SITE_LINEARS_MAX] = {0};
    const float *weights = q->weights;
    for (int i = 0; i < sites[site].n; i++) {
        jobs[i] = (qs_quant_job){.name = sites[site].name, .weights = weights, .factors = factors,
                                 .backend = q->b->backend, .abs_mean = q->abs_mean};
        bench_linear_shape(&q->b->shape, sites[site].first + i, &jobs[i].n_out, &jobs[i].n_in);
        tasks[i] = (qs_quant_task){.spec = &q->spec, .job = &jobs[i], .out = &results[i],
                                   .columns = q->spec.method->folds ? q->columns : NULL};
        weights += jobs[i].n_out * jobs[i].n_in;
    }
    QS_TRY(qs_quant_solve(q->workspace, tasks, sites[site].n));
    QS_TRY(qs_backend_sync(q->b->backend));
out:
    for (int i = 0; i < sites[site].n; i++) qs_packed_free(&results[i].packed);
    return err;
}

static qs_err run_site(quantizer *q, int site, double seconds[N_STEPS])
{
    qs_err err = QS_OK;
    int slot = width_slot(q->b, site);
    int64_t width = site_width(q->b, site), n_tokens = q->b->shape.gptq_rows;
    qs_factor_cache **factors = &q->factors[slot];
    double started = qs_clock_seconds();
    if (*factors == NULL)
        QS_TRY(qs_factor_cache_create(factors, q->workspace, q->grams[slot], width, n_tokens, sites[site].name));
    else
        QS_TRY(qs_factor_cache_load(*factors, q->grams[slot], n_tokens, sites[site].name));
    QS_TRY(qs_backend_sync(q->b->backend));
    seconds[LOAD] = qs_clock_seconds() - started;
    started = qs_clock_seconds();
    QS_TRY(make_factor(q, *factors, width));
    QS_TRY(qs_backend_sync(q->b->backend));
    seconds[FACTOR] = qs_clock_seconds() - started;
    started = qs_clock_seconds();
    QS_TRY(solve(q, site, *factors));
    seconds[SOLVE] = qs_clock_seconds() - started;
out:
    return err;
}

static void print_step(const quantizer *q, const char *site, const char *name, double seconds)
{
    char text[32];
    (void)snprintf(text, sizeof text, "%s-%s", site, name);
    bench_print(q->b, &(bench_row){.part = q->spec.method->name, .name = text,
                                   .format = q->spec.sym ? "int4-g128-sym" : "int4-g128-asym",
                                   .rows = q->b->shape.gptq_rows, .time = {seconds, seconds, seconds, 1}, .error = -1});
}

static qs_err run_block(bench *b, const char *spec)
{
    static const char *const names[N_STEPS] = {"load", "factor", "solve"};
    qs_err err = QS_OK;
    quantizer q = {0};
    double seconds[N_SITES][N_STEPS], total = 0.0;
    QS_TRY(open_quantizer(&q, b, spec));
    /* The first pass grows the buffers that every later layer re-uses; it stands when another would take too long. */
    for (int pass = 0; pass < 2 && (pass == 0 || total < REPEAT_BELOW_SECONDS); pass++) {
        total = 0.0;
        for (int site = 0; site < N_SITES; site++) {
            QS_TRY(run_site(&q, site, seconds[site]));
            for (int s = 0; s < N_STEPS; s++) total += seconds[site][s];
        }
    }
    for (int site = 0; site < N_SITES; site++)
        for (int s = 0; s < N_STEPS; s++)
            if (s != FACTOR || q.spec.damping > 0) print_step(&q, sites[site].name, names[s], seconds[site][s]);
    print_step(&q, "block", "all", total);
out:
    close_quantizer(&q);
    return err;
}

qs_err bench_part_gptq(bench *b) { return run_block(b, "gptq:bits=4,group=128"); }

qs_err bench_part_awq(bench *b) { return run_block(b, "awq:bits=4,group=128"); }
