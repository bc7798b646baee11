/* Hashes of the trace's tree (docs/disputes.md, section 2), several messages at a time. */
#ifndef ASSAY_KECCAK_H
#define ASSAY_KECCAK_H

#include <stdint.h>

struct keccak {
    void (*leaves)(const uint8_t *data, const int64_t *offset, const int32_t *length, int64_t count, uint8_t *out);
    void (*level)(const uint8_t *nodes, int64_t rows, int64_t width, const uint8_t *empty, uint8_t *out);
};

extern const struct keccak keccak_portable;
#if defined(__x86_64__)
extern const struct keccak keccak_avx2, keccak_avx512;
#endif

#endif
