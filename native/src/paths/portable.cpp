// Plain C++ for every CPU: the reference.
#include "../vector/dot_portable.h"
#include "table.h"

namespace cls {

constexpr Kernels kPortable = table<Portable, DotPortable>("portable");

}  // namespace cls
