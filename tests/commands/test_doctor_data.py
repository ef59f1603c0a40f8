"""What the doctor says of data sets."""

from __future__ import annotations

from pathlib import Path

from .test_doctor import _nothing_is_imported, found  # noqa: F401 - a fixture


def test_digits_are_always_there_and_mnist_is_missed_with_an_advice(tmp_path: Path) -> None:
    assert found(tmp_path, "data digits").state == "ok"
    finding = found(tmp_path, "data mnist")
    assert finding.state == "warn"
    assert str(tmp_path / "data") in finding.found + finding.todo
    assert "BENCH_DATA" in finding.todo


def test_a_damaged_data_set_is_a_failure(tmp_path: Path) -> None:
    raw = tmp_path / "data" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3",
                 "t10k-labels-idx1"):  # fmt: skip
        (raw / f"{part}-ubyte.gz").write_bytes(b"<html>")
    finding = found(tmp_path, "data mnist")
    assert finding.state == "fail"
    assert "damaged" in finding.found
    assert "Delete it" in finding.todo


def test_half_a_data_set_is_not_ok(tmp_path: Path) -> None:
    (tmp_path / "data" / "MNIST" / "raw").mkdir(parents=True)
    assert found(tmp_path, "data mnist").state in ("warn", "fail")
