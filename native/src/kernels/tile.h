// C [rows x 16 * columns] = A [rows x depth] B [depth x 16 * columns]: the loop that float products and attention share.
//
// A number of C is one chain over the depth, acc = fma(a, b, acc) from 0, whatever the shape of the tile: so tiles may be of any shape.
#pragma once

#include "../model.h"
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

// What a tile asks for while it computes: `lines` cache lines, one after another, every kFetchDepth steps of the depth.
struct Fetch {
    const float *next = nullptr;
    int lines = 0;
};

constexpr int kFetchDepth = 8;

// C = A B, or the chains of C go on where `more`.
template <class V, int kRows, int kColumns>
void tile(Matrix a, Matrix b, int depth, bool more, float *c, int64_t c_stride, Fetch fetch) {
    typename V::F acc[kRows][kColumns];
#pragma GCC unroll 32
    for (int i = 0; i < kRows * kColumns; i++)
        acc[i / kColumns][i % kColumns] = more ? V::load(c + i / kColumns * c_stride + i % kColumns * kLanes) : V::zero();
    for (int begin = 0; begin < depth; begin += kFetchDepth) {
        for (int line = 0; line < fetch.lines; line++, fetch.next += kLanes) __builtin_prefetch(fetch.next, 0, 2);
        const int end = least(begin + kFetchDepth, depth);
        for (int k = begin; k < end; k++) {
            typename V::F weights[kColumns];
#pragma GCC unroll 4
            for (int j = 0; j < kColumns; j++) weights[j] = V::load(b.data + k * b.stride + kLanes * j);
#pragma GCC unroll 16
            for (int r = 0; r < kRows; r++) {
                typename V::F x = V::set(a.data[r * a.stride + k]);
#pragma GCC unroll 4
                for (int j = 0; j < kColumns; j++) acc[r][j] = V::fma(x, weights[j], acc[r][j]);
            }
        }
    }
#pragma GCC unroll 32
    for (int i = 0; i < kRows * kColumns; i++)
        V::store(c + i / kColumns * c_stride + i % kColumns * kLanes, acc[i / kColumns][i % kColumns]);
}

using Tile = void (*)(Matrix a, Matrix b, int depth, bool more, float *c, int64_t c_stride, Fetch fetch);

// The tile of `rows`, 1 to highest_tile<V>(kColumns).
template <class V, int kColumns, int kRows = highest_tile<V>(kColumns)>
Tile tile_of(int rows) {
    if constexpr (kRows > 1) {
        if (rows < kRows) return tile_of<V, kColumns, kRows - 1>(rows);
    }
    return tile<V, kRows, kColumns>;
}

// C [rows x 16 * vectors] by tiles of at most 16 * kColumns columns; rows is at most highest_tile<V>(kColumns).
template <class V, int kColumns>
void row_of_tiles(int rows, Matrix a, Matrix b, int depth, int vectors, float *c, int64_t c_stride) {
    int first = 0;
    if (vectors >= kColumns) {
        Tile wide = tile_of<V, kColumns>(rows);
        for (; first + kColumns <= vectors; first += kColumns)
            wide(a, {b.data + kLanes * first, b.stride}, depth, false, c + kLanes * first, c_stride, {});
    }
    if (first == vectors) return;
    Tile narrow = tile_of<V, 1>(rows);
    for (; first < vectors; first++) narrow(a, {b.data + kLanes * first, b.stride}, depth, false, c + kLanes * first, c_stride, {});
}

}  // namespace
}  // namespace cls
