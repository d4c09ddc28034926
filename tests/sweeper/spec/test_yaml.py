"""Reading YAML: scalars by the rules of YAML 1.2, bounds, and what is refused."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweeper.errors import SpecError
from sweeper.spec import Sweep, load_spec, loads_spec
from sweeper.spec.syntax.reader import read
from sweeper.spec.syntax.scalars import resolve
from sweeper.spec.syntax.tree import Source, plain

VALID = "{problem: {use: deep_linear}, update_rule: {learning_rate: 0.1}, train: {steps: 5}}"


def parsed(text: str) -> object:
    node = read(Source(name="s.yaml", text=text))
    return None if node is None else plain(node)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1e3", 1000.0),
        (".5", 0.5),
        ("5.", 5.0),
        ("010", 10),
        ("0o17", 15),
        ("0x1f", 31),
        ("-7", -7),
        ("+7", 7),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("-.inf", float("-inf")),
    ],
)
def test_plain_scalars_mean_what_yaml_1_2_says(text, value):
    found = resolve(text)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    "text", ["yes", "no", "on", "off", "12:30:45", "1_000", "1,5", "2001-01-01", "0b11", "tRue", "1e", ".", "١٢"]
)
def test_what_other_yaml_takes_for_a_value_stays_text(text):
    assert resolve(text) == text


def test_quotes_make_text():
    assert parsed("""{a: "1", b: 'true', c: "", d: 1}""") == {"a": "1", "b": "true", "c": "", "d": 1}


def test_keys_are_text_whatever_they_look_like():
    assert parsed("{1: a, null: b, true: c}") == {"1": "a", "null": "b", "true": "c"}


def test_merge_keys_give_what_is_not_written():
    text = "a: &a {x: 1, y: 2}\nb: &b {y: 3, z: 4}\nc: {<<: [*a, *b], x: 0}\nd: {<<: *a}\n"
    assert parsed(text) == {
        "a": {"x": 1, "y": 2},
        "b": {"y": 3, "z": 4},
        "c": {"x": 0, "y": 2, "z": 4},
        "d": {"x": 1, "y": 2},
    }


def test_aliases_stand_for_what_their_anchor_names():
    assert parsed("a: &x [1, {b: 2}]\nc: *x\n&k key: 1\nd: {*k : 2}") == {
        "a": [1, {"b": 2}],
        "c": [1, {"b": 2}],
        "key": 1,
        "d": {"key": 2},
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3", r"s\.yaml:3:1: the key 'a' appears a second time\n.*\n.*\^ the first is on line 1"),
        ("\u00e9: 1\ne\u0301: 2", r"s\.yaml:2:1: the key 'e\\u0301' looks like '\\xe9'(.|\n)*the first is on line 1"),
        ("a: 1\n'a\u200b': 2", r"the key 'a\\u200b' looks like 'a', which is encoded differently"),
        ("a: {b: 1, b: 1}", "the key 'b' appears a second time"),
        ("a: !!python/object:os.system x", "the tag 'tag:yaml.org,2002:python/object:os.system' is not accepted"),
        ("a: !mine {}", "the tag '!mine' is not accepted"),
        ("a: 1\n---\nb: 2", r"s\.yaml:2:1: a second document begins here"),
        ("a: *nowhere", r"s\.yaml:1:4: alias \*nowhere has no anchor before it"),
        ("a: &a [*a]", "is inside the value that it refers to"),
        ("a: [1, 2", r"s\.yaml:\d+:\d+: not valid YAML"),
        ("a:\n\t- 1", r"(?s)s\.yaml:2:1: not valid YAML.*indent with spaces"),
        ("a: b: c", r"s\.yaml:1:\d+: not valid YAML"),
        ("{[1]: 2}", "a key must be text"),
        ("<<: 1", "only sections can be merged"),
        ("a: \x07", r"the character U\+0007 is not allowed"),
        (f"a: {'1' * 500}", "a number of 500 characters"),
        ("\ud800", "not valid UTF-8"),
    ],
)
def test_what_is_not_fit_to_be_a_spec_is_refused_with_its_place(text, message):
    with pytest.raises(SpecError, match=message):
        parsed(text)


def test_several_faults_of_the_text_are_reported_together():
    with pytest.raises(SpecError, match=r"(?s)s\.yaml:1:14.*s\.yaml:2:4"):
        parsed("a: {b: 1, c: !x 2}\nb: !y 3")


def test_nested_aliases_count_for_the_depth():
    chain = "a0: &a0 [x]\n" + "\n".join(f"a{i}: &a{i} [*a{i - 1}]" for i in range(1, 60))
    with pytest.raises(SpecError, match=r"s\.yaml:\d+:\d+: nested more than 50 deep"):
        parsed(chain)


@pytest.mark.parametrize("line_break", ["\n", "\r\n", "\r"])
def test_lines_are_counted_as_the_parser_counts_them(line_break):
    with pytest.raises(SpecError, match=r"s\.yaml:3:4: the tag"):
        parsed(line_break.join(["a: 1", "b: 2", "c: !x 3"]))


def test_columns_count_characters_and_the_caret_stands_below_them():
    with pytest.raises(SpecError) as caught:
        parsed("a: {'ä€😀': 1, b: !x 2}")
    head, shown, caret = str(caught.value).splitlines()
    assert head.startswith("s.yaml:1:18:")
    assert shown[caret.index("^")] == "!"


def test_long_lines_are_cut_around_the_fault():
    with pytest.raises(SpecError) as caught:
        parsed("{" + "k: [" + "1, " * 500 + "!x 2]}")
    _, shown, caret = str(caught.value).splitlines()
    assert len(shown) < 130
    assert shown[caret.index("^")] == "!"


def test_escape_sequences_do_not_reach_the_terminal():
    with pytest.raises(SpecError) as caught:
        loads_spec('{problem: {use: deep_linear, "\\x1b[31m": 1}, name: "\\x1b]0;x"}', name="\x1b[2J", folder=Path())
    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty"),
        (b"# nothing\n", "is empty"),
        (b"null", "is empty"),
        (b"name: \xff\xfe", r":1: is not UTF-8 text \(byte 0xff\)"),
        ("name: x".encode("utf-16"), "is not UTF-8 text"),
        (b"x" * 1_000_001, "larger than a megabyte"),
        (b"[1, 2]", "must be sections, found a list of 2"),
        (b"just text", "must be sections, found 'just text'"),
    ],
)
def test_files_that_hold_no_spec_say_so(tmp_path, data, message):
    file = tmp_path / "s.yaml"
    file.write_bytes(data)
    with pytest.raises(SpecError, match=message):
        load_spec(file)


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    with pytest.raises(SpecError, match=r"nowhere\.yaml: no such file; `clipsweep init"):
        load_spec(tmp_path / "nowhere.yaml")
    with pytest.raises(SpecError, match="is a folder, not a spec file"):
        load_spec(tmp_path)
    with pytest.raises(SpecError, match="cannot be read"):
        load_spec("a\0b")


def test_a_byte_order_mark_does_no_harm(tmp_path):
    file = tmp_path / "s.yaml"
    file.write_bytes(b"\xef\xbb\xbf" + VALID.encode())
    assert load_spec(file).train.steps == 5


_WORDS = st.sampled_from([
    *"problem use deep_linear sweep grid cases seeds update_rule.learning_rate null 1e-3 zip exclude log".split(),
    *"random .nan train steps &a *a << !x true -1 ' \" ~ [ ] { } # | > measure every %".split(),
    *(": ", "\n", "\n  ", "- ", ", ", "---\n", "? ", "\t"),
])


@given(st.one_of(st.text(max_size=60), st.lists(_WORDS, max_size=40).map("".join)))
def test_any_text_is_a_sweep_or_a_spec_error(text):
    assert_sweep_or_spec_error(text)


_VALUES = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.sampled_from(["deep_linear", "sgd", "auto", "x.y:z"])
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(
            st.sampled_from([
                "use",
                "log",
                "linear",
                "random",
                "uniform",
                "count",
                "update_rule.clip_norm",
                "problem.use",
                "model",
            ]),
            inner,
            max_size=3,
        ),
    ),
    max_leaves=8,
)
_PLACES = st.sampled_from(
    "problem problem.model update_rule update_rule.schedule update_rule.betas train train.steps measure sweep name "
    "measure.estimators sweep.grid sweep.zip sweep.cases sweep.exclude sweep.seeds cluster resources "
    "sweep.grid.update_rule.learning_rate sweep.zip.train.steps".split()
)


@given(st.dictionaries(_PLACES, _VALUES, max_size=3))
def test_any_value_at_any_place_gives_a_sweep_or_a_spec_error(values):
    overrides = [f"{path}={yaml_flow(value)}" for path, value in values.items()]
    assert_sweep_or_spec_error(VALID, *overrides)


def yaml_flow(value: object) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case float():
            return str(value).replace("inf", ".inf").replace("nan", ".nan")
        case list():
            return f"[{', '.join(map(yaml_flow, value))}]"
        case dict():
            return "{" + ", ".join(f"{key}: {yaml_flow(item)}" for key, item in value.items()) + "}"
    return str(value)


def assert_sweep_or_spec_error(text: str, *overrides: str) -> None:
    try:
        result: object = loads_spec(text, folder=Path(), overrides=overrides)
    except SpecError as error:
        result = str(error)
    assert isinstance(result, Sweep) or result
