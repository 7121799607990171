// A path's table: every kernel, compiled for a vector type and a way to multiply bytes. Included by the path's own file alone.
#pragma once

#include "../kernels/activation.h"
#include "../kernels/attention.h"
#include "../kernels/embedding.h"
#include "../kernels/float_product.h"
#include "../kernels/integer_product.h"
#include "../kernels/normalization.h"
#include "../kernels/pooling.h"
#include "../kernels/quantization.h"
#include "../kernels/rotation.h"
#include "../kernels/row_attention.h"
#include "paths.h"

namespace cls {
namespace {

template <class V, class Dot>
constexpr Kernels table(const char *name) {
    Kernels kernels = {};
    kernels.name = name;
    kernels.quantize = quantize<V>;
    kernels.integer_product = integer_product<V, Dot>;
    kernels.float_product = float_product<V>;
    kernels.norm = norm<V>;
    kernels.gate = gate<V>;
    kernels.rotate = rotate<V>;
    kernels.embed = embed<V>;
    kernels.attend = attend<V>;
    kernels.attend_row = attend_row<V>;
    kernels.mean = mean<V>;
    kernels.activate = activate<V>;
    return kernels;
}

}  // namespace
}  // namespace cls
