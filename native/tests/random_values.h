// Numbers that a test's number decides, and memory that ends where it says, so that the address sanitizer sees one number too many.
#pragma once

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

namespace test {

// splitmix64.
struct Random {
    uint64_t state;

    uint64_t bits() {
        uint64_t z = (state += 0x9E3779B97F4A7C15u);
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
        z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
        return z ^ (z >> 31);
    }
    // In [low, high].
    int between(int low, int high) { return low + int(bits() % uint64_t(high - low + 1)); }
    bool once_in(int times) { return between(1, times) == 1; }
    // Small most of the time, so that many cases fit into a minute, and up to `largest` now and then.
    int size(int largest, int usual = 8) { return between(1, largest < usual || once_in(20) ? largest : usual); }
    float uniform() { return float(int64_t(bits() >> 40) - (1 << 23)) / float(1 << 23); }
};

// `count` numbers at an address that is a multiple of 4 and seldom of more, right before the end of their memory.
template <class T>
struct Numbers {
    void *memory;
    T *data;
    int64_t count;

    Numbers(Random &random, int64_t count) : count(count) {
        int64_t unaligned = sizeof(T) < 4 ? 0 : 4 * random.between(0, 3);
        memory = malloc(size_t(count) * sizeof(T) + size_t(unaligned));
        if (!memory) {
            fprintf(stderr, "no memory for %lld numbers\n", (long long)count);
            exit(2);
        }
        data = reinterpret_cast<T *>(static_cast<char *>(memory) + unaligned);
    }
    Numbers(const Numbers &) = delete;
    ~Numbers() { free(memory); }
    T &operator[](int64_t i) { return data[i]; }
    const T &operator[](int64_t i) const { return data[i]; }
};

// A kind of value for a whole row: what models have, and what no model should have.
enum Kind { kUsual, kOutlier, kConstant, kZero, kTiny, kHuge, kSpecial, kKinds };

inline Kind a_kind(Random &random, bool special) {
    if (!random.once_in(4)) {
        return kUsual;
    }
    return Kind(random.between(0, special ? kKinds - 1 : kTiny));
}

inline void fill_row(Random &random, float *row, int64_t count, Kind kind) {
    const float constant = random.uniform() * 3;
    for (int64_t i = 0; i < count; i++) {
        float value = random.uniform() * 3;
        switch (kind) {
            case kOutlier: value = random.once_in(50) ? value * 100 : value; break;
            case kConstant: value = constant; break;
            case kZero: value = random.once_in(2) ? 0.0f : -0.0f; break;
            case kTiny: value *= 1e-39f; break;
            case kHuge: value *= 1e37f; break;
            case kSpecial: value = random.once_in(20) ? (random.once_in(2) ? INFINITY : NAN) * value : value; break;
            default: break;
        }
        row[i] = value;
    }
}

inline void fill(Random &random, Numbers<float> &numbers, float scale = 1) {
    for (int64_t i = 0; i < numbers.count; i++) {
        numbers[i] = random.uniform() * scale;
    }
}

// The same bits; any two that are not numbers are the same, whatever their sign and payload.
inline bool same(float a, float b) {
    return memcmp(&a, &b, sizeof a) == 0 || (a != a && b != b);
}

// One number for all that was computed, to compare machines by.
struct Digest {
    uint64_t state = 0xCBF29CE484222325u;  // FNV-1a, a word at a time

    void add(uint32_t word) { state = (state ^ word) * 0x100000001B3u; }
    void add(float value) {
        uint32_t word;
        memcpy(&word, &value, sizeof word);
        add(value == value ? word : 0x7FC00000u);
    }
};

}  // namespace test
