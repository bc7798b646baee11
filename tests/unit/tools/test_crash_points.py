"""How the points at which processes were killed are counted."""

from __future__ import annotations

from bench.crashes import NAMED, lost, points

REPORT = """<testsuites><testsuite>
<testcase name="one"><properties><property name="crash_point" value="agent a"/></properties></testcase>
<testcase name="two"><properties><property name="crash_point" value="agent b"/></properties>
<failure>no</failure></testcase>
<testcase name="sweep"><properties>
<property name="crash_point" value="deployment began"/><property name="crash_point" value="deployment saved"/>
</properties></testcase>
<testcase name="no point"/>
<testcase name="broken"><error>no fixture</error></testcase>
</testsuite></testsuites>"""


def test_points_are_counted_and_not_tests() -> None:
    found = points(REPORT)
    assert len(found) == 5
    assert lost(found) == ["agent b", "broken"]


def test_no_two_points_have_one_name() -> None:
    assert len(set(NAMED)) == len(NAMED)
