/* What runs beside a thread of the CUDA twin: barriers in shared memory, bulk copies and products of warpgroups
 * (simt_async.h), and copies in the background (simt.h). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/cuda/simt_fiber.h"
#include "backend/cuda/wgmma.h"

using namespace qs_simt;

namespace {

/* ---- barriers ---- */

/* A barrier in its 8 bytes: arrivals of a phase, those still to come, bytes still to come, and the phase's parity. */
struct mbarrier {
    uint16_t n_arrivals, n_pending;
    int32_t bytes_and_parity; /* 2 bytes + parity */
};
static_assert(sizeof(mbarrier) == sizeof(uint64_t), "a barrier is 8 bytes");

struct bulk_copy {
    void *shared, *data;
    uint32_t bytes;
    const uint64_t *barrier;
};

/* Of the block that this thread is at. */
struct bulk_copies {
    bulk_copy *items;
    int n, cap;
};
thread_local bulk_copies copies = {};

mbarrier take(const uint64_t *barrier)
{
    mbarrier b;
    memcpy(&b, barrier, sizeof b);
    return b;
}

/* Puts it back, a phase further if all have come. */
void put(uint64_t *barrier, mbarrier b)
{
    if (b.n_pending == 0 && b.bytes_and_parity / 2 == 0) {
        b.n_pending = b.n_arrivals;
        b.bytes_and_parity ^= 1;
    }
    memcpy(barrier, &b, sizeof b);
}

void complete(const uint64_t *barrier)
{
    int n_kept = 0;
    for (int i = 0; i < copies.n; i++) {
        bulk_copy c = copies.items[i];
        if (c.barrier != barrier) {
            copies.items[n_kept++] = c;
            continue;
        }
        mbarrier b = take(barrier);
        memcpy(c.shared, c.data, c.bytes);
        free(c.data);
        b.bytes_and_parity -= 2 * (int32_t)c.bytes;
        put(const_cast<uint64_t *>(barrier), b);
    }
    copies.n = n_kept;
}

/* ---- products ---- */

enum { K = 16, ROWS = 16, N_MAX = 256 };

/* Of a warp: its rows of A, or where they lie, and the registers of its lanes. */
struct product {
    qs_simt_product what; /* of lane 0 */
    uint16_t a[ROWS][K];
    float *d[WARP];
    int group;
};

struct products { /* what a warp has issued, oldest first */
    int n, cap, n_groups;
    product *items;
};

/* The element of an operand: `at` counts m or n, k the other. Fields of the descriptor are in units of 16 bytes. */
uint16_t element_of(uint64_t tile, int mn_major, int at, int k)
{
    uint32_t start = (uint32_t)(tile & 0x3fffu) * 16, leading = (uint32_t)(tile >> 16 & 0x3fffu) * 16;
    uint32_t stride = (uint32_t)(tile >> 32 & 0x3fffu) * 16,
             base = qs_shared_address(qs_simt_self->block->dynamic_shared);
    uint32_t offset = mn_major ? (uint32_t)(at / 64) * leading + (uint32_t)(k / 8) * stride + (uint32_t)(k % 8) * 128 +
                                     (uint32_t)(at % 64) * 2
                               : (uint32_t)(at / 8) * stride + (uint32_t)(at % 8) * 128 + (uint32_t)k * 2;
    uint32_t address = start + offset;
    address ^= (address >> 7 & 7) << 4;
    uint16_t bits;
    memcpy(&bits, static_cast<char *>(qs_simt_self->block->dynamic_shared) + ((address - base) & 0x3ffffu),
           sizeof bits);
    return bits;
}

float value_of(uint16_t bits, int bf16) { return bf16 ? qs_f32_of_bf16(bits) : qs_f32_of_f16(bits); }

__attribute__((no_sanitize("address", "undefined"))) void multiply(const double a[K], const double (*b)[N_MAX], int n,
                                                                   double *sums)
{
    for (int j = 0; j < n; j++) sums[j] = 0.0;
    for (int k = 0; k < K; k++)
        for (int j = 0; j < n; j++) sums[j] += a[k] * b[k][j];
}

thread_local double b[K][N_MAX], sums[N_MAX];

/* `warp`: its number within the warpgroup. */
void compute(const product *p, int warp)
{
    const qs_simt_product *w = &p->what;
    for (int k = 0; k < K; k++)
        for (int j = 0; j < w->n; j++) b[k][j] = value_of(element_of(w->b_tile, w->b_mn, j, k), w->bf16);
    for (int row = 0; row < ROWS; row++) {
        double a[K];
        for (int k = 0; k < K; k++)
            a[k] = value_of(w->a != nullptr ? p->a[row][k] : element_of(w->a_tile, w->a_mn, ROWS * warp + row, k),
                            w->bf16);
        multiply(a, b, w->n, sums);
        for (int j = 0; j < w->n; j++) {
            float *d = p->d[row % 8 * 4 + j % 8 / 2] + j / 8 * 4 + row / 8 * 2 + j % 2;
            *d = qs_simt_cut_to_f32(*d + sums[j]);
        }
    }
}

products *products_of(const warp *w)
{
    fiber *first = &w->lanes[0];
    if (first->products == NULL) first->products = calloc(1, sizeof(products));
    if (first->products == NULL) abort();
    return static_cast<products *>(first->products);
}

void issue(const warp *w)
{
    products *list = products_of(w);
    if (list->n == list->cap) {
        list->cap = list->cap == 0 ? 8 : 2 * list->cap;
        list->items = static_cast<product *>(realloc(list->items, (size_t)list->cap * sizeof *list->items));
        if (list->items == NULL) abort();
    }
    product *p = &list->items[list->n++];
    for (unsigned lane = 0; lane < WARP; lane++) {
        const qs_simt_product *from = static_cast<const qs_simt_product *>(w->lanes[lane].asked.in);
        unsigned g = lane / 4, t = lane % 4;
        if (lane == 0) p->what = *from;
        p->d[lane] = from->d;
        for (unsigned i = 0; from->a != nullptr && i < 8; i++)
            p->a[g + 8 * ((i / 2) % 2)][2 * t + i % 2 + 8 * (i / 4)] = (uint16_t)(from->a[i / 2] >> (16 * (i % 2)));
    }
    p->group = list->n_groups;
}

void finish(const warp *w, int n_pending)
{
    products *list = products_of(w);
    const qs_simt_thread *self = qs_simt_self;
    int n_kept = 0, warp_number = (int)(w->lanes[0].self.index.x / WARP % 4);
    qs_simt_self = &w->lanes[0].self; /* whose block it is */
    for (int i = 0; i < list->n; i++) {
        if (list->items[i].group < list->n_groups - n_pending) compute(&list->items[i], warp_number);
        else list->items[n_kept++] = list->items[i];
    }
    list->n = n_kept;
    qs_simt_self = self;
}

} // namespace

/* ---- what the engine calls ---- */

void qs_simt_forget_copies(void)
{
    for (int i = 0; i < copies.n; i++) free(copies.items[i].data);
    copies.n = 0;
}

void qs_simt_free_copies(void)
{
    qs_simt_forget_copies();
    free(copies.items);
    copies = {};
}

void qs_simt_forget_products(fiber *f)
{
    products *list = static_cast<products *>(f->products);
    if (list != NULL) list->n = list->n_groups = 0;
}

void qs_simt_free_products(fiber *f)
{
    products *list = static_cast<products *>(f->products);
    if (list != NULL) free(list->items);
    free(list);
    f->products = NULL;
}

bool qs_simt_phase_has_passed(const request *asked)
{
    const uint64_t *barrier = static_cast<const uint64_t *>(asked->in);
    complete(barrier);
    return (take(barrier).bytes_and_parity & 1) != asked->predicate;
}

void qs_simt_do_products(const warp *w, const request *asked)
{
    if (asked->kind == WGMMA) issue(w);
    if (asked->kind == WGMMA_COMMIT) products_of(w)->n_groups++;
    if (asked->kind == WGMMA_WAIT) finish(w, asked->predicate);
}

/* ---- what kernels call ---- */

void qs_simt_mbarrier_init(uint64_t *barrier, int n_arrivals)
{
    const mbarrier b = {(uint16_t)n_arrivals, (uint16_t)n_arrivals, 0};
    memcpy(barrier, &b, sizeof b);
}

void qs_simt_mbarrier_arrive(uint64_t *barrier, uint32_t bytes, qs_simt_place place)
{
    mbarrier b = take(barrier);
    if (b.n_pending == 0) qs_simt_give_up("more arrivals at a barrier than it has", place);
    b.bytes_and_parity += 2 * (int32_t)bytes;
    b.n_pending--;
    put(barrier, b);
}

void qs_simt_copy_bulk(void *shared, const void *global, uint32_t bytes, uint64_t *barrier, qs_simt_place place)
{
    if ((reinterpret_cast<uintptr_t>(shared) | reinterpret_cast<uintptr_t>(global) | bytes) % 16 != 0)
        qs_simt_give_up("bulk copy that is not aligned to 16", place);
    if (copies.n == copies.cap) {
        copies.cap = copies.cap == 0 ? 16 : 2 * copies.cap;
        copies.items = static_cast<bulk_copy *>(realloc(copies.items, (size_t)copies.cap * sizeof *copies.items));
        if (copies.items == NULL) abort();
    }
    bulk_copy c = {shared, malloc(bytes), bytes, barrier};
    if (c.data == NULL) abort();
    memcpy(c.data, global, bytes); /* read here and now, so that a sanitizer names this place */
    copies.items[copies.n++] = c;
}

/* ---- copies in the background of a thread (simt.h) ---- */

static fiber *running(void) { return reinterpret_cast<fiber *>(const_cast<qs_simt_thread *>(qs_simt_self)); }

void qs_simt_copy(void *shared, uint4 value, qs_simt_place place)
{
    fiber *f = running();
    if (reinterpret_cast<uintptr_t>(shared) % 16 != 0)
        qs_simt_give_up("copy to shared memory that is not aligned to 16", place);
    if (f->n_copies == f->copies_cap) {
        f->copies_cap = f->copies_cap == 0 ? 8 : 2 * f->copies_cap;
        f->copies = static_cast<copy *>(realloc(f->copies, (size_t)f->copies_cap * sizeof(copy)));
        if (f->copies == NULL) abort();
    }
    f->copies[f->n_copies++] = {shared, value, f->n_groups};
}

void qs_simt_copy_commit(void) { running()->n_groups++; }

void qs_simt_copy_wait(int n_pending)
{
    fiber *f = running();
    int n_kept = 0;
    for (int i = 0; i < f->n_copies; i++) {
        if (f->copies[i].group < f->n_groups - n_pending)
            memcpy(f->copies[i].shared, &f->copies[i].value, sizeof f->copies[i].value);
        else
            f->copies[n_kept++] = f->copies[i];
    }
    f->n_copies = n_kept;
}
