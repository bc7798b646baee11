/* Attention of a few queries of one key/value head over the positions they see, for any kernel.
 *
 * The including file defines the two products:
 *   score_block(keys, queries, count, size, dots)      dots[query][KEY_BLOCK] of one block of keys, exact in int64
 *   mix_values(values, weight, count, positions, ...)  sum[query][S] of weights times values, exact in int64
 */
#include "packed.h"
#include "rows.inc.h"

/* Weights of one query from its scores; returns their sum. Positions up to `padded` get weight 0. */
#ifndef SOFTMAX
#define SOFTMAX plain_softmax
static int64_t plain_softmax(const struct attention *c, const int64_t *score, int64_t best, int positions, int padded,
                             int16_t *restrict upper, int16_t *restrict lower) {
    int64_t total = 0;
    for (int u = 0; u < positions; u++) {
        int64_t weight = exp2_negative(c->exp2_high, c->exp2_low, best - score[u]) >> 10;
        total += weight;
        upper[u] = (int16_t)(weight >> 10);
        lower[u] = (int16_t)(weight & 1023);
    }
    for (int u = positions; u < padded; u++) upper[u] = lower[u] = 0;
    return total;
}
#endif

static void attend(const struct attention *c, const int16_t *keys, const int16_t *values, const struct query *queries,
                   int count, const struct attention_room *room) {
    const int size = c->size;
    const int64_t half = (int64_t)1 << (c->score_shift - 1);
    int64_t best[QUERIES], total[QUERIES];
    int longest = 0;
    struct packed packed;
    for (int j = 0; j < count; j++) {
        best[j] = INT64_MIN;
        for (int i = 0; i < size; i++) {
            packed.pair[i / 2][j][0][i % 2] = queries[j].high[i];
            packed.pair[i / 2][j][1][i % 2] = queries[j].low[i];
        }
        longest = queries[j].positions > longest ? queries[j].positions : longest;
    }
    for (int start = 0; start < longest; start += KEY_BLOCK) {
        int64_t dots[QUERIES][KEY_BLOCK];
        score_block(keys + (ptrdiff_t)start * size, &packed, count, size, dots);
        for (int j = 0; j < count; j++) {
            int64_t *score = room->score + (ptrdiff_t)j * room->capacity + start;
            int seen = queries[j].positions - start;
            int64_t top = best[j];
            for (int u = 0; u < KEY_BLOCK; u++) score[u] = (dots[j][u] * c->multiplier + half) >> c->score_shift;
            for (int u = 0; u < KEY_BLOCK; u++) top = u < seen && score[u] > top ? score[u] : top;
            best[j] = top;
        }
    }
    const int padded = (longest + MIX_SPAN - 1) / MIX_SPAN * MIX_SPAN;
    for (int j = 0; j < count; j++) {
        int16_t *upper = room->weight + (ptrdiff_t)2 * j * room->capacity, *lower = upper + room->capacity;
        const int64_t *score = room->score + (ptrdiff_t)j * room->capacity;
        total[j] = SOFTMAX(c, score, best[j], queries[j].positions, padded, upper, lower);
    }
    mix_values(values, room, count, longest, size);
    for (int j = 0; j < count; j++)
        rows_divide(room->sum + (ptrdiff_t)j * HEAD_SIZE_MAX, total[j], c->value_shift, size, queries[j].result);
}
