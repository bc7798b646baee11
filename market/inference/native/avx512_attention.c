/* Attention of the AVX-512 kernel: lanes are positions for the scores and elements for the mix.
 *
 * Scores stay as products leave them, in blocks of eight even positions before eight odd ones, until the weights have
 * become 32 bits wide and both can lie beside each other. */
#if defined(__x86_64__)
#include "avx512.h"

/* The halves of the queries that are scored at once, each at a fixed distance from the others: one pointer for all. */
struct halves {
    int16_t of[QUERIES][2][HEAD_SIZE_MAX];
};

/* `blocks` times sixteen scores of each query, from position `start` on; keeps the largest that each query sees. */
INLINE_VECTOR void score_some(const int blocks, const int count, const struct attention *c, const int16_t *keys,
                              const struct halves *halves, const struct query *queries, int start,
                              const struct attention_room *room, __m512i best[QUERIES]) {
    const int size = c->size;
    const __m512i multiplier = _mm512_set1_epi64(c->multiplier), shift = _mm512_set1_epi64(c->score_shift);
    const __m512i half = _mm512_set1_epi64((int64_t)1 << (c->score_shift - 1));
    __m512i high[2][QUERIES], low[2][QUERIES];
    UNROLL for (int b = 0; b < blocks; b++) UNROLL for (int j = 0; j < count; j++)
        high[b][j] = low[b][j] = _mm512_setzero_si512();
    const int16_t *pair = halves->of[0][0];
    for (long i = 0; i < size; i += 2, pair += 2) {
        __m512i key[2];
        UNROLL for (int b = 0; b < blocks; b++)
            key[b] = _mm512_loadu_si512(keys + (long)b * KEY_BLOCK * size + i * KEY_BLOCK);
        UNROLL for (int j = 0; j < count; j++) {
            __m512i upper = broadcast(pair + 2 * j * HEAD_SIZE_MAX), lower = broadcast(pair + (2 * j + 1) * HEAD_SIZE_MAX);
            UNROLL for (int b = 0; b < blocks; b++) {
                DOT_WORDS(high[b][j], key[b], upper);
                DOT_WORDS(low[b][j], key[b], lower);
            }
        }
    }
    UNROLL for (int b = 0; b < blocks; b++) UNROLL for (int j = 0; j < count; j++) {
        const int first = start + KEY_BLOCK * b, seen = queries[j].positions - first;
        int64_t *score = room->score + (ptrdiff_t)j * room->capacity + first;
        UNROLL for (int odd = 0; odd < 2; odd++) {
            __m512i h = odd ? _mm512_srli_epi64(high[b][j], 32) : high[b][j];
            __m512i l = odd ? _mm512_srli_epi64(low[b][j], 32) : low[b][j];
            __m512i product = _mm512_slli_epi64(_mm512_mul_epi32(h, multiplier), 8);
            product = _mm512_add_epi64(product, _mm512_mul_epi32(l, multiplier));
            product = _mm512_srav_epi64(_mm512_add_epi64(product, half), shift);
            _mm512_storeu_si512(score + 8 * odd, product);
            const int others = seen - odd; /* positions first + odd, + 2 … are seen while 2 * lane < others */
            __mmask8 mask = others >= 15 ? 0xFF : others <= 0 ? 0 : (__mmask8)((1u << ((others + 1) / 2)) - 1);
            best[j] = _mm512_mask_max_epi64(best[j], mask, best[j], product);
        }
    }
}

INLINE_VECTOR void score(const int count, const struct attention *c, const int16_t *keys, const struct halves *halves,
                         const struct query *queries, int longest, const struct attention_room *room,
                         __m512i best[QUERIES]) {
    int start = 0;
    for (; start + KEY_BLOCK < longest; start += 2 * KEY_BLOCK)
        score_some(2, count, c, keys + (ptrdiff_t)start * c->size, halves, queries, start, room, best);
    if (start < longest)
        score_some(1, count, c, keys + (ptrdiff_t)start * c->size, halves, queries, start, room, best);
}

/* Sixteen weights in Q20, in the order of positions; 0 outside of the mask. */
INLINE_VECTOR __m512i weights(const struct attention *c, const int64_t *score, __m512i top, __mmask16 seen) {
    const __m512i limit = _mm512_set1_epi64(31 << 16);
    __m512i even = _mm512_min_epi64(_mm512_sub_epi64(top, _mm512_loadu_si512(score)), limit);
    __m512i odd = _mm512_min_epi64(_mm512_sub_epi64(top, _mm512_loadu_si512(score + 8)), limit);
    __m512i d = _mm512_maskz_mov_epi32(seen, interleave(even, odd));
    return _mm512_maskz_srli_epi32(seen, exp2_negative16(c->exp2_high, c->exp2_low, d), 10);
}

/* Thirty-two numbers below 2^15 as int16, in order. */
INLINE_VECTOR void store_words(int16_t *to, __m512i first, __m512i second) {
    const __m512i order = _mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7);
    _mm512_storeu_si512(to, _mm512_permutexvar_epi64(order, _mm512_packus_epi32(first, second)));
}

/* Weights of one query from its scores; returns their sum. Positions up to `padded` get weight 0. */
static int64_t softmax(const struct attention *c, const int64_t *score, int64_t best, int positions, int padded,
                       int16_t *upper, int16_t *lower) {
    const __m512i top = _mm512_set1_epi64(best), ten = _mm512_set1_epi32(1023);
    const __m512i low_half = _mm512_set1_epi64(0xFFFFFFFF);
    __m512i total = _mm512_setzero_si512();
    int u = 0;
    for (; u < positions; u += 32) {
        const int left = positions - u;
        const __mmask32 seen = left >= 32 ? 0xFFFFFFFF : (__mmask32)(((uint32_t)1 << left) - 1);
        __m512i w[2];
        UNROLL for (int i = 0; i < 2; i++) {
            w[i] = weights(c, score + u + 16 * i, top, (__mmask16)(seen >> (16 * i)));
            total = _mm512_add_epi64(total, _mm512_and_si512(w[i], low_half));
            total = _mm512_add_epi64(total, _mm512_srli_epi64(w[i], 32));
        }
        store_words(upper + u, _mm512_srli_epi32(w[0], 10), _mm512_srli_epi32(w[1], 10));
        store_words(lower + u, _mm512_and_si512(w[0], ten), _mm512_and_si512(w[1], ten));
    }
    for (; u < padded; u += 32) {
        _mm512_storeu_si512(upper + u, _mm512_setzero_si512());
        _mm512_storeu_si512(lower + u, _mm512_setzero_si512());
    }
    return _mm512_reduce_add_epi64(total);
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
        for (long u = start; u < end; u += 2) {
            const int16_t *row = values + u * size + 2 * first;
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

static void mix(const int16_t *values, const struct attention_room *room, int count, int positions, int size) {
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

/* floor((2 * sum << shift + total) / (2 * total)). The reciprocal is off by 2^-53 of itself and the quotient below 2^32:
 * what is rounded down from it is off by one at most, and the remainder tells. */
static void divide(const int64_t *sum, int64_t total, int shift, int n, int64_t *out) {
    const __m512i divisor = _mm512_set1_epi64(2 * total), half = _mm512_set1_epi64(total);
    const __m512i left = _mm512_set1_epi64(shift + 1), one = _mm512_set1_epi64(1);
    const __m512d reciprocal = _mm512_set1_pd(1.0 / (double)(2 * total));
    for (int i = 0; i < n; i += 8) {
        const __mmask8 mask = n - i >= 8 ? 0xFF : (__mmask8)((1u << (n - i)) - 1);
        __m512i numerator = _mm512_sllv_epi64(_mm512_maskz_loadu_epi64(mask, sum + i), left);
        numerator = _mm512_add_epi64(numerator, half);
        __m512d quotient = _mm512_mul_pd(_mm512_cvtepi64_pd(numerator), reciprocal);
        __m512i q = _mm512_cvt_roundpd_epi64(quotient, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
        __m512i rest = _mm512_sub_epi64(numerator, _mm512_mullo_epi64(q, divisor));
        q = _mm512_mask_sub_epi64(q, _mm512_movepi64_mask(rest), q, one);
        q = _mm512_mask_add_epi64(q, _mm512_cmpge_epi64_mask(rest, divisor), q, one);
        _mm512_mask_storeu_epi64(out + i, mask, q);
    }
}

void avx512_attend(const struct attention *c, const int16_t *keys, const int16_t *values, const struct query *queries,
                   int count, const struct attention_room *room) {
    const int size = c->size;
    __m512i best[QUERIES];
    struct halves halves;
    int longest = 0;
    for (int j = 0; j < count; j++) {
        best[j] = _mm512_set1_epi64(INT64_MIN);
        memcpy(halves.of[j][0], queries[j].high, (size_t)size * sizeof(int16_t));
        memcpy(halves.of[j][1], queries[j].low, (size_t)size * sizeof(int16_t));
        longest = queries[j].positions > longest ? queries[j].positions : longest;
    }
    switch (count) {
    case 1: score(1, c, keys, &halves, queries, longest, room, best); break;
    case 2: score(2, c, keys, &halves, queries, longest, room, best); break;
    case 3: score(3, c, keys, &halves, queries, longest, room, best); break;
    case 4: score(4, c, keys, &halves, queries, longest, room, best); break;
    case 5: score(5, c, keys, &halves, queries, longest, room, best); break;
    default: score(6, c, keys, &halves, queries, longest, room, best);
    }
    const int padded = (longest + MIX_SPAN - 1) / MIX_SPAN * MIX_SPAN;
    int64_t total[QUERIES];
    for (int j = 0; j < count; j++) {
        int16_t *upper = room->weight + (ptrdiff_t)2 * j * room->capacity, *lower = upper + room->capacity;
        const int64_t top = _mm512_reduce_max_epi64(best[j]);
        total[j] = softmax(c, room->score + (ptrdiff_t)j * room->capacity, top, queries[j].positions, padded, upper, lower);
    }
    mix(values, room, count, longest, size);
    for (int j = 0; j < count; j++)
        divide(room->sum + (ptrdiff_t)j * HEAD_SIZE_MAX, total[j], c->value_shift, size, queries[j].result);
}
#endif
