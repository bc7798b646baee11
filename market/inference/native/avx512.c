/* The kernel of x86-64 processors with AVX-512 VNNI.
 *
 * vpdpbusd multiplies unsigned by signed bytes and never saturates, so weights stay as they lie in the pack and
 * activations become unsigned: q = 256 * (upper - 128) + lower, both bytes in 0..255. Hence
 *   sum q * w = 256 * sum upper * w + sum lower * w - 32768 * sum w.
 * A few rows of activations run as dot products along the rows of weights (bytes lie as [upper K][lower K]); many run
 * in groups of eight whose sixteen bytes planes fill the lanes of a register ([K/4][8 upper, 8 lower][4]) and meet one
 * weight row's four bytes at a time, broadcast. */
#if defined(__x86_64__)
#pragma GCC target("avx2,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")
#include <immintrin.h>
#include <string.h>

#include "kernels.h"
#include "packed.h"

#define UNROLL _Pragma("GCC unroll 16")
#define INLINE_VECTOR static inline __attribute__((always_inline))

/* Bytes between what a dot product reads and what it asks memory for: without, a thread decodes a quarter slower. */
enum { AHEAD = 8192 };

/* Inline assembly, because gcc 12 moves the accumulator of the intrinsic through another register. */
#define DOT_BYTES(acc, unsigned_bytes, signed_bytes) \
    __asm__("vpdpbusd %2, %1, %0" : "+v"(acc) : "v"(unsigned_bytes), "v"(signed_bytes))
#define DOT_WORDS(acc, a, b) __asm__("vpdpwssd %2, %1, %0" : "+v"(acc) : "v"(a), "v"(b))

INLINE_VECTOR __m512i broadcast(const void *four_bytes) {
    int32_t word;
    memcpy(&word, four_bytes, sizeof word);
    return _mm512_set1_epi32(word);
}

INLINE_VECTOR __m512i join(__m256i low, __m256i high) {
    return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
}

/* 2^-d in Q30 of sixteen distances of at most 31 << 16. */
INLINE_VECTOR __m512i exp2_negative16(const int32_t *high, const int32_t *low, __m512i d) {
    const __m512i byte = _mm512_set1_epi32(255);
    __m512i a = _mm512_i32gather_epi32(_mm512_and_si512(_mm512_srli_epi32(d, 8), byte), high, 4);
    __m512i b = _mm512_i32gather_epi32(_mm512_and_si512(d, byte), low, 4);
    __m512i even = _mm512_srli_epi64(_mm512_mul_epu32(a, b), 30);
    __m512i odd = _mm512_slli_epi64(_mm512_mul_epu32(_mm512_srli_epi64(a, 32), _mm512_srli_epi64(b, 32)), 2);
    return _mm512_srlv_epi32(_mm512_mask_blend_epi32(0xAAAA, even, odd), _mm512_srli_epi32(d, 16));
}

/* ---- attention: lanes are positions for the scores and elements for the mix */

INLINE_VECTOR void score_some(const int count, const int16_t *keys, const struct packed *queries, int size,
                              int64_t (*dots)[KEY_BLOCK]) {
    __m512i high[QUERIES], low[QUERIES];
    const int16_t *pair = &queries->pair[0][0][0][0];
    UNROLL for (int j = 0; j < count; j++) high[j] = low[j] = _mm512_setzero_si512();
    for (long i = 0; i < size; i += 2, pair += 4 * QUERIES) {
        __m512i key = _mm512_loadu_si512(keys + i * KEY_BLOCK);
        UNROLL for (int j = 0; j < count; j++) {
            DOT_WORDS(high[j], key, broadcast(pair + 4 * j));
            DOT_WORDS(low[j], key, broadcast(pair + 4 * j + 2));
        }
    }
    UNROLL for (int j = 0; j < count; j++) {
        __m512i first = _mm512_slli_epi64(_mm512_cvtepi32_epi64(_mm512_castsi512_si256(high[j])), 8);
        __m512i second = _mm512_slli_epi64(_mm512_cvtepi32_epi64(_mm512_extracti64x4_epi64(high[j], 1)), 8);
        first = _mm512_add_epi64(first, _mm512_cvtepi32_epi64(_mm512_castsi512_si256(low[j])));
        second = _mm512_add_epi64(second, _mm512_cvtepi32_epi64(_mm512_extracti64x4_epi64(low[j], 1)));
        _mm512_storeu_si512(dots[j], first);
        _mm512_storeu_si512(dots[j] + 8, second);
    }
}

static void score_block(const int16_t *keys, const struct packed *queries, int count, int size,
                        int64_t dots[QUERIES][KEY_BLOCK]) {
    switch (count) {
    case 1: score_some(1, keys, queries, size, dots); break;
    case 2: score_some(2, keys, queries, size, dots); break;
    case 3: score_some(3, keys, queries, size, dots); break;
    case 4: score_some(4, keys, queries, size, dots); break;
    case 5: score_some(5, keys, queries, size, dots); break;
    default: score_some(6, keys, queries, size, dots);
    }
}

/* `lanes` registers of sixteen elements from element `first` on. */
INLINE_VECTOR void mix_some(const int count, const int lanes, const int16_t *values, const struct attention_room *room,
                            int query, int positions, int size, int first) {
    int64_t *sum = room->sum + (ptrdiff_t)query * HEAD_SIZE_MAX + first;
    const int16_t *weight = room->weight + (ptrdiff_t)2 * query * room->capacity;
    for (int start = 0; start < positions; start += MIX_SPAN) {
        const int end = start + MIX_SPAN < positions ? start + MIX_SPAN : positions;
        __m512i upper[3][4], lower[3][4];
        UNROLL for (int j = 0; j < count; j++) UNROLL for (int i = 0; i < lanes; i++)
            upper[j][i] = lower[j][i] = _mm512_setzero_si512();
        for (int u = start; u < end; u += 2) {
            const int16_t *row = values + (ptrdiff_t)u * size + 2 * first;
            __m512i value[4];
            UNROLL for (int i = 0; i < lanes; i++) value[i] = _mm512_loadu_si512(row + 32 * i);
            UNROLL for (int j = 0; j < count; j++) {
                const int16_t *w = weight + (ptrdiff_t)2 * j * room->capacity + u;
                __m512i a = broadcast(w), b = broadcast(w + room->capacity);
                UNROLL for (int i = 0; i < lanes; i++) {
                    DOT_WORDS(upper[j][i], value[i], a);
                    DOT_WORDS(lower[j][i], value[i], b);
                }
            }
        }
        UNROLL for (int j = 0; j < count; j++) UNROLL for (int i = 0; i < lanes; i++) {
            UNROLL for (int half = 0; half < 2; half++) {
                int64_t *to = sum + (ptrdiff_t)j * HEAD_SIZE_MAX + 16 * i + 8 * half;
                __m256i a = half ? _mm512_extracti64x4_epi64(upper[j][i], 1) : _mm512_castsi512_si256(upper[j][i]);
                __m256i b = half ? _mm512_extracti64x4_epi64(lower[j][i], 1) : _mm512_castsi512_si256(lower[j][i]);
                __m512i part = _mm512_add_epi64(_mm512_slli_epi64(_mm512_cvtepi32_epi64(a), 10),
                                                _mm512_cvtepi32_epi64(b));
                if (start) part = _mm512_add_epi64(part, _mm512_loadu_si512(to));
                _mm512_storeu_si512(to, part);
            }
        }
    }
}

/* The elements that fill no register. */
static void mix_rest(const int16_t *values, const struct attention_room *room, int query, int positions, int size,
                     int first) {
    const int16_t *upper = room->weight + (ptrdiff_t)2 * query * room->capacity, *lower = upper + room->capacity;
    for (int i = first; i < size; i++) {
        int64_t sum = 0;
        for (int u = 0; u < positions; u++)
            sum += (int64_t)(upper[u] * 1024 + lower[u]) * values[(ptrdiff_t)(u >> 1) * 2 * size + 2 * i + (u & 1)];
        room->sum[(ptrdiff_t)query * HEAD_SIZE_MAX + i] = sum;
    }
}

static void mix_values(const int16_t *values, const struct attention_room *room, int count, int positions, int size) {
    for (int j = 0; j < count;) {
        const int some = count - j >= 3 ? 3 : 1;
        int i = 0;
        for (; i + 64 <= size; i += 64) {
            if (some == 3) mix_some(3, 4, values, room, j, positions, size, i);
            else mix_some(1, 4, values, room, j, positions, size, i);
        }
        for (; i + 16 <= size; i += 16) {
            if (some == 3) mix_some(3, 1, values, room, j, positions, size, i);
            else mix_some(1, 1, values, room, j, positions, size, i);
        }
        for (int k = j; k < j + some && i < size; k++) mix_rest(values, room, k, positions, size, i);
        j += some;
    }
}

static int64_t vector_softmax(const struct attention *c, const int64_t *score, int64_t best, int positions, int padded,
                              int16_t *upper, int16_t *lower) {
    const __m512i top = _mm512_set1_epi64(best), limit = _mm512_set1_epi64(31 << 16);
    __m512i total = _mm512_setzero_si512();
    int u = 0;
    for (; u < positions; u += 16) {
        const __mmask16 seen = positions - u >= 16 ? 0xFFFF : (__mmask16)((1u << (positions - u)) - 1);
        __m512i a = _mm512_sub_epi64(top, _mm512_maskz_loadu_epi64((__mmask8)seen, score + u));
        __m512i b = _mm512_sub_epi64(top, _mm512_maskz_loadu_epi64((__mmask8)(seen >> 8), score + u + 8));
        __m512i d = join(_mm512_cvtepi64_epi32(_mm512_min_epi64(a, limit)),
                         _mm512_cvtepi64_epi32(_mm512_min_epi64(b, limit)));
        d = _mm512_maskz_mov_epi32(seen, d);
        __m512i w = _mm512_maskz_srli_epi32(seen, exp2_negative16(c->exp2_high, c->exp2_low, d), 10);
        total = _mm512_add_epi64(total, _mm512_cvtepu32_epi64(_mm512_castsi512_si256(w)));
        total = _mm512_add_epi64(total, _mm512_cvtepu32_epi64(_mm512_extracti64x4_epi64(w, 1)));
        _mm256_storeu_si256((__m256i *)(void *)(upper + u), _mm512_cvtepi32_epi16(_mm512_srli_epi32(w, 10)));
        w = _mm512_and_si512(w, _mm512_set1_epi32(1023));
        _mm256_storeu_si256((__m256i *)(void *)(lower + u), _mm512_cvtepi32_epi16(w));
    }
    for (; u < padded; u++) upper[u] = lower[u] = 0;
    return _mm512_reduce_add_epi64(total);
}

#define SOFTMAX vector_softmax
#include "attention.inc.h"

/* ---- rows */

static void activate(const int64_t *gate, const int64_t *up, const int32_t *high, const int32_t *low, int n,
                     int64_t *z) {
    const __m512i log2e = _mm512_set1_epi64(94548), limit = _mm512_set1_epi64(31 << 16);
    const __m512i one = _mm512_set1_epi64(1 << 30), whole = _mm512_set1_epi64((int64_t)1 << 60);
    int i = 0;
    for (; i + 16 <= n; i += 16) {
        __m512i x[2], d[2];
        UNROLL for (int j = 0; j < 2; j++) {
            x[j] = _mm512_loadu_si512(gate + i + 8 * j);
            /* from 2^31 on the power is 0 anyway */
            __m512i size = _mm512_min_epi64(_mm512_abs_epi64(x[j]), _mm512_set1_epi64(INT32_MAX));
            d[j] = _mm512_min_epi64(_mm512_srli_epi64(_mm512_mul_epu32(size, log2e), 16), limit);
        }
        __m512i power = exp2_negative16(high, low, join(_mm512_cvtepi64_epi32(d[0]), _mm512_cvtepi64_epi32(d[1])));
        UNROLL for (int j = 0; j < 2; j++) {
            __m256i half = j ? _mm512_extracti64x4_epi64(power, 1) : _mm512_castsi512_si256(power);
            __m512i divisor = _mm512_add_epi64(_mm512_cvtepu32_epi64(half), one);
            __m512i s = _mm512_cvttpd_epi64(_mm512_div_pd(_mm512_set1_pd(0x1p60), _mm512_cvtepi64_pd(divisor)));
            __mmask8 over = _mm512_cmpgt_epi64_mask(_mm512_mul_epu32(s, divisor), whole);
            s = _mm512_mask_sub_epi64(s, over, s, _mm512_set1_epi64(1));
            s = _mm512_mask_sub_epi64(s, _mm512_movepi64_mask(x[j]), one, s);
            __m512i silu = _mm512_add_epi64(_mm512_mullo_epi64(x[j], s), _mm512_set1_epi64(1 << 29));
            silu = _mm512_srai_epi64(silu, 30);
            silu = _mm512_mullo_epi64(silu, _mm512_loadu_si512(up + i + 8 * j));
            silu = _mm512_srai_epi64(_mm512_add_epi64(silu, _mm512_set1_epi64(1 << 15)), 16);
            _mm512_storeu_si512(z + i + 8 * j, silu);
        }
    }
    rows_activate(gate + i, up + i, high, low, n - i, z + i);
}

static void quantise(const int64_t *y, const struct planes *planes, int row) {
    const int n = planes->columns, padded = planes->padded, shift = quantise_shift(y, n);
    const struct rounding r = rounding_of(shift);
    uint8_t room[2 * padded], *restrict upper = room;
    if (!planes->grouped) upper = planes->bytes + (ptrdiff_t)2 * padded * row;
    uint8_t *restrict lower = upper + padded;
    if (shift >= 0) {
        for (int i = 0; i < n; i++) {
            int64_t q = clamp((y[i] + r.half) >> r.right, ACTIVATION_LIMIT);
            upper[i] = (uint8_t)((q >> 8) + 128);
            lower[i] = (uint8_t)q;
        }
    } else {
        for (int i = 0; i < n; i++) {
            int64_t q = clamp((int64_t)((uint64_t)y[i] << -shift), ACTIVATION_LIMIT);
            upper[i] = (uint8_t)((q >> 8) + 128);
            lower[i] = (uint8_t)q;
        }
    }
    planes->shift[row] = shift;
    if (!planes->grouped) return;
    for (int i = n; i < padded && i < ((n + 3) & ~3); i++) upper[i] = lower[i] = 0;
    uint8_t *to = planes->bytes + (ptrdiff_t)2 * padded * (row - row % GROUP) + 4 * (row % GROUP);
    for (int i = 0; i < n; i += 4) {
        memcpy(to + 16 * i, upper + i, 4);
        memcpy(to + 16 * i + 32, lower + i, 4);
    }
}

/* ---- matrices */

/* Sums of eight lanes' planes → Q16: 256 * upper + lower - 32768 * sum of weights, times the multiplier. */
INLINE_VECTOR __m512i finish(__m256i upper, __m256i lower, __m256i weights, __m256i multiplier, __m512i half, __m512i r,
                             int wide) {
    __m512i m = _mm512_cvtepi32_epi64(multiplier), product;
    if (wide) {
        __m512i acc = _mm512_add_epi64(_mm512_slli_epi64(_mm512_cvtepi32_epi64(upper), 8), _mm512_cvtepi32_epi64(lower));
        acc = _mm512_sub_epi64(acc, _mm512_slli_epi64(_mm512_cvtepi32_epi64(weights), 15));
        product = _mm512_mullo_epi64(acc, m);
    } else { /* modulo 2^32, and the result fits */
        __m256i acc = _mm256_add_epi32(_mm256_slli_epi32(upper, 8), lower);
        acc = _mm256_sub_epi32(acc, _mm256_slli_epi32(weights, 15));
        product = _mm512_mul_epi32(_mm512_cvtepi32_epi64(acc), m);
    }
    return _mm512_srav_epi64(_mm512_add_epi64(product, half), r);
}

/* Four registers → the sums of their lanes, in order. */
INLINE_VECTOR __m128i sums_of(const __m512i a[4]) {
    __m512i ab = _mm512_add_epi32(_mm512_unpacklo_epi32(a[0], a[1]), _mm512_unpackhi_epi32(a[0], a[1]));
    __m512i cd = _mm512_add_epi32(_mm512_unpacklo_epi32(a[2], a[3]), _mm512_unpackhi_epi32(a[2], a[3]));
    __m512i all = _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
    __m256i half = _mm256_add_epi32(_mm512_castsi512_si256(all), _mm512_extracti64x4_epi64(all, 1));
    return _mm_add_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
}

/* `count` rows of activations, 1 to 3, against the rows [from, to). */
INLINE_VECTOR void dot_rows(const int count, const struct matrix *w, int from, int to, const struct planes *a, int first,
                            int64_t *y, long stride) {
    const int n = w->columns, padded = a->padded;
    const uint8_t *bytes = a->bytes + (ptrdiff_t)2 * padded * first;
    for (int row = from; row < to; row += 8) {
        const int valid = to - row < 8 ? to - row : 8;
        __m256i upper[3], lower[3];
        UNROLL for (int quad = 0; quad < 2; quad++) {
            const int8_t *weight[4];
            UNROLL for (int j = 0; j < 4; j++) { /* rows past the end repeat the last one */
                int at = 4 * quad + j < valid ? 4 * quad + j : valid - 1;
                weight[j] = w->weight + (ptrdiff_t)(row + at) * n;
            }
            __m512i up[3][4], low[3][4];
            UNROLL for (int t = 0; t < count; t++) UNROLL for (int j = 0; j < 4; j++)
                up[t][j] = low[t][j] = _mm512_setzero_si512();
            int k = 0;
            for (; k + 64 <= n; k += 64) {
                __m512i part[4];
                UNROLL for (int j = 0; j < 4; j++) {
                    part[j] = _mm512_loadu_si512(weight[j] + k);
                    _mm_prefetch((const char *)weight[j] + k + AHEAD, _MM_HINT_T0);
                }
                UNROLL for (int t = 0; t < count; t++) {
                    __m512i u = _mm512_load_si512(bytes + 2 * padded * t + k);
                    __m512i l = _mm512_load_si512(bytes + 2 * padded * t + padded + k);
                    UNROLL for (int j = 0; j < 4; j++) {
                        DOT_BYTES(up[t][j], u, part[j]);
                        DOT_BYTES(low[t][j], l, part[j]);
                    }
                }
            }
            if (k < n) { /* bytes past the end of a row count as weight 0 */
                const __mmask64 tail = ((__mmask64)1 << (n - k)) - 1;
                __m512i part[4];
                UNROLL for (int j = 0; j < 4; j++) part[j] = _mm512_maskz_loadu_epi8(tail, weight[j] + k);
                UNROLL for (int t = 0; t < count; t++) {
                    __m512i u = _mm512_load_si512(bytes + 2 * padded * t + k);
                    __m512i l = _mm512_load_si512(bytes + 2 * padded * t + padded + k);
                    UNROLL for (int j = 0; j < 4; j++) {
                        DOT_BYTES(up[t][j], u, part[j]);
                        DOT_BYTES(low[t][j], l, part[j]);
                    }
                }
            }
            UNROLL for (int t = 0; t < count; t++) {
                __m128i u = sums_of(up[t]), l = sums_of(low[t]);
                upper[t] = quad ? _mm256_inserti128_si256(upper[t], u, 1) : _mm256_castsi128_si256(u);
                lower[t] = quad ? _mm256_inserti128_si256(lower[t], l, 1) : _mm256_castsi128_si256(l);
            }
        }
        const __mmask8 mask = (__mmask8)((1u << valid) - 1);
        __m256i weights = _mm256_maskz_loadu_epi32(mask, w->sum + row);
        __m256i multiplier = _mm256_maskz_loadu_epi32(mask, w->multiplier + row);
        UNROLL for (int t = 0; t < count; t++) {
            const int64_t r = w->exponent - a->shift[first + t];
            __m512i half = _mm512_set1_epi64((int64_t)1 << (r - 1));
            __m512i out = finish(upper[t], lower[t], weights, multiplier, half, _mm512_set1_epi64(r), w->wide);
            _mm512_mask_storeu_epi64(y + (first + t) * stride + row, mask, out);
        }
    }
}

/* Eight registers of eight lanes, transposed. */
INLINE_VECTOR void transpose(__m512i a[8]) {
    __m512i b[8], c[8];
    UNROLL for (int i = 0; i < 8; i += 2) {
        b[i] = _mm512_unpacklo_epi64(a[i], a[i + 1]);
        b[i + 1] = _mm512_unpackhi_epi64(a[i], a[i + 1]);
    }
    UNROLL for (int i = 0; i < 8; i += 4) UNROLL for (int j = 0; j < 2; j++) {
        c[i + j] = _mm512_shuffle_i64x2(b[i + j], b[i + j + 2], 0x88);
        c[i + j + 2] = _mm512_shuffle_i64x2(b[i + j], b[i + j + 2], 0xDD);
    }
    UNROLL for (int j = 0; j < 4; j++) {
        a[j] = _mm512_shuffle_i64x2(c[j], c[j + 4], 0x88);
        a[j + 4] = _mm512_shuffle_i64x2(c[j], c[j + 4], 0xDD);
    }
}

/* Eight rows of results of one group, from the sums of its planes. */
INLINE_VECTOR void store_group(const struct matrix *w, int row, int rows, const __m512i sums[8], const struct planes *a,
                               int first, int count, int64_t *y, long stride) {
    const int valid = count - first < GROUP ? count - first : GROUP;
    const __mmask8 tokens = (__mmask8)((1u << valid) - 1), stored = (__mmask8)((1u << rows) - 1);
    __m512i r = _mm512_cvtepi32_epi64(_mm256_maskz_loadu_epi32(tokens, a->shift + first));
    r = _mm512_sub_epi64(_mm512_set1_epi64(w->exponent), r);
    __m512i half = _mm512_srli_epi64(_mm512_sllv_epi64(_mm512_set1_epi64(1), r), 1), out[8];
    UNROLL for (int j = 0; j < 8; j++) {
        const int at = row + (j < rows ? j : rows - 1);
        out[j] = finish(_mm512_castsi512_si256(sums[j]), _mm512_extracti64x4_epi64(sums[j], 1),
                        _mm256_set1_epi32(w->sum[at]), _mm256_set1_epi32(w->multiplier[at]), half, r, w->wide);
    }
    transpose(out);
    for (int t = 0; t < valid; t++) _mm512_mask_storeu_epi64(y + (first + t) * stride + row, stored, out[t]);
}

/* `blocks` times eight rows of weights against `groups` groups of activations. */
INLINE_VECTOR void panel(const int blocks, const int groups, const struct matrix *w, int row, int rows,
                         const struct planes *a, int first, int count, int64_t *y, long stride) {
    const int n = w->columns;
    const long group_bytes = (long)2 * a->padded * GROUP;
    const uint8_t *bytes = a->bytes + group_bytes * (first / GROUP);
    const int8_t *weight[16];
    UNROLL for (int j = 0; j < 8 * blocks; j++) weight[j] = w->weight + (ptrdiff_t)(row + (j < rows ? j : rows - 1)) * n;
    /* what comes next lies right behind: ask for it while this panel is multiplied, a line for each step that used one */
    const char *next = (const char *)w->weight + (ptrdiff_t)(row + 8 * blocks) * n;
    __m512i sums[3][16];
    UNROLL for (int g = 0; g < groups; g++) UNROLL for (int j = 0; j < 8 * blocks; j++)
        sums[g][j] = _mm512_setzero_si512();
    long k = 0; /* as wide as a pointer, or the loop spends its time on widening it */
    for (; k + 4 <= n; k += 4) {
        if (groups == 1) _mm_prefetch(next + 8 * blocks * k, _MM_HINT_T0);
        __m512i planes[3];
        UNROLL for (int g = 0; g < groups; g++) planes[g] = _mm512_load_si512(bytes + group_bytes * g + 16 * k);
        UNROLL for (int j = 0; j < 8 * blocks; j++) {
            __m512i four = broadcast(weight[j] + k);
            UNROLL for (int g = 0; g < groups; g++) DOT_BYTES(sums[g][j], planes[g], four);
        }
    }
    if (k < n) {
        UNROLL for (int j = 0; j < 8 * blocks; j++) {
            int32_t word = 0;
            memcpy(&word, weight[j] + k, (size_t)(n - k));
            UNROLL for (int g = 0; g < groups; g++)
                DOT_BYTES(sums[g][j], _mm512_load_si512(bytes + group_bytes * g + 16 * k), _mm512_set1_epi32(word));
        }
    }
    UNROLL for (int g = 0; g < groups; g++) UNROLL for (int b = 0; b < blocks; b++) {
        const int left = rows - 8 * b < 8 ? rows - 8 * b : 8;
        if (left > 0) store_group(w, row + 8 * b, left, sums[g] + 8 * b, a, first + GROUP * g, count, y, stride);
    }
}

static void linear(const struct matrix *w, int from, int to, const struct planes *a, int count, int64_t *y,
                   long stride) {
    if (!a->grouped) {
        int t = 0;
        for (; t + 3 <= count; t += 3) dot_rows(3, w, from, to, a, t, y, stride);
        if (count - t == 2) dot_rows(2, w, from, to, a, t, y, stride);
        if (count - t == 1) dot_rows(1, w, from, to, a, t, y, stride);
        return;
    }
    if (count <= GROUP) {
        for (int row = from; row < to; row += 16)
            panel(2, 1, w, row, to - row < 16 ? to - row : 16, a, 0, count, y, stride);
        return;
    }
    for (int row = from; row < to; row += 8) {
        const int rows = to - row < 8 ? to - row : 8;
        int t = 0;
        for (; t + 2 * GROUP < count; t += 3 * GROUP) panel(1, 3, w, row, rows, a, t, count, y, stride);
        if (t + GROUP < count) panel(1, 2, w, row, rows, a, t, count, y, stride);
        else if (t < count) panel(1, 1, w, row, rows, a, t, count, y, stride);
    }
}

static int supported(void) {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512vnni");
}

const struct kernel kernel_avx512vnni = {
    .name = "avx512vnni",
    .supported = supported,
    .grouped_from = 4,
    .largest = rows_largest,
    .normalise = rows_normalise,
    .quantise = quantise,
    .linear = linear,
    .rotate = rows_rotate,
    .to_cache = rows_to_cache,
    .activate = activate,
    .attend = attend,
};
#endif
