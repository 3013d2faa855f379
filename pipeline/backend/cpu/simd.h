/* The vector vocabulary of the fast kernels: one set of names over AVX-512 (16 lanes) and AVX2 with FMA (8
 * lanes), so that a kernel is written once. Included only by files compiled for one of them, which is what
 * their name says (*_avx512.c, *_avx2.c). Everything is static: two instruction sets meet in one program.
 *
 * The order of every sum is fixed by the code and the number of lanes, never by threads. */
#ifndef QS_BACKEND_CPU_SIMD_H
#define QS_BACKEND_CPU_SIMD_H

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#define QS_INLINE static inline __attribute__((always_inline, unused))

/* In front of loops over register arrays: unless they are unrolled, -O2 keeps the arrays in memory. */
#define QS_UNROLL _Pragma("GCC unroll 32")

#if defined(__AVX512F__)

enum { V_LANES = 16 };
typedef __m512 vf;
typedef __m512i vi;
typedef struct vd { /* the lanes of a vf in f64: first half, second half */
    __m512d low, high;
} vd;

QS_INLINE __mmask16 v_mask(int64_t n) { return (__mmask16)((1u << n) - 1u); } /* n < 16 lanes */

QS_INLINE vf v_set(float x) { return _mm512_set1_ps(x); }
QS_INLINE vf v_load(const float *p) { return _mm512_loadu_ps(p); }
QS_INLINE void v_store(float *p, vf x) { _mm512_storeu_ps(p, x); }
QS_INLINE vf v_load_part(const float *p, int64_t n) { return _mm512_maskz_loadu_ps(v_mask(n), p); }
QS_INLINE void v_store_part(float *p, vf x, int64_t n) { _mm512_mask_storeu_ps(p, v_mask(n), x); }
QS_INLINE vf v_add(vf a, vf b) { return _mm512_add_ps(a, b); }
QS_INLINE vf v_sub(vf a, vf b) { return _mm512_sub_ps(a, b); }
QS_INLINE vf v_mul(vf a, vf b) { return _mm512_mul_ps(a, b); }
QS_INLINE vf v_div(vf a, vf b) { return _mm512_div_ps(a, b); }
QS_INLINE vf v_fma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }   /* a b + c */
QS_INLINE vf v_fnma(vf a, vf b, vf c) { return _mm512_fnmadd_ps(a, b, c); } /* c - a b */
QS_INLINE vf v_max(vf a, vf b) { return _mm512_max_ps(a, b); } /* b when one is NaN */
QS_INLINE vf v_min(vf a, vf b) { return _mm512_min_ps(a, b); }
QS_INLINE vf v_abs(vf a) { return _mm512_abs_ps(a); }
QS_INLINE vf v_round(vf a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
QS_INLINE vf v_keep_first(vf a, int64_t n) { return _mm512_maskz_mov_ps(v_mask(n), a); }
/* a where x <= limit (or either is NaN: not), else b */
QS_INLINE vf v_where_le(vf x, vf limit, vf a, vf b)
{
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(x, limit, _CMP_LE_OQ), b, a);
}
/* x * 2^n for whole n, with gradual underflow */
QS_INLINE vf v_scale(vf x, vf n) { return _mm512_scalef_ps(x, n); }
/* Bit i set when lane i equals. */
QS_INLINE uint32_t v_equal_bits(vf a, vf b) { return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ); }

QS_INLINE float v_sum(vf x) /* a fixed tree over the lanes */
{
    __m256 half = _mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1));
    __m128 quarter = _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
    quarter = _mm_add_ps(quarter, _mm_movehl_ps(quarter, quarter));
    return _mm_cvtss_f32(_mm_add_ss(quarter, _mm_movehdup_ps(quarter)));
}

QS_INLINE vf v_from_f16(const uint16_t *p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i_u *)p)); }
QS_INLINE vf v_from_bf16(const uint16_t *p)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i_u *)p)), 16));
}
QS_INLINE vf v_from_f16_part(const uint16_t *p, int64_t n)
{
    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(v_mask(n), p));
}
QS_INLINE vf v_from_bf16_part(const uint16_t *p, int64_t n)
{
    __m256i half = _mm256_maskz_loadu_epi16(v_mask(n), p);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}
QS_INLINE vf v_from_u8(const uint8_t *p)
{
    return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i_u *)p)));
}

/* Round to nearest, ties to even; NaN stays NaN (quiet). n lanes are stored. */
QS_INLINE void v_store_bf16(uint16_t *p, vf x, int64_t n)
{
    __m512i bits = _mm512_castps_si512(x), one = _mm512_set1_epi32(1);
    __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), one);
    __m512i rounded = _mm512_srli_epi32(_mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7FFF)), odd), 16);
    __m512i quiet = _mm512_or_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(0x40));
    rounded = _mm512_mask_mov_epi32(rounded, _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), quiet);
    _mm256_mask_storeu_epi16(p, v_mask(n), _mm512_cvtepi32_epi16(rounded));
}

/* rows[i] lane j becomes rows[j] lane i. */
QS_INLINE void v_turn(vf rows[V_LANES])
{
    vf pairs[16], quads[16];
    QS_UNROLL for (int i = 0; i < 16; i += 2)
    {
        pairs[i] = _mm512_unpacklo_ps(rows[i], rows[i + 1]);
        pairs[i + 1] = _mm512_unpackhi_ps(rows[i], rows[i + 1]);
    }
    QS_UNROLL for (int i = 0; i < 16; i += 4)
    {
        QS_UNROLL for (int k = 0; k < 2; k++)
        {
            __m512d a = _mm512_castps_pd(pairs[i + k]), b = _mm512_castps_pd(pairs[i + 2 + k]);
            quads[i + 2 * k] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, b));
            quads[i + 2 * k + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, b));
        }
    }
    QS_UNROLL for (int k = 0; k < 4; k++)
    {
        vf low = _mm512_shuffle_f32x4(quads[k], quads[k + 4], 0x88),
           low2 = _mm512_shuffle_f32x4(quads[k], quads[k + 4], 0xDD);
        vf high = _mm512_shuffle_f32x4(quads[k + 8], quads[k + 12], 0x88);
        vf high2 = _mm512_shuffle_f32x4(quads[k + 8], quads[k + 12], 0xDD);
        rows[k] = _mm512_shuffle_f32x4(low, high, 0x88);
        rows[k + 8] = _mm512_shuffle_f32x4(low, high, 0xDD);
        rows[k + 4] = _mm512_shuffle_f32x4(low2, high2, 0x88);
        rows[k + 12] = _mm512_shuffle_f32x4(low2, high2, 0xDD);
    }
}

/* Codes of `bits` <= 4 bits, V_LANES of them in a row from p on; reads 4 bytes per 8 codes. */
QS_INLINE vf v_codes(const uint8_t *p, int bits)
{
    uint32_t low, high;
    memcpy(&low, p, sizeof low);
    memcpy(&high, p + bits, sizeof high);
    __m512i words = _mm512_inserti64x4(_mm512_set1_epi32((int)low), _mm256_set1_epi32((int)high), 1);
    __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3, 4, 5, 6, 7);
    words = _mm512_srlv_epi32(words, _mm512_mullo_epi32(lane, _mm512_set1_epi32(bits)));
    return _mm512_cvtepi32_ps(_mm512_and_si512(words, _mm512_set1_epi32((1 << bits) - 1)));
}

QS_INLINE vi v_bits(vf a) { return _mm512_castps_si512(a); }
QS_INLINE vf v_from_bits(vi a) { return _mm512_castsi512_ps(a); }
QS_INLINE vf v_through_f16(vf a) /* to f16 and back */
{
    return _mm512_cvtph_ps(_mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
QS_INLINE vi vi_add(vi a, vi b) { return _mm512_add_epi32(a, b); }
QS_INLINE vi vi_zero(void) { return _mm512_setzero_si512(); }
/* Lane i: a[2i] b[2i] + a[2i + 1] b[2i + 1] of 2 V_LANES numbers of 8 and 16 bits */
QS_INLINE vi vi_pairs(const int8_t *a, const int16_t *b)
{
    __m512i wide = _mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i_u *)a));
    return _mm512_madd_epi16(wide, _mm512_loadu_si512(b));
}
QS_INLINE int32_t vi_sum(vi a) { return _mm512_reduce_add_epi32(a); }
QS_INLINE vi vi_load(const uint32_t *p) { return _mm512_loadu_si512(p); }
QS_INLINE vi vi_set(int x) { return _mm512_set1_epi32(x); }
QS_INLINE vi vi_and(vi a, vi b) { return _mm512_and_si512(a, b); }
QS_INLINE vi vi_or(vi a, vi b) { return _mm512_or_si512(a, b); }
QS_INLINE vi vi_shift_right(vi a, int n) { return _mm512_srl_epi32(a, _mm_cvtsi32_si128(n)); } /* zeros in */
QS_INLINE vi vi_shift_left(vi a, int n) { return _mm512_sll_epi32(a, _mm_cvtsi32_si128(n)); }
QS_INLINE vi vi_shift_signed(vi a, int n) { return _mm512_sra_epi32(a, _mm_cvtsi32_si128(n)); } /* sign in */
QS_INLINE vf v_from_int(vi a) { return _mm512_cvtepi32_ps(a); }

QS_INLINE vd vd_zero(void) { return (vd){_mm512_setzero_pd(), _mm512_setzero_pd()}; }
QS_INLINE vd vd_load(const double *p) { return (vd){_mm512_loadu_pd(p), _mm512_loadu_pd(p + 8)}; }
QS_INLINE void vd_store(double *p, vd x)
{
    _mm512_storeu_pd(p, x.low);
    _mm512_storeu_pd(p + 8, x.high);
}
QS_INLINE vd vd_from(vf x)
{
    __m256 high = _mm512_extractf32x8_ps(x, 1);
    return (vd){_mm512_cvtps_pd(_mm512_castps512_ps256(x)), _mm512_cvtps_pd(high)};
}
QS_INLINE vd vd_set(double x) { return (vd){_mm512_set1_pd(x), _mm512_set1_pd(x)}; }
QS_INLINE vd vd_add(vd a, vd b) { return (vd){_mm512_add_pd(a.low, b.low), _mm512_add_pd(a.high, b.high)}; }
QS_INLINE vd vd_sub(vd a, vd b) { return (vd){_mm512_sub_pd(a.low, b.low), _mm512_sub_pd(a.high, b.high)}; }
QS_INLINE vd vd_fma(vd a, vd b, vd c)
{
    return (vd){_mm512_fmadd_pd(a.low, b.low, c.low), _mm512_fmadd_pd(a.high, b.high, c.high)};
}

#elif defined(__AVX2__) && defined(__FMA__)

enum { V_LANES = 8 };
typedef __m256 vf;
typedef __m256i vi;
typedef struct vd {
    __m256d low, high;
} vd;

QS_INLINE vi v_mask(int64_t n)
{
    static const int32_t edge[16] = {-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0};
    return _mm256_loadu_si256((const __m256i_u *)(edge + 8 - n));
}

QS_INLINE vf v_set(float x) { return _mm256_set1_ps(x); }
QS_INLINE vf v_load(const float *p) { return _mm256_loadu_ps(p); }
QS_INLINE void v_store(float *p, vf x) { _mm256_storeu_ps(p, x); }
QS_INLINE vf v_load_part(const float *p, int64_t n) { return _mm256_maskload_ps(p, v_mask(n)); }
QS_INLINE void v_store_part(float *p, vf x, int64_t n) { _mm256_maskstore_ps(p, v_mask(n), x); }
QS_INLINE vf v_add(vf a, vf b) { return _mm256_add_ps(a, b); }
QS_INLINE vf v_sub(vf a, vf b) { return _mm256_sub_ps(a, b); }
QS_INLINE vf v_mul(vf a, vf b) { return _mm256_mul_ps(a, b); }
QS_INLINE vf v_div(vf a, vf b) { return _mm256_div_ps(a, b); }
QS_INLINE vf v_fma(vf a, vf b, vf c) { return _mm256_fmadd_ps(a, b, c); }
QS_INLINE vf v_fnma(vf a, vf b, vf c) { return _mm256_fnmadd_ps(a, b, c); }
QS_INLINE vf v_max(vf a, vf b) { return _mm256_max_ps(a, b); }
QS_INLINE vf v_min(vf a, vf b) { return _mm256_min_ps(a, b); }
QS_INLINE vf v_abs(vf a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a); }
QS_INLINE vf v_round(vf a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
QS_INLINE vf v_keep_first(vf a, int64_t n) { return _mm256_and_ps(a, _mm256_castsi256_ps(v_mask(n))); }
QS_INLINE vf v_where_le(vf x, vf limit, vf a, vf b)
{
    return _mm256_blendv_ps(b, a, _mm256_cmp_ps(x, limit, _CMP_LE_OQ));
}
/* In two steps, so that a result below the smallest normal number underflows gradually. */
QS_INLINE vf v_scale(vf x, vf n)
{
    __m256i whole = _mm256_cvtps_epi32(n), half = _mm256_srai_epi32(whole, 1), bias = _mm256_set1_epi32(127);
    __m256i first = _mm256_slli_epi32(_mm256_add_epi32(half, bias), 23);
    __m256i second = _mm256_slli_epi32(_mm256_add_epi32(_mm256_sub_epi32(whole, half), bias), 23);
    return _mm256_mul_ps(_mm256_mul_ps(x, _mm256_castsi256_ps(first)), _mm256_castsi256_ps(second));
}
QS_INLINE uint32_t v_equal_bits(vf a, vf b) { return (uint32_t)_mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_EQ_OQ)); }

QS_INLINE float v_sum(vf x)
{
    __m128 quarter = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    quarter = _mm_add_ps(quarter, _mm_movehl_ps(quarter, quarter));
    return _mm_cvtss_f32(_mm_add_ss(quarter, _mm_movehdup_ps(quarter)));
}

QS_INLINE vf v_from_f16(const uint16_t *p) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i_u *)p)); }
QS_INLINE vf v_from_bf16(const uint16_t *p)
{
    __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i_u *)p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}
QS_INLINE __m128i half_part(const uint16_t *p, int64_t n)
{
    uint16_t lanes[8] = {0};
    for (int64_t i = 0; i < n; i++) lanes[i] = p[i];
    return _mm_loadu_si128((const __m128i_u *)lanes);
}
QS_INLINE vf v_from_f16_part(const uint16_t *p, int64_t n) { return _mm256_cvtph_ps(half_part(p, n)); }
QS_INLINE vf v_from_bf16_part(const uint16_t *p, int64_t n)
{
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half_part(p, n)), 16));
}
QS_INLINE vf v_from_u8(const uint8_t *p)
{
    return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i_u *)p)));
}

QS_INLINE void v_store_bf16(uint16_t *p, vf x, int64_t n)
{
    __m256i bits = _mm256_castps_si256(x), one = _mm256_set1_epi32(1);
    __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), one);
    __m256i rounded = _mm256_srli_epi32(_mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7FFF)), odd), 16);
    __m256i quiet = _mm256_or_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(0x40));
    __m256i is_nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
    rounded = _mm256_blendv_epi8(rounded, quiet, is_nan);
    __m128i half = _mm_packus_epi32(_mm256_castsi256_si128(rounded), _mm256_extracti128_si256(rounded, 1));
    memcpy(p, &half, (size_t)n * sizeof *p);
}

QS_INLINE void v_turn(vf rows[V_LANES])
{
    vf pairs[8], quads[8];
    QS_UNROLL for (int i = 0; i < 8; i += 2)
    {
        pairs[i] = _mm256_unpacklo_ps(rows[i], rows[i + 1]);
        pairs[i + 1] = _mm256_unpackhi_ps(rows[i], rows[i + 1]);
    }
    QS_UNROLL for (int i = 0; i < 8; i += 4)
    {
        QS_UNROLL for (int k = 0; k < 2; k++)
        {
            __m256d a = _mm256_castps_pd(pairs[i + k]), b = _mm256_castps_pd(pairs[i + 2 + k]);
            quads[i + 2 * k] = _mm256_castpd_ps(_mm256_unpacklo_pd(a, b));
            quads[i + 2 * k + 1] = _mm256_castpd_ps(_mm256_unpackhi_pd(a, b));
        }
    }
    QS_UNROLL for (int k = 0; k < 4; k++)
    {
        rows[k] = _mm256_permute2f128_ps(quads[k], quads[k + 4], 0x20);
        rows[k + 4] = _mm256_permute2f128_ps(quads[k], quads[k + 4], 0x31);
    }
}

QS_INLINE vf v_codes(const uint8_t *p, int bits)
{
    uint32_t word;
    memcpy(&word, p, sizeof word);
    __m256i shifts = _mm256_mullo_epi32(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), _mm256_set1_epi32(bits));
    __m256i codes = _mm256_srlv_epi32(_mm256_set1_epi32((int)word), shifts);
    return _mm256_cvtepi32_ps(_mm256_and_si256(codes, _mm256_set1_epi32((1 << bits) - 1)));
}

QS_INLINE vi v_bits(vf a) { return _mm256_castps_si256(a); }
QS_INLINE vf v_from_bits(vi a) { return _mm256_castsi256_ps(a); }
QS_INLINE vf v_through_f16(vf a)
{
    return _mm256_cvtph_ps(_mm256_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
QS_INLINE vi vi_add(vi a, vi b) { return _mm256_add_epi32(a, b); }
QS_INLINE vi vi_zero(void) { return _mm256_setzero_si256(); }
QS_INLINE vi vi_pairs(const int8_t *a, const int16_t *b)
{
    __m256i wide = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i_u *)a));
    return _mm256_madd_epi16(wide, _mm256_loadu_si256((const __m256i_u *)b));
}
QS_INLINE int32_t vi_sum(vi a)
{
    __m128i quarter = _mm_add_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
    quarter = _mm_add_epi32(quarter, _mm_shuffle_epi32(quarter, 0x4E));
    return _mm_cvtsi128_si32(_mm_add_epi32(quarter, _mm_shuffle_epi32(quarter, 0xB1)));
}
QS_INLINE vi vi_load(const uint32_t *p) { return _mm256_loadu_si256((const __m256i_u *)p); }
QS_INLINE vi vi_set(int x) { return _mm256_set1_epi32(x); }
QS_INLINE vi vi_and(vi a, vi b) { return _mm256_and_si256(a, b); }
QS_INLINE vi vi_or(vi a, vi b) { return _mm256_or_si256(a, b); }
QS_INLINE vi vi_shift_right(vi a, int n) { return _mm256_srl_epi32(a, _mm_cvtsi32_si128(n)); }
QS_INLINE vi vi_shift_left(vi a, int n) { return _mm256_sll_epi32(a, _mm_cvtsi32_si128(n)); }
QS_INLINE vi vi_shift_signed(vi a, int n) { return _mm256_sra_epi32(a, _mm_cvtsi32_si128(n)); }
QS_INLINE vf v_from_int(vi a) { return _mm256_cvtepi32_ps(a); }

QS_INLINE vd vd_zero(void) { return (vd){_mm256_setzero_pd(), _mm256_setzero_pd()}; }
QS_INLINE vd vd_load(const double *p) { return (vd){_mm256_loadu_pd(p), _mm256_loadu_pd(p + 4)}; }
QS_INLINE void vd_store(double *p, vd x)
{
    _mm256_storeu_pd(p, x.low);
    _mm256_storeu_pd(p + 4, x.high);
}
QS_INLINE vd vd_from(vf x)
{
    return (vd){_mm256_cvtps_pd(_mm256_castps256_ps128(x)), _mm256_cvtps_pd(_mm256_extractf128_ps(x, 1))};
}
QS_INLINE vd vd_set(double x) { return (vd){_mm256_set1_pd(x), _mm256_set1_pd(x)}; }
QS_INLINE vd vd_add(vd a, vd b) { return (vd){_mm256_add_pd(a.low, b.low), _mm256_add_pd(a.high, b.high)}; }
QS_INLINE vd vd_sub(vd a, vd b) { return (vd){_mm256_sub_pd(a.low, b.low), _mm256_sub_pd(a.high, b.high)}; }
QS_INLINE vd vd_fma(vd a, vd b, vd c)
{
    return (vd){_mm256_fmadd_pd(a.low, b.low, c.low), _mm256_fmadd_pd(a.high, b.high, c.high)};
}

#else
#error "simd.h is for files compiled with AVX-512 or with AVX2 and FMA"
#endif

/* ---- both ---- */

QS_INLINE float v_largest(vf x)
{
    float lanes[V_LANES];
    v_store(lanes, x);
    float largest = lanes[0];
    for (int i = 1; i < V_LANES; i++)
        if (lanes[i] > largest) largest = lanes[i];
    return largest;
}

QS_INLINE double vd_sum(vd x)
{
    double lanes[V_LANES];
    vd_store(lanes, x);
    for (int width = V_LANES / 2; width > 0; width /= 2)
        for (int i = 0; i < width; i++) lanes[i] += lanes[i + width];
    return lanes[0];
}

/* e^x within 1 ulp for -104 <= x <= 88; 0 below, infinity above. x = n ln 2 + r with |r| <= ln 2 / 2, ln 2 in
 * two parts so that n ln 2 is exact enough; e^r = 1 + r + r^2 p(r), p the minimax polynomial of degree 4 for
 * the relative error of e^r (3.1e-9, a twentieth of an ulp; Remez in f64, rounded to f32). NaN stays NaN. */
QS_INLINE vf v_exp(vf x)
{
    const vf lowest = v_set(-104.0f), highest = v_set(89.0f);
    x = v_max(lowest, x);
    x = v_min(highest, x);
    vf n = v_round(v_mul(x, v_set(0x1.715476p+0f)));
    vf r = v_fnma(n, v_set(0x1.62e400p-1f), x);
    r = v_fnma(n, v_set(0x1.7f7d1cp-20f), r);
    vf p = v_fma(v_set(0x1.6a244cp-10f), r, v_set(0x1.1239d4p-7f));
    p = v_fma(p, r, v_set(0x1.5558f2p-5f));
    p = v_fma(p, r, v_set(0x1.555492p-3f));
    p = v_fma(p, r, v_set(0x1.fffffcp-2f));
    return v_scale(v_add(v_fma(p, v_mul(r, r), r), v_set(1.0f)), n);
}

#endif
