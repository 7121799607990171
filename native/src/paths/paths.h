// The tables of all paths. Each is in a file of its own, compiled for its own instructions; of another architecture it is not there.
#pragma once

#include "../kernels.h"

namespace cls {

extern const Kernels kPortable;
#if defined(__x86_64__)
extern const Kernels kAvx2, kAvxVnni, kAvx512Vnni;
#elif defined(__aarch64__)
extern const Kernels kNeonDotprod, kNeonI8mm;
#endif

}  // namespace cls
