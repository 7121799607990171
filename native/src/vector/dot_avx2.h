// Dot products of bytes with AVX2: widened to 16 bits, inputs 0 and 2 of a group apart from 1 and 3, so that vpmaddwd is exact.
#pragma once

#include <string.h>

#include "avx2.h"

namespace cls {
namespace {

struct DotAvx2 {
    struct Weights {
        __m256i low_even, low_odd, high_even, high_odd;
    };
    using Inputs = const uint8_t *;
    static constexpr int kRows = 4, kColumns = 16, kOffset = 0;

    CLS_INLINE Weights weights(const int8_t *p) {
        Avx2::I w = Avx2::load_int(reinterpret_cast<const int32_t *>(p));
        return {even(w.low), odd(w.low), even(w.high), odd(w.high)};
    }
    CLS_INLINE Inputs inputs(const uint8_t *q) { return q; }
    template <int kStep>
    CLS_INLINE Avx2::I add(Avx2::I sums, Weights w, Inputs x) {
        int32_t four;
        memcpy(&four, x + 4 * kStep, sizeof four);
        __m256i all = _mm256_set1_epi32(four);
        __m256i x_even = _mm256_and_si256(all, _mm256_set1_epi16(0xff)), x_odd = _mm256_srli_epi16(all, 8);
        sums.low = _mm256_add_epi32(sums.low, _mm256_madd_epi16(w.low_even, x_even));
        sums.high = _mm256_add_epi32(sums.high, _mm256_madd_epi16(w.high_even, x_even));
        sums.low = _mm256_add_epi32(sums.low, _mm256_madd_epi16(w.low_odd, x_odd));
        sums.high = _mm256_add_epi32(sums.high, _mm256_madd_epi16(w.high_odd, x_odd));
        return sums;
    }

private:
    CLS_INLINE __m256i even(__m256i bytes) { return _mm256_srai_epi16(_mm256_slli_epi16(bytes, 8), 8); }
    CLS_INLINE __m256i odd(__m256i bytes) { return _mm256_srai_epi16(bytes, 8); }
};

}  // namespace
}  // namespace cls
