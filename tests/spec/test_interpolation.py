"""References: what they mean, that no resolver runs, and that their cost is bounded."""

import warnings

import pytest
from omegaconf import OmegaConf

from hybridgen.errors import SpecError
from hybridgen.spec.load import load_document, load_text


def faults_of(text, overrides=()):
    with pytest.raises(SpecError) as error:
        load_text(text, "c.yaml", overrides)
    return [str(fault).splitlines()[0] for fault in error.value.faults]


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("a: 1\nk: ${a}", "k", 1),
        ("a: 1.5\nk: ${ a }", "k", 1.5),
        ("a: null\nk: ${a}", "k", None),
        ("a: on\nk: x-${a}", "k", "x-true"),
        ("a: {b: {c: 3}}\nk: ${a.b.c}", "k", 3),
        ("a: [1, [2, 3]]\nk: ${a[1][0]}", "k", 2),
        ("a: [1, [2, 3]]\nk: ${a.1.1}", "k", 3),
        ("a: [1, [2, 3]]\nk: ${a[-1]}", "k", [2, 3]),
        ("a: {b: 1}\nk: ${[a].b}", "k", 1),
        ("k: {x: 1, y: '${.x}'}", "k", {"x": 1, "y": 1}),
        ("x: 2\nk: {y: {z: '${...x}'}}", "k", {"y": {"z": 2}}),
        ("k: [1, '${.[0]}']", "k", [1, 1]),
        ("a: b\nb: 7\nk: ${${a}}", "k", 7),
        ("a: b\nc: {b: 7}\nk: ${c.${a}}-${a}", "k", "7-b"),
        ("a: {p: 1, q: '${r}'}\nr: [5]\nk: ${a}", "k", {"p": 1, "q": [5]}),
        ("k: ${b}\nb: ${c}\nc: ${d.e}\nd: {e: 4}", "k", 4),
        ("k: ${m.x.y}\nm: {x: '${n}'}\nn: {y: 6}", "k", 6),
        ("a: 1\nk: \\${a}", "k", "${a}"),
        ("a: 1\nk: x\\\\${a}", "k", "x\\1"),
        ("k: 'a } b'", "k", "a } b"),
        ("k: $a {b}", "k", "$a {b}"),
    ],
)
def test_references(text, key, value):
    read = load_text(text).data[key]
    assert read == value
    assert type(read) is type(value)


def test_a_mapping_that_is_referred_to_is_copied_with_its_places():
    document = load_text("a: {b: [1]}\nk: ${a}\n", "c.yaml")
    assert document.data["k"] == document.data["a"]
    assert document.data["k"] is not document.data["a"]
    assert document.locate(("k",))[1:3] == (2, 4)
    assert document.locate(("k", "b", 0))[1:3] == (1, 9)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (
            "a: ${d_modl}\nd_model: 1",
            "c.yaml:1:4: a: `${d_modl}` refers to nothing: there is no `d_modl`; did you mean `d_model`?",
        ),
        (
            "a: ${width}\nb: {width: 1}",
            "c.yaml:1:4: a: `${width}` refers to nothing: there is no `width`; did you mean `${b.width}`?",
        ),
        (
            "a: ${b[3]}\nb: [1]",
            "c.yaml:1:4: a: `${b[3]}` refers to nothing: there is no `3` in a list of 1; count from 0",
        ),
        (
            "a: ${",
            "c.yaml:1:4: a: a reference is not closed: there is a `${` without its `}`; "
            "write `${name}`, or `\\${` for text",
        ),
        ("a: ${}", "c.yaml:1:4: a: `${}` is no reference; write a path, such as `${backbone.d_model}`"),
        ("a: ${..b}\nb: 1", "c.yaml:1:4: a: `${..b}` is no reference; write a path, such as `${backbone.d_model}`"),
        ("a: ${a}", "c.yaml:1:4: a: references run in a circle: a -> a; write one of these values out"),
        (
            "x: 1\na: ${b}\nb: ${c.d}\nc: {d: '${a}'}",
            "c.yaml:2:4: a: references run in a circle: a -> b -> c.d -> a; write one of these values out",
        ),
        (
            "a: {x: '${b}'}\nb: {y: '${a}'}",
            "c.yaml:1:8: a.x: references run in a circle: a.x -> b.y -> a.x; write one of these values out",
        ),
        (
            "a: {x: '${a}'}",
            "c.yaml:1:8: a.x: `${a}` stands inside the value that it refers to; refer to a value outside",
        ),
        (
            "a: x-${b}\nb: [1]",
            "c.yaml:1:4: a: `${b}` is a list and cannot stand inside a text; refer to one of its parts",
        ),
        ("a: ???", "c.yaml:1:4: a: a value is missing: `???` must be filled in; write the value here"),
        (
            "a: '${b.${c.${d.${e.${f.${g.${h.${i.${j}}}}}}}}}'",
            "c.yaml:1:4: a: references nest deeper than 8 levels; write the value out",
        ),
    ],
)
def test_faults_of_references(text, fault):
    assert faults_of(text) == [fault]


def test_a_value_that_refers_to_a_faulty_value_is_not_reported_again():
    assert len(faults_of("a: ${nope}\nb: ${a}\nc: ['${b}']\nd: ${c}\ne: ???\nf: ${e}\n")) == 2


@pytest.mark.parametrize("name", ["oc.create", "oc.decode", "hybridgen_test", "oc.env.x", "now"])
def test_no_resolver_runs_whether_registered_or_not(name):
    ran = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # OmegaConf 2.4 is about to rename it
        OmegaConf.register_new_resolver("hybridgen_test", lambda *args: ran.append(args), replace=True)
    try:
        fault = f"c.yaml:1:4: a: the resolver `${{{name}:1}}` is refused: a spec is data and runs nothing"
        assert faults_of(f"a: ${{{name}:1}}")[0].startswith(fault)
        assert faults_of("b: 1\n" + f"a: x${{{name}:${{b}}}}")[0].startswith(f"c.yaml:2:4: a: the resolver `${{{name}:")
    finally:
        OmegaConf.clear_resolver("hybridgen_test")
    assert ran == []


def test_a_resolver_cannot_be_assembled_from_values():
    text = "a: 'oc.env'\nb: ${${a}:HOME}\nc: 'oc.env:HOME'\nd: ${${c}}\n"
    assert ["refused" in fault or "environment" in fault for fault in faults_of(text)] == [True, True]


class TestEnvironment:
    def load(self, tmp_path, text, allow_env=True):
        (tmp_path / "c.yaml").write_text(text)
        return load_document(tmp_path / "c.yaml", allow_env=allow_env).data

    def test_it_is_off_by_default(self):
        assert faults_of("a: ${oc.env:HOME,x}") == [
            "c.yaml:1:4: a: `${oc.env:HOME,x}` would read the environment, which is off; "
            "write the value, or allow it with --allow-env (allow_env=True in Python)"
        ]

    @pytest.mark.parametrize(
        ("text", "value"),
        [
            ("${oc.env:HG_A}", "v8"),
            ("x-${oc.env:HG_A}", "x-v8"),
            ("${oc.env:HG_A,other}", "v8"),
            ("${oc.env:HG_B, other}", "other"),
            ("${oc.env:HG_B,null}", None),
            ('${oc.env:HG_B,"a b"}', "a b"),
            ("${oc.env:HG_B,${d}}", "3"),
            ("${oc.env:HG_REF}", "${d}"),
        ],
    )
    def test_values_and_defaults(self, tmp_path, monkeypatch, text, value):
        monkeypatch.setenv("HG_A", "v8")
        monkeypatch.setenv("HG_REF", "${d}")
        monkeypatch.delenv("HG_B", raising=False)
        assert self.load(tmp_path, f"d: 3\na: {text}\n")["a"] == value

    def test_a_variable_that_is_not_set(self, tmp_path, monkeypatch):
        monkeypatch.delenv("HG_B", raising=False)
        with pytest.raises(SpecError, match=r"a: the environment variable HG_B is not set; set it, or give a default"):
            self.load(tmp_path, "a: ${oc.env:HG_B}\n")

    def test_other_resolvers_stay_off(self, tmp_path):
        with pytest.raises(SpecError, match=r"the resolver `\$\{oc\.decode:1\}` is refused"):
            self.load(tmp_path, "a: ${oc.env:HOME,${oc.decode:1}}\n")


def reference(name):
    return f"${{{name}}}"


def many(name, times):
    return f"[{','.join([chr(34) + reference(name) + chr(34)] * times)}]"


@pytest.mark.parametrize(
    "text",
    [
        "\n".join(["a0: [1, 2, 3]", *(f"a{i}: {many(f'a{i - 1}', 10)}" for i in range(1, 30))]),
        "\n".join(["a0: aaaaaaaaaa", *(f"a{i}: '{reference(f'a{i - 1}') * 10}'" for i in range(1, 30))]),
        f"big: [{'1,' * 9000}]\nb: {many('big', 2000)}",
        f"c: [1, 2, 3]\nb: {many('c', 9000)}",
    ],
    ids=["lists", "text", "big", "many"],
)
def test_doubling_references_end_in_one_fault(text):
    (fault,) = faults_of(text)
    assert "with its references expanded the document has more than" in fault


def test_long_chains_and_circles_need_no_stack():
    chain = "\n".join([*(f"a{i}: ${{a{i + 1}}}" for i in range(9000)), "a9000: 5"])
    assert load_text(chain).data["a0"] == 5
    circle = "\n".join(f"a{i}: ${{a{(i + 1) % 9000}}}" for i in range(9000))
    (fault,) = faults_of(circle)
    assert "a0: references run in a circle: a0 -> a1 -> a2 -> … -> a8998 -> a8999 -> a0" in fault
