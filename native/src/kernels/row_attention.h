// Attention of one row of a text, with keys and values reassociated (rule 9 of kernels.h): products with the weights of keys and values are
// made for the one row, not for every token.
#pragma once

#include "../kernels.h"
#include "softmax.h"
#include "tile.h"

namespace cls {
namespace {

// u [heads][width]: each head's query times its rows of `key_by_head`.
template <class V>
void queries_by_head(const RowAttention &text, float *u) {
    const Product &product = *text.key_by_head;
    for (int column = 0; column < product.width; column += kPanel) {
        const float *panel = product.floats + static_cast<int64_t>(column) * product.depth;
        for (int h = 0; h < text.heads; h++) {
            int first = h * text.head_stride;
            float *out = u + static_cast<int64_t>(h) * product.width + column;
            Matrix keys = {panel + static_cast<int64_t>(first) * kPanel, kPanel};
            tile<V, 1, 4>({text.query + first, 0}, keys, text.head_stride, false, out, 0, {});
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
    for (; t < tokens; t++)
        dot_products<V, kHeads, 1>(u, {x.data + t * x.stride, x.stride}, width, scores + t, scores_stride);
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
    for_row_tiles(text.heads, highest_tile<V>(kColumns), [&](int first, int heads) {
        float *rows = c + static_cast<int64_t>(first) * width;
        Matrix numerators = {scores + first * stride, stride};
        row_of_tiles<V, kColumns>(heads, numerators, {text.hidden, text.stride}, text.tokens, width / kLanes, rows, width);
        for (int r = 0; r < heads; r++) scale<V>(rows + static_cast<int64_t>(r) * width, width, inverses[first + r]);
    });
    context_of_heads<V>(text, c);
}

}  // namespace
}  // namespace cls
