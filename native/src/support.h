// What the C++ library would give: this library links nothing but C, so that one compiler builds it for every system in seconds.
//
// Everything here is a file's own (the anonymous namespace): each path is compiled for its own instructions, and the linker must never
// take one path's copy of a function for another.
#pragma once

#include <stddef.h>
#include <stdint.h>

// Of the functions that kernels are made of: always compiled into their caller.
#define CLS_INLINE static inline __attribute__((always_inline))

namespace cls {
namespace {

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

}  // namespace
}  // namespace cls
