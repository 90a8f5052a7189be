"""The blocks of docs/usage.md run, in order, on the README's configuration."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def test_usage_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (config,) = re.findall(r"^```yaml\n(.*?)^```$", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE)
    (tmp_path / "config.yaml").write_text(config)
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```$", (ROOT / "docs/usage.md").read_text(), re.DOTALL | re.MULTILINE)
    assert len(blocks) == 7
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, "docs/usage.md", "exec"), names)
