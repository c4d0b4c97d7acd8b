/* One step of a decoder of Llama's kind: a token's hidden state in, its logits out, keys and values
   appended to a cache that lies still. What a step in Python spends between its products is spent
   here once: threads stay awake from product to product, and products of one input share it. */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "codebook_int8.h"
#include "codebook_matvec.h"
#include "int4_int8.h"

typedef enum { INT4, BOOKS, BOOKS8, ROWS8, FLOATS, BRAINS } Kind;

/* W (rows, columns) of a kind; what is not of it is zero. */
typedef struct {
  int32_t kind, rows, columns, span, dim, bits, group_rows, padding;
  const void *codes, *zero, *table, *scale;
  const float *bias;
  const int32_t *order; /* the columns of x in the order of those of W */
  float unit;           /* of a table of INT4 */
} Linear;

typedef struct {
  const float *norm, *inner_norm, *q_norm, *k_norm; /* the last two for some, (head_dim) */
  Linear q, k, v, o, gate, up, down;
  void *keys, *values; /* (kv_heads, capacity, head_dim) */
} Layer;

typedef struct {
  int32_t layers, hidden, heads, kv_heads, head_dim, inner, capacity, cache_bytes, threads, level;
  float epsilon, attention_scale;
  const Layer *layer;
  const float *norm;
  Linear head;
  const float *cos, *sin; /* (capacity, head_dim) */
} Model;

typedef struct { /* an input as one kind of weights takes it */
  const Linear *of;
  const float *x;
  Input input;
  Job job;
  float *planes;
} Ready;

typedef struct { /* of one step */
  float *x, *normed, *q, *k, *v, *attended, *gate, *up, *scores;
  char *room; /* THREE parts of `part` bytes */
  size_t part;
} Scratch;

#define THREE 3 /* products of one input at most */

static float dot(const float *a, const float *b, int length) {
  float sums[LANES] = {0};
  int at = 0;
  for (; at + LANES <= length; at += LANES)
    for (int lane = 0; lane < LANES; lane++) sums[lane] += a[at + lane] * b[at + lane];
  for (int lane = 0; at + lane < length; lane++) sums[lane] += a[at + lane] * b[at + lane];
  for (int half = LANES / 2; half; half /= 2)
    for (int lane = 0; lane < half; lane++) sums[lane] += sums[lane + half];
  return sums[0];
}

static float brain(uint16_t bits) {
  const uint32_t wide = (uint32_t)bits << 16;
  float value;
  memcpy(&value, &wide, 4);
  return value;
}

static uint16_t to_brain(float value) {
  uint32_t bits;
  memcpy(&bits, &value, 4);
  return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static float dot_brain(const float *a, const uint16_t *b, int length) {
  float sums[LANES] = {0};
  int at = 0;
  for (; at + LANES <= length; at += LANES)
    for (int lane = 0; lane < LANES; lane++) sums[lane] += a[at + lane] * brain(b[at + lane]);
  for (int lane = 0; at + lane < length; lane++) sums[lane] += a[at + lane] * brain(b[at + lane]);
  for (int half = LANES / 2; half; half /= 2)
    for (int lane = 0; lane < half; lane++) sums[lane] += sums[lane + half];
  return sums[0];
}

static void rms_norm(const float *x, const float *weight, int length, float epsilon, float *y) {
  const float factor = 1.0f / sqrtf(dot(x, x, length) / (float)length + epsilon);
  for (int i = 0; i < length; i++) y[i] = weight[i] * (x[i] * factor);
}

static Int4 int4_of(const Linear *w) {
  return (Int4){w->rows, w->columns, w->span, w->codes, w->zero, w->table, w->scale, w->unit};
}

static Books books_of(const Linear *w) {
  return (Books){w->rows,       w->columns, w->span,  w->dim,  w->bits,
                 w->group_rows, w->codes,   w->table, w->scale};
}

static Job job_of(const Linear *w, float *y) {
  const int cells = w->columns / w->dim;
  const Shape s = {w->rows, cells, w->dim, w->bits, w->span / w->dim, w->group_rows, 1, 1};
  return codebook_job(&s, w->codes, w->table, w->scale, y);
}

static size_t rounded_up(size_t bytes) { return (bytes + 63) / 64 * 64; }

/* Bytes that an input of `w` takes; see `prepare`. */
static size_t room_for(const Linear *w) {
  const size_t floats = rounded_up(w->columns * sizeof(float));
  if (w->kind == INT4) {
    const Int4 of = int4_of(w);
    return 2 * floats + rounded_up(w->columns) + rounded_up(int4_input_bytes(&of));
  }
  if (w->kind == BOOKS8) {
    const Books of = books_of(w);
    return 2 * floats + rounded_up(w->columns) + rounded_up(books_input_bytes(&of));
  }
  if (w->kind == BOOKS) {
    const Job job = job_of(w, NULL);
    return rounded_up(codebook_plane_bytes(&job));
  }
  return w->kind == ROWS8 ? rounded_up(rows8_length(w->columns) * sizeof(float)) : 0;
}

static int same_input(const Linear *a, const Linear *b) {
  return a->kind == b->kind && a->columns == b->columns && a->span == b->span &&
         a->dim == b->dim && a->order == b->order;
}

static Ready prepare(const Linear *w, const float *x, float *y, char *room) {
  Ready ready = {.of = w, .x = x};
  if (w->kind == INT4 || w->kind == BOOKS8) {
    const Int4 four = int4_of(w);
    const Books books = books_of(w);
    const size_t floats = rounded_up(w->columns * sizeof(float));
    float *ordered = (float *)room, *scales = (float *)(room + floats); /* a column each at most */
    int8_t *q = (int8_t *)(room + 2 * floats), *rest = q + rounded_up(w->columns);
    if (w->order) {
      for (int i = 0; i < w->columns; i++) ordered[i] = x[w->order[i]];
      x = ordered;
    }
    zoo_int8_inputs(1, w->columns, w->span, x, q, scales);
    ready.input = w->kind == INT4 ? int4_input(&four, q, scales, rest)
                                  : books_input(&books, q, scales, rest);
  } else if (w->kind == BOOKS) {
    ready.job = job_of(w, y);
    codebook_planes(&ready.job, x, (float *)room);
  } else if (w->kind == ROWS8) {
    ready.planes = (float *)room;
    memset(room, 0, rows8_length(w->columns) * sizeof(float));
    memcpy(room, x, w->columns * sizeof(float));
  }
  return ready;
}

/* Where part `part` of `parts` begins: at whole blocks, as products of 4-bit weights are shared. */
static int first_row(int rows, int part, int parts) {
  const int64_t blocks = (rows + BLOCK - 1) / BLOCK, row = blocks * part / parts * BLOCK;
  return row < rows ? (int)row : rows;
}

static int some_rows(const Ready *r, const Linear *w, int level, int part, int parts, float *y) {
  const int begin = first_row(w->rows, part, parts), end = first_row(w->rows, part + 1, parts);
  int failed = 0;
  if (w->kind == INT4) {
    const Int4 of = int4_of(w);
    int4_rows(&of, level, &r->input, 1, part, parts, y, w->rows);
  } else if (w->kind == BOOKS8) {
    const Books of = books_of(w);
    failed = books_rows(&of, level, &r->input, 1, begin, end, y, w->rows);
  } else if (w->kind == BOOKS) {
    Job job = job_of(w, y);
    job.planes = r->job.planes;
    failed = codebook_rows(&job, begin, end);
  } else if (w->kind == ROWS8) {
    const Rows8 of = {w->rows, w->columns, w->codes, w->scale};
    failed = rows8(&of, r->planes, 1, begin, end, y);
  } else if (w->kind == FLOATS) {
    const float *row = (const float *)w->codes + (int64_t)begin * w->columns;
    for (int i = begin; i < end; i++, row += w->columns) y[i] = dot(r->x, row, w->columns);
  } else {
    const uint16_t *row = (const uint16_t *)w->codes + (int64_t)begin * w->columns;
    for (int i = begin; i < end; i++, row += w->columns) y[i] = dot_brain(r->x, row, w->columns);
  }
  if (w->bias)
    for (int i = begin; i < end; i++) y[i] += w->bias[i];
  return failed;
}

typedef enum { NOTHING, ADD, GATE } After;

/* y[i] = w[i] x for `count` weights of one input. After: the first is added to the hidden state, or
   is the gate of the second. */
static int products(const Model *m, Scratch *s, int count, const Linear *const *w, const float *x,
                    float *const *y, After after) {
  Ready ready[THREE];
  for (int i = 0; i < count; i++) {
    int known = 0;
    while (known < i && !same_input(w[known], w[i])) known++;
    ready[i] = known < i ? ready[known] : prepare(w[i], x, y[i], s->room + i * s->part);
  }
  int failed = 0;
#pragma omp parallel for num_threads(m->threads) reduction(| : failed) if (m->threads > 1)
  for (int part = 0; part < m->threads; part++) {
    for (int i = 0; i < count; i++)
      failed |= some_rows(&ready[i], w[i], m->level, part, m->threads, y[i]);
    const int end = first_row(w[0]->rows, part + 1, m->threads);
    for (int i = first_row(w[0]->rows, part, m->threads); i < end && after; i++)
      if (after == ADD)
        s->x[i] += y[0][i];
      else
        y[0][i] = y[0][i] / (1.0f + expf(-y[0][i])) * y[1][i];
  }
  return failed;
}

/* Heads of `count` turned to their position: x cos + (-x2, x1) sin, after their norm. */
static void turn(const Model *m, int count, const float *norm, int position, float *x) {
  const int size = m->head_dim, half = size / 2;
  const float *cos = m->cos + (int64_t)position * size, *sin = m->sin + (int64_t)position * size;
  for (int head = 0; head < count; head++, x += size) {
    if (norm) rms_norm(x, norm, size, m->epsilon, x);
    for (int i = 0; i < half; i++) {
      const float a = x[i], b = x[i + half];
      x[i] = a * cos[i] - b * sin[i];
      x[i + half] = b * cos[i + half] + a * sin[i + half];
    }
  }
}

static void keep(const Model *m, const float *x, void *cache, int position) {
  for (int head = 0; head < m->kv_heads; head++, x += m->head_dim) {
    const int64_t at = ((int64_t)head * m->capacity + position) * m->head_dim;
    if (m->cache_bytes == 4)
      memcpy((float *)cache + at, x, m->head_dim * sizeof(float));
    else
      for (int i = 0; i < m->head_dim; i++) ((uint16_t *)cache + at)[i] = to_brain(x[i]);
  }
}

/* One head: softmax(q K^T) V over the first `count` positions. */
static void attend(const Model *m, const Layer *l, int head, int count, const float *q, float *scores,
                   float *y) {
  const int size = m->head_dim, wide = m->cache_bytes == 4;
  const int64_t at = (int64_t)(head / (m->heads / m->kv_heads)) * m->capacity * size;
  const float *keys = (const float *)l->keys + at, *values = (const float *)l->values + at;
  const uint16_t *short_keys = (const uint16_t *)l->keys + at;
  const uint16_t *short_values = (const uint16_t *)l->values + at;
  float largest = -INFINITY, total = 0;
  for (int t = 0; t < count; t++) {
    const int64_t row = (int64_t)t * size;
    scores[t] = wide ? dot(q, keys + row, size) : dot_brain(q, short_keys + row, size);
    scores[t] *= m->attention_scale;
    largest = scores[t] > largest ? scores[t] : largest;
  }
  for (int t = 0; t < count; t++) total += scores[t] = expf(scores[t] - largest);
  memset(y, 0, size * sizeof(float));
  for (int t = 0; t < count; t++) {
    const float share = scores[t] / total;
    const float *row = values + (int64_t)t * size;
    const uint16_t *short_row = short_values + (int64_t)t * size;
    if (wide)
      for (int i = 0; i < size; i++) y[i] += share * row[i];
    else
      for (int i = 0; i < size; i++) y[i] += share * brain(short_row[i]);
  }
}

static int layer_step(const Model *m, const Layer *l, int position, Scratch *s) {
  const int size = m->head_dim, count = position + 1;
  rms_norm(s->x, l->norm, m->hidden, m->epsilon, s->normed);
  int failed = products(m, s, 3, (const Linear *[]){&l->q, &l->k, &l->v}, s->normed,
                        (float *[]){s->q, s->k, s->v}, NOTHING);
  turn(m, m->heads, l->q_norm, position, s->q);
  turn(m, m->kv_heads, l->k_norm, position, s->k);
  keep(m, s->k, l->keys, position);
  keep(m, s->v, l->values, position);
#pragma omp parallel for num_threads(m->threads) if (m->threads > 1)
  for (int head = 0; head < m->heads; head++)
    attend(m, l, head, count, s->q + head * size, s->scores + (int64_t)head * count,
           s->attended + head * size);
  failed |= products(m, s, 1, (const Linear *[]){&l->o}, s->attended, (float *[]){s->normed}, ADD);
  rms_norm(s->x, l->inner_norm, m->hidden, m->epsilon, s->normed);
  failed |= products(m, s, 2, (const Linear *[]){&l->gate, &l->up}, s->normed,
                     (float *[]){s->gate, s->up}, GATE);
  failed |= products(m, s, 1, (const Linear *[]){&l->down}, s->gate, (float *[]){s->normed}, ADD);
  return failed;
}

static size_t largest_room(const Model *m) {
  size_t most = room_for(&m->head);
  for (int i = 0; i < m->layers; i++) {
    const Layer *l = &m->layer[i];
    const Linear *every[] = {&l->q, &l->k, &l->v, &l->o, &l->gate, &l->up, &l->down};
    for (int k = 0; k < 7; k++) {
      const size_t room = room_for(every[k]);
      most = room > most ? room : most;
    }
  }
  return most;
}

/* x (hidden) of the token at `position` -> logits; the cache holds what came before. Returns 0, or 1
   without memory. */
int zoo_step(const Model *m, const float *x, int32_t position, float *logits) {
  const size_t heads = (size_t)m->heads * m->head_dim, kv = (size_t)m->kv_heads * m->head_dim;
  const size_t scores = (size_t)m->heads * (position + 1);
  const size_t floats = 2 * m->hidden + 2 * heads + 2 * kv + 2 * m->inner + scores;
  Scratch s = {.part = largest_room(m)};
  const size_t room = THREE * s.part;
  char *all = aligned_alloc(64, rounded_up(room + floats * sizeof(float)));
  if (!all) return 1;
  s.room = all;
  s.x = (float *)(all + room), s.normed = s.x + m->hidden, s.q = s.normed + m->hidden;
  s.attended = s.q + heads, s.k = s.attended + heads, s.v = s.k + kv;
  s.gate = s.v + kv, s.up = s.gate + m->inner, s.scores = s.up + m->inner;
  memcpy(s.x, x, m->hidden * sizeof(float));
  int failed = 0;
  for (int i = 0; i < m->layers && !failed; i++) failed = layer_step(m, &m->layer[i], position, &s);
  rms_norm(s.x, m->norm, m->hidden, m->epsilon, s.normed);
  const Linear *head[] = {&m->head};
  failed |= products(m, &s, 1, head, s.normed, &logits, NOTHING);
  free(all);
  return failed;
}
