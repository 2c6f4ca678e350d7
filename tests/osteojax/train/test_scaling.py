"""What a step sends: the gradient of what learns, and little else."""

import jax

from osteojax.compile_check.program import compile_program, ring_bound_bytes
from osteojax.devices.mesh import make_mesh


def test_one_device_sends_nothing_and_four_send_little_more_than_the_gradient(quick):
    quick.data.batch_size = 8
    # With the stem learning, the gradient of its grey image's constant term goes as a map of 112 x 112 x 64: 3 MB,
    # which is 3 % of a ResNet-50's gradient but dwarfs this network's.
    quick.preset = "stage1+"
    sent = {}
    for n in (1, 4):
        program = compile_program(quick, make_mesh(n, 1, jax.devices()[:n]))
        sent[n] = sum(c.sent for c in program.compiled.collectives)
    bound = ring_bound_bytes(program.gradient_bytes, 4)
    assert sent[1] == 0
    # This network is all small layers: half as much again is its batch norm over the global batch.
    assert bound <= sent[4] < 1.5 * bound


def test_frozen_parameters_are_not_sent(quick):
    quick.preset = "head"
    program = compile_program(quick, make_mesh(4, 1, jax.devices()[:4]))
    assert program.gradient_bytes == 4 * (8 * 3 + 3)
    assert sum(c.sent for c in program.compiled.collectives) < 2000
