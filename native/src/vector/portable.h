// 16 numbers as a plain array: the reference that every other type equals, and what a CPU without the others runs.
#pragma once

#include <string.h>

#include "../support.h"

namespace cls {
namespace {

struct Portable {
    struct F {
        float of[16];
    };
    struct I {
        int32_t of[16];
    };
    struct M {
        bool of[16];
    };

    CLS_INLINE F load(const float *p) {
        F f;
        memcpy(f.of, p, sizeof f.of);
        return f;
    }
    CLS_INLINE void store(float *p, F f) { memcpy(p, f.of, sizeof f.of); }
    CLS_INLINE F set(float x) {
        return each([&](int) { return x; });
    }
    CLS_INLINE F zero() { return set(0.0f); }

    CLS_INLINE F add(F a, F b) {
        return each([&](int i) { return a.of[i] + b.of[i]; });
    }
    CLS_INLINE F sub(F a, F b) {
        return each([&](int i) { return a.of[i] - b.of[i]; });
    }
    CLS_INLINE F mul(F a, F b) {
        return each([&](int i) { return a.of[i] * b.of[i]; });
    }
    CLS_INLINE F div(F a, F b) {
        return each([&](int i) { return a.of[i] / b.of[i]; });
    }
    CLS_INLINE F fma(F a, F b, F c) {
        return each([&](int i) { return __builtin_fmaf(a.of[i], b.of[i], c.of[i]); });
    }
    CLS_INLINE F fms(F a, F b, F c) {
        return each([&](int i) { return __builtin_fmaf(a.of[i], b.of[i], -c.of[i]); });
    }
    CLS_INLINE F fnma(F a, F b, F c) {
        return each([&](int i) { return __builtin_fmaf(-a.of[i], b.of[i], c.of[i]); });
    }
    CLS_INLINE F min(F a, F b) {
        return each([&](int i) { return a.of[i] < b.of[i] ? a.of[i] : b.of[i]; });
    }
    CLS_INLINE F max(F a, F b) {
        return each([&](int i) { return a.of[i] > b.of[i] ? a.of[i] : b.of[i]; });
    }
    CLS_INLINE F sqrt(F f) {
        return each([&](int i) { return __builtin_sqrtf(f.of[i]); });
    }
    CLS_INLINE F abs(F f) {
        return each([&](int i) { return __builtin_fabsf(f.of[i]); });
    }
    CLS_INLINE F copy_sign(F magnitude, F sign) {
        return each([&](int i) { return __builtin_copysignf(magnitude.of[i], sign.of[i]); });
    }
    CLS_INLINE F round(F f) {
        return each([&](int i) { return nearest_even(f.of[i]); });
    }

    CLS_INLINE float sum(F f) {
        return folded(f, [](float a, float b) { return a + b; });
    }
    CLS_INLINE float smallest(F f) {
        return folded(f, [](float a, float b) { return a < b ? a : b; });
    }
    CLS_INLINE float largest(F f) {
        return folded(f, [](float a, float b) { return a > b ? a : b; });
    }

    CLS_INLINE I load_int(const int32_t *p) {
        I n;
        memcpy(n.of, p, sizeof n.of);
        return n;
    }
    CLS_INLINE void store_int(int32_t *p, I n) { memcpy(p, n.of, sizeof n.of); }
    CLS_INLINE I set_int(int32_t x) {
        return each_int([&](int) { return uint32_t(x); });
    }
    CLS_INLINE I add_int(I a, I b) {
        return each_int([&](int i) { return uint32_t(a.of[i]) + uint32_t(b.of[i]); });
    }
    CLS_INLINE I sub_int(I a, I b) {
        return each_int([&](int i) { return uint32_t(a.of[i]) - uint32_t(b.of[i]); });
    }
    CLS_INLINE I mul_int(I a, I b) {
        return each_int([&](int i) { return uint32_t(a.of[i]) * uint32_t(b.of[i]); });
    }
    CLS_INLINE I to_int(F f) {
        return each_int([&](int i) {
            bool fits = f.of[i] >= -2147483648.0f && f.of[i] < 2147483648.0f;
            return fits ? uint32_t(int32_t(nearest_even(f.of[i]))) : 0x80000000u;
        });
    }
    CLS_INLINE F to_float(I n) {
        return each([&](int i) { return float(n.of[i]); });
    }
    CLS_INLINE F scale_by_power(F f, F power) {
        I bits, powers = to_int(power);
        memcpy(&bits, &f, sizeof bits);
        bits = each_int([&](int i) { return uint32_t(bits.of[i]) + (uint32_t(powers.of[i]) << 23); });
        memcpy(&f, &bits, sizeof f);
        return f;
    }

    CLS_INLINE M less(F a, F b) {
        M m;
        for (int i = 0; i < 16; ++i) m.of[i] = a.of[i] < b.of[i];
        return m;
    }
    CLS_INLINE F select(M m, F a, F b) {
        return each([&](int i) { return m.of[i] ? a.of[i] : b.of[i]; });
    }

    CLS_INLINE F load_half(const uint16_t *p) {
        return each([&](int i) { return from_half(p[i]); });
    }
    CLS_INLINE void store_bytes(uint8_t *p, I a, I b, I c, I d) {
        const I *parts[4] = {&a, &b, &c, &d};
        for (int i = 0; i < 64; ++i) {
            int32_t n = parts[i / 16]->of[i % 16];
            p[i] = uint8_t(n < 0 ? 0 : n > 255 ? 255 : n);
        }
    }

    // Half to even, the sign of zero kept. Adding 2^23 leaves no bits behind the point.
    CLS_INLINE float nearest_even(float x) {
        const float k2To23 = 8388608.0f;
        float magnitude = __builtin_fabsf(x);
        if (!(magnitude < k2To23)) return x;
        return __builtin_copysignf(magnitude + k2To23 - k2To23, x);
    }

    CLS_INLINE float from_half(uint16_t half) {
        uint32_t sign = uint32_t(half & 0x8000) << 16, exponent = half >> 10 & 31, fraction = half & 1023;
        if (exponent == 0) {  // zero or subnormal: fraction * 2^-24
            float x = float(fraction) * 0x1p-24f;
            return sign ? -x : x;
        }
        uint32_t bits = sign | (exponent == 31 ? 255u : exponent + 112) << 23 | fraction << 13;
        float x;
        memcpy(&x, &bits, sizeof x);
        return x;
    }

private:
    template <class Of>
    CLS_INLINE F each(Of of) {
        F f;
        for (int i = 0; i < 16; ++i) f.of[i] = of(i);
        return f;
    }
    template <class Of>
    CLS_INLINE I each_int(Of of) {
        I n;
        for (int i = 0; i < 16; ++i) n.of[i] = int32_t(of(i));
        return n;
    }
    template <class Of>
    CLS_INLINE float folded(F f, Of of) {
        for (int step = 8; step > 0; step /= 2) {
            for (int i = 0; i < step; ++i) f.of[i] = of(f.of[i], f.of[i + step]);
        }
        return f.of[0];
    }
};

}  // namespace
}  // namespace cls
