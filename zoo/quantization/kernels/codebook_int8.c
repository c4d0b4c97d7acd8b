/* y = W x for weights of small codebooks and 8-bit inputs, in whole numbers within each group.

   The contract is that of int4_int8.c, with one scale for all rows of a codebook:
     y[r] = ((0 + (scale[0] * s[0]) * I[0, r]) + (scale[1] * s[1]) * I[1, r]) + ... in float32,
   I[g, r] the sum over group g of entry * q, exact in int32. Entries are looked up by shuffles of
   bytes, in tables that lie in registers: the claim of GPTVQ (van Baalen et al. 2024,
   arXiv:2402.15319), that codebooks decode as fast as integers. */

#include "codebook_int8.h"

#include <stdlib.h>

#include "unpack.h"

/* sums[i] = sum of entry * x in `count` rows; `sum` is that of x alone. */
typedef void (*Group)(const Cells *c, const int8_t *x, int32_t sum, int32_t *sums);

static void cells_portable(const Cells *c, const int8_t *x, int32_t sum, int32_t *sums) {
  (void)sum;
  for (int i = 0; i < c->count; i++) {
    const uint8_t *codes = c->codes + i * c->stride;
    sums[i] = 0;
    for (int at = 0; at < c->cells; at++)
      for (int p = 0; p < c->dim; p++)
        sums[i] += c->tables[p * c->size + codes[at]] *
                   x[at / CELLS * CELLS * c->dim + p * CELLS + at % CELLS];
  }
}

#if defined(__x86_64__) && defined(__GNUC__)
#include "codebook_int8_x86.h"
#elif defined(__aarch64__) && defined(__GNUC__)
#include "codebook_int8_neon.h"
#endif

static Group group_of(int level) {
#if defined(__x86_64__) && defined(__GNUC__)
  if (level == VNNI && __builtin_cpu_supports("avx512vbmi")) return cells_vbmi;
  if (level == VNNI || level == AVX2) return cells_avx2;
#elif defined(__aarch64__) && defined(__GNUC__)
  if (level == NEON) return cells_neon;
  if (level == DOTPROD) return cells_dotprod;
#endif
  (void)level;
  return cells_portable;
}

static int groups_of(const Books *w) { return (w->columns + w->span - 1) / w->span; }
static int cells_of(const Books *w, int group) {
  const int left = w->columns - group * w->span;
  return (left < w->span ? left : w->span) / w->dim;
}
static int whole(int cells) { return (cells + CELLS - 1) / CELLS * CELLS; }

int64_t books_input_bytes(const Books *w) {
  const int groups = groups_of(w);
  int64_t cells = 0;
  for (int g = 0; g < groups; g++) cells += whole(cells_of(w, g));
  return cells * w->dim + (groups + CHUNK - 1) / CHUNK * CHUNK * (int64_t)sizeof(int32_t);
}

Input books_input(const Books *w, const int8_t *q, const float *scales, void *room) {
  const int groups = groups_of(w), dim = w->dim;
  int8_t *chunks = room;
  int32_t *sums = room;
  sums += books_input_bytes(w) / (int64_t)sizeof(int32_t) - groups;
  const Input input = {chunks, sums, scales};
  for (int g = 0; g < groups; g++) {
    const int cells = cells_of(w, g);
    int32_t sum = 0;
    memset(chunks, 0, whole(cells) * dim);
    for (int at = 0; at < cells; at++)
      for (int p = 0; p < dim; p++, q++) {
        sum += *q;
        chunks[at / CELLS * CELLS * dim + p * CELLS + at % CELLS] = *q;
      }
    chunks += whole(cells) * dim;
    sums[g] = sum;
  }
  return input;
}

/* A codebook coordinate by coordinate; `dim` is a constant to the compiler where it is called. */
ALWAYS void split(const int8_t *book, int count, int dim, int size, int8_t *tables) {
  for (int k = 0; k < count; k++)
    for (int p = 0; p < dim; p++) tables[p * size + k] = book[k * dim + p];
}

/* The tables of a row group, of `size` bytes each. */
static void fill_tables(const Books *w, int owner, int size, int8_t *tables) {
  const int owners = (w->rows + w->group_rows - 1) / w->group_rows, count = 1 << w->bits;
  for (int g = 0; g < groups_of(w); g++, tables += w->dim * size) {
    const int8_t *book = w->codebook + ((int64_t)g * owners + owner) * count * w->dim;
    switch (w->dim) {
      case 1: memcpy(tables, book, count); break;
      case 2: split(book, count, 2, size, tables); break;
      case 4: split(book, count, 4, size, tables); break;
      default: split(book, count, w->dim, size, tables);
    }
  }
}

static void block(const Books *w, Group group, Cells cells, int owner, const Input *inputs,
                  int tokens, float *y, int64_t pitch) {
  const int groups = groups_of(w), owners = (w->rows + w->group_rows - 1) / w->group_rows;
  float total[TOKENS][BLOCK] = {{0}};
  int64_t at = 0;
  for (int g = 0; g < groups; g++) {
    const float scale = half_to_float(w->scale[(int64_t)g * owners + owner]);
    cells.cells = cells_of(w, g);
    for (int t = 0; t < tokens; t++) {
      int32_t sums[BLOCK] = {0};
      group(&cells, inputs[t].chunks + at, inputs[t].sums[g], sums);
      const float step = scale * inputs[t].scales[g];
      for (int i = 0; i < BLOCK; i++) total[t][i] += step * (float)sums[i];
    }
    cells.codes += cells.cells;
    cells.tables += cells.dim * cells.size;
    at += whole(cells.cells) * cells.dim;
  }
  for (int t = 0; t < tokens; t++)
    for (int i = 0; i < cells.count; i++) y[t * pitch + i] = total[t][i];
}

int books_rows(const Books *w, int level, const Input *inputs, int tokens, int begin, int end,
               float *y, int64_t pitch) {
  const int count = w->columns / w->dim, stride = whole(count) + 2 * SLACK;
  const int size = w->bits < 6 ? 64 : 1 << w->bits;
  const int64_t row_bytes = ((int64_t)count * w->bits + 7) / 8;
  const Group group = group_of(level);
  const Cut cut = cut_of(w->bits);
  int8_t *tables = calloc((size_t)groups_of(w) * w->dim * size, 1);
  uint8_t *codes = calloc((size_t)BLOCK * stride, 1);
  const int failed = !tables || !codes;
  for (int row = begin, known = -1; row < end && !failed;) {
    const int owner = row / w->group_rows;
    const int64_t last = (int64_t)(owner + 1) * w->group_rows;
    int some = (int)((last < end ? last : end) - row);
    some = some < BLOCK ? some : BLOCK;
    if (owner != known) fill_tables(w, known = owner, size, tables);
    for (int i = 0; i < some; i++) {
      const uint8_t *next = w->codes + (row + i + BLOCK) * row_bytes; /* is fetched meanwhile */
      for (int64_t ahead = 0; ahead < row_bytes; ahead += 64) __builtin_prefetch(next + ahead);
      unpack(w->codes + (row + i) * row_bytes, &cut, count, codes + i * stride);
    }
    const Cells cells = {codes, tables, stride, some, 0, w->dim, size, 1 << w->bits};
    block(w, group, cells, owner, inputs, tokens, y + row, pitch);
    row += some;
  }
  free(tables), free(codes);
  return failed;
}

int zoo_books_int8(const Books *w, int32_t tokens, int32_t threads, int32_t level, const int8_t *q,
                   const float *scale, float *y) {
  const int64_t bytes = books_input_bytes(w);
  const int some = tokens < TOKENS ? tokens : TOKENS;
  char *room = malloc(bytes * some);
  int failed = !room;
  for (int from = 0; from < tokens && !failed; from += TOKENS) {
    const int count = tokens - from < TOKENS ? tokens - from : TOKENS;
    Input inputs[TOKENS];
    for (int t = 0; t < count; t++)
      inputs[t] = books_input(w, q + (int64_t)(from + t) * w->columns,
                              scale + (int64_t)(from + t) * groups_of(w), room + t * bytes);
    float *to = y + (int64_t)from * w->rows;
#pragma omp parallel for num_threads(threads) reduction(| : failed) if (threads > 1)
    for (int part = 0; part < threads; part++)
      failed |= books_rows(w, level, inputs, count, (int)((int64_t)w->rows * part / threads),
                           (int)((int64_t)w->rows * (part + 1) / threads), to, w->rows);
  }
  free(room);
  return failed;
}
