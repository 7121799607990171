// Dot products of bytes with NEON's dotprod, which takes both signed: inputs are q - 128, which kOffset puts right.
#pragma once

#include "neon.h"

namespace cls {
namespace {

struct DotNeonDotprod {
    using Weights = int8x16x4_t;
    using Inputs = int8x16_t;
    static constexpr int kRows = 5, kColumns = 16, kOffset = 128;

    CLS_INLINE Weights weights(const int8_t *p) { return {{vld1q_s8(p), vld1q_s8(p + 16), vld1q_s8(p + 32), vld1q_s8(p + 48)}}; }
    CLS_INLINE Inputs inputs(const uint8_t *q) { return vreinterpretq_s8_u8(veorq_u8(vld1q_u8(q), vdupq_n_u8(128))); }
    template <int kStep>
    CLS_INLINE Neon::I add(Neon::I sums, Weights w, Inputs x) {
        for (int i = 0; i < 4; ++i) sums.of[i] = vdotq_laneq_s32(sums.of[i], w.val[i], x, kStep);
        return sums;
    }
};

}  // namespace
}  // namespace cls
