/* SPDX-License-Identifier: Apache-2.0
 * kernels_neon.h - what the NEON files share: small vector functions, installers.
 *
 * Three tables come out of these files. "neon" runs on every 64-bit ARM;
 * "neon-dotprod" and "neon-i8mm" replace its products of quantised weights and nothing
 * else, each in a file compiled for those instructions. All read the one packed layout:
 * a tile's 16 outputs are four registers.
 */
#ifndef CE_ENGINE_KERNELS_NEON_H
#define CE_ENGINE_KERNELS_NEON_H

#include <arm_neon.h>
#include <string.h>

#include "engine/kernels.h"
#include "engine/mathfn.h"

/* A function body that is compiled anew for each constant it is called with. */
#define TEMPLATE static inline __attribute__((always_inline))

void kernels_neon_install_matmul(struct kernels *k);
void kernels_neon_install_attention(struct kernels *k);

/* mathfn_expf on four lanes. */
TEMPLATE float32x4_t
exp4(float32x4_t x)
{
    const float32x4_t one = vdupq_n_f32(1.0f);
    uint32x4_t below = vcltq_f32(x, vdupq_n_f32(MATHFN_EXPF_MIN));
    float32x4_t shifted, n, r, p;
    int32x4_t scale;

    x = vminq_f32(x, vdupq_n_f32(MATHFN_EXPF_MAX)); /* keeps a NaN */
    shifted = vaddq_f32(vmulq_f32(x, vdupq_n_f32(MATHFN_EXPF_LOG2E)),
                        vdupq_n_f32(MATHFN_EXPF_ROUND));
    n = vsubq_f32(shifted, vdupq_n_f32(MATHFN_EXPF_ROUND));
    r = vfmaq_f32(x, n, vdupq_n_f32(-MATHFN_EXPF_LN2HI));
    r = vfmaq_f32(r, n, vdupq_n_f32(-MATHFN_EXPF_LN2LO));
    p = vdupq_n_f32(MATHFN_EXPF_C6);
    p = vfmaq_f32(vdupq_n_f32(MATHFN_EXPF_C5), p, r);
    p = vfmaq_f32(vdupq_n_f32(MATHFN_EXPF_C4), p, r);
    p = vfmaq_f32(vdupq_n_f32(MATHFN_EXPF_C3), p, r);
    p = vfmaq_f32(vdupq_n_f32(MATHFN_EXPF_C2), p, r);
    p = vfmaq_f32(one, p, r);
    p = vfmaq_f32(one, p, r);
    scale = vaddq_s32(vreinterpretq_s32_f32(shifted), vdupq_n_s32(127));
    p = vmulq_f32(p, vreinterpretq_f32_s32(vshlq_n_s32(scale, 23)));
    return vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_f32(p), below));
}

/* tree16 of the sixteen lanes of four registers. */
TEMPLATE float
tree16(const float32x4_t a[4])
{
    float32x4_t c = vaddq_f32(vaddq_f32(a[0], a[2]), vaddq_f32(a[1], a[3]));
    float32x2_t d = vadd_f32(vget_low_f32(c), vget_high_f32(c));

    return vget_lane_f32(d, 0) + vget_lane_f32(d, 1);
}

/* Sixteen half floats as four registers of floats. */
TEMPLATE void
load_half16(float32x4_t out[4], const void *p)
{
    for (int i = 0; i < 2; i++) {
        float16x8_t h =
            vreinterpretq_f16_u8(vld1q_u8((const uint8_t *)p + (size_t)16 * (size_t)i));

        out[2 * i] = vcvt_f32_f16(vget_low_f16(h));
        out[2 * i + 1] = vcvt_high_f32_f16(h);
    }
}

#endif
