/* The forward pass of docs/numerics.md, section 4, for a ragged batch, on all members of a pool at once.
 *
 * Every member runs `forward`. A phase deals numbered pieces of work out, and ends where the next one reads what other
 * members wrote. A batch of one row spares the ends around its element-wise phases: each member computes the row for
 * itself, in its own `view`. Batches of many rows go through `forward_pieces`. */
#include "forward.h"

#include <string.h>

#include "cache.h"

struct part { /* a matrix and where its results go */
    const struct matrix *matrix;
    int64_t *out;
};

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

void use_columns(struct view *view, int columns) {
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

const int64_t *enter_norm(struct engine *e, struct member *m, const struct view *view, const void *what, int row) {
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

const int64_t *mixed_row(struct engine *e, struct member *m, const struct view *view, const void *what, int row) {
    (void)m, (void)view, (void)what;
    return e->mixed + (ptrdiff_t)row * e->model.heads * e->model.head_size;
}

const int64_t *product_row(struct engine *e, struct member *m, const struct view *view, const void *what, int row) {
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

void turn_heads(struct engine *e, const struct layer *layer, int index, int row, int group) {
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

void attend_all(struct engine *e, struct member *m, const struct layer *layer, int index, int phase) {
    const struct model *model = &e->model;
    const int share = model->heads / model->kv_heads, subsets = (share + e->subset - 1) / e->subset;
    const int pieces = e->tile_count * model->kv_heads * subsets;
    int first, taken;
    while ((taken = pool_take(m, &e->taken[phase], pieces, &first))) /* the longest first */
        for (int piece = first; piece < first + taken; piece++) attend_piece(e, m, layer, index, pieces - 1 - piece);
    pool_wait(m);
}

void feed_forward_unit(struct engine *e, struct member *m, const struct layer *layer, const struct planes *planes,
                       int unit, int64_t *product, int rows) {
    const struct model *model = &e->model;
    const int from = unit * UNIT, to = least(from + UNIT, model->feed_forward);
    int64_t *gate = e->unit_room[m->index], *up = gate + (ptrdiff_t)e->rows * UNIT;
    e->kernel->linear(&layer->gate, from, to, planes, rows, gate - from, UNIT);
    e->kernel->linear(&layer->up, from, to, planes, rows, up - from, UNIT);
    for (int row = 0; row < rows; row++)
        e->kernel->activate(gate + row * UNIT, up + row * UNIT, model->exp2_high, model->exp2_low, to - from,
                            product + (ptrdiff_t)row * model->feed_forward + from);
}

static void feed_forward(struct engine *e, struct member *m, int phase, const struct layer *layer,
                         const struct planes *planes, int rows) {
    int first, taken;
    while ((taken = pool_take(m, &e->taken[phase], (e->model.feed_forward + UNIT - 1) / UNIT, &first))) {
        for (int unit = first; unit < first + taken; unit++) feed_forward_unit(e, m, layer, planes, unit, e->product, rows);
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

void forward(void *context, struct member *m) {
    struct engine *e = context;
    const struct model *model = &e->model;
    const int rows = e->batch->rows, wanted = e->batch->wanted;
    const int size = model->head_size, width = model->heads * size, narrow = model->kv_heads * size;
    struct view view;
    arrange(e, m, &view, rows);
    int phase = 0, first, taken;
    const int many = rows >= PIECE * m->active;
    if (many) {
        forward_pieces(e, m);
        phase = model->layers * PHASES_OF_A_LAYER;
    }
    for (int index = 0; !many && index < model->layers; index++, phase += PHASES_OF_A_LAYER) {
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
        attend_all(e, m, layer, index, phase + 3);
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
