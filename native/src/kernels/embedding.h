// Rows of the tables, added up (rule 10). The caller has checked every row number.
#pragma once

#include "../kernels.h"
#include "../support.h"

namespace cls {
namespace {

template <class V>
CLS_INLINE typename V::F word(const Embeddings &embeddings, int64_t at) {
    if (embeddings.half_words) return V::load_half(static_cast<const uint16_t *>(embeddings.words) + at);
    return V::load(static_cast<const float *>(embeddings.words) + at);
}

// A table that is not there adds nothing; without `types` every token is of type 0.
template <class V>
void embed(const Embeddings &embeddings, const int32_t *ids, const int32_t *types, const int32_t *positions, int rows, float *y,
           int64_t y_stride) {
    const int64_t stride = embeddings.stride;
    for (int row = 0; row < rows; ++row) {
        const int64_t first = ids[row] * stride;
        const float *type = embeddings.token_types ? embeddings.token_types + (types ? types[row] : 0) * stride : nullptr;
        const float *position = embeddings.position_rows ? embeddings.position_rows + positions[row] * stride : nullptr;
        float *sum = y + row * y_stride;
        for (int64_t i = 0; i < stride; i += kLanes) {
            typename V::F f = word<V>(embeddings, first + i);
            if (type) f = V::add(f, V::load(type + i));
            if (position) f = V::add(f, V::load(position + i));
            V::store(sum + i, f);
        }
    }
}

}  // namespace
}  // namespace cls
