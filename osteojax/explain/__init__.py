"""Where a network looks, drawn over the radiograph, and tests of whether to believe it.

Each method is one file that registers one function.
"""

from osteojax.registry import discover

discover(__name__)
