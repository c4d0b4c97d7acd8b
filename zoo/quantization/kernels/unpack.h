/* Codes of 1 to 8 bits from a stream, as bytes. */

#ifndef ZOO_UNPACK_H
#define ZOO_UNPACK_H

#include <stdint.h>
#if defined(__AVX512VBMI__) && defined(__AVX512BW__)
#include <immintrin.h>
#define VBMI 1
#endif

#define SLACK 64 /* bytes behind a buffer that wide loads and stores may touch */

/* How a stream of `bits` bits is cut: eight codes of b bits are b bytes. */
typedef struct {
  int bits;
#ifdef VBMI
  __m512i bytes, shifts, mask;
#endif
} Cut;

static inline Cut cut_of(int bits) {
  Cut cut = {.bits = bits};
#ifdef VBMI
  uint8_t bytes[64], shifts[64];
  for (int i = 0; i < 64; i++) {
    bytes[i] = (uint8_t)(i / 8 * bits + i % 8);
    shifts[i] = (uint8_t)(i % 8 * bits);
  }
  cut.bytes = _mm512_loadu_si512(bytes);
  cut.shifts = _mm512_loadu_si512(shifts);
  cut.mask = _mm512_set1_epi8((char)((1 << bits) - 1));
#endif
  return cut;
}

/* A little-endian stream -> bytes. `out` has SLACK bytes behind `count`. */
static inline void unpack(const uint8_t *in, const Cut *cut, int count, uint8_t *out) {
  const int bits = cut->bits;
#ifdef VBMI
  int left = (count * bits + 7) / 8; /* bytes; nothing behind them is read */
  for (int at = 0; at < count; at += 64, in += 8 * bits, left -= 8 * bits) {
    const __mmask64 have = left >= 64 ? ~0ull : (1ull << left) - 1;
    const __m512i raw = _mm512_maskz_loadu_epi8(have, in);
    const __m512i eight = _mm512_permutexvar_epi8(cut->bytes, raw);
    const __m512i codes = _mm512_multishift_epi64_epi8(cut->shifts, eight);
    _mm512_storeu_si512(out + at, _mm512_and_si512(codes, cut->mask));
  }
#else
  const unsigned mask = (1u << bits) - 1;
  for (int at = 0; at < count; at++) {
    const int bit = at * bits, byte = bit / 8, shift = bit % 8;
    const unsigned two = in[byte] | (shift + bits > 8 ? (unsigned)in[byte + 1] << 8 : 0u);
    out[at] = (uint8_t)(two >> shift & mask);
  }
#endif
}

#endif
