// LayerNorm (rules 5 and 6). Each sum over a row is one chain of additions, so that several rows go together: their chains overlap.
#pragma once

#include "../kernels.h"
#include "../support.h"

namespace cls {
namespace {

alignas(64) constexpr float kLaneNumbers[kLanes] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

// Where a row's own numbers end: whole vectors first, then those in which padding is masked away.
template <class V>
struct RowEnd {
    int whole;  // numbers in whole vectors
    float size;

    CLS_INLINE RowEnd of(int size) { return {size / kLanes * kLanes, float(size)}; }
    typename V::F without_padding(typename V::F f, int at) const {
        return V::select(V::less(V::add(V::load(kLaneNumbers), V::set(float(at))), V::set(size)), f, V::zero());
    }
};

template <class V, int kRows>
CLS_INLINE void norm_rows(const float *x, int64_t x_stride, const Norm &norm, int width, float *y, int64_t y_stride) {
    const RowEnd<V> end = RowEnd<V>::of(norm.size);
    typename V::F sums[kRows], means[kRows], factors[kRows];
    for (int row = 0; row < kRows; ++row) sums[row] = V::zero();
    for (int i = 0; i < width; i += kLanes) {
        for (int row = 0; row < kRows; ++row) sums[row] = V::add(sums[row], V::load(x + row * x_stride + i));
    }
    for (int row = 0; row < kRows; ++row) {
        means[row] = V::set(V::sum(sums[row]) / end.size);
        sums[row] = V::zero();
    }
    for (int i = 0; i < width; i += kLanes) {
        for (int row = 0; row < kRows; ++row) {
            typename V::F d = V::sub(V::load(x + row * x_stride + i), means[row]);
            if (i >= end.whole) d = end.without_padding(d, i);
            sums[row] = V::fma(d, d, sums[row]);
        }
    }
    for (int row = 0; row < kRows; ++row) {
        factors[row] = V::set(1.0f / __builtin_sqrtf(V::sum(sums[row]) / end.size + norm.epsilon));
    }
    for (int i = 0; i < width; i += kLanes) {
        typename V::F scale = V::load(norm.scale + i), shift = V::load(norm.shift + i);
        for (int row = 0; row < kRows; ++row) {
            typename V::F d = V::sub(V::load(x + row * x_stride + i), means[row]);
            if (i >= end.whole) d = end.without_padding(d, i);
            V::store(y + row * y_stride + i, V::fma(V::mul(d, factors[row]), scale, shift));
        }
    }
}

template <class V>
void norm(const float *x, int64_t x_stride, int rows, const Norm &norm, int width, float *y, int64_t y_stride) {
    const int kTogether = 4;
    int row = 0;
    for (; row + kTogether <= rows; row += kTogether) {
        norm_rows<V, kTogether>(x + row * x_stride, x_stride, norm, width, y + row * y_stride, y_stride);
    }
    for (; row < rows; ++row) norm_rows<V, 1>(x + row * x_stride, x_stride, norm, width, y + row * y_stride, y_stride);
}

}  // namespace
}  // namespace cls
