"""What is kept of a file is only good as long as it stays as it was."""

from __future__ import annotations

from pathlib import Path

from app.paths import state_of


def test_what_is_said_of_a_file_beside_it_is_part_of_its_state(tmp_path: Path) -> None:
    file = tmp_path / "tokenizer.json"
    file.write_text("{}", encoding="utf-8")
    states = [state_of(str(file))]
    for name in ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "other.json"):
        (tmp_path / name).write_text('{"eos_token": "</s>"}', encoding="utf-8")
        states.append(state_of(str(file)))
    assert len(set(states[:4])) == 4 and states[4] == states[3]
