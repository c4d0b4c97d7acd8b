/* Products of codebook weights with 8-bit inputs: operands and functions. */

#ifndef ZOO_CODEBOOK_INT8_H
#define ZOO_CODEBOOK_INT8_H

#include "int4_int8.h"

#define CELLS 32 /* codes that are looked up at once in a row */

/* W (rows, columns): `dim` columns of a row share one code of `bits` bits, an entry of the codebook
   of its column group (`span` columns) and row group (`group_rows` rows); `codebook` (column groups,
   row groups, 2^bits, dim) are integers from -127 to 127, `scale` (column groups, row groups) bits
   of halves. Columns are whole cells of `dim`. */
typedef struct {
  int32_t rows, columns, span, dim, bits, group_rows;
  const uint8_t *codes;
  const int8_t *codebook;
  const uint16_t *scale;
} Books;

/* Codes of one column group in `count` rows, a byte each, `stride` bytes from row to row, readable
   to whole CELLS; and the tables of its `dim` coordinates, `entries` in `size` bytes each. */
typedef struct {
  const uint8_t *codes;
  const int8_t *tables;
  int stride, count, cells, dim, size, entries;
} Cells;

/* A token's input in `room`, which has `books_input_bytes`: for every CELLS cells of a group their
   first columns, their second ones and so on, padded with zeros. */
int64_t books_input_bytes(const Books *w);
Input books_input(const Books *w, const int8_t *q, const float *scales, void *room);

/* Rows [begin, end) of y[t * pitch + r], of at most TOKENS tokens; 0, or 1 without memory. */
int books_rows(const Books *w, int level, const Input *inputs, int tokens, int begin, int end,
               float *y, int64_t pitch);

/* y (tokens, rows) = x W^T for x = scale * q, scale (tokens, groups); returns 0, or 1 without memory. */
int zoo_books_int8(const Books *w, int32_t tokens, int32_t threads, int32_t level, const int8_t *q,
                   const float *scale, float *y);

#endif
