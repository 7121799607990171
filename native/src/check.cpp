// The check of the paths. Shapes reach every height of a tile and every kind of remainder; values are what models have, and extremes.
#include "check.h"

#include <stdlib.h>
#include <string.h>

#include "support.h"

namespace cls {
namespace {

constexpr int kMostRows = 14, kMostDepth = 192, kMostTokens = 37;
constexpr int kOutputs = 16 * 1024;
constexpr int kActivations = CLS_SIGMOID + 1;

// What all cases read and write. In a row of `x` nothing is infinite or not a number; `special` has rows that are.
struct Memory {
    float x[kMostRows * 3 * kMostDepth];
    float special[kMostRows * kMostDepth];
    float weights[kMostDepth * 128];
    float bias[kMostDepth], scales[kMostDepth], tables[8192];
    int8_t integers[kMostDepth * 128];
    int32_t sums[128];
    uint8_t bytes[kMostRows * kMostDepth];
    uint16_t halves[16 * 64];
    RowScale row_scales[kMostRows];
    float expected[kOutputs];
    float found[kOutputs];
    void *scratch;  // of the attentions
};

struct Generator {
    uint32_t state;

    uint32_t bits() {
        state = state * 1664525u + 1013904223u;
        return state >> 8;
    }
    // In [-1, 1).
    float number() { return float(int32_t(bits()) - (1 << 23)) / float(1 << 23); }
    void fill(float *numbers, int count, float largest) {
        for (int i = 0; i < count; ++i) numbers[i] = number() * largest;
    }
};

// Rows of zeros, tiny, equal and huge numbers, one whose range is infinite, one with infinities, one with what is not a number.
void make_special(Memory &memory) {
    const float kHuge = 3e38f, kInfinity = __builtin_inff();
    for (int i = 0; i < kMostDepth; ++i) {
        float *column = memory.special + i;
        column[0 * kMostDepth] = i % 2 ? 0.0f : -0.0f;
        column[1 * kMostDepth] *= 1e-31f;
        column[2 * kMostDepth] *= 1e-40f;
        column[3 * kMostDepth] = 2.5f;
        column[4 * kMostDepth] *= 1e37f;
        column[5 * kMostDepth] = i % 2 ? kHuge : -kHuge;
        if (i == 3) column[6 * kMostDepth] = kInfinity;
        if (i == 40) column[7 * kMostDepth] = -kInfinity;
        if (i % 50 == 7) column[8 * kMostDepth] = __builtin_nanf("");
        column[9 * kMostDepth] = __builtin_nanf("");
        column[10 * kMostDepth] = __builtin_fabsf(column[10 * kMostDepth]);
        if (i == 5) column[11 * kMostDepth] = 1000.0f;
    }
}

void make_values(Memory &memory) {
    Generator random = {7};
    random.fill(memory.x, sizeof memory.x / sizeof(float), 4.0f);
    random.fill(memory.special, sizeof memory.special / sizeof(float), 4.0f);
    random.fill(memory.weights, sizeof memory.weights / sizeof(float), 0.5f);
    random.fill(memory.bias, kMostDepth, 1.0f);
    random.fill(memory.scales, kMostDepth, 0.01f);
    random.fill(memory.tables, sizeof memory.tables / sizeof(float), 1.0f);
    for (int8_t &integer : memory.integers) integer = int8_t(random.bits());
    for (uint8_t &byte : memory.bytes) byte = uint8_t(random.bits());
    for (uint16_t &half : memory.halves) half = uint16_t(random.bits() & 0xBFFF);  // finite, subnormal ones among them
    for (int i = 0; i < kMostDepth * 128; ++i) {  // every third column is as large as it can be, and so is the first row
        if (i / 4 % 3 == 0) memory.integers[i] = i / 4 % 2 ? 127 : -128;
    }
    memset(memory.bytes, 255, kMostDepth);
    for (int row = 0; row < kMostRows; ++row) memory.row_scales[row] = {random.number() + 1.5f, int32_t(random.bits() % 256)};
    make_special(memory);
}

void quantize_case(const Kernels &kernels, Memory &memory, float *out) {
    uint8_t *bytes = reinterpret_cast<uint8_t *>(out);
    RowScale *scales = reinterpret_cast<RowScale *>(out + kOutputs / 2);
    kernels.quantize(memory.special, kMostDepth, kMostRows, kMostDepth, nullptr, bytes, scales);
    bytes += kMostRows * kMostDepth;
    scales += kMostRows;
    kernels.quantize(memory.special, kMostDepth, kMostRows, 64, memory.bias, bytes, scales);
}

constexpr int kRowCounts[] = {1, 2, 3, 4, 5, 6, 9, kMostRows};  // of products

// Another activation for each number of rows, most with a residual.
Epilogue epilogue_of(const Memory &memory, int i) {
    Epilogue epilogue;
    epilogue.activation = Activation(i % kActivations);
    epilogue.residual = i % 3 ? memory.x : nullptr;
    epilogue.residual_stride = kMostDepth;
    return epilogue;
}

// Of each column of `integers`, which a path may use as it likes.
void sum_columns(const Product &product, int32_t *sums) {
    for (int column = 0; column < product.width; ++column) {
        const int8_t *panel = product.integers + int64_t(column / kPanel) * kPanel * product.depth;
        sums[column] = 0;
        for (int k = 0; k < product.depth; ++k) sums[column] += panel[(k / 4 * kPanel + column % kPanel) * 4 + k % 4];
    }
}

void integer_product_case(const Kernels &kernels, Memory &memory, float *out) {
    Product product = {};
    product.integers = memory.integers, product.sums = memory.sums, product.scales = memory.scales, product.bias = memory.bias;
    for (int i = 0; i < 8; ++i) {
        product.depth = i % 2 ? 64 : kMostDepth;
        product.width = i % 4 ? 64 : 128;
        sum_columns(product, memory.sums);
        kernels.integer_product(memory.bytes, memory.row_scales, kRowCounts[i], product, epilogue_of(memory, i), out, product.width + 16);
        out += kRowCounts[i] * (product.width + 16);
    }
}

void float_product_case(const Kernels &kernels, Memory &memory, float *out) {
    Product product = {};
    product.floats = memory.weights, product.bias = memory.bias, product.depth = 64;
    for (int i = 0; i < 8; ++i) {
        product.width = i % 4 ? 64 : 128;
        kernels.float_product(memory.x, 2 * kMostDepth, kRowCounts[i], product, epilogue_of(memory, i), out, product.width + 16);
        out += kRowCounts[i] * (product.width + 16);
    }
}

void norm_case(const Kernels &kernels, Memory &memory, float *out) {
    const int sizes[] = {64, 50, 180};
    for (int size : sizes) {
        int width = int(rounded_up(size, kPanel));
        float scale[kMostDepth] = {}, shift[kMostDepth] = {}, rows[6 * kMostDepth] = {};
        memcpy(scale, memory.scales, size_t(size) * sizeof(float));
        memcpy(shift, memory.bias, size_t(size) * sizeof(float));
        for (int row = 0; row < 6; ++row) {
            const float *finite = memory.special + (row < 4 ? row : row + 6) * kMostDepth;
            memcpy(rows + row * width, finite, size_t(size) * sizeof(float));
        }
        const Norm norm = {size, 1e-12f, scale, shift};
        kernels.norm(rows, width, 6, norm, width, out, width);
        out += 6 * width;
    }
}

// Values around where the formulas change, among others.
void activation_inputs(float *values, int count) {
    static const float kAround[] = {0.0f, 0.5f, 1e-3f, 1e-20f, 1e-38f, 6.1f, 14.0f, 87.33f, 88.4f, 44.0f, 1e10f, 1e30f};
    for (int i = 0; i < count; ++i) {
        float value = i < 48 ? kAround[i % 12] * (i < 24 ? 1.0f : 0.99999f) : float(i) * 0.1f;
        values[i] = i % 2 ? -value : value;
    }
}

void activate_case(const Kernels &kernels, Memory &, float *out) {
    for (int activation = 0; activation < kActivations; ++activation) {
        activation_inputs(out, 128);
        kernels.activate(out, 64, 2, 64, Activation(activation));
        out += 128;
    }
}

void gate_case(const Kernels &kernels, Memory &memory, float *out) {
    for (int activation = 0; activation < kActivations; ++activation) {
        kernels.gate(memory.x, 2 * kMostDepth, 2, 64, Activation(activation), out, 80);
        out += 160;
    }
}

void rotate_case(const Kernels &kernels, Memory &memory, float *out) {
    const int halves[] = {8, 15, 24, 32};
    for (int half : halves) {
        const Rotation rotation = {memory.tables, memory.tables + 1024, half};
        memcpy(out, memory.x, 3 * 128 * sizeof(float));
        kernels.rotate(out, 128, 3, 2, 2, 64, rotation);
        out += 3 * 128;
    }
}

void embed_case(const Kernels &kernels, Memory &memory, float *out) {
    const int32_t ids[] = {3, 0, 15, 7, 3}, types[] = {0, 1, 1, 0, 1}, positions[] = {0, 1, 2, 3, 2};
    Embeddings embeddings = {};
    embeddings.stride = 64;
    embeddings.words = memory.tables;
    kernels.embed(embeddings, ids, types, positions, 5, out, 80);
    embeddings.token_types = memory.bias;
    embeddings.position_rows = memory.tables + 1024;
    embeddings.words = memory.halves;
    embeddings.half_words = 1;
    kernels.embed(embeddings, ids, types, positions, 5, out + 5 * 80, 80);
    kernels.embed(embeddings, ids, nullptr, positions, 5, out + 10 * 80, 80);
}

void mean_case(const Kernels &kernels, Memory &memory, float *out) {
    const int begins[] = {0, 3, 2}, ends[] = {kMostRows, 3, 5};
    for (int i = 0; i < 3; ++i) kernels.mean(memory.x, kMostDepth, begins[i], ends[i], kMostDepth, out + i * kMostDepth);
}

void attend_case(const Kernels &kernels, Memory &memory, float *out) {
    TextAttention text = {};
    text.heads = 2, text.head_stride = 16, text.stride = 64, text.context_stride = 48;
    text.queries = memory.tables, text.keys = memory.x + 16, text.values = memory.x + 32;
    text.max_length = kMostTokens + 3, text.distance_stride = rounded_up(2 * text.max_length - 1, kLanes);
    const int lengths[] = {1, 17, kMostTokens};
    for (int tokens : lengths) {
        text.tokens = tokens;
        text.context = out;
        text.window = tokens == 17 ? 3 : 0;
        text.distances = tokens == 1 ? nullptr : memory.tables + 4096;
        kernels.attend(text, memory.scratch);
        out += tokens * 48;
    }
}

void attend_row_case(const Kernels &kernels, Memory &memory, float *out) {
    Product key_by_head = {}, value_by_head = {};
    key_by_head.depth = 64, key_by_head.width = 128, value_by_head.depth = 128, value_by_head.width = 64;
    key_by_head.floats = memory.weights, value_by_head.floats = memory.weights + 64 * 128;
    key_by_head.bias = value_by_head.bias = memory.bias;
    RowAttention text = {};
    text.heads = 3, text.head_stride = 16, text.query = memory.tables, text.hidden = memory.x, text.stride = 128;
    text.key_by_head = &key_by_head, text.value_by_head = &value_by_head;
    text.max_length = kMostTokens, text.distance_stride = rounded_up(2 * text.max_length - 1, kLanes);
    const int lengths[] = {1, 18, kMostTokens};
    for (int tokens : lengths) {
        text.tokens = tokens;
        text.row = tokens / 3;
        text.distances = tokens == 18 ? memory.tables + 4096 : nullptr;
        text.context = out;
        kernels.attend_row(text, memory.scratch);
        out += 64;
    }
}

struct Case {
    const char *difference;
    void (*run)(const Kernels &, Memory &, float *);
};

constexpr Case kCases[] = {
    {"quantize differs", quantize_case},
    {"integer_product differs", integer_product_case},
    {"float_product differs", float_product_case},
    {"norm differs", norm_case},
    {"gate differs", gate_case},
    {"rotate differs", rotate_case},
    {"embed differs", embed_case},
    {"attend differs", attend_case},
    {"attend_row differs", attend_row_case},
    {"mean differs", mean_case},
    {"activate differs", activate_case},
};

// What a kernel does not write stays as it was, so that a number too many or too few shows.
void run_on_clean(const Case &of, const Kernels &kernels, Memory &memory, float *out) {
    memset(out, 0x5A, sizeof memory.expected);
    of.run(kernels, memory, out);
}

void find_in(Memory &memory, const Kernels &reference, const Kernels *const *tested, int count, const char **differences) {
    make_values(memory);
    for (const Case &of : kCases) {
        run_on_clean(of, reference, memory, memory.expected);
        for (int i = 0; i < count; ++i) {
            if (differences[i]) continue;
            run_on_clean(of, *tested[i], memory, memory.found);
            if (memcmp(memory.expected, memory.found, sizeof memory.expected)) differences[i] = of.difference;
        }
    }
}

}  // namespace

void find_differences(const Kernels &reference, const Kernels *const *tested, int count, const char **differences) {
    if (!count) return;
    const size_t kLine = 64;
    size_t scratch = size_t(attention_scratch(kMostTokens, 3, 16, 128));
    void *block = malloc(sizeof(Memory) + scratch + kLine);
    for (int i = 0; i < count; ++i) differences[i] = block ? nullptr : "no memory to check it";
    if (!block) return;
    Memory &memory = *static_cast<Memory *>(block);
    uintptr_t behind = reinterpret_cast<uintptr_t>(block) + sizeof(Memory);
    memory.scratch = reinterpret_cast<void *>((behind + kLine - 1) / kLine * kLine);
    find_in(memory, reference, tested, count, differences);
    free(block);
}

const char *difference(const Kernels &tested, const Kernels &reference) {
    const Kernels *one = &tested;
    const char *what;
    find_differences(reference, &one, 1, &what);
    return what;
}

}  // namespace cls
