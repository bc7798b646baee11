/* The kernel of x86-64 processors with AVX-512 VNNI: its table, and its operations on rows. Matrices and attention have
 * files of their own. What is written in vectors here is what the compiler's own of rows.inc.h were too slow for. */
#if defined(__x86_64__)
#include "avx512.h"

#include "rows.inc.h"

static int32_t row_sums(const int8_t *weight, int rows, int columns, int32_t *sum) {
    const __m512i ones = _mm512_set1_epi8(1);
    int32_t largest = 0;
    for (int row = 0; row < rows; row++) {
        const int8_t *w = weight + (ptrdiff_t)row * columns;
        __m512i plain = _mm512_setzero_si512(), magnitudes = plain;
        for (int i = 0; i < columns; i += 64) {
            const __mmask64 mask = columns - i >= 64 ? ~(__mmask64)0 : ((__mmask64)1 << (columns - i)) - 1;
            __m512i part = _mm512_maskz_loadu_epi8(mask, w + i);
            DOT_BYTES(plain, ones, part);
            DOT_BYTES(magnitudes, _mm512_abs_epi8(part), ones);
        }
        sum[row] = _mm512_reduce_add_epi32(plain);
        const int32_t all = _mm512_reduce_add_epi32(magnitudes);
        largest = all > largest ? all : largest;
    }
    return largest;
}

/* Sixty-four numbers below 2^31, four registers of them in order → int16 within the limit of activations, as bytes. */
INLINE_VECTOR void store_bytes(const __m512i q[4], uint8_t *upper, uint8_t *lower) {
    const __m512i limit = _mm512_set1_epi16(ACTIVATION_LIMIT), least = _mm512_set1_epi16(-ACTIVATION_LIMIT);
    const __m512i byte = _mm512_set1_epi16(255), flip = _mm512_set1_epi16(INT16_MIN);
    /* packing works within 128 bits: four elements of each register by turns */
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    __m512i high[2], low[2];
    UNROLL for (int i = 0; i < 2; i++) {
        __m512i words = _mm512_packs_epi32(q[2 * i], q[2 * i + 1]);
        words = _mm512_max_epi16(_mm512_min_epi16(words, limit), least);
        high[i] = _mm512_srli_epi16(_mm512_xor_si512(words, flip), 8); /* (q >> 8) + 128 */
        low[i] = _mm512_and_si512(words, byte);
    }
    _mm512_store_si512(upper, _mm512_permutexvar_epi32(order, _mm512_packus_epi16(high[0], high[1])));
    _mm512_store_si512(lower, _mm512_permutexvar_epi32(order, _mm512_packus_epi16(low[0], low[1])));
}

static void quantise(const int64_t *y, const struct planes *planes, int row) {
    const int n = planes->columns, padded = planes->padded, shift = quantise_shift(y, n);
    const __m512i left = _mm512_set1_epi64(shift < 0 ? -shift : 0), right = _mm512_set1_epi64(shift > 0 ? shift : 0);
    const __m512i half = _mm512_set1_epi64(shift > 0 ? (int64_t)1 << (shift - 1) : 0);
    const __m512i evens = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    uint8_t *upper = planes->bytes + (ptrdiff_t)2 * padded * row, *lower = upper + padded;
    planes->shift[row] = shift;
    for (int i = 0; i < padded; i += 64) {
        __m512i q[8], words[4];
        UNROLL for (int j = 0; j < 8; j++) {
            const int count = n - i - 8 * j;
            const __mmask8 mask = count >= 8 ? 0xFF : count <= 0 ? 0 : (__mmask8)((1u << count) - 1);
            q[j] = _mm512_sllv_epi64(_mm512_maskz_loadu_epi64(mask, y + i + 8 * j), left);
            q[j] = _mm512_srav_epi64(_mm512_add_epi64(q[j], half), right);
        }
        UNROLL for (int j = 0; j < 4; j++) words[j] = _mm512_permutex2var_epi32(q[2 * j], evens, q[2 * j + 1]);
        store_bytes(words, upper + i, lower + i);
    }
}

/* Sixteen registers of sixteen lanes, transposed. */
INLINE_VECTOR void transpose(__m512i a[16]) {
    __m512i b[16], c[16];
    UNROLL for (int i = 0; i < 16; i += 2) {
        b[i] = _mm512_unpacklo_epi32(a[i], a[i + 1]);
        b[i + 1] = _mm512_unpackhi_epi32(a[i], a[i + 1]);
    }
    UNROLL for (int i = 0; i < 16; i += 4) UNROLL for (int j = 0; j < 2; j++) {
        c[i + 2 * j] = _mm512_unpacklo_epi64(b[i + j], b[i + j + 2]);
        c[i + 2 * j + 1] = _mm512_unpackhi_epi64(b[i + j], b[i + j + 2]);
    }
    UNROLL for (int i = 0; i < 4; i++) {
        __m512i even[2], odd[2];
        UNROLL for (int j = 0; j < 2; j++) {
            even[j] = _mm512_shuffle_i64x2(c[i + 8 * j], c[i + 8 * j + 4], 0x88);
            odd[j] = _mm512_shuffle_i64x2(c[i + 8 * j], c[i + 8 * j + 4], 0xDD);
        }
        a[i] = _mm512_shuffle_i64x2(even[0], even[1], 0x88);
        a[i + 4] = _mm512_shuffle_i64x2(odd[0], odd[1], 0x88);
        a[i + 8] = _mm512_shuffle_i64x2(even[0], even[1], 0xDD);
        a[i + 12] = _mm512_shuffle_i64x2(odd[0], odd[1], 0xDD);
    }
}

static void group_rows(const struct planes *rows, int first, int count, const struct planes *grouped, int group) {
    const int padded = rows->padded;
    const uint8_t *bytes = rows->bytes + (ptrdiff_t)2 * padded * first;
    uint8_t *to = grouped->bytes + (ptrdiff_t)2 * padded * GROUP * group;
    for (int k = 0; k < padded; k += 64) {
        __m512i a[16];
        UNROLL for (int t = 0; t < 8; t++) {
            const uint8_t *row = bytes + (ptrdiff_t)2 * padded * t + k;
            a[t] = t < count ? _mm512_load_si512(row) : _mm512_setzero_si512();
            a[8 + t] = t < count ? _mm512_load_si512(row + padded) : _mm512_setzero_si512();
        }
        transpose(a);
        UNROLL for (int i = 0; i < 16; i++) _mm512_store_si512(to + 16 * k + 64 * i, a[i]);
    }
}

static void activate(const int64_t *gate, const int64_t *up, const int32_t *high, const int32_t *low, int n,
                     int64_t *z) {
    const __m512i log2e = _mm512_set1_epi64(94548), limit = _mm512_set1_epi64(31 << 16);
    const __m512i one = _mm512_set1_epi64(1 << 30), whole = _mm512_set1_epi64((int64_t)1 << 60);
    int i = 0;
    for (; i + 16 <= n; i += 16) {
        __m512i x[2], d[2];
        UNROLL for (int j = 0; j < 2; j++) {
            x[j] = _mm512_loadu_si512(gate + i + 8 * j);
            /* from 2^31 on the power is 0 anyway */
            __m512i size = _mm512_min_epi64(_mm512_abs_epi64(x[j]), _mm512_set1_epi64(INT32_MAX));
            d[j] = _mm512_min_epi64(_mm512_srli_epi64(_mm512_mul_epu32(size, log2e), 16), limit);
        }
        __m512i power = exp2_negative16(high, low, interleave(d[0], d[1]));
        UNROLL for (int j = 0; j < 2; j++) {
            __m512i alone = j ? _mm512_srli_epi64(power, 32) : _mm512_and_si512(power, _mm512_set1_epi64(0xFFFFFFFF));
            __m512i divisor = _mm512_add_epi64(alone, one);
            __m512i s = _mm512_cvttpd_epi64(_mm512_div_pd(_mm512_set1_pd(0x1p60), _mm512_cvtepi64_pd(divisor)));
            __mmask8 over = _mm512_cmpgt_epi64_mask(_mm512_mul_epu32(s, divisor), whole);
            s = _mm512_mask_sub_epi64(s, over, s, _mm512_set1_epi64(1));
            s = _mm512_mask_sub_epi64(s, _mm512_movepi64_mask(x[j]), one, s);
            __m512i silu = _mm512_add_epi64(_mm512_mullo_epi64(x[j], s), _mm512_set1_epi64(1 << 29));
            silu = _mm512_srai_epi64(silu, 30);
            silu = _mm512_mullo_epi64(silu, _mm512_loadu_si512(up + i + 8 * j));
            silu = _mm512_srai_epi64(_mm512_add_epi64(silu, _mm512_set1_epi64(1 << 15)), 16);
            _mm512_storeu_si512(z + i + 8 * j, silu);
        }
    }
    rows_activate(gate + i, up + i, high, low, n - i, z + i);
}

static int supported(void) {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512vnni");
}

const struct kernel kernel_avx512vnni = {
    .name = "avx512vnni",
    .supported = supported,
    .grouped_from = 4,
    .row_sums = row_sums,
    .largest = rows_largest,
    .normalise = rows_normalise,
    .quantise = quantise,
    .group = group_rows,
    .linear = avx512_linear,
    .rotate = rows_rotate,
    .to_cache = rows_to_cache,
    .activate = activate,
    .attend = avx512_attend,
    .trace = &trace_avx512,
};
#endif
