// Models and batches made of a seed: every kind of layer, product, output and position in small sizes that are seldom round.
//
// Each array has an allocation of its own and of its exact size, so that the address sanitizer sees a read beside it.
#pragma once

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "../src/cls_native.h"
#include "random_values.h"

namespace test {

// Allocations that are freed together.
class Pool {
public:
    Pool() = default;
    Pool(const Pool &) = delete;
    Pool &operator=(const Pool &) = delete;
    ~Pool() {
        for (int i = 0; i < count_; ++i) free(blocks_[i]);
        free(blocks_);
    }

    template <class T>
    T *take(int64_t count) {
        blocks_ = static_cast<void **>(realloc(blocks_, sizeof(void *) * static_cast<size_t>(count_ + 1)));
        void *block = calloc(static_cast<size_t>(count), sizeof(T));
        if (!blocks_ || !block) abort();
        blocks_[count_++] = block;
        return static_cast<T *>(block);
    }

private:
    void **blocks_ = nullptr;
    int count_ = 0;
};

// Places of a padded row: those that count, and zeros between and behind them.
struct Places {
    int32_t width;
    const uint8_t *count;  // [width]
};

struct RandomModel {
    explicit RandomModel(uint64_t seed) : random{seed} { make(); }

    Random random;
    Pool pool;
    cls_model_spec spec = {};
    int32_t hidden_size = 0, head_size = 0, feed_forward = 0;

private:
    Places hidden_, embedded_, attention_, projected_, inner_, up_;

    static int32_t padded(int32_t size, int32_t step) { return (size + step - 1) / step * step; }

    // `repeats` times `groups` groups of `size` places that count in `stride`, each repeat padded to a multiple of 64.
    Places places(int32_t repeats, int32_t groups, int32_t size, int32_t stride) {
        const int32_t width = padded(groups * stride, 64);
        uint8_t *count = pool.take<uint8_t>(static_cast<int64_t>(repeats) * width);
        for (int32_t i = 0; i < repeats * width; ++i) {
            const int32_t place = i % width;
            count[i] = place < groups * stride && place % stride < size;
        }
        return {repeats * width, count};
    }
    Places places(int32_t size) { return places(1, 1, size, size); }

    float *numbers(Places of, float size, float middle) {
        float *values = pool.take<float>(of.width);
        for (int32_t i = 0; i < of.width; ++i) values[i] = of.count[i] ? middle + size * random.uniform() : 0.0f;
        return values;
    }

    cls_norm norm(Places of, int32_t size) { return {size, 1e-12f, numbers(of, 0.5f, 1.0f), numbers(of, 0.2f, 0.0f)}; }
    cls_norm maybe_norm(Places of, int32_t size) { return random.once_in(4) ? cls_norm{size, 1e-5f, nullptr, nullptr} : norm(of, size); }

    void fill_integers(cls_product &product, Places inputs, Places outputs) {
        int8_t *integers = pool.take<int8_t>(static_cast<int64_t>(inputs.width) * outputs.width);
        int32_t *sums = pool.take<int32_t>(outputs.width);
        float *scales = pool.take<float>(outputs.width);
        for (int32_t n = 0; n < outputs.width; ++n) {
            scales[n] = outputs.count[n] ? (1.5f + random.uniform()) / 1500.0f : 0.0f;
            int8_t *panel = integers + static_cast<int64_t>(n / 64) * inputs.width * 64 + n % 64 * 4;
            for (int32_t k = 0; k < inputs.width; ++k) {
                const int32_t value = outputs.count[n] && inputs.count[k] ? random.between(-127, 127) : 0;
                panel[k / 4 * 256 + k % 4] = static_cast<int8_t>(value);
                sums[n] += value;
            }
        }
        product.integers = integers;
        product.scales = scales;
        product.sums = sums;
        if (!random.once_in(3)) product.smoothing = numbers(inputs, 0.5f, 1.0f);
    }

    void fill_floats(cls_product &product, Places inputs, Places outputs) {
        float *floats = pool.take<float>(static_cast<int64_t>(inputs.width) * outputs.width);
        for (int32_t n = 0; n < outputs.width; ++n) {
            float *panel = floats + static_cast<int64_t>(n / 64) * inputs.width * 64 + n % 64;
            for (int32_t k = 0; k < inputs.width; ++k) {
                if (outputs.count[n] && inputs.count[k]) panel[static_cast<int64_t>(k) * 64] = 0.15f * random.uniform();
            }
        }
        product.floats = floats;
    }

    cls_product product(Places inputs, Places outputs, bool in_floats) {
        cls_product product = {};
        product.depth = inputs.width;
        product.width = outputs.width;
        product.bias = numbers(outputs, 0.2f, 0.0f);
        if (in_floats) {
            fill_floats(product, inputs, outputs);
        } else {
            fill_integers(product, inputs, outputs);
        }
        return product;
    }
    cls_product product(Places inputs, Places outputs) { return product(inputs, outputs, random.once_in(2)); }

    float *table(int32_t rows, Places of) {
        float *values = pool.take<float>(static_cast<int64_t>(rows) * of.width);
        for (int64_t i = 0; i < static_cast<int64_t>(rows) * of.width; ++i) {
            if (of.count[i % of.width]) values[i] = random.uniform();
        }
        return values;
    }

    // Float16 numbers from -2 to 2, by their bits.
    uint16_t *half_table(int32_t rows, Places of) {
        uint16_t *values = pool.take<uint16_t>(static_cast<int64_t>(rows) * of.width);
        for (int64_t i = 0; i < static_cast<int64_t>(rows) * of.width; ++i) {
            const uint16_t bits = static_cast<uint16_t>(random.between(0, 0x3fff) | (random.once_in(2) ? 0x8000 : 0));
            if (of.count[i % of.width]) values[i] = bits;
        }
        return values;
    }

    void make_embeddings() {
        cls_embeddings &embeddings = spec.embeddings;
        const bool projects = random.once_in(4);
        const int32_t size = projects ? random.between(3, 100) : hidden_size;
        embedded_ = projects ? places(size) : hidden_;
        embeddings.stride = embedded_.width;
        embeddings.vocabulary = random.between(2, 60);
        embeddings.half_words = random.once_in(2);
        embeddings.words = embeddings.half_words ? static_cast<void *>(half_table(embeddings.vocabulary, embedded_))
                                                 : static_cast<void *>(table(embeddings.vocabulary, embedded_));
        if (!random.once_in(3)) {
            embeddings.types = random.between(1, 3);
            embeddings.token_types = table(embeddings.types, embedded_);
        }
        embeddings.position_padding_id = -1;
        if (!random.once_in(4)) {
            const bool roberta = random.once_in(3);
            if (roberta) embeddings.position_padding_id = random.between(0, embeddings.vocabulary - 1);
            if (!roberta) embeddings.position_offset = random.between(0, 2);
            embeddings.positions = spec.max_length + (roberta ? embeddings.position_padding_id + 1 : embeddings.position_offset);
            embeddings.position_rows = table(embeddings.positions, embedded_);
        }
        embeddings.norm = maybe_norm(embedded_, size);
        if (projects) embeddings.projection = product(embedded_, hidden_);
    }

    cls_rotation rotation() {
        cls_rotation made = {nullptr, nullptr, head_size / 2};
        const int64_t count = static_cast<int64_t>(spec.max_length) * made.half;
        float *cosines = pool.take<float>(count), *sines = pool.take<float>(count);
        for (int64_t i = 0; i < count; ++i) {
            cosines[i] = random.uniform();
            sines[i] = random.uniform();
        }
        made.cosines = cosines;
        made.sines = sines;
        return made;
    }

    void add_distances(cls_layer &layer) {
        layer.distance_stride = padded(2 * spec.max_length - 1, 16);
        const int64_t count = static_cast<int64_t>(spec.heads) * layer.distance_stride;
        float *distances = pool.take<float>(count);
        for (int64_t i = 0; i < count; ++i) {
            if (i % layer.distance_stride < 2 * spec.max_length - 1) distances[i] = random.uniform();
        }
        layer.distances = distances;
    }

    cls_layer make_layer(bool one_row, bool pre_norm, bool rotates, bool has_distances) {
        cls_layer layer = {};
        layer.pre_norm = pre_norm;
        layer.gated = random.once_in(3);
        layer.activation = static_cast<cls_activation>(random.between(CLS_IDENTITY, CLS_SIGMOID));
        if (one_row) {
            layer.query = product(hidden_, attention_);
            layer.key_by_head = product(attention_, hidden_, true);
            layer.value_by_head = product(hidden_, attention_, true);
        } else {
            layer.query_key_value = product(hidden_, projected_);
            if (random.once_in(3)) layer.window = random.between(1, 12);
            if (rotates) layer.rotation = rotation();
        }
        if (has_distances) add_distances(layer);
        layer.attention_output = product(attention_, hidden_);
        layer.up = product(hidden_, layer.gated ? up_ : inner_);
        layer.down = product(inner_, hidden_);
        layer.attention_norm = maybe_norm(hidden_, hidden_size);
        layer.feed_forward_norm = maybe_norm(hidden_, hidden_size);
        return layer;
    }

    void make_layers() {
        spec.layer_count = random.between(1, 3);
        spec.one_row = !spec.mean_pooled && random.once_in(2);
        const bool pre_norm = random.once_in(3), rotates = !spec.one_row && random.once_in(3), has_distances = random.once_in(4);
        cls_layer *layers = pool.take<cls_layer>(spec.layer_count);
        for (int32_t i = 0; i < spec.layer_count; ++i) {
            const bool again = i > 0 && !(spec.one_row && i + 1 == spec.layer_count) && random.once_in(4);
            layers[i] = again ? layers[i - 1] : make_layer(spec.one_row && i + 1 == spec.layer_count, pre_norm, rotates, has_distances);
        }
        spec.layers = layers;
        spec.final_norm = pre_norm ? norm(hidden_, hidden_size) : cls_norm{hidden_size, 0.0f, nullptr, nullptr};
    }

    void make_head(cls_output output, int32_t steps) {
        cls_product *products = pool.take<cls_product>(steps);
        cls_activation *activations = pool.take<cls_activation>(steps);
        cls_norm *norms = pool.take<cls_norm>(steps);
        Places inputs = hidden_;
        spec.widths[output] = hidden_size;
        for (int32_t i = 0; i < steps; ++i) {
            const int32_t size = random.between(1, 140);
            const Places outputs = places(size);
            products[i] = product(inputs, outputs, !random.once_in(3));
            activations[i] = static_cast<cls_activation>(random.between(CLS_IDENTITY, CLS_TANH));
            norms[i] = random.once_in(3) ? norm(outputs, size) : cls_norm{size, 0.0f, nullptr, nullptr};
            inputs = outputs;
            spec.widths[output] = size;
        }
        spec.heads_of[output] = {steps, products, activations, norms};
    }

    void make() {
        spec.max_length = random.once_in(3) ? random.between(100, 300) : random.between(2, 70);
        hidden_size = spec.hidden = random.between(2, 200);
        spec.heads = random.between(1, 5);
        head_size = 2 * random.between(1, 20);
        spec.head_stride = padded(head_size, 16);
        feed_forward = random.between(1, 200);
        hidden_ = places(hidden_size);
        attention_ = places(1, spec.heads, head_size, spec.head_stride);
        projected_ = places(3, spec.heads, head_size, spec.head_stride);
        inner_ = places(feed_forward);
        up_ = places(2, 1, feed_forward, feed_forward);
        spec.hidden_stride = hidden_.width;
        spec.attention_width = attention_.width;
        spec.feed_forward_stride = inner_.width;
        spec.mean_pooled = random.once_in(3);
        make_embeddings();
        make_layers();
        make_head(CLS_SENTENCE, random.between(0, 2));
        if (random.once_in(2)) make_head(CLS_POOLER, 1);
        if (random.once_in(2)) make_head(CLS_LOGITS, random.between(1, 3));
        if (!spec.one_row) spec.widths[CLS_TOKENS] = hidden_size;
    }
};

// A batch that the model takes.
struct RandomBatch {
    RandomBatch(const cls_model_spec &spec, Random &random, int32_t texts, int32_t most_tokens) {
        int32_t *lengths = pool.take<int32_t>(texts), *unpooled = pool.take<int32_t>(texts);
        for (int32_t text = 0; text < texts; ++text) {
            const int32_t left = most_tokens - batch.tokens;
            if (text > 0 && left < 1) break;
            const int32_t most = spec.max_length < left || text == 0 ? spec.max_length : left;
            lengths[text] = random.once_in(2) ? random.between(1, most) : random.between(1, most < 30 ? most : 30);
            unpooled[text] = random.once_in(3) ? random.between(0, lengths[text] + 2) : 0;
            batch.tokens += lengths[text];
            batch.texts = text + 1;
        }
        int32_t *ids = pool.take<int32_t>(batch.tokens), *types = pool.take<int32_t>(batch.tokens);
        for (int32_t token = 0; token < batch.tokens; ++token) {
            ids[token] = random.between(0, spec.embeddings.vocabulary - 1);
            types[token] = spec.embeddings.types > 0 ? random.between(0, spec.embeddings.types - 1) : 0;
        }
        batch.input_ids = ids;
        batch.lengths = lengths;
        batch.token_type_ids = random.once_in(3) ? nullptr : types;
        batch.unpooled = random.once_in(2) ? nullptr : unpooled;
    }

    Pool pool;
    cls_batch batch = {};
};

// Texts [first, first + texts) of a batch; `token` is the first's first token.
inline cls_batch part_of(const cls_batch &batch, int32_t first, int32_t texts, int32_t token) {
    cls_batch part = batch;
    part.texts = texts;
    part.tokens = 0;
    for (int32_t text = first; text < first + texts; ++text) part.tokens += batch.lengths[text];
    part.input_ids = batch.input_ids + token;
    part.lengths = batch.lengths + first;
    part.token_type_ids = batch.token_type_ids ? batch.token_type_ids + token : nullptr;
    part.unpooled = batch.unpooled ? batch.unpooled + first : nullptr;
    return part;
}

}  // namespace test
