/* Sums of codebook entries times 8-bit inputs with NEON, and with its dot products. */

#include "int8_neon.h"

/* Entries of a table of `size` bytes at 16 codes. */
NEON_INLINE int8x16_t look_neon(const int8_t *table, int size, int entries, const uint8_t *at) {
  const uint8x16_t codes = vld1q_u8(at);
  if (size > 64) {
    int8_t some[16];
    for (int i = 0; i < 16; i++) some[i] = table[at[i]];
    return vld1q_s8(some);
  }
  if (entries <= 16) return vqtbl1q_s8(vld1q_s8(table), codes);
  return vqtbl4q_s8(vld1q_s8_x4(table), codes);
}

#define DEFINE_CELLS(level, attributes)                                                        \
  attributes static void cells_##level(const Cells *c, const int8_t *x, int32_t sum,           \
                                       int32_t *sums) {                                        \
    (void)sum;                                                                                 \
    for (int i = 0; i < c->count; i++) {                                                       \
      const uint8_t *codes = c->codes + i * c->stride;                                         \
      int32x4_t row = vdupq_n_s32(0);                                                          \
      for (int at = 0; at < c->cells; at += 16)                                                \
        for (int p = 0; p < c->dim; p++) {                                                     \
          const int8_t *in = x + at / CELLS * CELLS * c->dim + p * CELLS + at % CELLS;         \
          const int8_t *table = c->tables + p * c->size;                                       \
          const int8x16_t w = look_neon(table, c->size, c->entries, codes + at);               \
          row = add_##level(row, w, vld1q_s8(in));                                             \
        }                                                                                      \
      sums[i] = vaddvq_s32(row);                                                               \
    }                                                                                          \
  }

DEFINE_CELLS(neon, )
DEFINE_CELLS(dotprod, __attribute__((target(DOTPROD_NEEDS))))
