/* Decoding steps on the CPU: a few rows through matrices and past caches that are read once, as fast as memory
   gives them away.

   Products are y[m, o] = sum over i of x[m, i] * w[o, i].  Where w is FLOAT32 or BFLOAT16, all is computed in
   float32, every number of w in a register for some rows.  Where w is integers, x becomes integers of 16 bits with
   a unit for each step of numbers, which is a 32,767th of the largest of them, and where scales are float32,
   further ones for the rest; sums of a step are exact, and what follows is float32.

   The cheapest way to unpack a word's numbers is all words' first ones, then all second ones, and so on.  x is
   put into that order beforehand (`prepare`), so that nothing need be put back.

   Compiled by native.py, which describes what is called from outside.  Functions that begin with "team_" are
   called by all threads of a team; who uses what they wrote waits for the others first. */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#ifdef _OPENMP
#include <omp.h>
#endif

typedef float floats __attribute__((vector_size(32), aligned(4), may_alias));
typedef uint32_t words __attribute__((vector_size(32), aligned(4), may_alias));
typedef int32_t integers __attribute__((vector_size(32), aligned(4), may_alias));
typedef int16_t shorts __attribute__((vector_size(32), aligned(2), may_alias));
typedef uint16_t bits __attribute__((vector_size(32), aligned(2), may_alias));

#define WIDE 8    /* numbers of a vector */
#define OUT 4     /* rows of w that are worked on at once */
#define DIRECT 3  /* most rows of x whose sums have room in registers */
#define GROUP 32  /* numbers of INT4 that share a scale and a zero point */
#define MOST 4    /* rows of integers that share unpacked ones */
#define QUERIES 8 /* that go past a cache together */
#define INLINE static inline __attribute__((always_inline))

enum { FLOAT32, BFLOAT16, INT8, INT4 };

typedef struct {
    int64_t kind;
    const char *weight; /* (O, I) numbers, or (O, I / 8) words of eight four-bit ones, the first lowest */
    const void *scale;  /* INT8 (O,), INT4 (O, I / 32): bfloat16, or float32 with wide_scale */
    int64_t wide_scale;
    const uint32_t *zero;    /* INT4 (O / 8, I / 32) words of eight zero points */
    int64_t outputs, inputs; /* multiples of OUT and of step(kind), INT4 of GROUP */
} matrix;

INLINE int step(int kind) { return kind == FLOAT32 ? 8 : kind == BFLOAT16 ? 16 : kind == INT8 ? 32 : 64; }

INLINE int64_t bytes(int kind, int64_t numbers) {
    return kind == FLOAT32    ? 4 * numbers
           : kind == BFLOAT16 ? 2 * numbers
           : kind == INT8     ? numbers
                              : numbers / 2;
}

/* Where number i of a step belongs. */
INLINE int place(int kind, int i) {
    int each = step(kind) / WIDE;
    return i % each * WIDE + i / each;
}

INLINE float from_bfloat16(uint16_t value) {
    uint32_t word = (uint32_t)value << 16;
    float out;
    memcpy(&out, &word, 4);
    return out;
}

INLINE uint16_t to_bfloat16(float value) {
    uint32_t word;
    memcpy(&word, &value, 4);
    if ((word & 0x7fffffff) > 0x7f800000) return 0x7fc0; /* not a number */
    return (uint16_t)((word + 0x7fff + (word >> 16 & 1)) >> 16);
}

/* Number i of FLOAT32 or BFLOAT16 ones. */
INLINE float get(int kind, const void *from, int64_t i) {
    return kind == FLOAT32 ? ((const float *)from)[i] : from_bfloat16(((const uint16_t *)from)[i]);
}

INLINE void put(int kind, void *to, int64_t i, float value) {
    if (kind == FLOAT32) ((float *)to)[i] = value;
    else ((uint16_t *)to)[i] = to_bfloat16(value);
}

INLINE float scale_at(const matrix *w, int64_t i) {
    return get(w->wide_scale ? FLOAT32 : BFLOAT16, w->scale, i);
}

/* Vector k of a step of FLOAT32 or BFLOAT16 numbers at `from`. */
INLINE floats unpack(int kind, const char *from, int k) {
    if (kind == FLOAT32) return *(const floats *)from;
    words packed = *(const words *)from;
    return k ? (floats)(packed & 0xffff0000u) : (floats)(packed << 16);
}

INLINE float sum(floats values) {
    typedef float half __attribute__((vector_size(16)));
    half four = (half){values[0], values[1], values[2], values[3]} +
                (half){values[4], values[5], values[6], values[7]};
    return (four[0] + four[2]) + (four[1] + four[3]);
}

/* ---- products ---- */

/* A row of floats in the order of the weights. */
INLINE void prepare_as(const int kind, const int from, const void *x, int64_t inputs, float *out) {
    for (int64_t i = 0; i < inputs; i += step(kind))
#pragma GCC unroll 16
        for (int k = 0; k < step(kind); k++) out[i + place(kind, k)] = get(from, x, i + k);
}

static void prepare(int kind, int from, const void *x, int64_t inputs, float *out) {
    if (kind == FLOAT32 && from == FLOAT32) prepare_as(FLOAT32, FLOAT32, x, inputs, out);
    if (kind == FLOAT32 && from == BFLOAT16) prepare_as(FLOAT32, BFLOAT16, x, inputs, out);
    if (kind == BFLOAT16 && from == FLOAT32) prepare_as(BFLOAT16, FLOAT32, x, inputs, out);
    if (kind == BFLOAT16 && from == BFLOAT16) prepare_as(BFLOAT16, BFLOAT16, x, inputs, out);
}

/* A row of integers has whole steps: of INT4 the last one may be half of nothing. */
INLINE int64_t whole_steps(int64_t inputs) { return (inputs + 63) / 64 * 64; }

/* What `prepare_for` makes of a row for integers: 16-bit integers, each step's in the order of the weights' ones; what
   one of a step's stands for; and of INT4 the negative sum of each group, and WIDE of them at least. */
INLINE const shorts *integers_of(const float *x) { return (const shorts *)x; }
INLINE float *units_of(const float *x, int64_t inputs) { return (float *)x + whole_steps(inputs) / 2; }
INLINE float *groups_of(const float *x, int64_t inputs) {
    return units_of(x, inputs) + whole_steps(inputs) / 64;
}

/* Floats from there on to the same for the rest of each number; and floats that `prepare_for` writes at most. */
INLINE int64_t rest(int64_t inputs) { return whole_steps(inputs) / 2 + whole_steps(inputs) / 16 + WIDE; }
INLINE int64_t room(int64_t inputs) { return 2 * rest(inputs); }

/* A step's whole numbers, at most 32,767 in size, to integers. */
INLINE void put_step(const int kind, const int32_t *whole, float unit, int64_t s, int64_t inputs,
                     float *out) {
    int16_t *to = (int16_t *)out + s * step(kind);
#pragma GCC unroll 64
    for (int k = 0; k < step(kind); k++)
        to[kind == INT8 ? k % 2 * 16 + k / 2 : k % 4 * 16 + k / 4] = (int16_t)whole[k];
    units_of(out, inputs)[s] = unit;
    for (int g = 0; kind == INT4 && g < 2; g++) {
        int32_t all = 0;
        for (int k = 0; k < GROUP; k++) all += whole[g * GROUP + k];
        groups_of(out, inputs)[2 * s + g] = -unit * all;
    }
}

INLINE void prepare_integers(const int kind, const int fine, const int from, const void *x, int64_t inputs,
                             float *out) {
    const int32_t infinite = 0x7f800000,
                  magic = 0x4b400000; /* 1.5 * 2^23, to which whole numbers are added */
    for (int64_t s = 0; s * step(kind) < inputs; s++) {
        float own[64] = {0}, moved[64], largest;
        int32_t whole[64], most = 0;
        int many = inputs - s * step(kind) < step(kind) ? GROUP : step(kind);
        for (int k = 0; k < many; k++) own[k] = get(from, x, s * step(kind) + k);
        memcpy(whole, own, sizeof whole);
        /* without their signs, floats are in the order of their bits */
        for (int k = 0; k < step(kind); k++) {
            int32_t size = whole[k] & INT32_MAX;
            most = size > most ? size : most;
        }
        memcpy(&largest, &most, sizeof most);
        float unit = most >= infinite ? NAN : largest / 32767;
        float by = most < infinite && largest > 1e-30f ? 32767 / largest : 0;
        for (int k = 0; k < step(kind); k++) own[k] *= by, moved[k] = own[k] + 0x1.8p23f;
        memcpy(whole, moved, sizeof whole);
        for (int k = 0; k < step(kind); k++) whole[k] -= magic;
        put_step(kind, whole, unit, s, inputs, out);
        if (!fine) continue;
        for (int k = 0; k < step(kind); k++)
            moved[k] = (own[k] - (moved[k] - 0x1.8p23f)) * 0x1p15f + 0x1.8p23f; /* a half at most, so 2^14 */
        memcpy(whole, moved, sizeof whole);
        for (int k = 0; k < step(kind); k++) whole[k] -= magic;
        put_step(kind, whole, unit * 0x1p-15f, s, inputs, out + rest(inputs));
    }
    for (int64_t g = whole_steps(inputs) / GROUP; kind == INT4 && g % WIDE; g++)
        groups_of(out, inputs)[g] = groups_of(out + rest(inputs), inputs)[g] = 0;
}

/* A row for products with a matrix. */
static void prepare_for(const matrix *w, int from, const void *x, float *out) {
    int64_t I = w->inputs;
    if (w->kind == INT8 && from == FLOAT32) prepare_integers(INT8, w->wide_scale, FLOAT32, x, I, out);
    else if (w->kind == INT8) prepare_integers(INT8, w->wide_scale, BFLOAT16, x, I, out);
    else if (w->kind == INT4 && from == FLOAT32) prepare_integers(INT4, w->wide_scale, FLOAT32, x, I, out);
    else if (w->kind == INT4) prepare_integers(INT4, w->wide_scale, BFLOAT16, x, I, out);
    else prepare((int)w->kind, from, x, I, out);
}

/* WIDE numbers of M rows from i on, times those of OUT rows of w: vector k of what is at `from`. */
INLINE void direct_step(const int kind, const int M, const char *const *from, int64_t at, int k,
                        const float *const *x, int64_t i, floats (*total)[OUT]) {
    floats own[DIRECT];
    for (int m = 0; m < M; m++) own[m] = *(const floats *)(x[m] + i);
    for (int r = 0; r < OUT; r++) {
        floats value = unpack(kind, from[r] + at, k);
        for (int m = 0; m < M; m++) total[m][r] += value * own[m];
    }
}

/* M rows times OUT rows of w from o on, to sums[M][OUT]. */
INLINE void direct(const int kind, const int M, const matrix *w, int64_t o, const float *const *x,
                   float *sums) {
    const char *from[OUT];
    floats total[DIRECT][OUT];
    int64_t i = 0;
    for (int r = 0; r < OUT; r++) from[r] = w->weight + bytes(kind, (o + r) * w->inputs);
    for (int m = 0; m < M; m++)
        for (int r = 0; r < OUT; r++) total[m][r] = (floats){0};
    for (; i + 2 * WIDE <= w->inputs; i += 2 * WIDE) {
        for (int r = 0; r < OUT; r++) /* the processor's own stops at pages */
            __builtin_prefetch(from[r] + bytes(kind, i + OUT * w->inputs));
        direct_step(kind, M, from, bytes(kind, i), 0, x, i, total);
        int64_t at = bytes(kind, kind == FLOAT32 ? i + WIDE : i);
        direct_step(kind, M, from, at, 1, x, i + WIDE, total);
    }
    if (i < w->inputs) direct_step(kind, M, from, bytes(kind, i), 0, x, i, total); /* of FLOAT32 */
    for (int m = 0; m < M; m++)
        for (int r = 0; r < OUT; r++) sums[m * OUT + r] = sum(total[m][r]);
}

INLINE void product_as(const int kind, const matrix *w, int64_t o, const float *const *x, int64_t rows,
                       float *sums) {
    for (int64_t m = 0; m < rows; m += DIRECT) {
        if (rows - m >= 3) direct(kind, 3, w, o, x + m, sums + m * OUT);
        if (rows - m == 2) direct(kind, 2, w, o, x + m, sums + m * OUT);
        if (rows - m == 1) direct(kind, 1, w, o, x + m, sums + m * OUT);
    }
}

/* Products of the numbers of each pair, added. */
INLINE integers pairs(shorts a, shorts b) {
#ifdef __AVX2__
    typedef short own __attribute__((vector_size(32)));
    return (integers)__builtin_ia32_pmaddwd256((own)a, (own)b);
#else
    integers x = (integers)a, y = (integers)b;
    return (x << 16 >> 16) * (y << 16 >> 16) + (x >> 16) * (y >> 16);
#endif
}

/* WIDE groups of a row of INT4, or as many as there are: their scales, and the scales times the zero points. */
INLINE void scales_of(const matrix *w, int64_t o, int64_t i, floats *scale, floats *shift) {
    int64_t at = (o * w->inputs + i) / GROUP, many = (w->inputs - i) / GROUP;
    int64_t each = w->wide_scale ? 4 : 2;
    const char *from = (const char *)w->scale + at * each;
    const uint32_t *zero = w->zero + o / 8 * (w->inputs / GROUP) + i / GROUP;
    char scales[32] = {0};
    uint32_t zeros[WIDE] = {0};
    if (many < WIDE) {
        memcpy(scales, from, many * each), memcpy(zeros, zero, many * sizeof *zero);
        from = scales, zero = zeros;
    }
    if (w->wide_scale) *scale = *(const floats *)from;
    else {
        typedef uint16_t halves __attribute__((vector_size(16), aligned(2), may_alias));
        *scale = (floats)(__builtin_convertvector(*(const halves *)from, words) << 16);
    }
    *shift =
        *scale * __builtin_convertvector((integers)(*(const words *)zero >> (int)(4 * (o % 8)) & 15), floats);
}

/* A step of a row of w, whose integers are at `from`, times step s of M rows, added to total[M]. */
INLINE void integral_step(const int kind, const int M, const char *from, int64_t s, const float *const *x,
                          int64_t inputs, floats scale, floats *total) {
    shorts value[4];
    bits packed = *(const bits *)from;
    if (kind == INT8) value[0] = (shorts)(packed << 8) >> 8, value[1] = (shorts)packed >> 8;
    else {
        value[0] = (shorts)(packed & 15), value[1] = (shorts)(packed >> 4 & 15);
        value[2] = (shorts)(packed >> 8 & 15), value[3] = (shorts)(packed >> 12);
    }
    for (int m = 0; m < M; m++) {
        const shorts *own = integers_of(x[m]) + (kind == INT8 ? 2 : 4) * s;
        integers part = pairs(value[0], own[0]) + pairs(value[1], own[1]);
        if (kind == INT4) part += pairs(value[2], own[2]) + pairs(value[3], own[3]);
        floats all = __builtin_convertvector(part, floats) * units_of(x[m], inputs)[s];
        if (kind == INT4) all *= scale;
        total[m] += all;
    }
}

/* M rows of integers times row o of w, to sums[m]; of INT8 without its scale. */
INLINE void integral(const int kind, const int M, const matrix *w, int64_t o, const float *const *x,
                     float *sums) {
    const char *from = w->weight + bytes(kind, o * w->inputs);
    const int each = WIDE * GROUP / step(kind); /* steps of as many groups as a vector has scales of */
    int64_t steps = w->inputs / step(kind);
    floats total[MOST], scale = {0}, shift;
    for (int m = 0; m < M; m++) total[m] = (floats){0};
    for (int64_t s = 0; s * step(kind) < w->inputs; s += each) {
        if (kind == INT4) {
            scales_of(w, o, s * step(kind), &scale, &shift);
            for (int m = 0; m < M; m++)
                total[m] += shift * *(const floats *)(groups_of(x[m], w->inputs) + 2 * s);
        }
        words two = {0, 0, 0, 0, 1, 1, 1, 1}; /* groups of a step */
        if (s + each <= steps) {
#pragma GCC unroll 8
            for (int k = 0; k < each; k++) {
                __builtin_prefetch(from + 32 * (s + k) + 1024); /* the processor's own stops at pages */
                integral_step(kind, M, from + 32 * (s + k), s + k, x, w->inputs,
                              __builtin_shuffle(scale, two + 2 * k), total);
            }
            continue;
        }
        int k = 0;
        for (; k < steps - s; k++)
            integral_step(kind, M, from + 32 * (s + k), s + k, x, w->inputs,
                          __builtin_shuffle(scale, two + 2 * k), total);
        if (steps * step(kind) < w->inputs) { /* what is behind it is not of this row */
            char half[32] = {0};
            memcpy(half, from + 32 * steps, 16);
            integral_step(kind, M, half, steps, x, w->inputs, __builtin_shuffle(scale, two + 2 * k), total);
        }
    }
    for (int m = 0; m < M; m++) sums[m] = sum(total[m]);
}

INLINE void integral_as(const int kind, const matrix *w, int64_t o, const float *const *x, int64_t rows,
                        float *sums) {
    int each = w->wide_scale ? MOST / 2 : MOST;
    for (int64_t m = 0; m < rows; m += each) {
        int many = rows - m < each ? (int)(rows - m) : each;
        const float *own[MOST] = {NULL};
        for (int i = 0; i < many; i++) own[i] = x[m + i];
        for (int i = 0; w->wide_scale && i < many; i++) own[many + i] = x[m + i] + rest(w->inputs);
        int all = w->wide_scale ? 2 * many : many;
        for (int r = 0; r < OUT; r++) {
            float parts[MOST] = {0}, by = kind == INT8 ? scale_at(w, o + r) : 1;
            if (all == 4) integral(kind, 4, w, o + r, own, parts);
            if (all == 3) integral(kind, 3, w, o + r, own, parts);
            if (all == 2) integral(kind, 2, w, o + r, own, parts);
            if (all == 1) integral(kind, 1, w, o + r, own, parts);
            for (int i = 0; i < many; i++)
                sums[(m + i) * OUT + r] = (w->wide_scale ? parts[i] + parts[many + i] : parts[i]) * by;
        }
    }
}

/* Prepared rows times OUT rows of w from o on, to sums[rows][OUT]. */
static void product(const matrix *w, int64_t o, const float *const *x, int64_t rows, float *sums) {
    if (w->kind == FLOAT32) product_as(FLOAT32, w, o, x, rows, sums);
    if (w->kind == BFLOAT16) product_as(BFLOAT16, w, o, x, rows, sums);
    if (w->kind == INT8) integral_as(INT8, w, o, x, rows, sums);
    if (w->kind == INT4) integral_as(INT4, w, o, x, rows, sums);
}

/* ---- attention ---- */

/* e to the power of each, which is at most 0, within 2e-7 of it; 0 below -87.  Cephes' polynomial on
   [-ln 2 / 2, ln 2 / 2]. */
INLINE floats exponential(floats x) {
    integers kept = x > -87.0f;
    x = (floats)((integers)x & kept);
    floats times = x * 1.44269504f + 0x1.8p23f - 0x1.8p23f; /* rounds to whole numbers */
    floats r = x - times * 0.693359375f + times * 2.12194440e-4f;
    floats e = r * 1.9875691500e-4f + 1.3981999507e-3f;
    e = e * r + 8.3334519073e-3f;
    e = e * r + 4.1665795894e-2f;
    e = e * r + 1.6666665459e-1f;
    e = e * r + 5.0000001201e-1f;
    e = e * r * r + r + 1.0f;
    e *= (floats)((__builtin_convertvector(times, integers) + 127) << 23);
    return (floats)((integers)e & kept);
}

/* Scores to shares; n is a multiple of WIDE, and what is to be left out is -INFINITY. */
INLINE void softmax(float *scores, int64_t n) {
    float most = -INFINITY;
    for (int64_t s = 0; s < n; s++) most = scores[s] > most ? scores[s] : most;
    floats total = {0};
    for (int64_t s = 0; s < n; s += WIDE) {
        floats value = exponential(*(floats *)(scores + s) - most);
        *(floats *)(scores + s) = value;
        total += value;
    }
    float part = 1 / sum(total);
    for (int64_t s = 0; s < n; s += WIDE) *(floats *)(scores + s) *= part;
}

/* What n queries look at: a row's vectors, `stride` bytes apart. */
typedef struct {
    const char *first;
    int64_t stride, width;
} memory;

INLINE memory from_slot(const memory *of, int64_t slot) {
    return (memory){of->first + slot * of->stride, of->stride, of->width};
}

/* Prepared queries times each vector, added to scores[n][padded]. */
INLINE void looks(const int kind, const int n, const memory *at, int64_t slots, const float *const *q,
                  float *scores, int64_t padded) {
    for (int64_t s = 0; s < slots; s++) {
        const char *key = at->first + s * at->stride;
        floats total[QUERIES];
        for (int m = 0; m < n; m++) total[m] = (floats){0};
        for (int64_t i = 0; i < at->width; i += step(kind))
#pragma GCC unroll 2
            for (int k = 0; k < step(kind) / WIDE; k++) {
                floats value = unpack(kind, key + bytes(kind, i), k);
                for (int m = 0; m < n; m++) total[m] += value * *(const floats *)(q[m] + i + WIDE * k);
            }
        for (int m = 0; m < n; m++) scores[m * padded + s] += sum(total[m]);
    }
}

/* Vectors weighted with shares[n][padded], to out[n], in the order of the kind. */
INLINE void mixes(const int kind, const int n, const memory *at, int64_t slots, const float *shares,
                  int64_t padded, float *const *out) {
    for (int m = 0; m < n; m++) memset(out[m], 0, at->width * sizeof *out[m]);
    for (int64_t s = 0; s < slots; s++) {
        const char *value = at->first + s * at->stride;
        for (int64_t i = 0; i < at->width; i += step(kind))
#pragma GCC unroll 2
            for (int k = 0; k < step(kind) / WIDE; k++) {
                floats part = unpack(kind, value + bytes(kind, i), k);
                for (int m = 0; m < n; m++)
                    *(floats *)(out[m] + i + WIDE * k) += part * shares[m * padded + s];
            }
    }
}

#define FOR_KIND_AND_QUERIES(WHAT, ...)                               \
    do {                                                              \
        if (kind == FLOAT32 && n == 1) WHAT(FLOAT32, 1, __VA_ARGS__); \
        else if (kind == FLOAT32) WHAT(FLOAT32, n, __VA_ARGS__);      \
        else if (n == 1) WHAT(BFLOAT16, 1, __VA_ARGS__);              \
        else if (n == QUERIES) WHAT(BFLOAT16, QUERIES, __VA_ARGS__);  \
        else WHAT(BFLOAT16, n, __VA_ARGS__);                          \
    } while (0)

/* Which slots the tokens of a row may look at: 0 where not; none given, all. */
typedef struct {
    const uint8_t *first;
    int64_t row, token;
} visibility;

/* Softmax attention of n prepared, scaled queries: to `out`, in the order of the kind.  `tokens[m]` is each one's
   in its row; a second memory of keys, if there is one, adds to the scores.  Slots on
   the left that nobody looks at cost nothing, and change nothing in what is summed up in which order. */
static void attend(int kind, int n, const float *const *q, const memory *keys, const float *const *q2,
                   const memory *keys2, const memory *values, int64_t slots, const visibility *seen,
                   int64_t row, const int64_t *tokens, float *scores, float *const *out) {
    const uint8_t *own[QUERIES];
    int64_t before = seen->first ? slots : 0; /* slots that none of them looks at: padding on the left */
    for (int m = 0; m < n && seen->first; m++) {
        own[m] = seen->first + row * seen->row + tokens[m] * seen->token;
        int64_t s = 0;
        while (s < before && !own[m][s]) s++;
        before = s;
    }
    memory near = from_slot(keys, before), far = q2 ? from_slot(keys2, before) : near,
           mixed = from_slot(values, before);
    slots -= before;
    int64_t padded = (slots + WIDE - 1) / WIDE * WIDE;
    for (int m = 0; m < n; m++) {
        memset(scores + m * padded, 0, slots * sizeof *scores);
        for (int64_t s = slots; s < padded; s++) scores[m * padded + s] = -INFINITY;
    }
    FOR_KIND_AND_QUERIES(looks, &near, slots, q, scores, padded);
    if (q2) FOR_KIND_AND_QUERIES(looks, &far, slots, q2, scores, padded);
    for (int m = 0; m < n; m++) {
        for (int64_t s = 0; s < slots && seen->first; s++)
            if (!own[m][before + s]) scores[m * padded + s] = -INFINITY;
        softmax(scores + m * padded, padded);
    }
    FOR_KIND_AND_QUERIES(mixes, &mixed, slots, scores, padded, out);
}

/* ---- layers ---- */

typedef struct {
    int64_t latent;              /* MLA rather than grouped queries */
    const void *norm, *norm_ffn; /* weights (D,) */
    matrix q_first, q, k, v, o;  /* MLA: q_first is q_a_proj or of no outputs, k is kv_a_proj_with_mqa */
    const void *q_norm, *k_norm; /* MLA: weights of the latents' norms */
    matrix expand;               /* MLA: kv_b_proj, FLOAT32 or BFLOAT16 */
    matrix gate, up, down;       /* of the dense feed-forward or the shared experts; of no outputs: none */
    matrix router;               /* of no outputs: no mixture */
    const float *bias;           /* (E,) that steers the choice, or NULL */
    const matrix *gates, *ups, *downs; /* (E,) */
} layer;

typedef struct {
    int64_t kind; /* of x, norms' weights and caches: FLOAT32 or BFLOAT16 */
    int64_t width, heads, groups, head, nope, rope, value, rank; /* D, H, G, C; and MLA's N, P, V, L */
    double eps, latent_eps, scale, latent_scale;
    int64_t experts, active, expert_groups, active_groups, sigmoid, normalise;
    double routed_scale;
    int64_t layers;
} settings;

typedef struct {
    const void *x;                         /* (B, T, D) */
    void *out;                             /* (B, T, D), after the final norm */
    const void *norm;                      /* the final one's weights */
    int64_t rows, tokens, start, capacity; /* B, T, slots in use before, and in all */
    const float *cosines[2], *sines[2];    /* of grouped queries (B, T, C / 2) and of MLA (B, T, P / 2) */
    int64_t angle_row;                     /* T, or 0 where all rows have the same angles */
    visibility seen;
    void *const *caches; /* two of each layer */
} call;

/* One thread's memory, and what all share. */
typedef struct {
    const settings *set;
    const call *now;
    int64_t n, padded;
    float *x, *q, *kv, *mixed, *hidden,
        *logits; /* shared: (n, D), (n, H * C), (n, all), (n, H * V), (pairs, F) */
    float *normed, *ordered, *scores, *sums, *latents; /* own */
    const float **pointers;                            /* own, to prepared rows */
    int64_t *chosen;                                   /* own (n, K) experts */
    float *weights;                                    /* own (n, K) */
    int64_t *counts;                                   /* own: where each expert's pairs begin in `pairs` */
    int64_t *pairs;                                    /* own (n * K) */
} team;

/* Root-mean-square norm of a row. */
INLINE void norm(int kind, const float *x, const void *weight, int64_t width, float eps, float *out) {
    floats squares = {0};
    for (int64_t i = 0; i < width; i += WIDE) squares += *(const floats *)(x + i) * *(const floats *)(x + i);
    float by = 1 / sqrtf(sum(squares) / width + eps);
    for (int64_t i = 0; i < width; i++) out[i] = x[i] * by * get(kind, weight, i);
}

/* Prepares n rows, `stride` floats apart, for w; the pointers to them. */
static const float *const *ready(team *t, const matrix *w, const float *x, int64_t stride, int64_t n) {
    for (int64_t m = 0; m < n; m++) {
        float *own = t->ordered + m * room(w->inputs);
        prepare_for(w, FLOAT32, x + m * stride, own);
        t->pointers[m] = own;
    }
    return t->pointers;
}

/* All rows through w, to or added to out, whose rows are `stride` floats apart. */
static void team_linear(team *t, const matrix *w, const float *const *x, float *out, int64_t stride,
                        int add) {
#pragma omp for schedule(dynamic, 16) nowait
    for (int64_t o = 0; o < w->outputs; o += OUT) {
        product(w, o, x, t->n, t->sums);
        for (int64_t m = 0; m < t->n; m++)
            for (int r = 0; r < OUT; r++) {
                float *to = out + m * stride + o + r;
                *to = t->sums[m * OUT + r] + (add ? *to : 0);
            }
    }
}

/* Llama's rotation: channel i with channel i + width / 2. */
INLINE void rotate_halves(float *x, const float *cosines, const float *sines, int64_t width) {
    for (int64_t i = 0, j = width / 2; i < width / 2; i++, j++) {
        float first = x[i], second = x[j];
        x[i] = first * cosines[i] - second * sines[i];
        x[j] = second * cosines[i] + first * sines[i];
    }
}

/* DeepSeek's: channel 2i with channel 2i + 1, the first ones of all pairs before the second ones. */
INLINE void rotate_pairs(float *x, const float *cosines, const float *sines, int64_t width) {
    float pair[width];
    memcpy(pair, x, width * sizeof *x);
    for (int64_t i = 0, j = width / 2; i < width / 2; i++, j++) {
        x[i] = pair[2 * i] * cosines[i] - pair[2 * i + 1] * sines[i];
        x[j] = pair[2 * i + 1] * cosines[i] + pair[2 * i] * sines[i];
    }
}

INLINE void store(int kind, const float *from, int64_t width, void *to, int64_t at) {
    for (int64_t i = 0; i < width; i++) put(kind, to, at + i, from[i]);
}

/* Grouped queries of a row's group. */
static void grouped(team *t, int64_t index, int64_t row, int64_t g, int64_t first, int n) {
    const settings *set = t->set;
    const call *now = t->now;
    int64_t C = set->head, shared = set->heads / set->groups;
    const float *q[QUERIES];
    float *out[QUERIES];
    int64_t tokens[QUERIES];
    for (int m = 0; m < n; m++) {
        int64_t head = g * shared + (first + m) / now->tokens;
        tokens[m] = (first + m) % now->tokens;
        float *own = t->latents + m * C,
              *from = t->q + ((row * now->tokens + tokens[m]) * set->heads + head) * C;
        for (int64_t i = 0; i < C; i++) from[i] *= (float)set->scale;
        prepare(set->kind, FLOAT32, from, C, own);
        q[m] = own;
        out[m] = t->latents + (QUERIES + m) * C;
    }
    int64_t at = bytes(set->kind, (row * set->groups + g) * now->capacity * C);
    memory keys = {(const char *)now->caches[2 * index] + at, bytes(set->kind, C), C};
    memory values = {(const char *)now->caches[2 * index + 1] + at, bytes(set->kind, C), C};
    attend(set->kind, n, q, &keys, NULL, NULL, &values, now->start + now->tokens, &now->seen, row, tokens,
           t->scores, out);
    for (int m = 0; m < n; m++) {
        int64_t head = g * shared + (first + m) / now->tokens;
        float *to = t->mixed + ((row * now->tokens + tokens[m]) * set->heads + head) * C;
        for (int64_t i = 0; i < C; i += step(set->kind))
            for (int k = 0; k < step(set->kind); k++) to[i + k] = out[m][i + place(set->kind, k)];
    }
}

/* Queries first to first + n of a row's heads times tokens, in the absorbed form of MLA: the expansion of keys is
   applied to the query, that of values to the result. */
static void absorbed(team *t, const layer *l, int64_t index, int64_t row, int64_t first, int n) {
    const settings *set = t->set;
    const call *now = t->now;
    int kind = set->kind, expand = l->expand.kind;
    int64_t N = set->nope, P = set->rope, V = set->value, L = set->rank, each = L + P;
    const float *q[QUERIES], *q2[QUERIES];
    float *out[QUERIES], plain[L];
    int64_t tokens[QUERIES];
    for (int m = 0; m < n; m++) {
        int64_t head = (first + m) / now->tokens;
        tokens[m] = (first + m) % now->tokens;
        float *from = t->q + ((row * now->tokens + tokens[m]) * set->heads + head) * (N + P),
              *own = t->latents + m * each;
        for (int64_t i = 0; i < N + P; i++) from[i] *= (float)set->latent_scale;
        const char *to_k = l->expand.weight + bytes(expand, head * (N + V) * L);
        memory rows = {to_k, bytes(expand, L), L};
        float *sum_up[1] = {own};
        if (expand == FLOAT32) mixes(FLOAT32, 1, &rows, N, from, N, sum_up);
        else mixes(BFLOAT16, 1, &rows, N, from, N, sum_up);
        for (int64_t i = 0; i < L; i += step(expand))
            for (int k = 0; k < step(expand); k++) plain[i + k] = own[i + place(expand, k)];
        prepare(kind, FLOAT32, plain, L, own);
        prepare(kind, FLOAT32, from + N, P, own + L);
        q[m] = own, q2[m] = own + L, out[m] = t->latents + (QUERIES + m) * each;
    }
    memory latents = {(const char *)now->caches[2 * index] + bytes(kind, row * now->capacity * L),
                      bytes(kind, L), L};
    memory ropes = {(const char *)now->caches[2 * index + 1] + bytes(kind, row * now->capacity * P),
                    bytes(kind, P), P};
    attend(kind, n, q, &latents, q2, &ropes, &latents, now->start + now->tokens, &now->seen, row, tokens,
           t->scores, out);
    for (int m = 0; m < n; m++) {
        int64_t head = (first + m) / now->tokens;
        for (int64_t i = 0; i < L; i += step(kind))
            for (int k = 0; k < step(kind); k++) plain[i + k] = out[m][i + place(kind, k)];
        float *own = t->latents + m * each, sums[OUT];
        prepare(expand, FLOAT32, plain, L, own);
        const float *rows[1] = {own};
        float *to = t->mixed + ((row * now->tokens + tokens[m]) * set->heads + head) * V;
        for (int64_t o = 0; o < V; o += OUT) {
            product(&l->expand, head * (N + V) + N + o, rows, 1, sums);
            memcpy(to + o, sums, sizeof sums);
        }
    }
}

static void team_attention(team *t, const layer *l, int64_t index) {
    const settings *set = t->set;
    const call *now = t->now;
    int64_t D = set->width, H = set->heads, n = t->n, T = now->tokens;
    int64_t wide_q = H * (l->latent ? set->nope + set->rope : set->head),
            wide_kv = l->k.outputs + l->v.outputs;
    for (int64_t m = 0; m < n; m++) norm(set->kind, t->x + m * D, l->norm, D, set->eps, t->normed + m * D);
    if (l->q_first.outputs) {
        int64_t R = l->q_first.outputs; /* (n, R) stands in `mixed` until attention is done */
        const float *const *x = ready(t, &l->q_first, t->normed, D, n);
        team_linear(t, &l->q_first, x, t->mixed, R, 0);
        team_linear(t, &l->k, x, t->kv, wide_kv, 0);
#pragma omp barrier
        for (int64_t m = 0; m < n; m++)
            norm(set->kind, t->mixed + m * R, l->q_norm, R, set->latent_eps, t->normed + m * R);
        team_linear(t, &l->q, ready(t, &l->q, t->normed, R, n), t->q, wide_q, 0);
    } else {
        const float *const *x = ready(t, &l->q, t->normed, D, n); /* all of a kind */
        team_linear(t, &l->q, x, t->q, wide_q, 0);
        team_linear(t, &l->k, x, t->kv, wide_kv, 0);
        if (l->v.outputs) team_linear(t, &l->v, x, t->kv + l->k.outputs, wide_kv, 0);
    }
#pragma omp barrier
#pragma omp for
    for (int64_t m = 0; m < n; m++) {
        int64_t row = m / T, token = m % T, slot = now->start + token;
        float *kv = t->kv + m * wide_kv, *q = t->q + m * wide_q;
        void *one = now->caches[2 * index], *other = now->caches[2 * index + 1];
        int64_t half = (l->latent ? set->rope : set->head) / 2;
        const float *cosines = now->cosines[l->latent] + row * now->angle_row * half + token * half;
        const float *sines = now->sines[l->latent] + row * now->angle_row * half + token * half;
        if (l->latent) {
            int64_t L = set->rank, P = set->rope, N = set->nope;
            norm(set->kind, kv, l->k_norm, L, set->latent_eps, kv);
            rotate_pairs(kv + L, cosines, sines, P);
            store(set->kind, kv, L, one, (row * now->capacity + slot) * L);
            store(set->kind, kv + L, P, other, (row * now->capacity + slot) * P);
            for (int64_t h = 0; h < H; h++) rotate_pairs(q + h * (N + P) + N, cosines, sines, P);
        } else {
            int64_t C = set->head;
            for (int64_t h = 0; h < H; h++) rotate_halves(q + h * C, cosines, sines, C);
            for (int64_t g = 0; g < set->groups; g++) {
                int64_t at = ((row * set->groups + g) * now->capacity + slot) * C;
                rotate_halves(kv + g * C, cosines, sines, C);
                store(set->kind, kv + g * C, C, one, at);
                store(set->kind, kv + l->k.outputs + g * C, C, other, at);
            }
        }
    }
    int64_t groups = l->latent ? 1 : set->groups, each = H / groups * T,
            pieces = (each + QUERIES - 1) / QUERIES;
#pragma omp for schedule(dynamic)
    for (int64_t piece = 0; piece < now->rows * groups * pieces; piece++) {
        int64_t first = piece % pieces * QUERIES, row = piece / pieces / groups;
        int many = each - first < QUERIES ? (int)(each - first) : QUERIES;
        if (l->latent) absorbed(t, l, index, row, first, many);
        else grouped(t, index, row, piece / pieces % groups, first, many);
    }
    int64_t wide = H * (l->latent ? set->value : set->head);
    team_linear(t, &l->o, ready(t, &l->o, t->mixed, wide, n), t->x, D, 1);
#pragma omp barrier
}

/* SiLU of OUT gates, times what they let through. */
INLINE void swiglu(const float *gate, const float *up, float *to) {
    floats g = {0}, u = {0};
    memcpy(&g, gate, OUT * sizeof *gate);
    memcpy(&u, up, OUT * sizeof *up);
    floats small = exponential((floats)((integers)g | INT32_MIN)); /* of -|g| */
    integers negative = g < 0.0f;
    floats part = (floats)(((integers)small & negative) | ((integers)((floats){0} + 1.0f) & ~negative));
    g = g * part / (1.0f + small) * u;
    memcpy(to, &g, OUT * sizeof *to);
}

/* OUT outputs of the hidden layer of a feed-forward for some rows; row m's are to[m]. */
INLINE void hidden(team *t, const matrix *gate, const matrix *up, int64_t o, const float *const *x,
                   int64_t rows, float *const *to) {
    float *other = t->sums + rows * OUT;
    product(gate, o, x, rows, t->sums);
    product(up, o, x, rows, other);
    for (int64_t m = 0; m < rows; m++) swiglu(t->sums + m * OUT, other + m * OUT, to[m] + o);
}

/* The K best of `count`, -INFINITY left out, by value; of equal ones the first. */
INLINE void best(const float *values, int64_t count, int64_t K, int64_t *out) {
    for (int64_t k = 0; k < K; k++) {
        int64_t found = -1;
        for (int64_t e = 0; e < count; e++) {
            int taken = 0;
            for (int64_t j = 0; j < k; j++) taken |= out[j] == e;
            if (!taken && (found < 0 || values[e] > values[found])) found = e;
        }
        out[k] = found;
    }
}

/* A token's experts and their weights, from the router's logits (E,), which become its scores. */
static void choose(const settings *set, const layer *l, float *scores, int64_t *chosen, float *weights) {
    int64_t E = set->experts, G = set->expert_groups, size = E / G;
    float preference[E], leaders[G];
    int64_t open[G];
    float most = -INFINITY, total = 0;
    for (int64_t e = 0; e < E; e++) most = scores[e] > most ? scores[e] : most;
    for (int64_t e = 0; e < E; e++) {
        scores[e] = set->sigmoid ? 1 / (1 + expf(-scores[e])) : expf(scores[e] - most);
        total += scores[e];
    }
    for (int64_t e = 0; e < E; e++) {
        if (!set->sigmoid) scores[e] /= total;
        preference[e] = scores[e] + (l->bias ? l->bias[e] : 0);
    }
    if (set->active_groups < G) { /* a group is worth its best expert, with sigmoids its best two */
        for (int64_t g = 0; g < G; g++) {
            int64_t two[2], take = set->sigmoid && size > 1 ? 2 : 1;
            best(preference + g * size, size, take, two);
            leaders[g] = preference[g * size + two[0]] + (take > 1 ? preference[g * size + two[1]] : 0);
        }
        best(leaders, G, set->active_groups, open);
        for (int64_t g = 0; g < G; g++) {
            int kept = 0;
            for (int64_t j = 0; j < set->active_groups; j++) kept |= open[j] == g;
            for (int64_t e = g * size; !kept && e < (g + 1) * size; e++) preference[e] = -INFINITY;
        }
    }
    best(preference, E, set->active, chosen);
    float sum = 0;
    for (int64_t k = 0; k < set->active; k++) sum += weights[k] = scores[chosen[k]];
    float by = set->routed_scale / (set->normalise && set->active > 1 ? sum + 1e-20f : 1);
    for (int64_t k = 0; k < set->active; k++) weights[k] *= by;
}

static void team_feed_forward(team *t, const layer *l) {
    const settings *set = t->set;
    int64_t D = set->width, n = t->n, K = l->router.outputs ? set->active : 0, E = l->router.outputs;
    int64_t F = l->gate.outputs,
            own = E ? l->gates[0].outputs : 0; /* hidden: first (n, F), then (n * K, own) */
    float *to[n * (K + 1)], *routed = t->hidden + n * F;
    for (int64_t m = 0; m < n; m++)
        norm(set->kind, t->x + m * D, l->norm_ffn, D, set->eps, t->normed + m * D);
    if (E) {
        team_linear(t, &l->router, ready(t, &l->router, t->normed, D, n), t->logits, E, 0);
#pragma omp barrier
        float scores[E];
        for (int64_t m = 0; m < n; m++) {
            memcpy(scores, t->logits + m * E, E * sizeof *scores);
            choose(set, l, scores, t->chosen + m * K, t->weights + m * K);
        }
        memset(t->counts, 0, (E + 1) * sizeof *t->counts); /* pairs of token and expert, expert by expert */
        for (int64_t p = 0; p < n * K; p++) t->counts[t->chosen[p] + 1]++;
        for (int64_t e = 0; e < E; e++) t->counts[e + 1] += t->counts[e];
        int64_t at[E];
        memcpy(at, t->counts, sizeof at);
        for (int64_t p = 0; p < n * K; p++) t->pairs[at[t->chosen[p]]++] = p;
        const float *const *x = ready(t, &l->gates[0], t->normed, D, n);
        const float *some[n];
#pragma omp for schedule(dynamic, 8) nowait
        for (int64_t task = 0; task < E * (own / OUT); task++) {
            int64_t e = task / (own / OUT), first = t->counts[e], rows = t->counts[e + 1] - first;
            for (int64_t i = 0; i < rows; i++) {
                some[i] = x[t->pairs[first + i] / K];
                to[i] = routed + t->pairs[first + i] * own;
            }
            if (rows) hidden(t, &l->gates[e], &l->ups[e], task % (own / OUT) * OUT, some, rows, to);
        }
    }
    if (F) {
        const float *const *x = ready(t, &l->gate, t->normed, D, n);
        for (int64_t m = 0; m < n; m++) to[m] = t->hidden + m * F;
#pragma omp for schedule(dynamic, 8) nowait
        for (int64_t o = 0; o < F; o += OUT) hidden(t, &l->gate, &l->up, o, x, n, to);
    }
#pragma omp barrier
    const float **x = t->pointers, **pair = t->pointers + n;
    float *ordered = t->ordered;
    for (int64_t m = 0; F && m < n; m++, ordered += room(F)) {
        prepare_for(&l->down, FLOAT32, t->hidden + m * F, ordered);
        x[m] = ordered;
    }
    for (int64_t p = 0; p < n * K; p++, ordered += room(own)) {
        prepare_for(&l->downs[0], FLOAT32, routed + p * own, ordered);
        pair[p] = ordered;
    }
#pragma omp for schedule(dynamic, 8)
    for (int64_t o = 0; o < D; o += OUT) {
        if (F) {
            product(&l->down, o, x, n, t->sums);
            for (int64_t m = 0; m < n; m++)
                for (int r = 0; r < OUT; r++) t->x[m * D + o + r] += t->sums[m * OUT + r];
        }
        for (int64_t e = 0; e < E; e++) {
            int64_t first = t->counts[e], rows = t->counts[e + 1] - first;
            const float *some[n];
            for (int64_t i = 0; i < rows; i++) some[i] = pair[t->pairs[first + i]];
            if (rows) product(&l->downs[e], o, some, rows, t->sums);
            for (int64_t i = 0; i < rows; i++) {
                int64_t p = t->pairs[first + i];
                for (int r = 0; r < OUT; r++) t->x[p / K * D + o + r] += t->weights[p] * t->sums[i * OUT + r];
            }
        }
    }
}

/* ---- what is called from outside; they return 0, or 1 where there is no memory ---- */

INLINE int64_t thread(void) {
#ifdef _OPENMP
    return omp_get_thread_num();
#else
    return 0;
#endif
}

/* x (rows, I), y (rows, O) of kind `from`. */
int janus_linear(const void *x, int64_t from, int64_t rows, const matrix *w, void *y, int64_t threads) {
    int64_t each = room(w->inputs);
    float *ordered = malloc((rows * each + threads * rows * OUT) * sizeof *ordered);
    const float **pointers = malloc(rows * sizeof *pointers);
    int failed = !ordered || !pointers;
#pragma omp parallel num_threads(threads) if (!failed)
    if (!failed) {
#pragma omp for
        for (int64_t m = 0; m < rows; m++) {
            prepare_for(w, from, (const char *)x + bytes(from, m * w->inputs), ordered + m * each);
            pointers[m] = ordered + m * each;
        }
        float *sums = ordered + rows * each + thread() * rows * OUT;
#pragma omp for schedule(dynamic, 16)
        for (int64_t o = 0; o < w->outputs; o += OUT) {
            product(w, o, pointers, rows, sums);
            for (int64_t m = 0; m < rows; m++)
                for (int r = 0; r < OUT; r++) put(from, y, m * w->outputs + o + r, sums[m * OUT + r]);
        }
    }
    free(ordered), free(pointers);
    return failed;
}

INLINE int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

/* Hands out parts of a block of memory; with none, counts what would be handed out. */
typedef struct {
    float *floats;
    int64_t *numbers, floats_used, numbers_used;
} arena;

static float *floats_of(arena *a, int64_t n) {
    a->floats_used += n;
    return a->floats ? a->floats + a->floats_used - n : NULL;
}

static int64_t *numbers_of(arena *a, int64_t n) {
    a->numbers_used += n;
    return a->numbers ? a->numbers + a->numbers_used - n : NULL;
}

/* The team's memory, shared and of each thread, for the widest of the layers. */
static void furnish(arena *a, const settings *set, const layer *layers, int64_t threads, team *all) {
    int64_t n = all->n, D = set->width, K = set->active;
    int64_t q = 0, kv = 0, mixed = 0, hidden = 0, experts = 0, normed = D, ordered = n * room(D),
            latents = set->head;
    for (const layer *l = layers; l < layers + set->layers; l++) {
        int64_t own = l->router.outputs ? l->gates[0].outputs : 0;
        q = larger(q, l->q.outputs);
        kv = larger(kv, l->k.outputs + l->v.outputs);
        mixed = larger(mixed, larger(l->o.inputs, l->q_first.outputs));
        hidden = larger(hidden, n * l->gate.outputs + n * K * own);
        experts = larger(experts, l->router.outputs);
        normed = larger(normed, l->q.inputs);
        ordered = larger(ordered, n * room(larger(l->q.inputs, l->o.inputs)));
        ordered = larger(ordered, n * room(l->gate.outputs) + n * K * room(own));
        if (l->latent) latents = larger(latents, set->rank + set->rope);
    }
    team shared = *all;
    shared.x = floats_of(a, n * D), shared.q = floats_of(a, n * q), shared.kv = floats_of(a, n * kv);
    shared.mixed = floats_of(a, n * mixed), shared.hidden = floats_of(a, hidden),
    shared.logits = floats_of(a, n * experts);
    for (int64_t i = 0; i < threads; i++) {
        team *t = all + i;
        *t = shared;
        t->normed = floats_of(a, n * normed), t->ordered = floats_of(a, ordered);
        t->scores = floats_of(a, QUERIES * t->padded), t->sums = floats_of(a, 2 * n * OUT);
        t->latents = floats_of(a, 2 * QUERIES * latents), t->weights = floats_of(a, n * K);
        t->chosen = numbers_of(a, n * K), t->pairs = numbers_of(a, n * K),
        t->counts = numbers_of(a, experts + 1);
        t->pointers = (const float **)numbers_of(a, n * (K + 1));
    }
}

/* A few tokens through all layers and the final norm. */
int janus_step(const settings *set, const layer *layers, const call *now, int64_t threads) {
    int64_t n = now->rows * now->tokens, slots = now->start + now->tokens, D = set->width;
    team *all = malloc(threads * sizeof *all);
    if (!all) return 1;
    *all = (team){.set = set, .now = now, .n = n, .padded = (slots + WIDE - 1) / WIDE * WIDE};
    arena counted = {0};
    furnish(&counted, set, layers, threads, all);
    arena had = {malloc(counted.floats_used * sizeof(float)),
                 malloc((counted.numbers_used + 1) * sizeof(int64_t)), 0, 0};
    int failed = !had.floats || !had.numbers;
    if (!failed) {
        furnish(&had, set, layers, threads, all);
        for (int64_t i = 0; i < n * D; i++) all->x[i] = get(set->kind, now->x, i);
#pragma omp parallel num_threads(threads)
        {
            team *t = all + thread();
            for (int64_t i = 0; i < set->layers; i++) {
                team_attention(t, layers + i, i);
                team_feed_forward(t, layers + i);
            }
#pragma omp for
            for (int64_t m = 0; m < n; m++) {
                norm(set->kind, t->x + m * D, now->norm, D, set->eps, t->normed);
                store(set->kind, t->normed, D, now->out, m * D);
            }
        }
    }
    free(had.floats), free(had.numbers), free(all);
    return failed;
}
