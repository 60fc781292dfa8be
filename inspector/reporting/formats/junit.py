"""JUnit XML, a test case for each finding: what CI systems show as tests."""

from __future__ import annotations

import re

from inspector.reporting.parts import Content, Finding

SUFFIXES = (".xml",)
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def render(report: Content) -> str:
    from junitparser import JUnitXml, TestSuite

    suite = TestSuite(_clean(report.title))
    suite.add_testcases([_case(report, finding) for finding in report.findings])
    whole = JUnitXml()
    whole.add_testsuite(suite)
    whole.update_statistics()
    return str(whole.tostring().decode()) + "\n"


def _case(report: Content, finding: Finding):  # type: ignore[no-untyped-def]
    from junitparser import Failure, Skipped, TestCase

    case = TestCase(_clean(finding.check), _clean(finding.subject or str(report.subject.get("name", ""))))
    message = _clean(finding.message)
    if finding.status == "fail":
        case.result = [Failure(message, "fail")]
    elif finding.status == "skip":
        case.result = [Skipped(message)]
    else:
        case.system_out = message
    return case


def _clean(text: str) -> str:
    """Without the characters that XML cannot hold."""
    return _NOT_XML.sub("?", text)
