/* Products of a few rows with a large matrix, and attention of a few tokens to a long cache, as fast as memory
   gives them away.

   y[m, o] = sum over i of x[m, i] * w[o, i], in float32 whatever the numbers are stored as.  Every number of w
   is read once and turned into a float in a register; with more than DIRECT rows that happens a block at a
   time, into the cache nearest to the processor, from where all rows take it.

   The cheapest way to unpack a word's numbers is all words' first ones, then all second ones, and so on.  x is
   put into that order beforehand (`place`), so that nothing need be put back.

   Compiled by native.py.  O outputs and I inputs of w, which are a multiple of `step(kind)`. */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef float floats __attribute__((vector_size(32), aligned(4), may_alias));
typedef uint32_t words __attribute__((vector_size(32), aligned(4), may_alias));
typedef int32_t integers __attribute__((vector_size(32), aligned(4), may_alias));

#define WIDE 8      /* numbers of a vector */
#define OUT 4       /* rows of w that are worked on at once */
#define DIRECT 3    /* most rows of x whose sums have room in registers */
#define PAIR 2      /* rows of x that share an unpacked vector */
#define BLOCK 1024  /* numbers of each of those rows that are unpacked at once */
#define SHARE 16    /* times OUT outputs: what a thread takes at once */
#define INLINE static inline __attribute__((always_inline))

enum { BFLOAT16, INT8, INT4 };

typedef struct {
    int kind;
    const char *weight;   /* (O, I) numbers, or (O, I / 8) words of eight four-bit ones, the first lowest */
    const void *scale;    /* INT8 (O,), INT4 (O, I / 32): bfloat16, or float32 with wide_scale */
    int wide_scale;
    const uint32_t *zero; /* INT4 (O / 8, I / 32) words of eight zero points */
    int64_t outputs, inputs;
} matrix;

INLINE int step(int kind) { return kind == BFLOAT16 ? 16 : kind == INT8 ? 32 : 64; }

INLINE int64_t bytes(int kind, int64_t numbers) {
    return kind == BFLOAT16 ? 2 * numbers : kind == INT8 ? numbers : numbers / 2;
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

INLINE float scale_at(const matrix *w, int64_t i) {
    return w->wide_scale ? ((const float *)w->scale)[i] : from_bfloat16(((const uint16_t *)w->scale)[i]);
}

/* Vector k of a step whose numbers are at `from`; INT8 and INT4 as they are stored. */
INLINE floats unpack(int kind, const char *from, int k) {
    words packed = *(const words *)from;
    if (kind == BFLOAT16) return k ? (floats)(packed & 0xffff0000u) : (floats)(packed << 16);
    if (kind == INT8) return __builtin_convertvector((integers)(packed << (24 - 8 * k)) >> 24, floats);
    return __builtin_convertvector((integers)(packed >> 4 * k & 15), floats);
}

/* Numbers k of eight INT4 words, left in their place but for those with the sign: times 1 / MOVED[k]. */
INLINE floats in_place(const char *from, int k) {
    words packed = *(const words *)from;
    return __builtin_convertvector((integers)(k < 7 ? packed & 15u << 4 * k : packed >> 4 & 15u << 24), floats);
}
static const float MOVED[8] = {1, 0x1p-4, 0x1p-8, 0x1p-12, 0x1p-16, 0x1p-20, 0x1p-24, 0x1p-24};

/* Scales, and zero points, of a step of INT4: two groups of 32 numbers, which are four words each. */
INLINE void group(const matrix *w, int64_t o, int64_t i, floats *scale, floats *zero) {
    int64_t at = (o * w->inputs + i) / 32;
    float s0 = scale_at(w, at), s1 = scale_at(w, at + 1);
    const uint32_t *z = w->zero + o / 8 * (w->inputs / 32) + i / 32;
    words both = {z[0], z[0], z[0], z[0], z[1], z[1], z[1], z[1]};
    *scale = (floats){s0, s0, s0, s0, s1, s1, s1, s1};
    *zero = __builtin_convertvector((integers)(both >> (int)(4 * (o % 8)) & 15), floats);
}

INLINE float sum(floats values) {
    typedef float half __attribute__((vector_size(16)));
    half four = (half){values[0], values[1], values[2], values[3]} + (half){values[4], values[5], values[6], values[7]};
    return (four[0] + four[2]) + (four[1] + four[3]);
}

/* M rows times OUT rows of w from o on, added to sums[M][OUT].  INT4 leaves its numbers where they are in
   their words, and multiplies their zero points by the sums of groups, which come after x. */
INLINE void direct(const int kind, const int M, const matrix *w, int64_t o, const float *x, float *sums) {
    const float *groups = x + M * w->inputs;
    floats total[DIRECT][OUT];
    for (int m = 0; m < M; m++)
        for (int r = 0; r < OUT; r++) total[m][r] = (floats){0};
    for (int64_t i = 0; i < w->inputs; i += step(kind))
        for (int r = 0; r < OUT; r++) {
            const char *from = w->weight + bytes(kind, (o + r) * w->inputs + i);
            __builtin_prefetch(from + bytes(kind, OUT * w->inputs)); /* the next rows: pages stop the processor's own */
            floats scale, part[DIRECT];
            if (kind == INT4) {
                floats zero;
                group(w, o + r, i, &scale, &zero);
                for (int m = 0; m < M; m++) part[m] = -zero * *(const floats *)(groups + (m * w->inputs + i) / 8);
            }
#pragma GCC unroll 8
            for (int k = 0; k < step(kind) / WIDE; k++) {
                floats value = kind == INT4 ? in_place(from, k) : unpack(kind, from, k);
                for (int m = 0; m < M; m++) {
                    floats product = value * *(const floats *)(x + m * w->inputs + i + WIDE * k);
                    if (kind == INT4)
                        part[m] += product;
                    else
                        total[m][r] += product;
                }
            }
            if (kind == INT4)
                for (int m = 0; m < M; m++) total[m][r] += part[m] * scale;
        }
    for (int m = 0; m < M; m++)
        for (int r = 0; r < OUT; r++) sums[m * OUT + r] += sum(total[m][r]);
}

/* n numbers of a row of w from i on, as floats. */
INLINE void unpack_block(const int kind, const matrix *w, int64_t o, int64_t i, int n, float *out) {
    for (int done = 0; done < n; done += step(kind)) {
        const char *from = w->weight + bytes(kind, o * w->inputs + i + done);
        __builtin_prefetch(from + bytes(kind, OUT * w->inputs));
        floats scale, zero;
        if (kind == INT4) group(w, o, i + done, &scale, &zero);
#pragma GCC unroll 8
        for (int k = 0; k < step(kind) / WIDE; k++) {
            floats value = unpack(kind, from, k);
            if (kind == INT4) value = (value - zero) * scale;
            *(floats *)(out + done + WIDE * k) = value;
        }
    }
}

/* M rows, `inputs` apart, times a block of OUT rows of w, added to sums[M][OUT]. */
INLINE void tile(const int M, const float *block, const float *x, int64_t inputs, int n, float *sums) {
    floats total[PAIR][OUT], value[OUT];
    for (int m = 0; m < M; m++)
        for (int r = 0; r < OUT; r++) total[m][r] = (floats){0};
    for (int i = 0; i < n; i += WIDE) {
        for (int r = 0; r < OUT; r++) value[r] = *(const floats *)(block + r * BLOCK + i);
        for (int m = 0; m < M; m++)
            for (int r = 0; r < OUT; r++) total[m][r] += value[r] * *(const floats *)(x + m * inputs + i);
    }
    for (int m = 0; m < M; m++)
        for (int r = 0; r < OUT; r++) sums[m * OUT + r] += sum(total[m][r]);
}

/* Rows times OUT rows of w from o on, to sums[rows][OUT]. */
INLINE void some(const int kind, const matrix *w, int64_t o, const float *x, int64_t rows, float *sums) {
    float block[OUT * BLOCK] __attribute__((aligned(64)));
    memset(sums, 0, rows * OUT * sizeof *sums);
    if (rows == 1) return direct(kind, 1, w, o, x, sums);
    if (rows == 2) return direct(kind, 2, w, o, x, sums);
    if (rows == 3) return direct(kind, 3, w, o, x, sums);
    for (int64_t i = 0; i < w->inputs; i += BLOCK) {
        int n = w->inputs - i < BLOCK ? (int)(w->inputs - i) : BLOCK;
        for (int r = 0; r < OUT; r++) unpack_block(kind, w, o + r, i, n, block + r * BLOCK);
        int64_t m = 0;
        for (; m + PAIR <= rows; m += PAIR) tile(PAIR, block, x + m * w->inputs + i, w->inputs, n, sums + m * OUT);
        if (m < rows) tile(1, block, x + m * w->inputs + i, w->inputs, n, sums + m * OUT);
    }
}

/* x in the order of the weights.  For `direct` INT4, times MOVED, and behind it the sums of groups: of
   every step eight numbers, those of its two groups first and fifth, the others 0. */
INLINE void prepare(const int kind, const int stays, const void *x, int wide, int64_t numbers, float *out) {
    for (int64_t i = 0; i < numbers; i += step(kind)) {
        float own[64];
        for (int k = 0; k < step(kind); k++)
            own[k] = wide ? ((const float *)x)[i + k] : from_bfloat16(((const uint16_t *)x)[i + k]);
#pragma GCC unroll 64
        for (int k = 0; k < step(kind); k++) out[i + place(kind, k)] = stays ? own[k] * MOVED[k % 8] : own[k];
        if (stays) {
            float *groups = out + numbers + i / 8;
            memset(groups, 0, 8 * sizeof *groups);
            for (int k = 0; k < 32; k++) groups[0] += own[k], groups[4] += own[32 + k];
        }
    }
}

/* x (rows, I) and y (rows, O) are bfloat16, or float32 with `wide`.  O is a multiple of OUT.
   Returns 0, or 1 where there is no memory. */
int janus_linear(const void *x, int wide, int64_t rows, int kind, const void *weight, const void *scale,
                 int wide_scale, const void *zero, int64_t outputs, int64_t inputs, void *y, int threads) {
    const matrix w = {kind, weight, scale, wide_scale, zero, outputs, inputs};
    int64_t numbers = rows * inputs;
    float *ordered = malloc((numbers + numbers / 8) * sizeof *ordered);
    int failed = !ordered;
    if (ordered) {
        if (kind == BFLOAT16) prepare(BFLOAT16, 0, x, wide, numbers, ordered);
        if (kind == INT8) prepare(INT8, 0, x, wide, numbers, ordered);
        if (kind == INT4 && rows <= DIRECT) prepare(INT4, 1, x, wide, numbers, ordered);
        if (kind == INT4 && rows > DIRECT) prepare(INT4, 0, x, wide, numbers, ordered);
    }
#pragma omp parallel num_threads(threads) if (ordered)
    {
        float *sums = ordered ? malloc(rows * OUT * sizeof *sums) : NULL;
        if (!sums) {
#pragma omp atomic write
            failed = 1;
        }
#pragma omp for schedule(dynamic, SHARE)
        for (int64_t o = 0; o < outputs; o += OUT) {
            if (!sums) continue;
            if (kind == BFLOAT16) some(BFLOAT16, &w, o, ordered, rows, sums);
            if (kind == INT8) some(INT8, &w, o, ordered, rows, sums);
            if (kind == INT4) some(INT4, &w, o, ordered, rows, sums);
            for (int64_t m = 0; m < rows; m++)
                for (int r = 0; r < OUT; r++) {
                    float value = sums[m * OUT + r] * (kind == INT8 ? scale_at(&w, o + r) : 1);
                    if (wide)
                        ((float *)y)[m * outputs + o + r] = value;
                    else
                        ((uint16_t *)y)[m * outputs + o + r] = to_bfloat16(value);
                }
        }
        free(sums);
    }
    free(ordered);
    return failed;
}

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

/* Scores to what they are to be weighted with; n is a multiple of WIDE, those to leave out are -INFINITY. */
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

/* Attention of T tokens of each of B rows, H heads, to S slots; the heads share G sets of keys and values.
   Rows of q and out (B, H, T, C or V) and of keys and values (C or V, strides in numbers) are bfloat16.
   A second pair q2, k2 of `more` channels, if there is one, adds to the scores.  `seen`, if given, is 0 where a
   token of a row may not look. */
typedef struct {
    const uint16_t *q, *k, *v, *q2, *k2;
    const uint8_t *seen;
    uint16_t *out;
    int64_t rows, heads, groups, tokens, slots, width, more, wide_v;
    int64_t k_row, k_group, k_slot, v_row, v_group, v_slot, k2_row, k2_group, k2_slot, seen_row, seen_token;
    float scale;
} attention;
#define QUERIES 8 /* worked on at once */

INLINE void score(const attention *a, int64_t row, int64_t group, const uint16_t *q, const uint16_t *k, int64_t width,
                  int64_t k_row, int64_t k_group, int64_t k_slot, int64_t first, int n, float *scores, int64_t stride) {
    float wide[QUERIES][width];
    int64_t each = a->heads / a->groups * a->tokens; /* queries of a group */
    for (int m = 0; m < n; m++) {
        const uint16_t *from = q + ((row * a->groups + group) * each + first + m) * width;
        for (int64_t i = 0; i < width; i += 16)
            for (int c = 0; c < 16; c++) wide[m][i + place(BFLOAT16, c)] = from_bfloat16(from[i + c]) * a->scale;
    }
    for (int64_t s = 0; s < a->slots; s++) {
        const char *key = (const char *)(k + row * k_row + group * k_group + s * k_slot);
        floats total[QUERIES];
        for (int m = 0; m < n; m++) total[m] = (floats){0};
        for (int64_t i = 0; i < width; i += 16)
            for (int half = 0; half < 2; half++) {
                floats value = unpack(BFLOAT16, key + 2 * i, half);
                for (int m = 0; m < n; m++) total[m] += value * *(floats *)(wide[m] + i + WIDE * half);
            }
        for (int m = 0; m < n; m++) scores[m * stride + s] += sum(total[m]);
    }
}

INLINE void attend(const attention *a, int64_t row, int64_t group, int64_t first, const int n, float *scores, int64_t stride) {
    int64_t each = a->heads / a->groups * a->tokens;
    for (int m = 0; m < n; m++) {
        memset(scores + m * stride, 0, a->slots * sizeof *scores);
        for (int64_t s = a->slots; s < stride; s++) scores[m * stride + s] = -INFINITY;
    }
    score(a, row, group, a->q, a->k, a->width, a->k_row, a->k_group, a->k_slot, first, n, scores, stride);
    if (a->more) score(a, row, group, a->q2, a->k2, a->more, a->k2_row, a->k2_group, a->k2_slot, first, n, scores, stride);
    for (int m = 0; m < n; m++) {
        if (a->seen) {
            const uint8_t *seen = a->seen + row * a->seen_row + (first + m) % a->tokens * a->seen_token;
            for (int64_t s = 0; s < a->slots; s++)
                if (!seen[s]) scores[m * stride + s] = -INFINITY;
        }
        softmax(scores + m * stride, stride);
    }
    float mixed[QUERIES][a->wide_v];
    memset(mixed, 0, n * sizeof mixed[0]);
    for (int64_t s = 0; s < a->slots; s++) {
        const char *value = (const char *)(a->v + row * a->v_row + group * a->v_group + s * a->v_slot);
        for (int64_t i = 0; i < a->wide_v; i += 16)
            for (int half = 0; half < 2; half++) {
                floats part = unpack(BFLOAT16, value + 2 * i, half);
                for (int m = 0; m < n; m++) *(floats *)(mixed[m] + i + WIDE * half) += part * scores[m * stride + s];
            }
    }
    for (int m = 0; m < n; m++) {
        uint16_t *to = a->out + ((row * a->groups + group) * each + first + m) * a->wide_v;
        for (int64_t i = 0; i < a->wide_v; i += 16)
            for (int c = 0; c < 16; c++) to[i + c] = to_bfloat16(mixed[m][i + place(BFLOAT16, c)]);
    }
}

/* Returns 0, or 1 where there is no memory. */
int janus_attend(const attention *a, int threads) {
    int64_t each = a->heads / a->groups * a->tokens;
    int64_t pieces = (each + QUERIES - 1) / QUERIES;
    int64_t stride = (a->slots + WIDE - 1) / WIDE * WIDE;
    int failed = 0;
#pragma omp parallel num_threads(threads)
    {
        float *scores = malloc(QUERIES * stride * sizeof *scores);
        if (!scores) {
#pragma omp atomic write
            failed = 1;
        }
#pragma omp for schedule(dynamic)
        for (int64_t piece = 0; piece < a->rows * a->groups * pieces; piece++) {
            if (!scores) continue;
            int64_t first = piece % pieces * QUERIES, group = piece / pieces % a->groups;
            int64_t row = piece / pieces / a->groups;
            int n = each - first < QUERIES ? (int)(each - first) : QUERIES;
            if (n == 1)
                attend(a, row, group, first, 1, scores, stride);
            else if (n == QUERIES)
                attend(a, row, group, first, QUERIES, scores, stride);
            else
                attend(a, row, group, first, n, scores, stride);
        }
        free(scores);
    }
    return failed;
}
