// Working memory of a run: one block, laid out anew for each batch.
#pragma once

#include <stdint.h>
#include <stdlib.h>

#include "support.h"

namespace cls {

constexpr int64_t kAlignment = 64;

// Hands out pieces of a block one after another. Without a block it only counts, so that one function gives both sizes and places.
class Carver {
public:
    explicit Carver(unsigned char *block) : block_(block) {}

    template <class T>
    T *take(int64_t count) {
        T *piece = block_ ? reinterpret_cast<T *>(block_ + used_) : nullptr;
        used_ += rounded_up(count * static_cast<int64_t>(sizeof(T)), kAlignment);
        return piece;
    }

    int64_t used() const { return used_; }

private:
    unsigned char *block_;
    int64_t used_ = 0;
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
