// Rotary positions (rule 12): the first half of each head turns with its second half. Halves need be no multiple of 16.
#pragma once

#include <string.h>

#include "../kernels.h"
#include "../support.h"

namespace cls {
namespace {

// `first` and `second` are 16 numbers each.
template <class V>
CLS_INLINE void turn(float *first, float *second, typename V::F cosines, typename V::F sines) {
    typename V::F x = V::load(first), y = V::load(second);
    V::store(first, V::fms(x, cosines, V::mul(y, sines)));
    V::store(second, V::fma(y, cosines, V::mul(x, sines)));
}

// The same for fewer than 16 numbers.
template <class V>
void turn_some(float *first, float *second, const float *cosines, const float *sines, int count) {
    float of[4][kLanes] = {};
    size_t bytes = size_t(count) * sizeof(float);
    memcpy(of[0], first, bytes);
    memcpy(of[1], second, bytes);
    memcpy(of[2], cosines, bytes);
    memcpy(of[3], sines, bytes);
    turn<V>(of[0], of[1], V::load(of[2]), V::load(of[3]));
    memcpy(first, of[0], bytes);
    memcpy(second, of[1], bytes);
}

template <class V>
void rotate(float *x, int64_t stride, int rows, int first_position, int heads, int head_stride, const Rotation &rotation) {
    const int half = rotation.half;
    for (int row = 0; row < rows; ++row) {
        const float *cosines = rotation.cosines + (int64_t(first_position) + row) * half;
        const float *sines = rotation.sines + (int64_t(first_position) + row) * half;
        for (int head = 0; head < heads; ++head) {
            float *first = x + row * stride + int64_t(head) * head_stride, *second = first + half;
            int i = 0;
            for (; i + kLanes <= half; i += kLanes) turn<V>(first + i, second + i, V::load(cosines + i), V::load(sines + i));
            if (i < half) turn_some<V>(first + i, second + i, cosines + i, sines + i, half - i);
        }
    }
}

}  // namespace
}  // namespace cls
