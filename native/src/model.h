// A model as the kernels read it: plain structures that point into the mapped weights file. Filled in by the caller of the C interface
// (cls_native.h), whose types these are.
//
// Sizes by letter, as everywhere in the project: T tokens, B texts, H hidden, A heads, D head size, F feed-forward.
//
// Every width is padded to a multiple of 64 ("width", "depth"), every head to a multiple of 16, with zeros: no kernel has a remainder.
#pragma once

#include "cls_native.h"

namespace cls {

using Activation = cls_activation;
using Product = cls_product;
using Norm = cls_norm;
using Rotation = cls_rotation;
using Embeddings = cls_embeddings;
using Layer = cls_layer;
using Head = cls_head;
using ModelSpec = cls_model_spec;

constexpr int kPanel = 64;  // columns of a panel of a packed weight
constexpr int kLanes = 16;  // numbers that every path sums in one order

}  // namespace cls
