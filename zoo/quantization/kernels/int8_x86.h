/* What the x86 files share. */

#ifndef ZOO_INT8_X86_H
#define ZOO_INT8_X86_H

#include <immintrin.h>

#define AVX2_NEEDS "avx2,f16c"
#define VNNI_NEEDS "avx2,f16c,avx512f,avx512bw,avx512vl,avx512vnni"
#define AVX2_INLINE static inline __attribute__((always_inline, target(AVX2_NEEDS)))
#define VNNI_INLINE static inline __attribute__((always_inline, target(VNNI_NEEDS)))

/* The sums of 8 vectors of 8 numbers, in their order; the vectors are used up. */
AVX2_INLINE __m256i add_across_avx2(__m256i *of) {
  for (int step = 4; step > 1; step /= 2) /* a tree: 8 vectors, 4, 2 */
    for (int i = 0; i < step; i++) of[i] = _mm256_hadd_epi32(of[2 * i], of[2 * i + 1]);
  return _mm256_add_epi32(_mm256_permute2x128_si256(of[0], of[1], 0x20),
                          _mm256_permute2x128_si256(of[0], of[1], 0x31));
}

/* The sums of the halves of 8 vectors: of the lower halves at places 0-3 and 8-11. */
VNNI_INLINE __m512i add_across(const __m512i *of) {
  __m512i two[4], four[2];
  for (int i = 0; i < 4; i++)
    two[i] = _mm512_add_epi32(_mm512_unpacklo_epi32(of[2 * i], of[2 * i + 1]),
                              _mm512_unpackhi_epi32(of[2 * i], of[2 * i + 1]));
  for (int i = 0; i < 2; i++)
    four[i] = _mm512_add_epi32(_mm512_unpacklo_epi64(two[2 * i], two[2 * i + 1]),
                               _mm512_unpackhi_epi64(two[2 * i], two[2 * i + 1]));
  return _mm512_add_epi32(_mm512_shuffle_i32x4(four[0], four[1], 0x88),
                          _mm512_shuffle_i32x4(four[0], four[1], 0xdd));
}

#endif
