/* One message at a time on any processor, and the choice between this and the wider ones. */
#define LANES 1
#define KECCAK keccak_portable
#include "keccak.inc.h"

#include "engine.h"

EXPORT int assay_keccak_width(void);
EXPORT int assay_keccak_leaves(int width, const uint8_t *data, const int64_t *offset, const int32_t *length, int64_t count,
                               uint8_t *out);
EXPORT int assay_keccak_level(int width, const uint8_t *nodes, int64_t rows, int64_t columns, const uint8_t *empty,
                              uint8_t *out);
EXPORT int assay_section_leaf_max(void);
EXPORT int assay_section_root(int width, const struct section *s, const uint8_t *empty, int slot_bits, int row_bits,
                              uint8_t *hashes);

/* Messages at a time that this processor takes; 0 for one whose words are not little-endian. */
int assay_keccak_width(void) {
#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
    return 0;
#elif defined(__x86_64__)
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
        return 8;
    if (__builtin_cpu_supports("avx2")) return 4;
#endif
    return 1;
}

/* NULL for a width that this processor does not have. */
static const struct keccak *of_width(int width) {
    if (width < 1 || width > assay_keccak_width()) return 0;
#if defined(__x86_64__)
    if (width == 8) return &keccak_avx512;
    if (width == 4) return &keccak_avx2;
#endif
    return width == 1 ? &keccak_portable : 0;
}

/* keccak256(0x00 || data[offset[i] .. offset[i] + length[i]]) of each i → out [count][32]; 0 for no such width. */
int assay_keccak_leaves(int width, const uint8_t *data, const int64_t *offset, const int32_t *length, int64_t count,
                        uint8_t *out) {
    const struct keccak *keccak = of_width(width);
    if (keccak) keccak->leaves(data, offset, length, count, out);
    return keccak != 0;
}

/* nodes [rows][columns][32] → out [rows][(columns + 1) / 2][32]; the right neighbour of an odd last one is `empty`. */
int assay_keccak_level(int width, const uint8_t *nodes, int64_t rows, int64_t columns, const uint8_t *empty,
                       uint8_t *out) {
    const struct keccak *keccak = of_width(width);
    if (keccak) keccak->level(nodes, rows, columns, empty, out);
    return keccak != 0;
}

/* Bytes of the largest payload that assay_section_root takes. */
int assay_section_leaf_max(void) { return LEAF_MAX; }

/* The root of a section, into hashes[0]. empty [slot_bits + row_bits][32]: EMPTY_0 and on; hashes [rows][slots][32]: room.
 * Returns 1, or 0 if an element did not fit and lost its upper bits, or -1 for no such width. */
int assay_section_root(int width, const struct section *s, const uint8_t *empty, int slot_bits, int row_bits,
                       uint8_t *hashes) {
    const struct keccak *keccak = of_width(width);
    if (!keccak) return -1;
    const int fits = keccak->section(s, hashes);
    int64_t wide = s->slots, nodes;
    for (int height = 0; height < slot_bits; height++, wide = (wide + 1) / 2)
        keccak->level(hashes, s->rows, wide, empty + 32 * height, hashes);
    nodes = s->rows;
    for (int height = slot_bits; height < slot_bits + row_bits; height++, nodes = (nodes + 1) / 2)
        keccak->level(hashes, 1, nodes, empty + 32 * height, hashes);
    return fits;
}
