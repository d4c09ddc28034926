"""Corpora as token numbers, and how language modelling cuts them up."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
import torch

from trainers.data.text import load_corpus
from trainers.errors import DataError
from trainers.problems import build_problem


def words(numbers: torch.Tensor, vocabulary: tuple[str, ...]) -> str:
    return " ".join(vocabulary[number] for number in numbers.flatten().tolist())


def test_a_folder_is_read_word_by_word_with_an_end_a_line(text_folder: Path) -> None:
    corpus = load_corpus(str(text_folder))
    assert words(corpus.train[:7], corpus.vocabulary) == "a b a <eos> c a <eos>"
    assert (len(corpus.train), len(corpus.valid), len(corpus.test)) == (140, 15, 15)
    assert words(corpus.test[:3], corpus.vocabulary) == "c <unk> <eos>"
    assert corpus.vocabulary == ("a", "b", "<eos>", "c", "<unk>")


@pytest.mark.parametrize("names", ["ptb.{}.txt", "wiki.{}.tokens"])
def test_the_usual_file_names_are_found(text_folder: Path, names: str) -> None:
    expected = load_corpus(str(text_folder)).fingerprint
    for split in ("train", "valid", "test"):
        (text_folder / f"{split}.txt").rename(text_folder / names.format(split))
    assert load_corpus(str(text_folder)).fingerprint == expected


def test_the_fingerprint_follows_the_text_and_a_changed_file_is_read_again(text_folder: Path) -> None:
    first = load_corpus(str(text_folder))
    assert load_corpus(str(text_folder)) is first
    path = text_folder / "valid.txt"
    path.write_text(path.read_text().replace("a b", "b a"))
    os.utime(path, ns=(0, 0))
    assert load_corpus(str(text_folder)).fingerprint != first.fingerprint


def test_missing_folders_and_files_are_named(text_folder: Path) -> None:
    with pytest.raises(
        DataError, match="unknown corpus 'ptbb': neither 'python-docs', 'ptb' or 'wikitext2' nor a directory"
    ):
        load_corpus("ptbb")
    (text_folder / "valid.txt").unlink()
    with pytest.raises(DataError, match=r"no valid text; looked for ptb\.valid\.txt, valid\.txt, wiki\.valid\.tokens"):
        load_corpus(str(text_folder))


def test_empty_files_and_other_encodings_are_refused(text_folder: Path) -> None:
    (text_folder / "test.txt").write_text("\n \n")
    with pytest.raises(DataError, match=r"test\.txt: holds no token"):
        load_corpus(str(text_folder))
    (text_folder / "test.txt").write_bytes(b"caf\xe9")
    with pytest.raises(DataError, match=r"test\.txt: not UTF-8"):
        load_corpus(str(text_folder))


@pytest.mark.parametrize("name", ["train", "valid", "test"])
def test_a_byte_order_mark_is_no_part_of_a_word(text_folder: Path, name: str) -> None:
    expected = load_corpus(str(text_folder)).fingerprint
    path = text_folder / f"{name}.txt"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert load_corpus(str(text_folder)).fingerprint == expected


@pytest.mark.parametrize(
    "character", ["\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029", "\r"], ids=ascii
)
def test_only_a_line_feed_ends_a_line(text_folder: Path, character: str) -> None:
    (text_folder / "valid.txt").write_text(f"a b{character}c\na{character}\nb", newline="")
    corpus = load_corpus(str(text_folder))
    assert words(corpus.valid, corpus.vocabulary) == "a b c <eos> a <eos> b <eos>"


def test_a_text_from_windows_has_the_tokens_of_the_same_text_from_elsewhere(text_folder: Path) -> None:
    expected = load_corpus(str(text_folder)).fingerprint
    for path in text_folder.glob("*.txt"):
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert load_corpus(str(text_folder)).fingerprint == expected


def test_the_language_reference_comes_with_python() -> None:
    corpus = load_corpus("python-docs")
    assert corpus is load_corpus("python-docs")
    total = len(corpus.train) + len(corpus.valid) + len(corpus.test)
    assert 50_000 < total < 200_000
    assert 0.85 < len(corpus.train) / total < 0.95
    assert 0.02 < len(corpus.valid) / total < 0.08
    assert {"<unk>", "<eos>", "statement", "("} <= set(corpus.vocabulary)
    assert "python-docs:python-3." in corpus.fingerprint


def test_batches_follow_the_text_along_each_stream(text_folder: Path) -> None:
    options = {"corpus": str(text_folder), "batch_size": 2, "sequence_length": 5}
    options |= {"model": {"hidden": 4, "embedding": 4}, "evaluate_sequences": 1}
    problem = build_problem("language_modeling", options, seed=0)
    tokens = load_corpus(str(text_folder)).train
    # 140 tokens in 2 streams of 70: 13 sequences of 5 with a target each.
    assert problem.steps_per_epoch == 13
    for step in (0, 1, 12):
        inputs, targets = problem.batch(step)
        for stream in (0, 1):
            start = 70 * stream + 5 * step
            assert torch.equal(inputs[:, stream], tokens[start : start + 5])
            assert torch.equal(targets[:, stream], tokens[start + 1 : start + 6])
    assert torch.equal(problem.batch(13)[0], problem.batch(0)[0])


def test_the_validation_loss_is_the_mean_over_all_its_tokens(text_folder: Path) -> None:
    options = {"corpus": str(text_folder), "batch_size": 2, "sequence_length": 4}
    options |= {"model": {"hidden": 4, "embedding": 4}, "evaluate_sequences": 1}
    problem = build_problem("language_modeling", options, seed=0)
    valid = load_corpus(str(text_folder)).valid[:, None]
    model = problem.model.eval()
    with torch.no_grad():
        # 14 targets, in one go instead of in sequences of 4, 4, 4 and 2.
        expected, _ = problem.loss(model, (valid[:-1], valid[1:]), None)
        assert problem.evaluate(model)["valid_loss"] == pytest.approx(expected.item(), rel=1e-6)


def test_the_penn_treebank_has_its_known_size(real_data: Path) -> None:
    path = real_data / "ptb" / "ptb.train.txt"
    known = "fcea919f6cf83f35d4d00c6cbf08040d13d4155226340912e2fef9c9c4102cbf"
    assert hashlib.sha256(path.read_bytes()).hexdigest() == known
    corpus = load_corpus(str(real_data / "ptb"))
    assert (len(corpus.train), len(corpus.valid), len(corpus.test)) == (929_589, 73_760, 82_430)
    assert len(corpus.vocabulary) == 10_000
