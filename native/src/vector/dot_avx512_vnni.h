// Dot products of bytes with AVX512-VNNI: vpdpbusd, 16 columns a register.
#pragma once

#include "avx512.h"
#include "dot_in_place.h"

namespace cls {
namespace {

struct DotAvx512Vnni {
    static constexpr int kRows = 6, kColumns = 64, kSteps = 4, kOffset = 0, kBlockInputs = kAllInputs, kBlockRows = kRows;
    using Columns = ColumnsInPlace;
    template <int kTileRows>
    using Rows = RowsInPlace;
    using TurnWeights = const int8_t *;
    using TurnInputs = const uint8_t *;
    using Weights = __m512i;

    template <int kStep>
    CLS_INLINE Weights weights(TurnWeights p, int v) {
        return _mm512_loadu_si512(p + kStep * 256 + v * 64);
    }
    template <int kStep>
    CLS_INLINE Avx512::I add(Avx512::I sums, Weights w, TurnInputs x) {
        int32_t four;
        memcpy(&four, x + 4 * kStep, sizeof four);
        return _mm512_dpbusd_epi32(sums, _mm512_set1_epi32(four), w);
    }
};

}  // namespace
}  // namespace cls
