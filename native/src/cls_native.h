/* The C interface of cls-export-native. Plain structures and functions; loaded with ctypes by cls_runtime/engines/native/.
 *
 * All pointers into weights stay the caller's and must outlive the model. The caller has checked every size
 * (cls_runtime/engines/native/weights_file.py); the library checks what comes with each run: token ids and lengths.
 */
#ifndef CLS_NATIVE_H
#define CLS_NATIVE_H

#include <stdint.h>

#ifdef _WIN32
#define CLS_API __declspec(dllexport)
#else
#define CLS_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

#define CLS_ABI 1 /* raised whenever a structure or the meaning of a field changes */

typedef enum {
    CLS_IDENTITY = 0,
    CLS_GELU = 1,        /* x * Phi(x), to float32's precision */
    CLS_GELU_COARSE = 2, /* the same to 2e-5 absolute, for values that are quantized next */
    CLS_GELU_TANH = 3,   /* the tanh approximation: gelu_new, gelu_fast, gelu_pytorch_tanh */
    CLS_RELU = 4,
    CLS_SILU = 5,
    CLS_TANH = 6,
    CLS_SIGMOID = 7
} cls_activation;

/* y[width] = x[depth] W + bias. Either `integers` and what belongs to them, or `floats`. */
typedef struct {
    int32_t depth;            /* inputs, a multiple of 64 */
    int32_t width;            /* outputs, a multiple of 64 */
    const int8_t *integers;   /* [width / 64][depth / 4][64][4] */
    const float *scales;      /* [width]: of each column of `integers` */
    const int32_t *sums;      /* [width]: of each column of `integers` */
    const float *smoothing;   /* [depth]: inputs are multiplied by it before they are quantized; NULL for ones */
    const float *floats;      /* [width / 64][depth][64] */
    const float *bias;        /* [width] */
} cls_product;

typedef struct {
    int32_t size;       /* numbers of a row that count; the rest of its padded width is zero before and after */
    float epsilon;
    const float *scale; /* gamma, padded; NULL where there is no norm */
    const float *shift; /* beta, padded */
} cls_norm;

/* Rotary positions: a head's first half x and second half y become x cos - y sin and y cos + x sin. Roformer's pairs are permuted so. */
typedef struct {
    const float *cosines; /* [positions][half], half = D / 2; NULL where nothing is rotated */
    const float *sines;
    int32_t half;
} cls_rotation;

typedef struct {
    int32_t vocabulary, types, positions; /* rows of the tables; 0 where there is none */
    int32_t half_words;          /* `words` is float16 */
    int32_t position_offset;     /* the row of the first token's position */
    int32_t position_padding_id; /* >= 0: RoBERTa's rule, tokens of this id count as no position and take the row of that number */
    const void *words;           /* [vocabulary][stride] */
    const float *token_types;    /* [types][stride] */
    const float *position_rows;  /* [positions][stride] */
    int32_t stride;              /* the padded width of a row */
    cls_norm norm;
    cls_product projection;      /* to the hidden size; no weights where there is none */
} cls_embeddings;

/* One layer. Post-norm: x = norm1(x + attention(x)); x = norm2(x + feed_forward(x)). Pre-norm: x = x + attention(norm1(x)); ...
 *
 * `query_key_value` gives [queries | keys | values], each A heads of `head_stride` padded to `attention_width`, the queries scaled already.
 * `key_by_head` and `value_by_head` are there in a last layer of which a row a text is needed, without rotation:
 * `query` [H -> attention_width], `key_by_head` [attention_width -> H] (row h * head_stride + d is W_k's column d of head h),
 * `value_by_head` [H -> attention_width].
 */
typedef struct {
    int32_t pre_norm;
    int32_t gated;              /* `up` gives [activated | multiplied] */
    int32_t window;             /* keys at most so far from the query are seen; 0 for all */
    cls_activation activation;
    cls_product query_key_value;
    cls_product query, key_by_head, value_by_head; /* no weights where the layer has all rows */
    cls_product attention_output;
    cls_product up, down;
    cls_norm attention_norm, feed_forward_norm;
    cls_rotation rotation;
    const float *distances;     /* [A][2 * max_length - 1, padded to 16]: added to a score by key - query + max_length - 1; NULL for none */
    int32_t distance_stride;
} cls_layer;

/* What makes an output of a row: products with their activations, one after another. */
typedef struct {
    int32_t steps;
    const cls_product *products; /* [steps] */
    const cls_activation *activations;
    const cls_norm *norms;       /* [steps]: after the activation; without scale where there is none */
} cls_head;

typedef enum { CLS_TOKENS = 0, CLS_SENTENCE = 1, CLS_POOLER = 2, CLS_LOGITS = 3 } cls_output;
#define CLS_OUTPUTS 4

typedef struct {
    int32_t hidden, hidden_stride; /* H, and padded to 64 */
    int32_t heads, head_stride;    /* A, and D padded to 16 */
    int32_t attention_width;       /* A * head_stride, padded to 64: the width of queries, of keys, of values and of their context */
    int32_t feed_forward_stride;   /* the depth of `down` */
    int32_t max_length;
    int32_t mean_pooled;           /* the sentence is the mean of its tokens' rows, not one row */
    int32_t one_row;               /* the last layer has the form for one row a text */
    cls_embeddings embeddings;
    int32_t layer_count;
    const cls_layer *layers;       /* layers may share weights */
    cls_norm final_norm;
    cls_head heads_of[CLS_OUTPUTS]; /* by cls_output; no steps where the row itself is the output */
    int32_t widths[CLS_OUTPUTS];    /* numbers of each output; 0 where the model has it not */
} cls_model_spec;

typedef struct {
    int32_t texts, tokens;
    const int32_t *input_ids;      /* [tokens], text after text */
    const int32_t *lengths;        /* [texts], at least 1 */
    const int32_t *token_type_ids; /* [tokens] or NULL */
    const int32_t *unpooled;       /* [texts] or NULL: first tokens of a text that are read and not pooled */
} cls_batch;

typedef struct cls_model cls_model;

enum { CLS_OK = 0, CLS_NO_MEMORY = 1, CLS_BAD_INPUT = 2, CLS_NO_KERNELS = 3, CLS_NO_THREADS = 4 };

CLS_API int32_t cls_abi(void);

/* The kernel families of this library, best first, separated by commas; those that this CPU runs; and of these the ones that were found to
 * differ from the portable ones, as "name: what differs" lines. The strings live as long as the library. The check runs once, at the first
 * call of `cls_usable_kernels`, `cls_differing_kernels` or `cls_open`. */
CLS_API const char *cls_all_kernels(void);
CLS_API const char *cls_usable_kernels(void);
CLS_API const char *cls_differing_kernels(void);

/* `kernels` is a name of `cls_usable_kernels`, or NULL for the best; `threads` is how many threads all runs together use at most. */
CLS_API int cls_open(const cls_model_spec *spec, const char *kernels, int32_t threads, cls_model **model);
CLS_API const char *cls_kernels_of(const cls_model *model);
/* Computes one output into `out`: float [texts][width], of CLS_TOKENS [tokens][width]. May be called from several threads at once; threads
 * that other calls do not use help. */
CLS_API int cls_run(cls_model *model, const cls_batch *batch, cls_output output, float *out);
/* Frees the threads and the working memory; no run may be under way. */
CLS_API void cls_close(cls_model *model);

#ifdef __cplusplus
}
#endif
#endif
