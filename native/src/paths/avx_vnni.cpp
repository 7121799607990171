// x86 with AVX2 and AVX-VNNI: Intel's client CPUs since 2021, AMD's since 2024.
#if defined(__x86_64__)

#include "../vector/dot_avx_vnni.h"
#include "table.h"

namespace cls {

constexpr Kernels kAvxVnni = table<Avx2, DotAvxVnni>("avx_vnni");

}  // namespace cls

#endif
