"""Checks of what the lists say: subjects on both sides of a split, and classes."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import combinations

from ecstfl_cli.components.datasets import FALLBACKS
from ecstfl_cli.components.datasets.published_counts import PublishedCounts, published_counts
from ecstfl_cli.engine.check.findings import TOLERANCE, Finding, Item, Verdict, item
from ecstfl_cli.engine.check.target import CheckTarget, Split
from ecstfl_cli.wording import counted


def check_subjects(target: CheckTarget) -> Finding:
    """Subjects, or films, that are in two splits of one fold."""
    known = [split for split in target.splits if any(split.subjects)]
    if not known:
        return Finding("subjects", "skipped", "the lists do not say whose samples these are")
    items: list[Item] = []
    shared: dict[str, int] = {}
    pairs = [(a, b) for a, b in combinations(known, 2) if a.fold == b.fold]
    for left, right in pairs:
        both = (set(left.subjects) & set(right.subjects)) - {""}
        if both:
            shared[f"{left.name} and {right.name}"] = len(both)
        first = {subject: row for row, subject in reversed([*enumerate(right.subjects)])}
        for subject in sorted(both):
            row, n = first[subject], right.subjects.count(subject)
            path = target.locations[right.samples[row]]
            text = f"subject {subject} is in {left.name} too, with {counted(n, 'sample')} here"
            items.append(item(right, row, path, text, subject=subject, also_in=left.name))
    names = ", ".join(f"{split.name} {len(set(split.subjects) - {''}):,}" for split in known)
    if not pairs:
        return Finding("subjects", "skipped", f"subjects are known of one split only: {names}")
    if not items:
        return Finding("subjects", "ok", f"no subject is in two splits: {names}")
    where = ", ".join(f"{n:,} in {pair}" for pair, n in shared.items())
    advice = "The score says how well known faces are recognised, not new ones: split by subject."
    return Finding("subjects", "wrong", f"subjects in two splits: {where}", items, advice)


def histogram(split: Split, classes: tuple[str, ...]) -> dict[str, int]:
    """Samples by class in the order of `classes`, then others as they come, `unknown` last."""
    found = Counter(split.labels)
    unknown = found.pop("", 0)
    counts = {name: found.pop(name, 0) for name in classes} | dict(sorted(found.items()))
    return counts | ({"unknown": unknown} if unknown else {})


def check_classes(target: CheckTarget) -> Finding:
    """Classes without a sample in a split, and labels without a map."""
    if target.label_map is None:
        labels = {label for split in target.splits for label in split.labels} - {""}
        if not labels:
            return Finding("classes", "skipped", "there are no labels")
        if not all(label.isdigit() for label in labels):
            return Finding("classes", "ok", f"{len(labels)} classes of several label maps")
        advice = "Say whose indices they are: --label-map NAME; `ecstfl plugins --group label_maps` lists them."
        return Finding("classes", "note", f"{len(labels)} bare indices without a label map", advice=advice)
    items = [
        {
            "split": split.name,
            "where": str(split.files[0]),
            "path": "",
            "problem": f"no sample of {name}",
            "class": name,
        }
        for split in target.splits
        for name in target.label_map.names
        if name not in set(split.labels)
    ]
    names = len(target.label_map.names)
    if not items:
        return Finding("classes", "ok", f"all {names} of {target.label_map.name} are in every split")
    absent = "; ".join(
        f"{split.name} lacks {', '.join(missing)}"
        for split in target.splits
        if (missing := [str(found["class"]) for found in items if found["split"] == split.name])
    )
    advice = (
        "A class that is not tested makes UAR an average over fewer classes; one that is not trained cannot be told."
    )
    return Finding("classes", "note", absent, items, advice)


@dataclass(frozen=True)
class Compared:
    """Counts of a split beside the published ones, by class, or of `all` where no more is published."""

    split: str
    found: dict[str, int]
    published: dict[str, int]

    @property
    def difference(self) -> int:
        """Samples too few and too many."""
        names = {**self.published, **self.found}
        return sum(abs(self.found.get(name, 0) - self.published.get(name, 0)) for name in names)


def compare_counts(target: CheckTarget) -> list[Compared]:
    """The counts of a recognised release beside the published ones, of each split that these are known of."""
    manifest = target.manifest
    if manifest is None or manifest.get("dataset") in (None, *FALLBACKS):
        return []
    release = manifest.get("release") or manifest["dataset"]
    found = [_compared(split.name, [split], published_counts(release, split.name)) for split in target.splits]
    # Where folds are our own, the splits of any one fold hold all samples.
    first = [split for split in target.splits if split.fold == target.splits[0].fold]
    found.append(_compared("all", first, published_counts(release, "all")))
    return [compared for compared in found if compared]


def _compared(name: str, splits: list[Split], published: PublishedCounts | None) -> Compared | None:
    if published is None:
        return None
    labels = Counter(label for split in splits for label in split.labels)
    if set(labels) <= set(published.classes):
        return Compared(name, {label: labels[label] for label in published.classes}, dict(published.classes))
    return Compared(name, {"all": labels.total()}, {"all": published.samples})


def check_counts(target: CheckTarget) -> Finding:
    """Samples of each split and class against the published counts."""
    compared = compare_counts(target)
    if not compared:
        known = target.manifest and target.manifest.get("dataset") not in (None, *FALLBACKS)
        of = f" of {(target.manifest or {}).get('dataset')}" if known else " of lists that are no recognised release"
        return Finding("published counts", "skipped", f"none are known{of}")
    items: list[Item] = [
        {"split": one.split, "where": "", "path": "", "problem": _difference_in_words(one, name), "class": name}
        for one in compared
        for name in one.published
        if one.found[name] != one.published[name]
    ]
    if not items:
        names = ", ".join(one.split for one in compared)
        return Finding("published counts", "ok", f"as published: {names}")
    shares = {one.split: one.difference / max(1, sum(one.published.values())) for one in compared if one.difference}
    verdict: Verdict = "wrong" if max(shares.values()) > TOLERANCE else "note"
    summary = "differ from those published: " + ", ".join(f"{split} by {share:.1%}" for split, share in shares.items())
    advice = (
        "A result on other samples is no result on this data set: see what is missing, or whose order the labels have."
    )
    return Finding("published counts", verdict, summary, items, advice)


def _difference_in_words(one: Compared, name: str) -> str:
    found, published = one.found[name], one.published[name]
    return f"{one.split}, {name}: {found:,} found, {published:,} published ({found - published:+,})"
