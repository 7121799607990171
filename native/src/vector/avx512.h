// 16 numbers in one register of AVX512.
#pragma once

#include "../support.h"
#include "x86.h"

namespace cls {
namespace {

struct Avx512 {
    using F = __m512;
    using I = __m512i;
    using M = __mmask16;

    CLS_INLINE F load(const float *p) { return _mm512_loadu_ps(p); }
    CLS_INLINE void store(float *p, F f) { _mm512_storeu_ps(p, f); }
    CLS_INLINE F set(float x) { return _mm512_set1_ps(x); }
    CLS_INLINE F zero() { return _mm512_setzero_ps(); }

    CLS_INLINE F add(F a, F b) { return _mm512_add_ps(a, b); }
    CLS_INLINE F sub(F a, F b) { return _mm512_sub_ps(a, b); }
    CLS_INLINE F mul(F a, F b) { return _mm512_mul_ps(a, b); }
    CLS_INLINE F div(F a, F b) { return _mm512_div_ps(a, b); }
    CLS_INLINE F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
    CLS_INLINE F fms(F a, F b, F c) { return _mm512_fmsub_ps(a, b, c); }
    CLS_INLINE F fnma(F a, F b, F c) { return _mm512_fnmadd_ps(a, b, c); }
    CLS_INLINE F min(F a, F b) { return _mm512_min_ps(a, b); }
    CLS_INLINE F max(F a, F b) { return _mm512_max_ps(a, b); }
    CLS_INLINE F sqrt(F f) { return _mm512_sqrt_ps(f); }
    CLS_INLINE F abs(F f) { return _mm512_castsi512_ps(_mm512_andnot_si512(sign_bits(), _mm512_castps_si512(f))); }
    CLS_INLINE F copy_sign(F magnitude, F sign) {
        const int kFirstWhereMaskElseSecond = 0xCA;
        return _mm512_castsi512_ps(_mm512_ternarylogic_epi32(sign_bits(), _mm512_castps_si512(sign), _mm512_castps_si512(magnitude),
                                                             kFirstWhereMaskElseSecond));
    }
    CLS_INLINE F round(F f) { return _mm512_roundscale_ps(f, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }

    CLS_INLINE float sum(F f) {
        __m256 eight = _mm256_add_ps(lower(f), upper(f));
        __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
        __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
        return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
    }
    CLS_INLINE float smallest(F f) {
        __m256 eight = _mm256_min_ps(lower(f), upper(f));
        __m128 four = _mm_min_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
        __m128 two = _mm_min_ps(four, _mm_movehl_ps(four, four));
        return _mm_cvtss_f32(_mm_min_ss(two, _mm_movehdup_ps(two)));
    }
    CLS_INLINE float largest(F f) {
        __m256 eight = _mm256_max_ps(lower(f), upper(f));
        __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
        __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
        return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
    }

    CLS_INLINE I load_int(const int32_t *p) { return _mm512_loadu_si512(p); }
    CLS_INLINE void store_int(int32_t *p, I n) { _mm512_storeu_si512(p, n); }
    CLS_INLINE I set_int(int32_t x) { return _mm512_set1_epi32(x); }
    CLS_INLINE I add_int(I a, I b) { return _mm512_add_epi32(a, b); }
    CLS_INLINE I sub_int(I a, I b) { return _mm512_sub_epi32(a, b); }
    CLS_INLINE I mul_int(I a, I b) { return _mm512_mullo_epi32(a, b); }
    CLS_INLINE I to_int(F f) { return _mm512_cvtps_epi32(f); }
    CLS_INLINE F to_float(I n) { return _mm512_cvtepi32_ps(n); }
    CLS_INLINE F scale_by_power(F f, F power) { return _mm512_scalef_ps(f, power); }

    CLS_INLINE M less(F a, F b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
    CLS_INLINE F select(M m, F a, F b) { return _mm512_mask_blend_ps(m, b, a); }

    CLS_INLINE F load_half(const uint16_t *p) {
        return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(p)));
    }
    // The packing instructions saturate and work on each quarter of a register: the quarters are put in order at the end.
    CLS_INLINE void store_bytes(uint8_t *p, I a, I b, I c, I d) {
        __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
        __m512i bytes = _mm512_packus_epi16(_mm512_packs_epi32(a, b), _mm512_packs_epi32(c, d));
        _mm512_storeu_si512(p, _mm512_permutexvar_epi32(order, bytes));
    }

private:
    CLS_INLINE I sign_bits() { return _mm512_set1_epi32(INT32_MIN); }
    CLS_INLINE __m256 lower(F f) { return _mm512_castps512_ps256(f); }
    CLS_INLINE __m256 upper(F f) { return _mm512_extractf32x8_ps(f, 1); }
};

}  // namespace
}  // namespace cls
