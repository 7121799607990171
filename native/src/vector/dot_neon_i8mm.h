// Dot products of bytes with NEON's i8mm: signed weights by unsigned inputs.
#pragma once

#include "dot_in_place.h"
#include "neon.h"

namespace cls {
namespace {

struct DotNeonI8mm {
    static constexpr int kRows = 6, kColumns = 16, kSteps = 4, kOffset = 0, kBlockInputs = kAllInputs, kBlockRows = kRows;
    using Columns = ColumnsInPlace;
    using TurnWeights = const int8_t *;
    using TurnInputs = uint8x16_t;
    using Weights = int8x16x4_t;

    template <int kTileRows>
    struct Rows : RowsInPlace {
        using RowsInPlace::RowsInPlace;
        TurnInputs at(int row, int k) const { return vld1q_u8(RowsInPlace::at(row, k)); }
    };

    template <int kStep>
    CLS_INLINE Weights weights(TurnWeights p, int) {
        return vld1q_s8_x4(p + kStep * 256);
    }
    template <int kStep>
    CLS_INLINE Neon::I add(Neon::I sums, Weights w, TurnInputs x) {
        for (int i = 0; i < 4; ++i) sums.of[i] = vsudotq_laneq_s32(sums.of[i], w.val[i], x, kStep);
        return sums;
    }
};

}  // namespace
}  // namespace cls
