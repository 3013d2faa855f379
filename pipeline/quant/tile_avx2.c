#include "quant/tile.h"

#include <stddef.h>

#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#include <immintrin.h>

#define VEC __m256
#define LANES 8
#define COLUMNS 6
#define VECTORS 2

static inline VEC load(const float *p) { return _mm256_loadu_ps(p); }
static inline void store(float *p, VEC a) { _mm256_storeu_ps(p, a); }
static inline VEC set1(float a) { return _mm256_set1_ps(a); }
static inline VEC add(VEC a, VEC b) { return _mm256_add_ps(a, b); }
static inline VEC sub(VEC a, VEC b) { return _mm256_sub_ps(a, b); }
static inline VEC mul(VEC a, VEC b) { return _mm256_mul_ps(a, b); }
static inline VEC divide(VEC a, VEC b) { return _mm256_div_ps(a, b); }
static inline VEC vmin(VEC a, VEC b) { return _mm256_min_ps(a, b); }
static inline VEC vmax(VEC a, VEC b) { return _mm256_max_ps(a, b); }
static inline VEC fmadd(VEC a, VEC b, VEC c) { return _mm256_fmadd_ps(a, b, c); }
static inline VEC fnmadd(VEC a, VEC b, VEC c) { return _mm256_fnmadd_ps(a, b, c); }
static inline VEC nearest(VEC a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
static inline VEC select_less(VEC a, VEC b, VEC x, VEC y)
{
    return _mm256_blendv_ps(y, x, _mm256_cmp_ps(a, b, _CMP_LT_OQ));
}
static inline VEC round_f16(VEC a)
{
    return _mm256_cvtph_ps(_mm256_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT));
}
static inline void store_u8(uint8_t *p, VEC a)
{
    __m256i wide = _mm256_cvtps_epi32(a);
    __m128i half = _mm_packus_epi32(_mm256_castsi256_si128(wide), _mm256_extracti128_si256(wide, 1));
    _mm_storel_epi64((__m128i *)p, _mm_packus_epi16(half, half));
}

#include "quant/tile_body.h"

const qs_tile_ops qs_tile_avx2 = {.name = "avx2", .update = update, .scales = scales,
                                     .errors = errors, .code = code};

#else

const qs_tile_ops qs_tile_avx2 = {0};

#endif
