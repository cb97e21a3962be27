"""Gene lists of the repository."""

import pytest

from wsibench.core import CHECKOUT


def genes(name: str) -> list[str]:
    lines = (CHECKOUT / "data" / "genes" / f"{name}.txt").read_text().splitlines()
    return [line for line in lines if not line.startswith("#")]


@pytest.mark.parametrize(("name", "n"), [("pam50", 50), ("proliferation", 11), ("immune", 18)])
def test_lists_are_whole_sorted_and_have_a_source(name: str, n: int) -> None:
    listed = genes(name)
    assert len(set(listed)) == len(listed) == n
    assert listed == sorted(listed)
    assert "doi:10." in (CHECKOUT / "data" / "genes" / f"{name}.txt").read_text()


def test_the_proliferation_genes_are_of_pam50() -> None:
    assert set(genes("proliferation")) < set(genes("pam50"))
    assert not set(genes("immune")) & set(genes("pam50"))
