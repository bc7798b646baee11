/* Runs forward passes of the C kernels without Python: for other processors under qemu, and for sanitizers.
 *
 *     harness FILE KERNEL THREADS > results
 *
 * FILE: the eight shapes, epsilon and the score multiplier as int64; then embedding, head, each layer's matrices with their
 * fractions, the gains, the tables, and the ids, as test_native_elsewhere.py writes them.
 *
 * Results: logits, int64 [ids][V], of all ids at once and of one after the other. Then the likeliest tokens, int32, as greedy
 * serving has them, without logits: after each id, of all at once and of one after the other; of two sequences in one batch,
 * the first half of the ids and the other, and of one id more for each, together (the id after the first half, and the very
 * first); and again of all at once, with all threads but one left out. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine.h"

int32_t assay_row_sums(const char *kernel, const int8_t *weight, int rows, int columns, int32_t *sum);

static FILE *file;

static void *take(size_t count, size_t size) {
    void *p = malloc(count * size + 1);
    if (!p || fread(p, size, count, file) != count) exit(2);
    return p;
}

static int64_t take_number(void) {
    int64_t *p = take(1, sizeof *p), number = *p;
    free(p);
    return number;
}

static struct matrix take_matrix(const char *kernel) {
    struct matrix m = {.rows = (int32_t)take_number()};
    m.columns = (int32_t)take_number();
    m.exponent = (int32_t)take_number();
    m.weight = take((size_t)m.rows * (size_t)m.columns, 1);
    m.multiplier = take((size_t)m.rows, sizeof(int32_t));
    int32_t *sum = malloc((size_t)m.rows * sizeof *sum);
    m.wide = assay_row_sums(kernel, m.weight, m.rows, m.columns, sum) > 65797;
    m.sum = sum;
    return m;
}

static void write_all(const void *data, size_t size, size_t count) {
    if (fwrite(data, size, count, stdout) != count) exit(3);
}

static void run(struct engine *engine, struct batch *batch, int64_t *logits, size_t count) {
    batch->logits = logits;
    assay_engine_run(engine, batch);
    write_all(logits, sizeof *logits, count);
}

/* The likeliest tokens alone, on the way that writes no logits. */
static void run_greedy(struct engine *engine, struct batch *batch) {
    batch->logits = NULL;
    memset(batch->likeliest, -1, (size_t)batch->wanted * sizeof *batch->likeliest);
    assay_engine_run(engine, batch);
    write_all(batch->likeliest, sizeof *batch->likeliest, (size_t)batch->wanted);
}

static struct slot new_slot(const struct model *model) {
    struct slot slot = {.capacity = (model->context + KEY_BLOCK - 1) / KEY_BLOCK * KEY_BLOCK};
    const size_t room = (size_t)(model->layers * model->kv_heads) * (size_t)slot.capacity * (size_t)model->head_size;
    slot.keys = calloc(room, sizeof *slot.keys);
    slot.values = calloc(room, sizeof *slot.values);
    return slot;
}

/* Two sequences, and one id more for each. */
static void run_two(struct engine *engine, const struct model *model, const int32_t *ids, int rows, int32_t *likeliest) {
    struct slot slots[2] = {new_slot(model), new_slot(model)};
    const int half = rows / 2;
    int32_t *which = malloc((size_t)rows * sizeof *which), *position = malloc((size_t)rows * sizeof *position);
    int32_t *order = malloc((size_t)rows * sizeof *order);
    for (int i = 0; i < rows; i++) order[i] = i, which[i] = i >= half, position[i] = i >= half ? i - half : i;
    struct batch both = {.rows = rows, .slots = 2, .wanted = rows, .id = ids, .slot = which, .position = position,
                         .cache = slots, .wanted_row = order, .likeliest = likeliest};
    run_greedy(engine, &both);
    const int32_t next[2] = {ids[half], ids[0]}, at[2] = {half, rows - half}, each[2] = {0, 1};
    struct batch more = {.rows = 2, .slots = 2, .wanted = 2, .id = next, .slot = each, .position = at,
                         .cache = slots, .wanted_row = each, .likeliest = likeliest};
    run_greedy(engine, &more);
}

int main(int argc, char **argv) {
    if (argc != 4 || !(file = fopen(argv[1], "rb"))) return 1;
    struct model model = {0};
    int32_t *shapes[] = {&model.vocabulary, &model.context, &model.hidden,   &model.feed_forward,
                         &model.layers,     &model.heads,   &model.kv_heads, &model.head_size};
    for (int i = 0; i < 8; i++) *shapes[i] = (int32_t)take_number();
    model.epsilon = take_number();
    model.score_multiplier = take_number();
    model.embedding = take_matrix(argv[2]);
    model.head = take_matrix(argv[2]);
    struct layer *layers = calloc((size_t)model.layers, sizeof *layers);
    const size_t hidden = (size_t)model.hidden;
    for (int i = 0; i < model.layers; i++) {
        struct layer *l = &layers[i];
        struct matrix *matrices[] = {&l->query, &l->key, &l->value, &l->attention_output, &l->gate, &l->up, &l->down};
        l->attention_norm = take(hidden, sizeof(int32_t));
        l->feed_forward_norm = take(hidden, sizeof(int32_t));
        for (int j = 0; j < 7; j++) *matrices[j] = take_matrix(argv[2]);
        l->query_fraction = (int32_t)take_number();
        l->key_fraction = (int32_t)take_number();
        l->value_fraction = (int32_t)take_number();
    }
    model.layer = layers;
    const size_t angles = (size_t)model.context * (size_t)model.head_size / 2;
    model.output_norm = take(hidden, sizeof(int32_t));
    model.exp2_high = take(256, sizeof(int32_t));
    model.exp2_low = take(256, sizeof(int32_t));
    model.rope_cos = take(angles, sizeof(int32_t));
    model.rope_sin = take(angles, sizeof(int32_t));
    const int rows = (int)take_number();
    int32_t *ids = take((size_t)rows, sizeof *ids);
    struct engine *engine = assay_engine_new(&model, argv[2], atoi(argv[3]), rows, 0);
    if (!engine) return 4;
    struct slot slot = new_slot(&model);
    const size_t vocabulary = (size_t)model.vocabulary;
    int64_t *logits = malloc((size_t)rows * vocabulary * sizeof *logits);
    int32_t *zeros = calloc((size_t)rows, sizeof *zeros), *order = malloc((size_t)rows * sizeof *order);
    int32_t *likeliest = malloc((size_t)rows * sizeof *likeliest);
    for (int i = 0; i < rows; i++) order[i] = i;
    struct batch batch = {.rows = rows, .slots = 1, .wanted = rows, .id = ids, .slot = zeros, .position = order,
                          .cache = &slot, .wanted_row = order, .likeliest = likeliest};
    run(engine, &batch, logits, (size_t)rows * vocabulary);
    for (int i = 0; i < rows; i++) {
        struct batch one = {.rows = 1, .slots = 1, .wanted = 1, .id = ids + i, .slot = zeros, .position = order + i,
                            .cache = &slot, .wanted_row = zeros, .likeliest = likeliest};
        run(engine, &one, logits, vocabulary);
    }
    run_greedy(engine, &batch);
    for (int i = 0; i < rows; i++) {
        struct batch one = {.rows = 1, .slots = 1, .wanted = 1, .id = ids + i, .slot = zeros, .position = order + i,
                            .cache = &slot, .wanted_row = zeros, .likeliest = likeliest};
        run_greedy(engine, &one);
    }
    run_two(engine, &model, ids, rows, likeliest);
    assay_engine_leave_out(engine, 1);
    run_greedy(engine, &batch);
    assay_engine_free(engine);
    return 0;
}
