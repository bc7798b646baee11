/* Reads weights as decoding does and does nothing with them: the least time in which a token can be decoded.
 *
 * Every thread reads its share of each matrix, `passes` times over, 64 bytes at a time and with requests AHEAD of what it
 * reads, either straight on or in four rows side by side, as the kernels' dot products do. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum { AHEAD = 8192, LINE = 64, ABREAST = 4, THREADS_MAX = 64 };

typedef uint64_t line __attribute__((vector_size(LINE), aligned(1), may_alias));

struct matrix {
    const char *start;
    int64_t rows, columns; /* bytes of a row: at least LINE */
};

struct reader {
    const struct matrix *matrices;
    int count, passes, side_by_side, index, threads;
    line sum;
};

static inline void take(struct reader *r, const char *at) {
    __builtin_prefetch(at + AHEAD);
    r->sum += *(const line *)at;
}

static void straight(struct reader *r, const char *at, const char *end) {
    for (; at + LINE <= end; at += LINE) take(r, at);
    if (at < end) take(r, end - LINE);
}

static void abreast(struct reader *r, const struct matrix *m, int64_t from, int64_t to) {
    int64_t row = from;
    for (; row + ABREAST <= to; row += ABREAST) {
        const char *at = m->start + row * m->columns;
        int64_t k = 0;
        for (; k + LINE <= m->columns; k += LINE)
            for (int j = 0; j < ABREAST; j++) take(r, at + j * m->columns + k);
        if (k < m->columns)
            for (int j = 0; j < ABREAST; j++) take(r, at + (j + 1) * m->columns - LINE);
    }
    straight(r, m->start + row * m->columns, m->start + to * m->columns);
}

static void *run(void *argument) {
    struct reader *r = argument;
    for (int pass = 0; pass < r->passes; pass++)
        for (int i = 0; i < r->count; i++) {
            const struct matrix *m = &r->matrices[i];
            const int64_t from = m->rows * r->index / r->threads, to = m->rows * (r->index + 1) / r->threads;
            if (r->side_by_side) abreast(r, m, from, to);
            else straight(r, m->start + from * m->columns, m->start + to * m->columns);
        }
    return NULL;
}

/* A number that depends on every byte, so that no read can be left out; 0 too where threads could not be started. */
uint64_t assay_bench_read(const struct matrix *matrices, int count, int passes, int threads, int side_by_side) {
    struct reader readers[THREADS_MAX];
    pthread_t handles[THREADS_MAX];
    if (threads < 1 || threads > THREADS_MAX) return 0;
    for (int i = 0; i < threads; i++) {
        readers[i] = (struct reader){matrices, count, passes, side_by_side, i, threads, {0}};
        if (i && pthread_create(&handles[i], NULL, run, &readers[i])) return 0;
    }
    run(&readers[0]);
    uint64_t sum = 0, lanes[LINE / sizeof(uint64_t)];
    for (int i = 0; i < threads; i++) {
        if (i) pthread_join(handles[i], NULL);
        memcpy(lanes, &readers[i].sum, sizeof lanes);
        for (size_t j = 0; j < sizeof lanes / sizeof *lanes; j++) sum += lanes[j];
    }
    return sum;
}
