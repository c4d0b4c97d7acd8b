/* What the NEON files share. */

#ifndef ZOO_INT8_NEON_H
#define ZOO_INT8_NEON_H

#include <arm_neon.h>

#define DOTPROD_NEEDS "arch=armv8.2-a+dotprod"
#define NEON_INLINE static inline __attribute__((always_inline))
#define DOTPROD_INLINE static inline __attribute__((always_inline, target(DOTPROD_NEEDS)))

/* Two products reach 2 * 127 * 128 = 32512: they are added in 16 bits, more are not. */
NEON_INLINE int32x4_t add_neon(int32x4_t sums, int8x16_t w, int8x16_t x) {
  const int16x8_t low = vmull_s8(vget_low_s8(w), vget_low_s8(x));
  return vpadalq_s16(sums, vmlal_high_s8(low, w, x));
}

DOTPROD_INLINE int32x4_t add_dotprod(int32x4_t sums, int8x16_t w, int8x16_t x) {
  return vdotq_s32(sums, w, x);
}

#endif
