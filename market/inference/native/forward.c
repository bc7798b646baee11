/* The forward pass of docs/numerics.md, section 4, for a ragged batch, on all members of a pool at once.
 *
 * Every member runs `forward`. A phase deals numbered pieces of work out, and ends where the next one reads what other
 * members wrote. A batch of one row spares the ends around its element-wise phases: each member computes the row for
 * itself, in its own `view`. */
#include "engine.h"

#include <stdlib.h>
#include <string.h>

#include "cache.h"
#include "threads.h"

enum { UNIT = 32 /* rows of a matrix in one piece of work */, PHASES_OF_A_LAYER = 10, PHASES_OF_THE_HEAD = 2 };

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
    struct buffers shared, *own;       /* own: [threads], one row of x and a group of bytes */
    int64_t **row_room, **unit_room; /* [threads]: [widest], [2][rows][UNIT] */
    struct attention_room *attention; /* [threads] */
    int64_t *heads, *mixed, *change, *product; /* [rows]: [(H + 2G) S], [H S], [hidden], [feed_forward] */
    int16_t *queries;                          /* [rows][2][H S] */
    struct tile *tiles;                        /* [rows] */
    int tile_count, subset;                    /* subset: query heads of a group in one piece */
    atomic_int *taken;                         /* one counter a phase */
    int64_t *best;                             /* [threads][rows] */
    int32_t *best_at;                          /* [threads][rows] */
    void **blocks;                             /* everything allocated */
    int block_count;
    const struct batch *batch;
};

struct part { /* a matrix and where its results go */
    const struct matrix *matrix;
    int64_t *out;
};

static inline int least(int a, int b) { return a < b ? a : b; }
static inline int most(int a, int b) { return a > b ? a : b; }

/* How `count` rows go to matrices. A group is put together by one member from rows near to it: of many rows by the member
 * that quantises all eight, of eight or fewer by each for itself, so that quantising them can be shared out. */
static void arrange(const struct engine *e, const struct member *m, struct view *view, int count) {
    const int grouped = count >= e->kernel->grouped_from;
    const struct buffers *own = &e->own[m->index], *shared = &e->shared;
    view->solo = e->batch->rows == 1;
    view->apart = grouped && count > GROUP;
    view->gathered = grouped && count <= GROUP;
    view->x = view->solo ? own->x : shared->x;
    view->rows = (struct planes){.bytes = view->solo || view->apart ? own->bytes : shared->bytes,
                                 .shift = view->solo ? own->shift : shared->shift};
    view->planes = view->rows;
    view->planes.grouped = grouped;
    if (view->apart) view->planes.bytes = shared->bytes;
    if (view->gathered) view->planes.bytes = own->bytes;
}

static void use_columns(struct view *view, int columns) {
    view->rows.columns = view->planes.columns = columns;
    view->rows.padded = view->planes.padded = (columns + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

/* One matrix after the other, cut into units of rows. */
static void multiply(struct engine *e, struct member *m, int phase, const struct part *parts, int count,
                     const struct planes *planes, int rows, long stride) {
    int total = 0, first, taken;
    for (int i = 0; i < count; i++) total += (parts[i].matrix->rows + UNIT - 1) / UNIT;
    while ((taken = pool_take(m, &e->taken[phase], total, &first))) {
        int base = 0;
        for (int i = 0; i < count; i++) {
            const struct matrix *w = parts[i].matrix;
            const int units = (w->rows + UNIT - 1) / UNIT;
            const int from = most(first - base, 0) * UNIT, to = least(least(first + taken - base, units) * UNIT, w->rows);
            if (from < to) e->kernel->linear(w, from, to, planes, rows, parts[i].out, stride);
            base += units;
        }
        m->work += taken;
    }
}

static void embed(const struct model *model, int32_t id, int64_t *x) {
    const struct matrix *w = &model->embedding;
    const int8_t *weight = w->weight + (ptrdiff_t)id * w->columns;
    const int64_t multiplier = w->multiplier[id], half = (int64_t)1 << (w->exponent - 17);
    for (int i = 0; i < w->columns; i++) x[i] = (weight[i] * multiplier + half) >> (w->exponent - 16);
}

static void add_row(int64_t *restrict x, const int64_t *restrict change, int n) {
    for (int i = 0; i < n; i++) x[i] += change[i];
}

/* Rows to be quantised: each of these finishes one, in Q16. */
typedef const int64_t *source(struct engine *e, struct member *m, const struct view *view, const void *what, int row);

/* The residual stream before a norm: embedding at the start, else what the last matrix adds. */
struct entrance {
    const int32_t *gain;
    int start;
};

static const int64_t *enter_norm(struct engine *e, struct member *m, const struct view *view, const void *what, int row) {
    const struct entrance *entrance = what;
    const int n = e->model.hidden;
    int64_t *x = view->x + (ptrdiff_t)row * n, *y = e->row_room[m->index];
    if (entrance->start) embed(&e->model, e->batch->id[row], x);
    else add_row(x, e->change + (ptrdiff_t)row * n, n);
    e->kernel->normalise(x, entrance->gain, e->model.epsilon, n, y);
    return y;
}

/* The same of a wanted row, before the head. */
static const int64_t *enter_head(struct engine *e, struct member *m, const struct view *view, const void *what, int row) {
    const struct entrance entrance = {e->model.output_norm, 0};
    (void)what;
    return enter_norm(e, m, view, &entrance, e->batch->wanted_row[row]);
}

static const int64_t *mixed_row(struct engine *e, struct member *m, const struct view *view, const void *what, int row) {
    (void)m, (void)view, (void)what;
    return e->mixed + (ptrdiff_t)row * e->model.heads * e->model.head_size;
}

static const int64_t *product_row(struct engine *e, struct member *m, const struct view *view, const void *what, int row) {
    (void)m, (void)view, (void)what;
    return e->product + (ptrdiff_t)row * e->model.feed_forward;
}

/* Makes `count` rows ready for a matrix. */
static void quantise_rows(struct engine *e, struct member *m, struct view *view, int phase, int count, int columns,
                          source *row_of, const void *what) {
    const struct kernel *k = e->kernel;
    use_columns(view, columns);
    if (view->solo) {
        k->quantise(row_of(e, m, view, what, 0), &view->rows, 0);
        return;
    }
    const int step = count > GROUP ? GROUP : 1;
    int first, taken;
    while ((taken = pool_take(m, &e->taken[phase], (count + step - 1) / step, &first)))
        for (int piece = first; piece < first + taken; piece++) {
            const int start = piece * step, end = least(start + step, count), at = view->apart ? 0 : start;
            struct planes rows = view->rows;
            if (view->apart) rows.shift += start;
            for (int row = start; row < end; row++) k->quantise(row_of(e, m, view, what, row), &rows, at + row - start);
            if (view->apart) k->group(&rows, 0, end - start, &view->planes, piece);
        }
    pool_wait(m);
    if (view->gathered) k->group(&view->rows, 0, count, &view->planes, 0);
}

/* Turns and stores the heads of one key/value group of one row. */
static void turn_heads(struct engine *e, const struct layer *layer, int index, int row, int group) {
    const struct model *model = &e->model;
    const struct kernel *k = e->kernel;
    const int size = model->head_size, share = model->heads / model->kv_heads, width = model->heads * size;
    const int position = e->batch->position[row];
    const int32_t *cos = model->rope_cos + (ptrdiff_t)position * (size / 2);
    const int32_t *sin = model->rope_sin + (ptrdiff_t)position * (size / 2);
    int64_t *heads = e->heads + (ptrdiff_t)row * (model->heads + 2 * model->kv_heads) * size;
    int16_t *high = e->queries + (ptrdiff_t)2 * row * width, *low = high + width;
    int16_t out[HEAD_SIZE_MAX];
    for (int h = group * share; h < (group + 1) * share; h++) {
        k->rotate(heads + h * size, cos, sin, size);
        k->to_cache(heads + h * size, layer->query_fraction, size, out);
        for (int i = 0; i < size; i++) {
            high[h * size + i] = (int16_t)(out[i] >> 8);
            low[h * size + i] = out[i] & 255;
        }
    }
    const struct slot *slot = &e->batch->cache[e->batch->slot[row]];
    const ptrdiff_t offset = (ptrdiff_t)(index * model->kv_heads + group) * slot->capacity * size;
    int64_t *key = heads + width + group * size, *value = key + model->kv_heads * size;
    k->rotate(key, cos, sin, size);
    k->to_cache(key, layer->key_fraction, size, out);
    store_key(slot->keys + offset, position, size, out);
    k->to_cache(value, layer->value_fraction, size, out);
    store_value(slot->values + offset, position, size, out);
}

static void attend_piece(struct engine *e, struct member *m, const struct layer *layer, int index, int piece) {
    const struct model *model = &e->model;
    const int size = model->head_size, share = model->heads / model->kv_heads, width = model->heads * size;
    const int subsets = (share + e->subset - 1) / e->subset;
    const int group = piece / subsets % model->kv_heads, from = piece % subsets * e->subset;
    const struct tile tile = e->tiles[piece / subsets / model->kv_heads];
    const struct slot *slot = &e->batch->cache[e->batch->slot[tile.row]];
    const ptrdiff_t offset = (ptrdiff_t)(index * model->kv_heads + group) * slot->capacity * size;
    struct query queries[QUERIES];
    int count = 0;
    for (int row = tile.row; row < tile.row + tile.rows; row++)
        for (int h = group * share + from; h < group * share + least(from + e->subset, share); h++) {
            const int16_t *high = e->queries + (ptrdiff_t)2 * row * width + h * size;
            queries[count++] = (struct query){high, high + width, e->batch->position[row] + 1,
                                              e->mixed + (ptrdiff_t)row * width + h * size};
        }
    const struct attention constants = {
        .exp2_high = model->exp2_high, .exp2_low = model->exp2_low, .multiplier = model->score_multiplier,
        .score_shift = layer->query_fraction + layer->key_fraction + 2,
        .value_shift = 16 - layer->value_fraction, .size = size,
    };
    e->kernel->attend(&constants, slot->keys + offset, slot->values + offset, queries, count, &e->attention[m->index]);
}

/* gate and up, a unit of rows at a time, so that their results stay near until the activation has eaten them. */
static void feed_forward(struct engine *e, struct member *m, int phase, const struct layer *layer,
                         const struct planes *planes, int rows) {
    const struct model *model = &e->model;
    int64_t *gate = e->unit_room[m->index], *up = gate + (ptrdiff_t)e->rows * UNIT;
    int first, taken;
    while ((taken = pool_take(m, &e->taken[phase], (model->feed_forward + UNIT - 1) / UNIT, &first))) {
        for (int unit = first; unit < first + taken; unit++) {
            const int from = unit * UNIT, to = least(from + UNIT, model->feed_forward);
            e->kernel->linear(&layer->gate, from, to, planes, rows, gate - from, UNIT);
            e->kernel->linear(&layer->up, from, to, planes, rows, up - from, UNIT);
            for (int row = 0; row < rows; row++)
                e->kernel->activate(gate + row * UNIT, up + row * UNIT, model->exp2_high, model->exp2_low, to - from,
                                    e->product + (ptrdiff_t)row * model->feed_forward + from);
        }
        m->work += 2 * taken;
    }
}

/* Logits and the likeliest token of the wanted rows; e->best holds each member's finds. */
static void head(struct engine *e, struct member *m, int phase, const struct planes *planes) {
    const struct batch *batch = e->batch;
    const int vocabulary = e->model.vocabulary, wanted = batch->wanted;
    int64_t *best = e->best + (ptrdiff_t)m->index * e->rows;
    int32_t *at = e->best_at + (ptrdiff_t)m->index * e->rows;
    int first, taken;
    for (int i = 0; i < wanted; i++) best[i] = INT64_MIN, at[i] = vocabulary;
    while ((taken = pool_take(m, &e->taken[phase], (vocabulary + UNIT - 1) / UNIT, &first))) {
        for (int unit = first; unit < first + taken; unit++) {
            const int from = unit * UNIT, to = least(from + UNIT, vocabulary);
            int64_t *out = batch->logits ? batch->logits : e->unit_room[m->index] - from;
            const long stride = batch->logits ? vocabulary : UNIT;
            e->kernel->linear(&e->model.head, from, to, planes, wanted, out, stride);
            for (int i = 0; i < wanted; i++) {
                const int64_t *row = out + i * stride;
                int64_t top = row[from];
                for (int n = from; n < to; n++) top = row[n] > top ? row[n] : top;
                if (top < best[i] || (top == best[i] && from > at[i])) continue;
                int n = from;
                while (row[n] != top) n++;
                best[i] = top, at[i] = n; /* of equal ones the lowest index: units of a member ascend */
            }
        }
        m->work += taken;
    }
}

static void trace(struct engine *e, const struct view *view, int layer) {
    const size_t size = (size_t)e->batch->rows * (size_t)e->model.hidden;
    if (e->batch->trace) memcpy(e->batch->trace + size * (size_t)layer, view->x, size * sizeof *view->x);
}

static void forward(void *context, struct member *m) {
    struct engine *e = context;
    const struct model *model = &e->model;
    const int rows = e->batch->rows, wanted = e->batch->wanted;
    const int size = model->head_size, width = model->heads * size, narrow = model->kv_heads * size;
    struct view view;
    arrange(e, m, &view, rows);
    int phase = 0, first, taken;
    for (int index = 0; index < model->layers; index++, phase += PHASES_OF_A_LAYER) {
        const struct layer *layer = &model->layer[index];
        const struct entrance attention = {layer->attention_norm, index == 0}, after = {layer->feed_forward_norm, 0};
        quantise_rows(e, m, &view, phase, rows, model->hidden, enter_norm, &attention);
        if (m->index == 0) trace(e, &view, index);
        const struct part inputs[] = {
            {&layer->query, e->heads}, {&layer->key, e->heads + width}, {&layer->value, e->heads + width + narrow}};
        multiply(e, m, phase + 1, inputs, 3, &view.planes, rows, width + 2 * narrow);
        pool_wait(m);
        const int row_groups = (rows + GROUP - 1) / GROUP;
        while ((taken = pool_take(m, &e->taken[phase + 2], row_groups * model->kv_heads, &first)))
            for (int piece = first; piece < first + taken; piece++) {
                const int start = piece / model->kv_heads * GROUP;
                for (int row = start; row < least(start + GROUP, rows); row++)
                    turn_heads(e, layer, index, row, piece % model->kv_heads);
            }
        pool_wait(m);
        const int share = model->heads / model->kv_heads, subsets = (share + e->subset - 1) / e->subset;
        const int pieces = e->tile_count * model->kv_heads * subsets;
        while ((taken = pool_take(m, &e->taken[phase + 3], pieces, &first)))
            for (int piece = first; piece < first + taken; piece++) attend_piece(e, m, layer, index, pieces - 1 - piece);
        pool_wait(m);
        quantise_rows(e, m, &view, phase + 4, rows, width, mixed_row, NULL);
        const struct part output = {&layer->attention_output, e->change};
        multiply(e, m, phase + 5, &output, 1, &view.planes, rows, model->hidden);
        pool_wait(m);
        quantise_rows(e, m, &view, phase + 6, rows, model->hidden, enter_norm, &after);
        feed_forward(e, m, phase + 7, layer, &view.planes, rows);
        pool_wait(m);
        quantise_rows(e, m, &view, phase + 8, rows, model->feed_forward, product_row, NULL);
        const struct part down = {&layer->down, e->change};
        multiply(e, m, phase + 9, &down, 1, &view.planes, rows, model->hidden);
        pool_wait(m);
    }
    if (!wanted && !e->batch->trace) return;
    if (wanted) {
        arrange(e, m, &view, wanted);
        quantise_rows(e, m, &view, phase, wanted, model->hidden, enter_head, NULL);
    }
    if (m->index == 0 && e->batch->trace) {
        for (int row = 0, next = 0; row < rows; row++) {
            const int done = next < wanted && e->batch->wanted_row[next] == row;
            next += done;
            if (!done) add_row(view.x + (ptrdiff_t)row * model->hidden, e->change + (ptrdiff_t)row * model->hidden, model->hidden);
        }
        trace(e, &view, model->layers);
    }
    if (wanted) head(e, m, phase + 1, &view.planes);
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

int64_t assay_engine_runs_alone(const struct engine *e) { return pool_runs_alone(e->pool); }

/* Zeroed memory that assay_engine_free returns; NULL when there is none, or no place left to note it. */
static void *room(struct engine *e, size_t count, size_t size) {
    const size_t bytes = (count * size + 63) / 64 * 64 + 64;
    void *p = e->blocks ? aligned_alloc(64, bytes) : NULL;
    if (!p) return NULL;
    memset(p, 0, bytes);
    e->blocks[e->block_count++] = p;
    return p;
}

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
        if (!fill_buffers(e, &e->own[i], 1, GROUP)) return 0;
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
    e->blocks = calloc(t * 8 + 32, sizeof *e->blocks);
    e->own = room(e, t, sizeof *e->own);
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
    e->best = room(e, t * n, sizeof *e->best);
    e->best_at = room(e, t * n, sizeof *e->best_at);
    const int complete = e->own && e->row_room && e->unit_room && e->attention && e->heads && e->mixed && e->change &&
                         e->product && e->queries && e->tiles && e->taken && e->best && e->best_at;
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
