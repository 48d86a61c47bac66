"""Ids per sample of each feature (hotness) and their pooling: parses, checks and compares them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypedDict

import msgspec

from dataset import files
from dataset.errors import DatasetError
from ops.bags import MAX_HOTNESS, MLPERF_HOTNESS, POOLING, Bags
from storage import structured

#: Shapes of the lists in a file.
Hotness = Annotated[
    list[Annotated[int, msgspec.Meta(ge=1, le=MAX_HOTNESS)]], msgspec.Meta(min_length=1)
]
Pooling = Annotated[list[Literal["sum", "mean"]], msgspec.Meta(min_length=1)]


class _Document(TypedDict):
    hotness_per_table: Hotness


def make_bags(
    hotness: Sequence[int] | None,
    pooling: Sequence[str] | None,
    features: int,
    where: str,
    **fields: Any,
) -> Bags:
    """Returns the bags of features whose lists have fixed lengths.

    Args:
        hotness: ids of each feature; default: one.
        pooling: one name for all features, or one for each; default: sum.
        features: number of features.
        where: origin of the lists, for errors.
        **fields: fields of the errors.

    Raises:
        DatasetError: a list has another length, a hotness is not an integer from 1 to
            `ops.bags.MAX_HOTNESS`, or a pooling is unknown.
    """
    hotness = [1] * features if hotness is None else list(hotness)
    pooling = ["sum"] if pooling is None else list(pooling)
    pooling = pooling * features if len(pooling) == 1 else pooling
    for what, values in (("hotness", hotness), ("pooling", pooling)):
        if len(values) != features:
            problem = f"{what}, one per categorical feature"
            raise DatasetError.mismatch(where, problem, features, len(values), **fields)
    for feature, ids in enumerate(hotness):
        if isinstance(ids, bool) or not isinstance(ids, int) or not 0 < ids <= MAX_HOTNESS:
            what, expected = f"hotness of table {feature}", f"an integer from 1 to {MAX_HOTNESS}"
            raise DatasetError.mismatch(where, what, expected, ids, table=feature, **fields)
    for feature, name in enumerate(pooling):
        if name not in POOLING:
            what = f"pooling of table {feature}"
            raise DatasetError.mismatch(where, what, POOLING, name, table=feature, **fields)
    return Bags.of(hotness, pooling)


def parse_hotness(text: str, where: str) -> list[int]:
    """Returns the hotness of each feature that a flag gives.

    Args:
        text: "mlperf", comma-separated integers, a JSON list, or the path of a JSON file with a
            list, or with one as `hotness_per_table` (metadata.json).
        where: its origin, for errors.

    Raises:
        DatasetError: the text is none of these, or a hotness is out of range.
    """
    text = text.strip()
    if text == "mlperf":
        return list(MLPERF_HOTNESS)
    if text.endswith(".json"):
        content = files.read_json(text, Any)
        if isinstance(content, dict):
            files.check_shape(content, text, _Document)
            return content["hotness_per_table"]
        files.check_shape(content, text, Hotness)
        return content
    try:
        values = structured.parse_json(
            text if text.startswith("[") else f"[{text}]", where, list[int]
        )
        if not values:
            raise structured.StructureError(where, "is empty")
    except structured.StructureError as error:
        problem = f"expected mlperf, comma-separated integers or a .json file, found {text!r:.80}"
        raise DatasetError(f"{where}: {problem}", flag="hotness", found=text) from error
    return list(make_bags(values, None, len(values), where, flag="hotness").hotness)


def parse_pooling(text: str, where: str) -> list[str]:
    """Returns the pooling that a flag gives: one name for all features, or one for each.

    Args:
        text: comma-separated names, or the path of a JSON file with a list of names.
        where: its origin, for errors.

    Raises:
        DatasetError: a name is unknown.
    """
    text = text.strip()
    if text.endswith(".json"):
        return files.read_json(text, Pooling)
    names = [name.strip() for name in text.split(",")]
    return list(make_bags(None, names, len(names), where, flag="pooling").pooling)


def check_recorded_pooling(path: str, bags: Bags, declared_pooling: Sequence[str] | None) -> None:
    """Compares the pooling that a file records with the declared one.

    Args:
        path: the data or its file, for errors.
        bags: the bags with the recorded pooling.
        declared_pooling: one name, or one for each feature, or None.

    Raises:
        DatasetError: they differ for a feature that may have several ids, or none.
    """
    if declared_pooling is None:
        return
    names = make_bags(None, declared_pooling, bags.features, "--pooling", flag="pooling").pooling
    for table, (feature, name) in enumerate(zip(bags.each(), names)):
        if name != feature.pooling and (feature.hotness > 1 or feature.variable):
            what = f"--pooling contradicts the data: pooling of table {table}"
            raise DatasetError.mismatch(
                path, what, feature.pooling, name, flag="pooling", table=table
            )


def check_declared(
    path: str,
    bags: Bags,
    declared_hotness: Sequence[int] | None,
    declared_pooling: Sequence[str] | None,
) -> Bags:
    """Returns a split's bags with the declared pooling, after a comparison with the declared facts.

    Args:
        path: the split, for errors.
        bags: the split's bags.
        declared_hotness: hotness of each feature, or None.
        declared_pooling: one name, or one for each feature, or None.

    Raises:
        DatasetError: the data has another hotness, or pooling would have no effect.
    """
    if declared_hotness is not None and tuple(declared_hotness) != bags.hotness:
        what = "--hotness contradicts the data"
        raise DatasetError.mismatch(
            path, what, list(bags.hotness), list(declared_hotness), flag="hotness"
        )
    if declared_pooling is None:
        return bags
    names = make_bags(None, declared_pooling, bags.features, "--pooling", flag="pooling").pooling
    if bags.is_one_hot:
        what, found = "--pooling has no effect: expected features with several ids", "one id each"
        raise DatasetError(
            f"{path}: {what}, found {found}; leave the flag out",
            flag="pooling", path=path,
        )  # fmt: skip
    return Bags(bags.hotness, names, bags.variable)


def check_slots(path: str, data: Bags, slots: Bags) -> None:
    """Raises `DatasetError` unless batches with these slots hold the samples of a split.

    Args:
        path: the split, for errors.
        data: the split's bags.
        slots: as many for each fixed feature, and at least as many for a variable one.
    """
    if slots.features != data.features:
        raise DatasetError.mismatch(path, "features with slots", data.features, slots.features)
    for feature, (expected, found) in enumerate(zip(data.hotness, slots.hotness)):
        variable = data.variable[feature]
        if variable != slots.variable[feature]:
            what = f"slots of table {feature}: variable lists"
            raise DatasetError.mismatch(path, what, variable, not variable, table=feature)
        if found < expected or (found > expected and not variable):
            bound = f"at least {expected}" if variable else expected
            raise DatasetError.mismatch(
                path, f"slots of table {feature}", bound, found, table=feature
            )


def of_both(train: Bags, test: Bags, where: str) -> Bags:
    """Returns the slots that hold the samples of both splits.

    A variable feature gets the larger hotness of the two; fixed ones must be equal.

    Args:
        train: the bags of the train split.
        test: the bags of the test split.
        where: the dataset, for errors.

    Raises:
        DatasetError: the splits differ otherwise.
    """
    if train.features != test.features:
        what = "train and test differ in categorical features"
        raise DatasetError.mismatch(where, what, train.features, test.features)
    for feature in range(train.features):
        variable = train.variable[feature]
        for what, expected, found in (
            ("hotness", train.hotness[feature], test.hotness[feature]),
            ("pooling", train.pooling[feature], test.pooling[feature]),
            ("variable lists", variable, test.variable[feature]),
        ):
            if what == "hotness" and variable:
                continue
            if what == "pooling" and not variable and train.hotness[feature] == 1:
                continue
            if expected != found:
                problem = f"train and test differ in {what}: table {feature}"
                raise DatasetError.mismatch(where, problem, expected, found, table=feature)
    hotness = tuple(max(pair) for pair in zip(train.hotness, test.hotness))
    return Bags(hotness, train.pooling, train.variable)
