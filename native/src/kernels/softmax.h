// Scores of queries and keys -> the numerators of their softmax (rule 8 of kernels.h).
#pragma once

#include <string.h>

#include "../model.h"
#include "functions.h"
#include "tile.h"

namespace cls {
namespace {

// What a head's scores depend on beside queries and keys: biases by distance, and which keys a query sees.
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

// How far apart rows of `count` scores lie: an odd number of cache lines, so that a tile's rows fall into different sets of a cache.
constexpr int64_t apart(int count) {
    return count + (count / kLanes % 2 == 0 ? kLanes : 0);
}

// scores [rows][stride], `count` of each row, of queries from `query` on and keys from `first` on -> e^(score - the row's largest), and the
// inverse of each row's sum. Three passes, so that no row waits for another's reductions.
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

// row *= factor
template <class V>
CLS_INLINE void scale(float *row, int width, float factor) {
    for (int k = 0; k < width; k += kLanes) V::store(row + k, V::mul(V::load(row + k), V::set(factor)));
}

}  // namespace
}  // namespace cls
