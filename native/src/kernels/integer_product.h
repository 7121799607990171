// Quantized rows times int8 weights: rules 3 and 4 of kernels.h. y may be the residual.
//
// A tile of up to Dot::kRows rows and Dot::kColumns columns keeps its sums in registers. Columns are the outer loop: their weights stay in
// the first or second cache while all rows pass. The sums then go through what follows the product.
//
// A `Dot` multiplies bytes and adds up, for the 16 columns of a V::I (vector/dot_*.h):
//   kRows, kColumns          of a tile
//   kSteps                   in which 16 inputs are taken
//   kOffset                  is taken from the inputs before they are multiplied
//   kBlockInputs, kBlockRows the inputs and rows for which weights are made ready at once
//   Columns, Rows            weights and inputs of a tile, made ready; at(k) and at(row, k) give those from input k on
//   weights<step>(p, v)      of 16 columns
//   add<step>(s, w, x)       s + the step's products
#pragma once

#include "../kernels.h"
#include "../support.h"
#include "functions.h"

namespace cls {
namespace {

// Before loops over what lies in registers, which a loop that is not unrolled takes to memory.
#define CLS_UNROLLED _Pragma("GCC unroll 64")

constexpr int kGroup = 4;    // inputs of a column that lie together
constexpr int kInputs = 16;  // inputs of a turn of the innermost loop
constexpr int kLine = 64;    // bytes of a cache line

// `whole` cut into `count` parts as equal as can be: the first, which is the largest. 13 rows are tiles of 5 + 4 + 4, not 6 + 6 + 1.
CLS_INLINE int part(int64_t whole, int count) { return int((whole + count - 1) / count); }

// Weights of the columns that come next, fetched while a tile computes: so many cache lines a turn, into the first cache or the second.
struct Ahead {
    const int8_t *weights;
    int lines;
    bool first_cache;
};

CLS_INLINE void fetch(const int8_t *weights, bool first_cache) {
    if (first_cache) {
        __builtin_prefetch(weights, 0, 3);
    } else {
        __builtin_prefetch(weights, 0, 2);
    }
}

// The steps from kStep on of a turn.
template <class V, class Dot, int kRows, int kVectors, int kStep = 0>
CLS_INLINE void add_steps(typename Dot::TurnWeights weights, const typename Dot::TurnInputs (&inputs)[kRows],
                          typename V::I (&sums)[kRows][kVectors]) {
    if constexpr (kStep < Dot::kSteps) {
        CLS_UNROLLED for (int v = 0; v < kVectors; ++v) {
            typename Dot::Weights w = Dot::template weights<kStep>(weights, v);
            CLS_UNROLLED for (int r = 0; r < kRows; ++r) sums[r][v] = Dot::template add<kStep>(sums[r][v], w, inputs[r]);
        }
        add_steps<V, Dot, kRows, kVectors, kStep + 1>(weights, inputs, sums);
    }
}

// The arguments of a product, for all its parts.
template <class V, class Dot>
struct IntegerProduct {
    static constexpr int kVectors = Dot::kColumns / kLanes;

    const uint8_t *q;
    const RowScale *scales;
    int rows;
    const Product &product;
    const Epilogue &epilogue;
    float *y;
    int64_t y_stride;

    template <Activation kActivation>
    void run() const {
        if (rows < 1) return;
        int blocks = part(rows, Dot::kBlockRows);
        for (int64_t column = 0; column < product.width; column += Dot::kColumns) {
            Ahead ahead = next_columns(column);
            int64_t row = 0;
            for (int left = blocks; left > 0; --left) {
                int block_rows = part(rows - row, left);
                typename V::I sums[Dot::kBlockRows * kVectors];
                add_block(row, block_rows, column, ahead, sums);
                if (epilogue.residual) {
                    finish<kActivation, true>(sums, row, block_rows, column);
                } else {
                    finish<kActivation, false>(sums, row, block_rows, column);
                }
                row += block_rows;
            }
        }
    }

    const int8_t *weights_of(int64_t column) const {
        return product.integers + column / kPanel * kPanel * product.depth + column % kPanel * kGroup;
    }

    // Panels read in order by one tile need no help. Few tiles leave too little time for all of a panel to arrive in the first cache.
    Ahead next_columns(int64_t column) const {
        constexpr bool kWholePanel = Dot::kColumns == kPanel;
        const int kFewTiles = 3, kLinesOfTurn = kInputs * Dot::kColumns / kLine;
        int tiles = part(rows, Dot::kRows);
        if (column + Dot::kColumns >= product.width || (kWholePanel && tiles == 1)) return {nullptr, 0, false};
        return {weights_of(column + Dot::kColumns), part(kLinesOfTurn, tiles), !kWholePanel || tiles > kFewTiles};
    }

    // The sums of (q - zero) * w of some rows.
    void add_block(int64_t row, int block_rows, int64_t column, Ahead &ahead, typename V::I *sums) const {
        for (int64_t begin = 0; begin < product.depth; begin += Dot::kBlockInputs) {
            int inputs = int(least<int64_t>(Dot::kBlockInputs, product.depth - begin));
            typename Dot::Columns columns(weights_of(column) + begin * kPanel, inputs);
            int done = 0;
            for (int left = part(block_rows, Dot::kRows); left > 0; --left) {
                int tile_rows = part(block_rows - done, left);
                add_tile<Dot::kRows>(tile_rows, columns, row + done, column, begin, inputs, ahead, sums + done * kVectors);
                done += tile_rows;
            }
        }
    }

    // A tile of `tile_rows` rows, at most kMost.
    template <int kMost>
    void add_tile(int tile_rows, const typename Dot::Columns &columns, int64_t row, int64_t column, int64_t begin, int inputs, Ahead &ahead,
                  typename V::I *sums) const {
        if constexpr (kMost > 1) {
            if (tile_rows < kMost) return add_tile<kMost - 1>(tile_rows, columns, row, column, begin, inputs, ahead, sums);
        }
        add_rows<kMost>(columns, row, column, begin, inputs, ahead, sums);
    }

    template <int kRows>
    void add_rows(const typename Dot::Columns &columns, int64_t row, int64_t column, int64_t begin, int inputs, Ahead &ahead,
                  typename V::I *results) const {
        typename V::I sums[kRows][kVectors];
        CLS_UNROLLED for (int i = 0; i < kRows * kVectors; ++i) {
            sums[i / kVectors][i % kVectors] = begin > 0 ? results[i] : without_zero(row + i / kVectors, column + i % kVectors * kLanes);
        }
        typename Dot::template Rows<kRows> tile(q + row * product.depth + begin, product.depth, inputs);
        const int8_t *next = ahead.weights;
        const int lines = ahead.lines;
        const bool first_cache = ahead.first_cache;
        for (int k = 0; k < inputs; k += kInputs) {
            for (int i = 0; i < lines; ++i, next += kLine * kPanel / Dot::kColumns) fetch(next, first_cache);
            typename Dot::TurnInputs turn[kRows];
            CLS_UNROLLED for (int r = 0; r < kRows; ++r) turn[r] = tile.at(r, k);
            add_steps<V, Dot, kRows, kVectors>(columns.at(k), turn, sums);
        }
        ahead.weights = next;
        CLS_UNROLLED for (int i = 0; i < kRows * kVectors; ++i) results[i] = sums[i / kVectors][i % kVectors];
    }

    // What sums begin with: the zero point's share of the products.
    inline __attribute__((always_inline)) typename V::I without_zero(int64_t row, int64_t column) const {
        return V::mul_int(V::load_int(product.sums + column), V::set_int(Dot::kOffset - scales[row].zero));
    }

    // Scales, bias, activation and residual.
    template <Activation kActivation, bool kResidual>
    void finish(const typename V::I *sums, int64_t row, int block_rows, int64_t column) const {
        for (int v = 0; v < kVectors; ++v, column += kLanes) {
            typename V::F column_scales = V::load(product.scales + column), bias = V::load(product.bias + column);
            for (int r = 0; r < block_rows; ++r) {
                typename V::F scale = V::mul(V::set(scales[row + r].scale), column_scales);
                typename V::F value = activated<V, kActivation>(V::fma(V::to_float(sums[r * kVectors + v]), scale, bias));
                if constexpr (kResidual) value = V::add(value, V::load(epilogue.residual + (row + r) * epilogue.residual_stride + column));
                V::store(y + (row + r) * y_stride + column, value);
            }
        }
    }
};

template <class V, class Dot>
CLS_INLINE void integer_product(const uint8_t *q, const RowScale *scales, int rows, const Product &product, const Epilogue &epilogue,
                                float *y, int64_t y_stride) {
    with_activation(epilogue.activation, IntegerProduct<V, Dot>{q, scales, rows, product, epilogue, y, y_stride});
}

}  // namespace
}  // namespace cls
