/* What the files of the forward pass share: an engine's buffers, and the steps that its rows go through. */
#ifndef ASSAY_FORWARD_H
#define ASSAY_FORWARD_H

#include "engine.h"
#include "threads.h"

enum {
    UNIT = 32,              /* rows of a matrix in one piece of work */
    PIECE = 64,             /* most rows of a batch in one piece of work */
    PHASES_OF_A_LAYER = 10,
    PHASES_OF_THE_HEAD = 2,
};

/* Rows under work, as one member sees them. A batch of one row has all of it once for each member. */
struct view {
    int64_t *x;           /* [rows][hidden] residual stream */
    struct planes rows;   /* where rows are quantised, one after the other */
    struct planes planes; /* what a matrix reads: these rows, or groups of them */
    int solo;
    int apart;            /* many rows: `rows` is the member's own, for one group at a time */
    int gathered;         /* one group: `rows` is everybody's, `planes` the member's own copy */
};

/* What views are made of: [rows][hidden], and room for as many rows of the widest matrix. */
struct buffers {
    int64_t *x;
    uint8_t *bytes;
    int32_t *shift;
};

struct tile { /* rows of one sequence that attend together */
    int32_t row, rows;
};

struct engine {
    struct model model;
    const struct kernel *kernel;
    struct pool *pool;
    int rows, threads;
    struct buffers shared, *own, *piece; /* [threads]: own: one row of x and a group of bytes; piece: bytes of a piece */
    int64_t **row_room, **unit_room;     /* [threads]: [widest], [2][rows][UNIT] */
    struct attention_room *attention; /* [threads] */
    int64_t *heads, *mixed, *change, *product; /* [rows]: [(H + 2G) S], [H S], [hidden], [feed_forward] */
    int16_t *queries;                          /* [rows][2][H S] */
    struct tile *tiles;                        /* [rows] */
    int tile_count, subset;                    /* subset: query heads of a group in one piece */
    atomic_int *taken;                         /* one counter a phase */
    atomic_int *pieces;                        /* [layers + 1][threads] */
    int64_t *best;                             /* [threads][rows] */
    int32_t *best_at;                          /* [threads][rows] */
    void **blocks;                             /* everything allocated */
    int block_count;
    const struct batch *batch;
};

static inline int least(int a, int b) { return a < b ? a : b; }
static inline int most(int a, int b) { return a > b ? a : b; }

/* Rows to be quantised: each of these finishes one, in Q16. */
typedef const int64_t *source(struct engine *e, struct member *m, const struct view *view, const void *what, int row);

/* The residual stream before a norm: embedding at the start, else what the last matrix adds. */
struct entrance {
    const int32_t *gain;
    int start;
};

source enter_norm; /* what: struct entrance */
source mixed_row, product_row;

void use_columns(struct view *view, int columns);
/* Turns and stores the heads of one key/value group of one row. */
void turn_heads(struct engine *e, const struct layer *layer, int index, int row, int group);
/* Pieces: every sequence's tiles, key/value heads and subsets of their queries. */
void attend_all(struct engine *e, struct member *m, const struct layer *layer, int index, int phase);
/* gate and up of the rows [from, to), so near that their results are there until the activation has eaten them. */
void feed_forward_unit(struct engine *e, struct member *m, const struct layer *layer, const struct planes *planes,
                       int unit, int64_t *product, int rows);

/* All layers of a batch of many rows. */
void forward_pieces(struct engine *e, struct member *m);
/* Everything: what each member of the pool runs. */
void forward(void *engine, struct member *m);

#endif
