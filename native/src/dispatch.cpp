// Which paths this build has, which of them this CPU runs, and which agree with the portable one: found once.
#include <string.h>

#include "check.h"
#include "cpu.h"
#include "float_mode.h"
#include "kernels.h"
#include "paths/paths.h"
#include "system.h"

namespace cls {
namespace {

// Best first.
constexpr const Kernels *const kAll[] = {
#if defined(__x86_64__)
    &kAvx512Vnni, &kAvxVnni, &kAvx2,
#elif defined(__aarch64__)
    &kNeonI8mm, &kNeonDotprod,
#endif
    &kPortable,
};
// Of each but the last, the portable one, which every CPU runs.
constexpr bool CpuFeatures::*kNeeds[] = {
#if defined(__x86_64__)
    &CpuFeatures::avx512_vnni, &CpuFeatures::avx_vnni, &CpuFeatures::avx2,
#elif defined(__aarch64__)
    &CpuFeatures::neon_i8mm, &CpuFeatures::neon_dotprod,
#endif
    nullptr,
};
constexpr int kCount = sizeof kAll / sizeof *kAll;

// Filled in once, then only read.
struct Chosen {
    const Kernels *usable[kCount];
    int count;
    char differing[64 * kCount];
};
Chosen chosen;

// "avx2: integer_product differs"
void append_line(char *text, const char *path, const char *what) {
    const char *const parts[] = {path, ": ", what, "\n"};
    for (const char *part : parts) strncat(text, part, sizeof chosen.differing - strlen(text) - 1);
}

void choose() {
    FloatMode mode;
    const CpuFeatures features = cpu_features();
    const Kernels *runs[kCount];
    int count = 0;
    for (int i = 0; i < kCount - 1; ++i) {
        if (features.*kNeeds[i]) runs[count++] = kAll[i];
    }
    const char *differences[kCount];
    find_differences(kPortable, runs, count, differences);
    for (int i = 0; i < count; ++i) {
        if (differences[i]) {
            append_line(chosen.differing, runs[i]->name, differences[i]);
        } else {
            chosen.usable[chosen.count++] = runs[i];
        }
    }
    chosen.usable[chosen.count++] = &kPortable;
}

#ifdef _WIN32

BOOL CALLBACK choose_in_windows(INIT_ONCE *, void *, void **) {
    choose();
    return TRUE;
}

const Chosen &choice() {
    static INIT_ONCE once = INIT_ONCE_STATIC_INIT;
    InitOnceExecuteOnce(&once, choose_in_windows, nullptr, nullptr);
    return chosen;
}

#else

const Chosen &choice() {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, choose);
    return chosen;
}

#endif

}  // namespace

KernelList all_kernels() { return {kAll, kCount}; }

KernelList usable_kernels() { return {choice().usable, choice().count}; }

const char *differing_kernels() { return choice().differing; }

const Kernels *kernels_named(const char *name) {
    const Chosen &found = choice();
    if (!name) return found.usable[0];
    for (int i = 0; i < found.count; ++i) {
        if (!strcmp(found.usable[i]->name, name)) return found.usable[i];
    }
    return nullptr;
}

}  // namespace cls
