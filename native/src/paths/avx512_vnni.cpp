// x86 with AVX512 (F, BW, DQ, VL) and its VNNI: Intel's servers since 2019, AMD's CPUs since 2022.
#if defined(__x86_64__)

#include "../vector/dot_avx512_vnni.h"
#include "table.h"

namespace cls {

constexpr Kernels kAvx512Vnni = table<Avx512, DotAvx512Vnni>("avx512_vnni");

}  // namespace cls

#endif
