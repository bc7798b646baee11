/* What Python hands over (market/inference/native/library.py mirrors these structures) and what it gets back. */
#ifndef ASSAY_ENGINE_H
#define ASSAY_ENGINE_H

#include "kernels.h"

struct layer {
    const int32_t *attention_norm, *feed_forward_norm; /* [hidden] */
    struct matrix query, key, value, attention_output, gate, up, down;
    int32_t query_fraction, key_fraction, value_fraction;
};

struct model {
    int32_t vocabulary, context, hidden, feed_forward, layers, heads, kv_heads, head_size;
    int64_t epsilon, score_multiplier;
    const struct layer *layer; /* [layers] */
    struct matrix embedding, head;
    const int32_t *output_norm, *exp2_high, *exp2_low; /* [hidden], [256], [256] */
    const int32_t *rope_cos, *rope_sin;                /* [context][head_size / 2] */
};

/* One sequence's cache: [layers][kv_heads][capacity][head_size] int16 each, blocked as `attend` wants it. */
struct slot {
    int16_t *keys, *values;
    int32_t capacity; /* positions, a multiple of KEY_BLOCK */
};

/* New positions of several sequences. Rows of one sequence are adjacent and ascending. */
struct batch {
    int32_t rows, slots, wanted;
    const int32_t *id, *slot, *position; /* [rows] */
    const struct slot *cache;            /* [slots] */
    const int32_t *wanted_row;           /* [wanted] rows whose logits are asked for */
    int64_t *logits;                     /* [wanted][vocabulary] Q16, or NULL */
    int32_t *likeliest;                  /* [wanted] argmax */
    int64_t *trace;                      /* [layers + 1][rows][hidden] the residual before each layer and at the end, or NULL */
};

#define EXPORT __attribute__((visibility("default")))

struct engine;

/* NULL when the kernel does not exist here or memory is short. At most `rows` rows a batch. */
EXPORT struct engine *assay_engine_new(const struct model *model, const char *kernel, int threads, int rows, int pin);
EXPORT void assay_engine_free(struct engine *engine);
EXPORT void assay_engine_run(struct engine *engine, const struct batch *batch);
/* The next `runs` runs are the caller's alone; 0: all members' again. Not while one runs. */
EXPORT void assay_engine_leave_out(struct engine *engine, int64_t runs);
EXPORT int64_t assay_engine_runs_alone(const struct engine *engine);

#endif
