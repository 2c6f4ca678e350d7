"""Configs of `osteojax train-segmenter`."""
