// 16 numbers in two registers of AVX2.
#pragma once

#include "../support.h"
#include "x86.h"

namespace cls {
namespace {

struct Avx2 {
    struct F {
        __m256 low, high;
    };
    struct I {
        __m256i low, high;
    };
    using M = F;  // all bits of a lane or none

    CLS_INLINE F load(const float *p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
    CLS_INLINE void store(float *p, F f) {
        _mm256_storeu_ps(p, f.low);
        _mm256_storeu_ps(p + 8, f.high);
    }
    CLS_INLINE F set(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
    CLS_INLINE F zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }

    CLS_INLINE F add(F a, F b) { return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)}; }
    CLS_INLINE F sub(F a, F b) { return {_mm256_sub_ps(a.low, b.low), _mm256_sub_ps(a.high, b.high)}; }
    CLS_INLINE F mul(F a, F b) { return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)}; }
    CLS_INLINE F div(F a, F b) { return {_mm256_div_ps(a.low, b.low), _mm256_div_ps(a.high, b.high)}; }
    CLS_INLINE F fma(F a, F b, F c) { return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)}; }
    CLS_INLINE F fms(F a, F b, F c) { return {_mm256_fmsub_ps(a.low, b.low, c.low), _mm256_fmsub_ps(a.high, b.high, c.high)}; }
    CLS_INLINE F fnma(F a, F b, F c) { return {_mm256_fnmadd_ps(a.low, b.low, c.low), _mm256_fnmadd_ps(a.high, b.high, c.high)}; }
    CLS_INLINE F min(F a, F b) { return {_mm256_min_ps(a.low, b.low), _mm256_min_ps(a.high, b.high)}; }
    CLS_INLINE F max(F a, F b) { return {_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high)}; }
    CLS_INLINE F sqrt(F f) { return {_mm256_sqrt_ps(f.low), _mm256_sqrt_ps(f.high)}; }
    CLS_INLINE F abs(F f) { return {_mm256_andnot_ps(sign_bits(), f.low), _mm256_andnot_ps(sign_bits(), f.high)}; }
    CLS_INLINE F copy_sign(F magnitude, F sign) {
        F positive = abs(magnitude);
        return {_mm256_or_ps(positive.low, _mm256_and_ps(sign_bits(), sign.low)),
                _mm256_or_ps(positive.high, _mm256_and_ps(sign_bits(), sign.high))};
    }
    CLS_INLINE F round(F f) {
        const int kNearestEven = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
        return {_mm256_round_ps(f.low, kNearestEven), _mm256_round_ps(f.high, kNearestEven)};
    }

    CLS_INLINE float sum(F f) {
        __m256 eight = _mm256_add_ps(f.low, f.high);
        __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
        __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
        return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
    }
    CLS_INLINE float smallest(F f) {
        __m256 eight = _mm256_min_ps(f.low, f.high);
        __m128 four = _mm_min_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
        __m128 two = _mm_min_ps(four, _mm_movehl_ps(four, four));
        return _mm_cvtss_f32(_mm_min_ss(two, _mm_movehdup_ps(two)));
    }
    CLS_INLINE float largest(F f) {
        __m256 eight = _mm256_max_ps(f.low, f.high);
        __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
        __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
        return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
    }

    CLS_INLINE I load_int(const int32_t *p) {
        const __m256i *halves = reinterpret_cast<const __m256i *>(p);
        return {_mm256_loadu_si256(halves), _mm256_loadu_si256(halves + 1)};
    }
    CLS_INLINE void store_int(int32_t *p, I n) {
        __m256i *halves = reinterpret_cast<__m256i *>(p);
        _mm256_storeu_si256(halves, n.low);
        _mm256_storeu_si256(halves + 1, n.high);
    }
    CLS_INLINE I set_int(int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
    CLS_INLINE I add_int(I a, I b) { return {_mm256_add_epi32(a.low, b.low), _mm256_add_epi32(a.high, b.high)}; }
    CLS_INLINE I sub_int(I a, I b) { return {_mm256_sub_epi32(a.low, b.low), _mm256_sub_epi32(a.high, b.high)}; }
    CLS_INLINE I mul_int(I a, I b) { return {_mm256_mullo_epi32(a.low, b.low), _mm256_mullo_epi32(a.high, b.high)}; }
    CLS_INLINE I to_int(F f) { return {_mm256_cvtps_epi32(f.low), _mm256_cvtps_epi32(f.high)}; }
    CLS_INLINE F to_float(I n) { return {_mm256_cvtepi32_ps(n.low), _mm256_cvtepi32_ps(n.high)}; }
    CLS_INLINE F scale_by_power(F f, F power) { return {scaled(f.low, power.low), scaled(f.high, power.high)}; }

    CLS_INLINE M less(F a, F b) { return {_mm256_cmp_ps(a.low, b.low, _CMP_LT_OQ), _mm256_cmp_ps(a.high, b.high, _CMP_LT_OQ)}; }
    CLS_INLINE F select(M m, F a, F b) { return {_mm256_blendv_ps(b.low, a.low, m.low), _mm256_blendv_ps(b.high, a.high, m.high)}; }

    CLS_INLINE F load_half(const uint16_t *p) {
        const __m128i *halves = reinterpret_cast<const __m128i *>(p);
        return {_mm256_cvtph_ps(_mm_loadu_si128(halves)), _mm256_cvtph_ps(_mm_loadu_si128(halves + 1))};
    }
    CLS_INLINE void store_bytes(uint8_t *p, I a, I b, I c, I d) {
        __m256i *halves = reinterpret_cast<__m256i *>(p);
        _mm256_storeu_si256(halves, packed(a, b));
        _mm256_storeu_si256(halves + 1, packed(c, d));
    }

private:
    CLS_INLINE __m256 sign_bits() { return _mm256_set1_ps(-0.0f); }
    CLS_INLINE __m256 scaled(__m256 f, __m256 power) {
        __m256i exponent = _mm256_slli_epi32(_mm256_cvtps_epi32(power), 23);
        return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(f), exponent));
    }
    // The packing instructions saturate and work on each half of a register: the quarters are put in order at the end.
    CLS_INLINE __m256i packed(I a, I b) {
        __m256i bytes = _mm256_packus_epi16(_mm256_packs_epi32(a.low, a.high), _mm256_packs_epi32(b.low, b.high));
        return _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
    }
};

}  // namespace
}  // namespace cls
