"""JUnit XML, a test case for each finding: what CI systems show as tests."""

from __future__ import annotations

from inspector.reporting.parts import Content, Finding

SUFFIXES = (".xml",)


def render(report: Content) -> str:
    from junitparser import JUnitXml, TestSuite

    suite = TestSuite(report.title)
    suite.add_testcases([_case(report, finding) for finding in report.findings])
    whole = JUnitXml()
    whole.add_testsuite(suite)
    whole.update_statistics()
    return str(whole.tostring().decode()) + "\n"


def _case(report: Content, finding: Finding):  # type: ignore[no-untyped-def]
    from junitparser import Failure, Skipped, TestCase

    case = TestCase(finding.check, finding.subject or str(report.subject.get("name", "")))
    message = finding.message
    if finding.status == "fail":
        case.result = [Failure(message, "fail")]
    elif finding.status == "skip":
        case.result = [Skipped(message)]
    else:
        case.system_out = message
    return case
