// ARM with the int8 matrix instructions, of which the mixed dot product serves: Apple's CPUs since 2022, servers since 2021.
#if defined(__aarch64__)

#include "../vector/dot_neon_i8mm.h"
#include "table.h"

namespace cls {

constexpr Kernels kNeonI8mm = table<Neon, DotNeonI8mm>("neon_i8mm");

}  // namespace cls

#endif
