/* A few threads that run the same function, wait for each other inside it, and share out numbered pieces of work. */
#ifndef ASSAY_THREADS_H
#define ASSAY_THREADS_H

#include <stdatomic.h>
#include <stdint.h>

struct pool;

/* One thread's place in a run. */
struct member {
    struct pool *pool;
    int index;          /* 0 is the caller */
    int active;         /* members that take part in this run */
    int64_t work;       /* what this member did in this run, in units of the caller's choice */
    int64_t stalled;    /* nanoseconds that this member waited in vain, beyond a spin */
};

/* `threads` counts the caller; `pin` ties each other member to a processor of its own (the
 * caller's thread is not ours to tie). NULL without memory. */
struct pool *pool_new(int threads, int pin);
void pool_free(struct pool *pool);

/* Runs `function(context, member)` on the caller and, unless they only held it up of late, on the others. */
void pool_run(struct pool *pool, void (*function)(void *context, struct member *member), void *context);

/* Leaves the other members out of the next `runs` runs, as if they had held the caller up; 0: takes them in again. */
void pool_leave_out(struct pool *pool, int64_t runs);

/* Returns once every member of the run is here. */
void pool_wait(struct member *member);

/* Takes the next pieces of `total`, counted by `taken`: returns how many, from *first on; 0 when none are left. */
int pool_take(const struct member *member, atomic_int *taken, int total, int *first);

/* Runs in which the other members were left out. */
int64_t pool_runs_alone(const struct pool *pool);

#endif
