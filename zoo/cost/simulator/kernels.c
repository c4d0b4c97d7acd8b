/* The int8 kernels of TFLite Micro's reference arithmetic, channels last, for one sample.

   Sizes are constants where a kernel is called, so a compiler makes each call its own. */
#include <stdint.h>

#define KERNEL static inline __attribute__((always_inline)) void
#define OPERATOR static __attribute__((noinline)) void

/* MultiplyByQuantizedMultiplier, rounded twice. */
static inline int32_t rescaled(int32_t x, int32_t multiplier, int32_t shift) {
  const int32_t left = shift > 0 ? shift : 0, right = left - shift;
  const int64_t product = (int64_t)(int32_t)((uint32_t)x << left) * multiplier;
  const int64_t high = (product + (1LL << 30)) >> 31;
  if (right == 0) return (int32_t)high;
  return (int32_t)((high + (1LL << (right - 1)) + (high >> 63)) >> right);
}

static inline int8_t clamped(int32_t x, int32_t low, int32_t high) {
  return (int8_t)(x < low ? low : x > high ? high : x);
}

typedef struct {
  int height, width, channels; /* of the input */
  int rows, columns, outputs;  /* of the output */
  int kernel_h, kernel_w, stride_h, stride_w, top, left, dilation_h, dilation_w;
  int32_t input_zero, output_zero, low, high;
} Window;

KERNEL conv2d(const int8_t *x, int8_t *y, const int8_t *weight, const int32_t *bias,
              const int32_t *multiplier, const int32_t *shift, Window s) {
  for (int row = 0; row < s.rows; row++)
    for (int column = 0; column < s.columns; column++)
      for (int o = 0; o < s.outputs; o++) {
        int32_t sum = bias[o];
        for (int i = 0; i < s.kernel_h; i++) {
          const int h = row * s.stride_h - s.top + i * s.dilation_h;
          if (h < 0 || h >= s.height) continue;
          for (int j = 0; j < s.kernel_w; j++) {
            const int w = column * s.stride_w - s.left + j * s.dilation_w;
            if (w < 0 || w >= s.width) continue;
            const int8_t *from = x + (h * s.width + w) * s.channels;
            const int8_t *by = weight + ((o * s.kernel_h + i) * s.kernel_w + j) * s.channels;
            for (int c = 0; c < s.channels; c++) sum += by[c] * (from[c] - s.input_zero);
          }
        }
        *y++ = clamped(rescaled(sum, multiplier[o], shift[o]) + s.output_zero, s.low, s.high);
      }
}

KERNEL depthwise(const int8_t *x, int8_t *y, const int8_t *weight, const int32_t *bias,
                 const int32_t *multiplier, const int32_t *shift, Window s) {
  const int times = s.outputs / s.channels;
  for (int row = 0; row < s.rows; row++)
    for (int column = 0; column < s.columns; column++)
      for (int o = 0; o < s.outputs; o++) {
        int32_t sum = bias[o];
        for (int i = 0; i < s.kernel_h; i++) {
          const int h = row * s.stride_h - s.top + i * s.dilation_h;
          if (h < 0 || h >= s.height) continue;
          for (int j = 0; j < s.kernel_w; j++) {
            const int w = column * s.stride_w - s.left + j * s.dilation_w;
            if (w < 0 || w >= s.width) continue;
            const int32_t value = x[(h * s.width + w) * s.channels + o / times];
            sum += weight[(i * s.kernel_w + j) * s.outputs + o] * (value - s.input_zero);
          }
        }
        *y++ = clamped(rescaled(sum, multiplier[o], shift[o]) + s.output_zero, s.low, s.high);
      }
}

KERNEL average_pool(const int8_t *x, int8_t *y, Window s) {
  for (int row = 0; row < s.rows; row++)
    for (int column = 0; column < s.columns; column++)
      for (int c = 0; c < s.channels; c++) {
        int32_t sum = 0, count = 0;
        for (int i = 0; i < s.kernel_h; i++)
          for (int j = 0; j < s.kernel_w; j++) {
            const int h = row * s.stride_h - s.top + i, w = column * s.stride_w - s.left + j;
            if (h < 0 || h >= s.height || w < 0 || w >= s.width) continue;
            sum += x[(h * s.width + w) * s.channels + c];
            count++;
          }
        sum = sum > 0 ? (sum + count / 2) / count : (sum - count / 2) / count;
        *y++ = clamped(sum, s.low, s.high);
      }
}

KERNEL max_pool(const int8_t *x, int8_t *y, Window s) {
  for (int row = 0; row < s.rows; row++)
    for (int column = 0; column < s.columns; column++)
      for (int c = 0; c < s.channels; c++) {
        int32_t most = -128;
        for (int i = 0; i < s.kernel_h; i++)
          for (int j = 0; j < s.kernel_w; j++) {
            const int h = row * s.stride_h - s.top + i, w = column * s.stride_w - s.left + j;
            if (h < 0 || h >= s.height || w < 0 || w >= s.width) continue;
            const int32_t value = x[(h * s.width + w) * s.channels + c];
            if (value > most) most = value;
          }
        *y++ = clamped(most, s.low, s.high);
      }
}

typedef struct {
  int count;
  int32_t zeros[2], multipliers[2], shifts[2]; /* of the operands */
  int32_t zero, multiplier, shift, low, high;  /* of the result */
} Pair;

/* Of two operands: sizes of the result, and from one element to the next in each operand; 0 where
   an operand is repeated. */
typedef struct {
  int sizes[4], first[4], second[4];
} Grid;

#define EACH(g, ...)                                                                             \
  for (int i = 0; i < g.sizes[0]; i++)                                                           \
    for (int j = 0; j < g.sizes[1]; j++)                                                         \
      for (int k = 0; k < g.sizes[2]; k++)                                                       \
        for (int l = 0; l < g.sizes[3]; l++) {                                                   \
          const int m = i * g.first[0] + j * g.first[1] + k * g.first[2] + l * g.first[3];       \
          const int n = i * g.second[0] + j * g.second[1] + k * g.second[2] + l * g.second[3];   \
          __VA_ARGS__                                                                            \
        }

/* The sum of two operands, or with a `sign` of -1 the difference. */
KERNEL add(const int8_t *a, const int8_t *b, int8_t *y, int sign, Grid g, Pair s) {
  EACH(g, {
    const int32_t first = (a[m] - s.zeros[0]) * (1 << 20), second = (b[n] - s.zeros[1]) * (1 << 20);
    const int32_t sum = rescaled(first, s.multipliers[0], s.shifts[0]) +
                        sign * rescaled(second, s.multipliers[1], s.shifts[1]);
    *y++ = clamped(rescaled(sum, s.multiplier, s.shift) + s.zero, s.low, s.high);
  })
}

KERNEL multiply(const int8_t *a, const int8_t *b, int8_t *y, Grid g, Pair s) {
  EACH(g, {
    const int32_t product = (a[m] - s.zeros[0]) * (b[n] - s.zeros[1]);
    *y++ = clamped(rescaled(product, s.multiplier, s.shift) + s.zero, s.low, s.high);
  })
}

/* Of the second operand, by channel; multipliers[0] is of values above zero, [1] of those below. */
KERNEL prelu(const int8_t *x, const int8_t *slope, int8_t *y, int channels, Pair s) {
  for (int i = 0; i < s.count; i += channels)
    for (int c = 0; c < channels; c++) {
      const int32_t value = x[i + c] - s.zeros[0];
      const int32_t made =
          value >= 0 ? rescaled(value, s.multipliers[0], s.shifts[0])
                     : rescaled(value * (slope[c] - s.zeros[1]), s.multipliers[1], s.shifts[1]);
      y[i + c] = clamped(made + s.zero, s.low, s.high);
    }
}

KERNEL look_up(const int8_t *x, int8_t *y, const int8_t *table, int count) {
  for (int i = 0; i < count; i++) y[i] = table[x[i] + 128];
}

/* Rows of `length` bytes; from one every `from` bytes to one every `to`. */
KERNEL copy(const int8_t *x, int8_t *y, int rows, int length, int from, int to) {
  for (int row = 0; row < rows; row++)
    for (int i = 0; i < length; i++) y[row * to + i] = x[row * from + i];
}

KERNEL fill(int8_t *y, int count, int8_t value) {
  for (int i = 0; i < count; i++) y[i] = value;
}

KERNEL depth_to_space(const int8_t *x, int8_t *y, int height, int width, int channels, int block) {
  const int made = channels / (block * block);
  for (int h = 0; h < height; h++)
    for (int w = 0; w < width; w++)
      for (int i = 0; i < block; i++)
        for (int j = 0; j < block; j++)
          for (int c = 0; c < made; c++)
            y[((h * block + i) * width * block + w * block + j) * made + c] =
                x[((h * width + w) * block * block + i * block + j) * made + c];
}

/* The mean over `count` places that lie `inner` apart. */
KERNEL mean(const int8_t *x, int8_t *y, int outer, int count, int inner, Pair s) {
  for (int o = 0; o < outer; o++)
    for (int i = 0; i < inner; i++) {
      int32_t sum = -count * s.zeros[0];
      for (int n = 0; n < count; n++) sum += x[(o * count + n) * inner + i];
      *y++ = clamped(rescaled(sum, s.multiplier, s.shift) + s.zero, s.low, s.high);
    }
}

/* SaturatingRoundingDoublingHighMul and RoundingDivideByPOT of gemmlowp's arithmetic. */
static inline int64_t high_product(int64_t a, int64_t b) { return (a * b + (1LL << 30)) >> 31; }

static inline int64_t divided(int64_t x, int exponent) {
  if (exponent == 0) return x;
  return (x + (1LL << (exponent - 1)) + (x >> 63)) >> exponent;
}

/* exp(x / 2^26) * 2^31 for x <= 0: exp_on_negative_values. */
static inline int64_t exponential(int64_t x) {
  static const int32_t powers[] = {1672461947, 1302514674, 790015084, 290630308,
                                   39332535,   720401,     242};
  if (x == 0) return INT32_MAX;
  const int64_t inner = (x & ((1 << 24) - 1)) - (1 << 24), y = inner * 32 + (1 << 28);
  const int64_t square = high_product(y, y), cube = high_product(square, y);
  const int64_t fourth = high_product(square, square);
  const int64_t tail = high_product(divided(fourth, 2) + cube, 715827883) + square;
  int64_t result = 1895147668 + high_product(1895147668, y + divided(tail, 1));
  if (result > INT32_MAX) result = INT32_MAX;
  for (int place = 0; place < 7; place++)
    if ((inner - x) & (1LL << (24 + place))) result = high_product(result, powers[place]);
  return result;
}

/* Rows of `depth` values; differences to the greatest beyond `radius` count as nothing. */
KERNEL softmax(const int8_t *x, int8_t *y, int rows, int depth, int32_t multiplier, int32_t shift,
               int32_t radius) {
  for (int row = 0; row < rows; row++, x += depth, y += depth) {
    int32_t most = -128, total = 0;
    for (int i = 0; i < depth; i++) most = x[i] > most ? x[i] : most;
    for (int i = 0; i < depth; i++)
      if (x[i] - most >= -radius)
        total += divided(exponential(rescaled(x[i] - most, multiplier, shift)), 12);
    const int bits = 32 - __builtin_clz(total);
    const int64_t half = ((((int64_t)total << (32 - bits)) - (1LL << 31)) + INT32_MAX + 1LL) >> 1;
    int64_t factor = 1515870810 + high_product(half, -1010580540); /* Newton, three steps */
    for (int i = 0; i < 3; i++)
      factor += 4 * high_product(factor, (1 << 29) - high_product(half, factor));
    factor = 2 * factor > INT32_MAX ? INT32_MAX : 2 * factor;
    for (int i = 0; i < depth; i++) {
      int64_t value = 0;
      if (x[i] - most >= -radius)
        value = high_product(factor, exponential(rescaled(x[i] - most, multiplier, shift)));
      y[i] = clamped(divided(value, 12 - (32 - bits) + 31 - 8) - 128, -128, 127);
    }
  }
}

/* Pixels of `channels` into pixels of `deep`, in rows of `wide` bytes. */
KERNEL place(const int8_t *x, int8_t *y, int height, int width, int channels, int wide, int deep) {
  for (int h = 0; h < height; h++)
    for (int w = 0; w < width; w++)
      for (int c = 0; c < channels; c++)
        y[h * wide + w * deep + c] = x[(h * width + w) * channels + c];
}

/* `sizes` of the output; `steps` in the input from one of each of its dimensions to the next. */
typedef struct {
  int sizes[4], steps[4];
} Order;

KERNEL transpose(const int8_t *x, int8_t *y, Order s) {
  for (int a = 0; a < s.sizes[0]; a++)
    for (int b = 0; b < s.sizes[1]; b++)
      for (int c = 0; c < s.sizes[2]; c++)
        for (int d = 0; d < s.sizes[3]; d++)
          *y++ = x[a * s.steps[0] + b * s.steps[1] + c * s.steps[2] + d * s.steps[3]];
}
