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
enum fiber_state { READY, RUNNING, IN_WARP, IN_BLOCK, DONE };
enum request_kind { SHUFFLE, VOTE, MMA };

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

extern "C" {
/* Does what one group of lanes that wait for each other asked for and lets them go on; false if there is no such. */
bool qs_simt_serve_warp(const qs_simt::warp *w);
}

#endif
