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

// sums [rows][64] of a tile's rows by tiles of 16 * kColumns columns. `fetch` is what the first one asks for; the next ones go on from
// there.
template <class V, int kColumns>
void panel_tiles(int rows, Matrix x, const float *panel, int depth, bool more, float *sums, Fetch fetch) {
    Tile tile = tile_of<V, kColumns>(rows);
    for (int column = 0; column < kPanel; column += kLanes * kColumns) {
        tile(x, {panel + column, kPanel}, depth, more, sums + column, kPanel, fetch);
        fetch.next += static_cast<int64_t>(depth / kFetchDepth) * fetch.lines * kLanes;
    }
}

// sums [rows][64] += x [rows][depth] times a part of a panel. Meanwhile the part behind it, of the same depth, is asked for.
template <class V>
void part_sums(int rows, Matrix x, const float *part, int depth, bool more, float *sums) {
    constexpr int kColumns = kRegisters<V> == 32 ? 4 : 1, kTallest = highest_tile<V>(kColumns);
    const int tiles = (rows + kTallest - 1) / kTallest * (kPanel / kLanes / kColumns), lines = kFetchDepth * kPanel / kLanes;
    Fetch fetch = {part + static_cast<int64_t>(depth) * kPanel, (lines + tiles - 1) / tiles};
    if (rows <= highest_tile<V>(4)) fetch.lines = 0;  // one pass in order, which the CPU sees by itself
    for_row_tiles(rows, kTallest, [&](int first, int count) {
        Matrix block = {x.data + first * x.stride, x.stride};
        float *out = sums + first * kPanel;
        if (count <= highest_tile<V>(4)) {
            panel_tiles<V, 4>(count, block, part, depth, more, out, fetch);
        } else if (count <= highest_tile<V>(2)) {
            panel_tiles<V, 2>(count, block, part, depth, more, out, fetch);
        } else {
            panel_tiles<V, 1>(count, block, part, depth, more, out, fetch);
        }
        fetch.next += static_cast<int64_t>(depth / kFetchDepth) * fetch.lines * kLanes * (kPanel / kLanes / kColumns);
    });
}

template <class V>
void float_product(const float *x, int64_t x_stride, int rows, const Product &product, const Epilogue &epilogue, float *y,
                   int64_t y_stride) {
    FinishRows finish = finish_rows_of<V>(epilogue.activation);
    float sums[kBlockRows * kPanel];
    const int parts = (product.depth + kDepthInCache - 1) / kDepthInCache;
    const int part = static_cast<int>(rounded_up((product.depth + parts - 1) / parts, kPanel));
    for_row_tiles(rows, kBlockRows, [&](int first, int count) {
        for (int column = 0; column < product.width; column += kPanel) {
            const float *panel = product.floats + static_cast<int64_t>(column) * product.depth;
            for (int k = 0; k < product.depth; k += part) {
                part_sums<V>(count, {x + first * x_stride + k, x_stride}, panel + static_cast<int64_t>(k) * kPanel,
                             least(part, product.depth - k), k > 0, sums);
            }
            finish(sums, count, product.bias + column, epilogue, first, column, y, y_stride);
        }
    });
}

}  // namespace
}  // namespace cls
