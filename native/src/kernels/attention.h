// Attention of one text: all its rows (rule 8 of kernels.h), or one row with keys and values reassociated (rule 9).
//
// A head's keys are transposed once, into panels of 64 keys as a packed weight has them; then tiles of several queries go through scores,
// softmax and context while their scores are in cache. Working memory is linear in the tokens.
#pragma once

#include <string.h>

#include "../kernels.h"
#include "functions.h"
#include "tile.h"

namespace cls {
namespace {

// The scores that an attention adds to: the biases of a head by distance, and which keys a query sees.
struct Sight {
    const float *distances;  // of the head, or null
    int64_t distance_stride;
    int max_length;
    int tokens;
    int window;
};

// Biases of the keys from `key` on, as many as the text still has; zeros for the rest.
template <class V>
CLS_INLINE typename V::F distance_biases(const Sight &sight, int query, int key) {
    int64_t first = static_cast<int64_t>(key) - query + sight.max_length - 1;
    if (first + kLanes <= sight.distance_stride) return V::load(sight.distances + first);
    float biases[kLanes] = {};
    memcpy(biases, sight.distances + first, sizeof(float) * static_cast<size_t>(least(kLanes, sight.tokens - key)));
    return V::load(biases);
}

// Numbers [low, high) of 16 scores; -infinity for the others.
template <class V>
CLS_INLINE typename V::F within(typename V::F scores, int low, int high) {
    static const float kIndices[kLanes] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    typename V::F index = V::load(kIndices), none = V::set(-__builtin_inff());
    scores = V::select(V::less(index, V::set(static_cast<float>(high))), scores, none);
    return V::select(V::less(index, V::set(static_cast<float>(low))), none, scores);
}

// row *= factor
template <class V>
CLS_INLINE void scale(float *row, int width, float factor) {
    for (int k = 0; k < width; k += kLanes) V::store(row + k, V::mul(V::load(row + k), V::set(factor)));
}

// Loads of 4 or 16 numbers as one value that the compiler shuffles, whatever the CPU has.
typedef float Four __attribute__((vector_size(16)));
typedef float Sixteen __attribute__((vector_size(64)));

// 4 rows of 4 numbers, `stride` apart -> their transpose, rows kPanel apart. Rows from `count` on are zeros, and not read.
CLS_INLINE void transpose_4(const float *rows, int64_t stride, int count, float *out) {
    Four a[4] = {};
    for (int i = 0; i < least(count, 4); i++) memcpy(&a[i], rows + i * stride, sizeof(Four));
    Four even_low = __builtin_shufflevector(a[0], a[2], 0, 4, 1, 5), even_high = __builtin_shufflevector(a[0], a[2], 2, 6, 3, 7);
    Four odd_low = __builtin_shufflevector(a[1], a[3], 0, 4, 1, 5), odd_high = __builtin_shufflevector(a[1], a[3], 2, 6, 3, 7);
    Four columns[4] = {__builtin_shufflevector(even_low, odd_low, 0, 4, 1, 5), __builtin_shufflevector(even_low, odd_low, 2, 6, 3, 7),
                       __builtin_shufflevector(even_high, odd_high, 0, 4, 1, 5), __builtin_shufflevector(even_high, odd_high, 2, 6, 3, 7)};
    for (int i = 0; i < 4; i++) memcpy(out + i * kPanel, &columns[i], sizeof(Four));
}

// The same of 16 rows of 16. Each step interleaves the first halves of rows i and i + 8, and then their second halves.
CLS_INLINE void transpose_16(const float *rows, int64_t stride, int count, float *out) {
    Sixteen a[16] = {}, b[16];
#pragma GCC unroll 16
    for (int i = 0; i < 16; i++)
        if (i < count) memcpy(&a[i], rows + i * stride, sizeof(Sixteen));
#pragma GCC unroll 4
    for (int step = 0; step < 4; step++) {
#pragma GCC unroll 8
        for (int i = 0; i < 8; i++) {
            b[2 * i] = __builtin_shufflevector(a[i], a[i + 8], 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
            b[2 * i + 1] = __builtin_shufflevector(a[i], a[i + 8], 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
        }
#pragma GCC unroll 16
        for (int i = 0; i < 16; i++) a[i] = b[i];
    }
#pragma GCC unroll 16
    for (int i = 0; i < 16; i++) memcpy(out + i * kPanel, &a[i], sizeof(Sixteen));
}

// Keys of a head [tokens][stride] -> panels [tokens / 64][head_stride][64], the last padded with zeros to 16.
template <class V>
void transpose_keys(Matrix keys, int tokens, int head_stride, float *panels) {
    constexpr int kStep = kRegisters<V> == 32 ? 16 : 4;
    constexpr auto transpose = kStep == 16 ? transpose_16 : transpose_4;
    for (int key = 0; key < rounded_up(tokens, kLanes); key += kStep) {
        float *panel = panels + static_cast<int64_t>(key / kPanel) * kPanel * head_stride + key % kPanel;
        const float *rows = keys.data + key * keys.stride;
        if (key + kStep <= tokens) {
            for (int d = 0; d < head_stride; d += kStep) transpose(rows + d, keys.stride, kStep, panel + d * kPanel);
        } else {
            for (int d = 0; d < head_stride; d += kStep) transpose(rows + d, keys.stride, tokens - key, panel + d * kPanel);
        }
    }
}

// A head of `attend`: its queries, its keys as panels, its values, and where its context goes.
struct HeadAttention {
    Matrix queries;
    const float *key_panels;
    Matrix values;
    float *context;
    int64_t context_stride;
    int head_stride;
    Sight sight;
};

// How far apart rows of `count` scores lie: an odd number of cache lines, so that a tile's rows fall into different sets of a cache.
constexpr int64_t apart(int count) {
    return count + (count / kLanes % 2 == 0 ? kLanes : 0);
}

// Which keys a query sees: [low, high).
struct Range {
    int low, high;
};

CLS_INLINE Range seen_by(const Sight &sight, int query, int rows) {
    if (sight.window == 0) return {0, sight.tokens};
    return {query - least(query, sight.window), query + least(sight.tokens - query, sight.window + rows)};
}

// 16 scores of a query and the keys from `key` on, with what the layer adds; -infinity where a key is not seen.
template <class V>
CLS_INLINE typename V::F seen_scores(const float *scores, const Sight &sight, Range seen, int query, int key) {
    typename V::F values = V::load(scores);
    if (sight.distances) values = V::add(values, distance_biases<V>(sight, query, key));
    if (seen.low <= key && key + kLanes <= seen.high) return values;
    return within<V>(values, seen.low - key, seen.high - key);
}

// scores [rows][stride], `count` of each row, of the keys from `first` on -> e^(score - the row's largest), and the inverse of each row's sum. Three passes, so
// that no row waits for another's reductions.
template <class V>
void softmax_rows(float *scores, int64_t stride, int rows, const Sight &sight, int query, int first, int count, float *inverses) {
    float tops[kHighestTile], totals[kHighestTile * kLanes];
    for (int r = 0; r < rows; r++) {
        float *row = scores + r * stride;
        Range seen = seen_by(sight, query + r, 1);
        typename V::F largest = V::set(-__builtin_inff());
        for (int k = 0; k < count; k += kLanes) {
            typename V::F values = seen_scores<V>(row + k, sight, seen, query + r, first + k);
            V::store(row + k, values);
            largest = V::max(largest, values);
        }
        tops[r] = V::largest(largest);
    }
    for (int r = 0; r < rows; r++) {
        float *row = scores + r * stride;
        typename V::F top = V::set(tops[r]), total = V::zero();
        for (int k = 0; k < count; k += kLanes) {
            typename V::F e = exp<V>(V::sub(V::load(row + k), top));
            V::store(row + k, e);
            total = V::add(total, e);
        }
        V::store(totals + r * kLanes, total);
    }
    for (int r = 0; r < rows; r++) inverses[r] = 1.0f / V::sum(V::load(totals + r * kLanes));
}

// Queries [query, query + rows) against the keys that any of them sees.
template <class V, int kColumns>
void attend_tile(const HeadAttention &head, int query, int rows, float *scores) {
    Range seen = seen_by(head.sight, query, rows);
    int low = seen.low / kPanel * kPanel;
    int count = static_cast<int>(rounded_up(seen.high - low, kLanes));
    int64_t stride = apart(count);
    Matrix queries = {head.queries.data + query * head.queries.stride, head.queries.stride};
    for (int done = 0; done < count; done += kPanel) {
        const float *panel = head.key_panels + static_cast<int64_t>(low + done) * head.head_stride;
        row_of_tiles<V, kColumns>(rows, queries, {panel, kPanel}, head.head_stride, least(kPanel, count - done) / kLanes, scores + done, stride);
    }
    float inverses[kHighestTile];
    softmax_rows<V>(scores, stride, rows, head.sight, query, low, count, inverses);
    float *context = head.context + query * head.context_stride;
    row_of_tiles<V, kColumns>(rows, {scores, stride}, {head.values.data + low * head.values.stride, head.values.stride}, seen.high - low,
                              head.head_stride / kLanes, context, head.context_stride);
    for (int r = 0; r < rows; r++) scale<V>(context + r * head.context_stride, head.head_stride, inverses[r]);
}

// The values of a head one after another, where many queries read them: a text's rows are too far apart for caches and page tables.
inline Matrix values_together(Matrix values, int tokens, int head_stride, float *copy) {
    if (tokens <= kPanel) return values;
    for (int t = 0; t < tokens; t++)
        memcpy(copy + static_cast<int64_t>(t) * head_stride, values.data + t * values.stride, sizeof(float) * static_cast<size_t>(head_stride));
    return {copy, head_stride};
}

template <class V>
void attend(const TextAttention &text, void *scratch) {
    constexpr int kColumns = kRegisters<V> == 32 ? 2 : 1;
    int64_t numbers = rounded_up(text.tokens, kPanel) * text.head_stride;
    float *key_panels = static_cast<float *>(scratch), *values = key_panels + numbers, *scores = values + numbers;
    for (int h = 0; h < text.heads; h++) {
        int64_t offset = static_cast<int64_t>(h) * text.head_stride;
        transpose_keys<V>({text.keys + offset, text.stride}, text.tokens, text.head_stride, key_panels);
        const float *distances = text.distances ? text.distances + h * text.distance_stride : nullptr;
        HeadAttention head = {{text.queries + offset, text.stride},
                              key_panels,
                              values_together({text.values + offset, text.stride}, text.tokens, text.head_stride, values),
                              text.context + offset,
                              text.context_stride,
                              text.head_stride,
                              {distances, text.distance_stride, text.max_length, text.tokens, text.window}};
        for_row_tiles(text.tokens, highest_tile<V>(kColumns),
                      [&](int first, int count) { attend_tile<V, kColumns>(head, first, count, scores); });
    }
}

// u [heads][width]: each head's query times its rows of `key_by_head`.
template <class V>
void queries_by_head(const RowAttention &text, float *u) {
    const Product &product = *text.key_by_head;
    for (int column = 0; column < product.width; column += kPanel) {
        const float *panel = product.floats + static_cast<int64_t>(column) * product.depth;
        for (int h = 0; h < text.heads; h++) {
            int first = h * text.head_stride;
            float *out = u + static_cast<int64_t>(h) * product.width + column;
            tile<V, 1, 4>({text.query + first, 0}, {panel + static_cast<int64_t>(first) * kPanel, kPanel}, text.head_stride, false, out, 0, {});
        }
    }
}

// scores[i][j] for kHeads rows u against kTokens rows x: sums by lanes.
template <class V, int kHeads, int kTokens>
CLS_INLINE void dot_products(Matrix u, Matrix x, int width, float *scores, int64_t scores_stride) {
    typename V::F acc[kHeads][kTokens];
    for (int i = 0; i < kHeads; i++)
        for (int j = 0; j < kTokens; j++) acc[i][j] = V::zero();
    for (int k = 0; k < width; k += kLanes) {
        typename V::F rows[kHeads];
        for (int i = 0; i < kHeads; i++) rows[i] = V::load(u.data + i * u.stride + k);
        for (int j = 0; j < kTokens; j++) {
            typename V::F token = V::load(x.data + j * x.stride + k);
            for (int i = 0; i < kHeads; i++) acc[i][j] = V::fma(rows[i], token, acc[i][j]);
        }
    }
    for (int i = 0; i < kHeads; i++)
        for (int j = 0; j < kTokens; j++) scores[i * scores_stride + j] = V::sum(acc[i][j]);
}

template <class V, int kHeads>
CLS_INLINE void scores_of_heads(Matrix u, Matrix x, int tokens, int width, float *scores, int64_t scores_stride) {
    constexpr int kTokens = kRegisters<V> == 32 ? 4 : 2;
    int t = 0;
    for (; t + kTokens <= tokens; t += kTokens)
        dot_products<V, kHeads, kTokens>(u, {x.data + t * x.stride, x.stride}, width, scores + t, scores_stride);
    for (; t < tokens; t++) dot_products<V, kHeads, 1>(u, {x.data + t * x.stride, x.stride}, width, scores + t, scores_stride);
}

// scores [heads][stride]: of every head and token, without distances.
template <class V>
void row_scores(const RowAttention &text, const float *u, int width, float *scores, int64_t stride) {
    constexpr int kHeads = kRegisters<V> == 32 ? 4 : 2;
    Matrix x = {text.hidden, text.stride};
    int h = 0;
    for (; h + kHeads <= text.heads; h += kHeads)
        scores_of_heads<V, kHeads>({u + static_cast<int64_t>(h) * width, width}, x, text.tokens, width, scores + h * stride, stride);
    for (; h < text.heads; h++)
        scores_of_heads<V, 1>({u + static_cast<int64_t>(h) * width, width}, x, text.tokens, width, scores + h * stride, stride);
}

// context = c [heads][depth] times each head's columns of `value_by_head`, plus their bias. A panel's vectors may be of several heads.
template <class V>
void context_of_heads(const RowAttention &text, const float *c) {
    constexpr int kVectors = kPanel / kLanes;
    const Product &product = *text.value_by_head;
    for (int column = 0; column < product.width; column += kPanel) {
        const float *panel = product.floats + static_cast<int64_t>(column) * product.depth;
        const float *rows[kVectors];
        for (int v = 0; v < kVectors; v++)
            rows[v] = c + static_cast<int64_t>(least((column + kLanes * v) / text.head_stride, text.heads - 1)) * product.depth;
        typename V::F acc[kVectors];
        for (int v = 0; v < kVectors; v++) acc[v] = V::zero();
        for (int k = 0; k < product.depth; k++)
            for (int v = 0; v < kVectors; v++)
                acc[v] = V::fma(V::set(rows[v][k]), V::load(panel + static_cast<int64_t>(k) * kPanel + kLanes * v), acc[v]);
        for (int v = 0; v < kVectors; v++) {
            int n = column + kLanes * v;
            bool padding = n >= text.heads * text.head_stride;
            V::store(text.context + n, padding ? V::zero() : V::add(acc[v], V::load(product.bias + n)));
        }
    }
}

template <class V>
void attend_row(const RowAttention &text, void *scratch) {
    constexpr int kColumns = kRegisters<V> == 32 ? 4 : 1;
    const int width = text.key_by_head->width;
    const int count = static_cast<int>(rounded_up(text.tokens, kLanes));
    const int64_t stride = apart(count);
    float *u = static_cast<float *>(scratch);
    float *c = u + static_cast<int64_t>(text.heads) * width;
    float *scores = c + static_cast<int64_t>(text.heads) * width;
    float *inverses = scores + text.heads * stride;
    queries_by_head<V>(text, u);
    row_scores<V>(text, u, width, scores, stride);
    for (int h = 0; h < text.heads; h++) {
        const float *distances = text.distances ? text.distances + h * text.distance_stride : nullptr;
        Sight sight = {distances, text.distance_stride, text.max_length, text.tokens, 0};
        softmax_rows<V>(scores + h * stride, stride, 1, sight, text.row, 0, count, inverses + h);
    }
    for_row_tiles(text.heads, highest_tile<V>(kColumns), [&](int first, int count) {
        float *rows = c + static_cast<int64_t>(first) * width;
        row_of_tiles<V, kColumns>(count, {scores + first * stride, stride}, {text.hidden, text.stride}, text.tokens, width / kLanes, rows, width);
        for (int r = 0; r < count; r++) scale<V>(rows + static_cast<int64_t>(r) * width, width, inverses[first + r]);
    });
    context_of_heads<V>(text, c);
}

}  // namespace
}  // namespace cls
