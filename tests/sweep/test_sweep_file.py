"""Sweeps in files: what Hydra's section says, where names are looked up, and words for what is not read."""

import hydra
import pytest

from hybridgen.errors import SpecError
from hybridgen.hydra import spec_from_cfg
from hybridgen.sweep import compose_points, read_sweep

MODEL = "backbone: {d_model: 64, n_layer: 4, ssm: {type: mamba2, headdim: 16, d_state: 8}}\n"
SWEEP = """\
# @package _global_
defaults:
  - /model@_global_: small
  - part
  - _self_
name: swept
hydra:
  mode: MULTIRUN
  sweeper:
    params:
      backbone.ssm.d_state: 16,32
      +backbone.ssm.d_conv: choice(2,3)
"""


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def one(name, text):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    one("configs/model/small.yaml", MODEL + "  # small\n")
    one("configs/model/large.yaml", MODEL.replace("64", "128"))
    one("configs/sweep/part.yaml", "# @package _global_\nbackbone: {norm: {eps: 1e-6}}\n")
    return one


def faults_of(path, *overrides):
    with pytest.raises(SpecError) as error:
        read_sweep(path, overrides)
    return [str(fault).splitlines()[0] for fault in error.value.faults]


def test_a_document_may_hold_its_own_sweep(write):
    path = write("mine.yaml", MODEL + "hydra: {sweeper: {params: {backbone.ssm.d_state: '16,32', name: a}}}\n")
    points = compose_points(read_sweep(path)).valid
    assert [point.values for point in points] == [{"backbone.ssm.d_state": "16"}, {"backbone.ssm.d_state": "32"}]
    assert {point.spec.name for point in points} == {"a"}


@pytest.mark.parametrize("where", [".", "configs", "configs/sweep"])
def test_a_file_in_the_folder_sweep_builds_on_those_beside_it(write, monkeypatch, tmp_path, where):
    path = write("configs/sweep/one.yaml", SWEEP)
    monkeypatch.chdir(tmp_path / where)
    points = compose_points(read_sweep(path.relative_to(tmp_path / where) if where == "." else path)).valid
    assert [tuple(point.values.values()) for point in points] == [("16", "2"), ("16", "3"), ("32", "2"), ("32", "3")]
    assert {(point.spec.name, point.spec.backbone.norm.eps) for point in points} == {("swept", 1e-6)}


def test_relative_names_hold_in_the_folder_itself(write, monkeypatch, tmp_path):
    write("configs/sweep/one.yaml", SWEEP)
    monkeypatch.chdir(tmp_path / "configs" / "sweep")
    assert len(compose_points(read_sweep("one.yaml")).valid) == 4


def test_the_command_line_replaces_what_the_file_says(write):
    path = write("configs/sweep/one.yaml", SWEEP)
    sweep = read_sweep(path, ["backbone.ssm.d_state=8", "name=x,y"])
    assert [(axis.key, len(axis.elements)) for axis in sweep.axes] == [
        ("backbone.ssm.d_state", 1),
        ("+backbone.ssm.d_conv", 2),
        ("name", 2),
    ]


def test_the_command_line_replaces_it_with_plus_or_without(write):
    """Both were applied: the table then showed the file's value beside the costs of the command line's."""
    path = write("configs/sweep/one.yaml", SWEEP)
    points = compose_points(read_sweep(path, ["backbone.ssm.d_conv=3", "backbone.ssm.d_state=8,16"])).valid
    assert [point.values for point in points] == [{"backbone.ssm.d_state": "8"}, {"backbone.ssm.d_state": "16"}]
    mixers = [point.spec.backbone.layers[0].mixer for point in points]
    assert [(mixer.d_state, mixer.d_conv) for mixer in mixers] == [(8, 3), (16, 3)]


def test_models_themselves_can_be_swept(write):
    path = write("configs/sweep/one.yaml", SWEEP)
    points = compose_points(read_sweep(path, ["model@_global_=glob(*)", "+backbone.ssm.d_conv=4"])).valid
    widths = [(point.values["model@_global_"], point.spec.backbone.d_model) for point in points]
    assert widths == [("large", 128), ("small", 64), ("large", 128), ("small", 64)]


def test_plain_hydra_composes_the_same(write, tmp_path):
    path = write("configs/sweep/one.yaml", SWEEP)
    for point in compose_points(read_sweep(path, ["model@_global_=large,small"])).valid:
        with hydra.initialize_config_dir(str(tmp_path / "configs"), version_base="1.3"):
            assert spec_from_cfg(hydra.compose("sweep/one", list(point.overrides))) == point.spec


def test_values_that_are_no_text(write):
    params = "{backbone.attn_layer_idx: [1, 3], +backbone.attn: {num_heads: 4}, backbone.residual_in_fp32: false}"
    path = write("mine.yaml", MODEL + f"hydra: {{sweeper: {{params: {params}}}}}\n")
    (point,) = compose_points(read_sweep(path)).valid
    assert [layer.mixer.type for layer in point.spec.backbone.layers] == ["mamba2", "attention"] * 2
    assert not point.spec.backbone.residual_in_fp32


def test_faults_of_values_have_their_place_in_the_file(write):
    path = write("configs/sweep/one.yaml", SWEEP.replace("16,32", "16,0").replace("choice(2,3)", "interval(2,3)"))
    assert faults_of(path)[0].startswith(f"{path}:12:29: interval(...) has no list of values")
    path.write_text(SWEEP.replace("16,32", "16,0"), encoding="utf-8")
    (wrong,) = compose_points(read_sweep(path)).invalid
    assert str(wrong.faults[0]).startswith(f"{path}:11:29: backbone.ssm.d_state: ")
    assert wrong.numbers == (3, 4)


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ("hydra: {launcher: {n_jobs: 2}, sweeper: {params: {a: 1}}}", "hydra.launcher: a sweep reads hydra.sweeper"),
        ("hydra: {sweeper: {parms: {a: 1}}}", "did you mean `params`?"),
        ("hydra: {sweper: {params: {a: 1}}}", "did you mean `sweeper`?"),
        ("hydra: {mode: RUN, sweeper: {params: {a: 1}}}", "a sweep has the mode MULTIRUN, given RUN"),
        ("hydra: {sweeper: {params: {}}}", "the section names no values to try"),
        ("hydra: {mode: MULTIRUN}", "the section names no values to try"),
        ("hydra: 3", "must be a mapping"),
        ("hydra: {sweeper: {params: [a, b]}}", "must be a mapping"),
    ],
)
def test_what_a_sweep_does_not_read_is_worded(write, section, words):
    path = write("mine.yaml", f"{MODEL}{section}\n")
    assert words in faults_of(path)[0]


def test_a_file_in_the_folder_sweep_needs_its_package_as_in_hydra(write):
    path = write("configs/sweep/one.yaml", SWEEP.replace("# @package _global_\n", ""))
    (fault,) = faults_of(path)
    assert "write `# @package _global_` in its first line" in fault


def test_without_a_section_the_folder_means_nothing(write):
    path = write("configs/sweep/plain.yaml", MODEL)
    assert len(compose_points(read_sweep(path, ["backbone.ssm.d_state=8,16"])).valid) == 2


def test_a_file_of_a_group_that_is_not_there(write):
    path = write("configs/sweep/one.yaml", SWEEP.replace("small", "smal"))
    (wrong,) = compose_points(read_sweep(path)).invalid
    assert wrong.numbers == (1, 2, 3, 4)
    assert "model/smal.yaml`; did you mean `small`?" in str(wrong.faults[0])
