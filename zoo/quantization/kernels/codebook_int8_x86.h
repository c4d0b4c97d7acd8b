/* Sums of codebook entries times 8-bit inputs with AVX2, and with AVX-512 VBMI and VNNI. */

#include "int8_x86.h"

#define VBMI_NEEDS VNNI_NEEDS ",avx512vbmi"
#define VBMI_INLINE static inline __attribute__((always_inline, target(VBMI_NEEDS)))

/* Entries of a table of `size` bytes at 32 codes: by one shuffle of 16, four of 64, or singly. */
AVX2_INLINE __m256i look_avx2(const int8_t *table, int size, int entries, const uint8_t *at) {
  const __m256i codes = _mm256_loadu_si256((const __m256i *)at);
  if (size > 64) {
    int8_t some[32];
    for (int i = 0; i < 32; i++) some[i] = table[at[i]];
    return _mm256_loadu_si256((const __m256i *)some);
  }
  __m256i of[4];
  for (int i = 0; i < 4; i++) {
    const __m128i part = _mm_loadu_si128((const __m128i *)(table + 16 * i));
    of[i] = _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(part), codes);
    if (entries <= 16) return of[0];
  }
  const __m256i four = _mm256_slli_epi16(codes, 3), five = _mm256_slli_epi16(codes, 2);
  const __m256i low = _mm256_blendv_epi8(of[0], of[1], four);
  return _mm256_blendv_epi8(low, _mm256_blendv_epi8(of[2], of[3], four), five);
}

__attribute__((target(AVX2_NEEDS))) static void cells_avx2(const Cells *c, const int8_t *x,
                                                           int32_t sum, int32_t *sums) {
  (void)sum;
  const __m256i ones = _mm256_set1_epi16(1);
  for (int half = 0; half < BLOCK; half += 8) {
    __m256i row[8];
    for (int i = 0; i < 8; i++) {
      const uint8_t *codes = c->codes + (half + i < c->count ? half + i : 0) * c->stride;
      row[i] = _mm256_setzero_si256();
      for (int at = 0; at < c->cells; at += CELLS)
        for (int p = 0; p < c->dim; p++) {
          const __m256i w = look_avx2(c->tables + p * c->size, c->size, c->entries, codes + at);
          const __m256i in = _mm256_loadu_si256((const __m256i *)(x + at * c->dim + p * CELLS));
          /* |x| * (sign(x) * w): the entries are those that can be negated. Two products reach
             2 * 128 * 127, and are widened at once. */
          const __m256i two = _mm256_maddubs_epi16(_mm256_abs_epi8(in), _mm256_sign_epi8(w, in));
          row[i] = _mm256_add_epi32(row[i], _mm256_madd_epi16(two, ones));
        }
    }
    _mm256_storeu_si256((__m256i *)(sums + half), add_across_avx2(row));
  }
}

VBMI_INLINE __m512i look_vbmi(const int8_t *table, int size, __m512i codes) {
  const __m512i first = _mm512_loadu_si512(table);
  if (size <= 64) return _mm512_permutexvar_epi8(codes, first);
  const __m512i low = _mm512_permutex2var_epi8(first, codes, _mm512_loadu_si512(table + 64));
  if (size <= 128) return low;
  const __m512i third = _mm512_loadu_si512(table + 128), fourth = _mm512_loadu_si512(table + 192);
  const __m512i high = _mm512_permutex2var_epi8(third, codes, fourth);
  return _mm512_mask_blend_epi8(_mm512_movepi8_mask(codes), low, high);
}

VBMI_INLINE void cells_with(const Cells *c, int dim, int size, int count, const int8_t *x,
                            int32_t sum, int32_t *sums) {
  const __m512i all = _mm512_set1_epi8((char)128); /* entries from 1 to 255 */
  __m512i row[8];
  for (int i = 0; i < 8; i++) row[i] = _mm512_setzero_si512();
  for (int at = 0; at < c->cells; at += CELLS)
    for (int i = 0; i < 8; i++) { /* two rows at a time, as `add_across` takes them */
      const int low = i < 4 ? i : i + 4, high = low + 4;
      const uint8_t *codes = c->codes + at;
      const __m256i a = _mm256_loadu_si256(
          (const __m256i *)(codes + (low < count ? low : 0) * c->stride));
      const __m256i b = _mm256_loadu_si256(
          (const __m256i *)(codes + (high < count ? high : 0) * c->stride));
      const __m512i both = _mm512_inserti64x4(_mm512_castsi256_si512(a), b, 1);
      for (int p = 0; p < dim; p++) {
        const __m512i w = _mm512_xor_si512(look_vbmi(c->tables + p * size, size, both), all);
        const __m256i in = _mm256_loadu_si256((const __m256i *)(x + at * dim + p * CELLS));
        row[i] = _mm512_dpbusd_epi32(row[i], w, _mm512_broadcast_i64x4(in));
      }
    }
  const __m512i more = _mm512_set1_epi32(128 * sum);
  _mm512_storeu_si512(sums, _mm512_sub_epi32(add_across(row), more));
}

__attribute__((target(VBMI_NEEDS))) static void cells_vbmi(const Cells *c, const int8_t *x,
                                                           int32_t sum, int32_t *sums) {
  if (c->dim == 2 && c->size == 64 && c->count == BLOCK) /* constants: the common case unrolled */
    cells_with(c, 2, 64, BLOCK, x, sum, sums);
  else
    cells_with(c, c->dim, c->size, c->count, x, sum, sums);
}
