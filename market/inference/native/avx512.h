/* What the parts of the AVX-512 VNNI kernel share. Include it first: it names the instruction set. */
#ifndef ASSAY_AVX512_H
#define ASSAY_AVX512_H

#pragma GCC target("avx2,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")
#include <immintrin.h>
#include <string.h>

#include "kernels.h"

#define UNROLL _Pragma("GCC unroll 24")
#define INLINE_VECTOR static inline __attribute__((always_inline))

typedef int32_t four_bytes __attribute__((may_alias, aligned(1)));

/* Inline assembly, because gcc 12 moves the accumulator of the intrinsic through another register. */
#define DOT_BYTES(acc, unsigned_bytes, signed_bytes) \
    __asm__("vpdpbusd %2, %1, %0" : "+v"(acc) : "v"(unsigned_bytes), "v"(signed_bytes))
/* the signed bytes: four of them, in every lane */
#define DOT_BROADCAST(acc, unsigned_bytes, four) \
    __asm__("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(acc) : "v"(unsigned_bytes), "m"(*(const four_bytes *)(const void *)(four)))
#define DOT_WORDS(acc, a, b) __asm__("vpdpwssd %2, %1, %0" : "+v"(acc) : "v"(a), "v"(b))

INLINE_VECTOR __m512i broadcast(const void *four) {
    int32_t word;
    memcpy(&word, four, sizeof word);
    return _mm512_set1_epi32(word);
}

/* The low halves of even and of odd lanes, side by side: sixteen numbers below 2^32 of two registers of int64. */
INLINE_VECTOR __m512i interleave(__m512i even, __m512i odd) {
    return _mm512_mask_blend_epi32(0xAAAA, even, _mm512_slli_epi64(odd, 32));
}

/* 2^-d in Q30 of sixteen distances of at most 31 << 16. */
INLINE_VECTOR __m512i exp2_negative16(const int32_t *high, const int32_t *low, __m512i d) {
    const __m512i byte = _mm512_set1_epi32(255);
    __m512i a = _mm512_i32gather_epi32(_mm512_and_si512(_mm512_srli_epi32(d, 8), byte), high, 4);
    __m512i b = _mm512_i32gather_epi32(_mm512_and_si512(d, byte), low, 4);
    __m512i even = _mm512_srli_epi64(_mm512_mul_epu32(a, b), 30);
    __m512i odd = _mm512_slli_epi64(_mm512_mul_epu32(_mm512_srli_epi64(a, 32), _mm512_srli_epi64(b, 32)), 2);
    return _mm512_srlv_epi32(_mm512_mask_blend_epi32(0xAAAA, even, odd), _mm512_srli_epi32(d, 16));
}

/* One table, several files. */
void avx512_linear(const struct matrix *w, int from, int to, const struct planes *a, int count, int64_t *y, long stride);
void avx512_attend(const struct attention *c, const int16_t *keys, const int16_t *values, const struct query *queries,
                   int count, const struct attention_room *room);

#endif
