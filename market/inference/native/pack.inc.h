/* Integers as the leaves of a trace hold them: two's complement of a few bytes, the highest first. Included by each width
 * of keccak and so compiled for its instruction set. */
#include <stdint.h>
#include <string.h>

#include "keccak.h"

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define HIGHEST_FIRST(bits, word) __builtin_bswap##bits(word)
#else
#define HIGHEST_FIRST(bits, word) (word)
#endif

/* Of a size that a processor has. */
#define PACK_WHOLE(size, bits)                                                         \
    case size:                                                                         \
        for (int64_t i = 0; i < count; i++) {                                          \
            const uint##bits##_t bytes = HIGHEST_FIRST(bits, (uint##bits##_t)from[i]); \
            beyond |= (int##bits##_t)from[i] ^ from[i];                                \
            memcpy(out + size * i, &bytes, size);                                      \
        }                                                                              \
        break

/* Of any other: all eight bytes are written, and those too many written over by the next. */
#define PACK_PART(size)                                                    \
    case size:                                                             \
        for (int64_t i = 0; i < count; i++) {                              \
            const uint64_t upper = (uint64_t)from[i] << (64 - 8 * size);   \
            const uint64_t bytes = HIGHEST_FIRST(64, upper);               \
            beyond |= ((int64_t)upper >> (64 - 8 * size)) ^ from[i];       \
            memcpy(out + size * i, &bytes, i + 1 < count ? 8 : size);      \
        }                                                                  \
        break

enum { NO_SUCH_SIZE = 1 };

/* from [count] → out [count * size]. Returns 0 if all fit; else those that do not have lost their upper bits. */
static inline int64_t pack(const int64_t *from, int64_t count, int size, uint8_t *out) {
    int64_t beyond = 0;
    switch (size) {
        PACK_WHOLE(2, 16);
        PACK_WHOLE(4, 32);
        PACK_PART(5);
        PACK_PART(6);
        PACK_WHOLE(8, 64);
        default: return NO_SUCH_SIZE;
    }
    return beyond;
}

/* A leaf's payload; its length, 0 where it is outside. `beyond` is no longer 0 once an element did not fit. */
static inline int64_t payload_of(const struct section *s, int row, int slot, uint8_t *out, int64_t *beyond) {
    int64_t count, used;
    if (s->fields && slot-- == 0) {
        count = s->fields;
        used = 8 * count;
        pack(s->statistic + (int64_t)row * count, count, 8, out);
    } else {
        const int64_t head = slot >> s->block_bits, block = slot & ((1 << s->block_bits) - 1);
        const int64_t at = row * s->row_stride + head * s->head_stride + block * s->block_stride;
        count = s->first + (int64_t)s->per_row * row + (int64_t)s->per_block * (row / 64) - s->step * block;
        count = count < 0 ? 0 : count > s->chunk ? s->chunk : count;
        used = s->size * count;
        if (s->narrow) {
            const int32_t *from = (const int32_t *)s->elements + at;
            for (int64_t i = 0; i < count; i++) {
                const uint32_t bytes = HIGHEST_FIRST(32, (uint32_t)from[i * s->element_stride]);
                memcpy(out + 4 * i, &bytes, 4);
            }
        } else if (s->element_stride == 1) {
            *beyond |= pack((const int64_t *)s->elements + at, count, s->size, out);
        } else {
            int64_t together[128]; /* as many as a leaf may have */
            const int64_t *from = (const int64_t *)s->elements + at;
            for (int64_t i = 0; i < count; i++) together[i] = from[i * s->element_stride];
            *beyond |= pack(together, count, s->size, out);
        }
    }
    const int64_t length = (used + 31) / 32 * 32;
    memset(out + used, 0, (size_t)(length - used));
    return length;
}
