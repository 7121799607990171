// Weights and inputs for dot products that take them as they lie.
#pragma once

#include <string.h>

#include "../support.h"

namespace cls {
namespace {

constexpr int kAllInputs = INT32_MAX;

// Of the columns of a tile: every group of four inputs is 256 bytes.
struct ColumnsInPlace {
    const int8_t *weights;

    ColumnsInPlace(const int8_t *first, int) : weights(first) {}
    const int8_t *at(int k) const { return weights + int64_t{64} * k; }
};

struct RowsInPlace {
    const uint8_t *q;
    int64_t depth;

    RowsInPlace(const uint8_t *first, int64_t stride, int) : q(first), depth(stride) {}
    const uint8_t *at(int row, int k) const { return q + row * depth + k; }
};

}  // namespace
}  // namespace cls
