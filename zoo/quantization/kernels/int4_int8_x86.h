/* Sums of 4-bit codes times 8-bit inputs with AVX2, and with AVX-512 VNNI. */

#include "int8_x86.h"

/* Vectors of products that are added in 16 bits. A code is at most 15 and an input at least -128,
   so that a sum of two reaches 3840, and of eight such vectors 30720. Entries of a table reach
   127, and two products 32512: those are widened at once. */
#define FLUSH 8

AVX2_INLINE __m256i codes_avx2(const uint8_t *at, int left) {
  if (left >= 32) return _mm256_loadu_si256((const __m256i *)at);
  uint8_t some[32] = {0}; /* nothing behind a row is read */
  memcpy(some, at, left);
  return _mm256_loadu_si256((const __m256i *)some);
}

/* Eight sums of a row's products in 32 bits. */
AVX2_INLINE __m256i row_avx2(const uint8_t *row, int bytes, const int8_t *table, const int8_t *x) {
  const __m256i low = _mm256_set1_epi8(15), ones = _mm256_set1_epi16(1);
  __m256i sums = _mm256_setzero_si256();
  if (table) {
    const __m256i of = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)table));
    for (int at = 0; at < bytes; at += 32, x += CHUNK) {
      const __m256i codes = codes_avx2(row + at, bytes - at);
      for (int half = 0; half < 2; half++) {
        const __m256i bits = half ? _mm256_srli_epi16(codes, 4) : codes;
        const __m256i w = _mm256_shuffle_epi8(of, _mm256_and_si256(bits, low));
        const __m256i in = _mm256_loadu_si256((const __m256i *)(x + 32 * half));
        /* |x| * (sign(x) * w): the entries are those that can be negated. */
        const __m256i p = _mm256_maddubs_epi16(_mm256_abs_epi8(in), _mm256_sign_epi8(w, in));
        sums = _mm256_add_epi32(sums, _mm256_madd_epi16(p, ones));
      }
    }
    return sums;
  }
  for (int at = 0; at < bytes;) {
    __m256i short_sums = _mm256_setzero_si256();
    for (int vectors = 0; vectors < FLUSH && at < bytes; vectors += 2, at += 32, x += CHUNK) {
      const __m256i codes = codes_avx2(row + at, bytes - at);
      const __m256i even = _mm256_and_si256(codes, low);
      const __m256i odd = _mm256_and_si256(_mm256_srli_epi16(codes, 4), low);
      const __m256i *in = (const __m256i *)x;
      const __m256i a = _mm256_maddubs_epi16(even, _mm256_loadu_si256(in));
      const __m256i b = _mm256_maddubs_epi16(odd, _mm256_loadu_si256(in + 1));
      short_sums = _mm256_add_epi16(short_sums, _mm256_add_epi16(a, b));
    }
    sums = _mm256_add_epi32(sums, _mm256_madd_epi16(short_sums, ones));
  }
  return sums;
}

/* The lower halves of eight bytes at even places, the upper ones at odd places. */
AVX2_INLINE __m128i halves_avx2(const uint8_t *bytes) {
  const __m128i eight = _mm_loadl_epi64((const __m128i *)bytes), low = _mm_set1_epi8(15);
  const __m128i even = _mm_and_si128(eight, low);
  return _mm_unpacklo_epi8(even, _mm_and_si128(_mm_srli_epi16(eight, 4), low));
}

AVX2_INLINE void group_avx2(Rows r, const int8_t *table, const int8_t *x, int32_t sum, float by,
                            const uint16_t *scale, const uint8_t *zero, float *total) {
  __m128i zeros = halves_avx2(zero);
  for (int half = 0; half < BLOCK; half += 8, zeros = _mm_srli_si128(zeros, 8)) {
    __m256i row[8];
    for (int i = 0; i < 8; i++) {
      const int place = half + i < r.count ? half + i : 0;
      row[i] = row_avx2(r.codes + place * r.stride, r.bytes, table, x);
    }
    const __m256i shift = _mm256_mullo_epi32(_mm256_cvtepu8_epi32(zeros), _mm256_set1_epi32(sum));
    const __m256i whole = _mm256_sub_epi32(add_across_avx2(row), shift);
    const __m256 own = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(scale + half)));
    const __m256 step = _mm256_mul_ps(own, _mm256_set1_ps(by));
    const __m256 more = _mm256_mul_ps(step, _mm256_cvtepi32_ps(whole));
    _mm256_storeu_ps(total + half, _mm256_add_ps(_mm256_loadu_ps(total + half), more));
  }
}

/* The first `left` of 32 bytes of two rows, `apart` bytes apart, side by side. */
VNNI_INLINE __m512i codes_vnni(const uint8_t *at, int64_t apart, int left) {
  const __mmask32 have = left >= 32 ? ~0u : (1u << left) - 1; /* nothing behind a row is read */
  const __m256i low = left >= 32 ? _mm256_loadu_si256((const __m256i *)at)
                                 : _mm256_maskz_loadu_epi8(have, at);
  const __m256i high = left >= 32 ? _mm256_loadu_si256((const __m256i *)(at + apart))
                                  : _mm256_maskz_loadu_epi8(have, at + apart);
  return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
}

/* The sums of rows 0-3 and 8-11 are in the lower halves of `sums`, those of 4-7 and 12-15 in the
   upper ones. */
VNNI_INLINE void chunk_vnni(const Rows *r, int at, int left, const __m512i *table, const int8_t *x,
                            __m512i *sums) {
  const __m512i four = _mm512_set1_epi8(15);
  const __m512i *in = (const __m512i *)x;
  const __m512i both = _mm512_loadu_si512(in), even_x = _mm512_shuffle_i64x2(both, both, 0x44),
                odd_x = _mm512_shuffle_i64x2(both, both, 0xee);
  for (int i = 0; i < 8; i++) {
    const int low = i < 4 ? i : i + 4, high = low + 4;
    const int64_t first = low < r->count ? low * r->stride : 0;
    const int64_t second = high < r->count ? high * r->stride : 0;
    const __m512i codes = codes_vnni(r->codes + at + first, second - first, left);
    __m512i even = _mm512_and_si512(codes, four);
    __m512i odd = _mm512_and_si512(_mm512_srli_epi16(codes, 4), four);
    if (table) even = _mm512_shuffle_epi8(*table, even), odd = _mm512_shuffle_epi8(*table, odd);
    sums[i] = _mm512_dpbusd_epi32(_mm512_dpbusd_epi32(sums[i], even, even_x), odd, odd_x);
  }
}

VNNI_INLINE void group_vnni(Rows r, const int8_t *table, const int8_t *x, int32_t sum, float by,
                            const uint16_t *scale, const uint8_t *zero, float *total) {
  __m512i of = _mm512_set1_epi8((char)128), sums[8];
  if (table) /* entries from 1 to 255 */
    of = _mm512_xor_si512(of, _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)table)));
  for (int i = 0; i < 8; i++) sums[i] = _mm512_setzero_si512();
  int at = 0;
  for (; at + 32 <= r.bytes; at += 32, x += CHUNK)
    chunk_vnni(&r, at, 32, table ? &of : NULL, x, sums);
  if (at < r.bytes) chunk_vnni(&r, at, r.bytes - at, table ? &of : NULL, x, sums);
  const __m512i zeros = table ? _mm512_set1_epi32(128) : _mm512_cvtepu8_epi32(halves_avx2(zero));
  const __m512i shift = _mm512_mullo_epi32(zeros, _mm512_set1_epi32(sum));
  const __m512i whole = _mm512_sub_epi32(add_across(sums), shift);
  const __m512 own = _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)scale));
  const __m512 step = _mm512_mul_ps(own, _mm512_set1_ps(by));
  const __m512 more = _mm512_mul_ps(step, _mm512_cvtepi32_ps(whole));
  _mm512_storeu_ps(total, _mm512_add_ps(_mm512_loadu_ps(total), more));
}
