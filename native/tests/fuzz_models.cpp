// Random models and batches through the C interface, with the kernels of every path that this CPU runs, with one thread and with several,
// alone and in a batch: bit for bit the same vectors.
//
//   fuzz_models [COUNT [SECONDS [FIRST [STEP]]]]
//
// Arguments, case numbers and the digest are those of fuzz.cpp.
#include <time.h>

#include "random_model.h"
#include "random_values.h"

namespace {

using test::RandomBatch;
using test::RandomModel;
using test::Digest;

// The names of `cls_usable_kernels`, one after another.
struct Names {
    char names[8][32];
    int count = 0;

    explicit Names(const char *list) {
        for (const char *at = list; *at && count < 8; count++) {
            size_t length = strcspn(at, ",");
            snprintf(names[count], sizeof names[count], "%.*s", int(length), at);
            at += length + (at[length] == ',');
        }
    }
};

int64_t rows_of(const cls_batch &batch, int output) {
    return output == CLS_TOKENS ? batch.tokens : batch.texts;
}

bool ran(cls_model *model, const cls_batch &batch, int output, float *out, const char *kernels) {
    const int status = cls_run(model, &batch, cls_output(output), out);
    if (status != CLS_OK) {
        printf("%s: a run of output %d of %d texts ended with status %d\n", kernels, output, batch.texts, status);
    }
    return status == CLS_OK;
}

bool same_rows(const float *found, const float *expected, int64_t count, const char *kernels, int output, const char *how) {
    for (int64_t i = 0; i < count; i++) {
        if (!test::same(found[i], expected[i])) {
            printf("%s: output %d differs at %lld of %lld %s: %a, expected %a\n", kernels, output, (long long)i, (long long)count, how,
                   double(found[i]), double(expected[i]));
            return false;
        }
    }
    return true;
}

// Each text of the batch alone gives its rows of the whole.
bool same_alone(cls_model *model, const cls_batch &batch, int output, int width, const float *expected, float *out, const char *kernels) {
    int32_t token = 0;
    for (int32_t text = 0; text < batch.texts; text++) {
        const cls_batch alone = test::part_of(batch, text, 1, token);
        const float *rows = expected + int64_t(output == CLS_TOKENS ? token : text) * width;
        if (!ran(model, alone, output, out, kernels) || !same_rows(out, rows, rows_of(alone, output) * width, kernels, output, "alone")) {
            return false;
        }
        token += batch.lengths[text];
    }
    return true;
}

// What the first kernels gave, for the others.
struct Expected {
    float *rows[CLS_OUTPUTS] = {};
    ~Expected() {
        for (float *one : rows) {
            free(one);
        }
    }
};

bool same_outputs(cls_model *model, const cls_model_spec &spec, const cls_batch &batch, Expected &expected, const char *kernels) {
    for (int output = 0; output < CLS_OUTPUTS; output++) {
        const int width = spec.widths[output];
        const int64_t count = rows_of(batch, output) * width;
        if (width == 0) {
            continue;
        }
        float *out = static_cast<float *>(malloc(size_t(count) * sizeof(float)));
        bool same = ran(model, batch, output, out, kernels);
        if (same && !expected.rows[output]) {
            expected.rows[output] = out;
            out = static_cast<float *>(malloc(size_t(count) * sizeof(float)));
        } else {
            same = same && same_rows(out, expected.rows[output], count, kernels, output, "in a batch");
        }
        same = same && same_alone(model, batch, output, width, expected.rows[output], out, kernels);
        free(out);
        if (!same) {
            return false;
        }
    }
    return true;
}

bool same_everywhere(int64_t number, const Names &kernels, Digest &digest) {
    RandomModel made{uint64_t(number)};
    const RandomBatch batch(made.spec, made.random, made.random.between(1, 4), 60);
    Expected expected;
    for (int i = kernels.count - 1; i >= 0; i--) {
        cls_model *model = nullptr;
        const int status = cls_open(&made.spec, kernels.names[i], made.random.between(1, 3), &model);
        if (status != CLS_OK) {
            printf("%s: cls_open ended with status %d\n", kernels.names[i], status);
            return false;
        }
        const bool same = same_outputs(model, made.spec, batch.batch, expected, kernels.names[i]);
        cls_close(model);
        if (!same) {
            return false;
        }
    }
    for (int output = 0; output < CLS_OUTPUTS; output++) {
        for (int64_t i = 0; i < rows_of(batch.batch, output) * made.spec.widths[output]; i++) {
            digest.add(expected.rows[output][i]);
        }
    }
    return true;
}

int64_t argument(int count, char **arguments, int index, int64_t otherwise) {
    return index < count ? strtoll(arguments[index], nullptr, 10) : otherwise;
}

}  // namespace

int main(int count, char **arguments) {
    const int64_t cases = argument(count, arguments, 1, 1000), seconds = argument(count, arguments, 2, 3600);
    const int64_t first = argument(count, arguments, 3, 0), step = argument(count, arguments, 4, 1);
    const Names kernels(cls_usable_kernels());
    if (*cls_differing_kernels()) {
        printf("%s", cls_differing_kernels());
        return 1;
    }
    Digest digest;
    const time_t start = time(nullptr);
    int64_t done = 0;
    for (; done < cases && time(nullptr) - start < seconds; done++) {
        if (!same_everywhere(first + done * step, kernels, digest)) {
            printf("that was case %lld\n", (long long)(first + done * step));
            return 1;
        }
    }
    printf("%lld cases in %lld seconds, digest %016llx, all the same on: %s\n", (long long)done, (long long)(time(nullptr) - start),
           (unsigned long long)digest.state, cls_usable_kernels());
    return 0;
}
