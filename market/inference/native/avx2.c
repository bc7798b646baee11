/* The kernel of x86-64 processors with AVX2.
 *
 * Weights are widened to int16 and multiplied in pairs (vpmaddwd); a pair of products, at most 2 * 127 * 32639, fits
 * int32. The byte product vpmaddubsw saturates at int16 and is not used. A few rows of activations lie as int16[K];
 * many lie in groups of eight, [K/2][8][2], whose lanes meet one weight row's pair at a time. */
#if defined(__x86_64__)
#pragma GCC target("avx2")
#include <immintrin.h>
#include <string.h>

#include "packed.h"
#include "portable.h"

#define UNROLL _Pragma("GCC unroll 16")
#define INLINE_VECTOR static inline __attribute__((always_inline))

INLINE_VECTOR __m256i load(const void *p) { return _mm256_loadu_si256((const __m256i *)p); }
INLINE_VECTOR void store(void *p, __m256i a) { _mm256_storeu_si256((__m256i *)p, a); }

INLINE_VECTOR __m256i broadcast(const void *four_bytes) {
    int32_t word;
    memcpy(&word, four_bytes, sizeof word);
    return _mm256_set1_epi32(word);
}

INLINE_VECTOR __m256i dot_words(__m256i acc, __m256i a, __m256i b) {
    return _mm256_add_epi32(acc, _mm256_madd_epi16(a, b));
}

/* upper * 2^bits + lower of eight lanes, in int64. */
INLINE_VECTOR void widen(__m256i upper, __m256i lower, int bits, int add, int64_t *to) {
    UNROLL for (int half = 0; half < 2; half++) {
        __m128i a = half ? _mm256_extracti128_si256(upper, 1) : _mm256_castsi256_si128(upper);
        __m128i b = half ? _mm256_extracti128_si256(lower, 1) : _mm256_castsi256_si128(lower);
        __m256i sum = _mm256_add_epi64(_mm256_slli_epi64(_mm256_cvtepi32_epi64(a), bits), _mm256_cvtepi32_epi64(b));
        if (add) sum = _mm256_add_epi64(sum, load(to + 4 * half));
        store(to + 4 * half, sum);
    }
}

static void score_block(const int16_t *keys, const struct packed *queries, int count, int size,
                        int64_t dots[QUERIES][KEY_BLOCK]) {
    for (int j = 0; j < count; j++) {
        __m256i upper[2], lower[2];
        UNROLL for (int i = 0; i < 2; i++) upper[i] = lower[i] = _mm256_setzero_si256();
        for (int i = 0; i < size; i += 2) {
            __m256i a = broadcast(queries->pair[i / 2][j][0]), b = broadcast(queries->pair[i / 2][j][1]);
            UNROLL for (int half = 0; half < 2; half++) {
                __m256i key = load(keys + i * KEY_BLOCK + 16 * half);
                upper[half] = dot_words(upper[half], key, a);
                lower[half] = dot_words(lower[half], key, b);
            }
        }
        UNROLL for (int half = 0; half < 2; half++) widen(upper[half], lower[half], 8, 0, dots[j] + 8 * half);
    }
}

static void mix_values(const int16_t *values, const struct attention_room *room, int count, int positions, int size) {
    for (int j = 0; j < count; j++) {
        const int16_t *weight = room->weight + (ptrdiff_t)2 * j * room->capacity, *lower_weight = weight + room->capacity;
        int64_t *sum = room->sum + (ptrdiff_t)j * HEAD_SIZE_MAX;
        int i = 0;
        for (; i + 8 <= size; i += 8) {
            for (int start = 0; start < positions; start += MIX_SPAN) {
                const int end = start + MIX_SPAN < positions ? start + MIX_SPAN : positions;
                __m256i upper = _mm256_setzero_si256(), lower = upper;
                for (int u = start; u < end; u += 2) {
                    __m256i value = load(values + (ptrdiff_t)u * size + 2 * i);
                    upper = dot_words(upper, value, broadcast(weight + u));
                    lower = dot_words(lower, value, broadcast(lower_weight + u));
                }
                widen(upper, lower, 10, start != 0, sum + i);
            }
        }
        for (; i < size; i++) {
            sum[i] = 0;
            for (int u = 0; u < positions; u++)
                sum[i] += (int64_t)(weight[u] * 1024 + lower_weight[u]) *
                          values[(ptrdiff_t)(u >> 1) * 2 * size + 2 * i + (u & 1)];
        }
    }
}

#include "attention.inc.h"

static void quantise(const int64_t *y, const struct planes *planes, int row) {
    const int n = planes->columns, padded = planes->padded, shift = quantise_shift(y, n);
    const struct rounding r = rounding_of(shift);
    int16_t *restrict q = (int16_t *)(void *)(planes->bytes + (ptrdiff_t)2 * padded * row);
    for (int i = 0; i < n; i++) q[i] = (int16_t)clamp((y[i] * r.scale + r.half) >> r.right, ACTIVATION_LIMIT);
    for (int i = n; i < padded; i++) q[i] = 0;
    planes->shift[row] = shift;
}

static void group_rows(const struct planes *rows, int first, int count, const struct planes *grouped, int group) {
    const int padded = rows->padded;
    for (int t = 0; t < count; t++) {
        const uint8_t *q = rows->bytes + (ptrdiff_t)2 * padded * (first + t);
        uint8_t *to = grouped->bytes + (ptrdiff_t)2 * padded * GROUP * group + 4 * t;
        for (int i = 0; i < padded; i += 2) memcpy(to + 16 * i, q + 2 * i, 4);
    }
}

/* acc * multiplier, scaled back. AVX2 lacks the arithmetic shift of int64: shift a number without sign, then correct. */
INLINE_VECTOR __m256i finish(__m128i acc, __m256i multiplier, __m256i half, __m256i r) {
    const __m256i sign = _mm256_set1_epi64x(INT64_MIN);
    __m256i product = _mm256_add_epi64(_mm256_mul_epi32(_mm256_cvtepi32_epi64(acc), multiplier), half);
    return _mm256_sub_epi64(_mm256_srlv_epi64(_mm256_xor_si256(product, sign), r), _mm256_srlv_epi64(sign, r));
}

/* Four registers → the sums of their lanes, in order. */
INLINE_VECTOR __m128i sums_of(const __m256i a[4]) {
    __m256i all = _mm256_hadd_epi32(_mm256_hadd_epi32(a[0], a[1]), _mm256_hadd_epi32(a[2], a[3]));
    return _mm_add_epi32(_mm256_castsi256_si128(all), _mm256_extracti128_si256(all, 1));
}

INLINE_VECTOR void dot_rows(const int count, const struct matrix *w, int from, int to, const struct planes *a, int first,
                            int64_t *y, long stride) {
    const int n = w->columns, padded = a->padded;
    const int16_t *q = (const int16_t *)(const void *)(a->bytes + (ptrdiff_t)2 * padded * first);
    for (int row = from; row < to; row += 4) {
        const int valid = to - row < 4 ? to - row : 4;
        const int8_t *weight[4];
        __m256i sums[2][4];
        UNROLL for (int j = 0; j < 4; j++) weight[j] = w->weight + (ptrdiff_t)(row + (j < valid ? j : valid - 1)) * n;
        UNROLL for (int t = 0; t < count; t++) UNROLL for (int j = 0; j < 4; j++) sums[t][j] = _mm256_setzero_si256();
        for (int k = 0; k < n; k += 16) {
            UNROLL for (int j = 0; j < 4; j++) {
                __m128i bytes;
                if (k + 16 <= n) {
                    bytes = _mm_loadu_si128((const __m128i *)(const void *)(weight[j] + k));
                } else { /* the last row of a file ends here */
                    bytes = _mm_setzero_si128();
                    memcpy(&bytes, weight[j] + k, (size_t)(n - k));
                }
                __m256i wide = _mm256_cvtepi8_epi16(bytes);
                UNROLL for (int t = 0; t < count; t++)
                    sums[t][j] = dot_words(sums[t][j], wide, load(q + (ptrdiff_t)padded * t + k));
            }
        }
        int32_t multipliers[4] = {0};
        memcpy(multipliers, w->multiplier + row, (size_t)valid * sizeof *multipliers);
        __m256i multiplier = _mm256_cvtepi32_epi64(_mm_loadu_si128((const __m128i *)(const void *)multipliers));
        UNROLL for (int t = 0; t < count; t++) {
            const int64_t r = w->exponent - a->shift[first + t];
            int64_t out[4];
            store(out, finish(sums_of(sums[t]), multiplier, _mm256_set1_epi64x((int64_t)1 << (r - 1)),
                              _mm256_set1_epi64x(r)));
            memcpy(y + (first + t) * stride + row, out, (size_t)valid * sizeof *out);
        }
    }
}

/* Four rows of weights, widened to int16, against `groups` groups of activations from `first` on. */
INLINE_VECTOR void panel(const int groups, const struct matrix *w, int row, int rows, const int16_t *wide, int width,
                         const struct planes *a, int first, int count, int64_t *y, long stride) {
    const long group_bytes = (long)2 * a->padded * GROUP;
    const uint8_t *bytes = a->bytes + group_bytes * (first / GROUP);
    __m256i sums[2][4];
    UNROLL for (int g = 0; g < groups; g++) UNROLL for (int j = 0; j < 4; j++) sums[g][j] = _mm256_setzero_si256();
    for (int k = 0; k < width; k += 2) {
        __m256i pairs[2];
        UNROLL for (int g = 0; g < groups; g++) pairs[g] = load(bytes + group_bytes * g + 16 * k);
        UNROLL for (int j = 0; j < 4; j++) {
            __m256i two = broadcast(wide + (ptrdiff_t)j * width + k);
            UNROLL for (int g = 0; g < groups; g++) sums[g][j] = dot_words(sums[g][j], pairs[g], two);
        }
    }
    UNROLL for (int g = 0; g < groups; g++) {
        const int start = first + GROUP * g, valid = count - start < GROUP ? count - start : GROUP;
        int64_t r[GROUP], half[GROUP];
        for (int t = 0; t < GROUP; t++) {
            r[t] = t < valid ? w->exponent - a->shift[start + t] : 1;
            half[t] = (int64_t)1 << (r[t] - 1);
        }
        for (int j = 0; j < rows; j++) {
            int64_t out[GROUP];
            __m256i multiplier = _mm256_set1_epi64x(w->multiplier[row + j]);
            store(out, finish(_mm256_castsi256_si128(sums[g][j]), multiplier, load(half), load(r)));
            store(out + 4, finish(_mm256_extracti128_si256(sums[g][j], 1), multiplier, load(half + 4), load(r + 4)));
            for (int t = 0; t < valid; t++) y[(start + t) * stride + row + j] = out[t];
        }
    }
}

static void linear_of_wide(const struct matrix *w, int from, int to, const struct planes *a, int count, int64_t *y,
                           long stride) {
    int16_t q[a->padded];
    for (int t = 0; t < count; t++) {
        const uint8_t *bytes = a->bytes + (ptrdiff_t)2 * a->padded * t;
        if (a->grouped) bytes = a->bytes + (ptrdiff_t)2 * a->padded * (t - t % GROUP) + 4 * (t % GROUP);
        for (int i = 0; i < a->columns; i++)
            memcpy(q + i, a->grouped ? bytes + 16 * (i & ~1) + 2 * (i & 1) : bytes + 2 * i, sizeof *q);
        linear_wide(w, from, to, q, a->shift[t], y + t * stride);
    }
}

static void linear(const struct matrix *w, int from, int to, const struct planes *a, int count, int64_t *y,
                   long stride) {
    const int n = w->columns;
    if (w->wide) {
        linear_of_wide(w, from, to, a, count, y, stride);
    } else if (!a->grouped) {
        int t = 0;
        for (; t + 2 <= count; t += 2) dot_rows(2, w, from, to, a, t, y, stride);
        if (t < count) dot_rows(1, w, from, to, a, t, y, stride);
    } else {
        const int width = (n + 1) & ~1;
        int16_t wide[4 * width];
        for (int row = from; row < to; row += 4) {
            const int rows = to - row < 4 ? to - row : 4;
            for (int j = 0; j < 4; j++) {
                const int8_t *weight = w->weight + (ptrdiff_t)(row + (j < rows ? j : rows - 1)) * n;
                for (int i = 0; i < n; i++) wide[j * width + i] = weight[i];
                if (width > n) wide[j * width + n] = 0;
            }
            int t = 0;
            for (; t + GROUP < count; t += 2 * GROUP) panel(2, w, row, rows, wide, width, a, t, count, y, stride);
            if (t < count) panel(1, w, row, rows, wide, width, a, t, count, y, stride);
        }
    }
}

static int supported(void) { return __builtin_cpu_supports("avx2"); }

const struct kernel kernel_avx2 = {
    .name = "avx2",
    .supported = supported,
    .grouped_from = 6,
    .row_sums = rows_sums,
    .largest = rows_largest,
    .normalise = rows_normalise,
    .quantise = quantise,
    .group = group_rows,
    .linear = linear,
    .rotate = rows_rotate,
    .to_cache = rows_to_cache,
    .activate = rows_activate,
    .attend = attend,
    .trace = &trace_avx2,
};
#endif
