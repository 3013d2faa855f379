/* Runs CUDA kernels on the CPU for simt.h: a fiber per CUDA thread, a block per thread of the operating system.
 *
 * A fiber runs until it waits: for its warp (shuffle, vote, matrix product) or for its block. When no lane of a warp
 * can go on, the scheduler looks for lanes that wait for each other, does what they asked for, and lets them run; when
 * no warp can go on, everybody must be at the same barrier. The blocks of a cluster run side by side. */
#include "backend/cuda/simt_engine.h"

#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/common_interface_defs.h>
#endif

#include "backend/cuda/simt_fiber.h"
#include "backend/cuda/wgmma.h"

using namespace qs_simt;

__thread const qs_simt_thread *qs_simt_self;

#ifdef __x86_64__
/* Pushes what a call must preserve, exchanges the stacks, and pops it on the other side. */
extern "C" void qs_simt_exchange_stacks(void **kept, void *next);
__asm__(".text\n"
        ".type qs_simt_exchange_stacks, @function\n"
        "qs_simt_exchange_stacks:\n\t"
        "pushq %rbp\n\t"
        "pushq %rbx\n\t"
        "pushq %r12\n\t"
        "pushq %r13\n\t"
        "pushq %r14\n\t"
        "pushq %r15\n\t"
        "movq %rsp, (%rdi)\n\t"
        "movq %rsi, %rsp\n\t"
        "popq %r15\n\t"
        "popq %r14\n\t"
        "popq %r13\n\t"
        "popq %r12\n\t"
        "popq %rbx\n\t"
        "popq %rbp\n\t"
        "ret\n"
        ".size qs_simt_exchange_stacks, . - qs_simt_exchange_stacks\n");
#endif

namespace {

enum { N_THREADS_MAX = 1024, GUARD_BYTES = 4096 };
#ifdef __SANITIZE_ADDRESS__
const size_t stack_bytes = 1 << 20; /* its reports need a deep stack */
#else
const size_t stack_bytes = 128 << 10;
#endif

/* The block that a thread of the operating system is at. */
struct worker {
    qs_simt_block blocks[QS_SIMT_CLUSTER_MAX]; /* of a cluster */
    unsigned n_blocks;
    fiber *fibers; /* [N_THREADS_MAX] */
    unsigned n_threads; /* of a block */
    char **free_stacks; /* last in, first out: threads that never wait share one stack, which stays in the cache */
    int n_free_stacks;
    const qs_simt_work *work;
    int n_true[QS_SIMT_CLUSTER_MAX], n_arrived[QS_SIMT_CLUSTER_MAX]; /* the last barrier's answer */
#ifdef __x86_64__
    void *stack_pointer;
#else
    ucontext_t context;
#endif
    void *fake_stack;
    const void *stack_bottom;
    size_t stack_size;
};

thread_local worker here = {};

bool is_reverse_asked_for(void)
{
    const char *order = getenv("QS_SIMT_ORDER");
    return order != NULL && strcmp(order, "reverse") == 0;
}
bool reversed = is_reverse_asked_for();

fiber *current(void) { return reinterpret_cast<fiber *>(const_cast<qs_simt_thread *>(qs_simt_self)); }

[[noreturn]] void give_up(const char *what, const fiber *f, qs_simt_place place)
{
    uint3 b = f->self.block->index, t = f->self.index;
    fflush(stdout);
    fprintf(stderr, "simt: %s: kernel %s, block (%u, %u, %u), thread (%u, %u, %u), at %s:%d\n", what, here.work->name,
            b.x, b.y, b.z, t.x, t.y, t.z, place.file, place.line);
    abort();
}

/* ---- fibers ---- */

/* The sanitizer is told of both halves of every exchange. */
#ifdef __SANITIZE_ADDRESS__
void leave_for(void **fake_stack, const void *bottom, size_t size)
{
    __sanitizer_start_switch_fiber(fake_stack, bottom, size);
}
void arrive(void *fake_stack, const void **bottom, size_t *size)
{
    __sanitizer_finish_switch_fiber(fake_stack, bottom, size);
}
#else
void leave_for(void **, const void *, size_t) {}
void arrive(void *, const void **, size_t *) {}
#endif

void to_scheduler(fiber *f)
{
    leave_for(f->state == DONE ? NULL : &f->fake_stack, here.stack_bottom, here.stack_size);
#ifdef __x86_64__
    qs_simt_exchange_stacks(&f->stack_pointer, here.stack_pointer);
#else
    swapcontext(&f->context, &here.context);
#endif
    arrive(f->fake_stack, &here.stack_bottom, &here.stack_size);
}

void fiber_main(void)
{
    arrive(NULL, &here.stack_bottom, &here.stack_size);
    here.work->run(here.work->arguments);
    current()->state = DONE;
    to_scheduler(current());
    abort();
}

char *new_stack(void)
{
    void *memory = mmap(NULL, GUARD_BYTES + stack_bytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED || mprotect(memory, GUARD_BYTES, PROT_NONE) != 0) {
        perror("simt: allocate the stack of a CUDA thread");
        abort();
    }
    return static_cast<char *>(memory) + GUARD_BYTES;
}

/* Gives the fiber a stack on which fiber_main is about to be called. */
void prepare_to_run(fiber *f)
{
    f->stack = here.n_free_stacks > 0 ? here.free_stacks[--here.n_free_stacks] : new_stack();
    f->fake_stack = NULL;
#ifdef __x86_64__
    /* Tops at different offsets keep the stacks from falling into the same sets of the cache. Above fiber_main lies
     * a null return address, and the stack is aligned at its entry as the ABI wants it. */
    size_t offset = (reinterpret_cast<uintptr_t>(f->stack) / stack_bytes * 320) & 0x1fc0;
    void **top = reinterpret_cast<void **>(f->stack + stack_bytes - offset);
    *--top = NULL;
    *--top = reinterpret_cast<void *>(fiber_main);
    for (int i = 0; i < 6; i++) *--top = NULL;
    f->stack_pointer = top;
#else
    getcontext(&f->context);
    f->context.uc_stack.ss_sp = f->stack;
    f->context.uc_stack.ss_size = stack_bytes;
    f->context.uc_link = NULL;
    makecontext(&f->context, fiber_main, 0);
#endif
}

void run_until_it_waits(fiber *f)
{
    if (f->state == READY) prepare_to_run(f);
    f->state = RUNNING;
    qs_simt_self = &f->self;
    leave_for(&here.fake_stack, f->stack, stack_bytes);
#ifdef __x86_64__
    qs_simt_exchange_stacks(&here.stack_pointer, f->stack_pointer);
#else
    swapcontext(&here.context, &f->context);
#endif
    arrive(here.fake_stack, NULL, NULL);
    if (f->state == DONE) here.free_stacks[here.n_free_stacks++] = f->stack;
}

void wait_in(fiber_state state)
{
    fiber *f = current();
    f->state = state;
    to_scheduler(f);
}

/* ---- warps ---- */

/* What a pass over warps found. */
struct pass {
    bool has_moved;
    const fiber *at_barrier; /* in shared memory; somebody who stays there */
};

/* Until every lane has ended or waits for others than its warp. */
void run_warp(const warp *w, pass *p)
{
    for (;;) {
        const fiber *waiting = NULL, *at_barrier = NULL;
        for (unsigned k = 0; k < w->n_lanes; k++) {
            fiber *f = &w->lanes[reversed ? w->n_lanes - 1 - k : k];
            if (f->state == AT_BARRIER && qs_simt_phase_has_passed(&f->asked)) f->state = RUNNING;
            if (f->state == READY || f->state == RUNNING) {
                run_until_it_waits(f);
                p->has_moved = true;
            }
            if (f->state == IN_WARP) waiting = f;
            if (f->state == AT_BARRIER) at_barrier = f;
        }
        if (at_barrier != NULL) p->at_barrier = at_barrier;
        if (waiting == NULL) return;
        if (qs_simt_serve_warp(w)) continue;
        if (at_barrier != NULL) return;
        give_up("warp primitive not reached by every lane of its mask", waiting, waiting->asked.place);
    }
}

/* ---- blocks ---- */

/* If all of threads from .. to - 1 that have not ended wait in this state, they go on; false if not, or if all have
 * ended. */
bool open_barrier(fiber_state state, unsigned from, unsigned to, int *n_true, int *n_arrived)
{
    const fiber *first = NULL;
    int n = 0, n_with = 0;
    for (unsigned i = from; i < to; i++) {
        const fiber *f = &here.fibers[i];
        if (f->state == DONE) continue;
        if (f->state != state) return false;
        if (first == NULL) first = f;
        if (!qs_simt_same_place(f->asked.place, first->asked.place))
            give_up("__syncthreads reached at different places of the source", f, f->asked.place);
        n_with += f->asked.predicate != 0;
        n++;
    }
    for (unsigned i = from; i < to; i++)
        if (here.fibers[i].state == state) here.fibers[i].state = RUNNING;
    *n_true = n_with;
    *n_arrived = n;
    return first != NULL;
}

/* The blocks' own barriers, or else that of the cluster. */
bool open_barriers(void)
{
    bool opened = false;
    int n_true, n_arrived;
    for (unsigned b = 0; b < here.n_blocks; b++)
        opened |= open_barrier(IN_BLOCK, b * here.n_threads, (b + 1) * here.n_threads, &here.n_true[b],
                               &here.n_arrived[b]);
    return opened || open_barrier(IN_CLUSTER, 0, here.n_blocks * here.n_threads, &n_true, &n_arrived);
}

void start_fibers(void)
{
    for (unsigned i = 0; i < here.n_blocks * here.n_threads; i++) {
        fiber *f = &here.fibers[i];
        const qs_simt_block *block = &here.blocks[i / here.n_threads];
        unsigned t = i % here.n_threads;
        dim3 size = block->size;
        f->self = {{t % size.x, t / size.x % size.y, t / size.x / size.y}, t % WARP, block};
        f->state = READY;
        f->n_copies = f->n_groups = 0;
        qs_simt_forget_products(f);
    }
    qs_simt_forget_copies();
}

/* A cluster of blocks, mostly of one. */
void run_cluster(void)
{
    unsigned n_warps = (here.n_threads + WARP - 1) / WARP, n = here.n_blocks * n_warps;
    pass p;
    start_fibers();
    do {
        do {
            p = {false, NULL};
            for (unsigned k = 0; k < n; k++) {
                unsigned at = reversed ? n - 1 - k : k, first = at % n_warps * WARP;
                unsigned rest = here.n_threads - first;
                const warp w = {&here.fibers[at / n_warps * here.n_threads + first],
                                rest < WARP ? rest : (unsigned)WARP};
                run_warp(&w, &p);
            }
        } while (p.at_barrier != NULL && p.has_moved);
    } while (open_barriers());
    if (p.at_barrier != NULL)
        give_up("nobody completes the phase of a barrier in shared memory", p.at_barrier, p.at_barrier->asked.place);
    for (unsigned i = 0; i < here.n_blocks * here.n_threads; i++)
        if (here.fibers[i].state != DONE)
            give_up("a barrier not reached by every thread", &here.fibers[i], here.fibers[i].asked.place);
}

/* Threads of OpenMP end where a later team is smaller. */
void end_worker(void *)
{
    for (int i = 0; i < here.n_free_stacks; i++) munmap(here.free_stacks[i] - GUARD_BYTES, GUARD_BYTES + stack_bytes);
    for (int i = 0; i < N_THREADS_MAX; i++) {
        free(here.fibers[i].copies);
        qs_simt_free_products(&here.fibers[i]);
    }
    qs_simt_free_copies();
    free(here.free_stacks);
    free(here.fibers);
    here = {};
}

template <typename T> T *new_array(size_t n)
{
    T *array = static_cast<T *>(calloc(n, sizeof(T)));
    if (array != NULL) return array;
    perror("simt: allocate the state of a block");
    abort();
}

pthread_key_t at_thread_end;
void make_key(void) { (void)pthread_key_create(&at_thread_end, end_worker); }

void make_worker(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    (void)pthread_once(&once, make_key);
    here.fibers = new_array<fiber>(N_THREADS_MAX);
    here.free_stacks = new_array<char *>(N_THREADS_MAX);
    (void)pthread_setspecific(at_thread_end, &here);
}

} // namespace

void qs_simt_set_reversed(bool value) { reversed = value; }

/* The share of one thread of the operating system: clusters as it gets hold of them. */
static void run_clusters(const qs_simt_work *work, int64_t n_clusters, int64_t *n_taken)
{
    if (here.fibers == NULL) make_worker();
    dim3 grid = work->grid;
    here.work = work;
    here.n_threads = work->block.x * work->block.y * work->block.z;
    here.n_blocks = work->cluster;
    for (unsigned b = 0; b < here.n_blocks; b++) {
        here.blocks[b] = {work->block, grid, {0, 0, 0}, NULL};
        /* Of exactly the asked size, so that a sanitizer sees an access beyond it. */
        void **shared = &here.blocks[b].dynamic_shared;
        if (work->shared_bytes > 0 && posix_memalign(shared, 1024, work->shared_bytes) != 0) abort();
    }
    for (;;) {
        int64_t k = __atomic_fetch_add(n_taken, 1, __ATOMIC_RELAXED);
        if (k >= n_clusters) break;
        if (reversed) k = n_clusters - 1 - k;
        for (unsigned b = 0; b < here.n_blocks; b++) {
            int64_t at = k * here.n_blocks + b;
            here.blocks[b].index = {(unsigned)(at % grid.x), (unsigned)(at / grid.x % grid.y),
                                    (unsigned)(at / grid.x / grid.y)};
            if (work->shared_bytes > 0) memset(here.blocks[b].dynamic_shared, 0xff, work->shared_bytes);
        }
        qs_simt_poison_static_shared();
        run_cluster();
    }
    for (unsigned b = 0; b < here.n_blocks; b++) free(here.blocks[b].dynamic_shared);
}

void qs_simt_run(const qs_simt_work *work)
{
    int64_t n_blocks = (int64_t)work->grid.x * work->grid.y * work->grid.z, n_taken = 0;
    int64_t n_threads = n_blocks * work->block.x * work->block.y * work->block.z;
    int64_t n_clusters = n_blocks / work->cluster;
    /* Waking the others costs more than a small launch does. */
    if (n_clusters == 1 || n_threads < 8192) {
        run_clusters(work, n_clusters, &n_taken);
        return;
    }
#pragma omp parallel
    run_clusters(work, n_clusters, &n_taken);
}

/* ---- what kernels call ---- */

int qs_simt_barrier(int predicate, int *n_threads, qs_simt_place place)
{
    fiber *f = current();
    f->asked.predicate = predicate;
    f->asked.place = place;
    wait_in(IN_BLOCK);
    unsigned block = (unsigned)(f->self.block - here.blocks);
    if (n_threads != NULL) *n_threads = here.n_arrived[block];
    return here.n_true[block];
}

/* ---- clusters (cluster.h) ---- */

void qs_simt_cluster_barrier(qs_simt_place place)
{
    fiber *f = current();
    f->asked.predicate = 0;
    f->asked.place = place;
    wait_in(IN_CLUSTER);
}

void *qs_simt_in_block(const void *shared, unsigned block, qs_simt_place place)
{
    const char *own = static_cast<const char *>(current()->self.block->dynamic_shared);
    const char *at = static_cast<const char *>(shared);
    if (own == NULL || at < own || at >= own + here.work->shared_bytes)
        give_up("only dynamic shared memory has its like in the other blocks of a cluster", current(), place);
    return static_cast<char *>(here.blocks[block].dynamic_shared) + (at - own);
}

static request *ask(request_kind kind, unsigned mask, qs_simt_place place)
{
    fiber *f = current();
    f->asked.kind = kind;
    f->asked.mask = mask;
    f->asked.place = place;
    if (((mask >> f->self.lane) & 1u) == 0) give_up("warp primitive called by a lane outside of its mask", f, place);
    return &f->asked;
}

void qs_simt_shuffle(unsigned mask, unsigned source, const void *in, void *out, size_t bytes, qs_simt_place place)
{
    request *asked = ask(SHUFFLE, mask, place);
    asked->source = source;
    asked->in = in;
    asked->out = out;
    asked->bytes = bytes;
    wait_in(IN_WARP);
}

unsigned qs_simt_vote(unsigned mask, int predicate, qs_simt_place place)
{
    request *asked = ask(VOTE, mask, place);
    asked->predicate = predicate;
    wait_in(IN_WARP);
    return asked->vote;
}

void qs_simt_mma(float *c, const uint32_t *a, const uint32_t *b, int bf16, qs_simt_place place)
{
    request *asked = ask(MMA, 0xffffffffu, place);
    asked->out = c;
    asked->a = a;
    asked->b = b;
    asked->bf16 = bf16;
    wait_in(IN_WARP);
}

/* ---- products of a warpgroup, barriers in shared memory (simt_async.h) ---- */

void qs_simt_give_up(const char *what, qs_simt_place place) { give_up(what, current(), place); }

void qs_simt_wgmma(const qs_simt_product *product, qs_simt_place place)
{
    ask(WGMMA, 0xffffffffu, place)->in = product;
    wait_in(IN_WARP);
}

void qs_simt_wgmma_commit(qs_simt_place place)
{
    (void)ask(WGMMA_COMMIT, 0xffffffffu, place);
    wait_in(IN_WARP);
}

void qs_simt_wgmma_wait(int n_pending, qs_simt_place place)
{
    ask(WGMMA_WAIT, 0xffffffffu, place)->predicate = n_pending;
    wait_in(IN_WARP);
}

void qs_simt_mbarrier_wait(uint64_t *barrier, uint32_t parity, qs_simt_place place)
{
    request *asked = &current()->asked;
    asked->in = barrier;
    asked->predicate = (int)(parity & 1);
    asked->place = place;
    while (!qs_simt_phase_has_passed(asked)) wait_in(AT_BARRIER);
}
