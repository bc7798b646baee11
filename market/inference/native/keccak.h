/* Hashes of the trace's tree (docs/disputes.md, section 2), several messages at a time. */
#ifndef ASSAY_KECCAK_H
#define ASSAY_KECCAK_H

#include <stdint.h>

/* Where the values of one operation of one group lie, and the leaves that they make.
 *
 * Slot 0 of each row is the statistic, where there is one. Any other is head << block_bits | block, the statistic not
 * counted, and holds
 *     clamp(first + per_row * row + per_block * (row / 64) - step * block, 0, chunk)
 * elements from elements[row * row_stride + head * head_stride + block * block_stride] on; without any it is outside. */
struct section {
    const void *elements;       /* int64, or int32 where they are narrow */
    const int64_t *statistic;   /* [rows][fields], or NULL */
    int64_t row_stride, head_stride, block_stride, element_stride; /* in elements */
    int32_t first, per_row, per_block, step, chunk;
    int32_t rows, slots, block_bits, fields;
    int32_t size, narrow;       /* bytes of an element in a leaf; whether the values are int32 */
};

enum { LEAF_MAX = 672, MESSAGE_ROOM = 688 }; /* a message of five blocks, and what a store of eight bytes may go beyond */

struct keccak {
    void (*leaves)(const uint8_t *data, const int64_t *offset, const int32_t *length, int64_t count, uint8_t *out);
    void (*level)(const uint8_t *nodes, int64_t rows, int64_t width, const uint8_t *empty, uint8_t *out);
    int (*section)(const struct section *s, uint8_t *out);
};

extern const struct keccak keccak_portable;
#if defined(__x86_64__)
extern const struct keccak keccak_avx2, keccak_avx512;
#endif

#endif
