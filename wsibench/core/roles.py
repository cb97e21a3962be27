"""A study of two others, one to train on and one to be tested on: what its study.yaml may and must say.

It has no cohort.  Whatever decides its patients, their features and their expression stands in the
study.yaml of the two; its own names what is compared, and how.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from wsibench.core.errors import StudyError

ROLES = ("train", "test")
DECIDED_THERE = (
    "cohort",
    "tiles",
    "weights",
    "own",
    "folders",
    "embedding",
    "expression",
    "limits",
    "clinical",
    "targets",
)
"""Sections of the two studies that have no place beside them."""
SEE = "docs/external.md shows one."


def named(path: Path, content: dict[str, Any], name: str, find: Callable[[str], Path]) -> dict[str, str]:
    """The studies that stand under `train` and `test`; none of a study with a cohort.

    Parameters
    ----------
    path
        The study.yaml, for messages.
    content
        What it holds.
    name
        The study's own name.
    find
        Finds the study.yaml of a study by name.

    Raises
    ------
    StudyError
        When only one of them is given, beside a cohort, or neither without a cohort; when they are one
        study, or a study of two others.
    """
    given = {role: content[role] for role in ROLES if content.get(role) is not None}
    if not given:
        if content.get("cohort") is None:
            raise StudyError(f"{path} cannot be used: `cohort` is missing.", "Or give `train` and `test`: " + SEE)
        return {}
    if len(given) == 1:
        other = next(role for role in ROLES if role not in given)
        raise StudyError(f"{path} gives `{next(iter(given))}` without `{other}`.", f"Give both, or a `cohort`. {SEE}")
    for role, part in given.items():
        if not isinstance(part, str):
            raise StudyError(f"{path}: `{role}` = {part!r} is not the name of a study.", SEE)
    if given["train"] == given["test"] or name in given.values():
        raise StudyError(f"{path}: `train` and `test` are {given['train']} and {given['test']}.", "Name two others.")
    for role, part in given.items():
        theirs = yaml.safe_load(find(part).read_text())
        if isinstance(theirs, dict) and any(theirs.get(each) is not None for each in ROLES):
            raise StudyError(f"{path}: `{role}` is {part}, which has no cohort of its own.", "Name a study that has.")
    return given


def completed(
    path: Path, content: dict[str, Any], offered: dict[str, dict[str, str]], units: set[str]
) -> dict[str, Any]:
    """The content of such a study.yaml with what the two studies decide.

    Names of feature tables, given as a list under ``features``, become names of encoders: what
    defines them stands in the two studies.

    Parameters
    ----------
    offered
        By role: the kind of features that the study has of each name.
    units
        Units of expression of the two.

    Raises
    ------
    StudyError
        For sections that the two studies decide, and for names that are not of the same kind in both.
    """
    twice = [section for section in DECIDED_THERE if section in content]
    if twice:
        raise StudyError(
            f"{path} gives {', '.join(twice)} beside `train` and `test`.", "These studies decide that: leave it out."
        )
    folds = content.get("folds") or {}
    others = not isinstance(folds, dict) or set(folds) - {"seed", "schemes"}
    if others or folds.get("schemes", ["external"]) != ["external"]:
        raise StudyError(f"{path}: `folds` = {folds!r} beside `train` and `test`.", "Only `seed` has a meaning there.")
    encoders = [*_names(path, content, "encoders"), *_names(path, content, "features")]
    for name in [*encoders, *_names(path, content, "controls")]:
        if name != "site":  # made anew of the sites of both
            _check_offered(path, name, content, offered)
    # Another unit in either cohort: then neither can be said of both.
    unit = next(iter(units)) if len(units) == 1 else "as_is"
    kept = {key: value for key, value in content.items() if key != "features"}
    # What tells the site applies to every two cohorts; other controls need be features of both.
    kept.setdefault("controls", ["site"])
    return kept | {"encoders": encoders, "folds": {**folds, "schemes": ["external"]}, "expression": {"unit": unit}}


def _names(path: Path, content: dict[str, Any], section: str) -> list[str]:
    names = content.get(section) or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise StudyError(
            f"{path}: `{section}` = {names!r} beside `train` and `test`.",
            "Give a list of names that both studies have.",
        )
    return names


def _check_offered(path: Path, name: str, content: dict[str, Any], offered: dict[str, dict[str, str]]) -> None:
    for role, names in offered.items():
        if name not in names:
            raise StudyError(
                f"{path} names {name}, which study {content[role]} ({role}) does not have.",
                f"It has {', '.join(names) or 'no features'}.",
            )
    kinds = {role: names[name] for role, names in offered.items()}
    if len(set(kinds.values())) > 1:
        what = " and ".join(f"the name of {kind} in {content[role]}" for role, kind in kinds.items())
        raise StudyError(f"{path} names {name}, which is {what}.", "Give different features different names.")
