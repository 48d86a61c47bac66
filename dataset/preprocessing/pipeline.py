"""The complete job, in order of execution: parse, count, map, finish (see docs/preprocess.md).

Each unit, dictionary and part is a committed stage (`stages`).
"""

from __future__ import annotations

import glob
import json
import os
import shutil
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from dataset.preprocessing import (
    dictionaries,
    finishing,
    input_report,
    native,
    parsing,
    parts,
    rejects,
    splits,
)
from dataset.preprocessing.columns import CATEGORICAL
from dataset.preprocessing.engines import open_engine
from dataset.preprocessing.errors import DictionaryError, InputError, OutputError
from dataset.preprocessing.inputs import find_inputs, select_days
from dataset.preprocessing.mapping import MapTask
from dataset.preprocessing.output_folder import OutputFolder
from dataset.preprocessing.progress import ProgressBar
from dataset.preprocessing.raw_records import allocate
from dataset.preprocessing.report import Results
from dataset.preprocessing.stage_results import ColumnSummary, MappedPart, ParsedUnit
from dataset.preprocessing.stages import Output, Stages, check_work_folder, locked
from storage.digests import sha256_of, sha256_of_file

if TYPE_CHECKING:
    from dataset.preprocessing.options import Options

#: Part of every key; incremented when a stage's output changes for the same input.
_VERSION = 2


def run(options: Options, log: Callable[[str], None] = print) -> dict[str, Any]:
    """Runs the job of `options`; continues a killed run on the same folder.

    Args:
        options: of the run.
        log: called with each line for the user.

    Returns:
        The report (`report.build`).

    Raises:
        PreprocessError: one of its subclasses.
    """
    start = time.monotonic()
    native.require()
    train_files, test_files = select_days(find_inputs(options.input), options, log)
    files = [*train_files, *test_files]
    input_report.check_not_empty(files, [file.size for file in files])
    OutputFolder(options.output).check(
        [*finishing.permanent_names(options), *finishing.partial_names(options)]
    )
    check_work_folder(options.work_dir)
    os.makedirs(options.output, exist_ok=True)
    with locked(options.work_dir):
        job = _Job(options, files, len(train_files), log)
        finished = job.finished()
        if finished is not None:
            log(f"{options.output} is already complete: same input, same options, intact files")
            return finished
        job.begin()
        shutil.rmtree(job.scratch, ignore_errors=True)
        os.makedirs(job.scratch)
        with open_engine(options, job.scratch) as engine:
            parsed = job.parse(engine)
            columns, rule, dictionary = job.count(engine, parsed)
            plan, without_id = job.map(engine, parsed, rule, dictionary)
        report = job.finish(parsed, rule, columns, plan, without_id)
        log(f"finished in {time.monotonic() - start:.1f} s")
        return report


class _Job:
    """One run: its input, output and journal."""

    def __init__(self, options, files, train_files, log):
        self.options = options
        self.files, self.train_files = files, train_files
        self.log = log
        self.stages = Stages(os.path.join(options.work_dir, "stages"), options.jobs)
        self.parts_folder = os.path.join(options.work_dir, "parts")
        self.scratch = os.path.join(options.work_dir, "scratch")
        self.output = OutputFolder(options.output)

    def key(self):
        """Returns everything that the run's output depends on."""
        options = self.options
        return {
            "version": _VERSION,
            "files": [file.identity for file in self.files],
            "train_files": self.train_files,
            "test_fraction": str(options.test_fraction),
            "max_table_rows": None if options.frequency_threshold else options.max_table_rows,
            "frequency_threshold": options.frequency_threshold,
            "dictionary": options.dictionary and _dictionary_digest(options.dictionary),
            "unseen": options.unseen,
            "negatives": options.negatives,
            "write_validation": options.write_validation,
            "layout": options.layout,
        }

    def finished(self):
        """Returns the report of a finished, intact run of the same job, or None."""
        found = self.stages.find("complete", self.key())
        if found is not None and not self.output.complete:  # Killed between the two records.
            self.output.finish()
        return found

    def begin(self):
        """Lists the files that the run will write.

        Raises:
            DictionaryError: the reused dictionary is damaged.
            OutputError: one of the names is taken, or a complete result exists.
        """
        options = self.options
        if self.output.complete and not options.overwrite:
            problem = (
                "holds the complete result of a run with different input, options or files; try "
                "--overwrite to replace it, or another --output"
            )
            raise OutputError.of_path(options.output, problem, flag="overwrite")
        if options.dictionary is not None:  # Checked before hours of parsing.
            self.dictionary = dictionaries.read_manifest(options.dictionary)
        self.output.check(finishing.permanent_names(options))
        self.output.begin(finishing.partial_names(options))
        os.makedirs(self.parts_folder, exist_ok=True)

    def parse(self, engine):
        """Returns the results of all units, in input order."""
        options = self.options
        units = parsing.plan_units(self.files)
        keys = [
            {
                "version": _VERSION,
                "file": unit.file.identity,
                "file_index": unit.file_index,
                "range": [unit.begin, unit.end],
                "part": [parts.PART_BYTES, parts.PART_ROWS],
            }
            for unit in units
        ]
        names = [f"parse-{unit.name}" for unit in units]
        results = self.stages.find_all(zip(names, keys), ParsedUnit)
        todo = [i for i, result in enumerate(results) if result is None]
        sizes = [unit.input_bytes for unit in units]
        total = sum(sizes)
        early = rejects.EarlyCheck(units, sizes, options.max_rejects)
        for unit, result in enumerate(results):
            if result is not None:
                early.add(unit, result)
        self._log_stage("parse", len(units), len(todo), f"units, {total / 1e9:.2f} GB")
        start = time.monotonic()
        with ProgressBar("parse", sum(sizes[i] for i in todo), "B") as bar:
            for index, result in engine.parse([units[i] for i in todo], self.parts_folder, bar):
                unit = todo[index]
                outputs = [Output.complete(p["path"], p["crc32"]) for p in result["parts"]]
                if result["rejects_path"]:
                    outputs.append(Output.complete(result["rejects_path"]))
                self.stages.commit(names[unit], keys[unit], result, outputs)
                results[unit] = result
                early.add(unit, result)
        self._log_time("parse", start, todo, sum(results[i]["rows"] for i in todo))
        path = os.path.join(options.output, rejects.FILE_NAME)
        if rejects.write(self.output, units, results):
            rejects.check(path, results, options.max_rejects)
            count = sum(result["rejects"] for result in results)
            self.log(f"  {count} malformed lines are in {path}")
        self.inputs = input_report.build(self.files, units, results, self.log)
        if not any(result["rows"] for result in results):
            problem = "expected samples, found none"
            raise InputError.of_path(options.input, problem, flag="input", found=0)
        return results

    def count(self, engine, parsed):
        """Returns (26 column summaries, Rule, folder of the dictionary)."""
        options = self.options
        if options.dictionary is not None:
            rule, manifest = self.dictionary
            self.log(f"dictionary: {options.dictionary}, {rule.name} rule")
            columns = [{"vocab_size": c["vocab_size"]} for c in manifest["columns"]]
            return columns, rule, options.dictionary
        rule = dictionaries.Rule(
            None if options.frequency_threshold else options.max_table_rows,
            options.frequency_threshold,
        )
        folder = os.path.join(options.output, finishing.DICTIONARY)
        os.makedirs(folder, exist_ok=True)
        # Left by a killed run.
        for left in glob.glob(os.path.join(glob.escape(folder), "C*.npy.*.partial")):
            os.unlink(left)
        all_parts = _parts_of(parsed)
        samples = sha256_of(json.dumps([[p.number, p.rows, p.crc32] for p in all_parts]))
        names = [f"dictionary-{i + 1:02d}" for i in range(CATEGORICAL)]
        keys = [
            {"version": _VERSION, "samples": samples, "column": i, "folder": folder}
            | rule.describe()
            for i in range(CATEGORICAL)
        ]
        columns = self.stages.find_all(zip(names, keys), ColumnSummary)
        todo = [i for i, column in enumerate(columns) if column is None]
        self._log_stage("count", CATEGORICAL, len(todo), "columns")
        start = time.monotonic()
        if todo:
            with ProgressBar("count", len(todo), " columns") as bar:
                found = engine.make_dictionaries(todo, all_parts, rule, folder, bar)
                for i, summary in found:
                    columns[i] = summary
                    output = Output.complete(dictionaries.column_path(folder, i))
                    self.stages.commit(names[i], keys[i], columns[i], [output])
        self._log_time("count", start, todo, len(todo) * sum(part.rows for part in all_parts))
        dictionaries.write_manifest(folder, rule)
        return columns, rule, folder

    def map(self, engine, parsed, rule, dictionary):
        """Returns (Plan, 26 counts of written samples whose value has no id)."""
        options = self.options
        all_parts = _parts_of(parsed)
        if options.test_fraction is not None:
            plan = splits.by_fraction(all_parts, options.test_fraction)
        else:
            train = [part for part in all_parts if part.file_index < self.train_files]
            test = all_parts[len(train) :] if options.test_day is not None else None
            plan = splits.by_day(train, test, options.write_validation)
        tasks = [
            MapTask(part, tuple(plan.destinations[part.number]), options.output, options.negatives,
                    rule.max_rows)
            for part in all_parts
            if plan.destinations[part.number]
        ]  # fmt: skip
        digest = _dictionary_digest(dictionary)
        keys = [
            {
                "version": _VERSION,
                "part": [task.part.number, task.part.rows, task.part.crc32],
                "destinations": task.destinations,
                "records": plan.records,
                "negatives": options.negatives,
                "dictionary": digest,
                **rule.describe(),
            }
            for task in tasks
        ]
        names = [f"map-{task.part.number:010d}" for task in tasks]
        results = self.stages.find_all(zip(names, keys), MappedPart)
        todo = [i for i, result in enumerate(results) if result is None]
        for file, records in plan.records.items():
            allocate(os.path.join(options.output, f"{file}.partial"), records)
        self._log_stage("map", len(tasks), len(todo), "parts")
        start = time.monotonic()
        rows = sum(tasks[i].part.rows for i in todo)

        def commit(index, result):
            i = todo[index]
            outputs = [
                Output(tasks[i].path(d), d.offset, d.length, crc32)
                for d, crc32 in zip(tasks[i].destinations, result["crc32"])
            ]
            self.stages.commit(names[i], keys[i], result, outputs)
            results[i] = result

        if todo:
            with ProgressBar("map", rows, " rows") as bar:
                engine.map([tasks[i] for i in todo], dictionary, rule, commit, bar)
        self._log_time("map", start, todo, rows)
        counts = [sum(r["without_id"][i] for r in results) for i in range(CATEGORICAL)]
        self.regions = [
            (d, crc32)
            for task, result in zip(tasks, results)
            for d, crc32 in zip(task.destinations, result["crc32"])
        ]
        return plan, counts

    def finish(self, parsed, rule, columns, plan, without_id):
        """Completes the output, and returns the report."""
        options = self.options
        results = Results(parsed, self.inputs, rule, columns, plan, without_id, self.regions)
        report, files = finishing.finish(options, self.output, results, self.log)
        self.stages.commit("complete", self.key(), report, files)
        self.output.finish()
        written = [*finishing.permanent_names(options), *finishing.partial_names(options)]
        for path in self.output.others(written):
            self.log(f"{path} is from an earlier run; this run does not write it")
        if options.keep_parts:
            return report
        shutil.rmtree(self.parts_folder)
        shutil.rmtree(self.scratch)
        for prefix in ("parse-", "dictionary-", "map-"):
            self.stages.forget(prefix)
        return report

    def _log_stage(self, title, stages, todo, what):
        done = f", {stages - todo} finished before" if todo < stages else ""
        self.log(f"{title}: {stages} {what}{done}")

    def _log_time(self, title, start, todo, rows):
        if todo:
            seconds = time.monotonic() - start
            self.log(f"  {title} took {seconds:.1f} s, {rows / seconds / 1e6:.2f}M rows/s")


def _parts_of(parsed):
    return [parts.Part(**part) for result in parsed for part in result["parts"]]


def _dictionary_digest(folder):
    path = os.path.join(folder, dictionaries.MANIFEST)
    try:
        return sha256_of_file(path)
    except OSError as error:
        raise DictionaryError.of_path(path, f"cannot be read: {error.strerror}") from error
