/* Products of 4-bit weights with 8-bit inputs: the operands, the functions, and what the files of
   the instruction sets share. */

#ifndef ZOO_INT4_INT8_H
#define ZOO_INT4_INT8_H

#include <stdint.h>
#include <string.h>

#define BLOCK 16 /* rows at a time: their sums fill one vector */
#define CHUNK 64 /* weights: 32 bytes of codes */
#define TOKENS 8 /* at most */

/* W (rows, columns), W[r, k] = scale[g, r] * (code[r, k] - zero[g, r]) for k in group g of `span`
   columns; with a table, scale[g, r] * table[code[r, k]].

   `codes` are rows of 4-bit integers, the lower half of a byte first, each row padded to a whole
   byte; `scale` (groups, rows) bits of halves; `zero` (groups, ceil(rows / 2)) bytes of two 4-bit
   integers, or NULL with `table`, 16 integers from -127 to 127. A span of several groups is even. */
typedef struct {
  int32_t rows, columns, span;
  const uint8_t *codes, *zero;
  const int8_t *table;
  const uint16_t *scale;
  float unit; /* of the table, or 1 */
} Int4;

/* A token's input as the kernels take it: for every chunk of a group its even columns, then its odd
   ones, padded with zeros; the sum of each group, and its scale. */
typedef struct {
  const int8_t *chunks;
  const int32_t *sums;
  const float *scales;
} Input;

/* The codes of one group in BLOCK rows: `bytes` bytes at `codes`, `stride` bytes from row to row;
   rows from `count` on are the first again. */
typedef struct {
  const uint8_t *codes;
  int64_t stride;
  int count, bytes;
} Rows;

typedef enum { PORTABLE, AVX2, VNNI, NEON, DOTPROD } Level;

/* The best level that the processor has, at most the one wanted (any for a negative number). */
int zoo_int8_level(int32_t wanted);

/* q (tokens, columns) and scale (tokens, groups) with x ~ scale * q: the nearest of 255 steps that
   cover the largest number of a token's group of `span` columns. */
void zoo_int8_inputs(int32_t tokens, int32_t columns, int32_t span, const float *x, int8_t *q,
                     float *scale);

/* A token's input in `room`, which has `int4_input_bytes`. */
int64_t int4_input_bytes(const Int4 *w);
Input int4_input(const Int4 *w, const int8_t *q, const float *scales, void *room);

/* y[t * pitch + r] for part `part` of `parts` of the rows, of at most TOKENS tokens. */
void int4_rows(const Int4 *w, int level, const Input *inputs, int tokens, int part, int parts,
               float *y, int64_t pitch);

/* y (tokens, rows) = x W^T for x = scale * q, scale (tokens, groups); returns 0, or 1 without memory. */
int zoo_int4_int8(const Int4 *w, int32_t tokens, int32_t threads, int32_t level, const int8_t *q,
                  const float *scale, float *y);

#define ALWAYS static inline __attribute__((always_inline))

ALWAYS float half_to_float(uint16_t half) {
  const uint32_t bits = (uint32_t)(half & 0x7fff) << 13;
  float value;
  memcpy(&value, &bits, 4);
  value *= 0x1p112f;
  return half & 0x8000 ? -value : value;
}

#endif
