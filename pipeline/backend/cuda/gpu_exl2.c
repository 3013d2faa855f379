/* EXL2 on the GPU: the plan of a mixed matrix (kernels.h), and its scales as f16 numbers, whatever four bits they were
 * stored in. Both are made on the host and go along with the weights. */
#include "backend/cuda/gpu.h"
#include "base/dtype.h"
#include "base/mem.h"

enum { BLOCK = QS_CU_PIECE_CHUNKS * QS_CU_CHUNK, HALVES = QS_CU_CHUNK / QS_CU_UNIT, N_SCALES = 16 };
_Static_assert((int)QS_CU_UNIT == (int)QS_EXL2_UNIT, "groups begin at units");

/* The group of each unit; behind the last column, the last group. */
static void fill_groups(qs_cu_mixed_piece *piece, const qs_packed *packed, int64_t *group)
{
    int64_t n_units = piece->bits <= 4 ? QS_CU_PIECE_CHUNKS * HALVES : HALVES;
    for (int64_t i = 0; i < 4; i++) {
        int64_t column = piece->chunk * QS_CU_CHUNK + (i < n_units ? i : n_units - 1) * QS_CU_UNIT;
        while (*group + 1 < packed->n_groups && packed->groups[*group + 1].first <= column) ++*group;
        piece->group[i] = (int32_t)*group;
    }
}

/* Returns the number of pieces; pieces NULL: only that. */
static int64_t cut_pieces(const qs_packed *packed, qs_cu_mixed_piece *pieces, int32_t *tile_vectors)
{
    int64_t n = 0, n_chunks = qs_cu_n_chunks(packed->n_in), at = 0, group = 0;
    for (int64_t block = 0, of_block = 0; block * BLOCK < packed->n_in; block++) {
        while (of_block + 1 < packed->n_groups && packed->groups[of_block + 1].first <= block * BLOCK) of_block++;
        int32_t bits = packed->groups[of_block].bits, n_chunks_each = bits <= 4 ? QS_CU_PIECE_CHUNKS : 1;
        for (int64_t chunk = block * QS_CU_PIECE_CHUNKS; chunk < (block + 1) * QS_CU_PIECE_CHUNKS && chunk < n_chunks;
             chunk += n_chunks_each, n++) {
            qs_cu_mixed_piece piece = {.at = (int32_t)at, .bits = bits, .chunk = (int32_t)chunk};
            fill_groups(&piece, packed, &group);
            if (pieces != NULL) pieces[n] = piece;
            at += n_chunks_each * bits * 32 / 4;
        }
    }
    *tile_vectors = (int32_t)at;
    return n;
}

/* Slice s ends where its share of the bytes does; the last chunk of a slice leads to its first again. */
static void cut_slices(qs_cu_mixed_plan *plan, qs_cu_mixed_piece *pieces)
{
    int32_t piece = 0;
    for (int s = 0; s < QS_CU_MIXED_SLICES; s++) {
        int64_t end = (int64_t)plan->tile_vectors * (s + 1) / QS_CU_MIXED_SLICES;
        plan->first[s] = piece;
        while (piece < plan->n_pieces) {
            int64_t next = piece + 1 < plan->n_pieces ? pieces[piece + 1].at : plan->tile_vectors;
            if (next - end > end - pieces[piece].at) break; /* more of it lies behind the end */
            piece++;
        }
        for (int32_t i = plan->first[s]; i < piece; i++)
            pieces[i].then = pieces[i + 1 < piece ? i + 1 : plan->first[s]].chunk;
    }
    plan->first[QS_CU_MIXED_SLICES] = piece;
}

static size_t plan_bytes(const qs_packed *packed, int64_t n_pieces)
{
    return sizeof(qs_cu_mixed_plan) + (size_t)n_pieces * sizeof(qs_cu_mixed_piece) +
           (size_t)(packed->n_in / QS_CU_UNIT) * sizeof(qs_cu_mixed_unit);
}

size_t qs_gpu_mixed_plan_bytes(const qs_packed *packed, int64_t *tile_words)
{
    int32_t tile_vectors;
    int64_t n_pieces = cut_pieces(packed, NULL, &tile_vectors);
    *tile_words = (int64_t)tile_vectors * 4;
    return plan_bytes(packed, n_pieces);
}

qs_err qs_gpu_plan_mixed(const qs_packed *packed, qs_cu_mixed_plan **out)
{
    int32_t tile_vectors;
    int64_t n_units = packed->n_in / QS_CU_UNIT, n_pieces = cut_pieces(packed, NULL, &tile_vectors);
    qs_cu_mixed_plan *plan;
    qs_err err = qs_mem_array(&plan, (int64_t)plan_bytes(packed, n_pieces), 1, "plan of mixed widths");
    if (err != QS_OK) return err;
    qs_cu_mixed_piece *pieces = (qs_cu_mixed_piece *)(void *)(plan + 1);
    qs_cu_mixed_unit *units = (qs_cu_mixed_unit *)(void *)(pieces + n_pieces);
    plan->n_groups = (int32_t)packed->n_groups;
    plan->n_pieces = (int32_t)cut_pieces(packed, pieces, &plan->tile_vectors);
    cut_slices(plan, pieces);
    int32_t at = 0;
    for (int64_t u = 0, group = 0; u < n_units; u++) {
        while (group + 1 < packed->n_groups && packed->groups[group + 1].first <= u * QS_CU_UNIT) group++;
        units[u] = (qs_cu_mixed_unit){.at = at, .bits = packed->groups[group].bits};
        at += QS_CU_UNIT * units[u].bits;
    }
    *out = plan;
    return QS_OK;
}

qs_err qs_gpu_mixed_scales(const qs_packed *packed, uint16_t **out)
{
    uint16_t meaning[N_SCALES], *scales;
    qs_err err = QS_NEW(scales, packed->n_out * packed->n_groups, "scales of groups");
    if (err != QS_OK) return err;
    for (int64_t g = 0; g < packed->n_groups; g++) {
        for (int c = 0; c < N_SCALES; c++) meaning[c] = qs_f16_from_f32(qs_exl2_scale(packed->scale_max[g], c));
        for (int64_t o = 0; o < packed->n_out; o++)
            scales[o * packed->n_groups + g] = meaning[packed->scale_codes[o * packed->n_groups + g]];
    }
    *out = scales;
    return QS_OK;
}
