// What this CPU and its system run.
#pragma once

namespace cls {

struct CpuFeatures {
    bool avx2;         // with FMA and F16C
    bool avx_vnni;     // beyond avx2
    bool avx512_vnni;  // F, BW, DQ, VL and VNNI, beyond avx2
    bool neon_dotprod;
    bool neon_i8mm;    // beyond neon_dotprod
};

CpuFeatures cpu_features();

}  // namespace cls
