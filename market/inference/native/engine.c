/* An engine's memory, and a batch's way through it. */
#include "engine.h"

#include <stdlib.h>
#include <string.h>

#include "forward.h"

/* Zeroed memory that assay_engine_free returns; NULL when there is none, or no place left to note it. */
static void *room(struct engine *e, size_t count, size_t size) {
    const size_t bytes = (count * size + 63) / 64 * 64 + 64;
    void *p = e->blocks ? aligned_alloc(64, bytes) : NULL;
    if (!p) return NULL;
    memset(p, 0, bytes);
    e->blocks[e->block_count++] = p;
    return p;
}

/* Room for `rows` rows of x and the bytes of others. */
static int fill_buffers(struct engine *e, struct buffers *to, int rows, int rows_of_bytes) {
    const struct model *m = &e->model;
    const int widest = most(most(m->hidden, m->feed_forward), m->heads * m->head_size);
    const size_t padded = (size_t)(widest + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    const size_t grouped = (size_t)(rows_of_bytes + GROUP - 1) / GROUP * GROUP;
    to->x = room(e, (size_t)rows * (size_t)m->hidden, sizeof *to->x);
    to->bytes = room(e, grouped * 2, padded);
    to->shift = room(e, grouped, sizeof *to->shift);
    return to->x && to->bytes && to->shift;
}

static int members_room(struct engine *e) {
    const struct model *m = &e->model;
    const size_t widest = (size_t)most(most(m->hidden, m->feed_forward), m->heads * m->head_size);
    const int capacity = (m->context + MIX_SPAN - 1) / MIX_SPAN * MIX_SPAN;
    for (int i = 0; i < e->threads; i++) {
        struct attention_room *a = &e->attention[i];
        a->capacity = capacity;
        a->score = room(e, (size_t)QUERIES * (size_t)capacity, sizeof *a->score);
        a->weight = room(e, (size_t)QUERIES * 2 * (size_t)capacity, sizeof *a->weight);
        a->sum = room(e, (size_t)QUERIES * HEAD_SIZE_MAX, sizeof *a->sum);
        e->row_room[i] = room(e, widest, sizeof **e->row_room);
        e->unit_room[i] = room(e, (size_t)2 * (size_t)e->rows * UNIT, sizeof **e->unit_room);
        if (!a->score || !a->weight || !a->sum || !e->row_room[i] || !e->unit_room[i]) return 0;
        if (!fill_buffers(e, &e->own[i], 1, GROUP) || !fill_buffers(e, &e->piece[i], 0, least(PIECE, e->rows))) return 0;
    }
    return 1;
}

struct engine *assay_engine_new(const struct model *model, const char *kernel, int threads, int rows, int pin) {
    struct engine *e = calloc(1, sizeof *e);
    if (!e) return NULL;
    e->model = *model;
    e->kernel = kernel_named(kernel);
    e->rows = rows;
    e->threads = most(1, threads);
    const size_t n = (size_t)rows, t = (size_t)e->threads;
    const size_t width = (size_t)model->heads * (size_t)model->head_size;
    const size_t narrow = (size_t)model->kv_heads * (size_t)model->head_size;
    e->blocks = calloc(t * 11 + 32, sizeof *e->blocks);
    e->own = room(e, t, sizeof *e->own);
    e->piece = room(e, t, sizeof *e->piece);
    e->row_room = room(e, t, sizeof *e->row_room);
    e->unit_room = room(e, t, sizeof *e->unit_room);
    e->attention = room(e, t, sizeof *e->attention);
    e->heads = room(e, n * (width + 2 * narrow), sizeof *e->heads);
    e->mixed = room(e, n * width, sizeof *e->mixed);
    e->change = room(e, n * (size_t)model->hidden, sizeof *e->change);
    e->product = room(e, n * (size_t)model->feed_forward, sizeof *e->product);
    e->queries = room(e, n * 2 * width, sizeof *e->queries);
    e->tiles = room(e, n, sizeof *e->tiles);
    e->taken = room(e, (size_t)model->layers * PHASES_OF_A_LAYER + PHASES_OF_THE_HEAD, sizeof *e->taken);
    e->pieces = room(e, ((size_t)model->layers + 1) * t, sizeof *e->pieces);
    e->best = room(e, t * n, sizeof *e->best);
    e->best_at = room(e, t * n, sizeof *e->best_at);
    const int complete = e->own && e->piece && e->row_room && e->unit_room && e->attention && e->heads && e->mixed && e->change &&
                         e->product && e->queries && e->tiles && e->taken && e->pieces && e->best && e->best_at;
    if (complete && e->kernel && e->kernel->supported() && fill_buffers(e, &e->shared, rows, rows) && members_room(e))
        e->pool = pool_new(e->threads, pin);
    if (e->pool) return e;
    assay_engine_free(e);
    return NULL;
}

void assay_engine_free(struct engine *e) {
    if (!e) return;
    pool_free(e->pool);
    for (int i = 0; i < e->block_count; i++) free(e->blocks[i]);
    free(e->blocks);
    free(e);
}

/* Cuts the rows into tiles of as many queries as a kernel takes at once, and heads so that every member gets some. */
static void plan(struct engine *e, const struct batch *batch) {
    const struct model *model = &e->model;
    const int share = model->heads / model->kv_heads;
    e->subset = least(share, QUERIES);
    if (batch->rows * model->kv_heads < 2 * e->threads) e->subset = most(1, least(e->subset, model->heads / (2 * e->threads)));
    const int rows_of_a_tile = most(1, QUERIES / e->subset);
    e->tile_count = 0;
    for (int row = 0; row < batch->rows;) {
        int end = row + 1;
        while (end < batch->rows && end - row < rows_of_a_tile && batch->slot[end] == batch->slot[row]) end++;
        e->tiles[e->tile_count++] = (struct tile){row, end - row};
        row = end;
    }
}

void assay_engine_run(struct engine *e, const struct batch *batch) {
    const int phases = e->model.layers * PHASES_OF_A_LAYER + PHASES_OF_THE_HEAD;
    for (int i = 0; i < phases; i++) atomic_store_explicit(&e->taken[i], 0, memory_order_relaxed);
    for (int i = 0; i < (e->model.layers + 1) * e->threads; i++)
        atomic_store_explicit(&e->pieces[i], 0, memory_order_relaxed);
    for (int i = 0; i < e->threads; i++)
        for (int row = 0; row < batch->wanted; row++) {
            e->best[(ptrdiff_t)i * e->rows + row] = INT64_MIN;
            e->best_at[(ptrdiff_t)i * e->rows + row] = e->model.vocabulary;
        }
    e->batch = batch;
    plan(e, batch);
    pool_run(e->pool, forward, e);
    for (int row = 0; row < batch->wanted; row++) {
        int64_t best = INT64_MIN;
        int32_t at = e->model.vocabulary;
        for (int i = 0; i < e->threads; i++) {
            const int64_t value = e->best[(ptrdiff_t)i * e->rows + row];
            const int32_t index = e->best_at[(ptrdiff_t)i * e->rows + row];
            if (value > best || (value == best && index < at)) best = value, at = index;
        }
        batch->likeliest[row] = at;
    }
}

void assay_engine_leave_out(struct engine *e, int64_t runs) { pool_leave_out(e->pool, runs); }

int64_t assay_engine_runs_alone(const struct engine *e) { return pool_runs_alone(e->pool); }
