"""The loops around a compiled field, in C: adaptive steps, known steps, and both backwards.

The tableau is data. Samples go through in blocks of as many as a vector has lanes; within a block
all attempt a step at the same time, each with its own, and those that are through wait.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..tableaus import Tableau
from .code import literal

__all__ = ["source"]

LOOPS = r"""
typedef struct {
    double rtol, atol, p, i, d, safety, shrink, grow, smallest, largest, first;
    double sign, end, order;
} controller;

static inline dvec dabs(dvec x) { return dselect(x < DSPLAT(0), -x, x); }
static inline dvec dmax(dvec a, dvec b) { return dselect(a > b, a, b); }
static inline dvec dmin(dvec a, dvec b) { return dselect(a < b, a, b); }

/* ln x for positive x: x = 2^e m, m in [sqrt(1/2), sqrt 2), and a series of (m - 1) / (m + 1). */
static inline dvec dlog(dvec x)
{
    const dmask bits = (dmask)x;
    const dmask over = (bits & 0x000fffffffffffffll) + 0x3ff0000000000000ll;
    dvec m = (dvec)over;
    dmask e = (bits >> 52) - 1023;
    const dmask large = m > DSPLAT(1.4142135623730951);
    m = dselect(large, m * 0.5, m);
    e -= large;
    const dvec s = (m - 1.0) / (m + 1.0), q = s * s;
    dvec sum = DSPLAT(1.0 / 23);
    for (int n = 21; n > 0; n -= 2) sum = 1.0 / n + q * sum;
    return __builtin_convertvector(e, dvec) * 0.6931471805599453 + 2.0 * s * sum;
}

static inline dvec dexp(dvec x)
{
    x = dmin(dmax(x, DSPLAT(-700)), DSPLAT(700));
    const dvec shifted = x * 1.4426950408889634 + 6755399441055744.0;
    const dvec k = shifted - 6755399441055744.0;
    const dvec r = (x - k * 6.93147180369123816490e-01) - k * 1.90821492927058770002e-10;
    const dvec power = (dvec)(((dmask)shifted << 52) + 0x3ff0000000000000ll);
    dvec sum = DSPLAT(1);
    for (int m = 13; m > 0; m--) sum = 1.0 + sum * r * (1.0 / m);
    return sum * power;
}

static inline dvec size_of(const vec *e, const vec *scale)
{
    vec sum = SPLAT(0);
    for (int d = 0; d < D; d++) { const vec x = e[d] / scale[d]; sum += x * x; }
    return __builtin_convertvector(lanes_sqrt(sum) / lanes_sqrt(SPLAT(D)), dvec);
}

static inline vec magnitude(vec x) { return select_(x < SPLAT(0), -x, x); }
static inline vec larger(vec a, vec b) { return select_(a > b, a, b); }

static void slope(const real *const *constants, dvec t, const vec *y, vec *out)
{
    const vec time[1] = {__builtin_convertvector(t, vec)};
    field(time, y, constants, out);
}

/* All stages of a step by h from y at t, the first of which is known; the last is the new state. */
static void stages(const real *const *constants, dvec t, dvec h, const vec *y, vec (*k)[D], vec *to)
{
    const vec length = __builtin_convertvector(h, vec);
    for (int s = 1; s <= STAGES; s++) {
        for (int d = 0; d < D; d++) {
            vec sum = SPLAT(0);
            for (int j = 0; j < s; j++) if (A[s - 1][j] != 0) sum += k[j][d] * A[s - 1][j];
            to[d] = y[d] + length * sum;
        }
        slope(constants, t + h * NODES[s], to, k[s]);
    }
}

static void inside(const vec *y, vec (*k)[D], double length, double theta, int l, const vec *end,
                   real *out)
{
    if (theta >= 1) { for (int d = 0; d < D; d++) out[d] = end[d][l]; return; }
    real weights[STAGES + 1];
    for (int s = 0; s <= STAGES; s++) {
        real power = (real)theta, sum = 0;
        for (int j = 0; j < DEGREE; j++, power *= (real)theta) sum += DENSE[s][j] * power;
        weights[s] = sum * (real)length;
    }
    for (int d = 0; d < D; d++) {
        real sum = y[d][l];
        for (int s = 0; s <= STAGES; s++) sum += weights[s] * k[s][d][l];
        out[d] = sum;
    }
}

static void keep_slopes(vec (*k)[D], int l, real *to)
{
    for (int s = 0; s < STAGES; s++) for (int d = 0; d < D; d++) to[s * D + d] = k[s][d][l];
}

static void gather(const real *rows, long batch, long block, vec *out)
{
    for (int l = 0; l < LANES; l++) {
        const long row = block * LANES + l < batch ? block * LANES + l : batch - 1;
        for (int d = 0; d < D; d++) out[d][l] = rows[row * D + d];
    }
}

static dvec first_step(const controller *c, const real *const *constants, dvec t, const vec *y,
                       const vec *before)
{
    vec scale[D], moved[D], after[D], bent[D];
    for (int d = 0; d < D; d++) scale[d] = magnitude(y[d]) * (real)c->rtol + (real)c->atol;
    const dvec size = size_of(y, scale), speed = size_of(before, scale);
    const dmask small = (size < DSPLAT(1e-5)) | (speed < DSPLAT(1e-5));
    const dvec guess = dselect(small, DSPLAT(1e-6), 0.01 * size / dselect(small, DSPLAT(1), speed));
    const vec forward = __builtin_convertvector(guess * c->sign, vec);
    for (int d = 0; d < D; d++) moved[d] = y[d] + forward * before[d];
    slope(constants, t + guess * c->sign, moved, after);
    for (int d = 0; d < D; d++) bent[d] = after[d] - before[d];
    const dvec largest = dmax(speed, size_of(bent, scale) / guess);
    const dmask flat = largest <= DSPLAT(1e-15);
    const dvec power = dexp(dlog(0.01 / dselect(flat, DSPLAT(1), largest)) / c->order);
    dvec step = dselect(flat, dmax(guess * 1e-3, DSPLAT(1e-6)), power);
    /* The guess may have left the domain of the field. */
    step = dselect(largest < DSPLAT(INFINITY), step, 0.01 * guess);
    step = dmin(100.0 * guess, step);
    return dmax(dmin(step, DSPLAT(c->largest)), DSPLAT(c->smallest));
}

typedef struct {
    long capacity;
    double *starts, *steps;  /* (batch, capacity) */
    real *states;            /* (batch, capacity, D), at the beginning of each accepted step */
    real *slopes;            /* (batch, capacity, STAGES, D), its stages but the last */
    int *which;              /* (batch, n), in which step a time lies */
    double *theta;           /* (batch, n), where in it */
} tape;

static int adaptive_block(long block, long batch, const real *start, const double *times, long n,
    const controller *c, long most, const real *const *constants, real *states,
    long long *outcome, long long *attempts, long long *accepted, const tape *record)
{
    vec y[D], k[STAGES + 1][D], to[D], error[D], scale[D];
    gather(start, batch, block, y);
    dvec t = DSPLAT(times[0]);
    slope(constants, t, y, k[0]);
    dvec step = c->first > 0 ? DSPLAT(c->first) : first_step(c, constants, t, y, k[0]);
    long next[LANES]; long long done[LANES] = {0}, tried[LANES] = {0}; int out[LANES] = {0};
    dmask running;
    int overflow = 0;
    for (int l = 0; l < LANES; l++) {
        real sum = (real)step[l];
        for (int d = 0; d < D; d++) sum += y[d][l] * 0;
        const int real_row = block * LANES + l < batch;
        const int sound = isfinite(sum);
        running[l] = real_row && sound ? -1 : 0;
        if (!sound) out[l] = 3;
        next[l] = 1;
    }
    dvec floor = step * 1e-16;
    floor = dmax(floor, DSPLAT(c->smallest * (1 + 1e-9)));
    step = dselect(running, step, DSPLAT(0)) * c->sign;
    dvec errors[2] = {DSPLAT(0), DSPLAT(0)}, cap = DSPLAT(c->grow);
    const double gains[3] = {-(c->p + c->i + c->d) / c->order, (c->p + 2 * c->d) / c->order,
                             -c->d / c->order};
    for (long attempt = 0; attempt < most; attempt++) {
        int any = 0;
        for (int l = 0; l < LANES; l++) { any |= running[l] != 0; tried[l] -= running[l]; }
        if (!any) break;
        const dvec remaining = DSPLAT(c->end) - t, reach = step * 1.01;
        const dmask hit = c->sign > 0 ? remaining <= reach : remaining >= reach;
        const dvec length = dselect(running, dselect(hit, remaining, step), DSPLAT(0));
        stages(constants, t, length, y, k, to);
        const vec h = __builtin_convertvector(length, vec);
        vec spoil = SPLAT(0);
        for (int d = 0; d < D; d++) {
            vec sum = SPLAT(0);
            for (int s = 0; s <= STAGES; s++) if (ERROR[s] != 0) sum += k[s][d] * ERROR[s];
            error[d] = h * sum;
            scale[d] = larger(magnitude(y[d]), magnitude(to[d])) * (real)c->rtol + (real)c->atol;
            spoil += (to[d] + k[STAGES][d]) * 0;
        }
        const dvec size = size_of(error, scale) + __builtin_convertvector(spoil, dvec);
        const dmask kept = (size <= DSPLAT(1)) & running;
        const dvec near = dmax(dabs(t) * (10 * 0x1p-52), floor);
        const dmask failed = running & ~kept & (dabs(length) <= near);
        const dmask sound = size == size;
        const dvec clean = dselect(sound, dmax(size, DSPLAT(1e-12)), DSPLAT(1));
        const dvec logs = dlog(dmin(clean, DSPLAT(1e300)));
        dvec factor;
        if (c->p == 0 && c->d == 0) factor = dexp(gains[0] * logs);
        else {
            const dvec bounded = dmin(logs, DSPLAT(27.631021115928547));
            factor = dexp(gains[0] * bounded + gains[1] * errors[0] + gains[2] * errors[1]);
            factor = dselect(kept, factor, dmin(factor, DSPLAT(1)));
            errors[1] = dselect(kept, errors[0], errors[1]);
            errors[0] = dselect(kept, bounded, errors[0]);
        }
        factor = dmin(dmax(factor * c->safety, DSPLAT(c->shrink)), DSPLAT(c->grow));
        factor = dselect(sound & (size < DSPLAT(INFINITY)), factor, DSPLAT(c->shrink));
        factor = dmin(factor, cap);
        cap = dselect(kept, DSPLAT(c->grow), DSPLAT(1));
        dvec proposed = length * factor;
        if (c->smallest > 0) proposed = c->sign * dmax(dabs(proposed), DSPLAT(c->smallest));
        proposed = dmin(dmax(proposed, DSPLAT(-c->largest)), DSPLAT(c->largest));
        const dvec moved = dselect(hit, DSPLAT(c->end), t + length);
        for (int l = 0; l < LANES; l++) {
            if (failed[l]) out[l] = size[l] < INFINITY ? 2 : 3;
            if (!kept[l]) continue;
            const long row = block * LANES + l;
            if (record->capacity) {
                if (done[l] < record->capacity) {
                    const long place = row * record->capacity + done[l];
                    record->starts[place] = t[l];
                    record->steps[place] = length[l];
                    for (int d = 0; d < D; d++) record->states[place * D + d] = y[d][l];
                    keep_slopes(k, l, record->slopes + place * STAGES * D);
                } else overflow = 1;
            }
            while (next[l] < n && c->sign * times[next[l]] <= c->sign * moved[l]) {
                double theta = (times[next[l]] - t[l]) / length[l];
                if (theta > 1) theta = 1;
                inside(y, k, length[l], theta, l, to, states + (row * n + next[l]) * D);
                if (record->capacity) {
                    record->which[row * n + next[l]] = (int)done[l];
                    record->theta[row * n + next[l]] = theta;
                }
                next[l]++;
            }
            done[l]++;
        }
        const mask keep = __builtin_convertvector(kept, mask);
        for (int d = 0; d < D; d++) {
            y[d] = select_(keep, to[d], y[d]);
            k[0][d] = select_(keep, k[STAGES][d], k[0][d]);
        }
        t = dselect(kept, moved, t);
        running &= ~(failed | (kept & hit));
        step = dselect(running, proposed, DSPLAT(0));
    }
    for (int l = 0; l < LANES; l++) {
        const long row = block * LANES + l;
        if (row >= batch) continue;
        if (running[l]) out[l] = 1;
        outcome[row] = out[l]; attempts[row] = tried[l]; accepted[row] = done[l];
    }
    return overflow;
}

int adaptive(long batch, int threads, const real *start, const double *times, long n,
    const controller *c, long most, const real *const *constants, real *states,
    long long *outcome, long long *attempts, long long *accepted, const tape *record)
{
    const long blocks = (batch + LANES - 1) / LANES;
    int overflow = 0;
    #pragma omp parallel for num_threads(threads) if(threads > 1 && blocks > 8) \
        schedule(dynamic) reduction(|:overflow)
    for (long block = 0; block < blocks; block++)
        overflow |= adaptive_block(block, batch, start, times, n, c, most, constants, states,
                                   outcome, attempts, accepted, record);
    return overflow;
}

/* Known steps, the same for all samples; steps and starts (count,), where the times lie (n,). */
void known(long batch, int threads, const real *start, long count, const double *starts,
    const double *steps, long n, const int *which, const double *theta,
    const real *const *constants, real *states, real *tape_states, real *tape_slopes)
{
    const long blocks = (batch + LANES - 1) / LANES;
    #pragma omp parallel for num_threads(threads) if(threads > 1 && blocks > 8)
    for (long block = 0; block < blocks; block++) {
        vec y[D], k[STAGES + 1][D], to[D];
        gather(start, batch, block, y);
        slope(constants, DSPLAT(starts[0]), y, k[0]);
        long next = 1;
        for (long m = 0; m < count; m++) {
            stages(constants, DSPLAT(starts[m]), DSPLAT(steps[m]), y, k, to);
            for (int l = 0; l < LANES && block * LANES + l < batch; l++) {
                const long row = block * LANES + l;
                if (tape_states) {
                    for (int d = 0; d < D; d++) tape_states[(row * count + m) * D + d] = y[d][l];
                    keep_slopes(k, l, tape_slopes + (row * count + m) * STAGES * D);
                }
                for (long j = next; j < n && which[j] == m; j++)
                    inside(y, k, steps[m], theta[j], l, to, states + (row * n + j) * D);
            }
            while (next < n && which[next] == m) next++;
            for (int d = 0; d < D; d++) { y[d] = to[d]; k[0][d] = k[STAGES][d]; }
        }
    }
}
"""
BACKWARD = r"""
/* The derivative of everything above by the start and the constants, step by step from the end.
   Steps, and where times lie, by sample, or (shared) the same for all. */
void backward(long batch, int threads, long n, long capacity, int shared, const long long *count,
    const double *starts, const double *steps, const real *tape_states, const real *tape_slopes,
    const int *which, const double *theta, const real *const *constants, const real *given,
    real *by_start, real *by_constants)
{
    const long blocks = (batch + LANES - 1) / LANES;
    #pragma omp parallel for num_threads(threads) if(threads > 1 && blocks > 8) schedule(dynamic)
    for (long block = 0; block < blocks; block++) {
        vec *sums = NULL;
        if (posix_memalign((void **)&sums, sizeof(vec), (PARAMETERS + 1) * sizeof(vec))) abort();
        memset(sums, 0, (PARAMETERS + 1) * sizeof(vec));
        vec adjoint[D], y[D], k[STAGES][D], by[STAGES + 1][D], at[STAGES + 1][D];
        vec pulled[D], base[D];
        memset(adjoint, 0, sizeof adjoint);
        long last = 0, column[LANES];
        for (int l = 0; l < LANES; l++) {
            const long row = block * LANES + l;
            column[l] = n - 1;
            if (row < batch && count[shared ? 0 : row] > last) last = count[shared ? 0 : row];
        }
        for (long m = last - 1; m >= 0; m--) {
            dvec t, h;
            vec active;
            long some = 0;
            for (int l = 0; l < LANES; l++) {
                const long row = block * LANES + l;
                active[l] = row < batch && m < count[shared ? 0 : row];
                if (active[l] != 0) some = row;
            }
            /* A lane that rests does what another does, by a step of zero: so nothing it meets is
               not finite, and nothing comes of it. */
            for (int l = 0; l < LANES; l++) {
                const long row = active[l] != 0 ? block * LANES + l : some;
                const long place = (shared ? 0 : row * capacity) + m;
                t[l] = starts[place];
                h[l] = active[l] != 0 ? steps[place] : 0;
                const real *slopes = tape_slopes + (row * capacity + m) * STAGES * D;
                for (int d = 0; d < D; d++) {
                    y[d][l] = tape_states[(row * capacity + m) * D + d];
                    for (int s = 0; s < STAGES; s++) k[s][d][l] = slopes[s * D + d];
                }
            }
            const vec length = __builtin_convertvector(h, vec);
            for (int d = 0; d < D; d++) at[0][d] = y[d];
            for (int s = 1; s <= STAGES; s++) for (int d = 0; d < D; d++) {
                vec sum = SPLAT(0);
                for (int j = 0; j < s; j++) if (A[s - 1][j] != 0) sum += k[j][d] * A[s - 1][j];
                at[s][d] = y[d] + length * sum;
            }
            memset(by, 0, sizeof by);
            memset(base, 0, sizeof base);
            int ends = 0;
            for (int l = 0; l < LANES; l++) {
                const long row = block * LANES + l;
                if (row >= batch || active[l] == 0) continue;
                const long first = shared ? 0 : row * n;
                const int *lies = which + first;
                while (column[l] > 0 && (lies[column[l]] > m || lies[column[l]] < 0)) column[l]--;
                for (; column[l] > 0 && lies[column[l]] == m; column[l]--) {
                    const real *g = given + (row * n + column[l]) * D;
                    const double place = theta[first + column[l]];
                    if (place >= 1) { for (int d = 0; d < D; d++) adjoint[d][l] += g[d]; continue; }
                    for (int d = 0; d < D; d++) base[d][l] += g[d];
                    for (int s = 0; s <= STAGES; s++) {
                        real power = (real)place, sum = 0;
                        for (int j = 0; j < DEGREE; j++, power *= (real)place)
                            sum += DENSE[s][j] * power;
                        sum *= length[l];
                        if (s == STAGES && sum != 0) ends = 1;
                        for (int d = 0; d < D; d++) by[s][d][l] += sum * g[d];
                    }
                }
            }
            for (int s = STAGES; s >= 0; s--) {
                if (s < STAGES || ends) {
                    const vec time[1] = {__builtin_convertvector(t + h * NODES[s], vec)};
                    product(time, at[s], by[s], constants, pulled PARTS);
                } else memset(pulled, 0, sizeof pulled);
                if (s == STAGES) for (int d = 0; d < D; d++) pulled[d] += adjoint[d];
                for (int d = 0; d < D; d++) {
                    base[d] += pulled[d];
                    if (s) for (int j = 0; j < s; j++) if (A[s - 1][j] != 0)
                        by[j][d] += length * pulled[d] * A[s - 1][j];
                }
            }
            for (int d = 0; d < D; d++) adjoint[d] = base[d];
        }
        for (int l = 0; l < LANES; l++) {
            const long row = block * LANES + l;
            if (row >= batch) continue;
            for (int d = 0; d < D; d++)
                by_start[row * D + d] = adjoint[d][l] + given[row * n * D + d];
        }
        for (long i = 0; i < PARAMETERS; i++) {
            real sum = 0;
            for (int l = 0; l < LANES; l++) sum += sums[i][l];
            by_constants[block * PARAMETERS + i] = sum;
        }
        free(sums);
    }
}
"""
PROBE = r"""
/* The field, and its product with a vector, of rows (batch, D): what is compared with torch. */
void probe(long batch, const real *t, const real *rows, const real *const *constants, real *out)
{
    for (long block = 0; block < (batch + LANES - 1) / LANES; block++) {
        vec y[D], found[D]; dvec time;
        gather(rows, batch, block, y);
        for (int l = 0; l < LANES; l++)
            time[l] = t[block * LANES + l < batch ? block * LANES + l : batch - 1];
        slope(constants, time, y, found);
        for (int l = 0; l < LANES && block * LANES + l < batch; l++)
            for (int d = 0; d < D; d++) out[(block * LANES + l) * D + d] = found[d][l];
    }
}
"""


def source(tableau: Tableau, dimension: int, sizes: Sequence[int] | None) -> str:
    """The loops for a tableau.

    Args:
        tableau: coefficients.
        dimension: d.
        sizes: elements of the constants that have derivatives; None without a derivative.
    """
    stages, degree = len(tableau.matrix), len(tableau.dense[0])
    rows = [[*row, *[0.0] * (stages - len(row))] for row in tableau.matrix]
    error = tableau.error or [0.0] * (stages + 1)
    lines = [
        f"#define D {dimension}",
        f"#define STAGES {stages}",
        f"#define DEGREE {degree}",
        f"static const real A[{stages}][{stages}] = {{{', '.join(map(_row, rows))}}};",
        f"static const real ERROR[{stages + 1}] = {_row(error)};",
        f"static const double NODES[{stages + 1}] = "
        f"{{{', '.join(n.hex() for n in tableau.nodes)}}};",
        f"static const real DENSE[{stages + 1}][{degree}] = "
        f"{{{', '.join(map(_row, tableau.dense))}}};",
        LOOPS,
        PROBE,
    ]
    if sizes is not None:
        begins = [sum(sizes[:k]) for k in range(len(sizes))]
        parts = "".join(f", sums + {begin}" for begin in begins)
        lines += [f"#define PARAMETERS {sum(sizes)}L", f"#define PARTS {parts}", BACKWARD]
    return "\n".join(lines)


def _row(numbers: Sequence[float]) -> str:
    return "{" + ", ".join(literal(float(number)) for number in numbers) + "}"
