// Product of float32 rows with a packed float32 weight (rules 2 and 4 of kernels.h).
//
// A panel of 64 columns stays in cache while all rows of a block pass. A tile's sums go through a buffer in the cache, so that the
// activations are compiled once and not into each shape of tile.
#pragma once

#include "../kernels.h"
#include "functions.h"
#include "tile.h"

namespace cls {
namespace {

template <class V, cls_activation kActivation>
void finish_rows(const float *sums, int rows, const Epilogue &epilogue, int64_t first_row, int column, float *y, int64_t y_stride) {
    for (int r = 0; r < rows; r++) {
        float *out = y + (first_row + r) * y_stride + column;
        const float *residual = epilogue.residual ? epilogue.residual + (first_row + r) * epilogue.residual_stride + column : nullptr;
        for (int c = 0; c < kPanel; c += kLanes) {
            typename V::F value = activated<V, kActivation>(V::load(sums + r * kPanel + c));
            V::store(out + c, residual ? V::add(value, V::load(residual + c)) : value);
        }
    }
}

using FinishRows = void (*)(const float *sums, int rows, const Epilogue &epilogue, int64_t first_row, int column, float *y,
                            int64_t y_stride);

template <class V>
FinishRows finish_rows_of(Activation activation) {
    switch (activation) {
        case CLS_GELU: return finish_rows<V, CLS_GELU>;
        case CLS_GELU_COARSE: return finish_rows<V, CLS_GELU_COARSE>;
        case CLS_GELU_TANH: return finish_rows<V, CLS_GELU_TANH>;
        case CLS_RELU: return finish_rows<V, CLS_RELU>;
        case CLS_SILU: return finish_rows<V, CLS_SILU>;
        case CLS_TANH: return finish_rows<V, CLS_TANH>;
        case CLS_SIGMOID: return finish_rows<V, CLS_SIGMOID>;
        case CLS_IDENTITY: break;
    }
    return finish_rows<V, CLS_IDENTITY>;
}

// sums [rows][64] = x [rows][depth] times one panel, plus its bias, by tiles of 16 * kColumns columns.
template <class V, int kColumns>
void panel_sums(Matrix x, int rows, const float *panel, int depth, const float *bias, float *sums) {
    for (int column = 0; column < kPanel; column += kLanes * kColumns) {
        tile<V, kColumns>(rows, x, {panel + column, kPanel}, depth, [&](int r, int c, typename V::F acc) {
            int n = column + kLanes * c;
            V::store(sums + r * kPanel + n, V::add(acc, V::load(bias + n)));
        });
    }
}

template <class V>
void float_product(const float *x, int64_t x_stride, int rows, const Product &product, const Epilogue &epilogue, float *y, int64_t y_stride) {
    constexpr int kTallColumns = kRegisters<V> == 32 ? 4 : 1;  // of the tiles that many rows are cut into
    FinishRows finish = finish_rows_of<V>(epilogue.activation);
    float sums[kHighestTile * kPanel];
    for (int column = 0; column < product.width; column += kPanel) {
        const float *panel = product.floats + static_cast<int64_t>(column) * product.depth;
        const float *bias = product.bias + column;
        for_row_tiles(rows, highest_tile<V>(kTallColumns), [&](int first, int count) {
            Matrix block = {x + first * x_stride, x_stride};
            if (count <= highest_tile<V>(4)) {
                panel_sums<V, 4>(block, count, panel, product.depth, bias, sums);
            } else if (count <= highest_tile<V>(2)) {
                panel_sums<V, 2>(block, count, panel, product.depth, bias, sums);
            } else {
                panel_sums<V, 1>(block, count, panel, product.depth, bias, sums);
            }
            finish(sums, count, epilogue, first, column, y, y_stride);
        });
    }
}

}  // namespace
}  // namespace cls
