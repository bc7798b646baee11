/* What recomputes a trace: products of activations that are integers already (docs/disputes.md, section 2). */
#include <stdlib.h>
#include <string.h>

#include "engine.h"

EXPORT int assay_trace_linear(const char *kernel, const struct matrix *w, int from, int to, const int64_t *q,
                              const int32_t *shift, int count, int64_t *out, int64_t stride);
EXPORT int assay_trace_pack(const int64_t *values, int64_t count, int size, uint8_t *out);

/* q [count][K] int16-valued with a shift per row → out[t * stride + n - from] for n in [from, to). Returns 1, or 0 without
 * memory, or -1 for a row that quantising would change, which no honest trace has: all zeros and rows whose largest
 * magnitude has 15 bits pass through it as they are. */
int assay_trace_linear(const char *kernel, const struct matrix *w, int from, int to, const int64_t *q,
                       const int32_t *shift, int count, int64_t *out, int64_t stride) {
    const struct kernel *k = kernel_named(kernel);
    const int padded = (w->columns + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    const size_t rows = (size_t)(count + GROUP - 1) / GROUP * GROUP;
    const int grouped = k->group && count >= k->grouped_from;
    int32_t *shifts = malloc(rows * sizeof *shifts);
    struct planes plain = {aligned_alloc(ALIGNMENT, 2 * rows * (size_t)padded), shifts, w->columns, padded, 0};
    struct planes groups = {grouped ? aligned_alloc(ALIGNMENT, 2 * rows * (size_t)padded) : NULL, shifts, w->columns,
                            padded, 1};
    int done = plain.bytes && shifts && (groups.bytes || !grouped);
    for (int row = 0; row < count && done == 1; row++) {
        const int64_t *values = q + (ptrdiff_t)row * w->columns, largest = k->largest(values, w->columns);
        if (largest > ACTIVATION_LIMIT || (largest && largest < 1 << 14)) done = -1;
        else k->quantise(values, &plain, row);
        shifts[row] = shift[row];
    }
    for (int row = 0; grouped && done == 1 && row < count; row += GROUP)
        k->group(&plain, row, count - row < GROUP ? count - row : GROUP, &groups, row / GROUP);
    if (done == 1) k->linear(w, from, to, grouped ? &groups : &plain, count, out - from, stride);
    free(groups.bytes);
    free(plain.bytes);
    free(shifts);
    return done;
}

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define HIGHEST_FIRST(word) __builtin_bswap64(word)
#else
#define HIGHEST_FIRST(word) (word)
#endif

/* Two's complement of `size` bytes, the highest first. */
#define PACK(size)                                                         \
    case size:                                                             \
        for (int64_t i = 0; i < count; i++) {                              \
            const uint64_t upper = (uint64_t)values[i] << (64 - 8 * size); \
            const uint64_t bytes = HIGHEST_FIRST(upper);                   \
            beyond |= ((int64_t)upper >> (64 - 8 * size)) ^ values[i];     \
            memcpy(out + size * i, &bytes, size);                          \
        }                                                                  \
        break

/* values [count] → out [count * size]; 1 if all fit, else 0 and those that do not have lost their upper bits; -1 for a
 * size that no element has. */
int assay_trace_pack(const int64_t *values, int64_t count, int size, uint8_t *out) {
    int64_t beyond = 0;
    switch (size) {
        PACK(2);
        PACK(4);
        PACK(5);
        PACK(6);
        PACK(8);
        default: return -1;
    }
    return !beyond;
}
