/* What recomputes a trace: products of activations that are integers already (docs/disputes.md, section 2). */
#include <stdlib.h>
#include <string.h>

#include "engine.h"
#include "pack.inc.h"

EXPORT int assay_trace_linear(const char *kernel, const struct matrix *w, int from, int to, const int64_t *q,
                              const int32_t *shift, int count, int64_t *out, int64_t stride);
EXPORT int assay_trace_pack(const int64_t *values, int64_t count, int size, uint8_t *out);
EXPORT void assay_trace_norm(const char *kernel, const int64_t *x, const int32_t *gain, int64_t epsilon, int rows, int n,
                             int64_t *statistic, int64_t *q);
EXPORT void assay_trace_quantise(const char *kernel, int64_t *y, int rows, int n, int64_t *statistic);
EXPORT void assay_trace_rotate(const char *kernel, const int64_t *z, const int32_t *cos, const int32_t *sin, int rows,
                               int heads, int size, int fraction, int64_t *out);
EXPORT void assay_trace_to_cache(const char *kernel, int64_t *z, int64_t count, int fraction);
EXPORT int assay_trace_attend(const char *kernel, const struct attention *c, const struct trace_attention *a, int kv,
                              int from, int to);

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

/* values [count] → out [count * size]; 1 if all fit, else 0 and those that do not have lost their upper bits; -1 for a
 * size that no element has. */
int assay_trace_pack(const int64_t *values, int64_t count, int size, uint8_t *out) {
    if (size != 2 && size != 4 && size != 5 && size != 6 && size != 8) return -1;
    return !pack(values, count, size, out);
}

void assay_trace_norm(const char *kernel, const int64_t *x, const int32_t *gain, int64_t epsilon, int rows, int n,
                      int64_t *statistic, int64_t *q) {
    kernel_named(kernel)->trace->norm(x, gain, epsilon, rows, n, statistic, q);
}

void assay_trace_quantise(const char *kernel, int64_t *y, int rows, int n, int64_t *statistic) {
    kernel_named(kernel)->trace->quantise(y, rows, n, statistic);
}

void assay_trace_rotate(const char *kernel, const int64_t *z, const int32_t *cos, const int32_t *sin, int rows, int heads,
                        int size, int fraction, int64_t *out) {
    kernel_named(kernel)->trace->rotate(z, cos, sin, rows, heads, size, fraction, out);
}

void assay_trace_to_cache(const char *kernel, int64_t *z, int64_t count, int fraction) {
    kernel_named(kernel)->trace->to_cache(z, count, fraction);
}

int assay_trace_attend(const char *kernel, const struct attention *c, const struct trace_attention *a, int kv, int from,
                       int to) {
    return kernel_named(kernel)->trace->attend(c, a, kv, from, to);
}
