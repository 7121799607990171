#include "run.h"

#include <string.h>

#include "support.h"

namespace cls {
namespace {

constexpr int kBlock = 48;             // rows that go through products one after another while they are in cache
constexpr int kSmallestBlock = 8;      // a phase is not cut finer than so, to give more threads work
constexpr int64_t kGroupTokens = 240;  // for each thread: texts together that go through the model at a time
constexpr int64_t kMostTokens = 8192;  // of a group, however many threads there are, unless one text has more
constexpr int64_t kKeptTokens = 1024;  // working memory for so many at least stays between runs

// Texts one after another that go through the model together.
struct Group {
    int64_t first_text, texts;
    int64_t first_token, tokens;
    int longest;
};

// What a thread needs for a block of rows.
struct Scratch {
    uint8_t *quantized;  // [kBlock][the deepest product]
    RowScale *scales;    // [kBlock]
    float *wide;         // [kBlock][the widest of up and the heads' products]
    float *narrow;       // [kBlock][H, what the embeddings have, or a head's product]
    float *selected;     // [kBlock][H]: one row a text
    float *query;        // [kBlock][attention width]
    float *context;      // [kBlock][attention width]
    unsigned char *attention;
};

struct Buffers {
    float *hidden;       // [T][H]
    float *normed;       // [T][H], of a last layer that norms first and has one row a text
    float *projected;    // [T][3 * attention width]
    float *context;      // [T][attention width]
    int32_t *positions;  // [T]: rows of the table
    int32_t *types;      // [T]
    int32_t *places;     // [T]: 0, 1, 2, ... in each text
    int64_t *starts;     // [B]: the first row of each text
    Scratch *scratch;    // [threads]
};

struct Widths {
    int64_t deepest, wide, narrow;
};

void widen(Widths &widths, const Product &product) { widths.deepest = greatest<int64_t>(widths.deepest, product.depth); }

Widths widths_of(const ModelSpec &spec) {
    const int64_t hidden = greatest<int64_t>(spec.hidden_stride, spec.embeddings.stride);
    Widths widths = {hidden, 0, hidden};
    widen(widths, spec.embeddings.projection);
    for (int i = 0; i < spec.layer_count; ++i) {
        const Layer &layer = spec.layers[i];
        widen(widths, layer.query_key_value);
        widen(widths, layer.query);
        widen(widths, layer.attention_output);
        widen(widths, layer.up);
        widen(widths, layer.down);
        widths.wide = greatest<int64_t>(widths.wide, layer.up.width);
    }
    for (const Head &head : spec.heads_of) {
        for (int i = 0; i < head.steps; ++i) {
            widen(widths, head.products[i]);
            widths.wide = greatest<int64_t>(widths.wide, head.products[i].width);
            widths.narrow = greatest<int64_t>(widths.narrow, head.products[i].width);
        }
    }
    return widths;
}

bool keeps_normed(const ModelSpec &spec) {
    return spec.one_row && spec.layer_count > 0 && spec.layers[spec.layer_count - 1].pre_norm;
}

Buffers lay_out(const ModelSpec &spec, int threads, const Group &group, Carver &carver) {
    const Widths widths = widths_of(spec);
    const int64_t hidden = spec.hidden_stride, attention = spec.attention_width, rows = group.tokens;
    Buffers buffers;
    buffers.hidden = carver.take<float>(rows, hidden);
    buffers.normed = carver.take<float>(keeps_normed(spec) ? rows : 0, hidden);
    buffers.projected = carver.take<float>(rows, 3 * attention);
    buffers.context = carver.take<float>(rows, attention);
    buffers.positions = carver.take<int32_t>(rows);
    buffers.types = carver.take<int32_t>(rows);
    buffers.places = carver.take<int32_t>(rows);
    buffers.starts = carver.take<int64_t>(group.texts);
    buffers.scratch = carver.take<Scratch>(threads);
    for (int i = 0; i < threads; ++i) {
        Scratch scratch;
        scratch.quantized = carver.take<uint8_t>(kBlock, widths.deepest);
        scratch.scales = carver.take<RowScale>(kBlock);
        scratch.wide = carver.take<float>(kBlock, widths.wide);
        scratch.narrow = carver.take<float>(kBlock, widths.narrow);
        scratch.selected = carver.take<float>(kBlock, hidden);
        scratch.query = carver.take<float>(kBlock, attention);
        scratch.context = carver.take<float>(kBlock, attention);
        scratch.attention = carver.take<unsigned char>(
            attention_scratch(group.longest, spec.heads, spec.head_stride, spec.hidden_stride));
        if (buffers.scratch) buffers.scratch[i] = scratch;
    }
    return buffers;
}

int64_t bytes_for(const ModelSpec &spec, int threads, const Group &group) {
    Carver counter(nullptr);
    lay_out(spec, threads, group, counter);
    return counter.used();
}

// One group on its way through the model.
struct Pass {
    const ModelSpec &spec;
    const Kernels &kernels;
    Crew &crew;
    const Batch &batch;
    const Group &group;
    const Buffers &buffers;
    cls_output output;
    float *out;
};

template <class Body>
void call_body(void *body, int64_t item, int worker) {
    (*static_cast<Body *>(body))(item, worker);
}

// body(item, worker) for each item, shared between the threads that are free.
template <class Body>
void for_items(const Pass &pass, int64_t count, Body body) {
    share(pass.crew, count, call_body<Body>, &body);
}

// body(first, rows, scratch) for blocks of at most kBlock rows, of even sizes and for each thread as many.
template <class Body>
void for_blocks(const Pass &pass, int64_t rows, int64_t smallest, Body body) {
    const int64_t threads = workers(pass.crew);
    int64_t blocks = rounded_up((rows + kBlock - 1) / kBlock, threads);
    blocks = greatest(least(blocks, rows / smallest), (rows + kBlock - 1) / kBlock);
    for_items(pass, blocks, [&](int64_t block, int worker) {
        const int64_t first = rows * block / blocks, end = rows * (block + 1) / blocks;
        body(first, static_cast<int>(end - first), pass.buffers.scratch[worker]);
    });
}

void multiply(const Kernels &kernels, const Product &product, const float *x, int64_t stride, int rows, const Epilogue &epilogue, float *y,
              int64_t y_stride, const Scratch &scratch) {
    if (product.integers) {
        kernels.quantize(x, stride, rows, product.depth, product.smoothing, scratch.quantized, scratch.scales);
        kernels.integer_product(scratch.quantized, scratch.scales, rows, product, epilogue, y, y_stride);
    } else {
        kernels.float_product(x, stride, rows, product, epilogue, y, y_stride);
    }
}

void normalize(const Kernels &kernels, const Norm &norm, float *x, int64_t stride, int rows, int64_t width) {
    if (norm.scale) kernels.norm(x, stride, rows, norm, static_cast<int>(width), x, stride);
}

// norm(x) in y, or x itself where there is no norm.
const float *normalized(const Kernels &kernels, const Norm &norm, const float *x, int64_t stride, int rows, float *y) {
    if (!norm.scale) return x;
    kernels.norm(x, stride, rows, norm, static_cast<int>(stride), y, stride);
    return y;
}

bool has_weights(const Product &product) { return product.integers || product.floats; }

void place_group(const Pass &pass) {
    const Embeddings &embeddings = pass.spec.embeddings;
    const Buffers &buffers = pass.buffers;
    const int32_t *types = embeddings.types > 0 ? pass.batch.token_type_ids : nullptr;
    int64_t row = 0;
    for (int64_t text = 0; text < pass.group.texts; ++text) {
        const int length = pass.batch.lengths[pass.group.first_text + text];
        buffers.starts[text] = row;
        place_tokens(embeddings, pass.batch.input_ids + pass.group.first_token + row, length, buffers.positions + row);
        for (int place = 0; place < length; ++place, ++row) {
            buffers.places[row] = place;
            buffers.types[row] = types ? types[pass.group.first_token + row] : 0;
        }
    }
    const int64_t width = pass.spec.attention_width, used = static_cast<int64_t>(pass.spec.heads) * pass.spec.head_stride;
    if (used == width) return;
    for (row = 0; row < pass.group.tokens; ++row) {
        memset(buffers.context + row * width + used, 0, static_cast<size_t>(width - used) * sizeof(float));
    }
}

void embed(const Pass &pass, int64_t first, int rows, const Scratch &scratch) {
    const Embeddings &embeddings = pass.spec.embeddings;
    const Buffers &buffers = pass.buffers;
    const bool projects = has_weights(embeddings.projection);
    float *x = buffers.hidden + first * pass.spec.hidden_stride;
    float *sums = projects ? scratch.narrow : x;
    pass.kernels.embed(embeddings, pass.batch.input_ids + pass.group.first_token + first, buffers.types + first, buffers.positions + first,
                       rows, sums, embeddings.stride);
    normalize(pass.kernels, embeddings.norm, sums, embeddings.stride, rows, embeddings.stride);
    if (projects) {
        multiply(pass.kernels, embeddings.projection, sums, embeddings.stride, rows, Epilogue(), x, pass.spec.hidden_stride, scratch);
    }
}

void rotate(const Pass &pass, const Layer &layer, int64_t first, int rows) {
    const int64_t stride = 3 * static_cast<int64_t>(pass.spec.attention_width);
    const int32_t *places = pass.buffers.places + first;
    for (int begin = 0; begin < rows;) {
        int end = begin + 1;
        while (end < rows && places[end] != 0) ++end;
        float *queries = pass.buffers.projected + (first + begin) * stride;
        float *keys = queries + pass.spec.attention_width;
        pass.kernels.rotate(queries, stride, end - begin, places[begin], pass.spec.heads, pass.spec.head_stride, layer.rotation);
        pass.kernels.rotate(keys, stride, end - begin, places[begin], pass.spec.heads, pass.spec.head_stride, layer.rotation);
        begin = end;
    }
}

// What the layer's attention reads of these rows: queries, keys and values, or the normed rows where they are reassociated.
void prepare_attention(const Pass &pass, int index, int64_t first, int rows, const Scratch &scratch) {
    if (index >= pass.spec.layer_count) return;
    const Layer &layer = pass.spec.layers[index];
    const int64_t hidden = pass.spec.hidden_stride;
    const float *x = pass.buffers.hidden + first * hidden;
    if (!has_weights(layer.query_key_value)) {
        if (layer.pre_norm) normalized(pass.kernels, layer.attention_norm, x, hidden, rows, pass.buffers.normed + first * hidden);
        return;
    }
    if (layer.pre_norm) x = normalized(pass.kernels, layer.attention_norm, x, hidden, rows, scratch.narrow);
    const int64_t stride = 3 * static_cast<int64_t>(pass.spec.attention_width);
    multiply(pass.kernels, layer.query_key_value, x, hidden, rows, Epilogue(), pass.buffers.projected + first * stride, stride, scratch);
    if (layer.rotation.cosines) rotate(pass, layer, first, rows);
}

void attend_heads(const Pass &pass, const Layer &layer, int64_t text, int first_head, int end_head, const Scratch &scratch) {
    const ModelSpec &spec = pass.spec;
    const int64_t width = spec.attention_width, row = pass.buffers.starts[text];
    const int64_t column = static_cast<int64_t>(first_head) * spec.head_stride;
    TextAttention attention;
    attention.tokens = pass.batch.lengths[pass.group.first_text + text];
    attention.heads = end_head - first_head;
    attention.head_stride = spec.head_stride;
    attention.stride = 3 * width;
    attention.queries = pass.buffers.projected + row * 3 * width + column;
    attention.keys = attention.queries + width;
    attention.values = attention.keys + width;
    attention.context = pass.buffers.context + row * width + column;
    attention.context_stride = width;
    attention.window = layer.window;
    attention.distances = layer.distances ? layer.distances + static_cast<int64_t>(first_head) * layer.distance_stride : nullptr;
    attention.distance_stride = layer.distance_stride;
    attention.max_length = spec.max_length;
    pass.kernels.attend(attention, scratch.attention);
}

// A text's heads are cut into parts where the longest text would keep one thread busy and the others waiting.
void attend(const Pass &pass, const Layer &layer) {
    const int threads = workers(pass.crew), heads = pass.spec.heads;
    double work = 0.0;
    for (int64_t text = 0; text < pass.group.texts; ++text) {
        const double length = pass.batch.lengths[pass.group.first_text + text];
        work += length * length;
    }
    const double longest = pass.group.longest;
    const int parts = threads == 1 ? 1 : least(heads, 1 + static_cast<int>(longest * longest * 2.0 * (threads - 1) / work));
    for_items(pass, pass.group.texts * parts, [&](int64_t item, int worker) {
        const int part = static_cast<int>(item % parts);
        const int first = heads * part / parts, end = heads * (part + 1) / parts;
        attend_heads(pass, layer, item / parts, first, end, pass.buffers.scratch[worker]);
    });
}

// The layer from its attention's context on; x [rows][H] is the layer's input and becomes its output.
void finish_layer(const Pass &pass, const Layer &layer, float *x, const float *context, int rows, const Scratch &scratch) {
    const Kernels &kernels = pass.kernels;
    const int64_t hidden = pass.spec.hidden_stride, wide = layer.up.width;
    Epilogue add;
    add.residual = x;
    add.residual_stride = hidden;
    multiply(kernels, layer.attention_output, context, pass.spec.attention_width, rows, add, x, hidden, scratch);
    const float *inner = x;
    if (layer.pre_norm) {
        inner = normalized(kernels, layer.feed_forward_norm, x, hidden, rows, scratch.narrow);
    } else {
        normalize(kernels, layer.attention_norm, x, hidden, rows, hidden);
    }
    Epilogue activate;
    activate.activation = layer.gated ? CLS_IDENTITY : layer.activation;
    multiply(kernels, layer.up, inner, hidden, rows, activate, scratch.wide, wide, scratch);
    if (layer.gated) {
        kernels.gate(scratch.wide, wide, rows, pass.spec.feed_forward_stride, layer.activation, scratch.wide, wide);
    }
    multiply(kernels, layer.down, scratch.wide, wide, rows, add, x, hidden, scratch);
    if (!layer.pre_norm) normalize(kernels, layer.feed_forward_norm, x, hidden, rows, hidden);
}

// The output of rows x [rows][H], which may change: `first` is the number of the first in the group.
void write_rows(const Pass &pass, float *x, int64_t first, int rows, const Scratch &scratch) {
    const Head &head = pass.spec.heads_of[pass.output];
    const int64_t width = pass.spec.widths[pass.output];
    float *values = x;
    int64_t stride = pass.spec.hidden_stride;
    for (int step = 0; step < head.steps; ++step) {
        const Product &product = head.products[step];
        float *next = values == scratch.wide ? scratch.narrow : scratch.wide;
        Epilogue epilogue;
        epilogue.activation = head.activations[step];
        multiply(pass.kernels, product, values, stride, rows, epilogue, next, product.width, scratch);
        values = next;
        stride = product.width;
        normalize(pass.kernels, head.norms[step], values, stride, rows, stride);
    }
    const int64_t before = pass.output == CLS_TOKENS ? pass.group.first_token : pass.group.first_text;
    for (int row = 0; row < rows; ++row) {
        memcpy(pass.out + (before + first + row) * width, values + row * stride, static_cast<size_t>(width) * sizeof(float));
    }
}

void attend_selected(const Pass &pass, const Layer &layer, int64_t first, int texts, const Scratch &scratch) {
    const ModelSpec &spec = pass.spec;
    const int64_t hidden = spec.hidden_stride, width = spec.attention_width;
    const float *all = layer.pre_norm && layer.attention_norm.scale ? pass.buffers.normed : pass.buffers.hidden;
    const float *queried = layer.pre_norm ? normalized(pass.kernels, layer.attention_norm, scratch.selected, hidden, texts, scratch.narrow)
                                          : scratch.selected;
    multiply(pass.kernels, layer.query, queried, hidden, texts, Epilogue(), scratch.query, width, scratch);
    for (int text = 0; text < texts; ++text) {
        const int64_t number = pass.group.first_text + first + text;
        RowAttention attention;
        attention.tokens = pass.batch.lengths[number];
        attention.heads = spec.heads;
        attention.head_stride = spec.head_stride;
        attention.row = row_of(pass.batch, pass.output, number);
        attention.query = scratch.query + text * width;
        attention.hidden = all + pass.buffers.starts[first + text] * hidden;
        attention.stride = hidden;
        attention.key_by_head = &layer.key_by_head;
        attention.value_by_head = &layer.value_by_head;
        attention.context = scratch.context + text * width;
        attention.distances = layer.distances;
        attention.distance_stride = layer.distance_stride;
        attention.max_length = spec.max_length;
        pass.kernels.attend_row(attention, scratch.attention);
    }
}

// The last layer and the output where one row a text is needed.
void finish_selected(const Pass &pass, int64_t first, int texts, const Scratch &scratch) {
    const ModelSpec &spec = pass.spec;
    const int64_t hidden = spec.hidden_stride, width = spec.attention_width;
    for (int text = 0; text < texts; ++text) {
        const int64_t row = pass.buffers.starts[first + text] + row_of(pass.batch, pass.output, pass.group.first_text + first + text);
        memcpy(scratch.selected + text * hidden, pass.buffers.hidden + row * hidden, static_cast<size_t>(hidden) * sizeof(float));
        if (spec.one_row) continue;  // attend_selected makes its context
        memcpy(scratch.context + text * width, pass.buffers.context + row * width, static_cast<size_t>(width) * sizeof(float));
    }
    if (spec.layer_count > 0) {
        const Layer &last = spec.layers[spec.layer_count - 1];
        if (spec.one_row) attend_selected(pass, last, first, texts, scratch);
        finish_layer(pass, last, scratch.selected, scratch.context, texts, scratch);
    }
    normalize(pass.kernels, spec.final_norm, scratch.selected, hidden, texts, hidden);
    write_rows(pass, scratch.selected, first, texts, scratch);
}

void write_means(const Pass &pass, int64_t first, int texts, const Scratch &scratch) {
    const int64_t hidden = pass.spec.hidden_stride;
    for (int text = 0; text < texts; ++text) {
        const int64_t number = pass.group.first_text + first + text;
        const int length = pass.batch.lengths[number];
        const int begin = pass.batch.unpooled ? least(pass.batch.unpooled[number], length) : 0;
        pass.kernels.mean(pass.buffers.hidden + pass.buffers.starts[first + text] * hidden, hidden, begin, length,
                          pass.spec.hidden_stride, scratch.selected + text * hidden);
    }
    write_rows(pass, scratch.selected, first, texts, scratch);
}

// The last layer's rows, all of them, and behind them the output.
void finish_all(const Pass &pass) {
    const ModelSpec &spec = pass.spec;
    const int64_t hidden = spec.hidden_stride;
    for_blocks(pass, pass.group.tokens, kSmallestBlock, [&](int64_t first, int rows, const Scratch &scratch) {
        float *x = pass.buffers.hidden + first * hidden;
        if (spec.layer_count > 0) {
            finish_layer(pass, spec.layers[spec.layer_count - 1], x, pass.buffers.context + first * spec.attention_width, rows, scratch);
        }
        normalize(pass.kernels, spec.final_norm, x, hidden, rows, hidden);
        if (pass.output == CLS_TOKENS) write_rows(pass, x, first, rows, scratch);
    });
    if (pass.output == CLS_TOKENS) return;
    for_blocks(pass, pass.group.texts, 1,
               [&](int64_t first, int texts, const Scratch &scratch) { write_means(pass, first, texts, scratch); });
}

void run_group(const Pass &pass) {
    const ModelSpec &spec = pass.spec;
    place_group(pass);
    for_blocks(pass, pass.group.tokens, kSmallestBlock, [&](int64_t first, int rows, const Scratch &scratch) {
        embed(pass, first, rows, scratch);
        prepare_attention(pass, 0, first, rows, scratch);
    });
    for (int index = 0; index < spec.layer_count; ++index) {
        const Layer &layer = spec.layers[index];
        if (has_weights(layer.query_key_value)) attend(pass, layer);
        if (index + 1 == spec.layer_count) break;
        for_blocks(pass, pass.group.tokens, kSmallestBlock, [&](int64_t first, int rows, const Scratch &scratch) {
            finish_layer(pass, layer, pass.buffers.hidden + first * spec.hidden_stride, pass.buffers.context + first * spec.attention_width,
                         rows, scratch);
            prepare_attention(pass, index + 1, first, rows, scratch);
        });
    }
    if (pass.output == CLS_TOKENS || (pass.output == CLS_SENTENCE && spec.mean_pooled)) {
        finish_all(pass);
    } else {
        for_blocks(pass, pass.group.texts, 1,
                   [&](int64_t first, int texts, const Scratch &scratch) { finish_selected(pass, first, texts, scratch); });
    }
}

// Tokens of a group for so many threads.
int64_t group_tokens(int threads) { return least(kGroupTokens * threads, kMostTokens); }

// The texts from `text` on that go together: at most `most` tokens, but one text at least.
Group group_from(const Batch &batch, int64_t text, int64_t token, int64_t most) {
    Group group = {text, 0, token, 0, 0};
    for (; text < batch.texts; ++text) {
        const int length = batch.lengths[text];
        if (group.texts > 0 && group.tokens + length > most) break;
        ++group.texts;
        group.tokens += length;
        group.longest = greatest(group.longest, length);
    }
    return group;
}

}  // namespace

int run(const cls_model &model, Crew &crew, const Batch &batch, cls_output output, float *out) {
    Arena &arena = model.arenas[number_of(crew)];
    const int threads = model.team.threads;
    int result = CLS_OK;
    for (int64_t text = 0, token = 0; text < batch.texts && result == CLS_OK;) {
        const int64_t most = group_tokens(workers(crew)), left = batch.tokens - token;
        const int64_t groups = (left + most - 1) / most;
        const Group group = group_from(batch, text, token, (left + groups - 1) / groups);
        unsigned char *block = reserve(arena, bytes_for(model.spec, threads, group));
        if (block) {
            Carver carver(block);
            const Buffers buffers = lay_out(model.spec, threads, group, carver);
            run_group(Pass{model.spec, *model.kernels, crew, batch, group, buffers, output, out});
        } else {
            result = CLS_NO_MEMORY;
        }
        text += group.texts;
        token += group.tokens;
    }
    const int64_t tokens = greatest(kKeptTokens, group_tokens(threads));
    const Group kept = {0, tokens, 0, tokens, static_cast<int>(least<int64_t>(tokens, model.spec.max_length))};
    trim(arena, bytes_for(model.spec, threads, kept));
    return result;
}

}  // namespace cls
