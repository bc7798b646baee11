/* Operations on single rows in plain C, included once by each kernel and so compiled for its instruction set.
 *
 * Loops are written so that a compiler can turn them into vectors: no early exit, no function calls. Multiplication
 * stands for the left shift of a negative number, which C leaves undefined. */
#include <stdint.h>

#include "kernels.h"

#define INLINE static inline __attribute__((always_inline))

INLINE int bits_of(uint64_t a) { return a ? 64 - __builtin_clzll(a) : 0; }

/* rsr of docs/numerics.md, split so that a loop can run over it: (x * scale + half) >> right. */
struct rounding {
    int64_t scale, half;
    int right;
};

INLINE struct rounding rounding_of(int shift) {
    struct rounding r = {1, 0, 0};
    if (shift > 0) {
        r.half = (int64_t)1 << (shift - 1);
        r.right = shift;
    } else {
        r.scale = (int64_t)1 << -shift;
    }
    return r;
}

INLINE int64_t clamp(int64_t a, int64_t limit) {
    a = a > limit ? limit : a;
    return a < -limit ? -limit : a;
}

/* floor of the square root of n < 2^63: the double's root is off by less than one. */
INLINE uint64_t root_of(uint64_t n) {
    uint64_t r = (uint64_t)__builtin_sqrt((double)n);
    while (r * r > n) r--;
    while ((r + 1) * (r + 1) <= n) r++;
    return r;
}

static __attribute__((unused)) int32_t rows_sums(const int8_t *weight, int rows, int columns, int32_t *sum) {
    int32_t largest = 0;
    for (int row = 0; row < rows; row++) {
        const int8_t *w = weight + (ptrdiff_t)row * columns;
        int32_t plain = 0, magnitudes = 0;
        for (int i = 0; i < columns; i++) {
            plain += w[i];
            magnitudes += w[i] < 0 ? -w[i] : w[i];
        }
        sum[row] = plain;
        largest = magnitudes > largest ? magnitudes : largest;
    }
    return largest;
}

static int64_t rows_largest(const int64_t *x, int n) {
    int64_t top = 0;
    for (int i = 0; i < n; i++) {
        int64_t a = x[i] < 0 ? -x[i] : x[i];
        top = a > top ? a : top;
    }
    return top;
}

/* s and v of normalise; t goes to y. */
struct norm {
    int shift;
    int64_t inverse;
};

INLINE struct norm rows_norm(const int64_t *restrict x, int64_t epsilon, int n, int64_t *restrict y) {
    int shift = bits_of((uint64_t)rows_largest(x, n)) - 22;
    shift = shift < 0 ? 0 : shift;
    const int64_t half = shift ? (int64_t)1 << (shift - 1) : 0;
    int64_t squares = 0;
    for (int i = 0; i < n; i++) {
        int32_t t = (int32_t)((x[i] + half) >> shift); /* at most 2^22 */
        y[i] = t;
        squares += (int64_t)t * t;
    }
    int64_t mean = squares / n + (2 * shift < 63 ? epsilon >> (2 * shift) : 0);
    uint64_t root = root_of((uint64_t)mean << 18);
    return (struct norm){shift, (int64_t)(((uint64_t)1 << 52) / (root ? root : 1))};
}

static __attribute__((unused)) void rows_normalise(const int64_t *restrict x, const int32_t *restrict gain,
                                                   int64_t epsilon, int n, int64_t *restrict y) {
    const int64_t inverse = rows_norm(x, epsilon, n, y).inverse;
    for (int i = 0; i < n; i++) y[i] = (((y[i] * inverse) >> 23) * gain[i] + (1 << 15)) >> 16;
}

/* Only the quotient's last unit can be wrong after a double division; the remainder tells. */
INLINE int64_t sigmoid_of(int64_t power) {
    int64_t divisor = power + (1 << 30);
    int64_t quotient = (int64_t)(0x1p60 / (double)divisor);
    return quotient - (quotient * divisor > (int64_t)1 << 60);
}

INLINE int64_t exp2_negative(const int32_t *high, const int32_t *low, int64_t d) {
    int64_t whole = d >> 16;
    whole = whole > 31 ? 31 : whole;
    return (((int64_t)high[(d >> 8) & 255] * low[d & 255]) >> 30) >> whole;
}

static __attribute__((unused)) void rows_activate(const int64_t *restrict gate, const int64_t *restrict up,
                                                  const int32_t *restrict high, const int32_t *restrict low, int n,
                                                  int64_t *restrict z) {
    for (int i = 0; i < n; i++) {
        int64_t x = gate[i], size = x < 0 ? -x : x;
        int64_t s = sigmoid_of(exp2_negative(high, low, (size * 94548) >> 16));
        s = x < 0 ? ((int64_t)1 << 30) - s : s;
        int64_t silu = (int64_t)((uint64_t)(x * s) + (1 << 29)) >> 30;
        z[i] = (silu * up[i] + (1 << 15)) >> 16;
    }
}

static __attribute__((unused)) void rows_rotate(int64_t *restrict z, const int32_t *restrict cos,
                                                const int32_t *restrict sin, int size) {
    int half = size / 2;
    int64_t *restrict w = z + half;
    for (int i = 0; i < half; i++) {
        int64_t a = z[i], b = w[i], c = cos[i], s = sin[i];
        z[i] = (a * c - b * s + (1 << 14)) >> 15;
        w[i] = (b * c + a * s + (1 << 14)) >> 15;
    }
}

static __attribute__((unused)) void rows_to_cache(const int64_t *restrict z, int fraction, int n,
                                                  int16_t *restrict out) {
    const int right = 16 - fraction; /* 1..16 */
    const int64_t half = (int64_t)1 << (right - 1);
    for (int i = 0; i < n; i++) out[i] = (int16_t)clamp((z[i] + half) >> right, CACHE_LIMIT);
}

/* The integers of quantise; returns the shift. */
INLINE int quantise_shift(const int64_t *y, int n) {
    int64_t top = rows_largest(y, n);
    return bits_of((uint64_t)(top < 1 ? 1 : top)) - 15;
}

/* acc * multiplier, scaled back: r in 1..62. */
INLINE int64_t scaled(int64_t acc, int32_t multiplier, int r) {
    return (int64_t)((uint64_t)(acc * multiplier) + ((uint64_t)1 << (r - 1))) >> r;
}

/* floor((2 * sum << shift + total) / (2 * total)): the double's quotient is off by one at most. */
static __attribute__((unused)) void rows_divide(const int64_t *restrict sum, int64_t total, int shift, int n,
                                                int64_t *restrict out) {
    const int64_t divisor = 2 * total, scale = (int64_t)2 << shift;
    const double by = (double)divisor;
    for (int i = 0; i < n; i++) {
        int64_t numerator = sum[i] * scale + total;
        int64_t q = (int64_t)((double)numerator / by);
        int64_t rest = numerator - q * divisor;
        q -= rest < 0;
        q += rest >= divisor;
        out[i] = q;
    }
}
