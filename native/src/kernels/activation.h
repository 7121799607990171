// Activations of whole rows, alone and as gates.
#pragma once

#include "../kernels.h"
#include "../support.h"
#include "functions.h"

namespace cls {
namespace {

template <class V>
struct Activate {
    float *x;
    int64_t stride;
    int rows, width;

    template <Activation kActivation>
    void run() const {
        for (int row = 0; row < rows; ++row) {
            float *numbers = x + row * stride;
            for (int i = 0; i < width; i += kLanes) V::store(numbers + i, activated<V, kActivation>(V::load(numbers + i)));
        }
    }
};

template <class V>
void activate(float *x, int64_t stride, int rows, int width, Activation activation) {
    if (activation != CLS_IDENTITY) with_activation(activation, Activate<V>{x, stride, rows, width});
}

template <class V>
struct Gate {
    const float *x;
    int64_t x_stride;
    int rows, width;
    float *y;
    int64_t y_stride;

    template <Activation kActivation>
    void run() const {
        for (int row = 0; row < rows; ++row) {
            const float *gates = x + row * x_stride, *numbers = gates + width;
            float *gated = y + row * y_stride;
            for (int i = 0; i < width; i += kLanes) {
                V::store(gated + i, V::mul(activated<V, kActivation>(V::load(gates + i)), V::load(numbers + i)));
            }
        }
    }
};

template <class V>
void gate(const float *x, int64_t x_stride, int rows, int width, Activation activation, float *y, int64_t y_stride) {
    with_activation(activation, Gate<V>{x, x_stride, rows, width, y, y_stride});
}

}  // namespace
}  // namespace cls
