/* y = x W^T for few rows of x on the tensor cores: weights are read once, in their stored form, and become A
 * fragments in registers (unpack.h); the rows of x are the columns of B. Scales meet the f32 sums of a chunk or
 * group.
 *
 * The columns of a matrix are cut into SLICES runs, one a warp. Eight warps make a team; it goes through groups of
 * row tiles, and its warps' sums of a tile are added in the order of the slices, whatever else changes: number of
 * rows, tiles at a time, blocks. Each warp has a ring of pieces in shared memory that it alone fills and empties,
 * by copies in the background that run on from one tile into the next, so warps meet only where sums are added,
 * once for many tiles. The ring is filled before the kernel waits for the one before it.
 *
 * What bounds it (H100, 8B layer, int4): the 36 us that memory takes are 71,000 cycles; a scheduler has 202 pieces
 * of 2,048 codes to do in them, each 161 instructions, 72 of them to unpack. What is left at one row is the same
 * from 4 bits on, 20 us for the four launches of a layer (4 bits: 36 us of memory, 56 in all; 8 bits 71 and 90; f16
 * 139 and 160; 2 bits 18 and 46): x after the kernel before, which stands behind the ring's copies in the way to
 * memory, the first pieces, the last sums. On Hopper one row goes by linear_row.h instead, where that is 14 us.
 * At 16 and 32 rows every tile reads all of x again through the L2.
 *
 * Steps on the way, in us for the 7 linears of an 8B layer at 4 bits, group 128, on an H100 (memory alone takes 36):
 *                                                                              1 row   8 rows   16 rows   32 rows
 *   rings, 16 warps; the kernel behind begins at once and two share an SM         67       90        77       131
 *   it begins when the one before has ended; x of many rows loaded ahead          57       63        73       131
 *   the same with one block to an SM                                              54       63        74       132
 *   this form: 32 warps at one row, 24 to 8, two tiles of 16 warps at 32          56       64        73       109
 * The kernel before this one loaded weights into registers and had 16 warps add up at every tile (H200, memory 25
 * us: 61 us at 1 row, 217 at 32). More warps at one row cost 4 bits 2 us and gain f16 16. Sixteen slices instead of
 * eight cost 4 bits 2 us and gain f16 4: a warp comes to another tile twice as often. */
#include "backend/cuda/linear_alike.h"
#include "backend/cuda/linear_turns.h"

static int launch_four_bits(void *stream, job *j, const how *h, int64_t group_size)
{
    bool done;
    int status = launch_turns(stream, j, h, &done);
    return done || status != 0 ? status : launch_steps<QS_CU_INT4>(stream, j, h, group_size);
}

extern "C" int qs_cu_linear_few(void *stream, const qs_cu_linear_shape *shape, const qs_cu_linear *linears,
                                int n_linears, const float *x, const int32_t *perm, const qs_cu_x *terms,
                                int n_sms, size_t shared_bytes, bool soon, qs_cu_one_row one_row)
{
    const qs_cu_few few = {stream, shape, linears, n_linears, x, perm, terms, n_sms, shared_bytes, soon, one_row};
    switch (shape->format) {
    case QS_CU_INT2: case QS_CU_INT3: return qs_cu_few_low(&few);
    case QS_CU_INT4: return run_few(&few, launch_four_bits);
    case QS_CU_F16: return run_few(&few, [](void *on, job *j, const how *h, int64_t) {
        return launch_alike<alike<QS_CU_F16, 4, false>>(on, j, h);
    });
    case QS_CU_BF16: return run_few(&few, [](void *on, job *j, const how *h, int64_t) {
        return launch_alike<alike<QS_CU_BF16, 4, false>>(on, j, h);
    });
    default: return qs_cu_few_tables(&few);
    }
}
