"""The language models against their known sizes and formulas, and how random lengths are drawn."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from estimators.probe.gradient import freeze_stochastic_layers
from trainers.data.lengths import epoch_starts, num_sequences
from trainers.errors import TrainerError
from trainers.models.awd_lstm import AWDLSTM, WeightDropLSTM, locked_dropout
from trainers.models.gpt import GPT
from trainers.models.lstm import LSTMLanguageModel
from trainers.problems import build_problem
from trainers.training.loop import Segment, TrainSettings, train
from trainers.update.rule import UpdateRule


def awd(**options: float) -> AWDLSTM:
    torch.manual_seed(0)
    return AWDLSTM(**({"num_tokens": 20, "layers": 2, "hidden": 6, "embedding": 4} | options))


def test_the_awd_lstm_has_its_published_size_on_the_penn_treebank() -> None:
    with torch.device("meta"):
        model = AWDLSTM(num_tokens=10_000)
    assert sum(parameter.numel() for parameter in model.parameters()) == 24_221_600
    assert [layer.lstm.hidden_size for layer in model.layers] == [1150, 1150, 400]


def test_the_papers_plain_lstm_can_be_had() -> None:
    with torch.device("meta"):
        model = LSTMLanguageModel(num_tokens=10_000, layers=2, hidden=512, embedding=200, tied=False)
    lstm = 4 * 512 * (200 + 512 + 2) + 4 * 512 * (512 + 512 + 2)
    assert sum(p.numel() for p in model.parameters()) == 10_000 * (200 + 512 + 1) + lstm


def test_without_dropout_the_awd_lstm_is_torchs_own() -> None:
    model = awd().eval()
    tokens = torch.randint(0, 20, (7, 3))
    features = model.embedding(tokens)
    for layer in model.layers:
        features, _ = layer.lstm(features)
    assert torch.equal(model(tokens, None).logits, model.projection(features))
    assert model(tokens, None).penalty is None


def test_the_state_is_carried() -> None:
    model = awd().eval()
    tokens = torch.randint(0, 20, (8, 3))
    first = model(tokens[:5], None)
    second = model(tokens[5:], first.state)
    torch.testing.assert_close(torch.cat([first.logits, second.logits]), model(tokens, None).logits)


def test_measuring_drops_nothing_although_rnns_stay_in_training_mode() -> None:
    model = freeze_stochastic_layers(awd(weight_drop=0.9))
    assert all(layer.lstm.training and not layer.training for layer in model.layers)
    tokens = torch.randint(0, 20, (5, 2))
    assert torch.equal(model(tokens, None).logits, model(tokens, None).logits)


def test_recurrent_weights_are_dropped_for_all_time_steps_at_once() -> None:
    torch.manual_seed(0)
    layer = WeightDropLSTM(3, 4, 0.5)
    inputs = torch.randn(6, 2, 3)
    torch.manual_seed(1)
    outputs, _ = layer(inputs, None)
    torch.manual_seed(1)
    dropped = F.dropout(layer.lstm.weight_hh_l0, 0.5)
    assert 0.2 < (dropped == 0).float().mean() < 0.8
    reference = torch.nn.LSTM(3, 4)
    reference.load_state_dict(layer.lstm.state_dict() | {"weight_hh_l0": dropped})
    torch.testing.assert_close(outputs, reference(inputs)[0])


def test_locked_dropout_has_one_mask_for_all_times() -> None:
    torch.manual_seed(0)
    dropped = locked_dropout(torch.ones(5, 30, 10), 0.4, training=True)
    assert torch.equal(dropped, dropped[:1].expand_as(dropped))
    assert dropped.unique().tolist() == pytest.approx([0, 1 / 0.6])
    assert 0.3 < (dropped == 0).float().mean() < 0.5


def test_embedding_dropout_drops_a_word_wherever_it_stands() -> None:
    model = awd(dropout_embedding=0.5)
    torch.manual_seed(3)
    vectors = model._embed(torch.arange(20).repeat(3, 1).T)
    kept = (vectors != 0).all(-1)
    assert torch.equal(kept, kept[:, :1].expand_as(kept))
    assert 0 < kept.float().mean() < 1


def test_the_penalty_is_that_of_merity_et_al() -> None:
    model = awd(dropout=0.0, dropout_input=0.0, dropout_hidden=0.0, dropout_embedding=0.0, weight_drop=0.0)
    tokens = torch.randint(0, 20, (7, 3))
    outputs = model.embedding(tokens)
    for layer in model.layers:
        outputs, _ = layer.lstm(outputs)
    expected = 2 * outputs.square().mean() + (outputs[1:] - outputs[:-1]).square().mean()
    torch.testing.assert_close(model(tokens, None).penalty, expected)


def test_f_is_the_plain_cross_entropy_and_training_adds_the_penalty(text_folder: Path) -> None:
    options = {"corpus": str(text_folder), "batch_size": 2, "sequence_length": 5, "evaluate_sequences": 1}
    model = {"use": "awd_lstm", "hidden": 6, "embedding": 4}
    problem = build_problem("language_modeling", options | {"model": model}, seed=0)
    inputs, targets = problem.batch(0)
    torch.manual_seed(0)
    loss, _ = problem.loss(problem.model, (inputs, targets), None)
    torch.manual_seed(0)
    prediction = problem.model(inputs, None)
    plain = F.cross_entropy(prediction.logits.flatten(0, 1), targets.flatten())
    assert loss.item() == pytest.approx((plain + prediction.penalty).item(), rel=1e-6)
    torch.manual_seed(0)
    assert problem.measured_loss is not None
    assert problem.measured_loss(problem.model, (inputs, targets), None)[0].item() == pytest.approx(
        plain.item(), rel=1e-6
    )


def test_the_gpt_sees_the_past_only_and_both_kinds_of_attention_agree() -> None:
    torch.manual_seed(0)
    model = GPT(num_tokens=20, max_length=9, layers=2, heads=2, width=8)
    tokens = torch.randint(0, 20, (9, 3))
    fused, plain = model.train()(tokens).logits, model.eval()(tokens).logits
    torch.testing.assert_close(fused, plain)
    changed = tokens.clone()
    changed[6:] = (changed[6:] + 1) % 20
    torch.testing.assert_close(model(changed).logits[:6], plain[:6])
    assert not torch.allclose(model(changed).logits[6:], plain[6:])


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"use": "gpt", "width": 9, "heads": 2}, "width must be a multiple of heads, but 9"),
        ({"use": "gpt", "layers": 0}, "layers must be at least 1"),
        ({"use": "awd_lstm", "weight_drop": 1.0}, r"weight_drop must lie in \[0, 1\)"),
        ({"use": "awd_lstm", "temporal_penalty": -1.0}, "must not be negative"),
        ({"use": "gpt", "max_length": 3}, "'max_length' is given by clipsweep itself"),
    ],
)
def test_options_that_make_no_sense_are_refused(model: dict[str, float], message: str) -> None:
    with pytest.raises(TrainerError, match=message):
        build_problem("language_modeling", {"model": model}, seed=0)


@pytest.mark.parametrize(
    ("options", "message"), [({"halfed": 0.1}, "did you mean 'halved'"), ({"jitter": -1.0}, "jitter is out of range")]
)
def test_random_lengths_that_make_no_sense_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(TrainerError, match=message):
        build_problem("language_modeling", {"random_length": options}, seed=0)


def test_random_lengths_cover_the_text_once_and_look_as_they_should() -> None:
    total = 46_478  # Penn Treebank in 20 streams
    epochs = [epoch_starts(total, 70, halved=0.05, jitter=5.0, seed=1, epoch=epoch) for epoch in range(20)]
    assert {len(starts) for starts in epochs} == {num_sequences(total, 70, halved=0.05) + 1}
    assert all(starts[0] == 0 and starts[-1] == total for starts in epochs)
    lengths = torch.cat([starts.diff() for starts in epochs]).double()
    usual = lengths[lengths > 52]
    assert 0.04 < 1 - len(usual) / len(lengths) < 0.06
    assert usual.mean().item() == pytest.approx(70, abs=1)
    assert usual.std().item() == pytest.approx(5, abs=0.3)
    assert not torch.equal(epochs[0], epochs[1])


@pytest.mark.parametrize("total", [1, 2, 3, 5, 17, 100])
def test_random_lengths_stay_within_their_limits_in_the_shortest_text(total: int) -> None:
    for epoch in range(10):
        starts = epoch_starts(total, 1 if total < 4 else 4, halved=0.0, jitter=9.0, seed=0, epoch=epoch)
        lengths = starts.diff()
        assert lengths.sum() == total
        assert 1 <= lengths.min() <= lengths.max() <= 8


def test_the_learning_rate_follows_the_length(text_folder: Path) -> None:
    options = {"corpus": str(text_folder), "batch_size": 2, "sequence_length": 5, "evaluate_sequences": 1}
    options |= {"model": {"hidden": 4, "embedding": 4}, "random_length": {"jitter": 2.0, "halved": 0.3}}
    problem = build_problem("language_modeling", options, seed=0)
    segment = list(train(problem, UpdateRule(learning_rate=0.5), TrainSettings(steps=20), seed=0))[-1]
    assert isinstance(segment, Segment)
    lengths = [len(problem.batch(step)[0]) for step in range(20)]
    assert len(set(lengths)) > 2
    assert segment.rows["learning_rate"][:20] == pytest.approx([0.1 * length for length in lengths])
    assert segment.rows["step_size"][:20] == pytest.approx([0.1 * length for length in lengths])


def test_the_first_loss_is_about_the_logarithm_of_the_vocabulary() -> None:
    for use in ("lstm", "awd_lstm", "gpt"):
        sizes = {"width": 8, "heads": 2} if use == "gpt" else {"hidden": 8, "embedding": 8}
        problem = build_problem("language_modeling", {"model": {"use": use, **sizes}}, seed=0)
        loss, _ = (problem.measured_loss or problem.loss)(problem.model.eval(), problem.batch(0), None)
        vocabulary = problem.model.embedding.num_embeddings
        assert loss.item() == pytest.approx(math.log(vocabulary), abs=0.1)
