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

// Where one of 16 keys from `key` on is not seen, -infinity.
template <class V>
CLS_INLINE typename V::F unseen_removed(typename V::F scores, const Sight &sight, int query, int key) {
    int low = 0, high = sight.tokens;
    if (sight.window > 0) {
        low = query - least(query, sight.window);
        high = query + least(sight.tokens - query, sight.window + 1);
    }
    if (low <= key && key + kLanes <= high) return scores;
    static const float kIndices[kLanes] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    typename V::F index = V::load(kIndices), none = V::set(-__builtin_inff());
    scores = V::select(V::less(index, V::set(static_cast<float>(high - key))), scores, none);
    return V::select(V::less(index, V::set(static_cast<float>(low - key))), none, scores);
}

// scores [count], a multiple of 16, of the keys from a multiple of 16 on -> e^(score - the largest); gives 1 / their sum.
template <class V>
CLS_INLINE float softmax_numerators(float *scores, int count) {
    typename V::F largest = V::set(-__builtin_inff()), total = V::zero();
    for (int k = 0; k < count; k += kLanes) largest = V::max(largest, V::load(scores + k));
    typename V::F top = V::set(V::largest(largest));
    for (int k = 0; k < count; k += kLanes) {
        typename V::F e = exp<V>(V::sub(V::load(scores + k), top));
        V::store(scores + k, e);
        total = V::add(total, e);
    }
    return 1.0f / V::sum(total);
}

// C [rows x 16 * vectors] = A B by tiles of at most 16 * kColumns columns; rows is at most highest_tile<V>(kColumns).
template <class V, int kColumns, class Finish>
CLS_INLINE void row_of_tiles(int rows, Matrix a, Matrix b, int depth, int vectors, const Finish &finish) {
    int first = 0;
    for (; first + kColumns <= vectors; first += kColumns) {
        tile<V, kColumns>(rows, a, {b.data + kLanes * first, b.stride}, depth,
                          [&](int r, int c, typename V::F acc) { finish(r, first + c, acc); });
    }
    if constexpr (kColumns > 1) {
        for (; first < vectors; first++) {
            tile<V, 1>(rows, a, {b.data + kLanes * first, b.stride}, depth,
                       [&](int r, int, typename V::F acc) { finish(r, first, acc); });
        }
    }
}

// Keys of a head [tokens][stride] -> panels [tokens / 64][head_stride][64], the last padded with zeros to 16.
template <class V>
void transpose_keys(Matrix keys, int tokens, int head_stride, float *panels) {
    for (int key = 0; key < tokens; key += kLanes) {
        float *panel = panels + static_cast<int64_t>(key / kPanel) * kPanel * head_stride + key % kPanel;
        int count = least(kLanes, tokens - key);
        for (int d = 0; d < head_stride; d++)
            for (int j = 0; j < kLanes; j++) panel[d * kPanel + j] = j < count ? keys.data[(key + j) * keys.stride + d] : 0.0f;
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

// Queries [query, query + rows) against the keys that any of them sees.
template <class V, int kColumns>
void attend_tile(const HeadAttention &head, int query, int rows, float *scores) {
    const Sight &sight = head.sight;
    int low = 0, high = sight.tokens;
    if (sight.window > 0) {
        low = (query - least(query, sight.window)) / kPanel * kPanel;
        high = query + least(sight.tokens - query, sight.window + rows);
    }
    int count = static_cast<int>(rounded_up(high - low, kLanes));
    Matrix queries = {head.queries.data + query * head.queries.stride, head.queries.stride};
    for (int done = 0; done < count; done += kPanel) {
        const float *panel = head.key_panels + static_cast<int64_t>(low + done) * head.head_stride;
        int vectors = least(kPanel, count - done) / kLanes;
        row_of_tiles<V, kColumns>(rows, queries, {panel, kPanel}, head.head_stride, vectors, [&](int r, int c, typename V::F acc) {
            int key = low + done + kLanes * c;
            if (sight.distances) acc = V::add(acc, distance_biases<V>(sight, query + r, key));
            V::store(scores + static_cast<int64_t>(r) * count + done + kLanes * c, unseen_removed<V>(acc, sight, query + r, key));
        });
    }
    float inverses[kHighestTile];
    for (int r = 0; r < rows; r++) inverses[r] = softmax_numerators<V>(scores + static_cast<int64_t>(r) * count, count);
    Matrix values = {head.values.data + low * head.values.stride, head.values.stride};
    float *context = head.context + query * head.context_stride;
    row_of_tiles<V, kColumns>(rows, {scores, count}, values, high - low, head.head_stride / kLanes, [&](int r, int c, typename V::F acc) {
        V::store(context + r * head.context_stride + kLanes * c, V::mul(acc, V::set(inverses[r])));
    });
}

template <class V>
void attend(const TextAttention &text, void *scratch) {
    constexpr int kColumns = kRegisters<V> == 32 ? 2 : 1;
    float *key_panels = static_cast<float *>(scratch);
    float *scores = key_panels + rounded_up(text.tokens, kPanel) * text.head_stride;
    for (int h = 0; h < text.heads; h++) {
        int64_t offset = static_cast<int64_t>(h) * text.head_stride;
        transpose_keys<V>({text.keys + offset, text.stride}, text.tokens, text.head_stride, key_panels);
        const float *distances = text.distances ? text.distances + h * text.distance_stride : nullptr;
        HeadAttention head = {{text.queries + offset, text.stride},
                              key_panels,
                              {text.values + offset, text.stride},
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
            tile<V, 4>(1, {text.query + first, 0}, {panel + static_cast<int64_t>(first) * kPanel, kPanel}, text.head_stride,
                       [&](int, int c, typename V::F acc) { V::store(out + kLanes * c, acc); });
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
    const int64_t stride = rounded_up(text.tokens, kLanes);
    float *u = static_cast<float *>(scratch);
    float *c = u + static_cast<int64_t>(text.heads) * width;
    float *scores = c + static_cast<int64_t>(text.heads) * width;
    float *inverses = scores + text.heads * stride;
    queries_by_head<V>(text, u);
    row_scores<V>(text, u, width, scores, stride);
    for (int h = 0; h < text.heads; h++) {
        Sight sight = {text.distances ? text.distances + h * text.distance_stride : nullptr, text.distance_stride, text.max_length, text.tokens, 0};
        float *row = scores + h * stride;
        for (int key = 0; key < text.tokens; key += kLanes) {
            typename V::F values = V::load(row + key);
            if (sight.distances) values = V::add(values, distance_biases<V>(sight, text.row, key));
            V::store(row + key, unseen_removed<V>(values, sight, text.row, key));
        }
        inverses[h] = softmax_numerators<V>(row, static_cast<int>(stride));
    }
    for_row_tiles(text.heads, highest_tile<V>(kColumns), [&](int first, int count) {
        row_of_tiles<V, kColumns>(count, {scores + first * stride, stride}, {text.hidden, text.stride}, text.tokens, width / kLanes,
                                  [&](int r, int v, typename V::F acc) {
                                      float *out = c + static_cast<int64_t>(first + r) * width + kLanes * v;
                                      V::store(out, V::mul(acc, V::set(inverses[first + r])));
                                  });
    });
    context_of_heads<V>(text, c);
}

}  // namespace
}  // namespace cls
