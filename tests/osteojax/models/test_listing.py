"""`osteojax models` tells what the publishers tell."""

from osteojax.cli.main import run
from osteojax.models.listing import line


def test_size_and_cost_are_torchvisions():
    """torchvision's own table: 3,504,872 parameters, 0.301e9 multiply-adds; XLA counts norms and activations too."""
    found = line("mobilenet_v2")
    assert found.parameters == 3_504_872
    assert 0.97 * 2 * 0.301e9 < found.flops < 1.06 * 2 * 0.301e9
    assert found.top1 == 71.878 and found.weights.endswith("mobilenet_v2-b0353104.pth")
    assert found.images_per_second is None and "BSD-3-Clause" in found.licence


def test_the_table_has_a_line_for_each_name_and_the_licences_below(capsys):
    assert run(["models", "mobilenet_v2", "resnet50_v1", "--size=32"]) == 0
    text = capsys.readouterr().out
    assert "mobilenet_v2" in text and "3.50" in text and "71.9" in text and "a file of yours" in text
    assert text.rstrip().splitlines()[-1].startswith("licence 1: torchvision")
