"""Weight files: byte for byte as the library writes them, sizes in words, hostile files refused."""

import json
import os

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save

from hybridgen import weight_files
from hybridgen.errors import CheckpointError
from hybridgen.json_file import read_json
from hybridgen.weight_files import (
    INDEX,
    find_weights,
    hash_file,
    map_tensors,
    parse_size,
    read_metadata,
    write_safetensors,
    write_weights,
)

KINDS = [
    torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.float8_e5m2, torch.int64,
    torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool, torch.uint16, torch.uint32, torch.uint64,
    torch.complex64,
]  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(
        st.text(
            st.characters(codec="utf-8", exclude_characters='"\\', min_codepoint=32), min_size=1, max_size=8
        ).filter(lambda name: name != "__metadata__"),
        st.tuples(st.sampled_from(KINDS), st.lists(st.integers(0, 5), max_size=3)),
        max_size=6,
    )
)
def test_files_equal_the_librarys(tmp_path_factory, kinds):
    path = tmp_path_factory.mktemp("files") / "x.safetensors"
    tensors = {name: torch.ones(shape).to(dtype) for name, (dtype, shape) in kinds.items()}
    record = write_safetensors(path, tensors)
    assert path.read_bytes() == save(tensors, {"format": "pt"})
    assert record == hash_file(path)


def test_large_tensor_is_hashed_in_pieces(tmp_path):
    tensors = {"a": torch.randn(9_000_000), "b": torch.randn(3)}
    record = write_safetensors(tmp_path / "x.safetensors", tensors)
    assert record == hash_file(tmp_path / "x.safetensors")
    assert torch.equal(load_file(tmp_path / "x.safetensors")["a"], tensors["a"])


def test_metadata_is_kept(tmp_path):
    write_safetensors(tmp_path / "x.safetensors", {}, {"b": "ä", "a": "1"})
    assert list(read_metadata(tmp_path / "x.safetensors").items()) == [("b", "ä"), ("a", "1")]
    write_safetensors(tmp_path / "y.safetensors", {"a": torch.ones(1)}, {})
    assert read_metadata(tmp_path / "y.safetensors") == {}


def test_unstorable_tensors_are_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"z: safetensors files cannot hold the type torch.complex128"):
        write_safetensors(tmp_path / "x.safetensors", {"z": torch.ones(1, dtype=torch.complex128)})
    with pytest.raises(CheckpointError, match="z: is on the meta device and has no values"):
        write_safetensors(tmp_path / "x.safetensors", {"z": torch.ones(1, device="meta")})


@pytest.mark.parametrize(
    ("text", "size"),
    [("500MB", 500_000_000), ("5GB", 5 * 10**9), ("1GiB", 2**30), ("1.5kb", 1500), (7, 7), (" 2 TB ", 2 * 10**12),
     ("300", 300)],
)  # fmt: skip
def test_sizes(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GB", "5 giga", "-1", "0", 0, True, "1e9", "5GBs", 0.5, "nan", "٣GBx"])
def test_bad_sizes_are_worded(text):
    with pytest.raises(CheckpointError, match="such as 500MB, 5GB or 1GiB"):
        parse_size(text)


def test_a_tensor_larger_than_a_shard_gets_its_own(tmp_path):
    tensors = {"a": torch.ones(10), "big": torch.ones(100), "c": torch.ones(10), "d": torch.ones(10)}
    records = write_weights(tmp_path, tensors, 100)
    assert [len(load_file(tmp_path / name)) for name in sorted(records) if name != INDEX] == [1, 1, 2]
    found = dict(map_tensors(find_weights(tmp_path), remap=True))
    assert found.keys() == tensors.keys()


def _index(tmp_path, weight_map):
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": weight_map}))


@pytest.mark.parametrize(
    "name",
    ["../x.safetensors", "/etc/x.safetensors", "a/b.safetensors", "..\\x.safetensors", ".x.safetensors", "x.bin", ""],
)
def test_index_cannot_lead_out_of_the_directory(tmp_path, name):
    write_safetensors(tmp_path / "x.safetensors", {"a": torch.ones(1)})
    (tmp_path / "in").mkdir()
    _index(tmp_path / "in", {"a": name})
    with pytest.raises(CheckpointError, match="is not the name of a safetensors file beside the index"):
        find_weights(tmp_path / "in")


@pytest.mark.parametrize("weight_map", [None, [], {}, {"a": 1}, "x"])
def test_bad_weight_map_is_worded(tmp_path, weight_map):
    _index(tmp_path, weight_map)
    with pytest.raises(CheckpointError, match="weight_map must map names of tensors to names of files"):
        find_weights(tmp_path)


def test_index_that_disagrees_with_its_shards(tmp_path):
    write_safetensors(tmp_path / "x.safetensors", {"a": torch.ones(1)})
    _index(tmp_path, {"a": "x.safetensors", "b": "x.safetensors"})
    with pytest.raises(CheckpointError, match=r"x.safetensors does not hold b"):
        find_weights(tmp_path)
    _index(tmp_path, {"a": "gone.safetensors"})
    with pytest.raises(CheckpointError, match=r"gone.safetensors: the file is missing"):
        find_weights(tmp_path)


def _header(text: bytes, length: int | None = None) -> bytes:
    return (len(text) if length is None else length).to_bytes(8, "little") + text


HOSTILE = {
    "empty": b"",
    "short": b"\x01\x02",
    "huge header": _header(b"{}", 2**63),
    "header beyond the file": _header(b"{}", 10**6),
    "not json": _header(b"]]]]]]]]"),
    "not utf-8": _header(b"\xff\xfe{}    "),
    "offsets beyond the file": _header(b'{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}'),
    "shape against offsets": _header(b'{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,8]}}') + bytes(8),
    "overflowing shape": _header(b'{"a":{"dtype":"F32","shape":[9223372036854775807,9],"data_offsets":[0,8]}}')
    + bytes(8),
    "negative offset": _header(b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[-4,0]}}'),
    "unknown dtype": _header(b'{"a":{"dtype":"X9","shape":[1],"data_offsets":[0,4]}}') + bytes(4),
    "trailing data": _header(b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}') + bytes(9),
    "pickle": b"\x80\x04\x95\x1f\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94\x8c\x06system\x94\x93\x94.",
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_damaged_and_hostile_files_are_worded(tmp_path, kind):
    (tmp_path / "model.safetensors").write_bytes(HOSTILE[kind])
    with pytest.raises(CheckpointError, match=r"model.safetensors: is not a whole safetensors file"):
        find_weights(tmp_path)


def test_type_that_pytorch_does_not_hold_is_named(tmp_path):
    text = b'{"a":{"dtype":"F6_E2M3","shape":[4],"data_offsets":[0,3]}}'
    (tmp_path / "model.safetensors").write_bytes(_header(text) + bytes(3))
    with pytest.raises(CheckpointError, match=r"a has the type F6_E2M3"):
        find_weights(tmp_path)


def test_endless_sizes_are_worded_in_short():
    for size in ("9" * 400, 10**400, 10**5000, -(10**5000), "1" * 19 + "GB", "1." + "5" * 400):
        with pytest.raises(CheckpointError, match="such as 500MB, 5GB or 1GiB; given ") as error:
            parse_size(size)
        assert len(str(error.value)) < 150


@pytest.mark.parametrize("read", [read_json, find_weights])
def test_what_is_no_file_is_not_opened(tmp_path, read):
    """To open a pipe waits for a writer, and /dev/zero has no end."""
    name = "config.json" if read is read_json else "model.safetensors"
    path = tmp_path / name
    given = path if read is read_json else tmp_path
    os.mkfifo(path)
    with pytest.raises(CheckpointError, match=f"{name}: is a pipe or a device, not a file"):
        read(given)
    path.unlink()
    path.symlink_to("/dev/zero")
    with pytest.raises(CheckpointError, match=f"{name}: is a pipe or a device, not a file"):
        read(given)
    path.unlink()
    path.mkdir()
    with pytest.raises(CheckpointError, match=f"{name}: is a directory, not a file"):
        read(given)


def test_json_beyond_any_configuration_is_not_read(tmp_path):
    with (tmp_path / "config.json").open("wb") as file:
        file.truncate(20 * 10**9)
    with pytest.raises(CheckpointError, match=r"config.json: is larger than 67,108,864 bytes"):
        read_json(tmp_path / "config.json")


@pytest.mark.parametrize("text", ['{"a": 1, "a": 1}', '{"b": [{"a": 1, "c": 2, "a": 3}]}'])
def test_keys_given_twice_are_worded(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match="cannot be read as JSON: an object has the key 'a' twice"):
        read_json(tmp_path / "config.json")


def test_weights_that_cannot_be_mapped_are_worded(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise MemoryError

    write_safetensors(tmp_path / "model.safetensors", {"a": torch.ones(1)})
    monkeypatch.setattr(weight_files, "safe_open", fail)
    with pytest.raises(CheckpointError, match=r"model.safetensors: cannot be mapped"):
        find_weights(tmp_path)


def test_empty_metadata_of_another_writer(tmp_path):
    (tmp_path / "x.safetensors").write_bytes(_header(b'{"__metadata__":null}   '))
    assert read_metadata(tmp_path / "x.safetensors") == {}
