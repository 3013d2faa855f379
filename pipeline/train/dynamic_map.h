/* The dynamic 8-bit maps of bitsandbytes: 256 values in [-1, 1] or [0, 1], dense near 0 in seven decades
 * (Dettmers et al. 2022). */
#ifndef QS_TRAIN_DYNAMIC_MAP_H
#define QS_TRAIN_DYNAMIC_MAP_H

#include <stdbool.h>
#include <stdint.h>

enum { QS_DYNAMIC_CODES = 256, QS_DYNAMIC_BUCKETS = 32768 };

typedef struct qs_dynamic_map {
    bool is_signed;
    float
        values[QS_DYNAMIC_CODES]; /* ascending; the signed map has 0 at 127 and 1 at 255, the other 0 at 0 */
    float midpoints[QS_DYNAMIC_CODES]; /* [i] between values i and i + 1; the last is infinite */
    /* By the top 16 bits of |x|: a code not above the nearest one, for x >= 0 and for x < 0. */
    uint8_t start[2][QS_DYNAMIC_BUCKETS];
} qs_dynamic_map;

/* Bit for bit as PyTorch's f32 linspace makes it (its steps are multiply-adds). */
void qs_dynamic_map_init(qs_dynamic_map *map, bool is_signed);

/* The nearest code of x, in [-1, 1]; a tie goes to the lower code. */
static inline uint8_t qs_dynamic_nearest(const qs_dynamic_map *map, float x)
{
    union {
        float value;
        uint32_t bits;
    } u = {.value = x};
    uint8_t code = map->start[u.bits >> 31][(u.bits & 0x7FFFFFFFu) >> 16];
    while (x > map->midpoints[code]) code++;
    return code;
}

/* A block: scale = the largest magnitude, codes[i] = nearest(x[i] / scale), computed as x[i] times 1 / scale.
 * An all-zero block has scale 0 and the codes of 0. Returns scale. */
float qs_dynamic_encode(const qs_dynamic_map *map, const float *x, int64_t n, uint8_t *codes);
void qs_dynamic_decode(const qs_dynamic_map *map, const uint8_t *codes, float scale, int64_t n, float *x);

#endif
