// ARM with the dot product instructions: Apple's CPUs since 2020, servers since 2019.
#if defined(__aarch64__)

#include "../vector/dot_neon_dotprod.h"
#include "table.h"

namespace cls {

constexpr Kernels kNeonDotprod = table<Neon, DotNeonDotprod>("neon_dotprod");

}  // namespace cls

#endif
