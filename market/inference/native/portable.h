#ifndef ASSAY_PORTABLE_H
#define ASSAY_PORTABLE_H

#include "kernels.h"

/* One row of activations q against rows [from, to) with sums in int64: for a matrix marked wide. */
void linear_wide(const struct matrix *w, int from, int to, const int16_t *q, int shift, int64_t *y);

#endif
