/* How a sequence's keys and values lie in its slot, so that registers fill with positions and with elements. */
#ifndef ASSAY_CACHE_H
#define ASSAY_CACHE_H

#include <string.h>

#include "kernels.h"

static inline void store_key(int16_t *keys, int position, int size, const int16_t *key) {
    int16_t *to = keys + (ptrdiff_t)(position / KEY_BLOCK) * KEY_BLOCK * size + 2 * (position % KEY_BLOCK);
    for (int i = 0; i < size; i += 2) memcpy(to + i * KEY_BLOCK, key + i, 2 * sizeof *key);
}

static inline void store_value(int16_t *values, int position, int size, const int16_t *value) {
    int16_t *to = values + (ptrdiff_t)(position / 2) * 2 * size + position % 2;
    for (int i = 0; i < size; i++) to[2 * i] = value[i];
}

#endif
