/* Eight messages at a time: AVX-512 has 32 registers, and rotates or combines three operands in one instruction. */
#if defined(__x86_64__)
#pragma GCC target("avx512f,avx512vl")
#include <immintrin.h>

#define LANES 8
/* gcc 12 finds a third of these by itself */
#define ROTATE(x, n) ((lanes)_mm512_rol_epi64((__m512i)(x), n))
#define XOR3(x, y, z) ((lanes)_mm512_ternarylogic_epi64((__m512i)(x), (__m512i)(y), (__m512i)(z), 0x96))
#define CHI(x, y, z) ((lanes)_mm512_ternarylogic_epi64((__m512i)(x), (__m512i)(y), (__m512i)(z), 0xd2))
#define KECCAK keccak_avx512
#include "keccak.inc.h"
#else
typedef int no_such_processor;
#endif
