// An instruction set counts where the CPU has it and the system keeps its registers when it changes threads.
#include "cpu.h"

#include <stddef.h>
#include <stdint.h>

#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#elif defined(__aarch64__) && defined(__APPLE__)
#include <sys/sysctl.h>
#endif

namespace cls {

#if defined(__x86_64__)

namespace {

struct Registers {
    uint32_t a, b, c, d;
};

// All zeros where the CPU has no such leaf.
Registers cpuid(uint32_t leaf, uint32_t part) {
    Registers of = {};
    if (!__get_cpuid_count(leaf, part, &of.a, &of.b, &of.c, &of.d)) return {};
    return of;
}

// The registers that the system keeps, a bit a kind; there is such an instruction where OSXSAVE is set.
uint32_t kept_registers() {
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return low;
}

bool has(uint32_t bits, uint32_t wanted) { return (bits & wanted) == wanted; }

}  // namespace

CpuFeatures cpu_features() {
    CpuFeatures features = {};
    const uint32_t kFma = 1u << 12, kOsxsave = 1u << 27, kAvx = 1u << 28, kF16c = 1u << 29;           // leaf 1, c
    const uint32_t kAvx2 = 1u << 5;                                                                   // leaf 7, b
    const uint32_t kAvx512 = 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31, kAvx512Vnni = 1u << 11;       // b: F, DQ, BW, VL; c
    const uint32_t kAvxVnni = 1u << 4;                                                                // leaf 7, part 1, a
    const uint32_t kKeptAvx = 1u << 1 | 1u << 2, kKeptAvx512 = kKeptAvx | 1u << 5 | 1u << 6 | 1u << 7;
    if (!has(cpuid(1, 0).c, kFma | kOsxsave | kAvx | kF16c)) return features;
    Registers leaf7 = cpuid(7, 0);
    uint32_t kept = kept_registers();
    features.avx2 = has(leaf7.b, kAvx2) && has(kept, kKeptAvx);
    features.avx_vnni = features.avx2 && leaf7.a >= 1 && has(cpuid(7, 1).a, kAvxVnni);
    features.avx512_vnni = features.avx2 && has(leaf7.b, kAvx512) && has(leaf7.c, kAvx512Vnni) && has(kept, kKeptAvx512);
    return features;
}

#elif defined(__aarch64__) && defined(__linux__)

CpuFeatures cpu_features() {
    const unsigned long kDotprod = 1ul << 20, kI8mm = 1ul << 13;  // of AT_HWCAP and of AT_HWCAP2
    CpuFeatures features = {};
    features.neon_dotprod = getauxval(AT_HWCAP) & kDotprod;
    features.neon_i8mm = features.neon_dotprod && (getauxval(AT_HWCAP2) & kI8mm);
    return features;
}

#elif defined(__aarch64__) && defined(__APPLE__)

namespace {

bool has(const char *name) {
    int value = 0;
    size_t size = sizeof value;
    return sysctlbyname(name, &value, &size, nullptr, 0) == 0 && value;
}

}  // namespace

CpuFeatures cpu_features() {
    CpuFeatures features = {};
    features.neon_dotprod = has("hw.optional.arm.FEAT_DotProd");
    features.neon_i8mm = features.neon_dotprod && has("hw.optional.arm.FEAT_I8MM");
    return features;
}

#else

CpuFeatures cpu_features() { return {}; }

#endif

}  // namespace cls
