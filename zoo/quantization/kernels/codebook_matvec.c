/* y = W x for W stored as codes of small codebooks, decoded where it is multiplied.

   The order of summation is part of the contract (in_order in matvec.py is the same in torch):
   a column group's weights lie plane after plane, a plane being one of the `dim` coordinates of
   all its cells, each plane padded to LANES; LANES partial sums run along them; a group's sums
   are multiplied by the scale of its codebook and added to those of the row; the row's LANES sums
   are halved until one is left. Products are rounded before they are added (-ffp-contract=off):
   neither threads nor instruction sets change a bit. */

#include "codebook_matvec.h"

#include <stdlib.h>
#include <string.h>

#include "unpack.h"
#define BLOCK 8  /* rows at a time: what was stored is not loaded at once */

static float from_half(uint16_t half) {
  uint32_t bits = (uint32_t)(half & 0x7fff) << 13;
  float value;
  memcpy(&value, &bits, 4);
  return (half & 0x8000 ? -1.0f : 1.0f) * (value * 0x1p112f);
}

static int padded(int cells) { return (cells + LANES - 1) / LANES * LANES; }

#ifdef VBMI
/* The entries of a table of `size` bytes at 64 codes. */
static inline __m512i look(const int8_t *table, int size, const uint8_t *codes) {
  const __m512i code = _mm512_loadu_si512(codes), a = _mm512_loadu_si512(table);
  if (size <= 64) return _mm512_permutexvar_epi8(code, a);
  const __m512i low = _mm512_permutex2var_epi8(a, code, _mm512_loadu_si512(table + 64));
  const __m512i c = _mm512_loadu_si512(table + size - 128);
  const __m512i high = _mm512_permutex2var_epi8(c, code, _mm512_loadu_si512(table + size - 64));
  return _mm512_mask_blend_epi8(_mm512_movepi8_mask(code), low, high);
}

static inline __m512 add_product(__m512 part, __m128i weights, const float *x) {
  const __m512 value = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(weights));
  return _mm512_add_ps(part, _mm512_mul_ps(value, _mm512_loadu_ps(x)));
}

/* `look_up` and `multiply` of all planes for one token, without the way through memory. */
static inline void fused(const int8_t *tables, int size, int dim, const uint8_t *codes, int step,
                         const float *x, float scale, float *sums) {
  __m512 part = _mm512_setzero_ps();
  for (int p = 0; p < dim; p++, x += step)
    for (int at = 0; at < step; at += 64) {
      const __m512i w = look(tables + p * size, size, codes + at);
      part = add_product(part, _mm512_castsi512_si128(w), x + at);
      if (step > at + 16) part = add_product(part, _mm512_extracti32x4_epi32(w, 1), x + at + 16);
      if (step > at + 32) part = add_product(part, _mm512_extracti32x4_epi32(w, 2), x + at + 32);
      if (step > at + 48) part = add_product(part, _mm512_extracti32x4_epi32(w, 3), x + at + 48);
    }
  part = _mm512_mul_ps(_mm512_set1_ps(scale), part);
  _mm512_storeu_ps(sums, _mm512_add_ps(_mm512_loadu_ps(sums), part));
}
#endif

/* The entries of a table of `size` bytes at `count` codes; `table` and `out` have SLACK. */
static void look_up(const int8_t *table, int size, const uint8_t *codes, int count, int8_t *out) {
#ifdef VBMI
  for (int at = 0; at < count; at += 64)
    _mm512_storeu_si512(out + at, look(table, size, codes + at));
#else
  (void)size;
  for (int at = 0; at < count; at++) out[at] = table[codes[at]];
#endif
}

/* `sums` += scale * (partial sums of `weights` times `x`), both of `length` = n * LANES. */
static void multiply(const int8_t *restrict weights, const float *restrict x, int length,
                     float scale, float *restrict sums) {
#ifdef VBMI
  __m512 part = _mm512_setzero_ps();
  for (int at = 0; at < length; at += LANES) {
    __m512i wide = _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(weights + at)));
    part = _mm512_add_ps(part, _mm512_mul_ps(_mm512_cvtepi32_ps(wide), _mm512_loadu_ps(x + at)));
  }
  part = _mm512_mul_ps(_mm512_set1_ps(scale), part);
  _mm512_storeu_ps(sums, _mm512_add_ps(_mm512_loadu_ps(sums), part));
#else
  float part[LANES] = {0};
  for (int at = 0; at < length; at += LANES)
    for (int lane = 0; lane < LANES; lane++)
      part[lane] += (float)weights[at + lane] * x[at + lane];
  for (int lane = 0; lane < LANES; lane++) sums[lane] += scale * part[lane];
#endif
}

static int first_cell(const Shape *s, int group) { return group * s->group_cells; }
static int count_cells(const Shape *s, int group) {
  int left = s->cells - first_cell(s, group);
  return left < s->group_cells ? left : s->group_cells;
}

typedef struct { /* of one thread */
  int8_t *tables, *weights;
  uint8_t *codes; /* of a block of rows, `stride` bytes each */
  float *sums;    /* (BLOCK, tokens, LANES) */
  int stride;
} Scratch;

/* The tables of a group of rows, coordinate by coordinate. */
static void fill_tables(const Job *j, int owner, int8_t *tables) {
  const Shape *s = &j->s;
  const int size = 1 << s->bits, dim = s->dim, pitch = j->pitch;
  for (int g = 0; g < j->groups; g++) {
    const int8_t *book = j->codebook + ((size_t)g * j->row_groups + owner) * size * dim;
    for (int p = 0; p < dim; p++, tables += pitch)
      for (int k = 0; k < size; k++) tables[k] = book[k * dim + p];
  }
}

/* Adds one column group's products to the sums of `count` rows. */
static void add_group(const Job *j, const Scratch *w, int group, int owner, int count, int place) {
  const int tokens = j->s.tokens, dim = j->s.dim, pitch = j->pitch, stride = w->stride;
  const int cells = count_cells(&j->s, group), step = padded(cells), width = j->width;
  const int8_t *tables = w->tables + group * pitch * dim;
  const uint8_t *codes = w->codes + first_cell(&j->s, group);
  const float scale = from_half(j->scale[(size_t)group * j->row_groups + owner]);
  const float *planes = j->planes + place;
  float *sums = w->sums;
#ifdef VBMI
  if (tokens == 1) {
    for (int row = 0; row < count; row++, codes += stride, sums += LANES)
      if (pitch == 64 && dim == 2 && step == 32) /* constants: the common shape unrolled */
        fused(tables, 64, 2, codes, 32, planes, scale, sums);
      else
        fused(tables, pitch, dim, codes, step, planes, scale, sums);
    return;
  }
#endif
  for (int row = 0; row < count; row++, codes += stride) {
    for (int p = 0; p < dim; p++)
      look_up(tables + p * pitch, pitch, codes, cells, w->weights + p * step);
    for (int t = 0; t < tokens; t++, sums += LANES)
      multiply(w->weights, planes + (size_t)t * width, step * dim, scale, sums);
  }
}

static void rows_of(const Job *j, Scratch *w, int begin, int end) {
  const Shape *s = &j->s;
  const Cut cut = cut_of(s->bits);
  int known = -1;
  for (int row = begin; row < end;) {
    const int owner = row / s->group_rows, last = (owner + 1) * s->group_rows;
    int count = (last < end ? last : end) - row;
    count = count < BLOCK ? count : BLOCK;
    if (owner != known) fill_tables(j, known = owner, w->tables);
    for (int i = 0; i < count; i++)
      unpack(j->codes + (size_t)(row + i) * j->row_bytes, &cut, s->cells,
             w->codes + i * w->stride);
    memset(w->sums, 0, (size_t)count * s->tokens * LANES * sizeof(float));
    for (int g = 0, place = 0; g < j->groups; g++) {
      add_group(j, w, g, owner, count, place);
      place += padded(count_cells(s, g)) * s->dim;
    }
    for (int i = 0; i < count; i++)
      for (int t = 0; t < s->tokens; t++) {
        float *of = w->sums + (i * s->tokens + t) * LANES;
        for (int half = LANES / 2; half; half /= 2)
          for (int lane = 0; lane < half; lane++) of[lane] += of[lane + half];
        j->y[(size_t)t * s->rows + row + i] = of[0];
      }
    row += count;
  }
}

int codebook_rows(const Job *j, int begin, int end) {
  const Shape *s = &j->s;
  Scratch w = {.stride = s->cells + 2 * SLACK};
  w.tables = calloc((size_t)j->groups * s->dim * j->pitch, 1);
  w.weights = calloc((size_t)padded(s->group_cells) * s->dim + 2 * SLACK, 1);
  w.codes = calloc((size_t)w.stride * BLOCK, 1);
  w.sums = malloc((size_t)BLOCK * s->tokens * LANES * sizeof(float));
  const int failed = !w.tables || !w.weights || !w.codes || !w.sums;
  if (!failed) rows_of(j, &w, begin, end);
  free(w.tables), free(w.weights), free(w.codes), free(w.sums);
  return failed;
}

Job codebook_job(const Shape *shape, const uint8_t *codes, const int8_t *codebook,
                 const uint16_t *scale, float *y) {
  Job j = {.s = *shape, .codes = codes, .codebook = codebook, .scale = scale, .y = y};
  const Shape *s = &j.s;
  j.groups = (s->cells + s->group_cells - 1) / s->group_cells;
  j.row_groups = (s->rows + s->group_rows - 1) / s->group_rows;
  j.pitch = s->bits < 6 ? 64 : 1 << s->bits;
  j.row_bytes = (s->cells * s->bits + 7) / 8;
  for (int g = 0; g < j.groups; g++) j.width += padded(count_cells(s, g)) * s->dim;
  return j;
}

size_t codebook_plane_bytes(const Job *j) {
  return ((size_t)j->s.tokens * j->width + SLACK) * sizeof(float);
}

void codebook_planes(Job *j, const float *x, float *planes) {
  const Shape *s = &j->s;
  memset(planes, 0, codebook_plane_bytes(j));
  for (int t = 0; t < s->tokens; t++) {
    float *to = planes + (size_t)t * j->width;
    for (int g = 0; g < j->groups; g++) {
      const int count = count_cells(s, g), step = padded(count);
      const float *from = x + ((size_t)t * s->cells + first_cell(s, g)) * s->dim;
      for (int i = 0; i < count; i++)
        for (int p = 0; p < s->dim; p++) to[p * step + i] = from[i * s->dim + p];
      to += step * s->dim;
    }
  }
  j->planes = planes;
}

/* x (tokens, cells * dim) and y (tokens, rows), contiguous; returns 0, or 1 without memory. */
int zoo_codebook_matvec(const Shape *s, const uint8_t *codes, const int8_t *codebook,
                        const uint16_t *scale, const float *x, float *y) {
  Job j = codebook_job(s, codes, codebook, scale, y);
  float *planes = malloc(codebook_plane_bytes(&j));
  if (!planes) return 1;
  codebook_planes(&j, x, planes);
  int failed = 0;
#pragma omp parallel for num_threads(s->threads) reduction(| : failed) if (s->threads > 1)
  for (int part = 0; part < s->threads; part++)
    failed |= codebook_rows(&j, (int)((int64_t)s->rows * part / s->threads),
                            (int)((int64_t)s->rows * (part + 1) / s->threads));
  free(planes);
  return failed;
}

int rows8_length(int columns) { return padded(columns); }

#define TOGETHER 4 /* rows, whose sums do not wait for each other */

/* `multiply` of rows `pitch` bytes apart, from zero, and the halving of their sums. */
static void multiply_rows(const int8_t *restrict weights, int pitch, const float *restrict x,
                          int length, const float *scale, float *restrict y) {
#ifdef VBMI
  __m512 part[TOGETHER];
  for (int i = 0; i < TOGETHER; i++) part[i] = _mm512_setzero_ps();
  for (int at = 0; at < length; at += LANES) {
    const __m512 in = _mm512_loadu_ps(x + at);
    /* Rows side by side are no sequence that a processor foresees. */
    __builtin_prefetch(weights + (size_t)2 * TOGETHER * pitch + TOGETHER * at);
    for (int i = 0; i < TOGETHER; i++) {
      const __m128i *from = (const __m128i *)(weights + (size_t)i * pitch + at);
      const __m512 value = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(from)));
      part[i] = _mm512_add_ps(part[i], _mm512_mul_ps(value, in));
    }
  }
  for (int i = 0; i < TOGETHER; i++) {
    const __m512 sums = _mm512_add_ps(_mm512_setzero_ps(),
                                      _mm512_mul_ps(_mm512_set1_ps(scale[i]), part[i]));
    const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(sums),
                                       _mm512_extractf32x8_ps(sums, 1));
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    y[i] = _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
  }
#else
  for (int i = 0; i < TOGETHER; i++) {
    float sums[LANES] = {0};
    multiply(weights + (size_t)i * pitch, x, length, scale[i], sums);
    for (int half = LANES / 2; half; half /= 2)
      for (int lane = 0; lane < half; lane++) sums[lane] += sums[lane + half];
    y[i] = sums[0];
  }
#endif
}

int rows8(const Rows8 *w, const float *planes, int tokens, int begin, int end, float *y) {
  const int length = padded(w->columns);
  int8_t *copies = calloc(TOGETHER, length);
  if (!copies) return 1;
  for (int row = begin; row < end; row += TOGETHER) {
    const int count = end - row < TOGETHER ? end - row : TOGETHER;
    const int8_t *of = w->codes + (size_t)row * w->columns;
    int pitch = w->columns;
    float scale[TOGETHER] = {0}, sums[TOGETHER];
    for (int i = 0; i < count; i++) scale[i] = from_half(w->scale[row + i]);
    /* What follows a row up to `length` is the next one's, and is multiplied by zero; the last
       rows are copied, so that nothing behind the codes is read. */
    if ((int64_t)(w->rows - row) * pitch < (int64_t)(TOGETHER - 1) * pitch + length) {
      for (int i = 0; i < count; i++)
        memcpy(copies + (size_t)i * length, of + (size_t)i * pitch, pitch);
      of = copies, pitch = length;
    }
    for (int t = 0; t < tokens; t++) {
      multiply_rows(of, pitch, planes + (size_t)t * length, length, scale, sums);
      for (int i = 0; i < count; i++) y[(size_t)t * w->rows + row + i] = sums[i];
    }
  }
  free(copies);
  return 0;
}

int zoo_rows_matvec(int32_t count, int32_t columns, int32_t tokens, int32_t threads,
                    const int8_t *codes, const uint16_t *scale, const float *x, float *y) {
  const Rows8 w = {count, columns, codes, scale};
  const int length = padded(columns);
  float *planes = calloc((size_t)tokens * length, sizeof(float));
  if (!planes) return 1;
  for (int t = 0; t < tokens; t++)
    memcpy(planes + (size_t)t * length, x + (size_t)t * columns, columns * sizeof(float));
  int failed = 0;
#pragma omp parallel for num_threads(threads) reduction(| : failed) if (threads > 1)
  for (int part = 0; part < threads; part++)
    failed |= rows8(&w, planes, tokens, (int)((int64_t)count * part / threads),
                    (int)((int64_t)count * (part + 1) / threads), y);
  free(planes);
  return failed;
}

/* Whole matrices, for products with many tokens. */

typedef struct {
  uint64_t of[2];
} Sixteen;
typedef struct {
  uint64_t of[4];
} Thirty2;

#define COPY(type) \
  for (int i = 0; i < count; i++) ((type *)out)[i] = ((const type *)table)[codes[i]]

/* The entries of `bytes` bytes at `count` codes. */
static void copy(const char *table, int bytes, const uint8_t *codes, int count, char *out) {
  switch (bytes) {
    case 2: COPY(uint16_t); break;
    case 4: COPY(uint32_t); break;
    case 8: COPY(uint64_t); break;
    case 16: COPY(Sixteen); break;
    default: COPY(Thirty2);
  }
}

/* scale * (code - zero), rounded to the nearest bfloat16 if `bytes` is 2. */
static void steps(const uint8_t *codes, int count, float scale, float zero, int bytes, char *out) {
  if (bytes == 4) {
    for (int i = 0; i < count; i++) ((float *)out)[i] = scale * ((float)codes[i] - zero);
    return;
  }
  for (int i = 0; i < count; i++) {
    const float value = scale * ((float)codes[i] - zero);
    uint32_t bits;
    memcpy(&bits, &value, 4);
    ((uint16_t *)out)[i] = (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
  }
}

/* out (rows, cells), `bytes` bytes a cell: from `tables` (column groups, row groups, 2^bits), or,
   without, scales and zeros (column groups, rows); returns 0, or 1 without memory. */
int zoo_decode(const Shape *s, int32_t bytes, const uint8_t *codes, const char *tables,
               const uint16_t *scale, const uint8_t *zero, char *out) {
  const int groups = (s->cells + s->group_cells - 1) / s->group_cells;
  const int row_groups = (s->rows + s->group_rows - 1) / s->group_rows;
  const int row_bytes = (s->cells * s->bits + 7) / 8, size = (1 << s->bits) * bytes;
  const Cut cut = cut_of(s->bits);
  int failed = 0;
#pragma omp parallel for num_threads(s->threads) reduction(| : failed) if (s->threads > 1)
  for (int part = 0; part < s->threads; part++) {
    uint8_t *row_codes = malloc(s->cells + 2 * SLACK);
    const int end = (int)((int64_t)s->rows * (part + 1) / s->threads);
    failed |= !row_codes;
    for (int row = (int)((int64_t)s->rows * part / s->threads); row_codes && row < end; row++) {
      unpack(codes + (size_t)row * row_bytes, &cut, s->cells, row_codes);
      for (int g = 0; g < groups; g++) {
        const int count = count_cells(s, g), first = first_cell(s, g);
        const size_t owner = (size_t)g * row_groups + row / s->group_rows;
        char *to = out + ((size_t)row * s->cells + first) * bytes;
        if (tables) copy(tables + owner * size, bytes, row_codes + first, count, to);
        else steps(row_codes + first, count, from_half(scale[owner]), zero[owner], bytes, to);
      }
    }
    free(row_codes);
  }
  return failed;
}
