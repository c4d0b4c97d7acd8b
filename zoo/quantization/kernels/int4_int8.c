/* y = W x for 4-bit weights and 8-bit inputs, in whole numbers within each group of columns.

   The contract, by which all instruction sets have the same bits:
     y[r] = ((0 + (scale[0, r] * s[0]) * I[0, r]) + (scale[1, r] * s[1]) * I[1, r]) + ...
   in float32, s[g] the scale of the token's group times the unit of a table, and I[g, r] the sum over group g of
   (code - zero) * q, exact in int32, rounded to float32 once. Sums of whole numbers have no order; products are rounded before they are added
   (-ffp-contract=off). An asymmetric 8x4 product: Gope et al. 2020, arXiv:2008.00638. */

#include "int4_int8.h"

#include <math.h>
#include <stdlib.h>

/* total[i] += scale[i] * by * (sum of (code - zero[i]) * x, or of table[code] * x) of BLOCK rows and one
   group; `sum` is that of x alone. */
typedef void (*Group)(Rows r, const int8_t *table, const int8_t *x, int32_t sum, float by,
                      const uint16_t *scale, const uint8_t *zero, float *total);

ALWAYS void group_portable(Rows r, const int8_t *table, const int8_t *x, int32_t sum, float by,
                           const uint16_t *scale, const uint8_t *zero, float *total) {
  for (int i = 0; i < r.count; i++) {
    const uint8_t *row = r.codes + i * r.stride;
    int32_t whole = -(zero[i / 2] >> (i & 1) * 4 & 15) * sum;
    for (int at = 0; at < r.bytes; at++) {
      const int low = row[at] & 15, high = row[at] >> 4;
      const int8_t *of = x + at / 32 * CHUNK + at % 32;
      whole += (table ? table[low] : low) * of[0] + (table ? table[high] : high) * of[32];
    }
    total[i] += half_to_float(scale[i]) * by * (float)whole;
  }
}

static int groups_of(const Int4 *w) { return (w->columns + w->span - 1) / w->span; }
ALWAYS int width_of(const Int4 *w, int group) {
  const int left = w->columns - group * w->span;
  return left < w->span ? left : w->span;
}
ALWAYS int chunks_of(int width) { return (width + CHUNK - 1) / CHUNK; }

/* `count` rows from `first`, a multiple of BLOCK, for all tokens. */
ALWAYS void block_with(const Int4 *w, int first, int count, const Input *inputs, int tokens,
                       float *y, int64_t pitch, const int8_t *table, Group group) {
  const int groups = (w->columns + w->span - 1) / w->span, zero_bytes = (w->rows + 1) / 2;
  const int64_t stride = (w->columns + 1) / 2;
  Rows rows = {w->codes + first * stride, stride, count, 0};
  float total[TOKENS][BLOCK] = {{0}};
  int64_t at = 0;
  for (int g = 0; g < groups; g++) {
    const int width = width_of(w, g);
    const uint16_t *scale = w->scale + (int64_t)g * w->rows + first;
    const uint8_t *zero = w->zero ? w->zero + (int64_t)g * zero_bytes + first / 2 : NULL;
    uint16_t scales[BLOCK] = {0};
    uint8_t zeros[BLOCK / 2] = {0};
    if (count < BLOCK) { /* nothing behind the last row is read */
      scale = memcpy(scales, scale, count * sizeof *scale);
      if (zero) zero = memcpy(zeros, zero, (count + 1) / 2);
    }
    rows.bytes = (width + 1) / 2;
    /* Rows are read side by side, which no processor foresees: the next block's are fetched, as
       they lie, while this one's are multiplied. */
    const uint8_t *next = w->codes + (first + BLOCK) * stride + (int64_t)g * w->span / 2 * BLOCK;
    for (int ahead = 0; ahead < rows.bytes * BLOCK; ahead += 64) __builtin_prefetch(next + ahead);
    for (int t = 0; t < tokens; t++)
      group(rows, table, inputs[t].chunks + at, inputs[t].sums[g], inputs[t].scales[g] * w->unit, scale,
            zero ? zero : zeros, total[t]);
    rows.codes += w->span / 2;
    at += (int64_t)chunks_of(width) * CHUNK;
  }
  for (int t = 0; t < tokens; t++)
    for (int i = 0; i < count; i++) y[t * pitch + first + i] = total[t][i];
}

#define DEFINE_BLOCK(level, attributes)                                                       \
  attributes static void block_##level(const Int4 *w, int first, int count, const Input *in,  \
                                       int tokens, float *y, int64_t pitch) {                 \
    if (count == BLOCK && !w->table) /* constants: the common case unrolled */                \
      block_with(w, first, BLOCK, in, tokens, y, pitch, NULL, group_##level);                 \
    else                                                                                      \
      block_with(w, first, count, in, tokens, y, pitch, w->table, group_##level);             \
  }

DEFINE_BLOCK(portable, )
#if defined(__x86_64__) && defined(__GNUC__)
#include "int4_int8_x86.h"
DEFINE_BLOCK(avx2, __attribute__((target(AVX2_NEEDS))))
DEFINE_BLOCK(vnni, __attribute__((target(VNNI_NEEDS))))
#elif defined(__aarch64__) && defined(__GNUC__)
#include "int4_int8_neon.h"
DEFINE_BLOCK(neon, )
DEFINE_BLOCK(dotprod, __attribute__((target(DOTPROD_NEEDS))))
#endif

int zoo_int8_level(int32_t wanted) {
  int best = PORTABLE;
#if defined(__x86_64__) && defined(__GNUC__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("f16c")) best = AVX2;
  if (best == AVX2 && __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl"))
    best = VNNI;
#elif defined(__aarch64__) && defined(__GNUC__)
  best = has_dotprod() ? DOTPROD : NEON;
  if (wanted >= 0 && wanted < NEON) best = PORTABLE; /* those of the other family */
#endif
  return wanted >= 0 && wanted < best ? wanted : best;
}

void int4_rows(const Int4 *w, int level, const Input *inputs, int tokens, int part, int parts,
               float *y, int64_t pitch) {
  void (*of)(const Int4 *, int, int, const Input *, int, float *, int64_t) = block_portable;
#if defined(__x86_64__) && defined(__GNUC__)
  if (level == AVX2) of = block_avx2;
  if (level == VNNI) of = block_vnni;
#elif defined(__aarch64__) && defined(__GNUC__)
  if (level == NEON) of = block_neon;
  if (level == DOTPROD) of = block_dotprod;
#endif
  const int64_t blocks = (w->rows + BLOCK - 1) / BLOCK;
  for (int64_t b = blocks * part / parts; b < blocks * (part + 1) / parts; b++) {
    const int left = w->rows - (int)b * BLOCK;
    of(w, (int)b * BLOCK, left < BLOCK ? left : BLOCK, inputs, tokens, y, pitch);
  }
}

static void round_group(int columns, const float *x, int8_t *q, float *scale) {
  float largest[BLOCK] = {0}, nothing[BLOCK] = {0};
  for (int k = 0; k < columns; k++) {
    const float size = fabsf(x[k]);
    float *lane = &largest[k % BLOCK];
    *lane = *lane >= size ? *lane : size;
    nothing[k % BLOCK] += x[k] * 0.0f; /* NaN and infinity times zero are NaN */
  }
  for (int lane = 1; lane < BLOCK; lane++) {
    largest[0] = largest[0] >= largest[lane] ? largest[0] : largest[lane];
    nothing[0] += nothing[lane];
  }
  /* Groups of zeros, and of numbers too small to divide by, have the scale 1. */
  const float step = largest[0] / 127.0f;
  const int finite = nothing[0] == 0.0f;
  *scale = !finite ? NAN : step >= 0x1p-126f ? step : 1.0f;
  for (int k = 0; k < columns; k++) {
    const float ratio = finite ? x[k] / *scale : 0.0f;
    const float held = ratio < -127.0f ? -127.0f : ratio > 127.0f ? 127.0f : ratio;
    q[k] = (int8_t)((held + 0x1.8p23f) - 0x1.8p23f); /* to nearest, ties to even */
  }
}

void zoo_int8_inputs(int32_t tokens, int32_t columns, int32_t span, const float *x, int8_t *q,
                     float *scale) {
  for (int t = 0; t < tokens; t++)
    for (int at = 0; at < columns; at += span, scale++) {
      const int width = columns - at < span ? columns - at : span;
      round_group(width, x, q, scale);
      x += width, q += width;
    }
}

int64_t int4_input_bytes(const Int4 *w) {
  const int groups = groups_of(w);
  int64_t chunks = 0;
  for (int g = 0; g < groups; g++) chunks += chunks_of(width_of(w, g));
  return chunks * CHUNK + (groups + CHUNK - 1) / CHUNK * CHUNK * (int64_t)sizeof(int32_t);
}

Input int4_input(const Int4 *w, const int8_t *q, const float *scales, void *room) {
  const int groups = groups_of(w);
  int8_t *chunks = room;
  int32_t *sums = room;
  sums += (int4_input_bytes(w) - (int64_t)groups * sizeof(int32_t)) / sizeof(int32_t);
  const Input input = {chunks, sums, scales};
  for (int g = 0; g < groups; g++) {
    const int width = width_of(w, g);
    int32_t sum = 0;
    for (int at = 0; at < width; at += CHUNK, chunks += CHUNK) {
      const int count = width - at < CHUNK ? width - at : CHUNK;
      if (count < CHUNK) memset(chunks, 0, CHUNK);
      for (int k = 0; k < count; k++) {
        sum += q[at + k];
        chunks[k / 2 + (k & 1) * 32] = q[at + k];
      }
    }
    q += width;
    sums[g] = sum;
  }
  return input;
}

int zoo_int4_int8(const Int4 *w, int32_t tokens, int32_t threads, int32_t level, const int8_t *q,
                  const float *scale, float *y) {
  const int64_t bytes = int4_input_bytes(w);
  const int some = tokens < TOKENS ? tokens : TOKENS;
  char *room = malloc(bytes * some);
  if (!room) return 1;
  for (int from = 0; from < tokens; from += TOKENS) {
    const int count = tokens - from < TOKENS ? tokens - from : TOKENS;
    Input inputs[TOKENS];
    for (int t = 0; t < count; t++)
      inputs[t] = int4_input(w, q + (int64_t)(from + t) * w->columns,
                             scale + (int64_t)(from + t) * groups_of(w), room + t * bytes);
    float *to = y + (int64_t)from * w->rows;
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int part = 0; part < threads; part++)
      int4_rows(w, level, inputs, count, part, threads, to, w->rows);
  }
  free(room);
  return 0;
}
