#include "train/dynamic_map.h"

#include <math.h>
#include <string.h>

enum { N_DECADES = 7 };

/* Element i of torch.linspace(0.1, 1, n) in f32. */
static float linspace(int64_t i, int64_t n)
{
    float step = (1.0f - 0.1f) / (float)(n - 1);
    return i < n / 2 ? fmaf(step, (float)i, 0.1f) : fmaf(-step, (float)(n - 1 - i), 1.0f);
}

static void sort(float *x, int n)
{
    for (int i = 1; i < n; i++) {
        float value = x[i];
        int j = i;
        for (; j > 0 && x[j - 1] > value; j--) x[j] = x[j - 1];
        x[j] = value;
    }
}

static void fill_buckets(qs_dynamic_map *map)
{
    for (uint32_t bucket = 0; bucket < QS_DYNAMIC_BUCKETS; bucket++) {
        for (uint32_t sign = 0; sign < 2; sign++) {
            /* The bucket's end nearest to minus infinity: its low bits 0, or all 1 where negative. */
            uint32_t bits = bucket << 16 | (sign != 0 ? 0x8000FFFFu : 0u);
            float lowest;
            memcpy(&lowest, &bits, sizeof lowest);
            int code = 0;
            while (code < QS_DYNAMIC_CODES - 1 && lowest > map->midpoints[code]) code++;
            map->start[sign][bucket] = (uint8_t)code;
        }
    }
}

void qs_dynamic_map_init(qs_dynamic_map *map, bool is_signed)
{
    int n = 0;
    *map = (qs_dynamic_map){.is_signed = is_signed};
    for (int decade = 0; decade < N_DECADES; decade++) {
        int64_t n_edges = ((int64_t)1 << (decade + (is_signed ? 0 : 1))) + 1;
        float power = (float)pow(10.0, decade - (N_DECADES - 1));
        for (int64_t k = 0; k + 1 < n_edges; k++) {
            float value = power * ((linspace(k, n_edges) + linspace(k + 1, n_edges)) / 2.0f);
            map->values[n++] = value;
            if (is_signed) map->values[n++] = -value;
        }
    }
    map->values[n++] = 0.0f;
    map->values[n++] = 1.0f;
    sort(map->values, n);
    for (int i = 0; i + 1 < QS_DYNAMIC_CODES; i++)
        map->midpoints[i] = (map->values[i] + map->values[i + 1]) / 2.0f;
    map->midpoints[QS_DYNAMIC_CODES - 1] = INFINITY;
    fill_buckets(map);
}

float qs_dynamic_encode(const qs_dynamic_map *map, const float *x, int64_t n, uint8_t *codes)
{
    float scale = 0;
    for (int64_t i = 0; i < n; i++) scale = fabsf(x[i]) > scale ? fabsf(x[i]) : scale;
    /* Below the smallest normal number 1 / scale overflows. */
    float inverse = scale >= 0x1p-126f ? 1.0f / scale : 0.0f;
    if (inverse == 0.0f) scale = 0.0f;
    for (int64_t i = 0; i < n; i++) codes[i] = qs_dynamic_nearest(map, x[i] * inverse);
    return scale;
}

void qs_dynamic_decode(const qs_dynamic_map *map, const uint8_t *codes, float scale, int64_t n, float *x)
{
    for (int64_t i = 0; i < n; i++) x[i] = map->values[codes[i]] * scale;
}
