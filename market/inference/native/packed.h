/* The halves of the queries that a kernel scores at once, in the order in which it reads them. */
#ifndef ASSAY_PACKED_H
#define ASSAY_PACKED_H

#include "kernels.h"

struct packed {
    int16_t pair[HEAD_SIZE_MAX / 2][QUERIES][2][2]; /* [pair of elements][query][upper, lower][element] */
};

#endif
