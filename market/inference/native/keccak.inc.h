/* Keccak-256 of LANES messages at a time; the file that includes this names its target, LANES and KECCAK. */
#include <string.h>

#include "keccak.h"

#if LANES == 1
typedef uint64_t lanes;
#else
typedef uint64_t lanes __attribute__((vector_size(8 * LANES), may_alias));
#endif

enum { STATE = 25, RATE = 136, RATE_WORDS = RATE / 8, DIGEST = 32 };

static const uint64_t round_constant[24] = {
    0x0000000000000001, 0x0000000000008082, 0x800000000000808a, 0x8000000080008000,
    0x000000000000808b, 0x0000000080000001, 0x8000000080008081, 0x8000000000008009,
    0x000000000000008a, 0x0000000000000088, 0x0000000080008009, 0x000000008000000a,
    0x000000008000808b, 0x800000000000008b, 0x8000000000008089, 0x8000000000008003,
    0x8000000000008002, 0x8000000000000080, 0x000000000000800a, 0x800000008000000a,
    0x8000000080008081, 0x8000000000008080, 0x0000000080000001, 0x8000000080008008,
};

#ifndef ROTATE
#define ROTATE(x, n) ((x) << (n) | (x) >> (64 - (n)))
#define XOR3(x, y, z) ((x) ^ (y) ^ (z))
#define CHI(x, y, z) ((x) ^ (~(y) & (z)))
#endif

static void permute(lanes *restrict state) {
    lanes a[STATE], b[STATE], c[5], d[5];
    for (int i = 0; i < STATE; i++) a[i] = state[i];
    for (int round = 0; round < 24; round++) {
#pragma GCC unroll 5
        for (int x = 0; x < 5; x++) c[x] = XOR3(XOR3(a[x], a[x + 5], a[x + 10]), a[x + 15], a[x + 20]);
#pragma GCC unroll 5
        for (int x = 0; x < 5; x++) d[x] = c[(x + 4) % 5] ^ ROTATE(c[(x + 1) % 5], 1);
        b[0] = a[0] ^ d[0]; b[1] = ROTATE(a[6] ^ d[1], 44);
        b[2] = ROTATE(a[12] ^ d[2], 43); b[3] = ROTATE(a[18] ^ d[3], 21);
        b[4] = ROTATE(a[24] ^ d[4], 14); b[5] = ROTATE(a[3] ^ d[3], 28);
        b[6] = ROTATE(a[9] ^ d[4], 20); b[7] = ROTATE(a[10] ^ d[0], 3);
        b[8] = ROTATE(a[16] ^ d[1], 45); b[9] = ROTATE(a[22] ^ d[2], 61);
        b[10] = ROTATE(a[1] ^ d[1], 1); b[11] = ROTATE(a[7] ^ d[2], 6);
        b[12] = ROTATE(a[13] ^ d[3], 25); b[13] = ROTATE(a[19] ^ d[4], 8);
        b[14] = ROTATE(a[20] ^ d[0], 18); b[15] = ROTATE(a[4] ^ d[4], 27);
        b[16] = ROTATE(a[5] ^ d[0], 36); b[17] = ROTATE(a[11] ^ d[1], 10);
        b[18] = ROTATE(a[17] ^ d[2], 15); b[19] = ROTATE(a[23] ^ d[3], 56);
        b[20] = ROTATE(a[2] ^ d[2], 62); b[21] = ROTATE(a[8] ^ d[3], 55);
        b[22] = ROTATE(a[14] ^ d[4], 39); b[23] = ROTATE(a[15] ^ d[0], 41);
        b[24] = ROTATE(a[21] ^ d[1], 2);
#pragma GCC unroll 5
        for (int y = 0; y < STATE; y += 5)
#pragma GCC unroll 5
            for (int x = 0; x < 5; x++) a[y + x] = CHI(b[y + x], b[y + (x + 1) % 5], b[y + (x + 2) % 5]);
        a[0] ^= round_constant[round];
    }
    for (int i = 0; i < STATE; i++) state[i] = a[i];
}

static inline uint64_t word_at(const uint8_t *bytes) {
    uint64_t word; /* little-endian, as are all machines that this is built for; others take the hashes of Python */
    memcpy(&word, bytes, sizeof word);
    return word;
}

static void digest_of(uint64_t (*state)[LANES], int lane, uint8_t *out) {
    for (int i = 0; i < DIGEST / 8; i++) memcpy(out + 8 * i, &state[i][lane], 8);
}

/* keccak256(0x00 || payload) of payloads of any length each. */
static void leaves(const uint8_t *data, const int64_t *offset, const int32_t *length, int64_t count, uint8_t *out) {
    for (int64_t first = 0; first < count; first += LANES) {
        const int used = count - first < LANES ? (int)(count - first) : LANES;
        _Alignas(64) uint64_t state[STATE][LANES];
        uint8_t block[RATE];
        int64_t done[LANES]; /* bytes of the message taken, the prefix counted */
        int left = used;
        memset(state, 0, sizeof state);
        memset(done, 0, sizeof done);
        while (left) {
            int ends[LANES], end_count = 0;
            for (int lane = 0; lane < used; lane++) {
                if (done[lane] < 0) continue;
                const int64_t rest = length[first + lane] + (int64_t)1 - done[lane], take = rest < RATE ? rest : RATE;
                const uint8_t *from = data + offset[first + lane] + done[lane] - 1;
                const int prefix = done[lane] == 0;
                block[0] = 0;
                memcpy(block + prefix, from + prefix, (size_t)(take - prefix));
                done[lane] += take;
                if (take < RATE) { /* a message that fills its last block is padded by a whole one */
                    memset(block + take, 0, (size_t)(RATE - take));
                    block[take] ^= 0x01;
                    block[RATE - 1] ^= 0x80;
                    ends[end_count++] = lane;
                    done[lane] = -1;
                }
                for (int i = 0; i < RATE_WORDS; i++) state[i][lane] ^= word_at(block + 8 * i);
            }
            permute((lanes *)state);
            for (int i = 0; i < end_count; i++) digest_of(state, ends[i], out + DIGEST * (first + ends[i]));
            left -= end_count;
        }
    }
}

/* The level above: keccak256 of neighbours in each of the rows, an odd last one beside `empty`. */
static void level(const uint8_t *nodes, int64_t rows, int64_t width, const uint8_t *empty, uint8_t *out) {
    const int64_t pairs = (width + 1) / 2, count = rows * pairs;
    for (int64_t first = 0; first < count; first += LANES) {
        const int used = count - first < LANES ? (int)(count - first) : LANES;
        _Alignas(64) uint64_t state[STATE][LANES];
        memset(state, 0, sizeof state);
        for (int lane = 0; lane < used; lane++) {
            const int64_t row = (first + lane) / pairs, pair = (first + lane) % pairs;
            const uint8_t *left = nodes + DIGEST * (row * width + 2 * pair);
            const uint8_t *right = 2 * pair + 1 < width ? left + DIGEST : empty;
            for (int i = 0; i < 4; i++) {
                state[i][lane] = word_at(left + 8 * i);
                state[4 + i][lane] = word_at(right + 8 * i);
            }
            state[8][lane] = 1;
            state[RATE_WORDS - 1][lane] = (uint64_t)0x80 << 56;
        }
        permute((lanes *)state);
        for (int lane = 0; lane < used; lane++) digest_of(state, lane, out + DIGEST * (first + lane));
    }
}

const struct keccak KECCAK = {leaves, level};
