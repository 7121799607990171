// What the C++ library would give: this library links nothing but C, so that one compiler builds it for every system in seconds.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace cls {

template <class T>
constexpr T least(T a, T b) {
    return b < a ? b : a;
}

template <class T>
constexpr T greatest(T a, T b) {
    return a < b ? b : a;
}

// `size` rounded up to a multiple of `step`.
constexpr int64_t rounded_up(int64_t size, int64_t step) {
    return (size + step - 1) / step * step;
}

}  // namespace cls
