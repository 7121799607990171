// C [rows x 16 * columns] = A [rows x depth] B [depth x 16 * columns]: the loop that float products and attention share.
//
// A number of C is one chain over the depth, acc = fma(a, b, acc) from 0, whatever the shape of the tile: so tiles may be of any shape.
#pragma once

#include "../support.h"

namespace cls {
namespace {

struct Avx512;

// How many vectors of 16 numbers the registers hold: 16 of 8 numbers on AVX2, 32 of 4 on NEON, 32 of 16 on AVX512.
template <class V>
constexpr int kRegisters = 8;
template <>
constexpr int kRegisters<Avx512> = 32;

// Rows of the highest tile whose accumulators stay in registers, with a row of B and a number of A, for a width of 16 * `columns`.
template <class V>
constexpr int highest_tile(int columns) {
    return kRegisters<V> == 32 ? (columns == 4 ? 6 : 14) : (columns == 4 ? 1 : columns == 2 ? 2 : 6);
}

constexpr int kHighestTile = 14;

// `rows` cut into as few tiles as there are of at most `highest` rows, all about equally high: calls each(first, count).
template <class Each>
CLS_INLINE void for_row_tiles(int rows, int highest, const Each &each) {
    int tiles = (rows + highest - 1) / highest;
    for (int tile = 0, first = 0; tile < tiles; tile++) {
        int count = rows / tiles + (tile < rows % tiles ? 1 : 0);
        each(first, count);
        first += count;
    }
}

// A matrix in memory: rows `stride` numbers apart.
struct Matrix {
    const float *data;
    int64_t stride;
};

// Calls finish(row, column, acc) for each vector of C.
template <class V, int kRows, int kColumns, class Finish>
CLS_INLINE void fixed_tile(Matrix a, Matrix b, int depth, const Finish &finish) {
    typename V::F acc[kRows][kColumns];
    for (int r = 0; r < kRows; r++)
        for (int c = 0; c < kColumns; c++) acc[r][c] = V::zero();
    for (int k = 0; k < depth; k++) {
        typename V::F weights[kColumns];
        for (int c = 0; c < kColumns; c++) weights[c] = V::load(b.data + k * b.stride + 16 * c);
        for (int r = 0; r < kRows; r++) {
            typename V::F x = V::set(a.data[r * a.stride + k]);
            for (int c = 0; c < kColumns; c++) acc[r][c] = V::fma(x, weights[c], acc[r][c]);
        }
    }
    for (int r = 0; r < kRows; r++)
        for (int c = 0; c < kColumns; c++) finish(r, c, acc[r][c]);
}

template <class V, int kRows, int kColumns, class Finish>
CLS_INLINE void tile_up_to(int rows, Matrix a, Matrix b, int depth, const Finish &finish) {
    if constexpr (kRows > 1) {
        if (rows < kRows) return tile_up_to<V, kRows - 1, kColumns>(rows, a, b, depth, finish);
    }
    fixed_tile<V, kRows, kColumns>(a, b, depth, finish);
}

// `rows` is 1 to highest_tile<V>(kColumns).
template <class V, int kColumns, class Finish>
CLS_INLINE void tile(int rows, Matrix a, Matrix b, int depth, const Finish &finish) {
    tile_up_to<V, highest_tile<V>(kColumns), kColumns>(rows, a, b, depth, finish);
}

}  // namespace
}  // namespace cls
