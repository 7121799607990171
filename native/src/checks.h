// What comes with each run, checked before anything is computed: whatever a batch holds, no run reads or writes out of bounds.
#pragma once

#include "model.h"

namespace cls {

using Batch = cls_batch;

// True where the model has the output and can compute it of this batch.
bool fits(const ModelSpec &spec, const Batch &batch, int output);

// The rows of the position table for one text's tokens; see cls_embeddings. `positions` may be null to have them checked only.
// False where the table has not enough rows.
bool place_tokens(const Embeddings &embeddings, const int32_t *ids, int length, int32_t *positions);

// The row that stands for a text where one row is needed.
int row_of(const Batch &batch, cls_output output, int64_t text);

}  // namespace cls
