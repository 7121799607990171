// exp and the activations, as templates over the vector type. Every path and cls_runtime/engines/native/reference.py compute these formulas
// in this order; the polynomials come from native/fit_functions.py, which also says what each is near to.
//
// Errors against exact arithmetic, over all of float32's range, absolute up to |x| = 1 and relative to |x| from there on
// (native/tests/functions.cpp holds them):
//   exp                      relative 1e-7 + 1.5e-8 |x|; 0 below -87.33; above 88.37 as at 88.37
//   gelu, gelu_tanh, silu    1e-7
//   gelu_coarse              1.6e-6; exactly x or 0 from |x| = 6.2 on
//   tanh, sigmoid            1e-7, and of tanh also 2e-7 relative to it
// What is not a number stays so; of infinities gelu_coarse is not a number.
#pragma once

#include "../model.h"
#include "../support.h"

namespace cls {
namespace {

// 2^r = 1 + r P(r) for |r| <= 1/2, to 1.6e-8 relative.
constexpr float kTwoTo[] = {0.00015353362f, 0.0013398875f, 0.009618437f, 0.055503324f, 0.24022648f, 0.6931472f};
// log2(Phi(-t)) = P(t), so that t * Phi(-t) is right to 8.9e-9.
constexpr float kTail[] = {-1.7058085e-06f, 2.5302184e-05f, -0.00011573169f, -0.00031945392f, 0.0073265727f,
                           -0.05270731f,    -0.4591193f,    -1.1511222f,     -0.999999f};
// Phi(-t) = max(P(-t), 0)^8, so that t * Phi(-t) is right to 1.4e-6.
constexpr float kCoarse[] = {0.00019095698f, 0.0019397362f, 0.0011084094f, -0.031721335f, 0.091491126f, 0.91700345f};
// tanh(x) = x + x^3 P(x^2) for |x| <= 1/2, to 4.1e-9 relative.
constexpr float kTanh[] = {-0.0066535734f, 0.021301704f, -0.05389997f, 0.1333297f, -0.33333328f};

constexpr float kLog2OfE = 1.442695f;
constexpr float kSmallestExponent = -87.33f;  // the results below would not be normal
constexpr float kLargestExponent = 88.37f;
constexpr float kCap = 14.0f;  // Phi(-14) is 0 in float32

// Horner's rule, the highest power first.
template <class V, int kTerms>
CLS_INLINE typename V::F polynomial(typename V::F x, const float (&coefficients)[kTerms]) {
    typename V::F y = V::set(coefficients[0]);
    for (int i = 1; i < kTerms; ++i) y = V::fma(y, x, V::set(coefficients[i]));
    return y;
}

// 2^whole * 2^rest, |rest| <= 1/2.
template <class V>
CLS_INLINE typename V::F two_to(typename V::F whole, typename V::F rest) {
    return V::scale_by_power(V::fma(rest, polynomial<V>(rest, kTwoTo), V::set(1.0f)), whole);
}

template <class V>
CLS_INLINE typename V::F exp(typename V::F x) {
    typename V::F log2_of_e = V::set(kLog2OfE);
    typename V::F bounded = V::min(V::set(kLargestExponent), x);
    typename V::F whole = V::round(V::mul(bounded, log2_of_e));
    typename V::F rest = V::fms(bounded, log2_of_e, whole);
    return V::select(V::less(x, V::set(kSmallestExponent)), V::zero(), two_to<V>(whole, rest));
}

// exp(-|x|)
template <class V>
CLS_INLINE typename V::F exp_of_minus(typename V::F x) {
    return exp<V>(V::copy_sign(x, V::set(-0.0f)));
}

template <class V>
CLS_INLINE typename V::F relu(typename V::F x) {
    return V::max(V::zero(), x);
}

// x Phi(x) = max(x, 0) - |x| Phi(-|x|), with Phi(-t) = 2^P(t).
template <class V>
CLS_INLINE typename V::F gelu(typename V::F x) {
    typename V::F t = V::min(V::set(kCap), V::abs(x));
    typename V::F power = polynomial<V>(t, kTail);
    typename V::F whole = V::round(power);
    typename V::F phi = two_to<V>(whole, V::sub(power, whole));
    phi = V::select(V::less(power, V::set(-126.0f)), V::zero(), phi);
    return V::fnma(t, phi, relu<V>(x));
}

// The same with Phi(-t) = P(-t)^8.
template <class V>
CLS_INLINE typename V::F gelu_coarse(typename V::F x) {
    typename V::F minus_t = V::copy_sign(x, V::set(-0.0f));
    typename V::F root = V::max(polynomial<V>(minus_t, kCoarse), V::zero());
    typename V::F square = V::mul(root, root);
    typename V::F fourth = V::mul(square, square);
    return V::fma(minus_t, V::mul(fourth, fourth), relu<V>(x));
}

// x sigmoid(u(x)) for an odd u of the sign of x is max(x, 0) - |x| e / (1 + e), e = exp(-|u|).
template <class V>
CLS_INLINE typename V::F gated_by(typename V::F x, typename V::F t, typename V::F e) {
    typename V::F share = V::div(e, V::add(V::set(1.0f), e));
    return V::fnma(t, share, relu<V>(x));
}

// u = 2 sqrt(2 / pi) (x + 0.044715 x^3)
template <class V>
CLS_INLINE typename V::F gelu_tanh(typename V::F x) {
    typename V::F t = V::min(V::set(kCap), V::abs(x));
    typename V::F slope = V::fma(V::mul(t, t), V::set(0.071354814f), V::set(1.5957692f));
    return gated_by<V>(x, t, exp_of_minus<V>(V::mul(t, slope)));
}

template <class V>
CLS_INLINE typename V::F silu(typename V::F x) {
    typename V::F t = V::min(V::set(-kSmallestExponent), V::abs(x));
    return gated_by<V>(x, t, exp_of_minus<V>(t));
}

template <class V>
CLS_INLINE typename V::F sigmoid(typename V::F x) {
    typename V::F e = exp_of_minus<V>(x);
    typename V::F above = V::select(V::less(x, V::zero()), e, V::set(1.0f));
    return V::div(above, V::add(V::set(1.0f), e));
}

// (1 - e) / (1 + e), e = exp(-2 |x|); near zero by a polynomial, where 1 - e would lose what counts.
template <class V>
CLS_INLINE typename V::F tanh(typename V::F x) {
    typename V::F e = exp_of_minus<V>(V::add(x, x));
    typename V::F far = V::div(V::sub(V::set(1.0f), e), V::add(V::set(1.0f), e));
    typename V::F square = V::mul(x, x);
    typename V::F near = V::fma(V::mul(x, square), polynomial<V>(square, kTanh), x);
    return V::select(V::less(V::abs(x), V::set(0.5f)), near, V::copy_sign(far, x));
}

// For an activation that is known when the kernel runs; where it is a constant, only its formula is compiled.
template <class V>
CLS_INLINE typename V::F activated(Activation activation, typename V::F x) {
    switch (activation) {
        case CLS_GELU: return gelu<V>(x);
        case CLS_GELU_COARSE: return gelu_coarse<V>(x);
        case CLS_GELU_TANH: return gelu_tanh<V>(x);
        case CLS_RELU: return relu<V>(x);
        case CLS_SILU: return silu<V>(x);
        case CLS_TANH: return tanh<V>(x);
        case CLS_SIGMOID: return sigmoid<V>(x);
        default: return x;
    }
}

template <class V, Activation kActivation>
CLS_INLINE typename V::F activated(typename V::F x) {
    return activated<V>(kActivation, x);
}

// Calls `work.template run<activation>()`: for kernels that are compiled once for each activation.
template <class Work>
CLS_INLINE void with_activation(Activation activation, const Work &work) {
    switch (activation) {
        case CLS_GELU: return work.template run<CLS_GELU>();
        case CLS_GELU_COARSE: return work.template run<CLS_GELU_COARSE>();
        case CLS_GELU_TANH: return work.template run<CLS_GELU_TANH>();
        case CLS_RELU: return work.template run<CLS_RELU>();
        case CLS_SILU: return work.template run<CLS_SILU>();
        case CLS_TANH: return work.template run<CLS_TANH>();
        case CLS_SIGMOID: return work.template run<CLS_SIGMOID>();
        default: return work.template run<CLS_IDENTITY>();
    }
}

}  // namespace
}  // namespace cls
