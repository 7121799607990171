// The check at load: it finds every kind of broken kernel, finds nothing in the paths that this CPU runs, and takes under 5 ms.
// Built with the library's objects (build_library.build_program):
//
//   paths [--time]
//
// prints the paths, with the time the check took; with --time exits with 1 also where that is too long.
#include <stdio.h>
#include <string.h>

#include "check.h"
#include "kernels.h"
#include "system.h"

namespace {

using namespace cls;

int failures = 0;

void check(bool holds, const char *what, const char *found) {
    if (holds) return;
    printf("does not hold: %s, found %s\n", what, found ? found : "nothing");
    failures++;
}

const Kernels &portable() {
    const KernelList all = all_kernels();
    return *all.all[all.count - 1];
}

// Kernels that do what the portable ones do, and one thing wrong.

void quantize(const float *x, int64_t stride, int rows, int depth, const float *smoothing, uint8_t *q, RowScale *scales) {
    portable().quantize(x, stride, rows, depth, smoothing, q, scales);
    if (smoothing) q[depth - 1] ^= 1;
}

// As an instruction that saturates: sums of two products beyond 32767 are cut.
void saturating_product(const uint8_t *q, const RowScale *scales, int rows, const Product &product, const Epilogue &epilogue, float *y,
                        int64_t y_stride) {
    static int8_t integers[192 * 128];
    Product cut = product;
    memcpy(integers, product.integers, size_t(product.depth) * size_t(product.width));
    for (int8_t &weight : integers) weight = weight == 127 ? 64 : weight;
    cut.integers = integers;
    portable().integer_product(q, scales, rows, cut, epilogue, y, y_stride);
}

void float_product_without_residual(const float *x, int64_t x_stride, int rows, const Product &product, const Epilogue &epilogue, float *y,
                                    int64_t y_stride) {
    Epilogue less = epilogue;
    less.residual = rows == 3 ? nullptr : epilogue.residual;
    portable().float_product(x, x_stride, rows, product, less, y, y_stride);
}

void norm_of_padding(const float *x, int64_t x_stride, int rows, const Norm &norm, int width, float *y, int64_t y_stride) {
    Norm whole = norm;
    whole.size = norm.size == 50 ? 51 : norm.size;
    portable().norm(x, x_stride, rows, whole, width, y, y_stride);
}

void gate_too_far(const float *x, int64_t x_stride, int rows, int width, Activation activation, float *y, int64_t y_stride) {
    portable().gate(x, x_stride, rows, width, activation, y, y_stride);
    y[width] = 0;
}

void rotate_without_remainder(float *x, int64_t stride, int rows, int first, int heads, int head_stride, const Rotation &rotation) {
    if (rotation.half % 16 != 15) portable().rotate(x, stride, rows, first, heads, head_stride, rotation);
}

void embed_without_types(const Embeddings &embeddings, const int32_t *ids, const int32_t *, const int32_t *positions, int rows, float *y,
                         int64_t y_stride) {
    portable().embed(embeddings, ids, nullptr, positions, rows, y, y_stride);
}

void attend_without_window(const TextAttention &text, void *scratch) {
    TextAttention all = text;
    all.window = 0;
    portable().attend(all, scratch);
}

void attend_row_without_distances(const RowAttention &text, void *scratch) {
    RowAttention none = text;
    none.distances = nullptr;
    portable().attend_row(none, scratch);
}

void mean_of_nothing(const float *x, int64_t stride, int begin, int end, int width, float *y) {
    if (end > begin) portable().mean(x, stride, begin, end, width, y);
}

void activate_silu_for_sigmoid(float *x, int64_t stride, int rows, int width, Activation activation) {
    portable().activate(x, stride, rows, width, activation == CLS_SIGMOID ? CLS_SILU : activation);
}

void check_broken(const char *name, const Kernels &broken) {
    const char *found = difference(broken, portable());
    check(found && !strncmp(found, name, strlen(name)) && !strcmp(found + strlen(name), " differs"), name, found);
}

void check_every_broken_kernel() {
    const Kernels good = portable();
    check(difference(good, portable()) == nullptr, "the portable path equals itself", difference(good, portable()));
    Kernels broken = good;
    broken.quantize = quantize, check_broken("quantize", broken), broken = good;
    broken.integer_product = saturating_product, check_broken("integer_product", broken), broken = good;
    broken.float_product = float_product_without_residual, check_broken("float_product", broken), broken = good;
    broken.norm = norm_of_padding, check_broken("norm", broken), broken = good;
    broken.gate = gate_too_far, check_broken("gate", broken), broken = good;
    broken.rotate = rotate_without_remainder, check_broken("rotate", broken), broken = good;
    broken.embed = embed_without_types, check_broken("embed", broken), broken = good;
    broken.attend = attend_without_window, check_broken("attend", broken), broken = good;
    broken.attend_row = attend_row_without_distances, check_broken("attend_row", broken), broken = good;
    broken.mean = mean_of_nothing, check_broken("mean", broken), broken = good;
    broken.activate = activate_silu_for_sigmoid, check_broken("activate", broken);
}

// The shortest of several times of the check of all paths that this CPU runs.
double check_ms() {
    const KernelList usable = usable_kernels();
    const char *differences[8];
    int64_t shortest = INT64_MAX;
    for (int i = 0; i < 20; ++i) {
        const int64_t start = nanoseconds();
        find_differences(portable(), usable.all, usable.count - 1, differences);
        const int64_t took = nanoseconds() - start;
        shortest = took < shortest ? took : shortest;
    }
    return double(shortest) * 1e-6;
}

void check_names() {
    const KernelList all = all_kernels(), usable = usable_kernels();
    check(!strcmp(all.all[all.count - 1]->name, "portable"), "the last path is portable", all.all[all.count - 1]->name);
    check(kernels_named(nullptr) == usable.all[0], "the best path is the default", kernels_named(nullptr)->name);
    check(kernels_named("none of this name") == nullptr, "an unknown name gives nothing", "one");
    for (int i = 0; i < usable.count; ++i) check(kernels_named(usable.all[i]->name) == usable.all[i], "found by name", usable.all[i]->name);
}

}  // namespace

int main(int count, char **arguments) {
    check(!*differing_kernels(), "no path differs", differing_kernels());
    check_every_broken_kernel();
    check_names();
    const double took_ms = check_ms();
    for (int i = 0; i < usable_kernels().count; ++i) printf("%s ", usable_kernels().all[i]->name);
    printf("checked in %.2f ms\n", took_ms);
    if (count > 1 && !strcmp(arguments[1], "--time")) check(took_ms < 5, "the check takes under 5 ms", "more");
    return failures ? 1 : 0;
}
