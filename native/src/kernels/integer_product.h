// Quantized rows times int8 weights: rules 3 and 4 of kernels.h.
//
// A tile of up to Dot::kRows rows and Dot::kColumns columns keeps its sums in registers over the whole depth. A panel of 64 columns is the outer
// loop: its weights stay in the first or second cache while all rows pass. The sums of a tile then go through what follows the product.
//
// A `Dot` multiplies bytes and adds up, four inputs at a time, for the 16 columns of a V::I (vector/dot_*.h):
//   Weights, Inputs        4 inputs of 16 columns; 16 inputs of a row
//   weights(p), inputs(q)  loaded
//   add<step>(s, w, x)     s + the products of w with the inputs 4 * step to 4 * step + 3 of x, which are q - kOffset
//   kRows, kColumns        of a tile
#pragma once

#include "../kernels.h"
#include "../support.h"
#include "functions.h"

namespace cls {
namespace {

constexpr int kGroup = 4;    // inputs of a step of a dot product
constexpr int kInputs = 16;  // inputs of a row that are loaded at once

// Products of the inputs 4 * kStep to 4 * kStep + 3.
template <class V, class Dot, int kRows, int kVectors, int kStep>
CLS_INLINE void add_step(const int8_t *weights, const typename Dot::Inputs (&inputs)[kRows], typename V::I (&sums)[kRows][kVectors]) {
    for (int v = 0; v < kVectors; ++v) {
        typename Dot::Weights w = Dot::weights(weights + (kStep * kPanel + v * kLanes) * kGroup);
        for (int r = 0; r < kRows; ++r) sums[r][v] = Dot::template add<kStep>(sums[r][v], w, inputs[r]);
    }
}

// The sums of (q - zero) * w: the column's sums times the zero point are what they begin with.
template <class V, class Dot, int kRows>
static void integer_tile(const uint8_t *q, const RowScale *scales, const Product &product, int64_t column, typename V::I *results) {
    constexpr int kVectors = Dot::kColumns / kLanes;
    int64_t depth = product.depth;
    typename V::I sums[kRows][kVectors];
    for (int r = 0; r < kRows; ++r) {
        typename V::I factor = V::set_int(Dot::kOffset - scales[r].zero);
        for (int v = 0; v < kVectors; ++v) sums[r][v] = V::mul_int(V::load_int(product.sums + column + v * kLanes), factor);
    }
    const int8_t *weights = product.integers + column / kPanel * kPanel * depth + column % kPanel * kGroup;
    for (int64_t k = 0; k < depth; k += kInputs, weights += kInputs * kPanel) {
        typename Dot::Inputs inputs[kRows];
        for (int r = 0; r < kRows; ++r) inputs[r] = Dot::inputs(q + r * depth + k);
        add_step<V, Dot, kRows, kVectors, 0>(weights, inputs, sums);
        add_step<V, Dot, kRows, kVectors, 1>(weights, inputs, sums);
        add_step<V, Dot, kRows, kVectors, 2>(weights, inputs, sums);
        add_step<V, Dot, kRows, kVectors, 3>(weights, inputs, sums);
    }
    for (int r = 0; r < kRows; ++r) {
        for (int v = 0; v < kVectors; ++v) results[r * kVectors + v] = sums[r][v];
    }
}

// A tile of `rows` rows, at most kMost.
template <class V, class Dot, int kMost>
CLS_INLINE void integer_tile_of(int rows, const uint8_t *q, const RowScale *scales, const Product &product, int64_t column,
                                typename V::I *results) {
    if constexpr (kMost > 1) {
        if (rows < kMost) return integer_tile_of<V, Dot, kMost - 1>(rows, q, scales, product, column, results);
    }
    integer_tile<V, Dot, kMost>(q, scales, product, column, results);
}

// Scales, bias, activation and residual of a tile's sums.
template <class V, class Dot, cls_activation kActivation, bool kResidual>
CLS_INLINE void finish_tile(const typename V::I *sums, const RowScale *scales, int rows, const Product &product, const Epilogue &epilogue,
                            int64_t row, int64_t column, float *y, int64_t y_stride) {
    constexpr int kVectors = Dot::kColumns / kLanes;
    for (int v = 0; v < kVectors; ++v, column += kLanes) {
        typename V::F column_scales = V::load(product.scales + column), bias = V::load(product.bias + column);
        for (int r = 0; r < rows; ++r) {
            typename V::F scale = V::mul(V::set(scales[row + r].scale), column_scales);
            typename V::F value = activated<V, kActivation>(V::fma(V::to_float(sums[r * kVectors + v]), scale, bias));
            if constexpr (kResidual) value = V::add(value, V::load(epilogue.residual + (row + r) * epilogue.residual_stride + column));
            V::store(y + (row + r) * y_stride + column, value);
        }
    }
}

// Row tiles are as equal as can be: 13 rows are 5 + 4 + 4, not 6 + 6 + 1.
template <class V, class Dot, cls_activation kActivation, bool kResidual>
static void integer_product_with(const uint8_t *q, const RowScale *scales, int rows, const Product &product, const Epilogue &epilogue, float *y,
                                 int64_t y_stride) {
    int tiles = (rows + Dot::kRows - 1) / Dot::kRows;
    for (int64_t column = 0; column < product.width; column += Dot::kColumns) {
        int64_t row = 0;
        for (int left = tiles; left > 0; --left) {
            int tile_rows = int((rows - row + left - 1) / left);
            typename V::I sums[Dot::kRows * Dot::kColumns / kLanes];
            integer_tile_of<V, Dot, Dot::kRows>(tile_rows, q + row * product.depth, scales + row, product, column, sums);
            finish_tile<V, Dot, kActivation, kResidual>(sums, scales, tile_rows, product, epilogue, row, column, y, y_stride);
            row += tile_rows;
        }
    }
}

template <class V, class Dot, cls_activation kActivation>
static void integer_product_activated(const uint8_t *q, const RowScale *scales, int rows, const Product &product, const Epilogue &epilogue,
                                      float *y, int64_t y_stride) {
    if (epilogue.residual) {
        integer_product_with<V, Dot, kActivation, true>(q, scales, rows, product, epilogue, y, y_stride);
    } else {
        integer_product_with<V, Dot, kActivation, false>(q, scales, rows, product, epilogue, y, y_stride);
    }
}

template <class V, class Dot>
static void integer_product(const uint8_t *q, const RowScale *scales, int rows, const Product &product, const Epilogue &epilogue, float *y,
                            int64_t y_stride) {
    using Function = void (*)(const uint8_t *, const RowScale *, int, const Product &, const Epilogue &, float *, int64_t);
    static constexpr Function kByActivation[] = {
        integer_product_activated<V, Dot, CLS_IDENTITY>,    integer_product_activated<V, Dot, CLS_GELU>,
        integer_product_activated<V, Dot, CLS_GELU_COARSE>, integer_product_activated<V, Dot, CLS_GELU_TANH>,
        integer_product_activated<V, Dot, CLS_RELU>,        integer_product_activated<V, Dot, CLS_SILU>,
        integer_product_activated<V, Dot, CLS_TANH>,        integer_product_activated<V, Dot, CLS_SIGMOID>,
    };
    kByActivation[epilogue.activation](q, scales, rows, product, epilogue, y, y_stride);
}

}  // namespace
}  // namespace cls
