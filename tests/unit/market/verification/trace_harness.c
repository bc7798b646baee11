/* Runs the operations of a trace and the roots of sections without Python: for sanitizers and other processors.
 *
 *     harness FILE KERNEL WIDTH > results
 *
 * FILE holds int64 and arrays one after the other, as test_native_elsewhere.py writes them: first the rows, then
 * attention, then sections up to one with no rows. Results are int64 arrays and, at the end, the roots. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine.h"
#include "keccak.h"

void assay_trace_norm(const char *kernel, const int64_t *x, const int32_t *gain, int64_t epsilon, int rows, int n,
                      int64_t *statistic, int64_t *q);
void assay_trace_quantise(const char *kernel, int64_t *y, int rows, int n, int64_t *statistic);
void assay_trace_rotate(const char *kernel, const int64_t *z, const int32_t *cos, const int32_t *sin, int rows, int heads,
                        int size, int fraction, int64_t *out);
int assay_trace_attend(const char *kernel, const struct attention *c, const struct trace_attention *a, int kv, int from,
                       int to);
int assay_section_root(int width, const struct section *s, const uint8_t *empty, int slot_bits, int row_bits,
                       uint8_t *hashes);
int assay_keccak_leaves(int width, const uint8_t *data, const int64_t *offset, const int32_t *length, int64_t count,
                        uint8_t *out);

static FILE *file;

/* Exactly as large as it says: what is read or written behind its end is seen. */
static void *take(int64_t count, size_t size) {
    void *p = malloc((size_t)count * size);
    if ((!p && count) || fread(p, size, (size_t)count, file) != (size_t)count) exit(2);
    return p;
}

static int64_t number(void) {
    int64_t *p = take(1, sizeof *p), value = *p;
    free(p);
    return value;
}

static void give(const void *p, int64_t count, size_t size) {
    if (fwrite(p, size, (size_t)count, stdout) != (size_t)count) exit(3);
}

static int64_t *room(int64_t count) {
    int64_t *p = malloc((size_t)count * sizeof *p);
    if (!p) exit(4);
    return p;
}

static void rows(const char *kernel) {
    const int count = (int)number(), width = (int)number();
    const int64_t epsilon = number();
    int64_t *x = take((int64_t)count * width, 8), *statistic = room(4 * count), *q = room((int64_t)count * width);
    int32_t *gain = take(width, 4);
    assay_trace_norm(kernel, x, gain, epsilon, count, width, statistic, q);
    give(statistic, 4 * count, 8);
    give(q, (int64_t)count * width, 8);
    assay_trace_quantise(kernel, x, count, width, statistic);
    give(statistic, 2 * count, 8);
    give(x, (int64_t)count * width, 8);
    free(x);
    free(statistic);
    free(q);
    free(gain);
}

static void attention(const char *kernel) {
    const int64_t positions = number(), heads = number(), kv_heads = number(), size = number(), fraction = number();
    const int64_t blocks = (positions + 63) / 64, queries = positions * heads;
    struct attention c = {.multiplier = number()};
    c.score_shift = (int32_t)number();
    c.value_shift = (int32_t)number();
    c.size = (int32_t)size;
    int32_t *high = take(256, 4), *low = take(256, 4);
    c.exp2_high = high;
    c.exp2_low = low;
    int32_t *cos = take(positions * size / 2, 4), *sin = take(positions * size / 2, 4);
    int64_t *z = take(queries * size, 8), *query = room(queries * size);
    int64_t *key = take(positions * kv_heads * size, 8), *value = take(positions * kv_heads * size, 8);
    assay_trace_rotate(kernel, z, cos, sin, (int)positions, (int)heads, (int)size, (int)fraction, query);
    give(query, queries * size, 8);
    struct trace_attention a = {query, key, value, room(queries * blocks * 64), room(queries * (2 + blocks)),
                                room(queries * blocks * size), room(queries * size), number(), (int32_t)heads,
                                (int32_t)kv_heads, (int32_t)blocks};
    for (int kv = 0; kv < kv_heads; kv++)
        for (int64_t from = 0; from < positions; from += 64) {
            const int64_t to = from + 64 < positions ? from + 64 : positions;
            if (!assay_trace_attend(kernel, &c, &a, kv, (int)from, (int)to)) exit(4);
        }
    give(a.score, queries * blocks * 64, 8);
    give(a.softmax, queries * (2 + blocks), 8);
    give(a.sum, queries * blocks * size, 8);
    give(a.mix, queries * size, 8);
    int64_t *arrays[] = {z, query, key, value, a.score, a.softmax, a.sum, a.mix};
    for (int i = 0; i < 8; i++) free(arrays[i]);
    free(high);
    free(low);
    free(cos);
    free(sin);
}

static int section(int width) {
    struct section s = {.rows = (int32_t)number()};
    if (!s.rows) return 0;
    int64_t *strides[] = {&s.row_stride, &s.head_stride, &s.block_stride, &s.element_stride};
    for (int i = 0; i < 4; i++) *strides[i] = number();
    int32_t *others[] = {&s.first, &s.per_row, &s.per_block, &s.step, &s.chunk, &s.slots, &s.block_bits, &s.fields,
                         &s.size, &s.narrow};
    for (int i = 0; i < 10; i++) *others[i] = (int32_t)number();
    const int slot_bits = (int)number(), row_bits = (int)number();
    uint8_t *empty = take(32 * (slot_bits + row_bits), 1), *hashes = malloc((size_t)s.rows * (size_t)s.slots * 32);
    int64_t *statistic = take((int64_t)s.rows * s.fields, 8);
    const int64_t count = number();
    void *elements = take(count, s.narrow ? 4 : 8);
    s.statistic = statistic;
    s.elements = elements;
    if (assay_section_root(width, &s, empty, slot_bits, row_bits, hashes) != 1) exit(5);
    give(hashes, 32, 1);
    free(empty);
    free(hashes);
    free(statistic);
    free(elements);
    return 1;
}

/* Messages of every length up to some blocks. */
static void messages(int width) {
    const int64_t count = number();
    int64_t *offset = take(count, 8);
    int32_t *length = take(count, 4);
    uint8_t *data = take(number(), 1), *out = malloc(32 * (size_t)count);
    if (!assay_keccak_leaves(width, data, offset, length, count, out)) exit(6);
    give(out, 32 * count, 1);
    free(offset);
    free(length);
    free(data);
    free(out);
}

int main(int argc, char **argv) {
    if (argc != 4 || !(file = fopen(argv[1], "rb"))) return 1;
    rows(argv[2]);
    attention(argv[2]);
    messages(atoi(argv[3]));
    while (section(atoi(argv[3]))) continue;
    fclose(file);
    return 0;
}
