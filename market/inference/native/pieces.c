/* Layers of a batch of many rows, say of a prompt.
 *
 * A piece is some rows on their way from one attention to the next: one member multiplies them by every matrix, so that
 * what it writes is in its own caches when it reads it. Members wait for each other around attention only, which looks at
 * all rows. Each member has a share of the pieces, the same in every layer, and takes from others' shares when its own is
 * done. */
#include <string.h>

#include "forward.h"

struct rows { /* of a batch */
    int start, count;
};

static int take_piece(const struct engine *e, const struct member *m, int layer, int pieces, int *piece) {
    for (int i = 0; i < m->active; i++) {
        const int owner = (m->index + i) % m->active;
        const int from = pieces * owner / m->active, to = pieces * (owner + 1) / m->active;
        atomic_int *taken = &e->pieces[layer * e->threads + owner];
        if (atomic_load_explicit(taken, memory_order_relaxed) >= to - from) continue;
        *piece = from + atomic_fetch_add_explicit(taken, 1, memory_order_relaxed);
        if (*piece < to) return 1;
    }
    return 0;
}

/* Planes start with the piece: they are the member's own. */
static void quantise_piece(struct engine *e, struct member *m, struct view *view, struct rows piece, int columns,
                           source *row_of, const void *what) {
    const struct kernel *k = e->kernel;
    use_columns(view, columns);
    for (int i = 0; i < piece.count; i += GROUP) {
        const int count = least(GROUP, piece.count - i);
        struct planes rows = view->apart ? view->rows : view->planes;
        if (view->apart) rows.shift = view->planes.shift + i;
        for (int j = 0; j < count; j++)
            k->quantise(row_of(e, m, view, what, piece.start + i + j), &rows, view->apart ? j : i + j);
        if (view->apart) k->group(&rows, 0, count, &view->planes, i / GROUP);
    }
}

static void multiply_piece(const struct engine *e, const struct view *view, struct rows piece, const struct matrix *w,
                           int64_t *out, long stride) {
    e->kernel->linear(w, 0, w->rows, &view->planes, piece.count, out + piece.start * stride, stride);
}

static void trace_piece(const struct engine *e, const struct view *view, struct rows piece, int layer) {
    const size_t n = (size_t)e->model.hidden, before = (size_t)layer * (size_t)e->batch->rows + (size_t)piece.start;
    if (e->batch->trace)
        memcpy(e->batch->trace + before * n, view->x + (size_t)piece.start * n, (size_t)piece.count * n * sizeof *view->x);
}

static void enter_attention(struct engine *e, struct member *m, struct view *view, struct rows piece, int index) {
    const struct model *model = &e->model;
    const struct layer *layer = &model->layer[index];
    const struct entrance entrance = {layer->attention_norm, index == 0};
    const int width = model->heads * model->head_size, narrow = model->kv_heads * model->head_size;
    const long stride = width + 2 * narrow;
    quantise_piece(e, m, view, piece, model->hidden, enter_norm, &entrance);
    trace_piece(e, view, piece, index);
    multiply_piece(e, view, piece, &layer->query, e->heads, stride);
    multiply_piece(e, view, piece, &layer->key, e->heads + width, stride);
    multiply_piece(e, view, piece, &layer->value, e->heads + width + narrow, stride);
    for (int row = piece.start; row < piece.start + piece.count; row++)
        for (int group = 0; group < model->kv_heads; group++) turn_heads(e, layer, index, row, group);
}

static void leave_attention(struct engine *e, struct member *m, struct view *view, struct rows piece, int index) {
    const struct model *model = &e->model;
    const struct layer *layer = &model->layer[index];
    const struct entrance entrance = {layer->feed_forward_norm, 0};
    quantise_piece(e, m, view, piece, model->heads * model->head_size, mixed_row, NULL);
    multiply_piece(e, view, piece, &layer->attention_output, e->change, model->hidden);
    quantise_piece(e, m, view, piece, model->hidden, enter_norm, &entrance);
    for (int unit = 0; unit < (model->feed_forward + UNIT - 1) / UNIT; unit++)
        feed_forward_unit(e, m, layer, &view->planes, unit, e->product + (ptrdiff_t)piece.start * model->feed_forward,
                          piece.count);
    quantise_piece(e, m, view, piece, model->feed_forward, product_row, NULL);
    multiply_piece(e, view, piece, &layer->down, e->change, model->hidden);
}

void forward_pieces(struct engine *e, struct member *m) {
    const int rows = e->batch->rows, layers = e->model.layers;
    const int share = (rows + 2 * m->active - 1) / (2 * m->active);
    const int most_rows = least(PIECE, (share + GROUP - 1) / GROUP * GROUP), pieces = (rows + most_rows - 1) / most_rows;
    const struct buffers *own = &e->own[m->index], *buffers = &e->piece[m->index];
    struct view view = {.x = e->shared.x, .rows = {.bytes = own->bytes}, .apart = e->kernel->group != NULL};
    view.planes = (struct planes){.bytes = buffers->bytes, .shift = buffers->shift, .grouped = view.apart};
    for (int index = 0, piece; index <= layers; index++) {
        while (take_piece(e, m, index, pieces, &piece)) {
            const struct rows some = {piece * most_rows, least(most_rows, rows - piece * most_rows)};
            if (index > 0) leave_attention(e, m, &view, some, index - 1);
            if (index < layers) enter_attention(e, m, &view, some, index);
            m->work += some.count;
        }
        pool_wait(m);
        if (index < layers) attend_all(e, m, &e->model.layer[index], index, index * PHASES_OF_A_LAYER + 3);
    }
}
