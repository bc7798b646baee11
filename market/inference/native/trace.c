/* What recomputes a trace: products of activations that are integers already (docs/disputes.md, section 2). */
#include <stdlib.h>

#include "engine.h"

EXPORT int assay_trace_linear(const char *kernel, const struct matrix *w, int from, int to, const int64_t *q,
                              const int32_t *shift, int count, int64_t *out, int64_t stride);

/* q [count][K] int16-valued with a shift per row → out[t * stride + n - from] for n in [from, to). Returns 1, or 0 without
 * memory, or -1 for a row that quantising would change, which no honest trace has: all zeros and rows whose largest
 * magnitude has 15 bits pass through it as they are. */
int assay_trace_linear(const char *kernel, const struct matrix *w, int from, int to, const int64_t *q,
                       const int32_t *shift, int count, int64_t *out, int64_t stride) {
    const struct kernel *k = kernel_named(kernel);
    const int padded = (w->columns + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    const size_t rows = (size_t)(count + GROUP - 1) / GROUP * GROUP;
    int32_t *shifts = malloc(rows * sizeof *shifts);
    struct planes planes = {aligned_alloc(ALIGNMENT, 2 * rows * (size_t)padded), shifts, w->columns, padded,
                            count >= k->grouped_from};
    int done = planes.bytes && shifts;
    for (int row = 0; row < count && done == 1; row++) {
        const int64_t *values = q + (ptrdiff_t)row * w->columns, largest = k->largest(values, w->columns);
        if (largest > ACTIVATION_LIMIT || (largest && largest < 1 << 14)) done = -1;
        else k->quantise(values, &planes, row);
        shifts[row] = shift[row];
    }
    if (done == 1) k->linear(w, from, to, &planes, count, out - from, stride);
    free(planes.bytes);
    free(shifts);
    return done;
}
