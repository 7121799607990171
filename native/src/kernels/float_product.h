// Product of float32 rows with a packed float32 weight (rules 2 and 4 of kernels.h).
//
// A part of a panel of 64 columns stays in cache while the rows of a block pass. Their sums lie in a buffer in the cache, so that a long
// depth is taken in parts, and activations are compiled once and not into each shape of tile.
#pragma once

#include "../kernels.h"
#include "functions.h"
#include "tile.h"

namespace cls {
namespace {

constexpr int kBlockRows = 48;    // rows whose sums the buffer holds
constexpr int kDepthInCache = 512;  // inputs of a part of a panel: 128 KiB

template <class V, cls_activation kActivation>
void finish_rows(const float *sums, int rows, const float *bias, const Epilogue &epilogue, int64_t first_row, int column, float *y,
                 int64_t y_stride) {
    for (int r = 0; r < rows; r++) {
        float *out = y + (first_row + r) * y_stride + column;
        const float *residual = epilogue.residual ? epilogue.residual + (first_row + r) * epilogue.residual_stride + column : nullptr;
        for (int c = 0; c < kPanel; c += kLanes) {
            typename V::F value = activated<V, kActivation>(V::add(V::load(sums + r * kPanel + c), V::load(bias + c)));
            V::store(out + c, residual ? V::add(value, V::load(residual + c)) : value);
        }
    }
}

using FinishRows = void (*)(const float *sums, int rows, const float *bias, const Epilogue &epilogue, int64_t first_row, int column,
                            float *y, int64_t y_stride);

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

// sums [rows][64] by tiles of 16 * kColumns columns.
template <class V, int kColumns>
void panel_tiles(int rows, Matrix x, const float *panel, int depth, bool more, float *sums) {
    Tile tile = tile_of<V, kColumns>(rows);
    for (int column = 0; column < kPanel; column += kLanes * kColumns)
        tile(x, {panel + column, kPanel}, depth, more, sums + column, kPanel);
}

// sums [rows][64] = x [rows][depth] times a panel.
template <class V>
void panel_sums(int rows, Matrix x, const float *panel, int depth, float *sums) {
    constexpr int kTallest = highest_tile<V>(kRegisters<V> == 32 ? 4 : 1);
    for (int k = 0; k < depth; k += kDepthInCache) {
        int part = least(kDepthInCache, depth - k);
        for_row_tiles(rows, kTallest, [&](int first, int count) {
            Matrix block = {x.data + first * x.stride + k, x.stride};
            const float *weights = panel + static_cast<int64_t>(k) * kPanel;
            float *out = sums + first * kPanel;
            if (count <= highest_tile<V>(4)) {
                panel_tiles<V, 4>(count, block, weights, part, k > 0, out);
            } else if (count <= highest_tile<V>(2)) {
                panel_tiles<V, 2>(count, block, weights, part, k > 0, out);
            } else {
                panel_tiles<V, 1>(count, block, weights, part, k > 0, out);
            }
        });
    }
}

template <class V>
void float_product(const float *x, int64_t x_stride, int rows, const Product &product, const Epilogue &epilogue, float *y, int64_t y_stride) {
    FinishRows finish = finish_rows_of<V>(epilogue.activation);
    float sums[kBlockRows * kPanel];
    for_row_tiles(rows, kBlockRows, [&](int first, int count) {
        for (int column = 0; column < product.width; column += kPanel) {
            const float *panel = product.floats + static_cast<int64_t>(column) * product.depth;
            panel_sums<V>(count, {x + first * x_stride, x_stride}, panel, product.depth, sums);
            finish(sums, count, product.bias + column, epilogue, first, column, y, y_stride);
        }
    });
}

}  // namespace
}  // namespace cls
