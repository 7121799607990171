// GOP/s of integer products (a multiplication and an addition are two operations), of each path that this CPU runs, on one thread, beside
// the peak of vpdpbusd in registers. Hot: the same weights again and again, the least of many repeats. Cold: the weights of a model one
// after another, as in a run; a quarter of the times are shorter than the one that is shown, so that other programs count little.
//
//   products [PATH [ACTIVATION]]
//
// Built with the library's objects (build_library.build_program). ACTIVATION is a number of cls_activation.
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cpu.h"
#include "kernels.h"
#include "support.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace {

constexpr int kRowCounts[] = {1, 6, 13, 26, 48, 512}, kMostRows = 512;
constexpr double kSecondsEach = 0.03;
constexpr int kMostTimes = 10000;

struct Shape {
    int depth, width;
    int64_t model_bytes;  // of weights between two uses of the same ones

    int64_t bytes() const { return int64_t{depth} * width; }
};
constexpr int64_t kSmall = 11 << 20, kBase = 85 << 20;
constexpr Shape kShapes[] = {{384, 1152, kSmall}, {384, 384, kSmall}, {384, 1536, kSmall}, {1536, 384, kSmall},
                             {768, 2304, kBase},  {768, 768, kBase},  {768, 3072, kBase},  {3072, 768, kBase}};

double now() {
    timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return double(t.tv_sec) + 1e-9 * double(t.tv_nsec);
}

#if defined(__x86_64__)
__attribute__((target("avx512f,avx512vnni"))) double seconds_of_dot_products(int turns) {
    __m512i a = _mm512_setzero_si512(), b = a, c = a, d = a, e = a, f = a, g = a, h = a, x = _mm512_set1_epi32(0x01020304);
    double start = now();
    for (int i = 0; i < turns; i++) {
        asm volatile(
            "vpdpbusd %8, %8, %0\n vpdpbusd %8, %8, %1\n vpdpbusd %8, %8, %2\n vpdpbusd %8, %8, %3\n"
            "vpdpbusd %8, %8, %4\n vpdpbusd %8, %8, %5\n vpdpbusd %8, %8, %6\n vpdpbusd %8, %8, %7\n"
            : "+v"(a), "+v"(b), "+v"(c), "+v"(d), "+v"(e), "+v"(f), "+v"(g), "+v"(h)
            : "v"(x));
    }
    return now() - start;
}

void print_peak() {
    if (!cls::cpu_features().avx512_vnni) return;
    const int kTurns = 10000;
    double least = 1;
    for (int i = 0; i < 300; i++) least = cls::least(least, seconds_of_dot_products(kTurns));
    printf("vpdpbusd in registers of 512 bits: %.0f GOP/s\n", 1e-9 * 8 * 128 * kTurns / least);
}
#else
void print_peak() {}
#endif

// `count` numbers of one value, aligned to a cache line as the weights' file is.
template <class T>
struct Filled {
    void *memory;
    T *data;

    Filled(int64_t count, T value) {
        const uintptr_t kLine = 64;
        memory = malloc(size_t(count) * sizeof(T) + kLine);
        if (!memory) {
            fprintf(stderr, "no memory for %lld numbers\n", static_cast<long long>(count));
            exit(2);
        }
        data = reinterpret_cast<T *>((reinterpret_cast<uintptr_t>(memory) + kLine - 1) / kLine * kLine);
        for (int64_t i = 0; i < count; i++) data[i] = value;
    }
    Filled(const Filled &) = delete;
    ~Filled() { free(memory); }
};

// A product of a shape, with as many weights as a model has, one copy after another.
struct Weights {
    int copies;
    Filled<int8_t> integers;
    Filled<float> scales, bias;
    Filled<int32_t> sums;
    cls::Product product = {};

    explicit Weights(const Shape &shape)
        : copies(int(shape.model_bytes / shape.bytes() + 1)),
          integers(shape.bytes() * copies, 3),
          scales(shape.width, 1e-3f),
          bias(shape.width, 1e-2f),
          sums(shape.width, 3 * shape.depth) {
        product.depth = shape.depth, product.width = shape.width;
        product.scales = scales.data, product.bias = bias.data, product.sums = sums.data;
    }
    void use(int copy) { product.integers = integers.data + int64_t{copy} * product.depth * product.width; }
};

int shorter(const void *a, const void *b) {
    double x = *static_cast<const double *>(a), y = *static_cast<const double *>(b);
    return x < y ? -1 : x > y;
}

// Seconds of one product of `rows` rows.
double seconds(const cls::Kernels &kernels, Weights &weights, int rows, bool cold, cls::Activation activation, const uint8_t *q,
               const cls::RowScale *scales, float *y) {
    static double times[kMostTimes];
    cls::Epilogue epilogue;
    epilogue.activation = activation;
    double operations = 2.0 * rows * weights.product.depth * weights.product.width;
    int together = cold ? 1 : int(1 + 1e7 / operations), count = 0;
    for (double begin = now(); count < 3 || (count < kMostTimes && now() - begin < kSecondsEach); count++) {
        weights.use(cold ? count % weights.copies : 0);
        double start = now();
        for (int i = 0; i < together; i++) kernels.integer_product(q, scales, rows, weights.product, epilogue, y, weights.product.width);
        times[count] = (now() - start) / together;
    }
    qsort(times, size_t(count), sizeof *times, shorter);
    return times[cold ? count / 4 : 0];
}

void print_path(const cls::Kernels &kernels, cls::Activation activation) {
    printf("%s, hot and cold, rows", kernels.name);
    for (int rows : kRowCounts) printf(" |%9d", rows);
    printf("\n");
    for (const Shape &shape : kShapes) {
        Weights weights(shape);
        Filled<uint8_t> q(int64_t{kMostRows} * shape.depth, 200);
        Filled<cls::RowScale> scales(kMostRows, {1e-3f, 100});
        Filled<float> y(int64_t{kMostRows} * shape.width, 0.0f);
        printf("%4d -> %4d", shape.depth, shape.width);
        for (int rows : kRowCounts) {
            double operations = 2e-9 * rows * shape.depth * shape.width;
            double hot = seconds(kernels, weights, rows, false, activation, q.data, scales.data, y.data);
            double cold = seconds(kernels, weights, rows, true, activation, q.data, scales.data, y.data);
            printf(" | %3.0f  %3.0f", operations / hot, operations / cold);
        }
        printf("\n");
        fflush(stdout);
    }
}

}  // namespace

int main(int count, char **arguments) {
    print_peak();
    cls::KernelList usable = cls::usable_kernels();
    for (int i = 0; i < usable.count; i++) {
        if (count < 2 || strcmp(arguments[1], usable.all[i]->name) == 0) {
            print_path(*usable.all[i], count < 3 ? CLS_IDENTITY : cls::Activation(atoi(arguments[2])));
        }
    }
    return 0;
}
