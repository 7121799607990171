// The C interface.
#include <stdlib.h>
#include <string.h>

#include "float_mode.h"
#include "run.h"

namespace cls {
namespace {

constexpr int kNames = 256;

struct Names {
    char text[kNames];
};

// "a,b,c", once: the lock is held while it is written, and what is written stays the same.
const char *joined(const KernelList &list, Names &names) {
    size_t used = 0;
    char text[kNames];
    for (int i = 0; i < list.count; ++i) {
        const size_t length = strlen(list.all[i]->name);
        if (used + length + 2 > sizeof text) break;
        if (i > 0) text[used++] = ',';
        memcpy(text + used, list.all[i]->name, length);
        used += length;
    }
    text[used] = 0;
    for (size_t i = 0; i <= used; ++i) __atomic_store_n(&names.text[i], text[i], __ATOMIC_RELAXED);
    return names.text;
}

Names all_names, usable_names;

void free_model(cls_model *model) {
    for (int i = 0; model->arenas && i < model->team.threads; ++i) free(model->arenas[i].allocation);
    free(model->arenas);
    free(model);
}

int open_model(const ModelSpec &spec, const Kernels &kernels, int threads, cls_model **opened) {
    cls_model *model = static_cast<cls_model *>(calloc(1, sizeof(cls_model)));
    if (!model) return CLS_NO_MEMORY;
    model->spec = spec;
    model->kernels = &kernels;
    model->arenas = static_cast<Arena *>(calloc(static_cast<size_t>(threads), sizeof(Arena)));
    bool short_of_memory = !model->arenas;
    if (short_of_memory || !open_team(model->team, threads, short_of_memory)) {
        free_model(model);
        return short_of_memory ? CLS_NO_MEMORY : CLS_NO_THREADS;
    }
    *opened = model;
    return CLS_OK;
}

}  // namespace
}  // namespace cls

extern "C" {

int32_t cls_abi(void) { return CLS_ABI; }

const char *cls_all_kernels(void) { return cls::joined(cls::all_kernels(), cls::all_names); }

const char *cls_usable_kernels(void) {
    cls::FloatMode mode;
    return cls::joined(cls::usable_kernels(), cls::usable_names);
}

const char *cls_differing_kernels(void) {
    cls::FloatMode mode;
    return cls::differing_kernels();
}

int cls_open(const cls_model_spec *spec, const char *kernels, int32_t threads, cls_model **model) {
    if (!spec || !model || threads < 1) return CLS_BAD_INPUT;
    *model = nullptr;
    cls::FloatMode mode;
    const cls::Kernels *chosen = cls::kernels_named(kernels);
    if (!chosen) return CLS_NO_KERNELS;
    return cls::open_model(*spec, *chosen, threads, model);
}

const char *cls_kernels_of(const cls_model *model) { return model->kernels->name; }

int cls_run(cls_model *model, const cls_batch *batch, cls_output output, float *out) {
    if (!model || !batch || !out || !cls::fits(model->spec, *batch, static_cast<int>(output))) return CLS_BAD_INPUT;
    if (model->team.process != cls::process_id()) return CLS_NO_THREADS;
    cls::FloatMode mode;
    cls::Crew &crew = cls::enter(model->team);
    const int result = cls::run(*model, crew, *batch, output, out);
    cls::leave(crew);
    return result;
}

void cls_close(cls_model *model) {
    if (!model) return;
    cls::close_team(model->team);
    cls::free_model(model);
}

}  // extern "C"
