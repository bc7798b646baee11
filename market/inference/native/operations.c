/* Single operations for the self-test and the tests: rows as docs/numerics.md has them, nothing packed. */
#include <stdlib.h>

#include "cache.h"
#include "engine.h"
#include "keccak.h"

EXPORT int assay_kernel_supported(const char *kernel);
EXPORT int assay_linear(const char *kernel, const struct matrix *w, const int64_t *y, int count, int grouped,
                        int64_t *out, int32_t *shift);
EXPORT void assay_normalise(const char *kernel, const int64_t *x, const int32_t *gain, int64_t epsilon, int n,
                            int64_t *y);
EXPORT void assay_rotate(const char *kernel, int64_t *z, const int32_t *cos, const int32_t *sin, int size);
EXPORT void assay_to_cache(const char *kernel, const int64_t *z, int fraction, int n, int16_t *out);
EXPORT void assay_activate(const char *kernel, const int64_t *gate, const int64_t *up, const int32_t *exp2_high,
                           const int32_t *exp2_low, int n, int64_t *z);
EXPORT int assay_attend(const char *kernel, const struct attention *constants, const int16_t *queries, int count,
                        const int32_t *positions, const int16_t *keys, const int16_t *values, int length, int64_t *out);
EXPORT int32_t assay_row_sums(const char *kernel, const int8_t *weight, int rows, int columns, int32_t *sum);

int assay_kernel_supported(const char *kernel) {
    const struct kernel *k = kernel_named(kernel);
    return k && k->supported();
}

/* quantise, then linear: y [count][K] → out [count][N]; 0 without memory. */
int assay_linear(const char *kernel, const struct matrix *w, const int64_t *y, int count, int grouped, int64_t *out,
                 int32_t *shift) {
    const struct kernel *k = kernel_named(kernel);
    const int padded = (w->columns + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    const size_t rows = (size_t)(count + GROUP - 1) / GROUP * GROUP;
    struct planes plain = {aligned_alloc(ALIGNMENT, 2 * rows * (size_t)padded), shift, w->columns, padded, 0};
    struct planes groups = {aligned_alloc(ALIGNMENT, 2 * rows * (size_t)padded), shift, w->columns, padded, 1};
    const int complete = plain.bytes && groups.bytes;
    if (complete) {
        grouped = grouped && k->group;
        for (int row = 0; row < count; row++) k->quantise(y + (ptrdiff_t)row * w->columns, &plain, row);
        for (int row = 0; grouped && row < count; row += GROUP)
            k->group(&plain, row, count - row < GROUP ? count - row : GROUP, &groups, row / GROUP);
        k->linear(w, 0, w->rows, grouped ? &groups : &plain, count, out, w->rows);
    }
    free(plain.bytes);
    free(groups.bytes);
    return complete;
}

void assay_normalise(const char *kernel, const int64_t *x, const int32_t *gain, int64_t epsilon, int n, int64_t *y) {
    kernel_named(kernel)->normalise(x, gain, epsilon, n, y);
}

void assay_rotate(const char *kernel, int64_t *z, const int32_t *cos, const int32_t *sin, int size) {
    kernel_named(kernel)->rotate(z, cos, sin, size);
}

void assay_to_cache(const char *kernel, const int64_t *z, int fraction, int n, int16_t *out) {
    kernel_named(kernel)->to_cache(z, fraction, n, out);
}

void assay_activate(const char *kernel, const int64_t *gate, const int64_t *up, const int32_t *exp2_high,
                    const int32_t *exp2_low, int n, int64_t *z) {
    kernel_named(kernel)->activate(gate, up, exp2_high, exp2_low, n, z);
}

/* queries [count][S], of which the j-th sees positions[j] of keys and values [length][S] → out [count][S]. */
int assay_attend(const char *kernel, const struct attention *constants, const int16_t *queries, int count,
                 const int32_t *positions, const int16_t *keys, const int16_t *values, int length, int64_t *out) {
    const int size = constants->size;
    const size_t capacity = (size_t)(length + MIX_SPAN - 1) / MIX_SPAN * MIX_SPAN;
    int16_t *blocked = calloc(2 * capacity * (size_t)size, sizeof *blocked);
    int16_t *halves = calloc((size_t)count * 2 * (size_t)size, sizeof *halves);
    struct attention_room room = {calloc(QUERIES * capacity, sizeof(int64_t)), calloc(2 * QUERIES * capacity, 2),
                                  calloc(QUERIES * HEAD_SIZE_MAX, sizeof(int64_t)), (int32_t)capacity};
    const int complete = blocked && halves && room.score && room.weight && room.sum && count <= QUERIES;
    if (complete) {
        struct query list[QUERIES];
        int16_t *blocked_values = blocked + capacity * (size_t)size;
        for (int u = 0; u < length; u++) {
            store_key(blocked, u, size, keys + (ptrdiff_t)u * size);
            store_value(blocked_values, u, size, values + (ptrdiff_t)u * size);
        }
        for (int j = 0; j < count; j++) {
            int16_t *high = halves + (ptrdiff_t)2 * j * size;
            for (int i = 0; i < size; i++) {
                high[i] = (int16_t)(queries[j * size + i] >> 8);
                high[size + i] = queries[j * size + i] & 255;
            }
            list[j] = (struct query){high, high + size, positions[j], out + (ptrdiff_t)j * size};
        }
        kernel_named(kernel)->attend(constants, blocked, blocked_values, list, count, &room);
    }
    free(blocked);
    free(halves);
    free(room.score);
    free(room.weight);
    free(room.sum);
    return complete;
}

int32_t assay_row_sums(const char *kernel, const int8_t *weight, int rows, int columns, int32_t *sum) {
    return kernel_named(kernel)->row_sums(weight, rows, columns, sum);
}

/* Sizes of the structures that Python mirrors: a library built from other sources must not be called. */
EXPORT int assay_layout(int which);

int assay_layout(int which) {
    const size_t sizes[] = {sizeof(struct matrix), sizeof(struct attention), sizeof(struct layer),
                            sizeof(struct model),  sizeof(struct slot),      sizeof(struct batch),
                            sizeof(struct trace_attention), sizeof(struct section)};
    return which < (int)(sizeof sizes / sizeof *sizes) ? (int)sizes[which] : 0;
}
