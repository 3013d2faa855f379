/* Specs: one point of the grid, as text, as numbers and as a canonical id.
 *
 *   rtn:bits=4,group=64,sym=1            rtn-b4-g64-sym
 *   gptq:bits=3,group=128,sym=0,act=1    gptq-b3-g128-asym-act
 *   awq:bits=4,group=64,zero=1           awq-b4-g64-asym
 *   nf4:block=64,dq=1,compute=bf16       nf4-blk64-dq-bf16
 *   int8                                 int8
 *   exl2:bpw=4.0,head=6                  exl2-4.00bpw-h6
 *   gptq:bpw=3.5                         gptq-3.50bpw-sym
 *   gptq:bits=3,group=64,rotate=1        gptq-b3-g64-sym-rot
 *
 * bpw is a budget: bits per weight of all linears together, whatever is stored counted. Each matrix then gets what its
 * method offers (qs_method.options), by quant/allocate.h.
 *
 * bits, group and sym always stand in the id, block, dq and compute in that of nf4 and fp4; any other key only when it
 * differs from its default. Two texts that mean the same point have the same id. */
#ifndef QS_QUANT_SPEC_H
#define QS_QUANT_SPEC_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "backend/packed.h"
#include "base/error.h"
#include "base/json.h"
#include "quant/mix.h"

enum { QS_SPEC_ID_BYTES = 96, QS_SPEC_TEXT_BYTES = 256 };

struct qs_method;

/* Errors of the linears' outputs, from second moments; or of the block's output, on some tokens (quant/awq_block.h). */
typedef enum qs_awq_loss { QS_AWQ_LINEAR, QS_AWQ_BLOCK } qs_awq_loss;

typedef struct qs_spec {
    const struct qs_method *method;
    char id[QS_SPEC_ID_BYTES];
    char text[QS_SPEC_TEXT_BYTES];  /* canonical: every key of the method */
    char variant[QS_SPEC_ID_BYTES]; /* the id after bits and group: "sym", "asym-act", "dq-bf16" */
    int64_t bits;                   /* 2, 3, 4, 8; 0 = each matrix has its own */
    int64_t group_size;             /* -1 = the whole row; block=, of the flattened matrix; 0 as with bits */
    double bpw;                     /* budget; 0 = none */
    bool even;                      /* even=1: of a budget every matrix gets the same, for comparison */
    bool sym;
    /* GPTQ: */
    bool act_order;     /* act=1: columns by descending diag(H); groups follow the order */
    bool static_groups; /* static=1: with act=1, groups stay in the original order */
    bool group_aware;   /* gar=1: order inside groups and of groups; no permutation at inference */
    bool search;        /* search=1: scale search weighted by diag(H) instead of min-max */
    double damping;     /* damp: fraction of mean diag(H) */
    /* AWQ: */
    bool weight_stats; /* duo=1: candidates that look at the weights' size besides the inputs' */
    bool clip;         /* clip=1: ranges are cut where that lowers the loss */
    bool then_gptq;    /* gptq=1: scaled weights are coded by GPTQ instead of rounded */
    int64_t loss;      /* a qs_awq_loss: what the best scalings, and cuts of ranges, are rated by */
    /* bitsandbytes (backend/packed.h): */
    bool double_quant;  /* dq=1: block maxima in 8 bits */
    int64_t compute;    /* a qs_rounding */
    double threshold;   /* of int8: columns with |x| from here on in 16 bits; 0 = none */
    bool rotate; /* rotate=1: of a model whose residual stream is rotated (model/turned.h) */
    /* EXL2: */
    int64_t head;       /* bits of the output head; 16 = as it is */
    const qs_mix *mix;  /* of one matrix; NULL with a budget */
} qs_spec;

/* QS_E_USAGE with the place and what is accepted: unknown method or key, bits=5, group=0, act with gar ... */
QS_MUST_CHECK qs_err qs_spec_parse(qs_spec *out, const char *text);

/* From a grid row's cells: method, bits (or bpw: "3.5"), group_size, variant ("sym", "asym-act", "h6", "" = the
 * default). */
QS_MUST_CHECK qs_err qs_spec_from_cells(qs_spec *out, const char *method, const char *bits,
                                        const char *group_size, const char *variant);

/* The same point of AWQ with another loss, by its name: "linear", "block". Other methods' stay. QS_E_USAGE. */
QS_MUST_CHECK qs_err qs_spec_set_awq_loss(qs_spec *spec, const char *name);

/* Whether this spec can quantise rows of n_in weights; QS_E_USAGE names the matrix: a group larger than the
 * row. A group that does not divide the row is fine: the last one is shorter. Blocks fit any matrix. EXL2 takes rows
 * in multiples of 32 alone (QS_E_UNSUPPORTED). */
QS_MUST_CHECK qs_err qs_spec_check_row(const qs_spec *spec, int64_t n_in, const char *matrix);

/* Whether rows of n_in weights have one scale each, or groups of neighbours whose scales do not wait for
 * their turn; and whether a permutation is stored, because groups follow an order of their own. */
bool qs_spec_static_scales(const qs_spec *spec, int64_t n_in);
bool qs_spec_has_perm(const qs_spec *spec, int64_t n_in);

/* Whether it quantises the output head too, and how: *out, as of one matrix without a budget. */
bool qs_spec_head(const qs_spec *spec, qs_spec *out);

/* Sets the numbers of a packed matrix of this spec, which has no budget. QS_E_INPUT when they do not fit. */
QS_MUST_CHECK qs_err qs_spec_shape(const qs_spec *spec, int64_t n_out, int64_t n_in, qs_packed *out);

/* One key of a method as people read it; texts are borrowed for the call. */
typedef struct qs_spec_key {
    const char *name, *fallback, *allowed, *text;
} qs_spec_key;
typedef void (*qs_spec_key_sink)(void *context, const struct qs_method *method, const qs_spec_key *key);
/* Every key of every method, method by method. */
void qs_spec_list_keys(qs_spec_key_sink put, void *context);

/* The same for --list, as text and as a document: {METHOD: {"text", "keys": [{"name", "default", "allowed", "text"}]}};
 * NULL when memory runs out. */
void qs_spec_print_keys(FILE *stream);
json_t *qs_spec_keys_json(void);

#endif
