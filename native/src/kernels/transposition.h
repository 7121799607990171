// Rows of numbers -> their transpose, by shuffles.
#pragma once

#include <string.h>

#include "../model.h"
#include "../support.h"

namespace cls {
namespace {

// Loads of 4 or 16 numbers as one value that the compiler shuffles, whatever the CPU has.
typedef float Four __attribute__((vector_size(16)));
typedef float Sixteen __attribute__((vector_size(64)));

// 4 rows of 4 numbers, `stride` apart -> their transpose, rows kPanel apart. Rows from `count` on are zeros, and not read.
CLS_INLINE void transpose_4(const float *rows, int64_t stride, int count, float *out) {
    Four a[4] = {};
    for (int i = 0; i < least(count, 4); i++) memcpy(&a[i], rows + i * stride, sizeof(Four));
    Four even_low = __builtin_shufflevector(a[0], a[2], 0, 4, 1, 5), even_high = __builtin_shufflevector(a[0], a[2], 2, 6, 3, 7);
    Four odd_low = __builtin_shufflevector(a[1], a[3], 0, 4, 1, 5), odd_high = __builtin_shufflevector(a[1], a[3], 2, 6, 3, 7);
    Four columns[4] = {__builtin_shufflevector(even_low, odd_low, 0, 4, 1, 5), __builtin_shufflevector(even_low, odd_low, 2, 6, 3, 7),
                       __builtin_shufflevector(even_high, odd_high, 0, 4, 1, 5), __builtin_shufflevector(even_high, odd_high, 2, 6, 3, 7)};
    for (int i = 0; i < 4; i++) memcpy(out + i * kPanel, &columns[i], sizeof(Four));
}

// The same of 16 rows of 16. Each step interleaves the first halves of rows i and i + 8, and then their second halves.
CLS_INLINE void transpose_16(const float *rows, int64_t stride, int count, float *out) {
    Sixteen a[16] = {}, b[16];
#pragma GCC unroll 16
    for (int i = 0; i < 16; i++)
        if (i < count) memcpy(&a[i], rows + i * stride, sizeof(Sixteen));
#pragma GCC unroll 4
    for (int step = 0; step < 4; step++) {
#pragma GCC unroll 8
        for (int i = 0; i < 8; i++) {
            b[2 * i] = __builtin_shufflevector(a[i], a[i + 8], 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
            b[2 * i + 1] = __builtin_shufflevector(a[i], a[i + 8], 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
        }
#pragma GCC unroll 16
        for (int i = 0; i < 16; i++) a[i] = b[i];
    }
#pragma GCC unroll 16
    for (int i = 0; i < 16; i++) memcpy(out + i * kPanel, &a[i], sizeof(Sixteen));
}

}  // namespace
}  // namespace cls
