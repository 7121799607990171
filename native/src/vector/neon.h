// 16 numbers in four registers of NEON (AArch64).
#pragma once

#include <arm_neon.h>

#include "../support.h"

namespace cls {
namespace {

struct Neon {
    struct F {
        float32x4_t of[4];
    };
    struct I {
        int32x4_t of[4];
    };
    struct M {
        uint32x4_t of[4];
    };

    CLS_INLINE F load(const float *p) { return {{vld1q_f32(p), vld1q_f32(p + 4), vld1q_f32(p + 8), vld1q_f32(p + 12)}}; }
    CLS_INLINE void store(float *p, F f) {
        for (int i = 0; i < 4; ++i) vst1q_f32(p + 4 * i, f.of[i]);
    }
    CLS_INLINE F set(float x) {
        return each([&](int) { return vdupq_n_f32(x); });
    }
    CLS_INLINE F zero() { return set(0.0f); }

    CLS_INLINE F add(F a, F b) {
        return each([&](int i) { return vaddq_f32(a.of[i], b.of[i]); });
    }
    CLS_INLINE F sub(F a, F b) {
        return each([&](int i) { return vsubq_f32(a.of[i], b.of[i]); });
    }
    CLS_INLINE F mul(F a, F b) {
        return each([&](int i) { return vmulq_f32(a.of[i], b.of[i]); });
    }
    CLS_INLINE F div(F a, F b) {
        return each([&](int i) { return vdivq_f32(a.of[i], b.of[i]); });
    }
    CLS_INLINE F fma(F a, F b, F c) {
        return each([&](int i) { return vfmaq_f32(c.of[i], a.of[i], b.of[i]); });
    }
    CLS_INLINE F fms(F a, F b, F c) {
        return each([&](int i) { return vfmaq_f32(vnegq_f32(c.of[i]), a.of[i], b.of[i]); });
    }
    CLS_INLINE F fnma(F a, F b, F c) {
        return each([&](int i) { return vfmsq_f32(c.of[i], a.of[i], b.of[i]); });
    }
    // Comparisons: the instructions for the smaller and larger number order zeros by sign and pass on what is not a number.
    CLS_INLINE F min(F a, F b) {
        return each([&](int i) { return vbslq_f32(vcltq_f32(a.of[i], b.of[i]), a.of[i], b.of[i]); });
    }
    CLS_INLINE F max(F a, F b) {
        return each([&](int i) { return vbslq_f32(vcgtq_f32(a.of[i], b.of[i]), a.of[i], b.of[i]); });
    }
    CLS_INLINE F sqrt(F f) {
        return each([&](int i) { return vsqrtq_f32(f.of[i]); });
    }
    CLS_INLINE F abs(F f) {
        return each([&](int i) { return vabsq_f32(f.of[i]); });
    }
    CLS_INLINE F copy_sign(F magnitude, F sign) {
        return each([&](int i) { return vbslq_f32(vdupq_n_u32(0x80000000u), sign.of[i], magnitude.of[i]); });
    }
    CLS_INLINE F round(F f) {
        return each([&](int i) { return vrndnq_f32(f.of[i]); });
    }

    CLS_INLINE float sum(F f) {
        float32x4_t four = vaddq_f32(vaddq_f32(f.of[0], f.of[2]), vaddq_f32(f.of[1], f.of[3]));
        float32x2_t two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
        return vget_lane_f32(two, 0) + vget_lane_f32(two, 1);
    }
    CLS_INLINE float smallest(F f) {
        float lanes[16];
        store(lanes, f);
        for (int step = 8; step > 0; step /= 2) {
            for (int i = 0; i < step; ++i) lanes[i] = lanes[i] < lanes[i + step] ? lanes[i] : lanes[i + step];
        }
        return lanes[0];
    }
    CLS_INLINE float largest(F f) {
        float lanes[16];
        store(lanes, f);
        for (int step = 8; step > 0; step /= 2) {
            for (int i = 0; i < step; ++i) lanes[i] = lanes[i] > lanes[i + step] ? lanes[i] : lanes[i + step];
        }
        return lanes[0];
    }

    CLS_INLINE I load_int(const int32_t *p) { return {{vld1q_s32(p), vld1q_s32(p + 4), vld1q_s32(p + 8), vld1q_s32(p + 12)}}; }
    CLS_INLINE void store_int(int32_t *p, I n) {
        for (int i = 0; i < 4; ++i) vst1q_s32(p + 4 * i, n.of[i]);
    }
    CLS_INLINE I set_int(int32_t x) {
        return each_int([&](int) { return vdupq_n_s32(x); });
    }
    CLS_INLINE I add_int(I a, I b) {
        return each_int([&](int i) { return vaddq_s32(a.of[i], b.of[i]); });
    }
    CLS_INLINE I sub_int(I a, I b) {
        return each_int([&](int i) { return vsubq_s32(a.of[i], b.of[i]); });
    }
    CLS_INLINE I mul_int(I a, I b) {
        return each_int([&](int i) { return vmulq_s32(a.of[i], b.of[i]); });
    }
    CLS_INLINE I to_int(F f) {
        return each_int([&](int i) { return vbslq_s32(vceqq_f32(f.of[i], f.of[i]), vcvtnq_s32_f32(f.of[i]), vdupq_n_s32(INT32_MIN)); });
    }
    CLS_INLINE F to_float(I n) {
        return each([&](int i) { return vcvtq_f32_s32(n.of[i]); });
    }
    CLS_INLINE F scale_by_power(F f, F power) {
        return each([&](int i) {
            int32x4_t exponent = vshlq_n_s32(vcvtnq_s32_f32(power.of[i]), 23);
            return vreinterpretq_f32_s32(vaddq_s32(vreinterpretq_s32_f32(f.of[i]), exponent));
        });
    }

    CLS_INLINE M less(F a, F b) {
        M m;
        for (int i = 0; i < 4; ++i) m.of[i] = vcltq_f32(a.of[i], b.of[i]);
        return m;
    }
    CLS_INLINE F select(M m, F a, F b) {
        return each([&](int i) { return vbslq_f32(m.of[i], a.of[i], b.of[i]); });
    }

    CLS_INLINE F load_half(const uint16_t *p) {
        return each([&](int i) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p + 4 * i))); });
    }
    CLS_INLINE void store_bytes(uint8_t *p, I a, I b, I c, I d) {
        vst1q_u8(p, packed(a));
        vst1q_u8(p + 16, packed(b));
        vst1q_u8(p + 32, packed(c));
        vst1q_u8(p + 48, packed(d));
    }

private:
    template <class Of>
    CLS_INLINE F each(Of of) {
        return {{of(0), of(1), of(2), of(3)}};
    }
    template <class Of>
    CLS_INLINE I each_int(Of of) {
        return {{of(0), of(1), of(2), of(3)}};
    }
    // Both steps saturate.
    CLS_INLINE uint8x16_t packed(I n) {
        int16x8_t first = vcombine_s16(vqmovn_s32(n.of[0]), vqmovn_s32(n.of[1]));
        int16x8_t second = vcombine_s16(vqmovn_s32(n.of[2]), vqmovn_s32(n.of[3]));
        return vcombine_u8(vqmovun_s16(first), vqmovun_s16(second));
    }
};

}  // namespace
}  // namespace cls
