// Dot products of bytes with AVX-VNNI: vpdpbusd, 8 columns a register. With CLS_VNNI_BY_AVX512VL the same instruction in AVX512VL's
// encoding, so that a CPU without AVX-VNNI can test what is built on this type.
#pragma once

#include "avx2.h"
#include "dot_in_place.h"

namespace cls {
namespace {

struct DotAvxVnni {
    static constexpr int kRows = 6, kColumns = 16, kSteps = 4, kOffset = 0, kBlockInputs = kAllInputs, kBlockRows = kRows;
    using Columns = ColumnsInPlace;
    template <int kTileRows>
    using Rows = RowsInPlace;
    using TurnWeights = const int8_t *;
    using TurnInputs = const uint8_t *;
    using Weights = Avx2::I;

    template <int kStep>
    CLS_INLINE Weights weights(TurnWeights p, int) {
        return Avx2::load_int(reinterpret_cast<const int32_t *>(p + kStep * 256));
    }
    template <int kStep>
    CLS_INLINE Avx2::I add(Avx2::I sums, Weights w, TurnInputs x) {
        int32_t four;
        memcpy(&four, x + 4 * kStep, sizeof four);
        __m256i all = _mm256_set1_epi32(four);
        return {dot(sums.low, all, w.low), dot(sums.high, all, w.high)};
    }

private:
    CLS_INLINE __m256i dot(__m256i sums, __m256i inputs, __m256i weights) {
#ifdef CLS_VNNI_BY_AVX512VL
        return _mm256_dpbusd_epi32(sums, inputs, weights);
#else
        return _mm256_dpbusd_avx_epi32(sums, inputs, weights);
#endif
    }
};

}  // namespace
}  // namespace cls
