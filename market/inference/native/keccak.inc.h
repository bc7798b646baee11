/* Keccak-256 of LANES messages at a time; the file that includes this names its target, LANES and KECCAK. */
#include <string.h>

#include "keccak.h"
#include "pack.inc.h"

#if LANES == 1
typedef uint64_t lanes;
#elif !defined(GATHER_EIGHT)
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

#ifndef GATHER_EIGHT
#define GATHER_EIGHT gather_eight
/* Eight words of each lane's message, from `offset` on. */
static inline void gather_eight(const uint8_t *const from[LANES], int64_t offset, lanes words[8]) {
    for (int lane = 0; lane < LANES; lane++)
        for (int i = 0; i < 8; i++) ((uint64_t *)&words[i])[lane] = word_at(from[lane] + offset + 8 * i);
}
#endif

/* One block of each lane's message; `keep` is 0 in the lanes whose message begins with it, else all ones. */
static inline void absorb(lanes state[STATE], const uint8_t *const block[LANES], const lanes keep) {
    lanes words[RATE_WORDS];
    GATHER_EIGHT(block, 0, words);
    GATHER_EIGHT(block, 64, words + 8);
    for (int lane = 0; lane < LANES; lane++) ((uint64_t *)&words[16])[lane] = word_at(block[lane] + 128);
    for (int i = 0; i < RATE_WORDS; i++) state[i] = (state[i] & keep) ^ words[i];
    for (int i = RATE_WORDS; i < STATE; i++) state[i] &= keep;
    permute(state);
}

static inline void digest_of(const lanes *state, int lane, uint8_t *out) {
    for (int i = 0; i < DIGEST / 8; i++) memcpy(out + 8 * i, (const uint64_t *)&state[i] + lane, 8);
}

/* Messages by block: every lane takes the next one as soon as its own ends, so that lengths may differ. */
struct stream {
    lanes state[STATE], keep;
    const uint8_t *block[LANES];    /* the one that comes next; of an idle lane any */
    const uint8_t *second[LANES];   /* and those after it, up to the last */
    const uint8_t *last[LANES];
    int left[LANES];                /* blocks; 0: the lane is idle */
    uint8_t *out[LANES];
    int busy, begun;                /* lanes with a message, and those of them that are at its first block */
};

/* Absorbs until a lane is idle; with `all`, until every lane is. */
static void advance(struct stream *s, int all) {
    while (s->busy == LANES || (all && s->busy)) {
        const int begun = s->begun;
        absorb(s->state, s->block, s->keep);
        s->begun = 0;
        for (int lane = 0; lane < LANES; lane++) {
            if (!s->left[lane]) continue;
            const int first = begun >> lane & 1;
            ((uint64_t *)&s->keep)[lane] = ~(uint64_t)0;
            if (--s->left[lane]) {
                s->block[lane] = s->left[lane] == 1 ? s->last[lane] : first ? s->second[lane] : s->block[lane] + RATE;
                continue;
            }
            digest_of(s->state, lane, s->out[lane]);
            s->busy--;
        }
    }
}

/* An idle lane. */
static int idle(const struct stream *s) {
    int lane = 0;
    while (s->left[lane]) lane++;
    return lane;
}

static void begin(struct stream *s, int lane, int count, const uint8_t *first, const uint8_t *second,
                  const uint8_t *last, uint8_t *out) {
    s->block[lane] = first;
    s->second[lane] = second;
    s->last[lane] = last;
    s->left[lane] = count;
    s->out[lane] = out;
    s->begun |= 1 << lane;
    ((uint64_t *)&s->keep)[lane] = 0;
    s->busy++;
}

/* Of the message 0x00 || payload of `length` bytes; one that fills its last block is padded by a whole one. */
static inline int blocks_of(int64_t length) { return (int)((length + 1) / RATE) + 1; }

/* A message's last block behind the `used` bytes of it that are there. */
static inline void pad(uint8_t *block, int64_t used) {
    memset(block + used, 0, (size_t)(RATE - used));
    block[used] = 0x01;
    block[RATE - 1] ^= 0x80;
}

/* keccak256(0x00 || payload) of payloads of any length each. */
static void leaves(const uint8_t *data, const int64_t *offset, const int32_t *length, int64_t count, uint8_t *out) {
    uint8_t ends[LANES][2][RATE]; /* first and last blocks; those between are read where they are */
    struct stream s = {.busy = 0};
    for (int lane = 0; lane < LANES; lane++) s.block[lane] = memset(ends[lane][0], 0, RATE);
    for (int64_t i = 0; i < count; i++) {
        const int lane = idle(&s), blocks = blocks_of(length[i]), last = blocks > 1;
        const uint8_t *from = data + offset[i], *middle = from + RATE - 1;
        const int64_t used = length[i] + 1 - (int64_t)RATE * (blocks - 1); /* of the last block, the prefix counted */
        uint8_t *const first = ends[lane][0], *const final = ends[lane][last];
        first[0] = 0;
        if (last) {
            memcpy(first + 1, from, RATE - 1);
            memcpy(final, from + length[i] - used, (size_t)used);
        } else {
            memcpy(first + 1, from, (size_t)length[i]);
        }
        pad(final, used);
        begin(&s, lane, blocks, first, middle, final, out + DIGEST * i);
        advance(&s, 0);
    }
    advance(&s, 1);
}

/* The leaves of a section → out [rows][slots][32], zeros where one is outside. Returns whether all elements fit. */
static int section(const struct section *s, uint8_t *out) {
    uint8_t message[LANES][MESSAGE_ROOM];
    struct stream stream = {.busy = 0};
    int64_t beyond = 0;
    for (int lane = 0; lane < LANES; lane++) stream.block[lane] = memset(message[lane], 0, RATE);
    for (int row = 0; row < s->rows; row++) {
        for (int slot = 0; slot < s->slots; slot++, out += DIGEST) {
            const int lane = idle(&stream);
            const int64_t length = payload_of(s, row, slot, message[lane] + 1, &beyond);
            if (!length) {
                memset(out, 0, DIGEST);
                continue;
            }
            const int blocks = blocks_of(length);
            uint8_t *last = message[lane] + RATE * (blocks - 1);
            message[lane][0] = 0;
            pad(last, length + 1 - RATE * (blocks - 1));
            begin(&stream, lane, blocks, message[lane], message[lane] + RATE, last, out);
            advance(&stream, 0);
        }
    }
    advance(&stream, 1);
    return !beyond;
}

/* The level above: keccak256 of neighbours in each of the rows, an odd last one beside `empty`. May be written where the
 * nodes are: no hash lies behind what it is made of. */
static void level(const uint8_t *nodes, int64_t rows, int64_t width, const uint8_t *empty, uint8_t *out) {
    const int64_t pairs = (width + 1) / 2, count = rows * pairs;
    int64_t row = 0, pair = 0;
    uint8_t last[LANES][2 * DIGEST];
    for (int64_t first = 0; first < count; first += LANES) {
        const int used = count - first < LANES ? (int)(count - first) : LANES;
        const uint8_t *from[LANES];
        lanes state[STATE];
        memset(state, 0, sizeof state);
        for (int lane = 0; lane < LANES; lane++) {
            from[lane] = lane ? from[0] : nodes;
            if (lane >= used) continue;
            from[lane] = nodes + DIGEST * (row * width + 2 * pair);
            if (2 * pair + 1 == width) {
                memcpy(last[lane], from[lane], DIGEST);
                memcpy(last[lane] + DIGEST, empty, DIGEST);
                from[lane] = last[lane];
            }
            if (++pair == pairs) row++, pair = 0;
        }
        GATHER_EIGHT(from, 0, state);
        for (int lane = 0; lane < LANES; lane++) {
            ((uint64_t *)&state[8])[lane] = 1;
            ((uint64_t *)&state[RATE_WORDS - 1])[lane] = (uint64_t)0x80 << 56;
        }
        permute(state);
        for (int lane = 0; lane < used; lane++) digest_of(state, lane, out + DIGEST * (first + lane));
    }
}

const struct keccak KECCAK = {leaves, level, section};
