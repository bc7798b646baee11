/* Waiting: a short spin, because most waits are shorter than a system call; then yield, because on a machine that others
 * use the awaited thread may be waiting for this very processor; an idle member sleeps in the end.
 *
 * Leaving members out: a member that lost its processor in the middle of a piece holds everyone up for the rest of a
 * time slice, many pieces long. In a run of which the caller was stalled for a larger share than the others' share of the
 * work, the caller alone would have been faster. The next runs are then its own; the others are tried again after 16, 32 … 512 runs, and
 * a run that went well halves what the next failure costs. */
#include "threads.h"

#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <time.h>

enum { SPIN_NS = 20000, IDLE_NS = 300000, ALONE_FIRST = 16, ALONE_MOST = 512, MEMBERS_MAX = 256 };

struct pool {
    int threads, started, pin;
    pthread_t *handles;
    struct member *members;
    void (*function)(void *, struct member *);
    void *context;
    int64_t alone_left, alone_next, runs_alone;
    pthread_mutex_t mutex;
    pthread_cond_t wake;
    _Alignas(64) atomic_int generation; /* of runs; negative ends the members */
    atomic_int sleepers;
    _Alignas(64) atomic_int arrived;
    _Alignas(64) atomic_int passed;
};

static inline void pause_processor(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static int64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* Whether *value has left `old`, looked at for up to `budget` ns; yields from SPIN_NS on. Adds that part to *stalled. */
static int left(atomic_int *value, int old, int64_t budget, int64_t *stalled) {
    for (int i = 0; i < 200; i++) { /* most waits end here, without a look at the clock */
        if (atomic_load_explicit(value, memory_order_acquire) != old) return 1;
        pause_processor();
    }
    const int64_t start = now();
    for (;;) {
        for (int i = 0; i < 32; i++) {
            if (atomic_load_explicit(value, memory_order_acquire) != old) {
                int64_t waited = now() - start;
                if (waited > SPIN_NS) *stalled += waited;
                return 1;
            }
            pause_processor();
        }
        int64_t waited = now() - start;
        if (waited > budget) return 0;
        if (waited > SPIN_NS) sched_yield();
    }
}

void pool_wait(struct member *member) {
    struct pool *pool = member->pool;
    const int active = member->active; /* once all have arrived, the caller may set it for the next run */
    if (active == 1) return;
    const int passed = atomic_load_explicit(&pool->passed, memory_order_acquire);
    if (atomic_fetch_add_explicit(&pool->arrived, 1, memory_order_acq_rel) + 1 == active) {
        atomic_store_explicit(&pool->arrived, 0, memory_order_relaxed);
        atomic_store_explicit(&pool->passed, passed + 1, memory_order_release);
        return;
    }
    left(&pool->passed, passed, INT64_MAX, &member->stalled);
}

int pool_take(const struct member *member, atomic_int *taken, int total, int *first) {
    int next = atomic_load_explicit(taken, memory_order_relaxed);
    for (;;) {
        const int rest = total - next;
        if (rest <= 0) return 0;
        /* large pieces first, for long streams of memory; small ones at the end, so that all end together */
        int count = member->active == 1 ? rest : rest / (2 * member->active);
        if (count < 1) count = 1;
        if (atomic_compare_exchange_weak_explicit(taken, &next, next + count, memory_order_relaxed,
                                                  memory_order_relaxed)) {
            *first = next;
            return count;
        }
    }
}

static void pin_to(int index) {
#if defined(__linux__)
    cpu_set_t allowed, one;
    if (sched_getaffinity(0, sizeof allowed, &allowed)) return;
    int wanted = index % CPU_COUNT(&allowed);
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        if (!CPU_ISSET(cpu, &allowed) || wanted--) continue;
        CPU_ZERO(&one);
        CPU_SET(cpu, &one);
        pthread_setaffinity_np(pthread_self(), sizeof one, &one);
        return;
    }
#else
    (void)index;
#endif
}

static void *member_main(void *argument) {
    struct member *member = argument;
    struct pool *pool = member->pool;
    if (pool->pin) pin_to(member->index);
    int seen = 0;
    int64_t ignored = 0;
    for (;;) {
        if (!left(&pool->generation, seen, IDLE_NS, &ignored)) {
            pthread_mutex_lock(&pool->mutex);
            atomic_fetch_add(&pool->sleepers, 1);
            while (atomic_load(&pool->generation) == seen) pthread_cond_wait(&pool->wake, &pool->mutex);
            atomic_fetch_sub(&pool->sleepers, 1);
            pthread_mutex_unlock(&pool->mutex);
        }
        seen = atomic_load_explicit(&pool->generation, memory_order_acquire);
        if (seen < 0) return NULL;
        member->work = member->stalled = 0;
        pool->function(pool->context, member);
        pool_wait(member);
    }
}

static void wake_all(struct pool *pool, int generation) {
    atomic_store(&pool->generation, generation);
    if (atomic_load(&pool->sleepers)) {
        pthread_mutex_lock(&pool->mutex);
        pthread_cond_broadcast(&pool->wake);
        pthread_mutex_unlock(&pool->mutex);
    }
}

/* Whether waiting for the others cost a larger share of the run than they did of its work. */
static int held_up(const struct pool *pool, int64_t wall) {
    int64_t all = 0;
    for (int i = 0; i < pool->started; i++) all += pool->members[i].work;
    const int64_t others = all - pool->members[0].work;
    return all > 0 && (double)pool->members[0].stalled * (double)all > (double)wall * (double)others;
}

void pool_run(struct pool *pool, void (*function)(void *, struct member *), void *context) {
    const int alone = pool->started == 1 || pool->alone_left > 0;
    for (int i = 0; i < pool->started; i++) pool->members[i].active = alone ? 1 : pool->started;
    pool->members[0].work = pool->members[0].stalled = 0;
    if (alone) {
        if (pool->alone_left > 0) pool->alone_left--, pool->runs_alone++;
        function(context, &pool->members[0]);
        return;
    }
    const int64_t start = now();
    pool->function = function;
    pool->context = context;
    wake_all(pool, (atomic_load(&pool->generation) + 1) & 0x3FFFFFFF);
    function(context, &pool->members[0]);
    pool_wait(&pool->members[0]);
    if (held_up(pool, now() - start)) {
        pool->alone_left = pool->alone_next;
        pool->alone_next = pool->alone_next * 2 > ALONE_MOST ? ALONE_MOST : pool->alone_next * 2;
    } else if (pool->alone_next > ALONE_FIRST) {
        pool->alone_next /= 2;
    }
}

void pool_leave_out(struct pool *pool, int64_t runs) { pool->alone_left = runs; }

int64_t pool_runs_alone(const struct pool *pool) { return pool->runs_alone; }

struct pool *pool_new(int threads, int pin) {
    threads = threads < 1 ? 1 : threads > MEMBERS_MAX ? MEMBERS_MAX : threads;
    struct pool *pool = aligned_alloc(64, (sizeof *pool + 63) / 64 * 64);
    if (!pool) return NULL;
    *pool = (struct pool){.threads = threads, .started = 1, .pin = pin, .alone_next = ALONE_FIRST};
    pool->handles = calloc((size_t)threads, sizeof *pool->handles);
    pool->members = calloc((size_t)threads, sizeof *pool->members);
    if (!pool->handles || !pool->members) {
        free(pool->handles);
        free(pool->members);
        free(pool);
        return NULL;
    }
    pthread_mutex_init(&pool->mutex, NULL);
    pthread_cond_init(&pool->wake, NULL);
    for (int i = 0; i < threads; i++) pool->members[i] = (struct member){.pool = pool, .index = i};
    for (int i = 1; i < threads; i++) { /* fewer threads than asked for is slower, not wrong */
        if (pthread_create(&pool->handles[i], NULL, member_main, &pool->members[i])) break;
        pool->started++;
    }
    return pool;
}

void pool_free(struct pool *pool) {
    if (!pool) return;
    wake_all(pool, -1);
    for (int i = 1; i < pool->started; i++) pthread_join(pool->handles[i], NULL);
    pthread_cond_destroy(&pool->wake);
    pthread_mutex_destroy(&pool->mutex);
    free(pool->handles);
    free(pool->members);
    free(pool);
}
