/* What the lanes of a warp do together: shuffles, votes, and matrix products on fragments. */
#include <math.h>
#include <string.h>

#include "backend/cuda/simt_fiber.h"

using namespace qs_simt;

namespace {

bool same_request(const request *x, const request *y)
{
    return x->kind == y->kind && x->mask == y->mask && qs_simt_same_place(x->place, y->place);
}

bool needs_all(const request *asked) { return asked->kind >= MMA; } /* a whole warp */

/* Whether all that the mask names have asked for the same. Lanes that have ended need not, as on a GPU. */
bool is_complete(const warp *w, const request *asked)
{
    for (unsigned i = 0; i < w->n_lanes; i++) {
        const fiber *f = &w->lanes[i];
        if (((asked->mask >> i) & 1u) == 0 || (f->state == DONE && !needs_all(asked))) continue;
        if (f->state != IN_WARP || !same_request(&f->asked, asked)) return false;
    }
    return !needs_all(asked) || w->n_lanes == WARP;
}

void do_shuffle(const warp *w, unsigned members)
{
    for (unsigned i = 0; i < w->n_lanes; i++) {
        if (((members >> i) & 1u) == 0) continue;
        const request *asked = &w->lanes[i].asked;
        if (((members >> asked->source) & 1u) != 0)
            memcpy(asked->out, w->lanes[asked->source].asked.in, asked->bytes);
        else
            memset(asked->out, 0xff, asked->bytes);
    }
}

void do_vote(const warp *w, unsigned members)
{
    unsigned vote = 0;
    for (unsigned i = 0; i < w->n_lanes; i++)
        if (((members >> i) & 1u) != 0 && w->lanes[i].asked.predicate != 0) vote |= 1u << i;
    for (unsigned i = 0; i < w->n_lanes; i++)
        if (((members >> i) & 1u) != 0) w->lanes[i].asked.vote = vote;
}

float element(uint32_t pair, unsigned which, int bf16)
{
    uint16_t bits = (uint16_t)(pair >> (16 * which));
    return bf16 ? qs_f32_of_bf16(bits) : qs_f32_of_f16(bits);
}

/* The fragments as matrices, where the PTX manual puts them (mma.m16n8k16). */
typedef double row_of_8 __attribute__((vector_size(64)));
void gather(const warp *w, int bf16, double a[16][16], row_of_8 b[16])
{
    for (unsigned lane = 0; lane < WARP; lane++) {
        const request *from = &w->lanes[lane].asked;
        unsigned g = lane / 4, t = lane % 4;
        for (unsigned i = 0; i < 8; i++)
            a[g + 8 * ((i / 2) % 2)][2 * t + i % 2 + 8 * (i / 4)] = element(from->a[i / 2], i % 2, bf16);
        for (unsigned i = 0; i < 4; i++) b[2 * t + i % 2 + 8 * (i / 2)][g] = element(from->b[i / 2], i % 2, bf16);
    }
}

/* On arrays of this file alone, so sanitizers, which would take most of the time of every test, need not look. */
__attribute__((no_sanitize("address", "undefined"))) void multiply(const double a[16][16], const row_of_8 b[16],
                                                                   row_of_8 sums[16])
{
    for (unsigned row = 0; row < 16; row++) {
        row_of_8 sum = {};
        for (unsigned k = 0; k < 16; k++) sum += a[row][k] * b[k];
        sums[row] = sum;
    }
}

void do_mma(const warp *w, const request *asked)
{
    double a[16][16];
    row_of_8 b[16], sums[16];
    gather(w, asked->bf16, a, b);
    multiply(a, b, sums);
    for (unsigned lane = 0; lane < WARP; lane++) {
        float *c = static_cast<float *>(w->lanes[lane].asked.out);
        for (unsigned i = 0; i < 4; i++)
            c[i] = qs_simt_cut_to_f32(c[i] + sums[lane / 4 + 8 * (i / 2)][2 * (lane % 4) + i % 2]);
    }
}

} // namespace

bool qs_simt_serve_warp(const warp *w)
{
    for (unsigned i = 0; i < w->n_lanes; i++) {
        const request asked = w->lanes[i].asked;
        if (w->lanes[i].state != IN_WARP || !is_complete(w, &asked)) continue;
        unsigned members = 0;
        for (unsigned j = 0; j < w->n_lanes; j++)
            if (w->lanes[j].state == IN_WARP && ((asked.mask >> j) & 1u) != 0) members |= 1u << j;
        if (asked.kind == SHUFFLE) do_shuffle(w, members);
        if (asked.kind == VOTE) do_vote(w, members);
        if (asked.kind == MMA) do_mma(w, &asked);
        if (asked.kind > MMA) qs_simt_do_products(w, &asked);
        for (unsigned j = 0; j < w->n_lanes; j++)
            if (((members >> j) & 1u) != 0) w->lanes[j].state = RUNNING;
        return true;
    }
    return false;
}
