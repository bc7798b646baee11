/* The kernel of any processor, in plain C; also what another kernel does with a matrix that needs int64 sums. */
#include "portable.h"

#include <string.h>

#include "packed.h"

static void score_block(const int16_t *keys, const struct packed *queries, int count, int size,
                        int64_t dots[QUERIES][KEY_BLOCK]) {
    for (int j = 0; j < count; j++) {
        int32_t high[KEY_BLOCK] = {0}, low[KEY_BLOCK] = {0}; /* at most S * 32767 * 255 */
        for (int i = 0; i < size; i++) {
            const int16_t *row = keys + (i >> 1) * 2 * KEY_BLOCK + (i & 1);
            const int32_t a = queries->pair[i / 2][j][0][i % 2], b = queries->pair[i / 2][j][1][i % 2];
            for (int u = 0; u < KEY_BLOCK; u++) {
                high[u] += row[2 * u] * a;
                low[u] += row[2 * u] * b;
            }
        }
        for (int u = 0; u < KEY_BLOCK; u++) dots[j][u] = (int64_t)high[u] * 256 + low[u];
    }
}

static void mix_values(const int16_t *values, const struct attention_room *room, int count, int positions, int size) {
    for (int j = 0; j < count; j++) {
        const int16_t *upper = room->weight + (ptrdiff_t)2 * j * room->capacity, *lower = upper + room->capacity;
        int64_t *restrict sum = room->sum + (ptrdiff_t)j * HEAD_SIZE_MAX;
        memset(sum, 0, (size_t)size * sizeof *sum);
        for (int u = 0; u < positions; u++) {
            const int64_t weight = upper[u] * 1024 + lower[u];
            const int16_t *row = values + (ptrdiff_t)(u >> 1) * 2 * size + (u & 1);
            for (int i = 0; i < size; i++) sum[i] += weight * row[2 * i];
        }
    }
}

#include "attention.inc.h"

static void quantise(const int64_t *y, const struct planes *planes, int row) {
    const int n = planes->columns, shift = quantise_shift(y, n);
    const struct rounding r = rounding_of(shift);
    int16_t *restrict q = (int16_t *)(void *)(planes->bytes + (ptrdiff_t)2 * planes->padded * row);
    for (int i = 0; i < n; i++) q[i] = (int16_t)clamp((y[i] * r.scale + r.half) >> r.right, ACTIVATION_LIMIT);
    planes->shift[row] = shift;
}

static void linear(const struct matrix *w, int from, int to, const struct planes *a, int count, int64_t *y,
                   long stride) {
    const int n = w->columns;
    for (int row = from; row < to; row++) {
        const int8_t *restrict weight = w->weight + (ptrdiff_t)row * n;
        for (int t = 0; t < count; t++) {
            const int16_t *restrict q = (const int16_t *)(const void *)(a->bytes + (ptrdiff_t)2 * a->padded * t);
            int64_t acc = 0;
            if (w->wide) {
                for (int i = 0; i < n; i++) acc += q[i] * weight[i];
            } else {
                int32_t narrow = 0;
                for (int i = 0; i < n; i++) narrow += q[i] * weight[i];
                acc = narrow;
            }
            y[t * stride + row] = scaled(acc, w->multiplier[row], w->exponent - a->shift[t]);
        }
    }
}

void linear_wide(const struct matrix *w, int from, int to, const int16_t *q, int shift, int64_t *y) {
    const int n = w->columns;
    for (int row = from; row < to; row++) {
        const int8_t *restrict weight = w->weight + (ptrdiff_t)row * n;
        int64_t acc = 0;
        for (int i = 0; i < n; i++) acc += q[i] * weight[i];
        y[row] = scaled(acc, w->multiplier[row], w->exponent - shift);
    }
}

static int supported(void) { return 1; }

const struct kernel kernel_portable = {
    .name = "portable",
    .supported = supported,
    .grouped_from = INT32_MAX,
    .row_sums = rows_sums,
    .largest = rows_largest,
    .normalise = rows_normalise,
    .quantise = quantise,
    .linear = linear,
    .rotate = rows_rotate,
    .to_cache = rows_to_cache,
    .activate = rows_activate,
    .attend = attend,
    .trace = &trace_portable,
};

const struct kernel *kernel_named(const char *name) {
#if defined(__x86_64__)
    if (!strcmp(name, kernel_avx512vnni.name)) return &kernel_avx512vnni;
    if (!strcmp(name, kernel_avx2.name)) return &kernel_avx2;
#endif
    return strcmp(name, kernel_portable.name) ? NULL : &kernel_portable;
}
