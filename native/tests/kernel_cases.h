// One case of each kernel: random sizes and values, computed by the portable path and by every other that this CPU runs.
#pragma once

#include "kernels.h"
#include "random_values.h"
#include "support.h"

namespace test {

using namespace cls;

// The paths that are compared, the portable one first.
struct Paths {
    const Kernels *all[8];
    int count;
    Digest *digest;  // of what the portable path gave
};

// Runs `compute(kernels, out)` on each path, with `count` numbers of output that start as the same values, and says where two differ.
template <class Compute>
bool same_on(const Paths &paths, Random &random, const char *what, int64_t count, const float *start, Compute compute) {
    Numbers<float> expected(random, count);
    for (int path = 0; path < paths.count; path++) {
        Numbers<float> found(random, count);
        Numbers<float> &out = path == 0 ? expected : found;
        for (int64_t i = 0; i < count; i++) {
            out[i] = start ? start[i] : 77.0f;
        }
        compute(*paths.all[path], out.data);
        for (int64_t i = 0; !path && i < count; i++) {
            paths.digest->add(out[i]);
        }
        for (int64_t i = 0; path && i < count; i++) {
            if (!same(expected[i], found[i])) {
                printf("%s: %s differs from portable at %lld of %lld: %a, expected %a\n", what, paths.all[path]->name, (long long)i,
                       (long long)count, double(found[i]), double(expected[i]));
                return false;
            }
        }
    }
    return true;
}

// Rows [rows][stride] of which each has a kind of its own.
struct Rows {
    int rows, width;
    int64_t stride;
    Numbers<float> values;

    Rows(Random &random, int rows, int width, bool special)
        : rows(rows), width(width), stride(width + 16 * random.between(0, 2)), values(random, stride * (rows - 1) + width) {
        for (int row = 0; row < rows; row++) {
            int64_t here = row + 1 < rows ? stride : width;
            fill_row(random, values.data + row * stride, here, a_kind(random, special));
        }
    }
    const float *data() const { return values.data; }
    int64_t count() const { return values.count; }
};

inline int panels(Random &random, int most) {
    return kPanel * random.size(most, 2);
}

inline Activation an_activation(Random &random) {
    return Activation(random.between(CLS_IDENTITY, CLS_SIGMOID));
}

// What follows a product, with a residual that may be the output itself.
struct SomeEpilogue {
    Activation activation;
    bool adds;
    Rows residual;

    SomeEpilogue(Random &random, int rows, int width)
        : activation(an_activation(random)), adds(random.once_in(2)), residual(random, rows, width, false) {}
    Epilogue of() const {
        Epilogue epilogue;
        epilogue.activation = activation;
        epilogue.residual = adds ? residual.data() : nullptr;
        epilogue.residual_stride = residual.stride;
        return epilogue;
    }
};

inline bool quantize_case(const Paths &paths, Random &random) {
    const int rows = random.size(200), depth = panels(random, 12);
    const Rows x(random, rows, depth, true);
    Numbers<float> smoothing(random, depth);
    fill(random, smoothing);
    const float *smooth = random.once_in(2) ? smoothing.data : nullptr;
    Numbers<uint8_t> expected(random, int64_t(rows) * depth), found(random, int64_t(rows) * depth);
    Numbers<RowScale> scales(random, rows), found_scales(random, rows);
    paths.all[0]->quantize(x.data(), x.stride, rows, depth, smooth, expected.data, scales.data);
    for (int64_t i = 0; i < expected.count; i++) {
        paths.digest->add(uint32_t(expected[i]));
    }
    for (int path = 1; path < paths.count; path++) {
        paths.all[path]->quantize(x.data(), x.stride, rows, depth, smooth, found.data, found_scales.data);
        if (memcmp(expected.data, found.data, size_t(expected.count)) ||
            memcmp(scales.data, found_scales.data, size_t(rows) * sizeof(RowScale))) {
            printf("quantize: %s differs from portable in %d rows of %d\n", paths.all[path]->name, rows, depth);
            return false;
        }
    }
    return true;
}

inline bool integer_product_case(const Paths &paths, Random &random) {
    const int rows = random.size(200), depth = panels(random, 6), width = panels(random, 6);
    Numbers<uint8_t> q(random, int64_t(rows) * depth);
    Numbers<RowScale> rows_scales(random, rows);
    Numbers<int8_t> weights(random, int64_t(depth) * width);
    Numbers<int32_t> sums(random, width);
    Numbers<float> scales(random, width), bias(random, width);
    const bool extreme = random.once_in(8);  // the largest sums that there are
    for (int64_t i = 0; i < q.count; i++) {
        q[i] = extreme ? 255 : uint8_t(random.bits());
    }
    for (int64_t i = 0; i < weights.count; i++) {
        weights[i] = extreme ? (i / 4 % 2 ? 127 : -128) : int8_t(random.bits());
    }
    for (int i = 0; i < rows; i++) {
        rows_scales[i] = {random.uniform() + 1, random.between(0, 255)};
    }
    for (int i = 0; i < width; i++) {
        sums[i] = 0;
    }
    for (int64_t i = 0; i < weights.count; i++) {
        sums[i / (int64_t(depth) * kPanel) * kPanel + i / 4 % kPanel] += weights[i];
    }
    fill(random, scales, 0.01f);
    fill(random, bias);
    Product product = {};
    product.depth = depth, product.width = width;
    product.integers = weights.data, product.scales = scales.data, product.sums = sums.data, product.bias = bias.data;
    const SomeEpilogue epilogue(random, rows, width);
    const int64_t stride = width + 16 * random.between(0, 2);
    return same_on(paths, random, "integer_product", stride * (rows - 1) + width, nullptr, [&](const Kernels &kernels, float *out) {
        kernels.integer_product(q.data, rows_scales.data, rows, product, epilogue.of(), out, stride);
    });
}

// A product with float32 weights of its own.
struct FloatProduct {
    Numbers<float> weights, bias;
    Product product;

    FloatProduct(Random &random, int depth, int width) : weights(random, int64_t(depth) * width), bias(random, width), product() {
        fill(random, weights, 0.5f);
        fill(random, bias);
        product.depth = depth, product.width = width, product.floats = weights.data, product.bias = bias.data;
    }
};

inline bool float_product_case(const Paths &paths, Random &random) {
    const int rows = random.size(100), depth = panels(random, 4), width = panels(random, 4);
    const Rows x(random, rows, depth, true);
    const FloatProduct weights(random, depth, width);
    const SomeEpilogue epilogue(random, rows, width);
    const int64_t stride = width + 16 * random.between(0, 2);
    return same_on(paths, random, "float_product", stride * (rows - 1) + width, nullptr, [&](const Kernels &kernels, float *out) {
        kernels.float_product(x.data(), x.stride, rows, weights.product, epilogue.of(), out, stride);
    });
}

inline bool norm_case(const Paths &paths, Random &random) {
    const int rows = random.size(200), width = panels(random, 12), size = width - random.between(0, 63);
    Rows x(random, rows, width, true);
    Numbers<float> scale(random, width), shift(random, width);
    fill(random, scale);
    fill(random, shift);
    for (int64_t i = 0; i < x.count(); i++) {
        x.values[i] = i % x.stride < size ? x.values[i] : 0.0f;
    }
    for (int i = size; i < width; i++) {
        scale[i] = shift[i] = 0;
    }
    const Norm norm = {size, random.once_in(2) ? 1e-12f : 1e-5f, scale.data, shift.data};
    const bool in_place = random.once_in(2);
    return same_on(paths, random, "norm", x.count(), in_place ? x.data() : nullptr, [&](const Kernels &kernels, float *out) {
        kernels.norm(in_place ? out : x.data(), x.stride, rows, norm, width, out, x.stride);
    });
}

inline bool gate_case(const Paths &paths, Random &random) {
    const int rows = random.size(100), width = panels(random, 8);
    const Rows x(random, rows, 2 * width, true);
    const Activation activation = an_activation(random);
    const bool in_place = random.once_in(2);
    const int64_t stride = in_place ? x.stride : width + 16 * random.between(0, 2);
    const int64_t count = in_place ? x.count() : stride * (rows - 1) + width;
    return same_on(paths, random, "gate", count, in_place ? x.data() : nullptr, [&](const Kernels &kernels, float *out) {
        kernels.gate(in_place ? out : x.data(), x.stride, rows, width, activation, out, stride);
    });
}

inline bool activate_case(const Paths &paths, Random &random) {
    const int rows = random.size(100), width = panels(random, 8);
    const Rows x(random, rows, width, true);
    const Activation activation = an_activation(random);
    return same_on(paths, random, "activate", x.count(), x.data(), [&](const Kernels &kernels, float *out) {
        kernels.activate(out, x.stride, rows, width, activation);
    });
}

inline bool rotate_case(const Paths &paths, Random &random) {
    const int rows = random.size(100), heads = random.size(4, 2), head_stride = 16 * random.size(6, 3);
    const int half = random.once_in(2) ? head_stride / 2 : random.between(1, head_stride / 2);
    const int first = random.between(0, 20);
    const Rows x(random, rows, heads * head_stride, false);
    Numbers<float> cosines(random, int64_t(first + rows) * half), sines(random, int64_t(first + rows) * half);
    fill(random, cosines);
    fill(random, sines);
    const Rotation rotation = {cosines.data, sines.data, half};
    return same_on(paths, random, "rotate", x.count(), x.data(), [&](const Kernels &kernels, float *out) {
        kernels.rotate(out, x.stride, rows, first, heads, head_stride, rotation);
    });
}

inline bool embed_case(const Paths &paths, Random &random) {
    const int rows = random.size(200), width = panels(random, 8), vocabulary = random.between(1, 50);
    Numbers<float> words(random, int64_t(vocabulary) * width), types(random, 2 * width), positions(random, 10 * width);
    Numbers<uint16_t> halves(random, words.count);
    fill(random, words);
    fill(random, types);
    fill(random, positions);
    for (int64_t i = 0; i < halves.count; i++) {
        halves[i] = uint16_t(random.bits());
    }
    Embeddings embeddings = {};
    embeddings.vocabulary = vocabulary, embeddings.stride = width, embeddings.half_words = random.once_in(2);
    embeddings.words = embeddings.half_words ? static_cast<const void *>(halves.data) : words.data;
    embeddings.types = random.once_in(2) ? 2 : 0, embeddings.positions = random.once_in(2) ? 10 : 0;
    embeddings.token_types = embeddings.types ? types.data : nullptr;
    embeddings.position_rows = embeddings.positions ? positions.data : nullptr;
    Numbers<int32_t> ids(random, rows), type_ids(random, rows), rows_of(random, rows);
    for (int i = 0; i < rows; i++) {
        ids[i] = random.between(0, vocabulary - 1), type_ids[i] = random.between(0, 1), rows_of[i] = random.between(0, 9);
    }
    const int64_t stride = width + 16 * random.between(0, 2);
    return same_on(paths, random, "embed", stride * (rows - 1) + width, nullptr, [&](const Kernels &kernels, float *out) {
        kernels.embed(embeddings, ids.data, type_ids.data, rows_of.data, rows, out, stride);
    });
}

inline bool mean_case(const Paths &paths, Random &random) {
    const int rows = random.size(200), width = panels(random, 12);
    const int begin = random.between(0, rows), end = random.between(begin, rows);
    const Rows x(random, rows, width, true);
    return same_on(paths, random, "mean", width, nullptr, [&](const Kernels &kernels, float *out) {
        kernels.mean(x.data(), x.stride, begin, end, width, out);
    });
}

// Of `distances`: a table for each head, and how many there are to a side.
struct Distances {
    int max_length;
    int64_t stride;
    Numbers<float> values;
    bool used;

    Distances(Random &random, int heads, int tokens)
        : max_length(tokens + random.between(0, 5)), stride(rounded_up(2 * max_length - 1, 16)), values(random, heads * stride),
          used(random.once_in(3)) {
        fill(random, values, 3);
    }
    const float *data() const { return used ? values.data : nullptr; }
};

// Memory of exactly the size that a kernel asks for, aligned to 64.
struct Scratch {
    void *memory;
    explicit Scratch(int64_t bytes) : memory(aligned_alloc(64, size_t(rounded_up(bytes, 64)))) {}
    Scratch(const Scratch &) = delete;
    ~Scratch() { free(memory); }
};

inline bool attend_case(const Paths &paths, Random &random) {
    const int tokens = random.size(200), heads = random.size(4, 2), head_stride = 16 * random.size(8, 3), width = heads * head_stride;
    const Rows x(random, tokens, int(3 * rounded_up(width, kPanel)), false);
    const Distances distances(random, heads, tokens);
    TextAttention text = {};
    text.tokens = tokens, text.heads = heads, text.head_stride = head_stride;
    text.queries = x.data(), text.keys = x.data() + rounded_up(width, kPanel), text.values = x.data() + 2 * rounded_up(width, kPanel);
    text.stride = x.stride, text.window = random.once_in(3) ? random.between(1, tokens) : 0;
    text.distances = distances.data(), text.distance_stride = distances.stride, text.max_length = distances.max_length;
    text.context_stride = width + 16 * random.between(0, 2);
    const Scratch scratch(attention_scratch(tokens, heads, head_stride, int(rounded_up(width, kPanel))));
    return same_on(paths, random, "attend", text.context_stride * (tokens - 1) + width, nullptr, [&](const Kernels &kernels, float *out) {
        text.context = out;
        kernels.attend(text, scratch.memory);
    });
}

inline bool attend_row_case(const Paths &paths, Random &random) {
    const int tokens = random.size(200), heads = random.size(4, 2), head_stride = 16 * random.size(6, 3), hidden = panels(random, 4);
    const int width = int(rounded_up(heads * head_stride, kPanel));
    const Rows x(random, tokens, hidden, false);
    const FloatProduct key_by_head(random, width, hidden), value_by_head(random, hidden, width);
    const Distances distances(random, heads, tokens);
    Numbers<float> query(random, heads * head_stride);
    fill(random, query, 0.3f);
    RowAttention text = {};
    text.tokens = tokens, text.heads = heads, text.head_stride = head_stride, text.row = random.between(0, tokens - 1);
    text.query = query.data, text.hidden = x.data(), text.stride = x.stride;
    text.key_by_head = &key_by_head.product, text.value_by_head = &value_by_head.product;
    text.distances = distances.data(), text.distance_stride = distances.stride, text.max_length = distances.max_length;
    const Scratch scratch(attention_scratch(tokens, heads, head_stride, hidden));
    return same_on(paths, random, "attend_row", width, nullptr, [&](const Kernels &kernels, float *out) {
        text.context = out;
        kernels.attend_row(text, scratch.memory);
    });
}

}  // namespace test
