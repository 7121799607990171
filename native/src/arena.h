// Working memory of a run: one block, laid out anew for each batch.
#pragma once

#include <stdint.h>
#include <stdlib.h>

#include "support.h"

namespace cls {

constexpr int64_t kAlignment = 64;

// Hands out pieces of a block one after another. Without a block it only counts, so that one function gives both sizes and places: what
// is larger than a number of bytes can be counts as INT64_MAX.
class Carver {
public:
    explicit Carver(unsigned char *block) : block_(block) {}

    template <class T>
    T *take(int64_t rows, int64_t width = 1) {
        T *piece = block_ ? reinterpret_cast<T *>(block_ + used_) : nullptr;
        int64_t count, bytes;
        too_large_ |= __builtin_mul_overflow(rows, width, &count);
        too_large_ |= __builtin_mul_overflow(count, static_cast<int64_t>(sizeof(T)), &bytes);
        too_large_ |= bytes > INT64_MAX - kAlignment || __builtin_add_overflow(used_, rounded_up(bytes, kAlignment), &used_);
        return piece;
    }

    int64_t used() const { return too_large_ ? INT64_MAX : used_; }

private:
    unsigned char *block_;
    int64_t used_ = 0;
    bool too_large_ = false;
};

// A block that grows when more is asked for. What was in it is lost then.
struct Arena {
    void *allocation;
    int64_t capacity;
};

// At least `size` bytes, aligned; null where the system has not so much, and then the arena is empty.
inline unsigned char *reserve(Arena &arena, int64_t size) {
    if (size > arena.capacity) {
        free(arena.allocation);
        arena.allocation = nullptr;
        arena.capacity = 0;
        if (size > static_cast<int64_t>(SIZE_MAX / 2) - kAlignment) return nullptr;
        arena.allocation = malloc(static_cast<size_t>(size + kAlignment));
        if (!arena.allocation) return nullptr;
        arena.capacity = size;
    }
    const uintptr_t address = reinterpret_cast<uintptr_t>(arena.allocation);
    const uintptr_t step = static_cast<uintptr_t>(kAlignment);
    return reinterpret_cast<unsigned char *>((address + step - 1) / step * step);
}

// Gives a block of more than `limit` bytes back.
inline void trim(Arena &arena, int64_t limit) {
    if (arena.capacity <= limit) return;
    free(arena.allocation);
    arena.allocation = nullptr;
    arena.capacity = 0;
}

}  // namespace cls
