#include "checks.h"

namespace cls {
namespace {

bool has_output(const ModelSpec &spec, int output) {
    if (output < 0 || output >= CLS_OUTPUTS || spec.widths[output] < 1) return false;
    const bool needs_all_rows = output == CLS_TOKENS || (output == CLS_SENTENCE && spec.mean_pooled);
    return !(needs_all_rows && spec.one_row);
}

bool has_lengths(const ModelSpec &spec, const Batch &batch) {
    if (batch.texts < 1 || batch.tokens < batch.texts || !batch.input_ids || !batch.lengths) return false;
    int64_t tokens = 0;
    for (int32_t text = 0; text < batch.texts; ++text) {
        const int32_t length = batch.lengths[text];
        if (length < 1 || length > spec.max_length) return false;
        if (batch.unpooled && batch.unpooled[text] < 0) return false;
        tokens += length;
    }
    return tokens == batch.tokens;
}

bool has_ids(const Embeddings &embeddings, const Batch &batch) {
    for (int32_t token = 0; token < batch.tokens; ++token) {
        if (batch.input_ids[token] < 0 || batch.input_ids[token] >= embeddings.vocabulary) return false;
    }
    if (!batch.token_type_ids || embeddings.types == 0) return true;
    for (int32_t token = 0; token < batch.tokens; ++token) {
        if (batch.token_type_ids[token] < 0 || batch.token_type_ids[token] >= embeddings.types) return false;
    }
    return true;
}

bool has_positions(const Embeddings &embeddings, const Batch &batch) {
    const int32_t *ids = batch.input_ids;
    for (int32_t text = 0; text < batch.texts; ids += batch.lengths[text], ++text) {
        if (!place_tokens(embeddings, ids, batch.lengths[text], nullptr)) return false;
    }
    return true;
}

}  // namespace

bool fits(const ModelSpec &spec, const Batch &batch, int output) {
    return has_output(spec, output) && has_lengths(spec, batch) && has_ids(spec.embeddings, batch) && has_positions(spec.embeddings, batch);
}

bool place_tokens(const Embeddings &embeddings, const int32_t *ids, int length, int32_t *positions) {
    const int32_t padding = embeddings.position_padding_id;
    int64_t next = padding >= 0 ? static_cast<int64_t>(padding) + 1 : embeddings.position_offset;
    for (int token = 0; token < length; ++token) {
        const bool counts = padding < 0 || ids[token] != padding;
        const int64_t position = counts ? next++ : padding;
        if (embeddings.positions > 0 && (position < 0 || position >= embeddings.positions)) return false;
        if (positions) positions[token] = embeddings.positions > 0 ? static_cast<int32_t>(position) : 0;
    }
    return true;
}

int row_of(const Batch &batch, cls_output output, int64_t text) {
    if (output != CLS_SENTENCE || !batch.unpooled) return 0;
    const int32_t first = batch.unpooled[text];
    return first < batch.lengths[text] ? first : 0;
}

}  // namespace cls
