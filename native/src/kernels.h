// One kernel family: what a path (a kind of CPU) computes, as a table of functions. `run.cpp` calls them and knows no instruction set.
//
// Every path gives bit for bit what `paths/portable.cpp` gives. The rules, which also cls_runtime/engines/native/reference.py follows:
//  1. float32, round to nearest even, nothing flushed to zero, no contraction by the compiler; fma only where it is written.
//  2. Float product: acc = 0; for k ascending acc = fma(x[k], w[k][n], acc); then acc + bias[n]. One accumulator a number, in any tile.
//  3. Integer product: exact int32. y = fma(float(acc - zero * sums[n]), row_scale * scales[n], bias[n]).
//     `sums` are the true sums of the columns: a path may multiply q - 128 and put that right with them.
//  4. After that the activation; then, where there is a residual, y + residual.
//  5. Sums over a row: 16 lanes, lane j takes j, j + 16, ... ascending; then lane j + lane j + 8, + 4, + 2, + 1.
//  6. Norm: mean = sum(x) / size; d = x - mean, 0 in the padding; variance = sum by fma(d, d, lane) / size;
//     r = 1 / sqrt(variance + epsilon); y = fma(d * r, scale, shift).
//  7. Quantization of a row: v = x * smoothing; lo = min(0, v...), hi = max(0, v...), without what is not a number; range = hi - lo. Below
//     1e-30 or infinite: scale 0, zero 0, all zeros. Else scale = range / 255, inverse = 255 / range, zero = nearest_even(-lo * inverse),
//     q = clamp(nearest_even(v * inverse) + zero, 0, 255), and 0 where v is not a number.
//  8. Softmax over the keys of a text: m = the largest score; e = exp(s - m), 0 for keys that are not seen; total = lane sum of e, where
//     lane j has the keys j, j + 16, ... of the text; context = chain over the keys ascending of fma(e, value, acc), times (1 / total).
//     Score = chain over d ascending of fma(query[d], key[d], acc), plus the distance's bias where there is one.
//  9. One row a text (attend_row): u[h] = chain over d ascending of fma(query[h, d], key_by_head[h, d, :], acc); score[h][t] = lane sum by
//     fma(u[h][k], x[t][k], lane) over the hidden size; softmax as 8; c[h] = chain over t of fma(e, x[t], acc), times (1 / total);
//     context[h, d] = chain over k of fma(c[h][k], value_by_head[k][h, d], acc), plus its bias.
// 10. Embeddings: (word + type) + position. Mean: chain over the tokens of acc + x[t], / count; zeros where no token counts.
// 11. exp, tanh and all activations: the formulas of kernels/functions.h.
// 12. Rotation: x' = fma(x, cos, -(y * sin)), y' = fma(y, cos, x * sin), the products rounded.
// Of a result that is not a number only that is promised, not its bits.
#pragma once

#include "model.h"

namespace cls {

// x is about scale * (q - zero).
struct RowScale {
    float scale;
    int32_t zero;
};

// What follows a product, in this order.
struct Epilogue {
    Activation activation = CLS_IDENTITY;
    const float *residual = nullptr;  // added; as the output, at `residual_stride`; may be the output itself
    int64_t residual_stride = 0;
};

// The tokens of one text, and where its queries, keys and values [tokens][A * head_stride] lie.
struct TextAttention {
    int tokens;
    int heads, head_stride;
    const float *queries, *keys, *values;
    int64_t stride;         // of a token in all three
    float *context;         // [tokens][A * head_stride]; nothing else of a row is written, so that heads may be shared out: the caller has
                            // zeros in what pads it to attention_width
    int64_t context_stride;
    int window;             // 0 for all keys
    const float *distances; // of cls_layer, or null
    int64_t distance_stride;
    int max_length;
};

// One row of a text against all its tokens, with keys and values reassociated; see rule 9.
struct RowAttention {
    int tokens;
    int heads, head_stride;
    int row;                 // of the query, for the distances
    const float *query;      // [A * head_stride]
    const float *hidden;     // [tokens][stride]
    int64_t stride;
    const Product *key_by_head, *value_by_head;
    float *context;          // [attention_width], with zeros behind the heads
    const float *distances;
    int64_t distance_stride;
    int max_length;
};

struct Kernels {
    const char *name;

    // x [rows][depth] -> q [rows][depth] and a scale a row. `smoothing` may be null.
    void (*quantize)(const float *x, int64_t stride, int rows, int depth, const float *smoothing, uint8_t *q, RowScale *scales);
    void (*integer_product)(const uint8_t *q, const RowScale *scales, int rows, const Product &product, const Epilogue &epilogue, float *y,
                            int64_t y_stride);
    void (*float_product)(const float *x, int64_t x_stride, int rows, const Product &product, const Epilogue &epilogue, float *y,
                          int64_t y_stride);
    // y may be x.
    void (*norm)(const float *x, int64_t x_stride, int rows, const Norm &norm, int width, float *y, int64_t y_stride);
    // x [rows][2 * width] -> y [rows][width]: activation(x[i]) * x[width + i]; y may be x's first half.
    void (*gate)(const float *x, int64_t x_stride, int rows, int width, Activation activation, float *y, int64_t y_stride);
    // Rotates `heads` heads of each row in place; row r is at position first_position + r.
    void (*rotate)(float *x, int64_t stride, int rows, int first_position, int heads, int head_stride, const Rotation &rotation);
    // Rows of the tables added up, before the norm. `positions` are rows of the table.
    void (*embed)(const Embeddings &embeddings, const int32_t *ids, const int32_t *types, const int32_t *positions, int rows, float *y,
                  int64_t y_stride);
    // `scratch` has `attention_scratch(...)` bytes, aligned to 64: linear in the tokens.
    void (*attend)(const TextAttention &text, void *scratch);
    void (*attend_row)(const RowAttention &text, void *scratch);
    // The mean of rows [begin, end), or zeros where there are none.
    void (*mean)(const float *x, int64_t stride, int begin, int end, int width, float *y);
    void (*activate)(float *x, int64_t stride, int rows, int width, Activation activation);
};

// Bytes of scratch that `attend` and `attend_row` need for a text of so many tokens.
int64_t attention_scratch(int tokens, int heads, int head_stride, int hidden_stride);

// The families of this build, best first, the portable one last; those that this CPU runs and that agree with the portable one.
struct KernelList {
    const Kernels *const *all;
    int count;
};
KernelList all_kernels();
KernelList usable_kernels();
const char *differing_kernels();
const Kernels *kernels_named(const char *name);  // null: the best usable one; nullptr where there is none of that name

}  // namespace cls
