"""Rules of the system: waiting for data, threads, memory, and results that a seed does not repeat."""

from __future__ import annotations

import itertools
import statistics
import time

import torch

from goodfit.doctor.course import DISSECTED, EARLY, StepRecord
from goodfit.doctor.examination import Examination
from goodfit.doctor.finding import Finding, Rule, Stage
from goodfit.doctor.progress import repeat_steps
from goodfit.doctor.system import (
    Difference,
    compare_batches,
    compare_losses,
    compare_weights,
    count_cores,
    measure_growth,
    measure_wake_up,
)
from goodfit.inspection.memory import MB, is_memory_exact

ROUNDING = 1e-5  # relative difference up to which sums in another order may explain it
MIN_IDLE = 0.003  # seconds of sleep for a batch that matter
MIN_BUSY, MIN_NEEDLESS = 0.01, 0.002  # seconds of computing a batch that matter: new images, or the same in every epoch
MIN_LEAK, SURE_LEAK = 8 / 1024, 24 / 1024  # MB with each step


def find_nondeterministic(exam: Examination) -> Finding | None:
    """The images of the first epochs, or the network's weights, are others when the same seed makes them again."""
    difference = compare_batches(exam.source) or compare_weights(exam.source)
    return _describe_difference(difference)


def find_nondeterministic_steps(exam: Examination) -> Finding | None:
    """The same first steps, from the same weights on the same images, return other losses."""
    again = repeat_steps(exam)[0].losses
    pairs = list(zip((record.loss for record in exam.course.records), again, strict=False))
    if not any(abs(a - b) > ROUNDING * max(abs(a), abs(b)) for a, b in pairs):
        return None
    exam.trial_steps += 2 * len(again)
    return _describe_difference(compare_losses(exam.source, len(again)))  # with nothing of ours in between


def _describe_difference(difference: Difference | None) -> Finding | None:
    if difference is None or difference.size <= ROUNDING:
        return None
    return Finding(
        "nondeterministic",
        0.97,
        f"Made twice from the same seed, the {difference.part} of {difference.place} differ by {100 * difference.size:.2g} %.",
        "Draw every random number from a generator that the seed of the training sets.",
    )


def find_threads_oversubscribed(exam: Examination) -> Finding | None:
    """torch has been told to use far more threads than this process has cores, or as many are at work in the first steps."""
    at_work = round(repeat_steps(exam)[1].usual)
    found = _describe_threads(torch.get_num_threads(), "torch uses")
    return found or _describe_threads(at_work, "in steps there are at work")


def _describe_threads(threads: int, what: str) -> Finding | None:
    cores = count_cores()
    if threads < max(2 * cores, 4):
        return None
    confidence = 0.97 if threads >= 4 * cores else 0.92 if threads >= 8 else 0.7
    return Finding(
        "threads_oversubscribed",
        confidence,
        f"There are {cores} cores for this process, and {what} {threads} threads, which take turns and wait for one another.",
        f"Use no more than {cores} threads in all: torch.set_num_threads({cores}), and fewer where workers load data.",
    )


def find_data_starved(exam: Examination) -> Finding | None:
    """Steps wait for batches: the loader sleeps, or computes what it could have kept, for longer than the step takes."""
    records = [record for record in exam.course.records[1:EARLY] if record.step not in DISSECTED]
    if len(records) < 8:
        return None
    idle = statistics.quantiles([max(r.wait - r.wait_processor, 0.0) for r in records], n=10)[2]  # another process may have had the core
    busy, step = statistics.median(r.wait_processor for r in records), statistics.median(min(r.processor, r.seconds) for r in records)
    crowding = max(statistics.median(r.seconds for r in records) / max(step, 1e-9), 1.0)  # how much slower others make the steps
    if idle > MIN_IDLE:
        idle -= measure_wake_up()  # a crowded machine is late to wake whatever sleeps, and every short wait is long there
    share = idle / max(idle + busy + step, 1e-9)
    if idle > max(MIN_IDLE, 4 * busy * crowding) and share > 0.2:
        return Finding(
            "data_starved",
            0.97 if share > 0.3 else 0.8,
            f"Each step waits {1e3 * idle:.0f} ms for a batch while the processor sleeps, and then computes for {1e3 * step:.1f} ms.",
            "Load the next batches in other threads or processes while a step computes, or keep the images in memory.",
        )
    return _find_needless_work(exam, busy, step, records)


def _find_needless_work(exam: Examination, busy: float, step: float, records: list[StepRecord]) -> Finding | None:
    """Batches that take more computing than the step, far more than a copy does, although the images are the same in each epoch."""
    share = busy / max(busy + step, 1e-9)
    if busy < MIN_NEEDLESS or share < 0.3:
        return None
    work = busy / max(_time_copy(exam, records[0].images), 1e-6)
    is_same = _is_every_epoch_the_same(exam)
    if work < 30 or not (is_same or (busy > MIN_BUSY and share > 0.6)):
        return None
    confidence = (0.92 if share > 0.5 else 0.7) if is_same else 0.6 if work > 150 and share > 0.75 else 0.3
    return Finding(
        "data_starved",
        confidence,
        f"Preparing a batch takes {1e3 * busy:.0f} ms of the processor, {work:.0f} times a copy of it, and the step {1e3 * step:.1f} ms"
        + (", although the images are the same in every epoch." if is_same else "."),
        "Prepare the images once and keep them, or prepare whole batches at a time instead of image by image.",
        is_material=confidence >= 0.5,
    )


def _time_copy(exam: Examination, n: int) -> float:
    """Seconds of the processor for a copy of a batch with a change of scale."""
    images = exam.sample.train.images[:n]
    times = []
    for _ in range(5):
        start = time.process_time()
        (images * 0.5 + 0.1).clone()
        times.append(time.process_time() - start)
    return statistics.median(times)


def _is_every_epoch_the_same(exam: Examination) -> bool:
    """Whether nearly all images of the second epoch have been in the first one, number by number."""
    if not exam.sample.train.is_whole:
        return False
    seen = {hash(image.numpy().tobytes()) for image in exam.sample.train.images}
    again = [hash(image.numpy().tobytes()) in seen for image in exam.sample.next_epoch.images]
    return sum(again) > 0.9 * len(again)


def find_memory_leak(exam: Examination) -> Finding | None:
    """What is allocated grows with every one of the first steps."""
    if not is_memory_exact():
        return None
    growth = measure_growth([record.memory for record in exam.course.records[:EARLY]])
    batch = exam.course.records[0].images * exam.sample.train.images[0].numel() * 4 / MB if exam.course.records else 0.0
    if exam.batches_per_epoch >= EARLY and growth < 3 * batch:
        return None  # the first epoch may fill a cache of images
    return _describe_leak(exam, growth)


def find_memory_leak_at_end(exam: Examination) -> Finding | None:
    """What is allocated grows between all looks after the first epoch."""
    looks = [look for step, look in sorted(exam.course.looks.items()) if step >= max(EARLY, exam.batches_per_epoch)]
    if len(looks) < 4:
        return None
    growth = min((b.memory - a.memory) / max(b.step - a.step, 1) for a, b in itertools.pairwise(looks))
    return _describe_leak(exam, growth)


def _describe_leak(exam: Examination, growth: float) -> Finding | None:
    if not growth >= MIN_LEAK:  # which is not known of steps that are read from a log
        return None
    looks = [look for step, look in sorted(exam.course.looks.items()) if step >= 5]
    tensors = (looks[-1].tensors - looks[0].tensors) / max(looks[-1].step - looks[0].step, 1) if len(looks) > 1 else 0.0
    kept = f" and {tensors:.1f} tensors" if tensors >= 0.5 else ""
    return Finding(
        "memory_leak",
        0.97 if growth >= SURE_LEAK else 0.6,
        f"With every step {1024 * growth:.0f} KB{kept} more stay allocated: {growth * exam.steps:.0f} MB over the {exam.steps} steps.",
        "Keep numbers, not tensors: loss.item() for a history, detached copies, and no batch, output or state of every step.",
    )


RULES = (
    Rule(
        "nondeterministic",
        Stage.START,
        find_nondeterministic,
        {"augmentation_at_validation": "there it is the validation images that differ, between passes with different numbers of torch"},
    ),
    Rule(
        "nondeterministic",
        Stage.EARLY,
        find_nondeterministic_steps,
        {"dropout_too_strong": "noise drawn from torch's seeded generator comes out the same in both trainings"},
    ),
    Rule(
        "threads_oversubscribed",
        Stage.START,
        find_threads_oversubscribed,
        {"data_starved": "a machine that others use is slow as well, but this process's own threads are few"},
    ),
    Rule(
        "data_starved",
        Stage.EARLY,
        find_data_starved,
        {"threads_oversubscribed": "there the processor is at work, while a step that waits for data leaves it idle"},
    ),
    Rule(
        "memory_leak",
        Stage.EARLY,
        find_memory_leak,
        {"data_starved": "a cache of images grows in the first epoch only, and by no more than the images that were read"},
    ),
    Rule(
        "memory_leak",
        Stage.END,
        find_memory_leak_at_end,
        {"data_starved": "a cache of images grows in the first epoch only"},
    ),
)
