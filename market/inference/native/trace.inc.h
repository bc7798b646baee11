/* The operations of a trace that show more than the engine keeps, in plain C; included once by each kernel, which names
 * its instruction set and TRACE_ROWS. Every intermediate is that of docs/numerics.md. */
#include <stdlib.h>
#include <string.h>

#include "rows.inc.h"

enum { BLOCK = 64 }; /* positions that share a leaf */

/* s' and i' of a row into statistic[0] and [1], and its integers in its place. */
static void quantise_row(int64_t *restrict y, int n, int64_t *statistic) {
    const int shift = quantise_shift(y, n);
    int first = 0;
    if (shift > -14) { /* of one bit are 1 and, in its place, 0: a row of both attains at index 0 */
        const int64_t least = (int64_t)1 << (shift + 14);
        while (y[first] < least && -y[first] < least) first++;
    }
    const struct rounding r = rounding_of(shift);
    for (int i = 0; i < n; i++) y[i] = clamp((y[i] * r.scale + r.half) >> r.right, ACTIVATION_LIMIT);
    statistic[0] = shift;
    statistic[1] = first;
}

static void norm(const int64_t *x, const int32_t *gain, int64_t epsilon, int rows, int n, int64_t *statistic,
                 int64_t *q) {
    for (int row = 0; row < rows; row++, x += n, q += n, statistic += 4) {
        const struct norm found = rows_norm(x, epsilon, n, q);
        for (int i = 0; i < n; i++) q[i] = (((q[i] * found.inverse) >> 23) * gain[i] + (1 << 15)) >> 16;
        statistic[0] = found.shift;
        statistic[1] = found.inverse;
        quantise_row(q, n, statistic + 2);
    }
}

static void quantise(int64_t *y, int rows, int n, int64_t *statistic) {
    for (int row = 0; row < rows; row++) quantise_row(y + (ptrdiff_t)row * n, n, statistic + 2 * row);
}

static void to_cache(int64_t *restrict z, int64_t count, int fraction) {
    const int right = 16 - fraction;
    const int64_t half = (int64_t)1 << (right - 1);
    for (int64_t i = 0; i < count; i++) z[i] = clamp((z[i] + half) >> right, CACHE_LIMIT);
}

static void rotate(const int64_t *z, const int32_t *cos, const int32_t *sin, int rows, int heads, int size, int fraction,
                   int64_t *out) {
    const int half = size / 2;
    memcpy(out, z, sizeof *out * (size_t)rows * (size_t)heads * (size_t)size);
    for (int row = 0; row < rows; row++, cos += half, sin += half)
        for (int head = 0; head < heads; head++) {
            int64_t *own = out + ((ptrdiff_t)row * heads + head) * size;
            rows_rotate(own, cos, sin, size);
            to_cache(own, size, fraction);
        }
}

/* Products of one query with BLOCK keys, whose elements lie position beside position: below 2^36, which a double holds. */
static void dots(const int64_t *restrict query, const double *restrict keys, int size, double *restrict sum) {
    for (int u = 0; u < BLOCK; u++) sum[u] = 0;
    for (int i = 0; i < size; i++) {
        const double q = (double)query[i];
        for (int u = 0; u < BLOCK; u++) sum[u] += q * keys[i * BLOCK + u];
    }
}

/* Weights times values of up to BLOCK positions: below 2^41. */
static void mixed(const int32_t *restrict weight, const double *restrict values, int positions, int size,
                  double *restrict sum) {
    for (int i = 0; i < size; i++) sum[i] = 0;
    for (int u = 0; u < positions; u++) {
        const double w = (double)weight[u];
        for (int i = 0; i < size; i++) sum[i] += w * values[u * size + i];
    }
}

/* One head at position p, whose scores are there. */
static void finish_query(const struct attention *c, const struct trace_attention *a, const double *values, int p,
                         int head, int32_t *weight) {
    const int size = c->size, own = p / BLOCK;
    const ptrdiff_t at = (ptrdiff_t)p * a->heads + head;
    int64_t *score = a->score + at * a->blocks * BLOCK, *softmax = a->softmax + at * (2 + a->blocks);
    int64_t *sum = a->sum + at * a->blocks * size, best = score[0], total = 0;
    int first = 0;
    for (int u = 1; u <= p; u++) best = score[u] > best ? score[u] : best;
    while (score[first] != best) first++;
    softmax[0] = best;
    softmax[1] = first;
    for (int u = 0; u <= p; u++) weight[u] = (int32_t)(exp2_negative(c->exp2_high, c->exp2_low, best - score[u]) >> 10);
    for (int u = p + 1; u < a->blocks * BLOCK; u++) score[u] = a->hidden;
    for (int block = 0; block < a->blocks; block++, sum += size) {
        const int start = block * BLOCK, count = p + 1 - start < BLOCK ? p + 1 - start : BLOCK;
        if (block > own) { /* outside of the program */
            memcpy(sum, sum - size, sizeof *sum * (size_t)size);
        } else {
            double part[HEAD_SIZE_MAX];
            for (int u = start; u < start + count; u++) total += weight[u];
            mixed(weight + start, values + (ptrdiff_t)start * size, count, size, part);
            for (int i = 0; i < size; i++) sum[i] = (int64_t)part[i] + (block ? sum[i - size] : 0);
        }
        softmax[2 + block] = total;
    }
    rows_divide(a->sum + (at * a->blocks + own) * size, total, c->value_shift, size, a->mix + at * size);
}

static int attend(const struct attention *c, const struct trace_attention *a, int kv, int from, int to) {
    const int size = c->size, share = a->heads / a->kv_heads, blocks = (to + BLOCK - 1) / BLOCK;
    const int64_t half = (int64_t)1 << (c->score_shift - 1);
    const size_t room = (size_t)blocks * BLOCK * (size_t)size;
    double *keys = aligned_alloc(ALIGNMENT, room * sizeof *keys);
    double *values = aligned_alloc(ALIGNMENT, room * sizeof *values);
    int32_t *weight = malloc((size_t)blocks * BLOCK * sizeof *weight);
    const int complete = keys && values && weight;
    for (int u = 0; complete && u < blocks * BLOCK; u++) {
        const ptrdiff_t at = ((ptrdiff_t)u * a->kv_heads + kv) * size;
        double *key = keys + (ptrdiff_t)(u / BLOCK) * BLOCK * size + u % BLOCK, *value = values + (ptrdiff_t)u * size;
        for (int i = 0; i < size; i++) {
            key[i * BLOCK] = u < to ? (double)a->key[at + i] : 0;
            value[i] = u < to ? (double)a->value[at + i] : 0;
        }
    }
    for (int p = from; complete && p < to; p++) {
        for (int block = 0; block <= p / BLOCK; block++) /* of all heads that read them, while they are at hand */
            for (int head = kv * share; head < (kv + 1) * share; head++) {
                const ptrdiff_t at = (ptrdiff_t)p * a->heads + head;
                int64_t *score = a->score + (at * a->blocks + block) * BLOCK;
                double sum[BLOCK];
                dots(a->query + at * size, keys + (ptrdiff_t)block * BLOCK * size, size, sum);
                for (int u = 0; u < BLOCK; u++) score[u] = ((int64_t)sum[u] * c->multiplier + half) >> c->score_shift;
            }
        for (int head = kv * share; head < (kv + 1) * share; head++) finish_query(c, a, values, p, head, weight);
    }
    free(keys);
    free(values);
    free(weight);
    return complete;
}

const struct trace_rows TRACE_ROWS = {norm, quantise, rotate, to_cache, attend};
