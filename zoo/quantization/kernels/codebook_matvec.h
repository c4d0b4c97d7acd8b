/* Products with codes of small codebooks, and with rows of 8-bit integers: operands and functions. */

#ifndef ZOO_CODEBOOK_MATVEC_H
#define ZOO_CODEBOOK_MATVEC_H

#include <stddef.h>
#include <stdint.h>

#define LANES 16

typedef struct {
  int32_t rows, cells, dim, bits, group_cells, group_rows, tokens, threads;
} Shape;

typedef struct {
  Shape s;
  const uint8_t *codes;
  const int8_t *codebook;
  const uint16_t *scale;
  const float *planes;
  float *y;
  int groups, row_groups, row_bytes;
  int width, pitch; /* floats of a token's planes; bytes of a table of one coordinate */
} Job;

/* A product y (tokens, rows) of the weight of that shape, as yet without planes. */
Job codebook_job(const Shape *shape, const uint8_t *codes, const int8_t *codebook,
                 const uint16_t *scale, float *y);

/* x (tokens, cells * dim), coordinate by coordinate, in `planes` of so many bytes. */
size_t codebook_plane_bytes(const Job *j);
void codebook_planes(Job *j, const float *x, float *planes);

/* Rows [begin, end); returns 0, or 1 without memory. */
int codebook_rows(const Job *j, int begin, int end);

/* Rows of 8-bit integers times one scale each. The sums run as those of one column group of codes
   that stand for themselves. */
typedef struct {
  int32_t rows, columns;
  const int8_t *codes;
  const uint16_t *scale;
} Rows8;

/* Floats of a token's input: its columns, and zeros. */
int rows8_length(int columns);

/* Rows [begin, end) of y (tokens, rows); returns 0, or 1 without memory. */
int rows8(const Rows8 *w, const float *planes, int tokens, int begin, int end, float *y);

#endif
