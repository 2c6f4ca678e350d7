# ruff: noqa: ANN001, ANN202 (compiled functions: numba infers the types of their arguments)
"""BM3D compiled for the CPU: one image a thread, the GIL released, compiled code cached on disk.

How it is fast, and why its memory stays flat. Reference blocks are visited row by row, and everything that
they touch lies in a ring of as many rows as the search window reaches; a row is finished and leaves the ring
when no later group can add to it. Half of every 2-D transform is done once per pixel instead of once per
block of a group: the ring holds, for each position, the column transform of the 8x1 strip that begins there,
so that a block is 64 contiguous numbers and only its row transform is left. Filtered blocks are added up in
the same form, and the inverse column transform is done once per position.

The result is a pure function of the input: one order of additions, no tiles, no threads inside. It is the
same to the bit from any thread and process on one machine; another CPU may contract or sum in another order.

The formulas are those of Dabov et al., IEEE TIP 16(8), 2007, with the exact variance of a group's
coefficients where its blocks overlap, from Makinen, Azzari, Foi, IEEE TIP 29, 2020.
"""

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from data_prep.bm3d.profiles import Profile, Stage
from data_prep.bm3d.transforms import block_transform, kaiser_window, overlap_correlation
from data_prep.errors import UserError

# The vector code below is written out for the paper's 8x8 blocks.
_N1 = 8
_COEFFICIENTS = _N1 * _N1
# Side of the cells that reference blocks four pixels apart share in matching.
_CELL = 4
# Distances that are compared at once before any is put into a list.
_LANES = 16
# Reference blocks matched together: their rows stay in the first-level cache over all displacements.
_CHUNK = 128

# Distances are rounded one by one in a stated order, so that other backends can settle near ties alike.
_exact = njit(nogil=True, cache=True, error_model="numpy")
# Elsewhere sums may be reordered and contracted; infinities and NaN keep their meaning.
_compiled = njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract", "reassoc", "nsz"})


def denoise(z: np.ndarray, profile: Profile) -> np.ndarray:
    """Both stages of BM3D on an image whose noise has standard deviation 1.

    Args:
        z: float32 (height, width), C-contiguous, finite; the sides are 8 plus multiples of both stages'
        steps. profile: the parameters.

    Returns:
        float32 (height, width), the final estimate.

    Raises:
        UserError: a block size other than 8.
    """
    basic = _filter_image(z, z, False, np.float32(profile.lambda_3d), *_plan(profile.hard))
    return _filter_image(z, basic, True, np.float32(profile.mu2), *_plan(profile.wiener))


def _plan(stage: Stage) -> tuple:
    """A stage's parameters as the compiled code takes them."""
    if stage.block_size != _N1:
        raise UserError(
            f"BM3D: the numba backend is written for blocks of side {_N1}, not {stage.block_size}"
        )
    forward, inverse = block_transform(stage.transform_2d, _N1)
    window = kaiser_window(_N1, stage.kaiser_beta)
    r = overlap_correlation(forward)
    # [|dy| * 8 + |dx|, column frequency * 8 + row frequency], the layout of a block in the ring
    overlap = np.einsum("yk,xl->yxlk", r, r).reshape(_COEFFICIENTS, _COEFFICIENTS)
    return (
        stage.step,
        stage.offsets(),
        np.float32(stage.tau_match * _COEFFICIENTS),
        np.float32(stage.distance_floor * _COEFFICIENTS),
        stage.group_size,
        forward.astype(np.float32),
        (window[:, None] * inverse).astype(np.float32),
        window.astype(np.float32),
        overlap.astype(np.float32),
    )


@_compiled
def _filter_image(
    z, pilot, wiener, strength, step, offsets, tau, floor, group_size, forward, inverse, window, overlap
):
    """One stage over the whole image: grouping, collaborative filtering, aggregation (equations 3 to 12).

    `pilot` is the image that blocks are matched on: the noisy one, or the basic estimate for Wiener
    filtering.
    """
    height, width = z.shape
    radius = 0
    for o in range(len(offsets)):
        radius = max(radius, abs(offsets[o, 0]))
    ring = 2 * radius + 1 + step
    noisy_ring = np.empty((ring, width * _N1), np.float32)
    pilot_ring = np.empty((ring if wiener else 1, width * _N1), np.float32)
    sum_ring = np.zeros((ring, width * _N1), np.float32)
    weight_ring = np.zeros((ring, width), np.float32)
    numerator = np.zeros((_N1, width), np.float32)
    denominator = np.zeros((_N1, width), np.float32)
    spread = np.empty(width, np.float32)
    planes = np.empty((_N1, width), np.float32)
    estimate = np.empty((height, width), np.float32)

    last = height - _N1
    references = (width - _N1) // step + 1
    distance = np.empty((references, group_size), np.float32)
    match = np.empty((references, group_size), np.int64)
    matches = np.empty(references, np.int64)
    bounds = np.empty(references, np.float32)
    columns = np.empty(width, np.float32)
    squares = np.empty(width, np.float32)
    cells = np.empty((2, len(offsets), width // _CELL) if step == _CELL else (2, 0, 0), np.float32)
    group = np.empty((group_size, _COEFFICIENTS), np.float32)
    pilot_group = np.empty((group_size, _COEFFICIENTS), np.float32)
    variance = np.empty((group_size, _COEFFICIENTS), np.float32)
    shared = np.empty((group_size + 1, _COEFFICIENTS), np.float32)
    row = np.empty(group_size, np.int64)
    column = np.empty(group_size, np.int64)

    ready = 0
    done = 0
    for y in range(0, last + 1, step):
        while done < y - radius:
            _finish_row(
                done, sum_ring, weight_ring, inverse, window, numerator, denominator, spread, planes, estimate
            )
            done += 1
        while ready <= min(y + radius, last):
            _transform_columns(z, ready, forward, noisy_ring[ready % ring])
            if wiener:
                _transform_columns(pilot, ready, forward, pilot_ring[ready % ring])
            ready += 1
        if step == _CELL:
            upper, lower = cells[y // _CELL % 2], cells[(y // _CELL + 1) % 2]
            if y == 0:
                _cell_sums(pilot, 0, offsets, columns, upper)
            _cell_sums(pilot, y + _CELL, offsets, columns, lower)
            _match_cells(
                pilot.shape, y, upper, lower, offsets, tau, floor, distance, match, matches, bounds, squares
            )
        else:
            for first in range(0, references, _CHUNK):
                stop = min(first + _CHUNK, references)
                _match(
                    pilot,
                    y,
                    step,
                    first,
                    stop,
                    offsets,
                    tau,
                    floor,
                    distance,
                    match,
                    matches,
                    columns,
                    squares,
                )
        for i in range(references):
            size = 1
            while 2 * size <= matches[i]:
                size *= 2
            for b in range(size):
                o = match[i, b]
                row[b] = y + offsets[o, 0]
                column[b] = i * step + offsets[o, 1]
                start = column[b] * _N1
                strip = noisy_ring[row[b] % ring, start : start + _COEFFICIENTS]
                _transform_rows(strip, forward, group[b])
            _haar(group, size)
            _group_variance(row, column, size, overlap, variance, shared)
            if wiener:
                for b in range(size):
                    start = column[b] * _N1
                    strip = pilot_ring[row[b] % ring, start : start + _COEFFICIENTS]
                    _transform_rows(strip, forward, pilot_group[b])
                _haar(pilot_group, size)
                left = _shrink_wiener(group, pilot_group, variance, size, strength)
            else:
                left = _shrink_hard(group, variance, size, strength)
            _inverse_haar(group, size)
            weight = np.float32(1) / left
            for b in range(size):
                start = column[b] * _N1
                strip = sum_ring[row[b] % ring, start : start + _COEFFICIENTS]
                _add_block(group[b], inverse, weight, strip)
                weight_ring[row[b] % ring, column[b]] += weight
    while done <= last:
        _finish_row(
            done, sum_ring, weight_ring, inverse, window, numerator, denominator, spread, planes, estimate
        )
        done += 1
    return estimate


@_compiled
def _transform_columns(z, y, forward, out):
    """The column transform of the 8x1 strips that begin in row y: out[8 x + k], k the frequency."""
    a0, a1, a2, a3 = z[y], z[y + 1], z[y + 2], z[y + 3]
    a4, a5, a6, a7 = z[y + 4], z[y + 5], z[y + 6], z[y + 7]
    for x in range(z.shape[1]):
        for k in range(_N1):
            out[_N1 * x + k] = (
                forward[k, 0] * a0[x]
                + forward[k, 1] * a1[x]
                + forward[k, 2] * a2[x]
                + forward[k, 3] * a3[x]
                + forward[k, 4] * a4[x]
                + forward[k, 5] * a5[x]
                + forward[k, 6] * a6[x]
                + forward[k, 7] * a7[x]
            )


@_exact
def _begin_matches(first, stop, tau, distance, matches):
    """Empties the lists of the reference blocks first <= i < stop."""
    for i in range(first, stop):
        matches[i] = 0
        for n in range(distance.shape[1]):
            distance[i, n] = tau


@_exact
def _insert(i, d, o, distance, match, matches):
    """Puts offset `o` at distance `d` into the ordered list of block `i`; among equals the earlier stays."""
    k = min(matches[i], distance.shape[1] - 1)
    while k > 0 and distance[i, k - 1] > d:
        distance[i, k] = distance[i, k - 1]
        match[i, k] = match[i, k - 1]
        k -= 1
    distance[i, k] = d
    match[i, k] = o
    matches[i] = min(matches[i] + 1, distance.shape[1])


@_exact
def _match(pilot, y, step, first, stop, offsets, tau, floor, distance, match, matches, columns, squares):
    """The nearest blocks of the reference blocks first <= i < stop of row y (equations 5 and 6).

    Every displacement is taken for the whole run of reference blocks at once: squared differences are summed
    along columns, then along rows, so that overlapping reference blocks share the sums.
    """
    height, width = pilot.shape
    worst = distance.shape[1] - 1
    _begin_matches(first, stop, tau, distance, matches)
    for o in range(len(offsets)):
        dy, dx = offsets[o, 0], offsets[o, 1]
        top = y + dy
        if top < 0 or top > height - _N1:
            continue
        begin = max(first, (step - 1 - dx) // step)
        end = min(stop, (width - _N1 - dx) // step + 1)
        if begin >= end:
            continue
        n = (end - 1 - begin) * step + 1
        lo = begin * step
        hi = lo + n + _N1 - 1
        _squares_of_four_rows(pilot, y, top, lo, hi, dx, columns)
        _squares_of_four_rows(pilot, y + 4, top + 4, lo, hi, dx, squares)
        for x in range(n + _N1 - 1):
            columns[x] += squares[x]
        for x in range(n):
            squares[x] = ((columns[x] + columns[x + 1]) + (columns[x + 2] + columns[x + 3])) + (
                (columns[x + 4] + columns[x + 5]) + (columns[x + 6] + columns[x + 7])
            )
        for i in range(begin, end):
            d = max(squares[(i - begin) * step], floor)
            if d < distance[i, worst]:
                _insert(i, d, o, distance, match, matches)


@_exact
def _squares_of_four_rows(pilot, y, top, lo, hi, dx, out):
    """out[x - lo] = the sum over four rows of (pilot[y + r, x] - pilot[top + r, x + dx])**2, lo <= x < hi."""
    a0, a1, a2, a3 = pilot[y, lo:hi], pilot[y + 1, lo:hi], pilot[y + 2, lo:hi], pilot[y + 3, lo:hi]
    l, h = lo + dx, hi + dx  # noqa: E741
    b0, b1, b2, b3 = pilot[top, l:h], pilot[top + 1, l:h], pilot[top + 2, l:h], pilot[top + 3, l:h]
    for x in range(hi - lo):
        e0, e1, e2, e3 = a0[x] - b0[x], a1[x] - b1[x], a2[x] - b2[x], a3[x] - b3[x]
        out[x] = (e0 * e0 + e1 * e1) + (e2 * e2 + e3 * e3)


@_exact
def _cell_sums(pilot, y, offsets, columns, cells):
    """cells[o, c]: squared differences over the 4x4 pixels at (y, 4 c), for every displacement o.

    Reference blocks four pixels apart are made of four such cells each, and every cell serves four of them.
    """
    height, width = pilot.shape
    for o in range(len(offsets)):
        dy, dx = offsets[o, 0], offsets[o, 1]
        top = y + dy
        if top < 0 or top > height - _CELL:
            continue
        begin = max(0, (_CELL - 1 - dx) // _CELL)
        end = min(width, width - dx) // _CELL
        if begin >= end:
            continue
        _squares_of_four_rows(pilot, y, top, begin * _CELL, end * _CELL, dx, columns)
        out = cells[o, begin:end]
        for c in range(end - begin):
            out[c] = (columns[4 * c] + columns[4 * c + 1]) + (columns[4 * c + 2] + columns[4 * c + 3])


@_exact
def _match_cells(shape, y, upper, lower, offsets, tau, floor, distance, match, matches, bounds, sums):
    """`_match` for a whole row of reference blocks four pixels apart, from the cells above and below."""
    height, width = shape
    references = len(matches)
    worst = distance.shape[1] - 1
    _begin_matches(0, references, tau, distance, matches)
    bounds[:] = tau
    for o in range(len(offsets)):
        dy, dx = offsets[o, 0], offsets[o, 1]
        if y + dy < 0 or y + dy > height - _N1:
            continue
        begin = max(0, (_CELL - 1 - dx) // _CELL)
        end = min(references, (width - _N1 - dx) // _CELL + 1)
        if begin >= end:
            continue
        a, b = upper[o, begin : end + 1], lower[o, begin : end + 1]
        for i in range(end - begin):
            sums[i] = max((a[i] + a[i + 1]) + (b[i] + b[i + 1]), floor)
        for first in range(begin, end, _LANES):
            stop = min(first + _LANES, end)
            run, limits = sums[first - begin : stop - begin], bounds[first:stop]
            near = 0
            for i in range(stop - first):
                near += run[i] < limits[i]
            if near:
                for i in range(stop - first):
                    if run[i] < limits[i]:
                        _insert(first + i, run[i], o, distance, match, matches)
                        limits[i] = distance[first + i, worst]


def _mix(context, builder, signature, arguments, accumulate):
    """Code for out[8 l + k] (+)= sum_c matrix[l, c] block[8 c + k], eight k in one vector.

    Loops of eight are unrolled into scalars before numba's vectoriser sees them; here each line of eight is a
    vector from the start.
    """
    out, matrix, block = (
        context.make_array(t)(context, builder, a).data
        for t, a in zip(signature.args[:3], arguments[:3], strict=True)
    )
    scalar = ir.FloatType()
    line = ir.VectorType(scalar, _N1)
    index = ir.IntType(32)
    contract = ("contract",)

    def splat(value):
        single = builder.insert_element(ir.Constant(line, ir.Undefined), value, index(0))
        zeros = ir.Constant(ir.VectorType(index, _N1), [0] * _N1)
        return builder.shuffle_vector(single, ir.Constant(line, ir.Undefined), zeros)

    def at(array, n):
        return builder.gep(array, [index(n)])

    def line_at(array, n):
        return builder.bitcast(at(array, _N1 * n), line.as_pointer())

    lines = [builder.load(line_at(block, c), align=4) for c in range(_N1)]
    for row in range(_N1):
        total = None
        for c in range(_N1):
            term = builder.fmul(splat(builder.load(at(matrix, _N1 * row + c))), lines[c], flags=contract)
            total = term if total is None else builder.fadd(total, term, flags=contract)
        target = line_at(out, row)
        if accumulate:
            total = builder.fmul(total, splat(arguments[3]), flags=contract)
            total = builder.fadd(total, builder.load(target, align=4), flags=contract)
        builder.store(total, target, align=4)
    return context.get_dummy_value()


@intrinsic
def _transform_rows(typing_context, block, matrix, out):
    """The row transform of a block of column transforms: out[8 l + k] = sum_c matrix[l, c] block[8 c + k]."""

    def code(context, builder, signature, arguments):
        args = types.void(out, matrix, block)
        return _mix(context, builder, args, (arguments[2], arguments[1], arguments[0]), False)

    return types.void(block, matrix, out), code


@intrinsic
def _add_block(typing_context, block, matrix, weight, out):
    """out[8 l + k] += weight sum_c matrix[l, c] block[8 c + k]: the inverse row transform, added (equation
    12)."""

    def code(context, builder, signature, arguments):
        args = types.void(out, matrix, block)
        order = (arguments[3], arguments[1], arguments[0], arguments[2])
        return _mix(context, builder, args, order, True)

    return types.void(block, matrix, weight, out), code


@_compiled
def _haar(group, size):
    """The Haar transform along a group, in place.

    The mean of all is at 0; at i + h is the difference of the two halves of [i, i + 2h), i a multiple of 2h.
    """
    r = np.float32(np.sqrt(0.5))
    h = 1
    while h < size:
        for i in range(0, size, 2 * h):
            a, b = group[i], group[i + h]
            for j in range(_COEFFICIENTS):
                s, d = (a[j] + b[j]) * r, (a[j] - b[j]) * r
                a[j] = s
                b[j] = d
        h *= 2


@_compiled
def _inverse_haar(group, size):
    """Undoes `_haar`, in place."""
    r = np.float32(np.sqrt(0.5))
    h = size // 2
    while h >= 1:
        for i in range(0, size, 2 * h):
            a, b = group[i], group[i + h]
            for j in range(_COEFFICIENTS):
                s, d = (a[j] + b[j]) * r, (a[j] - b[j]) * r
                a[j] = s
                b[j] = d
        h //= 2


@_compiled
def _group_variance(row, column, size, overlap, variance, shared):
    """The noise variance of every coefficient of a group, in the order of `_haar`.

    Blocks that overlap share noise, so that the variances are not all 1 (Makinen et al. 2020, section III):
    var[j, k] = sum_ab H[j, a] H[j, b] rho_k(a - b). With s(A) the sum of rho over the pairs within a set of
    blocks and s(A, B) over those between two, the difference of halves A and B of h blocks each has
    1 + (s(A) + s(B) - s(A, B)) / h.
    """
    one = np.float32(1)
    between = shared[size]
    for i in range(size):
        for j in range(_COEFFICIENTS):
            shared[i, j] = 0
    h = 1
    while h < size:
        scale = one / np.float32(h)
        for i in range(0, size, 2 * h):
            for j in range(_COEFFICIENTS):
                between[j] = 0
            for a in range(i, i + h):
                for b in range(i + h, i + 2 * h):
                    dy, dx = abs(row[a] - row[b]), abs(column[a] - column[b])
                    if dy < _N1 and dx < _N1:
                        rho = overlap[dy * _N1 + dx]
                        for j in range(_COEFFICIENTS):
                            between[j] += rho[j]
            left, right, out = shared[i], shared[i + h], variance[i + h]
            for j in range(_COEFFICIENTS):
                out[j] = one + scale * (left[j] + right[j] - between[j])
                left[j] += right[j] + between[j]
        h *= 2
    scale = np.float32(2) / np.float32(size)
    for j in range(_COEFFICIENTS):
        variance[0, j] = one + scale * shared[0, j]


@_compiled
def _shrink_hard(group, variance, size, threshold):
    """Hard thresholding in place (equation 8); returns the noise variance left (equation 10 inverted).

    The mean of the group is always kept, so that adding a constant to an image adds it to the result.
    """
    mean = group[0, 0]
    limit = threshold * threshold
    one, zero = np.float32(1), np.float32(0)
    left = variance[0, 0] if mean * mean < limit * variance[0, 0] else zero
    for i in range(size):
        g, v = group[i], variance[i]
        for j in range(_COEFFICIENTS):
            keep = one if g[j] * g[j] >= limit * v[j] else zero
            left += keep * v[j]
            g[j] *= keep
    group[0, 0] = mean
    return left


@_compiled
def _shrink_wiener(group, pilot_group, variance, size, mu2):
    """Empirical Wiener shrinkage in place (equations 9 and 11); returns the noise variance left."""
    mean = group[0, 0]
    one = np.float32(1)
    power = pilot_group[0, 0] * pilot_group[0, 0]
    gain = power / (power + mu2 * variance[0, 0])
    left = (one - gain * gain) * variance[0, 0]
    for i in range(size):
        g, p, v = group[i], pilot_group[i], variance[i]
        for j in range(_COEFFICIENTS):
            power = p[j] * p[j]
            gain = power / (power + mu2 * v[j])
            g[j] *= gain
            left += gain * gain * v[j]
    group[0, 0] = mean
    return left


@_compiled
def _finish_row(y, sum_ring, weight_ring, inverse, window, numerator, denominator, spread, planes, estimate):
    """Adds the blocks that begin in row y to the image's sums, and divides the rows that are then whole."""
    width = estimate.shape[1]
    sums = sum_ring[y % len(sum_ring)]
    weights = weight_ring[y % len(sum_ring)]
    for x in range(width):
        spread[x] = 0
    for c in range(_N1):
        shifted = spread[c:]
        for x in range(width - _N1 + 1):
            shifted[x] += window[c] * weights[x]
    for x in range(width):
        for k in range(_N1):
            planes[k, x] = sums[_N1 * x + k]
    p0, p1, p2, p3 = planes[0], planes[1], planes[2], planes[3]
    p4, p5, p6, p7 = planes[4], planes[5], planes[6], planes[7]
    for r in range(_N1):
        m0, m1, m2, m3 = inverse[r, 0], inverse[r, 1], inverse[r, 2], inverse[r, 3]
        m4, m5, m6, m7 = inverse[r, 4], inverse[r, 5], inverse[r, 6], inverse[r, 7]
        num, den = numerator[(y + r) % _N1], denominator[(y + r) % _N1]
        for x in range(width):
            num[x] += (m0 * p0[x] + m1 * p1[x] + m2 * p2[x] + m3 * p3[x]) + (
                m4 * p4[x] + m5 * p5[x] + m6 * p6[x] + m7 * p7[x]
            )
            den[x] += window[r] * spread[x]
    sums[:] = 0
    weights[:] = 0
    rows = _N1 if y == len(estimate) - _N1 else 1
    for r in range(rows):
        num, den, out = numerator[(y + r) % _N1], denominator[(y + r) % _N1], estimate[y + r]
        for x in range(width):
            out[x] = num[x] / den[x]
            num[x] = 0
            den[x] = 0
