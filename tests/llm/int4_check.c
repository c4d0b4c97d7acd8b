/* Products by the kernel in int4_int8.c: operands on stdin, y on stdout, the level as argument.
   Each operand lies in memory of its own size, so that valgrind sees what is read behind it. */

#include <stdio.h>
#include <stdlib.h>

#include "int4_int8.h"

static void *take(size_t bytes) {
  void *room = malloc(bytes ? bytes : 1);
  if (!room || fread(room, 1, bytes, stdin) != bytes) exit(3);
  return room;
}

static int product(const int32_t *sizes, int level) {
  const int rows = sizes[0], columns = sizes[1], span = sizes[2], tokens = sizes[3];
  const int groups = (columns + span - 1) / span;
  Int4 w = {.rows = rows, .columns = columns, .span = span};
  w.codes = take((size_t)rows * ((columns + 1) / 2));
  if (sizes[4])
    w.table = take(16);
  else
    w.zero = take((size_t)groups * ((rows + 1) / 2));
  w.scale = take((size_t)groups * rows * sizeof *w.scale);
  int8_t *q = take((size_t)tokens * columns);
  float *scale = take(tokens * sizeof *scale), *y = malloc((size_t)tokens * rows * sizeof *y);
  if (!y || zoo_int4_int8(&w, tokens, 3, level, q, scale, y)) return 5;
  if (fwrite(y, sizeof *y, (size_t)tokens * rows, stdout) != (size_t)tokens * rows) return 6;
  free((void *)w.codes), free((void *)w.zero), free((void *)w.table), free((void *)w.scale);
  free(q), free(scale), free(y);
  return 0;
}

int main(int count, char **words) {
  if (count != 2) return 2;
  const int level = atoi(words[1]);
  if (zoo_int8_level(level) != level) return 4; /* the processor has none of it */
  int32_t sizes[5]; /* rows, columns, span, tokens, whether there is a table */
  int failed = 0;
  while (!failed && fread(sizes, sizeof *sizes, 5, stdin) == 5) failed = product(sizes, level);
  return failed;
}
