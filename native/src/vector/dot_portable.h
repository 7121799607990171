// Dot products of bytes in plain C++.
#pragma once

#include "dot_in_place.h"
#include "portable.h"

namespace cls {
namespace {

struct DotPortable {
    static constexpr int kRows = 1, kColumns = 16, kSteps = 4, kOffset = 0, kBlockInputs = kAllInputs, kBlockRows = kRows;
    using Columns = ColumnsInPlace;
    template <int kTileRows>
    using Rows = RowsInPlace;
    using TurnWeights = const int8_t *;
    using TurnInputs = const uint8_t *;
    using Weights = const int8_t *;

    template <int kStep>
    CLS_INLINE Weights weights(TurnWeights p, int) {
        return p + kStep * 256;
    }
    template <int kStep>
    CLS_INLINE Portable::I add(Portable::I sums, Weights w, TurnInputs x) {
        int x0 = x[4 * kStep], x1 = x[4 * kStep + 1], x2 = x[4 * kStep + 2], x3 = x[4 * kStep + 3];
        for (int i = 0; i < 16; ++i) {
            int products = x0 * w[4 * i] + x1 * w[4 * i + 1] + x2 * w[4 * i + 2] + x3 * w[4 * i + 3];
            sums.of[i] = int32_t(uint32_t(sums.of[i]) + uint32_t(products));
        }
        return sums;
    }
};

}  // namespace
}  // namespace cls
