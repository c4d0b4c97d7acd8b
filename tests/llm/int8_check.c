/* Products by the kernels for 8-bit inputs: operands on stdin, y on stdout, the level as argument.
   Each operand lies in memory of its own size, so that valgrind sees what is read behind it. */

#include <stdio.h>
#include <stdlib.h>

#include "codebook_int8.h"

typedef struct { /* kind: 4-bit integers with zero points, with a table, or codebooks */
  int32_t kind, rows, columns, span, tokens, dim, bits, group_rows;
} Sizes;

static void *take(size_t bytes) {
  void *room = malloc(bytes ? bytes : 1);
  if (!room || fread(room, 1, bytes, stdin) != bytes) exit(3);
  return room;
}

static int product(const Sizes *s, int level) {
  const size_t groups = (s->columns + s->span - 1) / s->span;
  const size_t owners = (s->rows + s->group_rows - 1) / s->group_rows;
  const size_t cells = s->columns / s->dim, entries = (size_t)s->dim << s->bits;
  uint8_t *codes = take(s->rows * ((cells * s->bits + 7) / 8)), *zero = NULL;
  int8_t *table = NULL;
  if (s->kind == 0) zero = take(groups * ((s->rows + 1) / 2));
  if (s->kind == 1) table = take(16);
  if (s->kind == 2) table = take(groups * owners * entries);
  uint16_t *scale = take(groups * (s->kind == 2 ? owners : (size_t)s->rows) * sizeof *scale);
  int8_t *q = take((size_t)s->tokens * s->columns);
  float *x_scale = take(s->tokens * groups * sizeof *x_scale);
  const size_t count = (size_t)s->tokens * s->rows;
  float *y = malloc(count * sizeof *y);
  if (!y) return 5;
  const float unit = s->kind == 1 ? 0.375f : 1.0f;
  const Int4 four = {s->rows, s->columns, s->span, codes, zero, table, scale, unit};
  const Books books = {s->rows, s->columns, s->span, s->dim, s->bits, s->group_rows,
                       codes,   table,      scale};
  if (s->kind == 2 ? zoo_books_int8(&books, s->tokens, 3, level, q, x_scale, y)
                   : zoo_int4_int8(&four, s->tokens, 3, level, q, x_scale, y))
    return 6;
  if (fwrite(y, sizeof *y, count, stdout) != count) return 7;
  free(codes), free(zero), free(table), free(scale), free(q), free(x_scale), free(y);
  return 0;
}

int main(int count, char **words) {
  if (count != 2) return 2;
  const int level = atoi(words[1]);
  if (zoo_int8_level(level) != level) return 4; /* the processor has none of it */
  Sizes sizes;
  int failed = 0;
  while (!failed && fread(&sizes, sizeof sizes, 1, stdin) == 1) failed = product(&sizes, level);
  return failed;
}
