/* A CUDA thread of the twin and what it may wait for; simt_engine.cpp switches between them, simt_warp.cpp
 * serves warps. */
#ifndef QS_BACKEND_CUDA_SIMT_FIBER_H
#define QS_BACKEND_CUDA_SIMT_FIBER_H

#ifndef __x86_64__
#include <ucontext.h>
#endif

#include "backend/cuda/device.h"

namespace qs_simt {

enum { WARP = 32 };
enum fiber_state { READY, RUNNING, IN_WARP, IN_BLOCK, IN_CLUSTER, AT_BARRIER /* in shared memory */, DONE };
enum request_kind { SHUFFLE, VOTE, MMA, WGMMA, WGMMA_COMMIT, WGMMA_WAIT };

struct request { /* what a waiting lane asks of its warp or block */
    request_kind kind;
    unsigned mask, source;
    int predicate;
    const void *in;
    void *out;
    size_t bytes;
    const uint32_t *a, *b;
    int bf16;
    unsigned vote; /* the answer */
    qs_simt_place place;
};

struct copy { /* in the background */
    void *shared;
    uint4 value;
    int group;
};

struct fiber {
    qs_simt_thread self; /* first, so that qs_simt_self is the fiber */
    fiber_state state;
    char *stack;
#ifdef __x86_64__
    void *stack_pointer;
#else
    ucontext_t context;
#endif
    void *fake_stack;
    request asked;
    copy *copies; /* oldest first */
    int n_copies, copies_cap, n_groups;
    void *products; /* of its warp, in the first lane (simt_async.cpp) */
};

struct warp {
    fiber *lanes;
    unsigned n_lanes; /* fewer than 32 in the last warp of an odd block */
};

} // namespace qs_simt

static inline bool qs_simt_same_place(qs_simt_place a, qs_simt_place b)
{
    return a.line == b.line && (a.file == b.file || strcmp(a.file, b.file) == 0);
}

/* Tensor cores align and cut off: one step to f32 towards zero. A kernel that lives with this lives with them. */
static inline float qs_simt_cut_to_f32(double x)
{
    float y = (float)x;
    return fabs((double)y) > fabs(x) ? __uint_as_float(__float_as_uint(y) - 1u) : y;
}

extern "C" {
/* Does what one group of lanes that wait for each other asked for and lets them go on; false if there is no such. */
bool qs_simt_serve_warp(const qs_simt::warp *w);
[[noreturn]] void qs_simt_give_up(const char *what, qs_simt_place place); /* in the thread that runs */

/* ---- simt_async.cpp ---- */
bool qs_simt_phase_has_passed(const qs_simt::request *asked);
void qs_simt_do_products(const qs_simt::warp *w, const qs_simt::request *asked);
/* Before a block: what the one before it left. */
void qs_simt_forget_copies(void);
void qs_simt_forget_products(qs_simt::fiber *f);
void qs_simt_free_copies(void);
void qs_simt_free_products(qs_simt::fiber *f);
}

#endif
