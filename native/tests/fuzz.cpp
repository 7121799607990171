// Random shapes, lengths and values through every kernel of every path that this CPU runs, against the portable path, bit for bit:
//
//   fuzz [COUNT [SECONDS [FIRST [STEP]]]]
//
// Case number FIRST, FIRST + STEP, ... until COUNT are done or SECONDS have passed. A case is what its number makes it, so that one that
// fails can be run alone: fuzz 1 60 NUMBER. Meant for builds with the address and undefined sanitizers. The digest at the end is the same
// on every machine that has done the same cases.
#include <time.h>

#include "kernel_cases.h"

namespace {

using namespace test;

bool (*const operations[])(const Paths &, Random &) = {
    quantize_case, integer_product_case, float_product_case, norm_case,   gate_case,       activate_case,
    rotate_case,   embed_case,           mean_case,          attend_case, attend_row_case,
};
constexpr int kOperations = sizeof operations / sizeof *operations;

Paths paths_of_this_cpu(Digest &digest) {
    Paths paths = {};
    paths.digest = &digest;
    const KernelList usable = usable_kernels();
    for (int i = usable.count - 1; i >= 0; i--) {  // the portable one is the last
        paths.all[paths.count++] = usable.all[i];
    }
    return paths;
}

int64_t argument(int count, char **arguments, int index, int64_t otherwise) {
    return index < count ? strtoll(arguments[index], nullptr, 10) : otherwise;
}

}  // namespace

int main(int count, char **arguments) {
    const int64_t cases = argument(count, arguments, 1, 1000), seconds = argument(count, arguments, 2, 3600);
    const int64_t first = argument(count, arguments, 3, 0), step = argument(count, arguments, 4, 1);
    Digest digest;
    const Paths paths = paths_of_this_cpu(digest);
    if (*differing_kernels()) {
        printf("%s", differing_kernels());
        return 1;
    }
    const time_t start = time(nullptr);
    int64_t done = 0;
    for (; done < cases && time(nullptr) - start < seconds; done++) {
        const int64_t number = first + done * step;
        Random random = {uint64_t(number) * 0xD1342543DE82EF95u + 1};
        if (!operations[random.between(0, kOperations - 1)](paths, random)) {
            printf("that was case %lld\n", (long long)number);
            return 1;
        }
    }
    printf("%lld cases in %lld seconds, digest %016llx, all the same on:", (long long)done, (long long)(time(nullptr) - start),
           (unsigned long long)digest.state);
    for (int path = 0; path < paths.count; path++) {
        printf(" %s", paths.all[path]->name);
    }
    printf("\n");
    return 0;
}
