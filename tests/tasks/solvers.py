"""Solvers in plain Python that share no code with the generators: what follows from a prompt, read token by token.

Each takes the tokens up to a scored position and the answers that came before it in the same prompt's targets are never
used. It returns the one token that must follow.
"""

from itertools import permutations

from hybridgen.tasks import (
    Compression,
    FuzzyRecall,
    InContextRecall,
    LengthExtrapolation,
    Memorization,
    MultiQueryRecall,
    NoisyRecall,
    SelectiveCopying,
    StateTracking,
    Task,
)


def solve(task: Task, prompt: list[int], position: int) -> int:
    """Returns what must be predicted at a position of a prompt, from the tokens up to there alone."""
    if isinstance(task, LengthExtrapolation):
        return solve(task.task, prompt, position)
    if isinstance(task, Compression):  # an autoencoder: the whole prompt has been read
        return prompt[position]
    read = prompt[: position + 1]
    match task:
        case InContextRecall() | NoisyRecall():
            return _after_last(read[:-1], read[-1])
        case MultiQueryRecall():
            return _after_first(read[: 2 * task.pairs], read[-1])
        case FuzzyRecall():
            return _motif(task, read)
        case SelectiveCopying():
            return _copied(task, read)
        case Memorization():
            return FACTS[task.vocab_size][read[-2]]
        case StateTracking():
            return _product(task, read)
    raise AssertionError(task)


def _after_last(tokens: list[int], key: int) -> int:
    places = [place for place in range(0, len(tokens), 2) if tokens[place] == key]
    return tokens[places[-1] + 1]


def _after_first(tokens: list[int], key: int) -> int:
    return tokens[tokens.index(key) + 1]


def _motif(task: FuzzyRecall, read: list[int]) -> int:
    """Cuts the prompt into runs of key tokens and runs of value tokens, and looks up the last key."""
    keys = (task.vocab_size - 1) // 2
    runs: list[list[int]] = []
    for token in read:
        if token == task.vocab_size - 1:
            assert not runs, "padding behind the first token"
            continue
        if not runs or (token < keys) != (runs[-1][0] < keys):
            runs.append([])
        runs[-1].append(token)
    if len(runs) % 2:  # the key is read, its value has not begun
        runs.append([])
    *context, key, begun = runs
    known = {tuple(context[place]): context[place + 1] for place in range(0, len(context), 2)}
    value = known[tuple(key)]
    assert value[: len(begun)] == begun
    return value[len(begun)]


def _copied(task: SelectiveCopying, read: list[int]) -> int:
    blank, copy = task.vocab_size - 2, task.vocab_size - 1
    place = read.index(copy)
    content = [token for token in read[:place] if token != blank]
    return content[len(read) - place - 2]


def _product(task: StateTracking, read: list[int]) -> int:
    things = {"parity": 2, "s3": 3, "s5": 5}[task.group]
    elements = list(permutations(range(things)))
    state = tuple(range(things))
    for token in read:
        state = tuple(state[x] for x in elements[token])
    return elements.index(state)


FACTS: dict[int, dict[int, int]] = {}
"""Facts of memorisation by vocabulary, which a test learns from training prompts, as a model must."""
