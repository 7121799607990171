// Whether two paths compute the same bits, by running every kernel on small inputs of its own: part of the library, done once at load.
#pragma once

#include "kernels.h"

namespace cls {

// For each of `count` tables: what differs from `reference`, "norm differs" for the first function that gives other bits or writes
// elsewhere; null where nothing does. One that cannot be checked for want of memory counts as different.
void find_differences(const Kernels &reference, const Kernels *const *tested, int count, const char **differences);

// The same for one.
const char *difference(const Kernels &tested, const Kernels &reference);

}  // namespace cls
