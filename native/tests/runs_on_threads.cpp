// Random models and batches: each text alone on one thread gives what it gives in any batch, on any number of threads, beside other runs,
// and with every kernel family; what does not fit is refused; what runs out of memory says so and the model stays usable.
//
//     runs_on_threads [models] [first seed]
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../src/float_mode.h"
#include "random_model.h"

using test::part_of;
using test::Pool;
using test::Random;
using test::RandomBatch;
using test::RandomModel;

// The thread sanitizer knows no threads in a child.
#if defined(__SANITIZE_THREAD__)
#define FORKS 0
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define FORKS 0
#else
#define FORKS 1
#endif
#else
#define FORKS 1
#endif

// Sanitizers give null for what the system would not give either.
#define FOR_SANITIZERS extern "C" __attribute__((visibility("default")))
FOR_SANITIZERS const char *__asan_default_options();
FOR_SANITIZERS const char *__tsan_default_options();
const char *__asan_default_options() { return "allocator_may_return_null=1"; }
const char *__tsan_default_options() { return "allocator_may_return_null=1"; }

namespace {

int failures = 0;
uint64_t seed_under_test = 0;

void expect(bool holds, const char *what) {
    if (holds) return;
    fprintf(stderr, "seed %llu: %s\n", static_cast<unsigned long long>(seed_under_test), what);
    ++failures;
}

cls_model *opened(const RandomModel &model, const char *kernels, int32_t threads) {
    cls_model *open = nullptr;
    if (cls_open(&model.spec, kernels, threads, &open) != CLS_OK) {
        fprintf(stderr, "cls_open failed\n");
        exit(1);
    }
    return open;
}

bool has(const cls_model_spec &spec, cls_output output) { return spec.widths[output] > 0; }

int64_t size_of(const cls_model_spec &spec, const cls_batch &batch, cls_output output) {
    return static_cast<int64_t>(output == CLS_TOKENS ? batch.tokens : batch.texts) * spec.widths[output];
}

// What each output is when every text runs alone.
struct Expected {
    Expected(const RandomModel &model, const cls_batch &batch) {
        cls_model *open = opened(model, "portable", 1);
        for (int number = 0; number < CLS_OUTPUTS; ++number) {
            const cls_output output = static_cast<cls_output>(number);
            if (!has(model.spec, output)) continue;
            values[output] = pool.take<float>(size_of(model.spec, batch, output));
            float *out = values[output];
            for (int32_t text = 0, token = 0; text < batch.texts; token += batch.lengths[text], ++text) {
                const cls_batch alone = part_of(batch, text, 1, token);
                expect(cls_run(open, &alone, output, out) == CLS_OK, "a text alone is refused");
                out += size_of(model.spec, alone, output);
            }
            bool finite = true;
            for (int64_t i = 0; i < size_of(model.spec, batch, output); ++i) finite = finite && isfinite(values[output][i]);
            expect(finite, "an output is not finite");
        }
        cls_close(open);
    }

    Pool pool;
    float *values[CLS_OUTPUTS] = {};
};

bool agrees(cls_model *open, const RandomModel &model, const cls_batch &batch, const Expected &expected) {
    for (int number = 0; number < CLS_OUTPUTS; ++number) {
        const cls_output output = static_cast<cls_output>(number);
        if (!has(model.spec, output)) continue;
        Pool pool;
        const int64_t count = size_of(model.spec, batch, output);
        float *out = pool.take<float>(count);
        if (cls_run(open, &batch, output, out) != CLS_OK) return false;
        if (memcmp(out, expected.values[output], sizeof(float) * static_cast<size_t>(count)) != 0) return false;
    }
    return true;
}

struct Caller {
    cls_model *open;
    const RandomModel *model;
    const cls_batch *batch;
    const Expected *expected;
    int runs;
    bool agreed;
    pthread_t thread;
};

void *call(void *argument) {
    Caller &caller = *static_cast<Caller *>(argument);
    caller.agreed = true;
    for (int i = 0; i < caller.runs; ++i) {
        caller.agreed = caller.agreed && agrees(caller.open, *caller.model, *caller.batch, *caller.expected);
    }
    return nullptr;
}

// Several callers at once, also more of them than threads.
void check_callers(const RandomModel &model, const cls_batch &batch, const Expected &expected, int threads, int count) {
    cls_model *open = opened(model, nullptr, threads);
    Caller callers[4];
    for (int i = 0; i < count; ++i) {
        callers[i] = {open, &model, &batch, &expected, 3, false, {}};
        pthread_create(&callers[i].thread, nullptr, call, &callers[i]);
    }
    for (int i = 0; i < count; ++i) {
        pthread_join(callers[i].thread, nullptr);
        expect(callers[i].agreed, "callers at once: other results");
    }
    cls_close(open);
}

void check_kernels(const RandomModel &model, const cls_batch &batch, const Expected &expected) {
    char names[256];
    snprintf(names, sizeof names, "%s", cls_usable_kernels());
    char *rest = names;
    for (char *name = strtok_r(names, ",", &rest); name; name = strtok_r(nullptr, ",", &rest)) {
        cls_model *open = opened(model, name, 2);
        expect(strcmp(cls_kernels_of(open), name) == 0, "other kernels than asked for");
        expect(agrees(open, model, batch, expected), name);
        cls_close(open);
    }
}

void check_refused(cls_model *open, const cls_batch &batch, cls_output output, const char *what) {
    float untouched = 5.0f;
    expect(cls_run(open, &batch, output, &untouched) == CLS_BAD_INPUT && untouched == 5.0f, what);
}

// One number of an array changed.
cls_batch with(Pool &pool, const cls_batch &batch, const int32_t *cls_batch::*array, int32_t count, int32_t place, int32_t value) {
    cls_batch changed = batch;
    int32_t *copy = pool.take<int32_t>(count);
    if (batch.*array) memcpy(copy, batch.*array, sizeof(int32_t) * static_cast<size_t>(count));
    copy[place] = value;
    changed.*array = copy;
    return changed;
}

void check_bad_input(RandomModel &model, const cls_batch &batch) {
    cls_model *open = opened(model, nullptr, 2);
    const cls_model_spec &spec = model.spec;
    const cls_output output = CLS_SENTENCE;
    Pool pool;
    const int32_t token = model.random.between(0, batch.tokens - 1), text = model.random.between(0, batch.texts - 1);
    for (int32_t id : (const int32_t[]){-1, spec.embeddings.vocabulary, INT32_MAX, INT32_MIN}) {
        check_refused(open, with(pool, batch, &cls_batch::input_ids, batch.tokens, token, id), output, "a wrong id is taken");
    }
    for (int32_t type : (const int32_t[]){-1, spec.embeddings.types, INT32_MAX, INT32_MIN}) {
        if (spec.embeddings.types == 0) continue;
        check_refused(open, with(pool, batch, &cls_batch::token_type_ids, batch.tokens, token, type), output, "a wrong type is taken");
    }
    for (int32_t length : (const int32_t[]){0, -1, spec.max_length + 1, batch.lengths[text] + 1, INT32_MAX, INT32_MIN}) {
        check_refused(open, with(pool, batch, &cls_batch::lengths, batch.texts, text, length), output, "a wrong length is taken");
    }
    check_refused(open, with(pool, batch, &cls_batch::unpooled, batch.texts, text, -1), output, "negative unpooled tokens are taken");
    cls_batch none = batch;
    none.texts = none.tokens = 0;
    check_refused(open, none, output, "no text is taken");
    none = batch;
    none.texts = -1;
    check_refused(open, none, output, "a negative number of texts is taken");
    none = batch;
    none.input_ids = nullptr;
    check_refused(open, none, output, "no ids are taken");
    for (int number : (const int[]){CLS_TOKENS, CLS_SENTENCE, CLS_POOLER, CLS_LOGITS}) {
        const cls_output other = static_cast<cls_output>(number);
        if (!has(spec, other)) check_refused(open, batch, other, "an output that is not there is given");
    }
    expect(cls_run(open, &batch, output, nullptr) == CLS_BAD_INPUT, "no place for the output is taken");
    cls_close(open);
    cls_model *closed = nullptr;
    expect(cls_open(&spec, "none", 1, &closed) == CLS_NO_KERNELS && !closed, "unknown kernels are opened");
    expect(cls_open(&spec, nullptr, 0, &closed) == CLS_BAD_INPUT && !closed, "no threads are taken");
}

#if defined(__x86_64__)
// A program's own rounding and flushing changes nothing and is there again afterwards.
void check_float_mode(const RandomModel &model, const cls_batch &batch, const Expected &expected) {
    const uint64_t before = cls::float_mode(), flushing = before | 0x8040 | 0x6000;
    cls_model *open = nullptr;
    cls::set_float_mode(flushing);
    const int result = cls_open(&model.spec, nullptr, 2, &open);
    const bool same = result == CLS_OK && agrees(open, model, batch, expected);
    const uint64_t after = cls::float_mode();
    cls::set_float_mode(before);
    expect(same, "a flushing thread: other results");
    expect((after & 0xffc0) == (flushing & 0xffc0), "the thread's float mode is another");
    cls_close(open);
}
#endif

#if FORKS
// In a child the threads are not there: a run is refused, closing does not hang.
void check_fork(const RandomModel &model, const cls_batch &batch) {
    cls_model *open = opened(model, nullptr, 3);
    const pid_t child = fork();
    if (child == 0) {
        float out;
        alarm(20);
        const int result = cls_run(open, &batch, CLS_SENTENCE, &out);
        cls_close(open);
        _exit(result == CLS_NO_THREADS ? 0 : 1);
    }
    int status = -1;
    waitpid(child, &status, 0);
    expect(WIFEXITED(status) && WEXITSTATUS(status) == 0, "a child of fork");
    cls_close(open);
}
#endif

// A layer that is said to be so wide that no system has the memory.
void check_memory(const RandomModel &model, const cls_batch &batch, const Expected &expected) {
    cls_model *open = opened(model, nullptr, 4);
    cls_layer &layer = const_cast<cls_layer &>(model.spec.layers[0]);
    const int32_t width = layer.up.width;
    layer.up.width = INT32_MAX - 63;
    void *all = malloc(static_cast<size_t>(1) << 40);
    Pool pool;
    float *out = pool.take<float>(size_of(model.spec, batch, CLS_SENTENCE));
    if (!all) expect(cls_run(open, &batch, CLS_SENTENCE, out) == CLS_NO_MEMORY, "no memory is not said");
    free(all);
    layer.up.width = width;
    expect(agrees(open, model, batch, expected), "other results after memory was short");
    cls_close(open);
}

void check_model(uint64_t seed) {
    seed_under_test = seed;
    RandomModel model(seed);
    const bool large = model.random.once_in(12);
    RandomBatch random(model.spec, model.random, model.random.between(1, large ? 60 : 8), large ? 1100 : 150);
    const cls_batch &batch = random.batch;
    const Expected expected(model, batch);
    for (int threads = 1; threads <= 4; ++threads) {
        cls_model *open = opened(model, "portable", threads);
        expect(agrees(open, model, batch, expected), "in a batch: other results");
        expect(agrees(open, model, batch, expected), "a second time: other results");
        cls_close(open);
    }
    for (int threads = 1; threads <= 3; ++threads) check_callers(model, batch, expected, threads, model.random.between(2, 4));
    check_kernels(model, batch, expected);
    check_bad_input(model, batch);
#if defined(__x86_64__)
    check_float_mode(model, batch, expected);
#endif
#if FORKS
    check_fork(model, batch);
#endif
    check_memory(model, batch, expected);
}

}  // namespace

int main(int count, char **arguments) {
    const uint64_t models = count > 1 ? strtoull(arguments[1], nullptr, 10) : 12;
    const uint64_t first = count > 2 ? strtoull(arguments[2], nullptr, 10) : 0;
    expect(cls_abi() == CLS_ABI, "another interface");
    for (uint64_t seed = first; seed < first + models && failures < 20; ++seed) check_model(seed);
    printf("%llu models, kernels %s: %d failures\n", static_cast<unsigned long long>(models), cls_usable_kernels(), failures);
    return failures ? 1 : 0;
}
