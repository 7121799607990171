// Rows of float32 to uint8, each with a scale and a zero point of its own (rule 7). A row is read twice; the second time it is in cache.
#pragma once

#include <float.h>
#include <string.h>

#include "../kernels.h"
#include "../support.h"

namespace cls {
namespace {

template <class V, bool kSmoothed>
CLS_INLINE typename V::F smoothed(const float *x, const float *smoothing) {
    if constexpr (kSmoothed) return V::mul(V::load(x), V::load(smoothing));
    return V::load(x);
}

struct Limits {
    float low, high;
};

template <class V, bool kSmoothed>
CLS_INLINE Limits limits_of(const float *x, int depth, const float *smoothing) {
    typename V::F low[2] = {V::zero(), V::zero()}, high[2] = {V::zero(), V::zero()};
    for (int i = 0; i < depth; i += 2 * kLanes) {
        for (int part = 0; part < 2; ++part) {
            int at = i + part * kLanes;
            typename V::F v = smoothed<V, kSmoothed>(x + at, smoothing + at);
            low[part] = V::min(v, low[part]);
            high[part] = V::max(v, high[part]);
        }
    }
    return {V::smallest(V::min(low[0], low[1])), V::largest(V::max(high[0], high[1]))};
}

template <class V, bool kSmoothed>
CLS_INLINE RowScale quantize_row(const float *x, int depth, const float *smoothing, uint8_t *q) {
    Limits limits = limits_of<V, kSmoothed>(x, depth, smoothing);
    float size = limits.high - limits.low;
    if (!(size >= 1e-30f && size <= FLT_MAX)) {
        memset(q, 0, size_t(depth));
        return {0.0f, 0};
    }
    float inverse = 255.0f / size;
    const float k2To23 = 8388608.0f;  // a number below 256 and this keep no bits behind the point: half to even
    int32_t zero = int32_t(-limits.low * inverse + k2To23 - k2To23);
    typename V::F inverses = V::set(inverse);
    typename V::I zeros = V::set_int(zero);
    for (int i = 0; i < depth; i += 4 * kLanes) {
        typename V::I parts[4];
        for (int part = 0; part < 4; ++part) {
            int at = i + part * kLanes;
            parts[part] = V::add_int(V::to_int(V::mul(smoothed<V, kSmoothed>(x + at, smoothing + at), inverses)), zeros);
        }
        V::store_bytes(q + i, parts[0], parts[1], parts[2], parts[3]);
    }
    return {size / 255.0f, zero};
}

template <class V, bool kSmoothed>
void quantize_rows(const float *x, int64_t stride, int rows, int depth, const float *smoothing, uint8_t *q, RowScale *scales) {
    for (int row = 0; row < rows; ++row) {
        scales[row] = quantize_row<V, kSmoothed>(x + row * stride, depth, smoothing, q + int64_t(row) * depth);
    }
}

template <class V>
void quantize(const float *x, int64_t stride, int rows, int depth, const float *smoothing, uint8_t *q, RowScale *scales) {
    if (smoothing) {
        quantize_rows<V, true>(x, stride, rows, depth, smoothing, q, scales);
    } else {
        quantize_rows<V, false>(x, stride, rows, depth, x, q, scales);
    }
}

}  // namespace
}  // namespace cls
