/* The seam between the forward pass and whatever computes it on this processor (docs/numerics.md names every operation).
 *
 * A kernel is one table of functions; every table gives the same integers. Q16 rows are int64. Sizes: K = columns of a
 * matrix, N = its rows, S = head size. */
#ifndef ASSAY_KERNELS_H
#define ASSAY_KERNELS_H

#include <stddef.h>
#include <stdint.h>

enum {
    GROUP = 8,              /* rows of activations that share a group of planes */
    ALIGNMENT = 64,         /* of every plane, in bytes and in elements */
    KEY_BLOCK = 16,         /* positions that share a block of the key cache */
    QUERIES = 6,            /* most queries that a kernel scores at once */
    MIX_SPAN = 64,          /* positions whose weighted values a kernel may sum in int32 */
    HEAD_SIZE_MAX = 256,    /* the halves of a query times S keys fit int32 up to here */
    ACTIVATION_LIMIT = 32639,
    CACHE_LIMIT = 32767,
};

/* A weight matrix where it lies in the pack: row after row. */
struct matrix {
    const int8_t *weight;       /* [rows][columns] */
    const int32_t *multiplier;  /* [rows] */
    const int32_t *sum;         /* [rows] sum of each row's weights */
    int32_t rows, columns, exponent;
    int32_t wide;               /* an accumulator of some row may leave int32 */
};

/* Quantised rows of activations. How the bytes lie is the kernel's own affair; a row takes 2 * padded bytes. */
struct planes {
    uint8_t *bytes;     /* aligned; groups of GROUP rows when grouped, else row after row */
    int32_t *shift;     /* [rows] */
    int32_t columns;
    int32_t padded;     /* columns, up to a multiple of ALIGNMENT */
    int32_t grouped;
};

/* Constants of a layer's attention and the tables of the pack. */
struct attention {
    const int32_t *exp2_high, *exp2_low;
    int64_t multiplier;
    int32_t score_shift;    /* fq + fk + 2 */
    int32_t value_shift;    /* 16 - fv */
    int32_t size;           /* S */
};

/* One query: where its halves lie, how many positions it sees, and where its S results go. */
struct query {
    const int16_t *high, *low;  /* [S] each: q = 256 * high + low, low in 0..255 */
    int32_t positions;
    int64_t *result;            /* [S] Q16 */
};

/* Room for one thread's attention. */
struct attention_room {
    int64_t *score;     /* [QUERIES][capacity] */
    int16_t *weight;    /* [QUERIES][2][capacity] the upper and the lower ten bits */
    int64_t *sum;       /* [QUERIES][HEAD_SIZE_MAX] */
    int32_t capacity;   /* positions, a multiple of MIX_SPAN */
};

/* The attention of a trace: int64, [P] positions, [H] heads, [G] key/value heads, blocks of 64 positions. */
struct trace_attention {
    const int64_t *query;       /* [P][H][S] int16-valued, as are */
    const int64_t *key, *value; /* [P][G][S] */
    int64_t *score;             /* [P][H][64 * blocks] */
    int64_t *softmax;           /* [P][H][2 + blocks] M, i', and Z up to and with each block */
    int64_t *sum;               /* [P][H][blocks][S] num up to and with each block */
    int64_t *mix;               /* [P][H][S] */
    int64_t hidden;             /* what stands for the scores of later positions */
    int32_t heads, kv_heads, blocks;
};

/* The operations of a trace that are not the engine's; statistics as in docs/disputes.md, section 2. */
struct trace_rows {
    /* statistic [rows][4], q [rows][n] */
    void (*norm)(const int64_t *x, const int32_t *gain, int64_t epsilon, int rows, int n, int64_t *statistic, int64_t *q);
    /* in place; statistic [rows][2] */
    void (*quantise)(int64_t *y, int rows, int n, int64_t *statistic);
    /* rotate, then to_cache; z and out [rows][heads][size], a row of both tables for each row */
    void (*rotate)(const int64_t *z, const int32_t *cos, const int32_t *sin, int rows, int heads, int size, int fraction,
                   int64_t *out);
    void (*to_cache)(int64_t *z, int64_t count, int fraction); /* in place */
    /* Queries [from, to) of the heads that read one key/value head. 0 without memory. */
    int (*attend)(const struct attention *c, const struct trace_attention *a, int kv, int from, int to);
};

extern const struct trace_rows trace_portable;
#if defined(__x86_64__)
extern const struct trace_rows trace_avx2, trace_avx512;
#endif

struct kernel {
    const char *name;
    int (*supported)(void);
    /* Rows of activations from which `grouped` planes are the faster form. */
    int32_t grouped_from;
    /* The sum of each row of weights; returns the largest sum of magnitudes of a row. */
    int32_t (*row_sums)(const int8_t *weight, int rows, int columns, int32_t *sum);
    int64_t (*largest)(const int64_t *x, int n);  /* of the magnitudes */
    void (*normalise)(const int64_t *x, const int32_t *gain, int64_t epsilon, int n, int64_t *y);
    /* Into row `row` of planes that are not grouped. */
    void (*quantise)(const int64_t *y, const struct planes *planes, int row);
    /* Rows [first, first + count) of planes that are not grouped, at most GROUP, become group `group` of planes that
     * are; shifts are not its affair. NULL where grouped_from is never reached. */
    void (*group)(const struct planes *rows, int first, int count, const struct planes *grouped, int group);
    /* y[t * stride + n] for the rows n in [from, to) and the activations t in [0, count). */
    void (*linear)(const struct matrix *w, int from, int to, const struct planes *a, int count, int64_t *y, long stride);
    void (*rotate)(int64_t *z, const int32_t *cos, const int32_t *sin, int size);
    void (*to_cache)(const int64_t *z, int fraction, int n, int16_t *out);
    void (*activate)(const int64_t *gate, const int64_t *up, const int32_t *exp2_high, const int32_t *exp2_low, int n,
                     int64_t *z);
    /* keys: [blocks][S/2][KEY_BLOCK][2], values: [pairs of positions][S][2]. */
    void (*attend)(const struct attention *c, const int16_t *keys, const int16_t *values, const struct query *queries,
                   int count, const struct attention_room *room);
    const struct trace_rows *trace;
};

extern const struct kernel kernel_portable;
#if defined(__x86_64__)
extern const struct kernel kernel_avx2, kernel_avx512vnni;
#endif

/* The kernel called `name`, or NULL where it was not built. */
const struct kernel *kernel_named(const char *name);

#endif
