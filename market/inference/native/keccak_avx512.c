/* Eight messages at a time: AVX-512 has 32 registers, and rotates or combines three operands in one instruction. */
#if defined(__x86_64__)
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl")
#include <immintrin.h>
#include <stdint.h>

#define LANES 8
/* gcc 12 finds a third of these by itself */
#define ROTATE(x, n) ((lanes)_mm512_rol_epi64((__m512i)(x), n))
#define XOR3(x, y, z) ((lanes)_mm512_ternarylogic_epi64((__m512i)(x), (__m512i)(y), (__m512i)(z), 0x96))
#define CHI(x, y, z) ((lanes)_mm512_ternarylogic_epi64((__m512i)(x), (__m512i)(y), (__m512i)(z), 0xd2))
#define KECCAK keccak_avx512

typedef uint64_t lanes __attribute__((vector_size(64), may_alias));

/* Eight words of each lane's message: eight rows of eight, transposed. */
#define GATHER_EIGHT gather_eight
static inline void gather_eight(const uint8_t *const from[8], int64_t offset, lanes words[8]) {
    __m512i a[8], b[8];
    for (int i = 0; i < 8; i++) a[i] = _mm512_loadu_si512(from[i] + offset);
    for (int i = 0; i < 8; i += 2) { /* pairs of rows, of pairs of columns */
        b[i] = _mm512_unpacklo_epi64(a[i], a[i + 1]);
        b[i + 1] = _mm512_unpackhi_epi64(a[i], a[i + 1]);
    }
    for (int i = 0; i < 2; i++) {
        const __m512i lower = _mm512_shuffle_i64x2(b[i], b[i + 2], 0x88), left = _mm512_shuffle_i64x2(b[i], b[i + 2], 0xDD);
        const __m512i upper = _mm512_shuffle_i64x2(b[i + 4], b[i + 6], 0x88);
        const __m512i right = _mm512_shuffle_i64x2(b[i + 4], b[i + 6], 0xDD);
        words[i] = (lanes)_mm512_shuffle_i64x2(lower, upper, 0x88);
        words[i + 4] = (lanes)_mm512_shuffle_i64x2(lower, upper, 0xDD);
        words[i + 2] = (lanes)_mm512_shuffle_i64x2(left, right, 0x88);
        words[i + 6] = (lanes)_mm512_shuffle_i64x2(left, right, 0xDD);
    }
}
#include "keccak.inc.h"
#else
typedef int no_such_processor;
#endif
