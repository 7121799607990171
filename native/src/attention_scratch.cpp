// How much working memory the attention of a text takes: the same for every path, the larger of what kernels/attention.h and
// kernels/row_attention.h lay out.
#include "kernels.h"
#include "support.h"

namespace cls {

int64_t attention_scratch(int tokens, int heads, int head_stride, int hidden_stride) {
    const int64_t kRows = 16;  // at least kHighestTile of kernels/tile.h
    const int64_t scores = rounded_up(tokens, kPanel) + kLanes;
    int64_t all_rows = 2 * rounded_up(tokens, kPanel) * head_stride + kRows * scores;
    int64_t one_row = heads * (2 * static_cast<int64_t>(hidden_stride) + scores + 1);
    return rounded_up(static_cast<int64_t>(sizeof(float)) * greatest(all_rows, one_row), kPanel);
}

}  // namespace cls
