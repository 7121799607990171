// Attention of all rows of a text (rule 8 of kernels.h).
//
// A head's keys are transposed once, into panels of 64 keys as a packed weight has them; then tiles of several queries go through scores,
// softmax and context while their scores are in cache. Working memory is linear in the tokens.
#pragma once

#include <string.h>

#include "../kernels.h"
#include "softmax.h"
#include "tile.h"
#include "transposition.h"

namespace cls {
namespace {

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

// Queries [query, query + rows) against the keys that any of them sees.
template <class V, int kColumns>
void attend_tile(const HeadAttention &head, int query, int rows, float *scores) {
    Range seen = seen_by(head.sight, query, rows);
    int low = seen.low / kLanes * kLanes;
    int count = static_cast<int>(rounded_up(seen.high - low, kLanes));
    int64_t stride = apart(count);
    Matrix queries = {head.queries.data + query * head.queries.stride, head.queries.stride};
    for (int key = low, vectors; key < seen.high; key += vectors * kLanes) {
        vectors = least(kPanel - key % kPanel, low + count - key) / kLanes;
        const float *panel = head.key_panels + static_cast<int64_t>(key / kPanel) * kPanel * head.head_stride + key % kPanel;
        row_of_tiles<V, kColumns>(rows, queries, {panel, kPanel}, head.head_stride, vectors, scores + key - low, stride);
    }
    float inverses[kHighestTile];
    softmax_rows<V>(scores, stride, rows, head.sight, query, low, count, inverses);
    Matrix values = {head.values.data + low * head.values.stride, head.values.stride};
    float *context = head.context + query * head.context_stride;
    row_of_tiles<V, kColumns>(rows, {scores, stride}, values, seen.high - low, head.head_stride / kLanes, context, head.context_stride);
    for (int r = 0; r < rows; r++) scale<V>(context + r * head.context_stride, head.head_stride, inverses[r]);
}

// The values of a head one after another, where many queries read them: a text's rows are too far apart for caches and page tables.
inline Matrix values_together(Matrix values, int tokens, int head_stride, float *copy) {
    if (tokens <= kPanel) return values;
    const size_t bytes = sizeof(float) * static_cast<size_t>(head_stride);
    for (int t = 0; t < tokens; t++) memcpy(copy + static_cast<int64_t>(t) * head_stride, values.data + t * values.stride, bytes);
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

}  // namespace
}  // namespace cls
