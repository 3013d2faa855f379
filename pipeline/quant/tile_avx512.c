#include "quant/tile.h"

#include <stddef.h>

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__)
#include <immintrin.h>

#define VEC __m512
#define LANES 16
#define COLUMNS 6
#define VECTORS 4

static inline VEC load(const float *p) { return _mm512_loadu_ps(p); }
static inline void store(float *p, VEC a) { _mm512_storeu_ps(p, a); }
static inline VEC set1(float a) { return _mm512_set1_ps(a); }
static inline VEC add(VEC a, VEC b) { return _mm512_add_ps(a, b); }
static inline VEC sub(VEC a, VEC b) { return _mm512_sub_ps(a, b); }
static inline VEC mul(VEC a, VEC b) { return _mm512_mul_ps(a, b); }
static inline VEC divide(VEC a, VEC b) { return _mm512_div_ps(a, b); }
static inline VEC vmin(VEC a, VEC b) { return _mm512_min_ps(a, b); }
static inline VEC vmax(VEC a, VEC b) { return _mm512_max_ps(a, b); }
static inline VEC fmadd(VEC a, VEC b, VEC c) { return _mm512_fmadd_ps(a, b, c); }
static inline VEC fnmadd(VEC a, VEC b, VEC c) { return _mm512_fnmadd_ps(a, b, c); }
static inline VEC nearest(VEC a)
{
    return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
static inline VEC select_less(VEC a, VEC b, VEC x, VEC y)
{
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), y, x);
}
static inline VEC round_f16(VEC a)
{
    return _mm512_cvtph_ps(_mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
static inline void store_u8(uint8_t *p, VEC a)
{
    _mm_storeu_si128((__m128i *)p, _mm512_cvtusepi32_epi8(_mm512_cvtps_epi32(a)));
}

#include "quant/tile_body.h"

const qs_tile_ops qs_tile_avx512 = {.name = "avx512", .update = update, .scales = scales,
                                     .errors = errors, .code = code};

#else

const qs_tile_ops qs_tile_avx512 = {0};

#endif
