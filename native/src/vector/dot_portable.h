// Dot products of bytes in plain C++.
#pragma once

#include "portable.h"

namespace cls {
namespace {

struct DotPortable {
    using Weights = const int8_t *;
    using Inputs = const uint8_t *;
    static constexpr int kRows = 4, kColumns = 16, kOffset = 0;

    CLS_INLINE Weights weights(const int8_t *p) { return p; }
    CLS_INLINE Inputs inputs(const uint8_t *q) { return q; }
    template <int kStep>
    CLS_INLINE Portable::I add(Portable::I sums, Weights w, Inputs x) {
        for (int i = 0; i < 16; ++i) {
            int products = 0;
            for (int j = 0; j < 4; ++j) products += x[4 * kStep + j] * w[4 * i + j];
            sums.of[i] = int32_t(uint32_t(sums.of[i]) + uint32_t(products));
        }
        return sums;
    }
};

}  // namespace
}  // namespace cls
