// Float products and attention of every path against rules 2, 4, 8 and 9 of kernels.h written out plainly, bit for bit, over random shapes.
// A buffer is memory of its own and ends where its numbers end; what lies between the rows of an output must stay as it was.
// Built with the library's objects (build_library.build_program):
//
//   float_kernels [ROUNDS]
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels.h"
#include "support.h"
#include "vector/portable.h"
#include "kernels/functions.h"

namespace {

using cls::Epilogue;
using cls::kLanes;
using cls::kPanel;
using cls::Product;

struct Random {
    uint64_t state;
    uint32_t next() {
        state = state * 6364136223846793005u + 1442695040888963407u;
        return static_cast<uint32_t>(state >> 33);
    }
    int between(int low, int high) { return low + static_cast<int>(next() % static_cast<uint32_t>(high - low + 1)); }
    float number() { return static_cast<float>(next() % 20001) / 10000.0f - 1.0f; }
};

// `size` random numbers.
struct Buffer {
    float *data;
    int64_t size;
    Buffer(Random &random, int64_t numbers) : size(numbers) {
        data = static_cast<float *>(malloc(sizeof(float) * static_cast<size_t>(size)));
        for (int64_t i = 0; i < size; i++) data[i] = random.number();
    }
    ~Buffer() { free(data); }
    Buffer(const Buffer &) = delete;
    Buffer &operator=(const Buffer &) = delete;
};

int failures = 0;

void expect_same(const char *path, const char *what, const float *found, const float *expected, int64_t count, const char *shape) {
    for (int64_t i = 0; i < count; i++) {
        if (memcmp(found + i, expected + i, sizeof(float)) == 0) continue;
        printf("%s: %s differs at %lld: found %.9g, expected %.9g; %s\n", path, what, static_cast<long long>(i),
               static_cast<double>(found[i]), static_cast<double>(expected[i]), shape);
        failures++;
        return;
    }
}

float activated(cls_activation activation, float x) {
    using V = cls::Portable;
    float lanes[kLanes];
    for (float &lane : lanes) lane = x;
    V::F f = V::load(lanes);
    switch (activation) {
        case CLS_IDENTITY: break;
        case CLS_GELU: f = cls::activated<V, CLS_GELU>(f); break;
        case CLS_GELU_COARSE: f = cls::activated<V, CLS_GELU_COARSE>(f); break;
        case CLS_GELU_TANH: f = cls::activated<V, CLS_GELU_TANH>(f); break;
        case CLS_RELU: f = cls::activated<V, CLS_RELU>(f); break;
        case CLS_SILU: f = cls::activated<V, CLS_SILU>(f); break;
        case CLS_TANH: f = cls::activated<V, CLS_TANH>(f); break;
        case CLS_SIGMOID: f = cls::activated<V, CLS_SIGMOID>(f); break;
    }
    V::store(lanes, f);
    return lanes[0];
}

float exponential(float x) {
    float lanes[kLanes];
    for (float &lane : lanes) lane = x;
    cls::Portable::store(lanes, cls::exp<cls::Portable>(cls::Portable::load(lanes)));
    return lanes[0];
}

float lane_sum(const float *lanes) {
    float sums[kLanes];
    memcpy(sums, lanes, sizeof sums);
    for (int half = kLanes / 2; half > 0; half /= 2)
        for (int j = 0; j < half; j++) sums[j] += sums[j + half];
    return sums[0];
}

// Rule 8: scores -> numerators; gives 1 / their sum. Keys outside [low, high) are not seen.
float softmax(float *scores, int tokens, int low, int high) {
    float largest = scores[low], lanes[kLanes] = {};
    for (int t = low; t < high; t++) largest = scores[t] > largest ? scores[t] : largest;
    for (int t = 0; t < tokens; t++) {
        scores[t] = low <= t && t < high ? exponential(scores[t] - largest) : 0.0f;
        lanes[t % kLanes] += scores[t];
    }
    return 1.0f / lane_sum(lanes);
}

const float *column(const Product &product, int k, int n) {
    return product.floats + (static_cast<int64_t>(n / kPanel) * product.depth + k) * kPanel + n % kPanel;
}

void check_product(const cls::Kernels &kernels, Random &random) {
    bool deep = random.between(0, 7) == 0;  // several parts of a panel
    int rows = random.between(1, deep ? 20 : 60), depth = kPanel * (deep ? random.between(9, 20) : random.between(1, 4));
    int width = kPanel * random.between(1, 3);
    int64_t x_stride = depth + random.between(0, 20), y_stride = width + random.between(0, 20);
    int64_t residual_stride = width + random.between(0, 20);
    Buffer x(random, (rows - 1) * x_stride + depth), weights(random, static_cast<int64_t>(depth) * width), bias(random, width);
    Buffer residual(random, (rows - 1) * residual_stride + width);
    Buffer y(random, (rows - 1) * y_stride + width), expected(random, y.size);
    memcpy(expected.data, y.data, sizeof(float) * static_cast<size_t>(y.size));
    Product product = {};
    product.depth = depth;
    product.width = width;
    product.floats = weights.data;
    product.bias = bias.data;
    Epilogue epilogue;
    epilogue.activation = static_cast<cls_activation>(random.between(CLS_IDENTITY, CLS_SIGMOID));
    int kind = random.between(0, 2);  // no residual, one beside the output, the output itself
    if (kind == 1) epilogue = {epilogue.activation, residual.data, residual_stride};
    if (kind == 2) epilogue = {epilogue.activation, y.data, y_stride};
    for (int r = 0; r < rows; r++) {
        for (int n = 0; n < width; n++) {
            float acc = 0;
            for (int k = 0; k < depth; k++) acc = __builtin_fmaf(x.data[r * x_stride + k], *column(product, k, n), acc);
            acc = activated(epilogue.activation, acc + bias.data[n]);
            if (epilogue.residual) acc += epilogue.residual[r * epilogue.residual_stride + n];
            expected.data[r * y_stride + n] = acc;
        }
    }
    kernels.float_product(x.data, x_stride, rows, product, epilogue, y.data, y_stride);
    char shape[120];
    snprintf(shape, sizeof shape, "%d rows, %d to %d, activation %d, residual %d", rows, depth, width, epilogue.activation, kind);
    expect_same(kernels.name, "float_product", y.data, expected.data, y.size, shape);
}

void expected_head(const cls::TextAttention &text, int h, float *context) {
    float *scores = static_cast<float *>(malloc(sizeof(float) * static_cast<size_t>(text.tokens)));
    for (int i = 0; i < text.tokens; i++) {
        const float *query = text.queries + i * text.stride + h * text.head_stride;
        for (int t = 0; t < text.tokens; t++) {
            scores[t] = 0;
            const float *key = text.keys + t * text.stride + h * text.head_stride;
            for (int d = 0; d < text.head_stride; d++) scores[t] = __builtin_fmaf(query[d], key[d], scores[t]);
            if (text.distances) scores[t] += text.distances[h * text.distance_stride + t - i + text.max_length - 1];
        }
        bool all = text.window == 0;
        float inverse = softmax(scores, text.tokens, all || i < text.window ? 0 : i - text.window,
                                all || text.tokens - i <= text.window ? text.tokens : i + text.window + 1);
        for (int d = 0; d < text.head_stride; d++) {
            float acc = 0;
            const float *value = text.values + h * text.head_stride + d;
            for (int t = 0; t < text.tokens; t++) acc = __builtin_fmaf(scores[t], value[t * text.stride], acc);
            context[i * text.context_stride + h * text.head_stride + d] = acc * inverse;
        }
    }
    free(scores);
}

void check_attend(const cls::Kernels &kernels, Random &random, int tokens) {
    cls::TextAttention text = {};
    text.tokens = tokens;
    text.heads = random.between(1, 4);
    text.head_stride = kLanes * random.between(1, 5);
    text.max_length = tokens + random.between(0, 30);
    text.window = random.between(0, 1) ? random.between(1, tokens + 3) : 0;
    int width = text.heads * text.head_stride;
    text.stride = width + random.between(0, 30);
    text.context_stride = width + random.between(0, 30);
    int64_t numbers = (tokens - 1) * text.stride + width;
    Buffer queries(random, numbers), keys(random, numbers), values(random, numbers);
    for (int64_t i = 0; i < numbers; i++) queries.data[i] *= 3;
    text.distance_stride = cls::rounded_up(2 * text.max_length - 1, kLanes);
    Buffer distances(random, text.heads * text.distance_stride);
    text.queries = queries.data;
    text.keys = keys.data;
    text.values = values.data;
    if (random.between(0, 1)) text.distances = distances.data;
    Buffer context(random, (tokens - 1) * text.context_stride + width), expected(random, context.size);
    memcpy(expected.data, context.data, sizeof(float) * static_cast<size_t>(context.size));
    for (int h = 0; h < text.heads; h++) expected_head(text, h, expected.data);
    text.context = context.data;
    size_t bytes = static_cast<size_t>(cls::attention_scratch(tokens, text.heads, text.head_stride, kPanel));
    void *scratch = aligned_alloc(64, bytes);
    memset(scratch, 0xff, bytes);
    kernels.attend(text, scratch);
    free(scratch);
    char shape[120];
    snprintf(shape, sizeof shape, "%d tokens, %d heads of %d, window %d, distances %d", tokens, text.heads, text.head_stride, text.window,
             text.distances != nullptr);
    expect_same(kernels.name, "attend", context.data, expected.data, context.size, shape);
}

void expected_row(const cls::RowAttention &text, int h, float *context) {
    const Product &keys = *text.key_by_head, &values = *text.value_by_head;
    size_t tokens = static_cast<size_t>(text.tokens), width = static_cast<size_t>(keys.width);
    float *u = static_cast<float *>(calloc(width, sizeof(float))), *c = static_cast<float *>(calloc(width, sizeof(float)));
    float *scores = static_cast<float *>(calloc(tokens, sizeof(float)));
    for (int k = 0; k < keys.width; k++)
        for (int d = 0; d < text.head_stride; d++)
            u[k] = __builtin_fmaf(text.query[h * text.head_stride + d], *column(keys, h * text.head_stride + d, k), u[k]);
    for (int t = 0; t < text.tokens; t++) {
        float lanes[kLanes] = {};
        for (int k = 0; k < keys.width; k++) lanes[k % kLanes] = __builtin_fmaf(u[k], text.hidden[t * text.stride + k], lanes[k % kLanes]);
        scores[t] = lane_sum(lanes);
        if (text.distances) scores[t] += text.distances[h * text.distance_stride + t - text.row + text.max_length - 1];
    }
    float inverse = softmax(scores, text.tokens, 0, text.tokens);
    for (int k = 0; k < keys.width; k++) {
        for (int t = 0; t < text.tokens; t++) c[k] = __builtin_fmaf(scores[t], text.hidden[t * text.stride + k], c[k]);
        c[k] *= inverse;
    }
    for (int d = 0; d < text.head_stride; d++) {
        float acc = 0;
        int n = h * text.head_stride + d;
        for (int k = 0; k < keys.width; k++) acc = __builtin_fmaf(c[k], *column(values, k, n), acc);
        context[n] = acc + values.bias[n];
    }
    free(u);
    free(c);
    free(scores);
}

void check_attend_row(const cls::Kernels &kernels, Random &random, int tokens) {
    cls::RowAttention text = {};
    text.tokens = tokens;
    text.heads = random.between(1, 14);
    text.head_stride = kLanes * random.between(1, 5);
    text.max_length = tokens + random.between(0, 30);
    text.row = random.between(0, tokens - 1);
    int hidden = kPanel * random.between(1, 4), width = static_cast<int>(cls::rounded_up(text.heads * text.head_stride, kPanel));
    text.stride = hidden + random.between(0, 30);
    Buffer query(random, width), x(random, (tokens - 1) * text.stride + hidden), bias(random, width), context(random, width);
    Buffer key_weights(random, static_cast<int64_t>(width) * hidden), value_weights(random, static_cast<int64_t>(width) * hidden);
    Buffer expected(random, width);
    Product keys = {}, values = {};
    keys.depth = values.width = width;
    keys.width = values.depth = hidden;
    keys.floats = key_weights.data;
    values.floats = value_weights.data;
    values.bias = bias.data;
    text.query = query.data;
    text.hidden = x.data;
    text.key_by_head = &keys;
    text.value_by_head = &values;
    text.context = context.data;
    text.distance_stride = cls::rounded_up(2 * text.max_length - 1, kLanes);
    Buffer distances(random, text.heads * text.distance_stride);
    if (random.between(0, 1)) text.distances = distances.data;
    memset(expected.data, 0, sizeof(float) * static_cast<size_t>(width));
    for (int h = 0; h < text.heads; h++) expected_row(text, h, expected.data);
    size_t bytes = static_cast<size_t>(cls::attention_scratch(tokens, text.heads, text.head_stride, hidden));
    void *scratch = aligned_alloc(64, bytes);
    memset(scratch, 0xff, bytes);
    kernels.attend_row(text, scratch);
    free(scratch);
    char shape[120];
    snprintf(shape, sizeof shape, "%d tokens, %d heads of %d, hidden %d, row %d", tokens, text.heads, text.head_stride, hidden, text.row);
    expect_same(kernels.name, "attend_row", context.data, expected.data, width, shape);
}

void check(const cls::Kernels &kernels, int rounds) {
    for (int round = 0; round < rounds; round++) {
        Random random = {static_cast<uint64_t>(round) * 7919 + 1};
        check_product(kernels, random);
        check_attend(kernels, random, random.between(1, round % 20 == 0 ? 300 : 40));
        check_attend_row(kernels, random, random.between(1, 40));
    }
}

}  // namespace

int main(int argc, char **argv) {
    int rounds = argc > 1 ? atoi(argv[1]) : 40;
    cls::KernelList list = cls::usable_kernels();
    if (*cls::differing_kernels()) {
        printf("left out: %s", cls::differing_kernels());
        failures++;
    }
    for (int i = 0; i < list.count; i++) check(*list.all[i], rounds);
    printf(failures ? "%d differ\n" : "all the same\n", failures);
    return failures ? 1 : 0;
}
