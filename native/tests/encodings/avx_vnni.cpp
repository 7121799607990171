// The AVX-VNNI path's dot products in AVX512VL's encoding of the same instruction, against the portable path, bit for bit: for CPUs that
// have AVX512-VNNI and no AVX-VNNI. Compiled with CLS_VNNI_BY_AVX512VL and AVX512-VNNI's flags, linked with the library's objects.
//
// Exits with 77 where the CPU has not what it needs.
#define CLS_VNNI_BY_AVX512VL

#include "cpu.h"
#include "kernel_cases.h"
#include "paths/table.h"
#include "vector/dot_avx_vnni.h"

int main() {
    if (!cls::cpu_features().avx512_vnni) {
        printf("this CPU has no AVX512-VNNI\n");
        return 77;
    }
    const cls::Kernels tested = cls::table<cls::Avx2, cls::DotAvxVnni>("avx_vnni by AVX512VL");
    test::Digest digest;
    test::Paths paths = {};
    paths.digest = &digest;
    paths.all[paths.count++] = &cls::kPortable;
    paths.all[paths.count++] = &tested;
    const int kCases = 2000;
    for (int number = 0; number < kCases; number++) {
        test::Random random = {uint64_t(number)};
        if (!test::integer_product_case(paths, random)) {
            printf("that was case %d\n", number);
            return 1;
        }
    }
    printf("%d cases, all the same\n", kCases);
    return 0;
}
