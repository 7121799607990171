// Dot products of bytes with AVX512-VNNI: vpdpbusd, 16 columns a register.
#pragma once

#include <string.h>

#include "avx512.h"

namespace cls {
namespace {

struct DotAvx512Vnni {
    using Weights = __m512i;
    using Inputs = const uint8_t *;
    static constexpr int kRows = 6, kColumns = 64, kOffset = 0;

    CLS_INLINE Weights weights(const int8_t *p) { return _mm512_loadu_si512(p); }
    CLS_INLINE Inputs inputs(const uint8_t *q) { return q; }
    template <int kStep>
    CLS_INLINE Avx512::I add(Avx512::I sums, Weights w, Inputs x) {
        int32_t four;
        memcpy(&four, x + 4 * kStep, sizeof four);
        return _mm512_dpbusd_epi32(sums, _mm512_set1_epi32(four), w);
    }
};

}  // namespace
}  // namespace cls
