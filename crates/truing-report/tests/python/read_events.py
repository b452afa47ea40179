#!/usr/bin/env python3
"""Prints what TensorBoard's own reader finds in a folder of event files, one JSON object a scalar.

    python read_events.py <folder>

Used by tests/main.rs when TRUING_TEST_PYTHON names a Python that has the package `tensorboard`.
"""
import json
import sys

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

accumulator = EventAccumulator(sys.argv[1], size_guidance={"scalars": 0})
accumulator.Reload()
for tag in sorted(accumulator.Tags()["scalars"]):
    for event in accumulator.Scalars(tag):
        print(json.dumps({"tag": tag, "step": event.step, "value": event.value, "wall_time": event.wall_time}))
