"""The checker that holds functions to their annotated shapes and types while the tests run.

It is named in pyproject.toml's pytest options. As PEP 484 has it, an int is accepted where a float is asked for.
"""

from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
