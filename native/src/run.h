// Computes a batch: the phases of a run, over the kernels of one path.
#pragma once

#include "arena.h"
#include "checks.h"
#include "kernels.h"
#include "team.h"

// The type of the C interface; what is in it is nobody's but this library's.
struct cls_model {
    cls_model_spec spec;
    const cls::Kernels *kernels;
    cls::Team team;
    cls::Arena *arenas;  // [threads]: by the number of a run
};

namespace cls {

// `batch` fits, and `crew` is inside. CLS_OK or CLS_NO_MEMORY.
int run(const cls_model &model, Crew &crew, const Batch &batch, cls_output output, float *out);

}  // namespace cls
