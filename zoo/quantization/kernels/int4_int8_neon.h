/* Sums of 4-bit codes times 8-bit inputs with NEON, and with its dot products. */

#include "int8_neon.h"

#if defined(__linux__)
#include <sys/auxv.h>
#endif

static int has_dotprod(void) {
#if defined(__linux__)
  return (getauxval(AT_HWCAP) & (1 << 20)) != 0; /* HWCAP_ASIMDDP */
#elif defined(__APPLE__)
  return 1; /* every Apple silicon has them */
#else
  return 0;
#endif
}

NEON_INLINE uint8x16_t codes_neon(const uint8_t *at, int left) {
  uint8_t some[16] = {0}; /* nothing behind a row is read */
  if (left >= 16) return vld1q_u8(at);
  if (left > 0) memcpy(some, at, left);
  return vld1q_u8(some);
}

/* The weights, -127 to 127, that 16 codes stand for. */
NEON_INLINE int8x16_t weights_neon(uint8x16_t codes, const int8_t *table) {
  return table ? vqtbl1q_s8(vld1q_s8(table), codes) : vreinterpretq_s8_u8(codes);
}

#define DEFINE_GROUP(level, attributes)                                                        \
  attributes void group_##level(Rows r, const int8_t *table, const int8_t *x, int32_t sum,      \
                                float by, const uint16_t *scale, const uint8_t *zero, float *total) {     \
    const uint8x16_t four = vdupq_n_u8(15);                                                     \
    for (int i = 0; i < r.count; i++) {                                                         \
      const uint8_t *row = r.codes + i * r.stride;                                              \
      int32x4_t low = vdupq_n_s32(0), high = low;                                               \
      for (int at = 0; at < r.bytes; at += 16) { /* half a chunk */                             \
        const uint8x16_t codes = codes_neon(row + at, r.bytes - at);                            \
        const int8_t *in = x + at / 32 * CHUNK + at % 32;                                       \
        const int8x16_t even = weights_neon(vandq_u8(codes, four), table);                      \
        const int8x16_t odd = weights_neon(vshrq_n_u8(codes, 4), table);                        \
        low = add_##level(low, even, vld1q_s8(in));                                             \
        high = add_##level(high, odd, vld1q_s8(in + 32));                                       \
      }                                                                                         \
      const int32_t shift = (zero[i / 2] >> (i & 1) * 4 & 15) * sum;                            \
      const float whole = (float)(vaddvq_s32(vaddq_s32(low, high)) - shift);                    \
      total[i] += half_to_float(scale[i]) * by * whole;                                              \
    }                                                                                           \
  }

DEFINE_GROUP(neon, NEON_INLINE)
DEFINE_GROUP(dotprod, DOTPROD_INLINE)
