/* Matrices of the AVX-512 kernel.
 *
 * vpdpbusd multiplies unsigned by signed bytes and never saturates, so weights stay as they lie in the pack and
 * activations become unsigned: q = 256 * (upper - 128) + lower, both bytes in 0..255. Hence
 *   sum q * w = 256 * sum upper * w + sum lower * w - 32768 * sum w.
 * A few rows of activations run as dot products along the rows of weights (bytes lie as [upper K][lower K]). Many run in
 * groups of eight whose sixteen byte planes fill the lanes of a register ([K/4][8 upper, 8 lower][4]) and meet one weight
 * row's four bytes at a time, broadcast: a panel is eight or sixteen rows of weights by up to three groups. The bytes of
 * three groups stay in the first cache while all rows pass by; where K is too long for that, it is cut into parts and the
 * sums of one part wait in memory for the next. */
#if defined(__x86_64__)
#include "avx512.h"

enum {
    AHEAD = 8192,      /* bytes between what a dot product reads and what it asks memory for: a quarter faster than none */
    LATER = 16384,     /* the same of a panel of one group, into the second cache: memory is all that it waits for */
    DEEP = 768,        /* columns of three groups whose bytes (36 KiB) leave room in a first cache of 48 */
    NEAR = 1 << 18,    /* bytes of weights that pass by one set of groups after the other, out of the second cache */
    KEPT = 24,         /* most blocks of eight rows whose sums wait */
    SOME = 3 * GROUP,  /* rows of activations in a panel */
};

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

/* The groups of activations of a panel: their bytes, how their results are scaled back, and where those go. */
struct some {
    const uint8_t *bytes;
    long group_bytes;
    int count; /* rows of activations */
    int64_t *y;
    long stride;
    _Alignas(64) int64_t right[SOME], half[SOME];
};

static void take_some(struct some *s, const struct matrix *w, const struct planes *a, int first, int count, int64_t *y,
                      long stride) {
    s->group_bytes = (long)2 * a->padded * GROUP;
    s->bytes = a->bytes + s->group_bytes * (first / GROUP);
    s->count = count - first < SOME ? count - first : SOME;
    s->y = y + first * stride;
    s->stride = stride;
    for (int t = 0; t < SOME; t++) {
        s->right[t] = t < s->count ? w->exponent - a->shift[first + t] : 1;
        s->half[t] = (int64_t)1 << (s->right[t] - 1);
    }
}

/* What finishing eight rows of weights needs of them. */
struct ends {
    __m512i multiplier, correction; /* 32768 * sum, in both halves of a lane */
};

INLINE_VECTOR struct ends ends_of(const struct matrix *w, int row) {
    __m512i sum = _mm512_slli_epi64(_mm512_cvtepu32_epi64(_mm256_loadu_si256((const void *)(w->sum + row))), 32);
    sum = _mm512_slli_epi32(_mm512_or_si512(sum, _mm512_srli_epi64(sum, 32)), 15);
    __m512i multiplier = _mm512_cvtepi32_epi64(_mm256_loadu_si256((const void *)(w->multiplier + row)));
    return (struct ends){multiplier, sum};
}

/* Results of eight rows of weights and one group, from the sums of its planes; accumulators fit int32, so that everything
 * may run modulo 2^32 until the multiplier. */
INLINE_VECTOR void store_narrow(const __m512i sums[8], struct ends ends, const struct some *s, int group, int row,
                                __mmask8 stored) {
    /* quarters: rows 2p and 2p + 1, each as four pairs of activations in int64 lanes; then pairs from four rows each */
    const __m512i order[2] = {_mm512_setr_epi64(0, 4, 8, 12, 1, 5, 9, 13), _mm512_setr_epi64(2, 6, 10, 14, 3, 7, 11, 15)};
    __m512i quarter[4], fours[2][2];
    UNROLL for (int p = 0; p < 4; p++) {
        __m512i upper = _mm512_shuffle_i64x2(sums[2 * p], sums[2 * p + 1], 0x44);
        quarter[p] = _mm512_add_epi32(_mm512_slli_epi32(upper, 8),
                                      _mm512_shuffle_i64x2(sums[2 * p], sums[2 * p + 1], 0xEE));
    }
    UNROLL for (int i = 0; i < 2; i++) UNROLL for (int j = 0; j < 2; j++)
        fours[i][j] = _mm512_permutex2var_epi64(quarter[2 * j], order[i], quarter[2 * j + 1]);
    int64_t *y = s->y + (ptrdiff_t)GROUP * group * s->stride + row;
    const int valid = s->count - GROUP * group;
    UNROLL for (int pair = 0; pair < 4; pair++) {
        const __m512i *four = fours[pair / 2];
        __m512i acc = pair % 2 ? _mm512_shuffle_i64x2(four[0], four[1], 0xEE) : _mm512_shuffle_i64x2(four[0], four[1], 0x44);
        acc = _mm512_sub_epi32(acc, ends.correction);
        UNROLL for (int odd = 0; odd < 2; odd++) {
            const int t = 2 * pair + odd;
            if (t >= valid) return;
            __m512i product = _mm512_mul_epi32(odd ? _mm512_srli_epi64(acc, 32) : acc, ends.multiplier);
            product = _mm512_add_epi64(product, _mm512_set1_epi64(s->half[GROUP * group + t]));
            product = _mm512_srav_epi64(product, _mm512_set1_epi64(s->right[GROUP * group + t]));
            _mm512_mask_storeu_epi64(y + t * s->stride, stored, product);
        }
    }
}

/* The same with accumulators in int64. */
INLINE_VECTOR void store_wide(const struct matrix *w, const __m512i sums[8], const struct some *s, int group, int row,
                              __mmask8 stored) {
    __m512i right = _mm512_load_si512(s->right + GROUP * group), half = _mm512_load_si512(s->half + GROUP * group), out[8];
    UNROLL for (int j = 0; j < 8; j++)
        out[j] = finish(_mm512_castsi512_si256(sums[j]), _mm512_extracti64x4_epi64(sums[j], 1),
                        _mm256_set1_epi32(w->sum[row + j]), _mm256_set1_epi32(w->multiplier[row + j]), half, right, 1);
    transpose(out);
    for (int t = 0; t < GROUP && GROUP * group + t < s->count; t++)
        _mm512_mask_storeu_epi64(s->y + (GROUP * group + t) * s->stride + row, stored, out[t]);
}

/* Four columns, of which each group has 64 bytes and each row of weights a word. */
INLINE_VECTOR void step(const int rows, const int groups, const int8_t *const base[4], long n, const int half,
                        const uint8_t *bytes, long group_bytes, __m512i sums[3][16]) {
    __m512i planes[3];
    UNROLL for (int g = 0; g < groups; g++) planes[g] = _mm512_load_si512(bytes + 64 * half + group_bytes * g);
    UNROLL for (int j = 0; j < rows; j++) {
        const int8_t *four = base[j / 5] + (j % 5) * n + 4 * half;
        if (groups == 1) {
            DOT_BROADCAST(sums[0][j], planes[0], four);
        } else {
            __m512i word = broadcast(four);
            UNROLL for (int g = 0; g < groups; g++) DOT_BYTES(sums[g][j], planes[g], word);
        }
    }
}

/* Adds the products of the columns [first, last) to the sums of `rows` rows of weights, from `weight` on. */
INLINE_VECTOR void accumulate(const int rows, const int groups, const int8_t *weight, long n, long first, long last,
                              const struct some *s, __m512i sums[3][16]) {
    const uint8_t *bytes = s->bytes + 16 * first;
    const long group_bytes = s->group_bytes;
    /* five rows from each of these are one address each: base, base + n, + 2n, + 3n, + 4n */
    const int8_t *base[4] = {weight + first, weight + 5 * n + first, weight + 10 * n + first, weight + 15 * n + first};
    /* what comes next lies right behind: ask for it meanwhile, as many bytes as are used */
    const char *next = (const char *)weight + rows * n + rows * first;
    long k = first;
    for (; k + 8 <= last; k += 8, bytes += 128, next += 8 * rows) {
        UNROLL for (int line = 0; line < rows / 8; line++) {
            _mm_prefetch(next + 64 * line, _MM_HINT_T0);
            if (groups == 1) _mm_prefetch(next + 64 * line + LATER, _MM_HINT_T1);
        }
        UNROLL for (int half = 0; half < 2; half++) step(rows, groups, base, n, half, bytes, group_bytes, sums);
        UNROLL for (int i = 0; i < 4; i++) base[i] += 8;
    }
    if (k + 4 <= last) {
        step(rows, groups, base, n, 0, bytes, group_bytes, sums);
        k += 4;
        bytes += 64;
    }
    if (k < last) { /* bytes past the end of a row count as weight 0 */
        UNROLL for (int j = 0; j < rows; j++) {
            int32_t word = 0;
            memcpy(&word, weight + j * n + k, (size_t)(last - k));
            UNROLL for (int g = 0; g < groups; g++)
                DOT_BYTES(sums[g][j], _mm512_load_si512(bytes + group_bytes * g), _mm512_set1_epi32(word));
        }
    }
}

/* `rows` rows of weights from `row` on by `groups` groups, of the columns [first, last). `kept`: the sums so far, where the
 * matrix is `cut`. `stored`: which of each eight rows are wanted. */
INLINE_VECTOR void panel(const int rows, const int groups, const int cut, const struct matrix *w, int row, int first, int last,
                         const struct some *s, __mmask8 stored, __m512i *kept) {
    const int n = w->columns;
    __m512i sums[3][16];
    UNROLL for (int g = 0; g < groups; g++) UNROLL for (int j = 0; j < rows; j++)
        sums[g][j] = cut && first ? kept[g * rows + j] : _mm512_setzero_si512();
    accumulate(rows, groups, w->weight + (ptrdiff_t)row * n, n, first, last, s, sums);
    if (cut && last < n) {
        UNROLL for (int g = 0; g < groups; g++) UNROLL for (int j = 0; j < rows; j++) kept[g * rows + j] = sums[g][j];
        return;
    }
    UNROLL for (int b = 0; b < rows; b += 8) {
        const struct ends ends = ends_of(w, row + b);
        UNROLL for (int g = 0; g < groups; g++) {
            if (w->wide) store_wide(w, sums[g] + b, s, g, row + b, stored);
            else store_narrow(sums[g] + b, ends, s, g, row + b, stored);
        }
    }
}

/* Fewer rows than a panel has, one number after the other. */
static void rest(const struct matrix *w, int from, int to, const struct some *s) {
    for (int t = 0; t < s->count; t++)
        for (int row = from; row < to; row++) {
            const uint8_t *bytes = s->bytes + s->group_bytes * (t / GROUP) + 4 * (t % GROUP);
            const int8_t *weight = w->weight + (ptrdiff_t)row * w->columns;
            int64_t acc = 0;
            for (long i = 0; i < w->columns; i++) {
                const uint8_t *at = bytes + 16 * (i & ~3L) + (i & 3);
                acc += (256 * (at[0] - 128) + at[4 * GROUP]) * weight[i];
            }
            s->y[t * s->stride + row] = (acc * w->multiplier[row] + s->half[t]) >> s->right[t];
        }
}

/* All rows by one group. */
static void one_group(const struct matrix *w, int from, int to, const struct some *s) {
    const int n = w->columns;
    int row = from;
    for (; row + 16 <= to; row += 16) panel(16, 1, 0, w, row, 0, n, s, 0xFF, NULL);
    for (; row + 8 <= to; row += 8) panel(8, 1, 0, w, row, 0, n, s, 0xFF, NULL);
    if (row < to && to >= 8) panel(8, 1, 0, w, to - 8, 0, n, s, (__mmask8)(0xFF << (row + 8 - to)), NULL);
    else if (row < to) rest(w, row, to, s);
}

/* Rows [from, to), a multiple of eight rows or the end, by up to three groups. */
static void some_groups(const struct matrix *w, int from, int to, const struct some *s) {
    const int n = w->columns, parts = (n + DEEP - 1) / DEEP, deep = ((n + parts - 1) / parts + 3) & ~3;
    __m512i kept[KEPT][3 * 8];
    if (to < 8) {
        rest(w, from, to, s);
        return;
    }
    for (int first = 0; first < n; first += deep) {
        const int last = first + deep < n ? first + deep : n;
        for (int row = from, block = 0; row < to; row += 8, block++) {
            const int start = row + 8 <= to ? row : to - 8; /* the last eight may have been computed in part */
            const __mmask8 stored = (__mmask8)(0xFF << (row - start));
            if (s->count > 2 * GROUP) panel(8, 3, 1, w, start, first, last, s, stored, kept[block % KEPT]);
            else if (s->count > GROUP) panel(8, 2, 1, w, start, first, last, s, stored, kept[block % KEPT]);
            else panel(8, 1, 1, w, start, first, last, s, stored, kept[block % KEPT]);
        }
    }
}

void avx512_linear(const struct matrix *w, int from, int to, const struct planes *a, int count, int64_t *y, long stride) {
    if (!a->grouped) {
        int t = 0;
        for (; t + 3 <= count; t += 3) dot_rows(3, w, from, to, a, t, y, stride);
        if (count - t == 2) dot_rows(2, w, from, to, a, t, y, stride);
        if (count - t == 1) dot_rows(1, w, from, to, a, t, y, stride);
        return;
    }
    struct some some;
    if (count <= GROUP) {
        take_some(&some, w, a, 0, count, y, stride);
        one_group(w, from, to, &some);
        return;
    }
    int rows = NEAR / w->columns / 8 * 8;
    rows = rows < 8 ? 8 : rows > 8 * KEPT && w->columns > DEEP ? 8 * KEPT : rows;
    for (int row = from; row < to; row += rows)
        for (int t = 0; t < count; t += SOME) {
            take_some(&some, w, a, t, count, y, stride);
            some_groups(w, row, row + rows < to ? row + rows : to, &some);
        }
}
#endif
