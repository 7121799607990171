// The mean of a text's rows (rule 10).
#pragma once

#include "../kernels.h"
#include "../support.h"

namespace cls {
namespace {

template <class V>
void mean(const float *x, int64_t stride, int begin, int end, int width, float *y) {
    const typename V::F count = V::set(end > begin ? float(end - begin) : 1.0f);
    for (int i = 0; i < width; i += kPanel) {
        typename V::F sums[kPanel / kLanes];
        for (int part = 0; part < kPanel / kLanes; ++part) sums[part] = V::zero();
        for (int row = begin; row < end; ++row) {
            const float *numbers = x + row * stride + i;
            for (int part = 0; part < kPanel / kLanes; ++part) sums[part] = V::add(sums[part], V::load(numbers + part * kLanes));
        }
        for (int part = 0; part < kPanel / kLanes; ++part) V::store(y + i + part * kLanes, V::div(sums[part], count));
    }
}

}  // namespace
}  // namespace cls
