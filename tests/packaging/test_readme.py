"""The README's tables say what the shipped files say."""

from benchmarks import readme


def test_tables_are_those_of_the_shipped_weights():
    text = readme.README.read_text(encoding="utf-8")
    for name, make in readme.TABLES.items():
        assert readme.with_table(text, name, make()) == text, "type: python -m benchmarks.readme"
