# ruff: noqa: ANN001, ANN202 (compiled functions: numba infers the types of their arguments)
"""BM3D compiled for the CPU: one image a thread, the GIL released, compiled code cached on disk.

How it is fast, and why its memory stays flat. Reference blocks are visited row by row, and everything that
they touch lies in a ring of as many rows as the search window reaches; a row is finished and leaves the ring
when no later group can add to it. Half of every 2-D transform is done once per pixel instead of once per
block of a group: the ring holds, for each position, the column transform of the 8x1 strip that begins there,
so that a block is 64 contiguous numbers and only its row transform is left. Filtered blocks are added up in
the same form, and the inverse column transform is done once per position. Loops over 8 or 16 numbers are written
out as vectors, because they are unrolled into scalars before numba's vectoriser sees them.

All of it is in one file because numba's cache notices a change of the file that a function is in, but not one of
the functions that it calls in others.

The result is a pure function of the input: one order of additions, no tiles, no threads inside. It is the
same to the bit from any thread and process on one machine, be it compiled there and then or loaded from the cache;
another CPU may contract or sum in another order. So the kernels are inlined by force into the one function that is
called from Python and cached. Left as calls, a process that compiles them runs each as it was optimised on its own,
and one that loads the whole from the cache as it was optimised along with its caller, which sums in another order.

The formulas are those of Dabov et al., IEEE TIP 16(8), 2007, with the exact variance of a group's
coefficients where its blocks overlap, from Makinen, Azzari, Foi, IEEE TIP 29, 2020.
"""

import functools

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from data_prep.denoise.bm3d.coloured import WHITE, unlike
from data_prep.denoise.bm3d.profiles import Profile, Stage
from data_prep.denoise.bm3d.regions import continued
from data_prep.denoise.bm3d.transforms import block_covariance, block_transform, kaiser_window
from osteojax.errors import UserError

# The vector code below is written out for the paper's 8x8 blocks.
_N1 = 8
_COEFFICIENTS = _N1 * _N1
# Numbers in the vectors that are written out, and places of a list of matches in each of its lines.
_LANES = 16
# Bytes of a line of the cache, and of as many numbers as a vector has.
_LINE = 64
# What surrounds an image in matching: no block that reaches into it is near any other.
_FAR = np.float32(1e15)
# What surrounds a region within the image: no pixel of the region is near it either.
_OUTSIDE = np.float32(1e13)
# Above it, squares of differences on a grid come close to those.
_LARGEST = 1e8
# Rows of reference blocks that are matched together, and displacements that they go through together: their cells'
# distances stay in the second-level cache.
_BAND = 16
_DISPLACEMENTS = 32

# Products and sums may become one instruction.
_CONTRACT = ("contract",)
# Sums may be reordered and contracted; infinities and NaN keep their meaning.
_jit = functools.partial(njit, nogil=True, error_model="numpy", fastmath={"contract", "reassoc", "nsz"})
_compiled = _jit(cache=True)
_inlined = _jit(forceinline=True)


def denoise(
    z: np.ndarray, profile: Profile, autocovariance: np.ndarray = WHITE, regions: np.ndarray | None = None
) -> np.ndarray:
    """Both stages of BM3D on an image whose noise has standard deviation 1.

    Args:
        z: float32 (height, width), C-contiguous, within 1e8 of 0; the sides are 8 plus multiples of both
            stages' steps.
        profile: the parameters.
        autocovariance: of the noise, as of `data_prep.denoise.bm3d.coloured.autocovariance`.
        regions: uint8 (height, width), the region of every pixel, beyond which no block is matched; None for one.

    Returns:
        float32 (height, width), the final estimate.

    Raises:
        UserError: a block size other than 8, a step other than 1, 2 and 4, or pixels that are NaN, infinite or too
            large: a block would be near nothing then, itself included.
    """
    if not max(z.max(), -z.min()) <= _LARGEST:  # NaN is not
        raise UserError(f"BM3D: pixels must be finite and within {_LARGEST:g} times sigma of 0")
    hard = False, np.float32(profile.lambda_3d), *_plan(profile.hard, autocovariance)
    wiener = True, np.float32(profile.mu2), *_plan(profile.wiener, autocovariance)
    if regions is None:
        basic = _filter_image(z, z, *hard, None)
        return _filter_image(z, basic, *wiener, None)
    basic = _filter_regions(z, z, hard, regions)
    return _filter_regions(z, basic, wiener, regions)


def _filter_regions(z: np.ndarray, pilot: np.ndarray, plan: tuple, regions: np.ndarray) -> np.ndarray:
    """One stage of bounded BM3D: each region is filtered as if the image ended where it does."""
    result = np.empty_like(z)
    for region in np.unique(regions):
        inside = regions == region
        own = continued(z, inside)
        own_pilot = own if pilot is z else continued(pilot, inside)
        np.copyto(result, _filter_image(own, own_pilot, *plan, inside), where=inside)
    return result


def _plan(stage: Stage, autocovariance: np.ndarray) -> tuple:
    """A stage's parameters as the compiled code takes them."""
    if stage.block_size != _N1:
        raise UserError(
            f"BM3D: the numba backend is written for blocks of side {_N1}, not {stage.block_size}"
        )
    if stage.step not in (1, 2, 4):
        raise UserError(f"BM3D: the numba backend takes steps of 1, 2 or 4 pixels, not {stage.step}")
    forward, inverse = block_transform(stage.transform_2d, _N1)
    window = kaiser_window(_N1, stage.kaiser_beta)
    # No two blocks of a group lie farther apart than the search window is wide.
    reach = min(len(autocovariance) + _N1 - 1, stage.search_window)
    # [|dy| * reach + |dx|, row frequency * 8 + column frequency], the layout of a block in the ring
    shared = block_covariance(forward, autocovariance, reach).swapaxes(2, 3).reshape(-1, _COEFFICIENTS)
    return (
        stage.step,
        unlike(stage.offsets(), autocovariance),
        np.float32(stage.grid),
        np.float32(stage.tau_match * stage.distance_unit),
        np.float32(stage.distance_floor * stage.distance_unit),
        stage.group_size,
        *((m.astype(np.float32), _row_pairs(m)) for m in (forward, window[:, None] * inverse)),
        window.astype(np.float32),
        _aligned(shared.astype(np.float32)),
        reach,
    )


def _row_pairs(matrix: np.ndarray) -> np.ndarray:
    """Of an (8, 8) matrix, float32 (4, 8, 16): eight times each entry of a column in two rows, side by side."""
    pairs = matrix.astype(np.float32).reshape(_N1 // 2, 2, _N1).swapaxes(1, 2)
    return _aligned(np.repeat(pairs, _N1, axis=2))


def _aligned(values: np.ndarray) -> np.ndarray:
    """A copy that begins where a line of the cache does, so that no vector of it lies in two."""
    room = np.empty(values.nbytes + _LINE, np.uint8)
    start = -room.ctypes.data % _LINE
    copy = room[start : start + values.nbytes].view(values.dtype).reshape(values.shape)
    copy[:] = values
    return copy


@_compiled
def _filter_image(
    z,
    pilot,
    wiener,
    strength,
    step,
    offsets,
    grid,
    tau,
    floor,
    group_size,
    forward,
    inverse,
    window,
    overlap,
    reach,
    inside,
):
    """One stage over the whole image: grouping, collaborative filtering, aggregation (equations 3 to 12).

    `pilot` is the image that blocks are matched on: the noisy one, or the basic estimate for Wiener
    filtering. `forward` and `inverse` are matrices and what `_row_pairs` makes of them. `inside` is None, or bool
    (height, width), true in the region that is filtered: the others of the result are no numbers then.
    """
    height, width = z.shape
    forward, forward_pairs = forward
    inverse, inverse_pairs = inverse
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
    # A list of matches is a whole number of lines.
    places = (group_size + _LANES - 1) // _LANES * _LANES
    distance = np.empty((_BAND, references, places), np.float32)
    match = np.empty((_BAND, references, places), np.int32)
    dealt, margin = _deal_columns(pilot, grid, step, radius)
    shares = np.ones((last // step + 1, references), np.float32)
    if inside is not None:
        _leave_out(dealt, inside, margin, radius)
        _count(inside, step, shares)
    shifts = _shifts(dealt, offsets)
    group, pilot_group = _aligned_blocks(group_size), _aligned_blocks(group_size)
    variance, shared = _aligned_blocks(group_size), _aligned_blocks(group_size)
    pairs = np.empty((group_size // 2) ** 2 + 1, np.int64)
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
        k = y // step % _BAND
        if k == 0:
            rows = min(_BAND, (last - y) // step + 1)
            _match(
                dealt,
                y,
                rows,
                radius,
                margin,
                shifts,
                tau,
                floor,
                group_size,
                distance,
                match,
                shares,
                inside,
            )
        for i in range(references):
            size = group_size
            bound = tau * shares[y // step, i]
            if not bound:
                continue
            while distance[k, i, size - 1] >= bound:
                size //= 2
            for b in range(size):
                o = match[k, i, b]
                row[b] = y + offsets[o, 0]
                column[b] = i * step + offsets[o, 1]
                start = column[b] * _N1
                strip = noisy_ring[row[b] % ring, start : start + _COEFFICIENTS]
                _transform_rows(strip, forward_pairs, group[b])
            _haar(group, size)
            _group_variance(row, column, size, overlap, reach, variance, shared, pairs)
            if wiener:
                for b in range(size):
                    start = column[b] * _N1
                    strip = pilot_ring[row[b] % ring, start : start + _COEFFICIENTS]
                    _transform_rows(strip, forward_pairs, pilot_group[b])
                _haar(pilot_group, size)
                left = _shrink_wiener(group, pilot_group, variance, size, strength)
            else:
                left = _shrink_hard(group, variance, size, strength)
            _inverse_haar(group, size)
            weight = np.float32(1) / left
            for b in range(size):
                start = column[b] * _N1
                strip = sum_ring[row[b] % ring, start : start + _COEFFICIENTS]
                _add_block(group[b], inverse_pairs, weight, strip)
                weight_ring[row[b] % ring, column[b]] += weight
    while done <= last:
        _finish_row(
            done, sum_ring, weight_ring, inverse, window, numerator, denominator, spread, planes, estimate
        )
        done += 1
    return estimate


@_inlined
def _aligned_blocks(count):
    """Room for blocks of coefficients, (count, 64); see `_aligned`."""
    room = np.empty(count * _COEFFICIENTS + _LANES, np.float32)
    start = (_LINE - room.ctypes.data % _LINE) % _LINE // 4
    return room[start : start + count * _COEFFICIENTS].reshape((count, _COEFFICIENTS))


@_inlined
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


@_inlined
def _deal_columns(pilot, grid, step, radius):
    """The image's columns dealt into `step` planes a row, so that pixels of neighbouring cells are neighbours.

    Returns planes[radius + y, x % step, margin + x // step] = pilot[y, x], _FAR around them, and the margin. With a
    grid, pixels are whole numbers of its steps: distances are then exact, summed in whatever order.
    """
    height, width = pilot.shape
    margin = radius // step + 1
    lanes = (width // step + _LANES - 1) // _LANES * _LANES
    planes = np.full((height + 2 * radius, step, lanes + 2 * margin), _FAR, np.float32)
    for y in range(height):
        for p in range(step):
            plane = planes[radius + y, p, margin:]
            for c in range(width // step):
                value = pilot[y, step * c + p]
                plane[c] = np.rint(value * grid) if grid else value
    return planes, margin


@_inlined
def _leave_out(dealt, inside, margin, radius):
    """Makes the pixels of `dealt` that are outside the region `_OUTSIDE`."""
    step = dealt.shape[1]
    for y in range(inside.shape[0]):
        for x in range(inside.shape[1]):
            if not inside[y, x]:
                dealt[radius + y, x % step, margin + x // step] = _OUTSIDE


@_inlined
def _count(inside, step, shares):
    """Puts the share of every reference block that is inside into `shares` (rows, columns)."""
    for i in range(shares.shape[0]):
        for j in range(shares.shape[1]):
            count = 0
            for y in range(step * i, step * i + _N1):
                for x in range(step * j, step * j + _N1):
                    count += inside[y, x]
            shares[i, j] = np.float32(count) / np.float32(_COEFFICIENTS)


@_inlined
def _shifts(dealt, offsets):
    """How far in `dealt` the pixels of plane p of a cell's row move with each displacement: [o, p]."""
    _, step, side = dealt.shape
    shifts = np.empty((len(offsets), step), np.int64)
    for o in range(len(offsets)):
        dy, dx = offsets[o, 0], offsets[o, 1]
        for p in range(step):
            shifts[o, p] = (step * dy + (p + dx) % step) * side + (p + dx) // step
    return shifts


@_inlined
def _match(dealt, y, rows, radius, margin, shifts, tau, floor, group_size, distance, match, shares, inside):
    """The nearest blocks of `rows` rows of reference blocks, the first at y (equations 5 and 6).

    A block is made of cells of step x step pixels, of which neighbouring reference blocks share all but a row or a
    column. Each cell's distance to its displaced self is computed once; blocks are sums of them. Unless
    `inside` is None, what is outside in a reference block is not compared: its limits are those of the share that is.
    """
    _, step, side = dealt.shape
    cells = _N1 // step
    lanes = side - 2 * margin
    references = distance.shape[1]
    # No distance is below the bound of what is no reference block: where a line goes on past the last, and in the
    # last row, which stands for the rows of cells above the first block.
    bounds = np.zeros((rows + 1, lanes), np.float32)
    floors = np.zeros((rows + 1, lanes), np.float32)
    for r in range(rows):
        for n in range(references):
            bounds[r, n] = tau * shares[y // step + r, n]
            distance[r, n] = bounds[r, n]
            floors[r, n] = floor * shares[y // step + r, n]
    cell = np.zeros((_DISPLACEMENTS, lanes + _LANES), np.float32)
    strips = np.zeros((_DISPLACEMENTS, cells, lanes), np.float32)
    block = np.empty((_DISPLACEMENTS, _LANES), np.float32)
    near = np.empty(_DISPLACEMENTS, np.int64)
    for first in range(0, len(shifts), _DISPLACEMENTS):
        some = shifts[first : first + _DISPLACEMENTS]
        for r in range(rows + cells - 1):
            start = (radius + y + step * r) * step * side + margin
            for x in range(0, lanes, _LANES):
                if step == 4:
                    _distances_of_cells(4, inside, dealt, start + x, side, some, cell, x)
                elif step == 2:
                    _distances_of_cells(2, inside, dealt, start + x, side, some, cell, x)
                else:
                    _distances_of_cells(1, inside, dealt, start + x, side, some, cell, x)
            i = r - cells + 1 if r >= cells - 1 else rows
            slot = r % cells
            for x in range(0, lanes, _LANES):
                if step == 4:
                    _distances_of_blocks(
                        2, cell, x, strips, slot, len(some), floors, i, bounds[i], block, near
                    )
                elif step == 2:
                    _distances_of_blocks(
                        4, cell, x, strips, slot, len(some), floors, i, bounds[i], block, near
                    )
                else:
                    _distances_of_blocks(
                        8, cell, x, strips, slot, len(some), floors, i, bounds[i], block, near
                    )
                for o in range(len(some)):
                    while near[o]:
                        lane = _lowest_bit(near[o])
                        near[o] &= near[o] - 1
                        n = x + lane
                        if block[o, lane] < bounds[i, n]:
                            _insert(n, block[o, lane], first + o, distance[i], match[i])
                            bounds[i, n] = distance[i, n, group_size - 1]


@intrinsic
def _insert(typing_context, i, d, o, distance, match):
    """Puts offset `o` at distance `d` into block i's list, nearest first; among equals the earlier stays.

    Lists are whole lines of 16 lanes. Of a line, what is not farther than d keeps its place, and the rest moves on by
    one; the last of a line moves to the next, so that lines are taken from the last to the first.
    """

    def code(context, builder, signature, arguments):
        i, d, o = arguments[:3]
        distance, match = (
            context.make_array(signature.args[n])(context, builder, arguments[n]) for n in (3, 4)
        )
        _, width = cgutils.unpack_tuple(builder, distance.shape)
        number = width.type
        row = builder.mul(i, width)
        new = (_splat(builder, d, _LANES), _splat(builder, builder.trunc(o, ir.IntType(32)), _LANES))
        left_neighbour = ir.Constant(
            ir.VectorType(ir.IntType(32), _LANES), [_LANES - 1, *range(_LANES, 2 * _LANES - 1)]
        )
        lines = builder.udiv(width, number(_LANES))
        with cgutils.for_range(builder, lines) as loop:
            line = builder.sub(builder.sub(lines, number(1)), loop.index)
            at = builder.add(row, builder.mul(line, number(_LANES)))
            is_first = builder.icmp_unsigned("==", line, number(0))
            before = builder.sub(at, builder.select(is_first, number(0), number(_LANES)))

            def moved_on(previous, here):
                """Every lane's left neighbour."""
                return builder.shuffle_vector(previous, here, left_neighbour)

            distances, previous = (
                builder.load(_lanes_at(builder, distance.data, n), align=4) for n in (at, before)
            )
            stays = builder.fcmp_ordered("<=", distances, new[0])
            stayed = builder.fcmp_ordered("<=", previous, new[0])
            ones = ir.Constant(stays.type, [1] * _LANES)
            stayed = builder.select(is_first, ones, stayed)
            neighbour_stays = moved_on(stayed, stays)
            lists = (
                (distance, distances, previous, new[0]),
                (
                    match,
                    *(builder.load(_lanes_at(builder, match.data, n), align=4) for n in (at, before)),
                    new[1],
                ),
            )
            for array, here, there, value in lists:
                moved = builder.select(neighbour_stays, value, moved_on(there, here))
                builder.store(builder.select(stays, here, moved), _lanes_at(builder, array.data, at), align=4)
        return context.get_dummy_value()

    return types.void(i, d, o, distance, match), code


def _lanes_at(builder, array, at):
    """Code for the address of `_LANES` numbers that begin at element `at`."""
    line = ir.VectorType(array.type.pointee, _LANES)
    return builder.bitcast(builder.gep(array, [at]), line.as_pointer())


@intrinsic(prefer_literal=True)
def _distances_of_cells(typing_context, step, inside, dealt, start, side, shifts, cell, column):
    """cell[o, column + i], i < 16: squared differences over step x step pixels, for every displacement o.

    Unless `inside` is None, of those pixels that are not `_OUTSIDE`, wherever they go within the image. `start` is
    where the first cell's first pixel lies in `dealt`. The cells' pixels stay in registers while the
    displacements go by, one load, one difference and one square each.
    """
    size = step.literal_value
    masked = not isinstance(inside, types.NoneType)

    def code(context, builder, signature, arguments):
        dealt, shifts, cell = (
            context.make_array(signature.args[i])(context, builder, arguments[i]) for i in (2, 5, 6)
        )
        start, side, column = arguments[3], arguments[4], arguments[7]
        displacements, _ = cgutils.unpack_tuple(builder, shifts.shape)
        _, width = cgutils.unpack_tuple(builder, cell.shape)
        number = side.type
        rows = [builder.add(start, builder.mul(side, number(size * r))) for r in range(size)]

        def load(at):
            return builder.load(_lanes_at(builder, dealt.data, at), align=4)

        here = [[load(builder.add(row, builder.mul(side, number(p)))) for row in rows] for p in range(size)]
        line = here[0][0].type
        outside = ir.Constant(line, [float(_OUTSIDE)] * _LANES)
        nothing = ir.Constant(line, [0.0] * _LANES)
        compared = [[builder.fcmp_ordered("<", pixels, outside) for pixels in plane] for plane in here]
        with cgutils.for_range(builder, displacements) as loop:
            totals = []
            for p in range(size):
                at = builder.add(builder.mul(loop.index, number(size)), number(p))
                shift = builder.load(builder.gep(shifts.data, [at]))
                total = None
                for row, pixels, counts in zip(rows, here[p], compared[p], strict=True):
                    there = load(builder.add(row, shift))
                    difference = builder.fsub(pixels, there)
                    if masked:
                        gone = builder.fcmp_ordered(">", there, outside)
                        difference = builder.select(builder.or_(counts, gone), difference, nothing)
                    square = builder.fmul(difference, difference, flags=_CONTRACT)
                    total = square if total is None else builder.fadd(total, square, flags=_CONTRACT)
                totals.append(total)
            at = builder.add(builder.mul(loop.index, width), column)
            builder.store(functools.reduce(builder.fadd, totals), _lanes_at(builder, cell.data, at), align=4)
        return context.get_dummy_value()

    return types.void(step, inside, dealt, start, side, shifts, cell, column), code


@intrinsic(prefer_literal=True)
def _distances_of_blocks(
    typing_context, cells, cell, column, strips, slot, displacements, floors, row, bounds, block, near
):
    """Distances of the 16 blocks that end in this row of cells, from cell `column` on, for every displacement o.

    strips[o, slot, column + i] becomes the sum of the cells across block i, and block[o, i] the sum of its strips, at
    least floors[row, column + i]. Bit i of near[o]: block[o, i] is below bounds[column + i].
    """
    count = cells.literal_value

    def code(context, builder, signature, arguments):
        cell, strips, floors, bounds, block, near = (
            context.make_array(signature.args[i])(context, builder, arguments[i]) for i in (1, 3, 6, 8, 9, 10)
        )
        column, slot, displacements = arguments[2], arguments[4], arguments[5]
        _, cell_width = cgutils.unpack_tuple(builder, cell.shape)
        _, _, lanes = cgutils.unpack_tuple(builder, strips.shape)
        number = lanes.type
        at = builder.add(builder.mul(arguments[7], lanes), column)
        lowest = builder.load(_lanes_at(builder, floors.data, at), align=4)
        limits = builder.load(_lanes_at(builder, bounds.data, column), align=4)

        def sum_of(data, start, apart):
            places = (builder.add(start, builder.mul(apart, number(n))) for n in range(count))
            values = (builder.load(_lanes_at(builder, data, at), align=4) for at in places)
            return functools.reduce(builder.fadd, values)

        with cgutils.for_range(builder, displacements) as loop:
            o = loop.index
            strip = sum_of(cell.data, builder.add(builder.mul(o, cell_width), column), number(1))
            first = builder.add(builder.mul(o, builder.mul(lanes, number(count))), column)
            at = builder.add(first, builder.mul(slot, lanes))
            builder.store(strip, _lanes_at(builder, strips.data, at), align=4)
            total = sum_of(strips.data, first, lanes)
            total = builder.select(builder.fcmp_ordered("<", total, lowest), lowest, total)
            builder.store(total, _lanes_at(builder, block.data, builder.mul(o, number(_LANES))), align=4)
            below = builder.bitcast(builder.fcmp_ordered("<", total, limits), ir.IntType(_LANES))
            builder.store(builder.zext(below, number), builder.gep(near.data, [o]))
        return context.get_dummy_value()

    return types.void(
        cells, cell, column, strips, slot, displacements, floors, row, bounds, block, near
    ), code


@intrinsic
def _lowest_bit(typing_context, bits):
    """The index of the lowest bit that is set; `bits` is not 0."""

    def code(context, builder, signature, arguments):
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(bits), code


def _splat(builder, value, lanes):
    """Code for a vector with `value` in every lane."""
    undefined = ir.Constant(ir.VectorType(value.type, lanes), ir.Undefined)
    single = builder.insert_element(undefined, value, ir.IntType(32)(0))
    return builder.shuffle_vector(
        single, undefined, ir.Constant(ir.VectorType(ir.IntType(32), lanes), [0] * lanes)
    )


@intrinsic
def _join_halves(typing_context, overlap, pairs, count, scale, left, right, difference):
    """With a = left + right and b = sum_n overlap[pairs[n]], n < count: difference = overlap[0] + scale (a - b), and
    left becomes a + b."""

    def code(context, builder, signature, arguments):
        overlap, pairs, left, right, difference = (
            context.make_array(signature.args[i])(context, builder, arguments[i]).data
            for i in (0, 1, 4, 5, 6)
        )
        line = ir.VectorType(ir.FloatType(), _LANES)
        starts = [ir.Constant(ir.IntType(64), j) for j in range(0, _COEFFICIENTS, _LANES)]
        between = [cgutils.alloca_once_value(builder, ir.Constant(line, [0.0] * _LANES)) for _ in starts]
        with cgutils.for_range(builder, arguments[2]) as loop:
            pair = builder.load(builder.gep(pairs, [loop.index]))
            row = builder.mul(pair, ir.Constant(pair.type, _COEFFICIENTS))
            for start, total in zip(starts, between, strict=True):
                rho = builder.load(_lanes_at(builder, overlap, builder.add(row, start)), align=4)
                builder.store(builder.fadd(builder.load(total), rho), total)
        scale = _splat(builder, arguments[3], _LANES)
        for start, total in zip(starts, between, strict=True):
            target = _lanes_at(builder, left, start)
            a, ab = builder.load(target, align=4), builder.load(total)
            b = builder.load(_lanes_at(builder, right, start), align=4)
            within = builder.fadd(a, b)
            own = builder.load(_lanes_at(builder, overlap, start), align=4)
            variance = builder.fadd(own, builder.fmul(scale, builder.fsub(within, ab)))
            builder.store(variance, _lanes_at(builder, difference, start), align=4)
            builder.store(builder.fadd(within, ab), target, align=4)
        return context.get_dummy_value()

    return types.void(overlap, pairs, count, scale, left, right, difference), code


def _mix(context, builder, signature, arguments, accumulate):
    """Code for out[8 l + k] (+)= sum_c matrix[l, c] block[8 c + k]: eight k of two rows l in one vector.

    `matrix` is as of `_row_pairs`.
    """
    out, matrix, block = (
        context.make_array(t)(context, builder, a).data
        for t, a in zip(signature.args[:3], arguments[:3], strict=True)
    )
    line = ir.VectorType(ir.FloatType(), _N1)
    index = ir.IntType(32)
    twice = ir.Constant(ir.VectorType(index, _LANES), [*range(_N1), *range(_N1)])

    def line_twice(n):
        single = builder.load(
            builder.bitcast(builder.gep(block, [index(_N1 * n)]), line.as_pointer()), align=4
        )
        return builder.shuffle_vector(single, ir.Constant(line, ir.Undefined), twice)

    lines = [line_twice(c) for c in range(_N1)]
    for pair in range(_N1 // 2):
        total = None
        for c in range(_N1):
            factors = builder.load(_lanes_at(builder, matrix, index(_LANES * (_N1 * pair + c))), align=4)
            term = builder.fmul(factors, lines[c], flags=_CONTRACT)
            total = term if total is None else builder.fadd(total, term, flags=_CONTRACT)
        target = _lanes_at(builder, out, index(_LANES * pair))
        if accumulate:
            total = builder.fmul(total, _splat(builder, arguments[3], _LANES), flags=_CONTRACT)
            total = builder.fadd(total, builder.load(target, align=4), flags=_CONTRACT)
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


@_inlined
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


@_inlined
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


@_inlined
def _group_variance(row, column, size, overlap, reach, variance, shared, pairs):
    """The noise variance of every coefficient of a group, in the order of `_haar`.

    Blocks nearer than `reach` share noise (Makinen et al. 2020, section III):
    var[j, k] = sum_ab H[j, a] H[j, b] rho_k(a - b). With s(A) the sum of rho over the pairs within a set of
    blocks and s(A, B) over those between two, the difference of halves A and B of h blocks each has
    rho(0) + (s(A) + s(B) - s(A, B)) / h; rho(0) is 1 where the noise is white.
    """
    one = np.float32(1)
    for i in range(size):
        for j in range(_COEFFICIENTS):
            shared[i, j] = 0
    h = 1
    while h < size:
        for i in range(0, size, 2 * h):
            count = 0
            for a in range(i, i + h):
                for b in range(i + h, i + 2 * h):
                    dy, dx = abs(row[a] - row[b]), abs(column[a] - column[b])
                    pairs[count] = dy * reach + dx
                    count += (dy < reach) & (dx < reach)
            _join_halves(
                overlap, pairs, count, one / np.float32(h), shared[i], shared[i + h], variance[i + h]
            )
        h *= 2
    scale = np.float32(2) / np.float32(size)
    for j in range(_COEFFICIENTS):
        variance[0, j] = overlap[0, j] + scale * shared[0, j]


@_inlined
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


@_inlined
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


@_inlined
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
