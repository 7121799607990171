// Microseconds and GFLOP/s of attention and of float products, of each path that this CPU runs, on one thread, beside the peak of fused
// multiply-adds in registers. The least of many repeats; what is not called cold is in cache.
// Built with the library's objects (build_library.build_program):
//
//   attention
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kernels.h"
#include "support.h"

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace {

constexpr double kSecondsEach = 0.1;
constexpr int64_t kColdNumbers = 32 << 20;  // 128 MiB of weights
constexpr int kTokens[] = {8, 26, 64, 200, 512}, kHeads = 12, kHeadStrides[] = {32, 64}, kRows[] = {1, 6, 26, 32, 48};

// Of this thread: what other processes take does not count.
double now() {
    timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

// The least seconds that one call takes. Short calls are timed many together.
template <class Call>
double least_seconds(const Call &call) {
    double start = now();
    call();
    int together = cls::greatest(1, static_cast<int>(50e-6 / (now() - start)));
    double least = 1e9;
    for (double begin = now(); now() - begin < kSecondsEach;) {
        start = now();
        for (int i = 0; i < together; i++) call();
        least = cls::least(least, (now() - start) / together);
    }
    return least;
}

#if defined(__x86_64__)
__attribute__((target("avx512f"))) void multiply_add(float *out, int steps) {
    __m512 acc[12], x = _mm512_set1_ps(1.0f), y = _mm512_set1_ps(1e-9f);
    for (__m512 &a : acc) a = _mm512_setzero_ps();
    for (int i = 0; i < steps; i++) {
        for (__m512 &a : acc) {
            a = _mm512_fmadd_ps(x, a, y);
            asm volatile("" : "+v"(a));
        }
    }
    for (int i = 0; i < 12; i++) _mm512_storeu_ps(out + 16 * i, acc[i]);
}

__attribute__((target("avx2,fma"))) void multiply_add_avx2(float *out, int steps) {
    __m256 acc[12], x = _mm256_set1_ps(1.0f), y = _mm256_set1_ps(1e-9f);
    for (__m256 &a : acc) a = _mm256_setzero_ps();
    for (int i = 0; i < steps; i++) {
        for (__m256 &a : acc) {
            a = _mm256_fmadd_ps(x, a, y);
            asm volatile("" : "+x"(a));
        }
    }
    for (int i = 0; i < 12; i++) _mm256_storeu_ps(out + 8 * i, acc[i]);
}
#elif defined(__aarch64__)
void multiply_add(float *out, int steps) {
    float32x4_t acc[12], x = vdupq_n_f32(1.0f), y = vdupq_n_f32(1e-9f);
    for (float32x4_t &a : acc) a = vdupq_n_f32(0.0f);
    for (int i = 0; i < steps; i++) {
        for (float32x4_t &a : acc) {
            a = vfmaq_f32(y, x, a);
            asm volatile("" : "+w"(a));
        }
    }
    for (int i = 0; i < 12; i++) vst1q_f32(out + 4 * i, acc[i]);
}
#endif

void print_peak(const char *name) {
    float out[12 * 16];
    const int kSteps = 20000;
    int lanes = 4;
    double seconds = 0;
#if defined(__x86_64__)
    if (strncmp(name, "avx512", 6) == 0) {
        lanes = 16;
        seconds = least_seconds([&] { multiply_add(out, kSteps); });
    } else if (strncmp(name, "avx", 3) == 0) {
        lanes = 8;
        seconds = least_seconds([&] { multiply_add_avx2(out, kSteps); });
    }
#elif defined(__aarch64__)
    if (strncmp(name, "neon", 4) == 0) seconds = least_seconds([&] { multiply_add(out, kSteps); });
#endif
    if (seconds > 0) printf("%-12s peak %.1f GFLOP/s\n", name, 2e-9 * 12 * lanes * kSteps / seconds);
}

float *numbers(int64_t count) {
    size_t bytes = static_cast<size_t>(cls::rounded_up(count * static_cast<int64_t>(sizeof(float)), 64));
    float *data = static_cast<float *>(aligned_alloc(64, bytes));
    if (!data) abort();
    uint32_t state = 1;
    for (int64_t i = 0; i < count; i++) {
        state = state * 1664525u + 1013904223u;
        data[i] = static_cast<float>(state >> 8) / 8388608.0f - 1.0f;
    }
    return data;
}

void time_attend(const cls::Kernels &kernels, int tokens, int heads, int head_stride) {
    int width = heads * head_stride;
    float *rows = numbers(static_cast<int64_t>(tokens) * 3 * width), *context = numbers(static_cast<int64_t>(tokens) * width);
    void *scratch = numbers(cls::attention_scratch(tokens, heads, head_stride, width) / static_cast<int64_t>(sizeof(float)));
    cls::TextAttention text = {};
    text.tokens = text.max_length = tokens;
    text.heads = heads;
    text.head_stride = head_stride;
    text.queries = rows;
    text.keys = rows + width;
    text.values = rows + 2 * width;
    text.stride = 3 * width;
    text.context = context;
    text.context_stride = width;
    double seconds = least_seconds([&] { kernels.attend(text, scratch); });
    printf("%-12s attend      %4d tokens, %d heads of %d: %9.1f us %7.1f GFLOP/s\n", kernels.name, tokens, heads, head_stride,
           1e6 * seconds, 4e-9 * tokens * tokens * width / seconds);
    free(rows);
    free(context);
    free(scratch);
}

void time_attend_row(const cls::Kernels &kernels, int tokens, int heads, int head_stride) {
    int width = heads * head_stride;
    float *x = numbers(static_cast<int64_t>(tokens) * width), *query = numbers(width), *bias = numbers(width), *context = numbers(width);
    float *weights = numbers(2 * static_cast<int64_t>(width) * width);
    void *scratch = numbers(cls::attention_scratch(tokens, heads, head_stride, width) / static_cast<int64_t>(sizeof(float)));
    cls::Product keys = {}, values = {};
    keys.depth = keys.width = values.depth = values.width = width;
    keys.floats = weights;
    values.floats = weights + static_cast<int64_t>(width) * width;
    values.bias = bias;
    cls::RowAttention text = {};
    text.tokens = text.max_length = tokens;
    text.heads = heads;
    text.head_stride = head_stride;
    text.query = query;
    text.hidden = x;
    text.stride = width;
    text.key_by_head = &keys;
    text.value_by_head = &values;
    text.context = context;
    double seconds = least_seconds([&] { kernels.attend_row(text, scratch); });
    printf("%-12s attend_row  %4d tokens, %d heads of %d: %9.1f us %7.1f GFLOP/s\n", kernels.name, tokens, heads, head_stride,
           1e6 * seconds, 4e-9 * width * (width + static_cast<double>(tokens) * heads) / seconds);
    free(x);
    free(query);
    free(bias);
    free(context);
    free(weights);
    free(scratch);
}

// `weights` have room for many matrices: where `cold`, each call takes the next one, so that it comes from memory.
void time_product(const cls::Kernels &kernels, const float *weights, bool cold, int rows, int depth, int width, cls_activation activation) {
    float *x = numbers(static_cast<int64_t>(rows) * depth), *y = numbers(static_cast<int64_t>(rows) * width), *bias = numbers(width);
    cls::Product product = {};
    product.depth = depth;
    product.width = width;
    product.bias = bias;
    cls::Epilogue epilogue;
    epilogue.activation = activation;
    int64_t size = static_cast<int64_t>(depth) * width, at = 0;
    double seconds = least_seconds([&] {
        product.floats = weights + at;
        at = cold && at + 2 * size <= kColdNumbers ? at + size : 0;
        kernels.float_product(x, depth, rows, product, epilogue, y, width);
    });
    printf("%-12s product%s%s %3d rows, %4d -> %4d: %9.1f us %7.1f GFLOP/s\n", kernels.name, activation ? "+gelu" : "     ",
           cold ? " cold" : "     ", rows, depth, width, 1e6 * seconds, 2e-9 * rows * depth * width / seconds);
    free(x);
    free(y);
    free(bias);
}

void time_products(const cls::Kernels &kernels, const float *weights) {
    for (int rows : kRows) {
        time_product(kernels, weights, false, rows, 384, 1536, CLS_IDENTITY);
        time_product(kernels, weights, false, rows, 1536, 384, CLS_IDENTITY);
        time_product(kernels, weights, false, rows, 384, 384, CLS_IDENTITY);
    }
    time_product(kernels, weights, false, 48, 384, 1536, CLS_GELU);
    for (int rows : kRows) {
        time_product(kernels, weights, true, rows, 384, 1536, CLS_IDENTITY);
        time_product(kernels, weights, true, rows, 3072, 768, CLS_IDENTITY);
    }
}

}  // namespace

int main() {
    cls::KernelList list = cls::usable_kernels();
    float *weights = numbers(kColdNumbers);
    for (int i = 0; i < list.count; i++) {
        const cls::Kernels &kernels = *list.all[i];
        print_peak(kernels.name);
        for (int tokens : kTokens)
            for (int head_stride : kHeadStrides) time_attend(kernels, tokens, kHeads, head_stride);
        for (int tokens : kTokens)
            for (int head_stride : kHeadStrides) time_attend_row(kernels, tokens, kHeads, head_stride);
        time_products(kernels, weights);
    }
    free(weights);
    return 0;
}
