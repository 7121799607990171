// The errors of kernels/functions.h against long double arithmetic, over a dense grid of float32's whole range, and what holds exactly:
//
//   c++ -std=c++17 -O2 -ffp-contract=off -I native/src native/tests/functions.cpp -o functions -lm && ./functions
//
// Prints the largest errors and exits with 1 where one is larger than kernels/functions.h says.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/functions.h"
#include "vector/portable.h"

namespace {

using cls::Portable;

int failures = 0;

void check(bool holds, const char *what, double found) {
    if (holds) return;
    printf("does not hold: %s (%g)\n", what, found);
    failures++;
}

float value_of(cls::Activation activation, float x) {
    return cls::activated<Portable>(activation, Portable::set(x)).of[0];
}
float exp_of(float x) { return cls::exp<Portable>(Portable::set(x)).of[0]; }

long double normal(long double x) { return erfcl(-x / sqrtl(2)) / 2; }
long double logistic(long double x) { return 1 / (1 + expl(-x)); }

long double exact(cls::Activation activation, long double x) {
    switch (activation) {
        case CLS_GELU:
        case CLS_GELU_COARSE: return x * normal(x);
        case CLS_GELU_TANH: return x * logistic(2 * sqrtl(2 / acosl(-1)) * (x + 0.044715L * x * x * x));
        case CLS_RELU: return x > 0 ? x : 0;
        case CLS_SILU: return x * logistic(x);
        case CLS_TANH: return tanhl(x);
        case CLS_SIGMOID: return logistic(x);
        default: return x;
    }
}

uint32_t step = 9973;

// Every `step`th float32 from 0 up, of both signs.
template <class Each>
void for_floats(const Each &each) {
    for (uint32_t bits = 0; bits < 0x7F800000u; bits += step) {
        float x;
        memcpy(&x, &bits, sizeof x);
        each(x);
        each(-x);
    }
}

// As kernels/functions.h says: absolute, and where `x` is larger than 1, relative to it.
void check_activation(cls::Activation activation, const char *name, double allowed) {
    double worst = 0;
    float at = 0;
    for_floats([&](float x) {
        double error = double(fabsl(value_of(activation, x) - exact(activation, x))) / fmax(1.0, fabs(double(x)));
        if (error > worst) worst = error, at = x;
    });
    printf("%s: error %.3g at %.9g\n", name, worst, double(at));
    check(worst <= allowed, name, worst);
    check(value_of(activation, NAN) != value_of(activation, NAN), name, NAN);
}

void check_exp() {
    double worst = 0, beyond = 0;
    for_floats([&](float x) {
        float found = exp_of(x);
        if (x < -87.33f) {
            check(found == 0, "exp is 0 below -87.33", double(x));
        } else if (x <= 88.37f) {
            double error = double(fabsl(found / expl(x) - 1));
            worst = fmax(worst, fabs(double(x)) <= 1 ? error : 0);
            beyond = fmax(beyond, error - 1e-7 - 1.5e-8 * fabs(double(x)));
        } else {
            check(found == exp_of(88.37f), "exp stays as at 88.37", double(x));
        }
    });
    printf("exp: relative error %.3g for |x| <= 1; above 1e-7 + 1.5e-8 |x| by %.3g\n", worst, beyond);
    check(beyond <= 0, "exp", beyond);
    check(exp_of(0.0f) == 1, "exp(0) is 1", double(exp_of(0.0f)));
    check(exp_of(-INFINITY) == 0, "exp(-inf) is 0", double(exp_of(-INFINITY)));
    check(exp_of(NAN) != exp_of(NAN), "exp keeps what is not a number", 0);
}

void check_gelu_coarse() {
    for_floats([](float x) {
        float found = value_of(CLS_GELU_COARSE, x);
        if (fabsf(x) >= 6.2f) check(found == (x > 0 ? x : 0), "gelu_coarse is x or 0 from 6.2 on", double(x));
    });
    check(value_of(CLS_GELU_COARSE, 0.0f) == 0, "gelu_coarse(0) is 0", 0);
}

// Near zero relative as well: what a pooler adds up is small.
void check_tanh() {
    double worst = 0;
    for_floats([&](float x) {
        if (fabsf(x) > 1e-30f && fabsf(x) < 20) worst = fmax(worst, double(fabsl(value_of(CLS_TANH, x) / tanhl(x) - 1)));
    });
    printf("tanh: relative error %.3g\n", worst);
    check(worst <= 2e-7, "tanh, relative", worst);
}

}  // namespace

int main(int count, char **arguments) {
    if (count > 1) step = uint32_t(strtoul(arguments[1], nullptr, 10));
    check_exp();
    check_activation(CLS_IDENTITY, "identity", 0);
    check_activation(CLS_GELU, "gelu", 1e-7);
    check_activation(CLS_GELU_COARSE, "gelu_coarse", 1.6e-6);
    check_activation(CLS_GELU_TANH, "gelu_tanh", 1e-7);
    check_activation(CLS_RELU, "relu", 0);
    check_activation(CLS_SILU, "silu", 1e-7);
    check_activation(CLS_TANH, "tanh", 1e-7);
    check_activation(CLS_SIGMOID, "sigmoid", 1e-7);
    check_gelu_coarse();
    check_tanh();
    return failures ? 1 : 0;
}
