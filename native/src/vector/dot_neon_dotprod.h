// Dot products of bytes with NEON's dotprod, which takes both signed: inputs are q - 128, which kOffset puts right.
#pragma once

#include "dot_in_place.h"
#include "neon.h"

namespace cls {
namespace {

struct DotNeonDotprod {
    static constexpr int kRows = 6, kColumns = 16, kSteps = 4, kOffset = 128, kBlockInputs = kAllInputs, kBlockRows = kRows;
    using Columns = ColumnsInPlace;
    using TurnWeights = const int8_t *;
    using TurnInputs = int8x16_t;
    using Weights = int8x16x4_t;

    template <int kTileRows>
    struct Rows : RowsInPlace {
        using RowsInPlace::RowsInPlace;
        TurnInputs at(int row, int k) const { return vreinterpretq_s8_u8(veorq_u8(vld1q_u8(RowsInPlace::at(row, k)), vdupq_n_u8(128))); }
    };

    template <int kStep>
    CLS_INLINE Weights weights(TurnWeights p, int) {
        return vld1q_s8_x4(p + kStep * 256);
    }
    template <int kStep>
    CLS_INLINE Neon::I add(Neon::I sums, Weights w, TurnInputs x) {
        for (int i = 0; i < 4; ++i) sums.of[i] = vdotq_laneq_s32(sums.of[i], w.val[i], x, kStep);
        return sums;
    }
};

}  // namespace
}  // namespace cls
