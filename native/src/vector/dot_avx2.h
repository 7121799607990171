// Dot products of bytes with AVX2, exact: bytes are widened to 16 bits and vpmaddwd multiplies them. Of a group of four inputs, 0 and 2 are
// apart from 1 and 3, which takes a mask or a shift. Weights are widened once for many rows, inputs once for the columns of a tile.
#pragma once

#include "avx2.h"

namespace cls {
namespace {

struct DotAvx2 {
    static constexpr int kRows = 4, kColumns = 16, kSteps = 8, kOffset = 0, kBlockInputs = 256, kBlockRows = 48;
    using Weights = Avx2::I;
    using TurnWeights = const Weights *;
    struct TurnInputs {
        const int32_t *even, *odd;
    };

    struct Columns {
        Weights of[kBlockInputs / 2];  // for two inputs of each column

        Columns(const int8_t *first, int inputs) {
            for (int k = 0; k < inputs; k += 4) {
                Avx2::I w = Avx2::load_int(reinterpret_cast<const int32_t *>(first + 64 * k));
                of[k / 2] = high_bytes({_mm256_slli_epi16(w.low, 8), _mm256_slli_epi16(w.high, 8)});
                of[k / 2 + 1] = high_bytes(w);
            }
        }
        TurnWeights at(int k) const { return of + k / 2; }
    };

    template <int kTileRows>
    struct Rows {
        int32_t even[kTileRows][kBlockInputs / 4], odd[kTileRows][kBlockInputs / 4];

        Rows(const uint8_t *first, int64_t stride, int inputs) {
            for (int r = 0; r < kTileRows; ++r) {
                for (int k = 0; k < inputs; k += 32) {
                    __m256i all = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(first + r * stride + k));
                    _mm256_storeu_si256(reinterpret_cast<__m256i *>(even[r] + k / 4), _mm256_and_si256(all, _mm256_set1_epi16(0xff)));
                    _mm256_storeu_si256(reinterpret_cast<__m256i *>(odd[r] + k / 4), _mm256_srli_epi16(all, 8));
                }
            }
        }
        TurnInputs at(int row, int k) const { return {even[row] + k / 4, odd[row] + k / 4}; }
    };

    template <int kStep>
    CLS_INLINE Weights weights(TurnWeights of, int) {
        return of[kStep];
    }
    template <int kStep>
    CLS_INLINE Avx2::I add(Avx2::I sums, Weights w, TurnInputs x) {
        __m256i two = _mm256_set1_epi32((kStep % 2 ? x.odd : x.even)[kStep / 2]);
        return {_mm256_add_epi32(sums.low, _mm256_madd_epi16(w.low, two)), _mm256_add_epi32(sums.high, _mm256_madd_epi16(w.high, two))};
    }

private:
    CLS_INLINE Avx2::I high_bytes(Avx2::I w) { return {_mm256_srai_epi16(w.low, 8), _mm256_srai_epi16(w.high, 8)}; }
};

}  // namespace
}  // namespace cls
