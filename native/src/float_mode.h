// Float32 as the rules want it: round to nearest even and nothing flushed to zero, whatever mode a program has set for its thread.
#pragma once

#include <stdint.h>

namespace cls {

#if defined(__x86_64__)
inline uint64_t float_mode() { return __builtin_ia32_stmxcsr(); }
inline void set_float_mode(uint64_t mode) { __builtin_ia32_ldmxcsr(static_cast<uint32_t>(mode)); }
constexpr uint64_t kFloatMode = 0x1f80;  // every exception masked
#elif defined(__aarch64__)
inline uint64_t float_mode() {
    uint64_t mode;
    __asm__ __volatile__("mrs %0, fpcr" : "=r"(mode));
    return mode;
}
inline void set_float_mode(uint64_t mode) { __asm__ __volatile__("msr fpcr, %0" : : "r"(mode)); }
constexpr uint64_t kFloatMode = 0;
#else
inline uint64_t float_mode() { return 0; }
inline void set_float_mode(uint64_t) {}
constexpr uint64_t kFloatMode = 0;
#endif

// The rules' mode for the time of a block; what the thread had comes back after it.
class FloatMode {
public:
    FloatMode() : before_(float_mode()) { set_float_mode(kFloatMode); }
    ~FloatMode() { set_float_mode(before_); }
    FloatMode(const FloatMode &) = delete;
    FloatMode &operator=(const FloatMode &) = delete;

private:
    uint64_t before_;
};

}  // namespace cls
