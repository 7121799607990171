// x86 with AVX2, FMA and F16C: nearly every CPU since 2013 (Intel) and 2015 (AMD).
#if defined(__x86_64__)

#include "../vector/dot_avx2.h"
#include "table.h"

namespace cls {

constexpr Kernels kAvx2 = table<Avx2, DotAvx2>("avx2");

}  // namespace cls

#endif
