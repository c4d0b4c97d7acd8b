/* bf16 numbers from Huffman codes of their exponents: see zoo/quantization/entropy.py.
 *
 * Four chunks are decoded at a time: the steps of one wait for each other, those of four do not.
 * Most steps find two exponents.
 */
#include <stdint.h>
#include <string.h>

enum { LANES = 4, LONGEST = 12, ENTRIES = 1 << LONGEST, AT_ONCE = 4, MOST = 4096 };

static uint64_t load(const uint8_t *stream, uint64_t at, int64_t last)
{
    int64_t byte = (int64_t)(at >> 3);
    const uint8_t *from = stream + (byte < last ? byte : last);
    uint64_t bits = 0;
    for (int i = 0; i < 8; i++) /* compilers make it one load where bytes are in this order */
        bits |= (uint64_t)from[i] << (8 * i);
    return bits >> (at & 7);
}

/* By the next 12 bits: two exponents, the length of their codes << 16, and how many they are << 24;
 * one where the second code is not whole. */
static void make_pairs(const uint16_t *table, uint32_t *pairs)
{
    for (uint32_t bits = 0; bits < ENTRIES; bits++) {
        uint32_t length = table[bits] >> 8, first = table[bits] & 0xFF;
        uint16_t next = table[bits >> length];
        uint32_t both = length + (next >> 8);
        int two = length && next >> 8 && both <= LONGEST;
        pairs[bits] = two ? first | (uint32_t)(next & 0xFF) << 8 | both << 16 | 2u << 24
                          : first | length << 16 | 1u << 24;
    }
}

/* Decode `count` chunks of `size` numbers each; no load is beyond `last`. Return 0 if all of them
 * end where the next begins. */
static int lanes(const uint16_t *table, const uint32_t *pairs, const uint8_t *stream, int64_t last,
                 const int64_t *starts, const uint8_t *rest, uint16_t *out, int count, int64_t size)
{
    uint8_t exponents[LANES][MOST];
    uint64_t at[LANES];
    int64_t done[LANES] = {0}, most = 0;
    for (int lane = 0; lane < LANES; lane++)
        at[lane] = 8 * (uint64_t)starts[lane < count ? lane : 0];
    while (count == LANES && most + 2 * AT_ONCE <= size) {
        uint64_t bits[LANES];
        for (int lane = 0; lane < LANES; lane++)
            bits[lane] = load(stream, at[lane], last);
        for (int i = 0; i < AT_ONCE; i++) /* 4 times 12 bits of the 57 or more */
            for (int lane = 0; lane < LANES; lane++) {
                uint32_t entry = pairs[bits[lane] & (ENTRIES - 1)];
                exponents[lane][done[lane]] = (uint8_t)entry;
                exponents[lane][done[lane] + 1] = (uint8_t)(entry >> 8);
                done[lane] += entry >> 24;
                bits[lane] >>= entry >> 16 & 0xFF;
                at[lane] += entry >> 16 & 0xFF;
            }
        for (int lane = 0; lane < LANES; lane++)
            most = done[lane] > most ? done[lane] : most;
    }
    int failed = 0;
    for (int lane = 0; lane < count; lane++) {
        for (int64_t i = done[lane]; i < size; i++) {
            uint16_t entry = table[load(stream, at[lane], last) & (ENTRIES - 1)];
            exponents[lane][i] = (uint8_t)entry;
            at[lane] += entry >> 8;
        }
        failed |= (int64_t)((at[lane] + 7) >> 3) != starts[lane + 1];
        const uint8_t *low = rest + lane * size, *high = exponents[lane];
        uint16_t *to = out + lane * size;
        for (int64_t i = 0; i < size; i++)
            to[i] = (uint16_t)((low[i] & 0x80) << 8 | high[i] << 7 | (low[i] & 0x7F));
    }
    return failed;
}

/* Decode `total` numbers in chunks of `size` (at most 4096), the last of which may be short.
 *
 * table: 4096 entries by the next 12 bits: the exponent, and the length of its code << 8.
 * stream, bytes: the codes; starts: chunks + 1 places in it, not falling, at most bytes - 8.
 * rest: sign and mantissa of every number. Return 0, or 1 if a chunk does not end where it should.
 */
int zoo_entropy_decode(const uint16_t *table, const uint8_t *stream, int64_t bytes,
                       const int64_t *starts, const uint8_t *rest, uint16_t *out, int64_t total,
                       int64_t size, int32_t threads)
{
    int64_t whole = total / size, groups = (whole + LANES - 1) / LANES, last = bytes - 8;
    int failed = 0;
    uint32_t pairs[ENTRIES];
    (void)threads;
    if (size > MOST)
        return 1;
    make_pairs(table, pairs);
#pragma omp parallel for num_threads(threads) reduction(| : failed) schedule(static)
    for (int64_t group = 0; group < groups; group++) {
        int64_t first = group * LANES, count = whole - first;
        failed |= lanes(table, pairs, stream, last, starts + first, rest + first * size,
                        out + first * size, count < LANES ? (int)count : LANES, size);
    }
    if (total % size)
        failed |= lanes(table, pairs, stream, last, starts + whole, rest + whole * size,
                        out + whole * size, 1, total % size);
    return failed;
}
